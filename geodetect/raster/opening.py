"""Rasters opened: what may be named, a handle for each thread, and where the pixels lie."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import from_gcps
from rasterio.vrt import WarpedVRT

from geodetect.errors import RasterError
from geodetect.grid import Grid

FAILURES = (RasterioError, rasterio._err.CPLE_BaseError, CRSError, ValueError, MemoryError)
_PLANE = 3  # points that make a plane
_STRAIGHT = 0.1  # px; control points that lie closer than this to an affine grid are one


def one_raster(raster: str | Path) -> str:
    """The raster as GDAL wants it named.

    Raises:
        RasterError: if it is not one path or URL, or nothing is there.
    """
    if not isinstance(raster, str | Path):
        raise RasterError(
            f"one raster is expected, as a path or URL; got {type(raster).__name__} "
            "(make one of many with: gdalbuildvrt scene.vrt *.tif)"
        )
    path = Path(raster)
    if path.is_dir():
        raise RasterError(
            f"one raster is expected; {raster} is a folder (make one raster of it with: gdalbuildvrt scene.vrt *.tif)"
        )
    # With a colon it may be a URL, or a part of a file as GDAL names it (GTIFF_DIR:2:scene.tif).
    if not path.exists() and ":" not in str(raster) and not str(raster).startswith("/vsi"):
        raise RasterError(f"There is no file {raster}; check the name and the folder")
    return str(raster)


class Handles:
    """The open datasets of one raster, one for each thread and process.

    Where a raster has no transform all threads take turns at one dataset: opening it warns, and
    silencing a warning changes the filters of every thread.

    Args:
        path: what GDAL opens.
        name: what messages call it.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._opened: list[Any] = []
        self._process = os.getpid()

    @contextmanager
    def dataset(self) -> Iterator[Any]:
        """A dataset that nobody else reads meanwhile, opened on first use."""
        # After a fork parent and child share one file offset, and would read each other's blocks.
        if self._process != os.getpid():
            self._reset()
        with self._lock:
            if not self._opened:
                self._local.dataset = self._opened_first()
        first = self._opened[0]
        if first.transform.is_identity:
            with self._lock:
                yield first
        else:
            yield self._own()

    def _opened_first(self) -> Any:
        with warnings.catch_warnings():
            # Not a defect: scenes without georeference are worked on in pixels.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            self._opened.append(_open(self._path, self._name))
        return self._opened[0]

    def _own(self) -> Any:
        if not hasattr(self._local, "dataset"):
            dataset = self._local.dataset = _open(self._path, self._name)
            with self._lock:
                self._opened.append(dataset)
        return self._local.dataset

    def close(self) -> None:
        """Closes the datasets of all threads; a later `dataset` opens anew."""
        if self._process == os.getpid():
            with self._lock:
                for dataset in self._opened:
                    dataset.close()
        self._reset()


def _open(path: str, name: str) -> Any:
    """The open dataset; one that only curved control points locate is warped on reading.

    Raises:
        RasterError: if GDAL cannot open it.
    """
    with understood(name):
        return _straightened(rasterio.open(path))


@contextmanager
def understood(name: str) -> Iterator[None]:
    """Turns what GDAL finds wrong with a file into one sentence, and keeps GDAL from printing the rest.

    Raises:
        RasterError: instead of GDAL's errors.
    """
    try:
        with rasterio.Env():
            yield
    except FAILURES as error:
        raise RasterError(f"{name} cannot be read as a raster: {first_line(error)}") from error


def _straightened(dataset: Any) -> Any:
    """The dataset itself where it has a transform or none at all, else a view of it warped onto its points' map."""
    points, crs = dataset.gcps
    # A CRS of its own beside the points' contradicts them, and fewer than three points tell nothing.
    if len(points) < _PLANE or crs is None or dataset.crs is not None or affine_of(dataset) is not None:
        return dataset
    return WarpedVRT(dataset, crs=crs, add_alpha=True, resampling=Resampling.bilinear)


def affine_of(dataset: Any) -> Affine | None:
    """The transform from pixels to the map; None where there is none, or control points do not lie on one."""
    transform, points = dataset.transform, dataset.gcps[0]
    if transform.is_identity and len(points) >= _PLANE:
        transform = from_gcps(points)
        if not _usable(transform):
            return None
        place = np.array([(~transform) @ (point.x, point.y) for point in points])
        off = np.abs(place - [(point.col, point.row) for point in points]).max()
        return transform if off < _STRAIGHT else None
    return transform if _usable(transform) else None


def _usable(transform: Affine) -> bool:
    """Whether a transform places pixels; GDAL gives the identity where there is none."""
    return bool(np.isfinite(transform[:6]).all() and transform.determinant != 0 and not transform.is_identity)


def grid_of(dataset: Any, name: str) -> Grid:
    """The dataset's grid; a CRS without a transform places nothing and is left out with it.

    Raises:
        RasterError: if only rational polynomials locate it, or nobody can make sense of its CRS.
    """
    transform, shape = affine_of(dataset), (dataset.height, dataset.width)
    if transform is None:
        if dataset.rpcs is not None:
            raise RasterError(
                f"only rational polynomial coefficients locate {name}; orthorectify it first (gdalwarp -rpc)"
            )
        return Grid(shape, name=name)
    crs = dataset.crs or dataset.gcps[1]
    return Grid(shape, transform, _known_crs(crs, name) if crs else None, name)


def _known_crs(crs: Any, name: str) -> CRS:
    try:
        return CRS.from_wkt(crs.to_wkt())
    except FAILURES as error:
        raise RasterError(
            f"the coordinate reference system of {name} makes no sense ({first_line(error)}); "
            "assign the right one with: gdal_edit.py -a_srs EPSG:..."
        ) from error


def first_line(error: BaseException) -> str:
    """What a library says, or what it says was the cause, in one line without a full stop."""
    told = str(error.__cause__ or error).strip() or type(error).__name__
    return told.splitlines()[0].rstrip(".")

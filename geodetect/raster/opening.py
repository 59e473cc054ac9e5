"""Opening rasters: paths, folders and URLs, a dataset for each thread, and the grid of an open one."""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import Interleaving, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import from_gcps
from rasterio.vrt import WarpedVRT

from geodetect.addresses import expand_user, glob_files, identity, is_url, name_of, redact
from geodetect.errors import RasterError, first_line, harmless
from geodetect.grid import Grid

FAILURES = (RasterioError, rasterio._err.CPLE_BaseError, CRSError, ValueError, MemoryError)
_GEOTIFF = {".tif", ".tiff"}
# https://gdal.org/user/virtual_file_systems.html
_VIRTUAL = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
_VIRTUAL_FOLDERS = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsioss", "/vsiswift", "/vsiadls")
# Lost connections are retried. Files beside the raster are probed by name: listing a server's folder may take very long
# (https://gdal.org/user/configoptions.html).
_NETWORK = {
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_LOW_SPEED_TIME": "20",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
}
# In bytes: enough for a row of windows 100,000 px wide. GDAL's default, 5 % of the memory, grows with the machine:
# https://gdal.org/en/stable/user/configoptions.html#config-GDAL_CACHEMAX
_BLOCK_CACHE = {"GDAL_CACHEMAX": 512 << 20}
_N_THREADS = 8  # open remote files
_OF_FILES = {"GTI", "VRT"}  # drivers of rasters made of others
# One object for all files of a CRS: each takes 60 kB, and comparing two takes longer than a header.
_parse_crs = lru_cache(64)(CRS.from_wkt)
_PLANE = 3  # points that make a plane
_SHARED_BLOCK_BYTES = 32_000_000
_LARGEST_COPIED = 512  # px; of larger tiles a window needs a small part only
_STRAIGHT = 0.1  # px; control points closer than this to an affine grid lie on it
_LOGGERS = ("_base", "_env", "_err", "_filepath", "_io", "_vsiopener", "_warp", "env", "io")  # rasterio's


def _redact_record(record: logging.LogRecord) -> bool:
    """Remove the secrets of URLs from rasterio's log records, which name the datasets that it opens."""
    record.msg, record.args = redact(record.getMessage()), None
    return True


for _logger in _LOGGERS:
    logging.getLogger(f"rasterio.{_logger}").addFilter(_redact_record)


Rasters: TypeAlias = str | Path | Sequence[str | Path]
"""A raster as a path or URL, or several that are one scene: a list, a folder of GeoTIFFs, or a pattern."""


def list_files(raster: Rasters) -> tuple[list[str], str]:
    """Return paths or URLs of the files of a scene, and the name that messages give it.

    Of a folder these are the GeoTIFFs, without hidden ones: macOS puts `._town.tif` beside `town.tif`.

    Raises:
        RasterError: if there are none, or one of them does not exist.
    """
    if isinstance(raster, str | Path):
        if raster == "":
            raise RasterError("a raster is expected as a path or URL; got an empty name")
        path = expand_user(raster)
        if os.path.isdir(path):
            tifs = [file for file in Path(path).iterdir() if file.suffix.lower() in _GEOTIFF and file.name[0] != "."]
            if not tifs:
                raise RasterError(
                    f"{path} is a folder without GeoTIFFs (.tif, .tiff); name one raster, or several in a list"
                )
            return sorted(map(str, tifs)), name_of(path)
        if os.path.exists(path):
            return [path], name_of(path)
        found = glob_files(path)
        # With a colon it may be a URL, or a part of a file as GDAL names it (GTIFF_DIR:2:scene.tif).
        if not found and ":" not in path and not is_url(path):
            raise RasterError(f"There is no file {path}; check the name and the folder")
        return found or [path], name_of(path)
    if not (isinstance(raster, Sequence) and raster and all(isinstance(file, str | Path) for file in raster)):
        raise RasterError(f"a raster is expected as a path or URL, or several of them in a list; got {raster!r:.80}")
    files = [file for each in raster for file in list_files(each)[0]]
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return files, f"{name_of(files[0])}{more}"


@dataclass(frozen=True)
class Location:
    """The address of a raster for GDAL: a file, or the description of a virtual raster.

    Args:
        text: a path or URL as GDAL spells it, or XML.
        is_virtual: whether it is XML.
        is_remote: whether pixels come over a network.
    """

    text: str
    is_virtual: bool = False
    is_remote: bool = False

    @classmethod
    def of(cls, path: str) -> Location:
        """Return the location of a path or URL, the same from every working directory.

        The path of a file that exists becomes absolute, so that GDAL does not take a prefix (`zip:`, `<`) for a
        driver's.
        """
        if os.path.exists(path):
            return cls(os.path.abspath(path))
        scheme, found, rest = path.partition("://")
        text = _VIRTUAL[scheme] + rest if found and scheme in _VIRTUAL else path
        return cls(text, is_remote=text.startswith(_VIRTUAL_FOLDERS))

    def open(self, level: int | None = None) -> Any:
        """Open the dataset, or the overview with this index."""
        return rasterio.open(self.text) if level is None else rasterio.open(self.text, OVERVIEW_LEVEL=level)

    def respell(self, number: int) -> Location:
        """Return the same raster with names of its files that differ for each number; itself if it names none."""
        return self

    @property
    def identity(self) -> str | None:
        """URL without its signature, or XML; None for a file, whose size and date identify it."""
        return identity(self.text) if self.is_virtual or is_url(self.text) else None


class Handles:
    """The open datasets of one raster, one for each thread and process.

    Threads take turns at one dataset if the raster has no transform (opening it warns, and silencing a warning changes
    the filters of every thread), or if its blocks are so large that each thread would decode the same few.

    Args:
        location: what GDAL opens.
        name: what messages call it.
        level: index of the overview to open; None: the raster itself.
    """

    # GDAL remembers the names of files of virtual rasters that it failed to read, and later leaves them out without an
    # error, of other rasters too. So tile indexes spell all names anew after each failure, and a VRT is not read again.
    _n_failures: ClassVar[int] = 0
    _spoiled: ClassVar[dict[Location, str]] = {}  # and why

    def __init__(self, location: Location, name: str, level: int | None = None) -> None:
        self._location, self._name, self._level = location, name, level
        self._n_seen = 0  # failures
        self._reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return Handles, (self._location, self._name, self._level)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._datasets: dict[int, Any] = {}  # by thread
        self._in_turn = False
        self._process = os.getpid()

    @contextmanager
    def dataset(self) -> Iterator[Any]:
        """Lend a dataset that no other thread reads meanwhile, opened on first use.

        It is not lent again after an error: GDAL silently drops files from a mosaic that it once failed to open.
        """
        # After a fork parent and child share one file offset, and would read each other's blocks.
        if self._process != os.getpid():
            self._reset()
        thread = threading.get_ident()
        with self._lock:
            self._respell()
            if not self._datasets:
                with warnings.catch_warnings():
                    # Not a defect: scenes without georeference are worked on in pixels.
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)
                    dataset = self._datasets[thread] = self._open()
                    self._in_turn = dataset.transform.is_identity or block_bytes(dataset) > _SHARED_BLOCK_BYTES
            first, dataset = next(iter(self._datasets.items()))
        if in_turn := self._in_turn:
            thread = first
            self._lock.acquire()
        elif thread != first:
            dataset = self._datasets.get(thread) or self._open()
            with self._lock:
                self._datasets[thread] = dataset
        try:
            yield dataset
        except FAILURES as error:
            self._datasets.pop(thread, None)
            if dataset.driver in _OF_FILES and not isinstance(dataset, WarpedVRT):
                Handles._n_failures += 1
                if dataset.driver == "VRT":
                    self._spoiled[self._location] = first_line(error)
            dataset.close()
            raise
        finally:
            if in_turn:
                self._lock.release()

    def _respell(self) -> None:
        """Take other names of the files of a tile index if reading any file has failed since the last time."""
        if self._n_seen != Handles._n_failures:
            self._n_seen = Handles._n_failures
            if (anew := self._location.respell(self._n_seen)) is not self._location:
                self._location = anew
                self._datasets.clear()  # which closes them as soon as no thread reads them

    def _open(self) -> Any:
        """Open a dataset; one that only control points off an affine grid locate is warped on reading.

        Raises:
            RasterError: if GDAL cannot open it.
        """
        if self.is_spoiled:
            raise RasterError(
                f"{self._name} is made of files of which one could not be read before "
                f"({self._spoiled[self._location]}), and GDAL leaves such a file out from then on; mend it, and start "
                "Python again"
            )
        with translate_errors(self._name, self._location):
            dataset = self._location.open(self._level)
            points, crs = dataset.gcps
            # A CRS of its own beside the points' contradicts them, and fewer than three points say nothing.
            warped = len(points) >= _PLANE and crs is not None and dataset.crs is None and read_affine(dataset) is None
            if self._level is not None or not warped:
                return dataset
            return WarpedVRT(dataset, crs=crs, add_alpha=True, resampling=Resampling.bilinear)

    @property
    def is_spoiled(self) -> bool:
        """Whether GDAL would leave out files of this raster without an error."""
        return self._location in self._spoiled

    def close(self) -> None:
        """Close the datasets of all threads; a later `dataset` opens the raster again."""
        if self._process == os.getpid():
            with self._lock:
                for dataset in self._datasets.values():
                    dataset.close()
        self._reset()


def block_bytes(dataset: Any) -> int:
    """Return the size of what GDAL decodes at once, in bytes."""
    kind = dataset.dtypes[0]
    n_bytes = 4 if kind == "complex_int16" else np.dtype(kind).itemsize  # numpy has no such numbers
    n_bands = dataset.count if dataset.interleaving == Interleaving.pixel else 1
    return int(math.prod(dataset.block_shapes[0]) * n_bytes * n_bands)


def is_plain(dataset: Any) -> bool:
    """Return whether a dataset is a GeoTIFF on this machine with small uncompressed tiles.

    Each thread copies those that it needs from the file in less time than it takes to share them.
    """
    is_small = max(dataset.block_shapes[0]) <= _LARGEST_COPIED
    # Inside an archive (/vsizip/) there is no such file, and what it holds may be compressed.
    return is_small and dataset.driver == "GTiff" and dataset.compression is None and os.path.isfile(dataset.name)


def overviews(dataset: Any) -> list[int]:
    """Return how much coarser each overview that may be read is, in GDAL's order."""
    # A mask in a file beside the raster may have no overviews, and GDAL then reads it as all valid.
    if isinstance(dataset, WarpedVRT) or any(file.endswith(".msk") for file in dataset.files):
        return []
    return list(dataset.overviews(1))


def environment(location: Location) -> Any:
    """Return GDAL's settings for this location as a context manager; GDAL prints no errors inside it."""
    # The files of a virtual raster may be remote; the network settings do local ones no harm.
    return rasterio.Env(**_BLOCK_CACHE, **(_NETWORK if location.is_remote or location.is_virtual else {}))


@contextmanager
def translate_errors(name: str, location: Location) -> Iterator[None]:
    """Turn GDAL's errors into a `RasterError` of one sentence."""
    try:
        with environment(location):
            yield
    except FAILURES as error:
        raise RasterError(f"{name} cannot be read as a raster: {first_line(error)}") from harmless(error)


def check_sources(dataset: Any, name: str) -> None:
    """Raise if a file of a virtual raster is missing; GDAL may leave a hole without an error.

    Raises:
        RasterError: naming the file.
    """
    if dataset.driver != "VRT" or isinstance(dataset, WarpedVRT):
        return
    for file in dataset.files:
        if not (is_url(file) or os.path.exists(file)):
            raise RasterError(
                f"{name} is made of files of which {name_of(file)} is missing; put it back, or leave it out"
            )

    def check(file: Location) -> None:
        with translate_errors(name_of(file.text), file), file.open():
            pass

    remote = [file for file in map(Location.of, dataset.files) if file.is_remote]
    with ThreadPoolExecutor(_N_THREADS, thread_name_prefix="geodetect-sources") as pool:
        list(pool.map(check, remote))


def read_affine(dataset: Any) -> Affine | None:
    """Return the transform from pixels to the map; None if there is none, or control points do not lie on one."""
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
    """Return whether a transform places pixels; GDAL gives the identity if there is none."""
    return bool(np.isfinite(transform[:6]).all() and transform.determinant != 0 and not transform.is_identity)


def read_grid(dataset: Any, name: str) -> Grid:
    """Return the dataset's grid; a CRS without a transform is ignored, since it does not georeference.

    Raises:
        RasterError: if only rational polynomials locate it, or its CRS is invalid.
    """
    transform, shape = read_affine(dataset), (dataset.height, dataset.width)
    if transform is None:
        if dataset.rpcs is not None:
            raise RasterError(
                f"only rational polynomial coefficients locate {name}; orthorectify it first (gdalwarp -rpc)"
            )
        return Grid(shape, name=name)
    crs = dataset.crs or dataset.gcps[1]
    try:
        return Grid(shape, transform, _parse_crs(crs.to_wkt()) if crs else None, name)
    except FAILURES as error:
        raise RasterError(
            f"the coordinate reference system of {name} is invalid ({first_line(error)}); "
            "assign the right one with: gdal_edit.py -a_srs EPSG:..."
        ) from harmless(error)

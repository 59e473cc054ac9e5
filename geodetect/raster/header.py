"""The header of a raster, read once; and the scene, a raster that was opened once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning

from geodetect.errors import RasterError
from geodetect.grid import Grid
from geodetect.progress import Bar
from geodetect.raster.layers import Layers, warn_of_scales
from geodetect.raster.masks import MaskThreshold, find_alpha, find_alpha_threshold
from geodetect.raster.opening import Handles, Location, check_sources, is_plain, overviews, read_grid, translate_errors
from geodetect.raster.orientation import UPRIGHT, read_orientation
from geodetect.raster.virtual import TYPES, outline_sources

_N_THREADS = 8  # headers are read by so many at once: on a network they only wait
_MANY = 100  # files whose headers take a second or more


@dataclass(frozen=True, eq=False)
class Header:
    """Header of a raster, read without its pixels.

    Args:
        location: what GDAL opens.
        name: what messages call it.
        grid: its pixels and where they lie.
        layers: its bands; a band that is tagged as alpha counts as data until `with_mask` decides.
        nodata: the no-data value of each band; None for a band without one.
        tagged: the band that is tagged as alpha, mask or not; None if there is none.
        factors: how much coarser each overview is, in GDAL's order.
        block: (height, width) of its blocks.
        plain: whether they are small, uncompressed and in a file on this machine.
    """

    location: Location
    name: str
    grid: Grid
    layers: Layers
    nodata: tuple[float | None, ...]
    tagged: int | None
    factors: tuple[int, ...]
    block: tuple[int, int]
    plain: bool

    @classmethod
    def of(cls, dataset: Any, location: Location, name: str, nodata: float | None = None) -> Header:
        """Return the header of an open dataset; no pixel is read.

        Args:
            dataset: opened by rasterio.
            location: where.
            name: what messages call it.
            nodata: no-data value besides those that the file declares.

        Raises:
            RasterError: if it cannot be read in windows, or its CRS is invalid.
        """
        layers = Layers.of(dataset, name, nodata)
        return cls(
            location,
            name,
            read_grid(dataset, name),
            layers,
            tuple(layers.undeclared if value is None else value for value in dataset.nodatavals),
            find_alpha(dataset),
            tuple(overviews(dataset)),
            dataset.block_shapes[0],
            is_plain(dataset),
        )

    @property
    def n_bands(self) -> int:
        """Number of bands that are data."""
        return len(self.layers.data)

    def read_alpha_threshold(self) -> MaskThreshold | None:
        """Return the lowest opaque value of the band that is tagged as alpha; None if there is none or it is no mask.

        A few blocks of it are read.
        """
        if self.tagged is None:
            return None
        with translate_errors(self.name, self.location), self.location.open() as dataset:
            return find_alpha_threshold(dataset, self.tagged)

    def with_mask(self, threshold: MaskThreshold | None) -> Header:
        """Return the header with the tagged band as a mask, valid from `threshold` on; itself if either is None."""
        if self.tagged is None or threshold is None:
            return self
        return replace(self, layers=self.layers.with_alpha(self.tagged, threshold))


def read_headers(
    files: Sequence[tuple[Location, str]], nodata: float | None = None, *, progress: bool = False
) -> list[Header]:
    """Return the headers of files that make up one scene; a band tagged as alpha counts as data.

    Args:
        files: location and name of each.
        nodata: no-data value besides those that the files declare.
        progress: show a bar if there are many.

    Raises:
        RasterError: if one cannot be read or has no transform.
    """

    def read(file: tuple[Location, str]) -> Header:
        """Return the header of one file; raise RasterError if it cannot be part of a mosaic."""
        location, name = file
        with translate_errors(name, location), location.open() as dataset:
            header = Header.of(dataset, location, name, nodata)
            if header.grid.transform is None or dataset.transform.is_identity:
                raise RasterError(
                    f"{name} has no transform of its own, so its place beside the other files is unknown; "
                    "give it one (gdal_translate -a_srs EPSG:... -a_ullr ..., or gdalwarp where it has control points)"
                )
            if header.layers.stored.name not in TYPES:
                raise RasterError(f"{name} holds {header.layers.stored} values, which a mosaic cannot; convert it")
            return header

    headers: list[Header] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(_N_THREADS, thread_name_prefix="geodetect-headers") as pool:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # such files are refused in our own words
        with Bar("files", len(files), shown=progress and len(files) > _MANY) as bar:
            for header in pool.map(read, files):
                headers.append(header)
                bar.advance()
    warn_of_scales((header.name, header.layers) for header in headers)
    return headers


@dataclass(frozen=True, eq=False)
class Scene:
    """A raster, or many files as one, opened once; readers are views of it.

    In another process it is opened anew, without a second look at its header.

    Args:
        header: of the whole, its alpha band decided upon.
        handles: its open datasets.
        nodata: no-data value besides those that the files declare; None: no other.
        footprints: (N,) outlines of its files in pixels of `header.grid`; None if one file covers all of it.
        identity: names of the files of a mosaic, URLs, or descriptions of virtual rasters; may hold secrets. None for
            a single file, whose size and date identify it.
        files: paths and URLs of the files of a mosaic; None for a raster that GDAL opens by itself.
        orientation: how viewers turn and mirror a photo, 1 to 8 as in Exif; pixels are read as they are stored.
    """

    header: Header
    handles: Handles
    nodata: float | None = None
    footprints: np.ndarray | None = None
    identity: str | None = None
    files: Sequence[str] | None = None
    orientation: int = UPRIGHT


def open_single(location: Location, name: str, nodata: float | None = None) -> Scene:
    """Open a raster that GDAL opens by itself, and decide once on its alpha band.

    Raises:
        RasterError: if it cannot be read.
    """
    handles = Handles(location, name)
    with translate_errors(name, location), handles.dataset() as dataset:
        header = Header.of(dataset, location, name, nodata)
        if header.tagged is not None:
            header = header.with_mask(find_alpha_threshold(dataset, header.tagged))
        check_sources(dataset, name)
        warn_of_scales([(name, header.layers)])
        return Scene(
            header,
            handles,
            nodata,
            footprints=outline_sources(dataset),
            identity=location.identity,
            orientation=read_orientation(dataset),
        )

"""Reading windows: the protocol, the reader of files, and one that sees an area only.

Shapes: C bands, H W pixels. Bands count from 1, as in rasterio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import rasterio
import shapely
from jaxtyping import Bool, Shaped
from pyproj import CRS

from geodetect.errors import RasterError, first_line, harmless
from geodetect.grid import Grid, Window
from geodetect.raster.blocks import Blocks
from geodetect.raster.covered import Covered, scaled
from geodetect.raster.header import Scene
from geodetect.raster.held import Held
from geodetect.raster.layers import Layers
from geodetect.raster.mosaic import open_scene
from geodetect.raster.opening import FAILURES, Handles, Location, Rasters, environment, understood
from geodetect.raster.resampling import VALID_SHARE, Axis, resample

# How many pixels of an overview, along each axis, a pixel read from it takes in at least. Overviews may hold every
# n-th pixel (gdaladdo's default); a mean of four of those is still a mean.
_LEAST_TAKEN_IN = 2
_LARGEST_READ = 1 << 24  # values of the file decoded at once when resampling; more is read in halves


_Pixels = tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]


class Reader(Protocol):
    """What the package asks of a raster.

    Attributes:
        grid: the pixels that can be read, and where they lie.
        n_bands: number of bands that `read` gives.
        dtype: of the pixels that it gives.
        all_valid: whether every pixel is valid for certain, so that none need be read to know it.
        footprints: (N,) outlines of the files that lie on the grid, in its pixels, between which no pixel is valid;
            None where one file is all of it.
    """

    grid: Grid
    n_bands: int
    dtype: np.dtype[Any]
    all_valid: bool
    footprints: np.ndarray | None

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """The pixels of a window inside the grid, 0 where invalid, and which are valid."""
        ...

    def close(self) -> None:
        """Frees what it holds open or in memory; a later `read` opens it again."""
        ...


class RasterReader:
    """A raster, or many files that are one scene, read window by window.

    Safe in threads and after a fork: each has its own handle, and all share what was decoded. Pixels keep the file's
    dtype, but a palette becomes uint8 red, green and blue, and bands with scale and offset become float32. Invalid
    is what nodata, a mask, an alpha band that is one, or a value that is no number says, and what no file covers.

    Args:
        raster: path or URL of a raster; a list of them, a folder of GeoTIFFs or a pattern such as "tiles/*.tif" is
            one scene; a path or URL of a STAC item is one of its rasters, or the bands of several; or a `Scene`.
        bands: bands to read, counted from 1, or their names, in any order and any number of times; None for all that
            are data.
        pixel_size_m: side of the pixels that are read, in metres on the ground; None for the file's own.
        crs: of a raster that has a transform and does not name its own.
        nodata: value that stands for no data besides those that the files declare; a `Scene` brings its own.
        held: the rasters that this one is one of, of which only some stay open.

    Raises:
        RasterError: if the raster is missing, cannot be read, or has no such bands, or files do not go together.
        NotGeoreferenced: if `pixel_size_m` is given and the file's pixels have no size in metres.
    """

    def __init__(
        self,
        raster: Rasters | Scene,
        *,
        bands: Sequence[int | str] | None = None,
        pixel_size_m: float | None = None,
        crs: CRS | None = None,
        nodata: float | None = None,
        held: Held | None = None,
    ) -> None:
        self.scene = raster if isinstance(raster, Scene) else open_scene(raster, bands, nodata)
        header, footprints = self.scene.header, self.scene.footprints
        if header.grid.transform is not None and header.grid.crs is None and crs is not None:
            header = replace(header, grid=replace(header.grid, crs=crs))
            self.scene = replace(self.scene, header=header)
        self.name, self._location, self._layers = header.name, header.location, header.layers
        self.own_shape, self.grid = header.grid.shape, header.grid.resampled(pixel_size_m)
        self.bands = self._layers.chosen(bands, self.name)
        self.n_bands, self.dtype = len(self.bands), self._layers.dtype
        self.all_valid = self._layers.all_valid and footprints is None
        self._handles, self._shape, block = self.scene.handles, self.own_shape, header.block
        level = _overview(header.factors, header.grid, self.grid)
        if level is not None:
            self._handles = Handles(self._location, self.name, level)
            with understood(self.name, self._location), self._handles.dataset() as dataset:
                self._shape, block = dataset.shape, dataset.block_shapes[0]
        self.footprints = scaled(footprints, self.own_shape, self.grid.shape)
        stored = scaled(footprints, self.own_shape, self._shape)
        self._covered, self._stored = (None if each is None else Covered(each) for each in (self.footprints, stored))
        # Not a method of this object: a cycle would keep it, and a mosaic's index, until Python looks for cycles.
        self._decode = partial(_decode, self._handles, self._layers, self.bands, self._location)
        self._blocks = Blocks(self._decode, self._shape, block)
        self._held = held
        if held is not None:
            self.close()

    def view(self, *, bands: Sequence[int | str] | None = None, pixel_size_m: float | None = None) -> RasterReader:
        """Return a reader of the same open raster.

        Args:
            bands: as above; None for those of this reader.
            pixel_size_m: as above; None for the raster's own.
        """
        return RasterReader(
            self.scene, bands=self.bands if bands is None else bands, pixel_size_m=pixel_size_m, held=self._held
        )

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.grid.shape
        return f"RasterReader({self.name}: {width} x {height} px, bands {', '.join(map(str, self.bands))})"

    @property
    def band_names(self) -> list[str]:
        """The bands read by number, with what each is called where it is called something."""
        names = [self._layers.names[band - 1].told for band in self.bands]
        return [f"{band} {name}".strip() for band, name in zip(self.bands, names, strict=True)]

    @property
    def files(self) -> list[str]:
        """Paths and URLs, with their secrets, of what is read; of a single file its masks and overviews too."""
        if self.scene.files is not None:
            return list(self.scene.files)
        with understood(self.name, self._location), self.scene.handles.dataset() as dataset:
            return list(dataset.files)

    @property
    def orientation(self) -> int:
        """How viewers turn and mirror the picture, 1 to 8 as in Exif; `grid` and `read` are as it is stored."""
        return self.scene.orientation

    def close(self) -> None:
        """Close the file, for its other readers too, and forget what was decoded; a later read opens it again."""
        self._handles.close()
        self.scene.handles.close()
        self._blocks.forget()

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """The pixels of a window of `grid`, the same through whichever window a pixel is read.

        When the grid is resampled, a pixel is the mean of what it covers, or is interpolated when pixels
        shrink; it is valid where at least half of that is, and only valid pixels count.

        Args:
            window: pixels of `grid`, inside it.

        Returns:
            pixels (C, H, W), 0 where invalid, and whether each is valid (H, W).

        Raises:
            RasterError: if a block of the file cannot be read; the message gives its place.
        """
        height, width = self.grid.shape
        x1, y1, x2, y2 = window.xyxy
        assert 0 <= x1 < x2 <= width, f"{window} of {self.grid.shape}"
        assert 0 <= y1 < y2 <= height, f"{window} of {self.grid.shape}"
        with nullcontext() if self._held is None else self._held.reading(self):
            return self._read_own(window) if self.grid.shape == self._shape else self._read_resampled(window)

    def _read_covered(self, part: Window | None, window: Window, read: Callable[[Window], _Pixels]) -> _Pixels:
        """A window of which only a part is read; the rest is invalid."""
        if part == window:
            return read(window)
        pixels = np.zeros((self.n_bands, window.height, window.width), self.dtype)
        valid = np.zeros(pixels.shape[1:], bool)
        if part is not None:
            x, y = part.x - window.x, part.y - window.y
            inside = np.s_[y : y + part.height, x : x + part.width]
            pixels[:, *inside], valid[inside] = read(part)
        return pixels, valid

    def _read_own(self, window: Window) -> _Pixels:
        """A window in the pixels of the file, or of its overview."""
        part = window if self._stored is None else self._stored.within(window)
        return self._read_covered(part, window, self._read_stored)

    def _read_stored(self, window: Window) -> _Pixels:
        try:
            # What is closed after each read would decode whole blocks for one window.
            return self._blocks.read(window) if self._held is None or self._held.most else self._decode(window)
        except FAILURES as error:
            if self._location.is_remote:  # it was tried often enough
                raise self._broken(window, error) from harmless(error)
        try:
            return self._decode(window)  # what is broken may lie in a block, but not in the window
        except FAILURES as error:
            with self._handles.dataset() as dataset:
                raise self._broken(_first_broken(dataset, window), error) from harmless(error)

    def _broken(self, place: Window, error: BaseException) -> RasterError:
        """What to raise when pixels cannot be read."""
        reason = "the server may be away" if self._location.is_remote else "the file may be damaged or incomplete"
        return RasterError(
            f"{self.name} cannot be read at pixels x {place.x} to {place.x + place.width}, y {place.y} to "
            f"{place.y + place.height}: {first_line(error)}; {reason}"
        )

    def _read_resampled(self, window: Window) -> _Pixels:
        """A window of the resampled grid; where files cover too little to make any pixel valid nothing is read."""
        part = window if self._covered is None else self._covered.within(window, least=VALID_SHARE)
        return self._read_covered(part, window, self._resampled)

    def _resampled(self, window: Window) -> _Pixels:
        """A window of the resampled grid, in halves where it covers so much that memory would suffer."""
        # GDAL would resample too, but it takes near infrared tagged as alpha for a mask, lets the driver
        # decide on soft masks, and may or may not look beyond the window.
        (file_height, file_width), (height, width) = self._shape, self.grid.shape
        n_read = window.width * max(1, file_width / width) * window.height * max(1, file_height / height)
        if n_read * self.n_bands > _LARGEST_READ and max(window.width, window.height) > 1:
            return self._read_halves(window)
        across = Axis.of(file_width, width, window.x, window.width)
        down = Axis.of(file_height, height, window.y, window.height)
        pixels, valid = self._read_own(Window(across.first, down.first, across.n_read, down.n_read))
        return resample(pixels, valid, down, across)

    def _read_halves(self, window: Window) -> _Pixels:
        """The window read in two, cut across its longer side."""
        if window.height >= window.width:
            size, axis = window.height // 2, -2
            halves = replace(window, height=size), replace(window, y=window.y + size, height=window.height - size)
        else:
            size, axis = window.width // 2, -1
            halves = replace(window, width=size), replace(window, x=window.x + size, width=window.width - size)
        pixels, valid = zip(*map(self._read_resampled, halves), strict=True)
        return np.concatenate(pixels, axis=axis), np.concatenate(valid, axis=axis)


def _decode(
    handles: Handles, layers: Layers, bands: tuple[int, ...], location: Location, window: Window
) -> tuple[np.ndarray, np.ndarray]:
    with handles.dataset() as dataset, environment(location):
        return layers.read(dataset, window, bands)


def _overview(factors: Sequence[int], own: Grid, wanted: Grid) -> int | None:
    """The coarsest overview that is still fine enough, counted in the raster's order; None for the raster itself.

    Args:
        factors: by how much each overview is coarser.
        own: the raster's grid.
        wanted: the grid that is to be read.
    """
    shrunk = min(n / m for n, m in zip(own.shape, wanted.shape, strict=True))
    fine = [level for level, factor in enumerate(factors) if factor * _LEAST_TAKEN_IN <= shrunk]
    return max(fine, key=factors.__getitem__) if fine else None


def _first_broken(dataset: Any, window: Window) -> Window:
    """The part of the window in the first of the file's blocks that cannot be read; all of it if each can."""
    x1, y1, x2, y2 = window.xyxy
    block_height, block_width = dataset.block_shapes[0]
    for y in range(y1 - y1 % block_height, y2, block_height):
        for x in range(x1 - x1 % block_width, x2, block_width):
            left, top = max(x, x1), max(y, y1)
            right, bottom = min(x + block_width, x2), min(y + block_height, y2)
            try:
                with rasterio.Env():
                    dataset.read(window=((top, bottom), (left, right)))
            except FAILURES:
                return Window(left, top, right - left, bottom - top)
    return window


class MaskedReader:
    """A reader that sees only what lies in a polygon; other pixels are invalid and 0.

    Args:
        reader: any raster.
        area: polygon or multipolygon in scene pixels of its grid.
    """

    all_valid = False

    def __init__(self, reader: Reader, area: shapely.Geometry) -> None:
        self._reader, self.area = reader, area
        self.grid, self.n_bands, self.dtype = reader.grid, reader.n_bands, reader.dtype
        self.footprints = reader.footprints

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """The window's pixels; those whose centre lies outside the area are invalid."""
        pixels, valid = self._reader.read(window)
        valid = valid & _inside(self.area, window)
        return np.where(valid, pixels, pixels.dtype.type(0)), valid

    def close(self) -> None:
        """Closes the reader behind the mask."""
        self._reader.close()


def _inside(area: shapely.Geometry, window: Window) -> Bool[np.ndarray, "H W"]:
    """Which pixels of a window have their centre in the area.

    rasterio's `geometry_mask` would do, but warns of a missing georeference when threads use it at once.
    """
    part = shapely.intersection(area, shapely.box(*window.xyxy))  # also a geometry of this thread's own to prepare
    if part.is_empty or part.area == window.width * window.height:
        return np.full((window.height, window.width), not part.is_empty)
    shapely.prepare(part)
    x, y = np.meshgrid(np.arange(window.width) + 0.5, np.arange(window.height) + 0.5)
    return np.asarray(shapely.contains_xy(part, window.x + x, window.y + y))

"""Windows of rasters: the `Reader` protocol, the reader of files, and one that is limited to an area.

Shapes: C bands, H W pixels, N files. Bands count from 1, as in rasterio.
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
from geodetect.raster.blocks import Blocks, Pixels
from geodetect.raster.header import Scene
from geodetect.raster.layers import Layers
from geodetect.raster.mosaic import open_scene
from geodetect.raster.opening import FAILURES, Handles, Rasters, environment, translate_errors
from geodetect.raster.pool import ReaderPool
from geodetect.raster.resampling import VALID_SHARE, Axis, resample
from geodetect.windows import pixels_of

# Pixels of an overview, along each axis, that a pixel read from it covers at least. Overviews may hold every n-th
# pixel (gdaladdo's default); a mean of four of those is still a mean.
_LEAST_COVERED = 2
_LARGEST_READ = 1 << 24  # values of the file decoded at once when resampling; more is read in halves


class Reader(Protocol):
    """The interface of rasters that the package reads.

    Attributes:
        grid: the pixels that can be read, and where they lie.
        n_bands: number of bands that `read` returns.
        dtype: of the pixels that it returns.
        all_valid: whether every pixel is known to be valid before any is read.
        footprints: (N,) outlines of the files on the grid, in its pixels; no pixel outside them is valid. None if one
            file covers all of it.
    """

    grid: Grid
    n_bands: int
    dtype: np.dtype[Any]
    all_valid: bool
    footprints: np.ndarray | None

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """Return the pixels of a window inside the grid, 0 where invalid, and which are valid."""
        ...

    def close(self) -> None:
        """Free open files and memory; a later `read` opens the raster again."""
        ...


class _Covered:
    """The part of a grid that the files of a scene cover, so that nothing is read elsewhere.

    Args:
        footprints: (N,) outlines of the files in pixels of another grid of the same ground.
        own: (height, width) of that grid.
        wanted: (height, width) of this one.
    """

    def __init__(self, footprints: np.ndarray, own: tuple[int, int], wanted: tuple[int, int]) -> None:
        scale = np.array(wanted[::-1]) / own[::-1]
        self.footprints: np.ndarray = footprints
        if own != wanted:
            self.footprints = shapely.transform(footprints, lambda xy: xy * scale)
        self._bounds = pixels_of(self.footprints)
        self._areas, self._tree = shapely.area(self.footprints), shapely.STRtree(shapely.box(*self._bounds.T))

    def within(self, window: Window, least: float = 0.0) -> Window | None:
        """Return the bounds of the covered part of a window; None if it has no more than `least` pixels."""
        inside = np.array(window.xyxy)
        hit = self._tree.query(shapely.box(*inside))
        if self._areas[hit].sum() <= least:
            return None
        x1, y1 = np.maximum(self._bounds[hit, :2].min(axis=0), inside[:2]).tolist()
        x2, y2 = np.minimum(self._bounds[hit, 2:].max(axis=0), inside[2:]).tolist()
        return Window(x1, y1, x2 - x1, y2 - y1) if x1 < x2 and y1 < y2 else None


class RasterReader:
    """A view of an open raster, or of many files that are one scene, read window by window.

    Readers of one `Scene` share its open files; making one costs nothing. Threads and forked processes may read at the
    same time: each has its own dataset, and threads share blocks that take time to decode. Pixels keep the dtype of
    the file, but a palette becomes uint8 red, green and blue, and bands with scale and offset become float32. Pixels
    are invalid where nodata, a mask or an alpha band says so, where a value is not finite, and where no file lies.

    Args:
        raster: path or URL of a raster; a list of them, a folder of GeoTIFFs or a pattern such as "tiles/*.tif" is
            one scene; a path or URL of a STAC item is one of its rasters, or bands of several; or an open `Scene`.
        bands: bands to read, counted from 1, or their names, in any order, repeated or not; None: all that are data.
        pixel_size_m: side of the pixels that are read, in metres on the ground; None: the file's own.
        crs: of a raster that has a transform and no CRS.
        nodata: no-data value besides those that the files declare; a `Scene` has its own.
        pool: of readers of which only some stay open.

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
        pool: ReaderPool | None = None,
    ) -> None:
        self.scene = raster if isinstance(raster, Scene) else open_scene(raster, bands, nodata)
        header, footprints = self.scene.header, self.scene.footprints
        if header.grid.transform is not None and header.grid.crs is None and crs is not None:
            header = replace(header, grid=replace(header.grid, crs=crs))
            self.scene = replace(self.scene, header=header)
        self.name, self._location, self._layers = header.name, header.location, header.layers
        self.own_shape, self.grid = header.grid.shape, header.grid.resample(pixel_size_m)
        self.bands = self._layers.select(bands, self.name)
        self.n_bands, self.dtype = len(self.bands), self._layers.dtype
        self.all_valid = self._layers.all_valid and footprints is None
        self._handles, self._shape, block = self.scene.handles, self.own_shape, header.block
        shrunk = min(n / m for n, m in zip(self.own_shape, self.grid.shape, strict=True))
        if fine := [factor for factor in header.factors if factor * _LEAST_COVERED <= shrunk]:
            self._handles = Handles(self._location, self.name, header.factors.index(max(fine)))
            with translate_errors(self.name, self._location), self._handles.dataset() as dataset:
                self._shape, block = dataset.shape, dataset.block_shapes[0]
        self._covered, self._stored = (
            None if footprints is None else _Covered(footprints, self.own_shape, shape)
            for shape in (self.grid.shape, self._shape)
        )
        self.footprints = None if self._covered is None else self._covered.footprints
        # Not a method of this object: a cycle would keep it, and a mosaic's index, until Python looks for cycles.
        self._decode = partial(_decode, self._handles, self._layers, self.bands)
        # Blocks cannot be shared by readers that close after each read, and are not worth it where windows are copied
        # from a file. Its overviews may be compressed.
        copied = header.plain and self._layers.as_stored and self._handles is self.scene.handles
        alone = copied or (pool is not None and not pool.most)
        self._blocks = None if alone else Blocks(self._decode, self._shape, block)
        self._pool = pool
        if pool is not None:
            self.close()

    def view(self, *, bands: Sequence[int | str] | None = None, pixel_size_m: float | None = None) -> RasterReader:
        """Return a reader of the same open raster.

        Args:
            bands: as above; None for those of this reader.
            pixel_size_m: as above; None for the raster's own.
        """
        return RasterReader(
            self.scene, bands=self.bands if bands is None else bands, pixel_size_m=pixel_size_m, pool=self._pool
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
        """Number of each band that is read, followed by its name if it has one."""
        return [f"{band} {self._layers.names[band - 1].shown}".strip() for band in self.bands]

    @property
    def files(self) -> list[str]:
        """Paths and URLs, with their secrets, of all files; of a single raster its masks and overviews too."""
        if self.scene.files is not None:
            return list(self.scene.files)
        with translate_errors(self.name, self._location), self.scene.handles.dataset() as dataset:
            return list(dataset.files)

    @property
    def orientation(self) -> int:
        """Exif orientation, 1 to 8; viewers apply it, `grid` and `read` do not."""
        return self.scene.orientation

    def close(self) -> None:
        """Close the file, for its other readers too, and forget what was decoded; a later read opens it again."""
        self._handles.close()
        self.scene.handles.close()
        if self._blocks is not None:
            self._blocks.forget()

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """Return the pixels of a window of `grid`; a pixel's value does not depend on the window.

        When the grid is resampled, a pixel is the mean of the valid pixels that it covers, or is interpolated where
        pixels shrink; it is valid if at least half of what it covers is.

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
        with nullcontext() if self._pool is None else self._pool.keep_open(self):
            return self._read_own(window) if self.grid.shape == self._shape else self._read_resampled(window)

    def _read_covered(self, part: Window | None, window: Window, read: Callable[[Window], Pixels]) -> Pixels:
        """Read a part of a window; the rest is invalid."""
        if part == window:
            return read(window)
        pixels = np.zeros((self.n_bands, window.height, window.width), self.dtype)
        valid = np.zeros(pixels.shape[1:], bool)
        if part is not None:
            x, y = part.x - window.x, part.y - window.y
            inside = np.s_[y : y + part.height, x : x + part.width]
            pixels[:, *inside], valid[inside] = read(part)
        return pixels, valid

    def _read_own(self, window: Window) -> Pixels:
        """Read a window in pixels of the file, or of its overview."""
        part = window if self._stored is None else self._stored.within(window)
        return self._read_covered(part, window, self._read_stored)

    def _read_stored(self, window: Window) -> Pixels:
        with environment(self._location):  # once for all blocks: it takes as long as reading a small one
            try:
                return self._decode(window) if self._blocks is None else self._blocks.read(window)
            except FAILURES as error:
                if self._location.is_remote or self._handles.is_spoiled:  # GDAL has tried several times, or would not
                    raise self._broken(window, error) from harmless(error)
            try:
                return self._decode(window)  # the broken part may lie in a block, but outside the window
            except FAILURES as error:
                raise self._broken(self._find_broken(window), error) from harmless(error)

    def _find_broken(self, window: Window) -> Window:
        """Return the part of the window in the first block that cannot be read; all of it if each block can."""
        x1, y1, x2, y2 = window.xyxy
        with self._handles.dataset() as dataset:
            height, width = dataset.block_shapes[0]
        for y in range(y1 - y1 % height, y2, height):
            for x in range(x1 - x1 % width, x2, width):
                left, top, right, bottom = max(x, x1), max(y, y1), min(x + width, x2), min(y + height, y2)
                try:
                    with self._handles.dataset() as dataset, rasterio.Env():
                        dataset.read(window=((top, bottom), (left, right)))
                except FAILURES:
                    return Window(left, top, right - left, bottom - top)
        return window

    def _broken(self, place: Window, error: BaseException) -> RasterError:
        """Return the error for pixels that cannot be read."""
        reason = "the server may be away" if self._location.is_remote else "the file may be damaged or incomplete"
        return RasterError(
            f"{self.name} cannot be read at pixels x {place.x} to {place.x + place.width}, y {place.y} to "
            f"{place.y + place.height}: {first_line(error)}; {reason}"
        )

    def _read_resampled(self, window: Window) -> Pixels:
        """Read a window of the resampled grid, in halves where it covers many pixels of the file."""
        # Where files cover too little to make any pixel valid, nothing is read.
        part = window if self._covered is None else self._covered.within(window, least=VALID_SHARE)
        return self._read_covered(part, window, self._resample)

    def _resample(self, window: Window) -> Pixels:
        # GDAL would resample too, but it takes near infrared tagged as alpha for a mask, lets the driver
        # decide on soft masks, and may or may not look beyond the window.
        (file_height, file_width), (height, width) = self._shape, self.grid.shape
        n_read = window.width * max(1, file_width / width) * window.height * max(1, file_height / height)
        if n_read * self.n_bands > _LARGEST_READ and max(window.width, window.height) > 1:
            if window.height >= window.width:
                size, axis = window.height // 2, -2
                halves = replace(window, height=size), replace(window, y=window.y + size, height=window.height - size)
            else:
                size, axis = window.width // 2, -1
                halves = replace(window, width=size), replace(window, x=window.x + size, width=window.width - size)
            parts, masks = zip(*map(self._read_resampled, halves), strict=True)
            return np.concatenate(parts, axis=axis), np.concatenate(masks, axis=axis)
        across = Axis.of(file_width, width, window.x, window.width)
        down = Axis.of(file_height, height, window.y, window.height)
        pixels, valid = self._read_own(Window(across.first, down.first, across.n_read, down.n_read))
        return resample(pixels, valid, down, across)


def _decode(handles: Handles, layers: Layers, bands: tuple[int, ...], window: Window) -> Pixels:
    with handles.dataset() as dataset:
        return layers.read(dataset, window, bands)


class MaskedReader:
    """A reader limited to an area; pixels outside are invalid and 0.

    Args:
        reader: any raster.
        area: polygon or multipolygon in pixels of its grid.
    """

    all_valid = False

    def __init__(self, reader: Reader, area: shapely.Geometry) -> None:
        self._reader, self.area = reader, area
        self.grid, self.n_bands, self.dtype = reader.grid, reader.n_bands, reader.dtype
        self.footprints = reader.footprints

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """Return the window's pixels; those whose centre lies outside the area are invalid."""
        pixels, valid = self._reader.read(window)
        # rasterio's `geometry_mask` would do, but warns of a missing georeference when threads use it at once. The
        # intersection is also a geometry of this thread's own to prepare.
        part = shapely.intersection(self.area, shapely.box(*window.xyxy))
        if part.is_empty:
            return np.zeros_like(pixels), np.zeros_like(valid)
        if part.area < window.width * window.height:
            shapely.prepare(part)
            x, y = np.meshgrid(np.arange(window.width) + 0.5, np.arange(window.height) + 0.5)
            valid = valid & shapely.contains_xy(part, window.x + x, window.y + y)
        return np.where(valid, pixels, pixels.dtype.type(0)), valid

    def close(self) -> None:
        """Close the reader of the whole."""
        self._reader.close()

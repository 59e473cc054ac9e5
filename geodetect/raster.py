"""Rasters: windowed reading that is safe in threads, and small GeoTIFFs out.

Shapes: C bands, H W pixels. `Reader` is all that the rest of the package knows of rasters; `RasterReader`
is the one that reads files. Bands count from 1, as in rasterio.
"""

from __future__ import annotations

import os
import tempfile
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import rasterio
import shapely
from affine import Affine
from jaxtyping import Bool, Float, Shaped
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import geometry_mask
from rasterio.transform import from_gcps
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as FileWindow

from geodetect.errors import OutputError, RasterError
from geodetect.grid import Grid, Window
from geodetect.resampling import Axis, resample

_LARGEST_READ = 1 << 24  # values of the file decoded at once when resampling; more is read in halves
_LARGEST_BLOCK_BYTES = 1 << 31  # a file in larger blocks cannot be read in windows at all
_ALPHA_SAMPLES = 8  # places along each axis where an alpha band is looked at
_ALPHA_SAMPLE_SIZE = 64
_ALMOST_ALL = 0.99  # share of 0 and full that makes a mask of an alpha band; warped edges have some in between
_AFFINE = 0.1  # px; control points that lie closer than this to an affine grid are one


class Reader(Protocol):
    """What the package asks of a raster.

    Attributes:
        grid: the pixels that can be read, and where they lie.
        n_bands: number of bands that `read` gives.
    """

    grid: Grid
    n_bands: int

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """The pixels of a window inside the grid, and which of them are valid; invalid ones are 0."""
        ...


class RasterReader:
    """A raster file or URL, read window by window.

    Reading is safe in threads and after a fork: each has its own handle. Pixels keep the file's dtype; a file
    with scale and offset gives float32, a palette uint8 red, green and blue.

    Args:
        raster: path or URL of one raster.
        bands: bands to read, counted from 1, any number of times and in any order; None for all that are data.
        pixel_size_m: side of the pixels that `read` gives, in metres on the ground; None for the file's own.

    Raises:
        RasterError: if the raster is missing, cannot be read, or has no such bands.
        NotGeoreferenced: if `pixel_size_m` is given and the file's pixels have no size in metres.
    """

    def __init__(
        self, raster: str | Path, *, bands: Sequence[int] | None = None, pixel_size_m: float | None = None
    ) -> None:
        self.path = _one_raster(raster)
        self.name = Path(self.path).name
        self._pixel_size_m = pixel_size_m
        self._handles = _Handles(self.path, self.name)
        dataset = self._handles.get()
        self._layers = _Layers.of(dataset, self.name)
        self.bands = self._layers.chosen(bands, self.name)
        self.n_bands = len(self.bands)
        self.dtype = self._layers.dtype
        self._own = _grid_of(dataset, self.name)
        self.grid = self._own.resampled(pixel_size_m)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.bands, self._pixel_size_m)

    def __enter__(self) -> RasterReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        height, width = self.grid.shape
        return f"RasterReader({self.name}: {width} x {height} px, bands {', '.join(map(str, self.bands))})"

    def close(self) -> None:
        """Closes the file in all threads; a later read opens it again."""
        self._handles.close()

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
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height, f"{window} of {self.grid.shape}"
        return self._read_own(window) if self.grid is self._own else self._read_resampled(window)

    def _read_own(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """A window in the file's own pixels."""
        dataset = self._handles.get()
        try:
            return self._layers.read(dataset, window, self.bands)
        except (RasterioError, MemoryError) as error:
            raise _broken_block(dataset, window, self.name, error) from error

    def _read_resampled(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """A window of the resampled grid, in halves where it covers so much that memory would suffer."""
        # GDAL would resample too, but it takes a near infrared band tagged as alpha for a mask, blends the
        # numbers of a palette, and gives soft masks that depend on the driver.
        (file_height, file_width), (height, width) = self._own.shape, self.grid.shape
        across = Axis.of(file_width, width, window.x, window.width)
        down = Axis.of(file_height, height, window.y, window.height)
        if across.n_read * down.n_read * self.n_bands > _LARGEST_READ and max(window.height, window.width) > 1:
            return _joined([self._read_resampled(half) for half in _halves(window)], window)
        own = Window(across.first, down.first, across.n_read, down.n_read)
        pixels, valid = self._read_own(own)
        return resample(pixels, valid, down, across)


def _reopen(path: str, bands: tuple[int, ...], pixel_size_m: float | None) -> RasterReader:
    return RasterReader(path, bands=bands, pixel_size_m=pixel_size_m)


def _halves(window: Window) -> tuple[Window, Window]:
    """The window cut in two across its longer side."""
    if window.height >= window.width:
        top = window.height // 2
        below = Window(window.x, window.y + top, window.width, window.height - top)
        return replace(window, height=top), below
    left = window.width // 2
    return replace(window, width=left), Window(window.x + left, window.y, window.width - left, window.height)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]], window: Window) -> tuple[np.ndarray, np.ndarray]:
    """What was read in the two `_halves` of a window, as one."""
    axis = -2 if window.height >= window.width else -1
    (pixels, valid), (more_pixels, more_valid) = parts
    return np.concatenate([pixels, more_pixels], axis=axis), np.concatenate([valid, more_valid], axis=axis)


def _one_raster(raster: str | Path) -> str:
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


class _Handles:
    """The open datasets of one file, one for each thread and process."""

    def __init__(self, path: str, name: str) -> None:
        self._path, self._name = path, name
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._local = threading.local()
        self._opened: list[Any] = []
        self._process = os.getpid()

    def get(self) -> Any:
        """This thread's dataset, opened on first use."""
        # After a fork parent and child would share one file offset, and read each other's blocks.
        if self._process != os.getpid():
            self._reset()
        if not hasattr(self._local, "dataset"):
            with self._lock:
                self._local.dataset = _open(self._path, self._name)
                self._opened.append(self._local.dataset)
        return self._local.dataset

    def close(self) -> None:
        """Closes the datasets of all threads."""
        with self._lock:
            for dataset in self._opened if self._process == os.getpid() else ():
                dataset.close()
            self._reset()


def _open(path: str, name: str) -> Any:
    """The open dataset; one that only curved control points locate is warped on reading.

    Raises:
        RasterError: if GDAL cannot open it, or it holds no bands.
    """
    try:
        with warnings.catch_warnings():
            # Not a defect: scenes without georeference are worked on in pixels.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(path)
            return _unbent(dataset)
    except (RasterioError, CRSError, MemoryError) as error:
        raise RasterError(f"{name} cannot be read as a raster: {_first_line(error)}") from error


def _unbent(dataset: Any) -> Any:
    """The dataset itself where an affine transform places it, else a view of it warped to its points' CRS."""
    points, crs = dataset.gcps
    if not points or _affine_of(dataset) is not None or crs is None:
        return dataset
    return WarpedVRT(dataset, src_crs=crs, crs=crs, add_alpha=True, resampling=rasterio.enums.Resampling.bilinear)


def _affine_of(dataset: Any) -> Affine | None:
    """The transform from pixels to the map; None where there is none, or control points do not lie on one."""
    transform = dataset.transform
    points, _ = dataset.gcps
    if transform.is_identity and len(points) >= 3:  # noqa: PLR2004 -- a plane takes three points
        fitted = from_gcps(points)
        if fitted.determinant == 0 or not np.isfinite(fitted[:6]).all():
            return None
        place = np.array([(~fitted) @ (point.x, point.y) for point in points])
        off = np.abs(place - [(point.col, point.row) for point in points]).max()
        return fitted if off < _AFFINE else None
    usable = not transform.is_identity and transform.determinant != 0 and np.isfinite(transform[:6]).all()
    return transform if usable else None


def _grid_of(dataset: Any, name: str) -> Grid:
    """The dataset's grid; a CRS without a transform places nothing and is left out with it.

    Raises:
        RasterError: if only rational polynomials locate it, or nobody can make sense of its CRS.
    """
    transform, shape = _affine_of(dataset), (dataset.height, dataset.width)
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
    except (CRSError, RasterioError) as error:
        raise RasterError(
            f"the coordinate reference system of {name} makes no sense ({_first_line(error)}); "
            "assign the right one with: gdal_edit.py -a_srs EPSG:..."
        ) from error


@dataclass(frozen=True)
class _Layers:
    """What the bands of a file are, decided once: which are data, and what says which pixels are valid.

    Args:
        data: bands that `bands=None` reads.
        n_bands: number of bands that can be asked for.
        dtype: of the pixels that are read.
        alpha: the band that is a mask; None when there is none.
        mask: whether the file carries a mask of its own, for all bands.
        nodata: whether bands have a value that stands for no data.
        palette: (colours, 4) red, green, blue, alpha; None when pixels are values.
        scaled: per band, scale and offset; None when all are 1 and 0.
    """

    data: tuple[int, ...]
    n_bands: int
    dtype: np.dtype[Any]
    alpha: int | None
    mask: bool
    nodata: bool
    palette: np.ndarray | None
    scaled: np.ndarray | None

    @classmethod
    def of(cls, dataset: Any, name: str) -> _Layers:
        """What the bands of `dataset` are.

        Raises:
            RasterError: if there are none, or their values or blocks are of a kind that cannot be read.
        """
        _check_readable(dataset, name)
        palette, alpha = _palette(dataset), _alpha_mask(dataset, name)
        data = tuple(band for band in dataset.indexes if band != alpha) or (1,)
        scaled = np.array([dataset.scales, dataset.offsets]).T
        plain = np.array_equal(scaled, np.tile([1.0, 0.0], (dataset.count, 1)))
        flags = dataset.mask_flag_enums
        return cls(
            data=data if palette is None else (1, 2, 3),
            n_bands=dataset.count if palette is None else 3,
            dtype=np.dtype(np.uint8 if palette is not None else dataset.dtypes[0] if plain else np.float32),
            alpha=alpha,
            mask=MaskFlags.per_dataset in flags[0] and MaskFlags.alpha not in flags[0],
            nodata=any(MaskFlags.nodata in flag for flag in flags),
            palette=palette,
            scaled=None if plain or palette is not None else scaled,
        )

    def chosen(self, bands: Sequence[int] | None, name: str) -> tuple[int, ...]:
        """The bands asked for.

        Raises:
            RasterError: if the file has no such bands.
        """
        if bands is None:
            return self.data
        if not len(bands) or any(not 1 <= band <= self.n_bands for band in bands):
            raise RasterError(
                f"bands count from 1, and {name} has {self.n_bands}; got bands={tuple(int(band) for band in bands)}"
            )
        return tuple(int(band) for band in bands)

    def read(self, dataset: Any, window: Window, bands: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of a window of the file, 0 where invalid, and which are valid."""
        where = FileWindow(*window.xyxy[:2], window.width, window.height)
        stored = (1,) if self.palette is not None else tuple(sorted(set(bands)))
        pixels = dataset.read(stored, window=where)
        valid = self._valid(dataset, where, pixels, stored)
        if self.palette is not None:
            colours = self.palette[np.minimum(pixels[0], len(self.palette) - 1)]
            pixels, valid = np.moveaxis(colours, -1, 0), valid & (colours[..., 3] > 0)
            stored = (1, 2, 3, 4)
        if self.scaled is not None:
            scale, offset = self.scaled[np.array(stored) - 1].T[..., None, None]
            pixels = (pixels * scale + offset).astype(np.float32)
        pixels = np.ascontiguousarray(pixels[np.searchsorted(stored, bands)], dtype=self.dtype)
        pixels[:, ~valid] = 0
        return pixels, valid

    def _valid(self, dataset: Any, where: Any, pixels: np.ndarray, stored: tuple[int, ...]) -> np.ndarray:
        """Which pixels everything that the file says about it lets stand."""
        valid = np.isfinite(pixels).all(axis=0) if pixels.dtype.kind == "f" else np.ones(pixels.shape[1:], bool)
        if self.alpha is not None:
            alpha = dataset.read(self.alpha, window=where)
            valid &= alpha >= _full(alpha.dtype) / 2
        if self.mask:
            valid &= dataset.read_masks(1, window=where) > 0
        if self.nodata:
            held = dataset.read_masks(stored, window=where) > 0
            # 0 and the unsigned types' ends are colours too, so a pixel is void where all bands say so;
            # -9999 in one band is enough.
            colour = pixels.dtype.kind == "u" or all(value in (0, None) for value in dataset.nodatavals)
            valid &= held.any(axis=0) if colour else held.all(axis=0)
        return valid


def _check_readable(dataset: Any, name: str) -> None:
    """Refuses what no window can be read from.

    Raises:
        RasterError: without bands, with complex values, or in blocks that do not fit into memory.
    """
    if not dataset.count:
        parts = ", ".join(dataset.subdatasets[:2])
        raise RasterError(
            f"{name} holds no bands of its own" + (f"; name one of its parts, as {parts}" if parts else "")
        )
    if any(kind.startswith("complex") for kind in dataset.dtypes):
        raise RasterError(f"{name} holds complex values, which are no picture; take their magnitude first")
    size = max(int(np.prod(shape)) for shape in dataset.block_shapes) * np.dtype(dataset.dtypes[0]).itemsize
    if size > _LARGEST_BLOCK_BYTES:
        raise RasterError(
            f"{name} is stored in blocks of {size / 1e9:.1f} GB, which cannot be read in windows; "
            "write it in tiles first (gdal_translate -co TILED=YES)"
        )


def _palette(dataset: Any) -> np.ndarray | None:
    """The colours that the values of a single band stand for, (colours, 4); None when they are values."""
    if dataset.count > 1 or dataset.colorinterp[0] != ColorInterp.palette:
        return None
    with suppress(ValueError):  # tagged as a palette, but there is none
        colours = dataset.colormap(1)
        table = np.zeros((max(colours) + 1, 4), np.uint8)
        table[list(colours)] = list(colours.values())
        return table
    return None


def _alpha_mask(dataset: Any, name: str) -> int | None:
    """The band that says which pixels are valid; None when there is none.

    A band tagged as alpha is one only when it holds 0 and full: some programs tag near infrared as alpha.
    """
    tagged = [
        band for band, kind in zip(dataset.indexes, dataset.colorinterp, strict=True) if kind == ColorInterp.alpha
    ]
    if not tagged or dataset.count == 1:
        return None
    band = tagged[-1]
    try:
        values = np.concatenate([dataset.read(band, window=where).ravel() for where in _spread(dataset)])
    except (RasterioError, MemoryError) as error:
        raise RasterError(f"the alpha band of {name} cannot be read: {_first_line(error)}") from error
    extreme = (values == 0) | (values == _full(values.dtype))
    return band if extreme.mean() >= _ALMOST_ALL else None


def _full(dtype: np.dtype[Any]) -> float:
    """What an alpha band holds where a pixel is opaque."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _spread(dataset: Any) -> list[Any]:
    """Small windows spread evenly over a dataset, its corners among them."""
    size = _ALPHA_SAMPLE_SIZE
    rows, columns = (
        np.unique(np.linspace(0, max(0, length - size), _ALPHA_SAMPLES).astype(int)) for length in dataset.shape
    )
    return [
        FileWindow(int(x), int(y), min(size, dataset.width), min(size, dataset.height)) for y in rows for x in columns
    ]


def _broken_block(dataset: Any, window: Window, name: str, error: BaseException) -> RasterError:
    """The error for a window that cannot be read, with the place of the first block of it that fails."""
    return RasterError(
        f"{name} cannot be read at pixels x {window.x} to {window.x + window.width}, "
        f"y {window.y} to {window.y + window.height}: {_first_line(error)}"
    )


def _first_line(error: BaseException) -> str:
    """What a library says, or what it says was the cause, in one line."""
    told = str(error.__cause__ or error) or str(error)
    return (told.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


class MaskedReader:
    """A reader that sees only what lies in a polygon; other pixels are invalid and 0.

    Args:
        reader: any raster.
        area: polygon or multipolygon in scene pixels of its grid.
    """

    def __init__(self, reader: Reader, area: shapely.Geometry) -> None:
        self._reader, self._area = reader, area
        self.grid, self.n_bands = reader.grid, reader.n_bands

    def read(self, window: Window) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """The window's pixels; those whose centre lies outside the area are invalid."""
        pixels, valid = self._reader.read(window)
        frame = Affine.translation(window.x, window.y)
        outside = geometry_mask([self._area], out_shape=valid.shape, transform=frame)
        valid = valid & ~outside
        return np.where(valid, pixels, pixels.dtype.type(0)), valid


def write_chip(
    path: str | Path,
    pixels: Shaped[np.ndarray, "C H W"],
    grid: Grid,
    valid: Bool[np.ndarray, "H W"] | None = None,
) -> Path:
    """A GeoTIFF with these pixels, complete under its name or not there at all.

    Args:
        path: file to write; one that exists is replaced.
        pixels: of any dtype that GeoTIFF holds, kept.
        grid: where they lie.
        valid: which pixels hold data; None for all. Written as a mask only where some do not.

    Returns:
        `path`.

    Raises:
        OutputError: if it cannot be written.
    """
    path = Path(path)
    profile = _chip_profile(pixels, grid)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            part = Path(folder) / path.name
            with warnings.catch_warnings(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                with rasterio.open(part, "w", **profile) as target:
                    target.write(pixels)
                    if valid is not None and not valid.all():
                        target.write_mask(valid)
            os.replace(part, path)
    except (OSError, RasterioError) as error:
        raise OutputError(f"{path} cannot be written: {_first_line(error)}") from error
    return path


def _chip_profile(pixels: np.ndarray, grid: Grid) -> dict[str, Any]:
    """How rasterio is to write these pixels."""
    n_bands, height, width = pixels.shape
    coloured = n_bands in (3, 4) and pixels.dtype in (np.uint8, np.uint16)
    profile = {
        "driver": "GTiff",
        "count": n_bands,
        "height": height,
        "width": width,
        "dtype": pixels.dtype.name,
        "compress": "deflate",
        "photometric": "RGB" if coloured else "MINISBLACK",
        "alpha": "NO",  # else GDAL tags the fourth of four bands as alpha
        "crs": grid.crs and rasterio.crs.CRS.from_wkt(grid.crs.to_wkt()),
        "transform": grid.transform,
    }
    return {key: value for key, value in profile.items() if value is not None}

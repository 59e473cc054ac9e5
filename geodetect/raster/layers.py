"""What the bands of a file are: data, a palette, or a mask; and windows of them read so.

Shapes: C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as FileWindow

from geodetect.errors import ArgumentError, RasterError, is_whole
from geodetect.grid import Window
from geodetect.raster.opening import block_bytes

_LARGEST_BLOCK_BYTES = 500_000_000  # whatever the window, GDAL decodes whole blocks
_ALPHA_SAMPLES = 8  # places along each axis where an alpha band is looked at
_ALPHA_SAMPLE_SIZE = 64
_COLOURS = ("red", "green", "blue")  # of a palette
_NO_COLOURS = ("undefined", "gray", "palette")  # GDAL's default for the first band is grey, whatever it holds
_ALMOST_ALL = 0.99  # share of 0 and full that makes a mask of an alpha band; warped edges have some in between


class BandName(NamedTuple):
    """What a band may be called.

    Args:
        own: its description; empty when it has none.
        colour: what it is shown as, such as "red"; "undefined" when that is not told.
    """

    own: str
    colour: str

    @property
    def told(self) -> str:
        """What it is called; empty when it is called nothing."""
        return self.own or ("" if self.colour in _NO_COLOURS else self.colour)


@dataclass(frozen=True, eq=False)
class Layers:
    """The bands of a file, decided upon once.

    Args:
        data: bands that are read when none are named; no alpha band among them.
        n_bands: number of bands that can be named.
        stored: dtype of the pixels in the file.
        dtype: dtype of the pixels that `read` gives.
        alpha: the band that is a mask; None when there is none.
        mask: whether the file carries a mask for all bands.
        nodata: whether bands have a value that stands for no data.
        palette: (colours, 4) red, green, blue, alpha; None when pixels are values.
        scaled: (bands, 2) scale and offset; None when all are 1 and 0.
        names: what each band that can be named by number can be called besides.
    """

    data: tuple[int, ...]
    n_bands: int
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    alpha: int | None
    mask: bool
    nodata: bool
    palette: np.ndarray | None
    scaled: np.ndarray | None
    names: tuple[BandName, ...]

    @classmethod
    def of(cls, dataset: Any, name: str) -> Layers:
        """What the bands of `dataset` are.

        Raises:
            RasterError: if there are none, or their values or blocks are of a kind that cannot be read.
        """
        tagged = alpha_tag(dataset)
        return cls.with_alpha(dataset, name, tagged if tagged and is_mask(dataset, tagged) else None)

    @classmethod
    def with_alpha(cls, dataset: Any, name: str, alpha: int | None) -> Layers:
        """What the bands of `dataset` are, when it is known which of them is a mask.

        Raises:
            RasterError: if there are none, or their values or blocks are of a kind that cannot be read.
        """
        _check_readable(dataset, name)
        flags, palette = dataset.mask_flag_enums, _palette(dataset)
        scaled = None if palette is not None else _scaled(dataset)
        stored = np.result_type(*dataset.dtypes)
        return cls(
            data=(1, 2, 3) if palette is not None else tuple(band for band in dataset.indexes if band != alpha),
            n_bands=3 if palette is not None else dataset.count,
            stored=stored,
            dtype=np.dtype(np.uint8 if palette is not None else stored if scaled is None else np.float32),
            alpha=alpha,
            mask=MaskFlags.per_dataset in flags[0] and MaskFlags.alpha not in flags[0],
            nodata=any(MaskFlags.nodata in flag for flag in flags),
            palette=palette,
            scaled=scaled,
            names=_names(dataset) if palette is None else tuple(BandName("", colour) for colour in _COLOURS),
        )

    @property
    def all_valid(self) -> bool:
        """Whether nothing in the file can make a pixel invalid; known before any is read."""
        clear = self.palette is not None and not self.palette[:, 3].all()
        return self.alpha is None and not (self.mask or self.nodata or clear or self.stored.kind == "f")

    def chosen(self, bands: Sequence[int | str] | None, name: str) -> tuple[int, ...]:
        """The numbers of the bands asked for by number or name; all data bands for None.

        Raises:
            ArgumentError: if they are neither.
            RasterError: if the file has no such bands.
        """
        if bands is None:
            return self.data
        check_bands(bands)
        chosen = tuple(self._named(band, name) if isinstance(band, str) else int(band) for band in bands)
        if not chosen or not all(1 <= band <= self.n_bands for band in chosen):
            raise RasterError(f"{name} has bands 1 to {self.n_bands}; got bands={chosen}")
        return chosen

    def _named(self, band: str, name: str) -> int:
        """The number of the band that is described so, or else shown in this colour."""
        for known in ([each.own for each in self.names], [each.colour for each in self.names]):
            found = [number for number, each in enumerate(known, 1) if each.casefold() == band.casefold()]
            if len(found) == 1:
                return found[0]
            if found:
                raise RasterError(f"bands {found} of {name} are all called {band!r}; name one by its number")
        told = ", ".join(f"{number} {each.told}".strip() for number, each in enumerate(self.names, 1))
        raise RasterError(f"{name} has no band {band!r}; its bands are {told}")

    def read(
        self, dataset: Any, window: Window, bands: tuple[int, ...]
    ) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """The pixels of a window of the file, 0 where invalid, and which are valid."""
        where = FileWindow(window.x, window.y, window.width, window.height)
        stored = (1,) if self.palette is not None else tuple(sorted(set(bands)))
        if len(set(dataset.dtypes)) == 1:
            pixels = dataset.read(stored, window=where)
        else:  # rasterio reads bands of several types one by one only
            pixels = np.stack([dataset.read(band, window=where) for band in stored])
        valid = self._valid(dataset, where, pixels, stored)
        if self.palette is not None:
            colours = self.palette[np.clip(pixels[0], 0, len(self.palette) - 1)]
            pixels, stored = np.moveaxis(colours[..., :3], -1, 0), (1, 2, 3)
            valid &= colours[..., 3] > 0
        if self.scaled is not None:
            scale, offset = self.scaled[np.array(stored) - 1].T[..., None, None]
            pixels = pixels * scale + offset
        if stored != bands:
            pixels = pixels[np.searchsorted(stored, bands)]
        pixels = np.ascontiguousarray(pixels, self.dtype)
        if not valid.all():
            pixels[:, ~valid] = 0
        return pixels, valid

    def _valid(
        self, dataset: Any, where: Any, pixels: Shaped[np.ndarray, "C H W"], stored: tuple[int, ...]
    ) -> Bool[np.ndarray, "H W"]:
        """Which pixels stand, by everything that the file says of them."""
        valid = np.ones(pixels.shape[1:], bool)
        if pixels.dtype.kind == "f":
            valid &= np.isfinite(pixels).all(axis=0)
        if self.alpha is not None:
            alpha = dataset.read(self.alpha, window=where)
            valid &= alpha >= _full(alpha.dtype) / 2
        if self.mask:
            valid &= dataset.read_masks(1, window=where) > 0
        if self.nodata:
            held = dataset.read_masks(stored, window=where) > 0
            valid &= held.any(axis=0) if self._nodata_is_colour(dataset) else held.all(axis=0)
        return valid

    def _nodata_is_colour(self, dataset: Any) -> bool:
        """Whether the value for no data may occur in one band of a good pixel.

        Black and white may, so there all bands must say so; -9999 in one band is enough.
        """
        return self.stored.kind == "u" or all(value in (0, None) for value in dataset.nodatavals)


def check_bands(bands: Any) -> None:
    """Refuses what are no bands.

    Raises:
        ArgumentError: if they are not numbers or names in a row.
    """
    in_a_row = isinstance(bands, Iterable) and not isinstance(bands, str)
    if not (in_a_row and all(isinstance(band, str) or is_whole(band) for band in bands)):
        raise ArgumentError(
            "bands must be whole numbers, counted from 1, such as (1, 2, 3), or names, such as "
            f'("red", "green", "blue"); got bands={bands!r}'
        )


def _names(dataset: Any) -> tuple[BandName, ...]:
    described = zip(dataset.descriptions, dataset.colorinterp, strict=True)
    return tuple(BandName(own or "", colour.name) for own, colour in described)


def _check_readable(dataset: Any, name: str) -> None:
    """Refuses what no window can be read from.

    Raises:
        RasterError: without bands, with complex values, or in blocks that do not fit into memory.
    """
    if not dataset.count:
        parts = " or ".join(dataset.subdatasets[:2])
        raise RasterError(f"{name} holds no bands of its own; name one of its parts{parts and ', as ' + parts}")
    if any(kind.startswith("complex") for kind in dataset.dtypes):
        raise RasterError(f"{name} holds complex values, which are no picture; take their magnitude first")
    size = block_bytes(dataset)
    if size > _LARGEST_BLOCK_BYTES:
        raise RasterError(
            f"{name} is stored in blocks of {size / 1e9:.2g} GB, so it cannot be read in windows; "
            "write it in tiles first (gdal_translate -co TILED=YES)"
        )


def _scaled(dataset: Any) -> np.ndarray | None:
    """Scale and offset of each band; None when values are what they stand for."""
    scaled = np.array([dataset.scales, dataset.offsets]).T
    return None if (scaled == (1.0, 0.0)).all() else scaled


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


def alpha_tag(dataset: Any) -> int | None:
    """The band that is tagged as saying which pixels are valid; None when there is none beside the data."""
    kinds = zip(dataset.indexes, dataset.colorinterp, strict=True)
    tagged = [band for band, kind in kinds if kind == ColorInterp.alpha]
    return tagged[-1] if tagged and dataset.count > 1 else None


def is_mask(dataset: Any, band: int) -> bool:
    """Whether a band that is tagged as alpha holds 0 and full, and nearly nothing else, and so is believed.

    Some programs tag near infrared as alpha.
    """
    if isinstance(dataset, WarpedVRT):  # which we have added the band to
        return True
    values = np.concatenate([dataset.read(band, window=where).ravel() for where in _spread(dataset)])
    extreme = (values == 0) | (values == _full(values.dtype))
    return bool(extreme.mean() >= _ALMOST_ALL)


def _full(dtype: np.dtype[Any]) -> float:
    """What an alpha band holds where a pixel is opaque."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _spread(dataset: Any) -> list[Any]:
    """Small windows spread evenly over a dataset, its corners among them."""
    height, width = (min(_ALPHA_SAMPLE_SIZE, length) for length in dataset.shape)
    rows = np.unique(np.linspace(0, dataset.height - height, _ALPHA_SAMPLES).astype(int))
    columns = np.unique(np.linspace(0, dataset.width - width, _ALPHA_SAMPLES).astype(int))
    return [FileWindow(int(x), int(y), width, height) for y in rows for x in columns]

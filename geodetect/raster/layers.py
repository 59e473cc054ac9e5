"""What the bands of a file are: data, a palette, or a mask; and windows of them read so.

Shapes: C bands, H W pixels.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.windows import Window as FileWindow

from geodetect.errors import ArgumentError, RasterError, is_whole
from geodetect.grid import Window
from geodetect.raster.masks import Least, as_stored, is_sparse, least_of_mask
from geodetect.raster.opening import block_bytes

_LARGEST_BLOCK_BYTES = 500_000_000  # whatever the window, GDAL decodes whole blocks
_COLOURS = ("red", "green", "blue")  # of a palette
_ENDLESS = 1e30  # a scale times a 16-bit integer is still a float32
_FLOAT32 = np.finfo(np.float32)
_NO_COLOURS = ("undefined", "gray", "palette")  # GDAL's default for the first band is grey, whatever it holds


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
        least: the lowest valid value of the alpha band.
        mask: the lowest valid value of the mask that the file carries for all bands; None when it carries none.
        nodata: whether bands declare a value that stands for no data.
        undeclared: another value that stands for no data; None when there is none.
        palette: (colours, 4) red, green, blue, alpha; None when pixels are values.
        scaled: (bands, 2) scale and offset; None when all are 1 and 0.
        unusable: scales and offsets that are ignored because no values can have them; empty when there are none.
        names: what each band that can be named by number can be called besides.
    """

    data: tuple[int, ...]
    n_bands: int
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    alpha: int | None
    least: Least
    mask: Least | None
    nodata: bool
    undeclared: float | None
    palette: np.ndarray | None
    scaled: np.ndarray | None
    unusable: str
    names: tuple[BandName, ...]

    @classmethod
    def of(cls, dataset: Any, name: str, nodata: float | None = None) -> Layers:
        """Return the bands of a dataset, one that is tagged as alpha among the data; no pixel is read.

        Args:
            dataset: opened by rasterio.
            name: what messages call it.
            nodata: no-data value besides those that the file declares.

        Raises:
            RasterError: if there are no bands, or their values or blocks are of a kind that cannot be read.
        """
        _check_readable(dataset, name)
        flags, palette = dataset.mask_flag_enums, _palette(dataset)
        scaled, unusable = (None, "") if palette is not None else _scaled(dataset)
        stored = np.result_type(*dataset.dtypes)
        undeclared = None if nodata is None else as_stored(nodata, stored, name)
        declared = any(MaskFlags.nodata in flag for flag in flags)
        has_mask = MaskFlags.per_dataset in flags[0] and MaskFlags.alpha not in flags[0]
        return cls(
            data=(1, 2, 3) if palette is not None else tuple(dataset.indexes),
            n_bands=3 if palette is not None else dataset.count,
            stored=stored,
            dtype=np.dtype(np.uint8 if palette is not None else stored if scaled is None else np.float32),
            alpha=None,
            least=0.0,
            mask=least_of_mask(dataset, name) if has_mask else None,
            nodata=declared,
            undeclared=None if declared and set(dataset.nodatavals) == {undeclared} else undeclared,
            palette=palette,
            scaled=scaled,
            unusable=unusable,
            names=_names(dataset) if palette is None else tuple(BandName("", colour) for colour in _COLOURS),
        )

    def with_alpha(self, band: int, least: Least) -> Layers:
        """The same bands, of which one is a mask and no longer among the data."""
        data = tuple(each for each in self.data if each != band)
        return replace(self, data=data, alpha=band, least=least)

    @property
    def all_valid(self) -> bool:
        """Whether nothing in the file can make a pixel invalid; known before any is read."""
        clear = self.palette is not None and not self.palette[:, 3].all()
        said = (self.alpha, self.mask, self.undeclared)
        return all(each is None for each in said) and not (self.nodata or clear or self.stored.kind == "f")

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
        masked = self._masked(dataset, where)
        if (masked is not None and not masked.any()) or (self.nodata and is_sparse(dataset, window, stored)):
            return self._nothing(window, len(bands))
        if len(set(dataset.dtypes)) == 1:
            pixels = dataset.read(stored, window=where)
        else:  # rasterio reads bands of several types one by one only
            pixels = np.stack([dataset.read(band, window=where) for band in stored])
        valid = self._valued(dataset, where, pixels, stored)
        if masked is not None:
            valid &= masked
        if not valid.any():
            return self._nothing(window, len(bands))
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
            np.copyto(pixels, 0, where=~valid)
        return pixels, valid

    def _nothing(self, window: Window, n_bands: int) -> tuple[np.ndarray, np.ndarray]:
        """A window without a valid pixel; the system gives pages of zeros, which cost nothing until they are used."""
        shape = window.height, window.width
        return np.zeros((n_bands, *shape), self.dtype), np.zeros(shape, bool)

    def _masked(self, dataset: Any, where: Any) -> Bool[np.ndarray, "H W"] | None:
        """Which pixels an alpha band and a mask leave valid; None where there are neither."""
        valid = None
        if self.alpha is not None:
            valid = dataset.read(self.alpha, window=where) >= self.least
        if self.mask is not None:
            shown = dataset.read_masks(1, window=where) >= self.mask
            valid = shown if valid is None else valid & shown
        return valid

    def _valued(
        self, dataset: Any, where: Any, pixels: Shaped[np.ndarray, "C H W"], stored: tuple[int, ...]
    ) -> Bool[np.ndarray, "H W"]:
        """Which pixels hold a number that does not stand for no data."""
        valid = np.ones(pixels.shape[1:], bool)
        if pixels.dtype.kind == "f":
            # Networks see float32: a double beyond it, such as the lowest, which often means no data, is no value.
            is_double = pixels.dtype.itemsize > _FLOAT32.bits // 8
            valid &= ((np.abs(pixels) <= _FLOAT32.max) if is_double else np.isfinite(pixels)).all(axis=0)
        if self.nodata:
            held = dataset.read_masks(stored, window=where) > 0
            valid &= held.any(axis=0) if self.is_colour(*dataset.nodatavals) else held.all(axis=0)
        if self.undeclared is not None:
            held = pixels != pixels.dtype.type(self.undeclared)
            valid &= held.any(axis=0) if self.is_colour(self.undeclared) else held.all(axis=0)
        return valid

    def is_colour(self, *nodata: float | None) -> bool:
        """Whether these values for no data may occur in one band of a good pixel.

        Black and white may, so there all bands must say so; -9999 in one band is enough.
        """
        return self.stored.kind == "u" or all(value in (0, None) for value in nodata)


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


def _scaled(dataset: Any) -> tuple[np.ndarray | None, str]:
    """Scale and offset of each band, None when values are what they stand for; and what of them was of no use.

    A scale of 0, or next to it, would make all pixels of a band one number, and an endless one would make them none.
    """
    given = np.array([dataset.scales, dataset.offsets]).T
    usable = np.abs(given) < _ENDLESS
    usable[:, 0] &= np.abs(given[:, 0]) > 1 / _ENDLESS
    wrong = [f"{scale:g} and {offset:g} in band {band}" for band, (scale, offset) in enumerate(given, 1)]
    scaled = np.where(usable, given, (1.0, 0.0))
    unusable = ", ".join(told for told, fine in zip(wrong, usable.all(axis=1), strict=True) if not fine)
    return None if (scaled == (1.0, 0.0)).all() else scaled, unusable


def warn_of_scales(files: Iterable[tuple[str, Layers]]) -> None:
    """Warn, once for all files, of scales and offsets that were read as if they were not given."""
    wrong = [(name, layers.unusable) for name, layers in files if layers.unusable]
    if wrong:
        name, unusable = wrong[0]
        more = f"; so do {len(wrong) - 1} other files" if len(wrong) > 1 else ""
        warnings.warn(
            f"{name} gives a scale and offset that no values can have ({unusable}), which are ignored{more}; set the "
            "right ones (gdal_edit.py -scale -offset)",
            UserWarning,
            stacklevel=3,
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

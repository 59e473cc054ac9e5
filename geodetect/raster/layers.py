"""The bands of a file: data, palette or mask; and how windows of them are read.

Shapes: C bands, H W pixels.
"""

from __future__ import annotations

import math
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
from geodetect.raster.masks import MaskThreshold, convert_nodata, find_mask_threshold, is_sparse
from geodetect.raster.opening import block_bytes

_LARGEST_BLOCK_BYTES = 500_000_000  # GDAL decodes whole blocks for any window
_COLOURS = ("red", "green", "blue")  # of a palette
_ENDLESS = 1e30  # a scale times a 16-bit integer is still a float32
_FLOAT32 = np.finfo(np.float32)
_NO_COLOURS = ("undefined", "gray", "palette")  # GDAL's default for the first band is grey, with any content


class BandName(NamedTuple):
    """The names of a band.

    Args:
        own: its description; empty if it has none.
        colour: its colour interpretation, such as "red"; "undefined" if unknown.
    """

    own: str
    colour: str

    @property
    def shown(self) -> str:
        """Description, or else colour; empty if it has neither."""
        return self.own or ("" if self.colour in _NO_COLOURS else self.colour)


@dataclass(frozen=True, eq=False)
class Layers:
    """The bands of a file, and what makes their pixels valid; decided once.

    Args:
        data: bands that are read when none are named; no alpha band among them.
        n_bands: number of bands that can be named.
        stored: dtype of the pixels in the file.
        dtype: dtype of the pixels that `read` returns.
        alpha: the band that is a mask; None if there is none.
        alpha_threshold: the lowest valid value of the alpha band.
        mask: the lowest valid value of the file's mask for all bands; None if it has none.
        nodata: whether bands declare a no-data value.
        undeclared: another no-data value; None if there is none.
        palette: (colours, 4) red, green, blue, alpha; None if there is none.
        scaled: (bands, 2) scale and offset; None if all are 1 and 0.
        unusable: scales and offsets that are ignored because they are not usable; empty if there are none.
        names: of each band that can be named by number.
    """

    data: tuple[int, ...]
    n_bands: int
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    alpha: int | None
    alpha_threshold: MaskThreshold
    mask: MaskThreshold | None
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
        if not dataset.count:
            parts = " or ".join(dataset.subdatasets[:2])
            raise RasterError(f"{name} holds no bands of its own; name one of its parts{parts and ', as ' + parts}")
        if any(kind.startswith("complex") for kind in dataset.dtypes):
            raise RasterError(f"{name} holds complex values, which are no image; take their magnitude first")
        if (size := block_bytes(dataset)) > _LARGEST_BLOCK_BYTES:
            raise RasterError(
                f"{name} is stored in blocks of {size / 1e9:.2g} GB, so it cannot be read in windows; "
                "write it in tiles first (gdal_translate -co TILED=YES)"
            )
        flags, palette = dataset.mask_flag_enums, _read_palette(dataset)
        scaled, unusable = (None, "") if palette is not None else _read_scales(dataset)
        stored = np.result_type(*dataset.dtypes)
        described = zip(dataset.descriptions, dataset.colorinterp, strict=True)
        undeclared = None if nodata is None else convert_nodata(nodata, stored, name)
        declared = any(MaskFlags.nodata in flag for flag in flags)
        has_mask = MaskFlags.per_dataset in flags[0] and MaskFlags.alpha not in flags[0]
        return cls(
            data=(1, 2, 3) if palette is not None else tuple(dataset.indexes),
            n_bands=3 if palette is not None else dataset.count,
            stored=stored,
            dtype=np.dtype(np.uint8 if palette is not None else stored if scaled is None else np.float32),
            alpha=None,
            alpha_threshold=0.0,
            mask=find_mask_threshold(dataset, name) if has_mask else None,
            nodata=declared,
            undeclared=None if declared and set(dataset.nodatavals) == {undeclared} else undeclared,
            palette=palette,
            scaled=scaled,
            unusable=unusable,
            names=tuple(BandName(own or "", colour.name) for own, colour in described)
            if palette is None
            else tuple(BandName("", colour) for colour in _COLOURS),
        )

    def with_alpha(self, band: int, threshold: MaskThreshold) -> Layers:
        """Return the same bands with one of them as a mask, no longer among the data."""
        data = tuple(each for each in self.data if each != band)
        return replace(self, data=data, alpha=band, alpha_threshold=threshold)

    @property
    def all_valid(self) -> bool:
        """Whether nothing in the file can make a pixel invalid."""
        transparent = self.palette is not None and not self.palette[:, 3].all()
        masks = (self.alpha, self.mask, self.undeclared)
        return all(each is None for each in masks) and not (self.nodata or transparent or self.stored.kind == "f")

    @property
    def as_stored(self) -> bool:
        """Whether the pixels that `read` returns are those of the file, and no mask is read beside them."""
        return all(each is None for each in (self.alpha, self.mask, self.palette, self.scaled))

    def select(self, bands: Sequence[int | str] | None, name: str) -> tuple[int, ...]:
        """Return the numbers of bands given by number or name; all data bands for None.

        Raises:
            ArgumentError: if they are neither.
            RasterError: if the file has no such bands.
        """
        if bands is None:
            return self.data
        check_bands(bands)
        numbers = tuple(self._find(band, name) if isinstance(band, str) else int(band) for band in bands)
        if not numbers or not all(1 <= band <= self.n_bands for band in numbers):
            raise RasterError(f"{name} has bands 1 to {self.n_bands}; got bands={numbers}")
        return numbers

    def _find(self, band: str, name: str) -> int:
        """Return the number of the band with this description, or else this colour."""
        for known in ([each.own for each in self.names], [each.colour for each in self.names]):
            found = [number for number, each in enumerate(known, 1) if each.casefold() == band.casefold()]
            if len(found) == 1:
                return found[0]
            if found:
                raise RasterError(f"bands {found} of {name} are all called {band!r}; name one by its number")
        listed = ", ".join(f"{number} {each.shown}".strip() for number, each in enumerate(self.names, 1))
        raise RasterError(f"{name} has no band {band!r}; its bands are {listed}")

    def read(
        self, dataset: Any, window: Window, bands: tuple[int, ...]
    ) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
        """Return the pixels of a window of the file, 0 where invalid, and which are valid."""
        where = FileWindow(window.x, window.y, window.width, window.height)
        stored = (1,) if self.palette is not None else tuple(sorted(set(bands)))
        masked = self._read_mask(dataset, where)
        if (masked is not None and not masked.any()) or (self.nodata and is_sparse(dataset, window, stored)):
            return self._empty(window, len(bands))
        if len(set(dataset.dtypes)) == 1:
            pixels = dataset.read(stored, window=where)
        else:  # rasterio reads bands of several types one by one only
            pixels = np.stack([dataset.read(band, window=where) for band in stored])
        valid = self._has_data(dataset, where, pixels, stored)
        if masked is not None:
            valid &= masked
        if not valid.any():
            return self._empty(window, len(bands))
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

    def _empty(self, window: Window, n_bands: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a window without a valid pixel; pages of zeros cost no memory until they are written to."""
        shape = window.height, window.width
        return np.zeros((n_bands, *shape), self.dtype), np.zeros(shape, bool)

    def _read_mask(self, dataset: Any, where: Any) -> Bool[np.ndarray, "H W"] | None:
        """Return which pixels alpha band and mask declare valid; None if there is neither."""
        valid = None
        if self.alpha is not None:
            # numpy compares integers with integers much faster.
            threshold = math.ceil(self.alpha_threshold) if self.stored.kind in "iu" else self.alpha_threshold
            valid = dataset.read(self.alpha, window=where) >= threshold
        if self.mask is not None:
            shown = dataset.read_masks(1, window=where) >= math.ceil(self.mask)
            valid = shown if valid is None else valid & shown
        return valid

    def _has_data(
        self, dataset: Any, where: Any, pixels: Shaped[np.ndarray, "C H W"], stored: tuple[int, ...]
    ) -> Bool[np.ndarray, "H W"]:
        """Return which pixels hold a finite value that is not a no-data value."""
        valid = np.ones(pixels.shape[1:], bool)
        if pixels.dtype.kind == "f":
            # Networks take float32: a double beyond it, such as the lowest, which often means no data, is invalid.
            is_double = pixels.dtype.itemsize > _FLOAT32.bits // 8
            valid &= ((np.abs(pixels) <= _FLOAT32.max) if is_double else np.isfinite(pixels)).all(axis=0)
        if self.nodata:
            bands = dataset.read_masks(stored, window=where) > 0
            valid &= bands.any(axis=0) if self.is_colour(*dataset.nodatavals) else bands.all(axis=0)
        if self.undeclared is not None:
            bands = pixels != pixels.dtype.type(self.undeclared)
            valid &= bands.any(axis=0) if self.is_colour(self.undeclared) else bands.all(axis=0)
        return valid

    def is_colour(self, *nodata: float | None) -> bool:
        """Return whether a valid pixel may hold these no-data values in some of its bands.

        Black and white may occur in one band, so all bands must hold them; -9999 in one band is enough.
        """
        return self.stored.kind == "u" or all(value in (0, None) for value in nodata)


def check_bands(bands: Any) -> None:
    """Raise if the bands are not a sequence of numbers and names.

    Raises:
        ArgumentError: naming what was given.
    """
    is_sequence = isinstance(bands, Iterable) and not isinstance(bands, str)
    if not (is_sequence and all(isinstance(band, str) or is_whole(band) for band in bands)):
        raise ArgumentError(
            "bands must be whole numbers, counted from 1, such as (1, 2, 3), or names, such as "
            f'("red", "green", "blue"); got bands={bands!r}'
        )


def _read_scales(dataset: Any) -> tuple[np.ndarray | None, str]:
    """Return scale and offset of each band, None if all are 1 and 0; and a list of those that are not usable.

    A scale near 0 would make all pixels of a band equal, an infinite one would make them no numbers.
    """
    given = np.array([dataset.scales, dataset.offsets]).T
    usable = np.abs(given) < _ENDLESS
    usable[:, 0] &= np.abs(given[:, 0]) > 1 / _ENDLESS
    scaled = np.where(usable, given, (1.0, 0.0))
    wrong = np.flatnonzero(~usable.all(axis=1))
    unusable = ", ".join(f"{given[i, 0]:g} and {given[i, 1]:g} in band {i + 1}" for i in wrong)
    return None if (scaled == (1.0, 0.0)).all() else scaled, unusable


def warn_of_scales(files: Iterable[tuple[str, Layers]]) -> None:
    """Warn, once for all files, of scales and offsets that are ignored."""
    wrong = [(name, layers.unusable) for name, layers in files if layers.unusable]
    if wrong:
        name, unusable = wrong[0]
        more = f"; so do {len(wrong) - 1} other files" if len(wrong) > 1 else ""
        warnings.warn(
            f"{name} has a scale and offset that are not usable ({unusable}), which are ignored{more}; set the "
            "right ones (gdal_edit.py -scale -offset)",
            UserWarning,
            stacklevel=3,
        )


def _read_palette(dataset: Any) -> np.ndarray | None:
    """Return the colour table of a single band, (colours, 4); None if it has none."""
    if dataset.count > 1 or dataset.colorinterp[0] != ColorInterp.palette:
        return None
    with suppress(ValueError):  # tagged as a palette, but there is none
        colours = dataset.colormap(1)
        table = np.zeros((max(colours) + 1, 4), np.uint8)
        table[list(colours)] = list(colours.values())
        return table
    return None

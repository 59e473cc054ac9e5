"""Normalisation of bands: one mean and one deviation for each, without clipping.

It also records dtype and quantiles of the training pixels, so that a scene in other units is recognised.

Shapes: C bands, H W pixels, N pixels of a sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Num

from geodetect.errors import ArgumentError

_CONSTANT = 1e-6  # relative to the mean; a band with a smaller deviation is constant
_LEVELS = (0.0, 0.02, 0.5, 0.98, 1.0)  # of the quantiles
_OTHER_UNITS = 4  # a factor that other light does not explain; see `ValueRange.are_unlike`
_PER_WINDOW = 4096  # maximum of sampled pixels
_LEAST_SHARE = 0.01  # of a band's pixels that a fill holds
_BULK = (0.01, 0.99)  # quantiles of the values that a fill is far from
# Least distance, in widths of that interval: of values that other programs write, and of a single negative one.
_FAR_USUAL, _FAR_NEGATIVE = 0.5, 2.0
_BETWEEN = 0.05  # values in between, as a share of the fill; resampling leaves some along its edges
_BYTE = 1
# Fills that other programs write: https://gdal.org/en/stable/programs/gdal_translate.html, and -9999 of Esri's.
_USUAL = frozenset(
    {float(np.iinfo(kind).min) for kind in ("int16", "int32", "int64")}
    | {float(np.iinfo(kind).min + 1) for kind in ("int16", "int32")}
    | {float(np.iinfo(kind).max) for kind in ("int16", "uint16", "int32", "uint32")}
    | {1 - 10.0**n for n in range(2, 7)}
    | {10.0**n - 1 for n in range(4, 7)}
    | {-(10.0**n) for n in range(3, 7)}
)
_HUGE = 1e9  # fills of floats: -3.4e38, 1e20, 9.97e36

_Window = tuple[Num[np.ndarray, "C _h _w"], Bool[np.ndarray, "_h _w"]]


@dataclass(frozen=True)
class ValueRange:
    """dtype and quantiles of a raster's values.

    Args:
        dtype: numpy's name.
        quantiles: of each band at 0, 2, 50, 98 and 100 %.

    Raises:
        ArgumentError: if there is no such dtype, or a quantile is missing or not finite.
    """

    dtype: str
    quantiles: Sequence[Sequence[float]]

    def __post_init__(self) -> None:
        try:
            quantiles = np.array(self.quantiles, float).reshape(-1, len(_LEVELS))
            np.dtype(self.dtype)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"a value range needs a dtype and {len(_LEVELS)} quantiles of each band: {error}"
            ) from error
        if not (quantiles.size and np.isfinite(quantiles).all()):
            raise ArgumentError(f"the quantiles of a value range must be finite; got {self.quantiles!r:.80}")
        object.__setattr__(self, "quantiles", tuple(map(tuple, quantiles.tolist())))

    def __str__(self) -> str:
        quantiles = np.array(self.quantiles)
        return f"{self.dtype} from {quantiles.min():.5g} to {quantiles.max():.5g}"

    def are_unlike(self, trained: ValueRange) -> bool:
        """Return whether these values are in other units than those of training, not just darker or brighter.

        Bright means the 98 % quantile. Units differ if, in every band, the brightest pixel is below a quarter of bright
        in training, bright exceeds four times the brightest pixel of training, the median exceeds four times bright in
        training, or the dtype of one cannot hold bright of the other. Bands that are 0 in training are ignored.
        """
        # Absolute values: lowest, dark, median, bright, highest.
        own, other = (np.abs(each.quantiles).T for each in (self, trained))
        brightest, other_brightest = np.maximum(own[0], own[-1]), np.maximum(other[0], other[-1])
        # The units of two scenes of bytes cannot differ, only their light.
        bytes_both = self.dtype == trained.dtype and np.dtype(self.dtype).itemsize == _BYTE
        bright, other_bright = (np.maximum(each[1], each[3]) for each in (own, other))
        if bytes_both or own.shape != other.shape or not other_bright.any():
            return False
        elsewhere = (
            brightest * _OTHER_UNITS < other_bright,
            bright > other_brightest * _OTHER_UNITS,
            own[2] > other_bright * _OTHER_UNITS,  # a few pixels of training may have been saturated
            other_bright > _highest(self.dtype),
            bright > _highest(trained.dtype),
        )
        return any(each[other_bright > 0].all() for each in elsewhere)


def _highest(dtype: str) -> float:
    """Return the highest value of a dtype."""
    kind = np.dtype(dtype)
    return float(np.iinfo(kind).max) if kind.kind in "iu" else math.inf


class Fill(NamedTuple):
    """A value of a band that looks like undeclared no data.

    Args:
        band: counted from 0.
        value: in the raster's units.
        share: of the pixels that hold it.
        low: lowest value that is data; resampling mixes fill and data into lower ones.
        high: highest value that is data.
    """

    band: int
    value: float
    share: float
    low: float
    high: float


class Sample:
    """A sample of valid pixels, some from each window.

    Args:
        windows: pixels and which of them are valid; `through` adds more.
    """

    def __init__(self, windows: Iterable[_Window] = ()) -> None:
        self._parts: list[Num[np.ndarray, "C _n"]] = []
        for _ in self.through(windows):
            pass

    def through(self, windows: Iterable[_Window]) -> Iterator[_Window]:
        """Yield the windows unchanged, and keep some valid pixels of each."""
        for pixels, valid in windows:
            values = pixels[:, valid & np.isfinite(pixels).all(axis=0)]
            self._parts.append(values[:, :: 1 + values.shape[1] // _PER_WINDOW])
            yield pixels, valid

    @property
    def _values(self) -> Num[np.ndarray, "C N"]:
        return np.concatenate(self._parts, axis=1) if self._parts else np.zeros((0, 0))

    def fills(self) -> list[Fill]:
        """Return values that look like undeclared no data: extreme, repeated, and far from all others."""
        values, found = self._values, []
        if values.dtype.kind in "iu" and values.dtype.itemsize == _BYTE:  # any byte may be a colour
            return []
        for band, held in enumerate(values):
            # There may be several, as in mosaics of files from two programs.
            while fill := _fill(held, band, -1) or _fill(held, band, 1):
                found.append(fill)
                held = held[(held >= fill.low) & (held <= fill.high)]
        return found

    def value_range(self) -> ValueRange | None:
        """Return dtype and quantiles of the values without fills; None if no value is left."""
        values = self._values
        values = values[:, is_data(values, self.fills())]
        return ValueRange(str(values.dtype), np.quantile(values, _LEVELS, axis=1).T.tolist()) if values.size else None

    def describe_fills(self, name: str) -> str:
        """Describe the fills in a sentence that says what to do; empty if there are none.

        Args:
            name: what the sentence calls the pixels.
        """
        fills = sorted(self.fills(), key=lambda fill: -fill.share)
        if not fills:
            return ""
        # As numpy prints the dtype: -3.4028235e+38, which parses to the same number.
        values = dict.fromkeys(str(self._values.dtype.type(fill.value)).removesuffix(".0") for fill in fills)
        first, *others = values
        declare = f"declare {(others or ['it'])[0]} in the raster (gdal_edit.py -a_nodata {(others or [first])[0]})"
        return (
            f"{fills[0].share:.0%} of {name} hold {' or '.join(values)}, far from all others ({self.value_range()}), "
            f"which is not declared as no data; if it is, give nodata={first}{', and' if others else ', or'} {declare}"
        )


def _fill(held: Num[np.ndarray, "N"], band: int, side: int) -> Fill | None:
    """Return the lowest (`side` -1) or highest (1) value of a band if it looks like undeclared no data."""
    if not held.size:
        return None
    value = float(held.min() if side < 0 else held.max())
    is_value = held == value
    others = held[~is_value].astype(float)
    if value == 0 or is_value.mean() < _LEAST_SHARE or not others.size:
        return None
    usual = value in _USUAL or abs(value) > _HUGE
    if not (usual or value < 0 <= others.min()):
        return None  # other outliers may be objects
    far = _FAR_USUAL if usual else _FAR_NEGATIVE
    low, high = np.quantile(others, _BULK)
    width = (high - low) or np.ptp(others)
    bound = low - far * width if side < 0 else high + far * width
    n_between = ((others - bound) * side > 0).sum()
    if not width or (value - bound) * side < 0 or n_between > _BETWEEN * is_value.sum():
        return None
    low, high = (bound, math.inf) if side < 0 else (-math.inf, bound)
    return Fill(band, value, float(is_value.mean()), low, high)


def is_data(values: Num[np.ndarray, "C *N"], fills: Sequence[Fill]) -> Bool[np.ndarray, "*N"]:
    """Return which pixels are free of fills in every band."""
    held = np.ones(values.shape[1:], bool)
    for fill in fills:
        held &= (values[fill.band] >= fill.low) & (values[fill.band] <= fill.high)
    return held


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation of each band, the same in training, inference and export.

    Args:
        mean: of each band, in the raster's units.
        std: of each band, above 0.
        value_range: of the training pixels, or a mapping from JSON; None if unknown.

    Raises:
        ArgumentError: if the lengths differ or a value is not finite.
    """

    mean: Sequence[float]
    std: Sequence[float]
    value_range: ValueRange | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        value_range: Any = self.value_range
        if isinstance(value_range, Mapping):
            object.__setattr__(self, "value_range", ValueRange(**value_range))
        elif not isinstance(value_range, ValueRange | None):
            raise ArgumentError(f"value_range must be a `ValueRange`, a mapping, or None; got {value_range!r:.80}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        possible = all(math.isfinite(m) for m in self.mean) and all(math.isfinite(s) and s > 0 for s in self.std)
        if len(self.mean) != len(self.std) or not self.mean or not possible:
            raise ArgumentError(
                "normalisation needs one finite mean and one deviation above 0 for each band; "
                f"got mean={self.mean}, std={self.std}"
            )

    @property
    def n_bands(self) -> int:
        """Number of bands."""
        return len(self.mean)

    def to_json(self) -> dict[str, Any]:
        """Return the values that JSON holds; `from_json` undoes it."""
        return {"mean": self.mean, "std": self.std, "numbers": self.value_range and asdict(self.value_range)}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Normalization:
        """Return what `to_json` gave; files of early versions hold no value range."""
        values = {"numbers": None, **facts}
        return cls(value_range=values.pop("numbers"), **values)

    @classmethod
    def fit(cls, samples: Iterable[_Window], fills: Sequence[Fill] = ()) -> Normalization:
        """Return mean and deviation over the valid, finite pixels of all samples.

        A constant band gets deviation 1, so that it becomes 0.

        Args:
            samples: pixels and which of them are valid, of any size.
            fills: values that are ignored.

        Raises:
            ArgumentError: if no pixel is valid.
        """
        moments = _Moments()
        for pixels, valid in samples:
            moments.feed(pixels[:, valid & np.isfinite(pixels).all(axis=0) & is_data(pixels, fills)])
        if not moments.n:
            raise ArgumentError("normalisation is computed from valid pixels; there is none in the samples")
        std = np.sqrt(moments.squares / moments.n)
        varies = std > _CONSTANT * np.abs(moments.mean)
        return cls(tuple(moments.mean), tuple(np.where(varies, std, 1.0)))


class _Moments:
    """Count, mean and sum of squared differences from the mean, fed in parts.

    Parts are joined as in Chan, Golub, LeVeque 1979 ("Updating formulae and a pairwise algorithm"):
    sums of squares alone lose all digits on 16-bit rasters with a narrow range.
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: np.ndarray = np.zeros(1)
        self.squares: np.ndarray = np.zeros(1)

    def feed(self, values: Num[np.ndarray, "C N"]) -> None:
        """Add values of each band, or none."""
        n = values.shape[1]
        if not n:
            return
        values = values.astype(np.float64)
        mean = values.mean(axis=1)
        off = mean - self.mean
        total = self.n + n
        self.squares = self.squares + ((values - mean[:, None]) ** 2).sum(axis=1) + off**2 * (self.n * n / total)
        self.mean, self.n = self.mean + off * (n / total), total


# What torchvision's weights were trained with, for pixels from 0 to 255:
# https://docs.pytorch.org/vision/stable/models.html ("normalized using mean=... and std=...")
IMAGENET = Normalization(
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)

# All that is known of the pixels of a network trained by others on RGB images: that they had 8 bits.
BYTES = ValueRange("uint8", 3 * [(0, 0, 127.5, 255, 255)])

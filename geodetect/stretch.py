"""From a raster's numbers to what a network takes: one offset and one factor a band, never clipped.

Shapes: C bands, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num

from geodetect.errors import ArgumentError

_CONSTANT = 1e-6  # a band whose deviation is a smaller part of its mean than this does not vary


@dataclass(frozen=True)
class Stretch:
    """Mean and deviation of each band, recorded once and the same in training, inference and export.

    Args:
        mean: of each band, in the raster's numbers.
        std: of each band, above 0.

    Raises:
        ArgumentError: if the lengths disagree or a value is not possible.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        possible = all(math.isfinite(m) for m in self.mean) and all(math.isfinite(s) and s > 0 for s in self.std)
        if len(self.mean) != len(self.std) or not self.mean or not possible:
            raise ArgumentError(
                "a stretch needs one finite mean and one deviation above 0 for each band; "
                f"got mean={self.mean}, std={self.std}"
            )

    @property
    def n_bands(self) -> int:
        """Number of bands that it stretches."""
        return len(self.mean)

    def apply(self, pixels: Num[np.ndarray, "*B C H W"]) -> Float[np.ndarray, "*B C H W"]:
        """The pixels in float32, with mean 0 and deviation 1 in what it was fitted to.

        Raises:
            ArgumentError: if the pixels have another number of bands.
        """
        if pixels.shape[-3] != self.n_bands:
            raise ArgumentError(f"the stretch was recorded for {self.n_bands} bands; got {pixels.shape[-3]}")
        stretched = pixels.astype(np.float32)  # before the subtraction: unsigned numbers wrap below 0
        stretched -= np.array(self.mean, np.float32)[:, None, None]
        stretched /= np.array(self.std, np.float32)[:, None, None]
        return stretched

    @classmethod
    def fit(cls, samples: Iterable[tuple[Num[np.ndarray, "C _h _w"], Bool[np.ndarray, "_h _w"]]]) -> Stretch:
        """Mean and deviation over the valid, finite pixels of all samples together.

        A band that does not vary gets deviation 1: it becomes 0 here, and elsewhere what it differs by.

        Args:
            samples: pixels and which of them are valid; they need not be alike in size.

        Raises:
            ArgumentError: if there is no valid pixel in any sample.
        """
        moments = _Moments()
        for pixels, valid in samples:
            moments.feed(pixels[:, valid & np.isfinite(pixels).all(axis=0)])
        if not moments.n:
            raise ArgumentError("a stretch is fitted to valid pixels; there is none in the samples")
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
        """Take in more values of each band; none is fine."""
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
IMAGENET = Stretch(
    mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
    std=(0.229 * 255, 0.224 * 255, 0.225 * 255),
)

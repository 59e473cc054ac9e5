"""Pixels of one size from pixels of another, along rows and columns in turn.

A target pixel's value depends on where it lies in the raster alone, never on the window it is read through.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Shaped

_HALF = 0.5 - 1e-6  # a pixel that is half valid counts, in spite of rounding


@dataclass(frozen=True)
class Axis:
    """How a run of target pixels covers source pixels along one axis.

    Args:
        scale: source pixels in a target pixel.
        start: first target pixel.
        size: number of target pixels.
        first: first source pixel that is needed.
        n_read: number of source pixels that are needed.
    """

    scale: float
    start: int
    size: int
    first: int
    n_read: int

    @classmethod
    def of(cls, n_source: int, n_target: int, start: int, size: int) -> Axis:
        """The axis for target pixels `start` to `start + size`, when `n_target` of them cover `n_source`."""
        scale = n_source / n_target
        margin = 0.0 if scale > 1 else 1.0  # bilinear weights reach half a source pixel beyond, at most
        first = max(0, math.floor(start * scale - margin))
        last = min(n_source, math.ceil((start + size) * scale + margin))
        return cls(scale, start, size, first, last - first)

    def resample(self, values: Float[np.ndarray, "*S n"]) -> Float[np.ndarray, "*S m"]:
        """The target pixels along the last axis of `values`, which begins at `first`."""
        return self._averaged(values) if self.scale > 1 else self._interpolated(values)

    def _averaged(self, values: np.ndarray) -> np.ndarray:
        """The mean over each target pixel's extent; source pixels cut by its edges count in part."""
        edges = np.clip((self.start + np.arange(self.size + 1)) * self.scale - self.first, 0, self.n_read)
        whole = np.minimum(edges.astype(int), self.n_read - 1)
        before = np.cumsum(values, axis=-1) - values
        total = before[..., whole] + values[..., whole] * (edges - whole)
        return np.diff(total, axis=-1) / np.diff(edges)

    def _interpolated(self, values: np.ndarray) -> np.ndarray:
        """Straight lines between the centres of source pixels, level beyond the outermost."""
        centres = (self.start + np.arange(self.size) + 0.5) * self.scale - 0.5 - self.first
        centres = np.clip(centres, 0, self.n_read - 1)
        left = np.minimum(centres.astype(int), max(self.n_read - 2, 0))
        right = np.minimum(left + 1, self.n_read - 1)
        share = centres - left
        return values[..., left] * (1 - share) + values[..., right] * share


def resample(
    pixels: Shaped[np.ndarray, "C h w"], valid: Bool[np.ndarray, "h w"], down: Axis, across: Axis
) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
    """Target pixels and which are valid: those with at least half of their weight on valid source pixels.

    Invalid source pixels have no weight, so they leave no dark edges.

    Args:
        pixels: source pixels that both axes need, 0 where invalid.
        valid: which source pixels hold data.
        down: the axis of rows.
        across: the axis of columns.

    Returns:
        pixels of the same dtype, 0 where invalid, and whether each is valid.
    """
    values = _both(pixels.astype(np.float64), down, across)
    weight = np.ones((down.size, across.size)) if valid.all() else _both(valid.astype(np.float64), down, across)
    enough = weight >= _HALF
    values = np.where(enough, values / np.where(enough, weight, 1), 0)
    whole = np.issubdtype(pixels.dtype, np.integer)
    return (np.rint(values) if whole else values).astype(pixels.dtype), enough


def _both(values: np.ndarray, down: Axis, across: Axis) -> np.ndarray:
    rows = across.resample(values)
    return np.ascontiguousarray(down.resample(rows.swapaxes(-1, -2)).swapaxes(-1, -2))

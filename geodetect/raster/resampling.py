"""Resampling along rows and columns in turn.

Shapes: n source and m target pixels along an axis, T source pixels for each target pixel.
A target pixel's value depends only on its position in the raster, never on the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

VALID_SHARE = 0.5 - 1e-5  # of a valid pixel; half counts, in spite of rounding
_NOTHING = 1e-9  # a smaller weight is rounding


@dataclass(frozen=True, eq=False)
class Axis:
    """Weights of source pixels for consecutive target pixels along one axis.

    Args:
        first: first source pixel that is needed.
        n_read: number of source pixels that are needed.
        index: (m, T) source pixels of each target pixel, counted from `first`.
        weight: (m, T) of each; rows sum to 1.
    """

    first: int
    n_read: int
    index: Int[np.ndarray, "m T"]
    weight: Float[np.ndarray, "m T"]

    @classmethod
    def of(cls, n_source: int, n_target: int, start: int, size: int) -> Axis:
        """Return the axis of target pixels `start` to `start + size`, of which `n_target` cover `n_source`.

        Where pixels grow, each is the mean of what it covers, pixels on its edges counted in part; where they shrink,
        it is interpolated linearly between the centres of source pixels.
        """
        scale = n_source / n_target
        target = start + np.arange(size)[:, None]
        if scale > 1:
            low, high = target * scale, (target + 1) * scale
            index = np.floor(low + _NOTHING).astype(int) + np.arange(math.ceil(scale) + 1)
            weight = np.clip(np.minimum(index + 1, high) - np.maximum(index, low), 0, None) / scale
        else:
            centre = (target + 0.5) * scale - 0.5
            left = np.floor(centre + _NOTHING).astype(int)
            index, share = left + np.arange(2), np.clip(centre - left, 0, 1)
            weight = np.concatenate([1 - share, share], axis=1)
        # Pixels without weight are not read: they may lie beyond the edge, or in a broken block.
        index = np.where(weight > _NOTHING, index, index[:, :1]).clip(0, n_source - 1)
        first = int(index.min())
        used = (weight > _NOTHING).any(axis=0)
        return cls(first, int(index.max()) - first + 1, index[:, used] - first, weight[:, used])

    def resample(self, values: Shaped[np.ndarray, "*S n"], axis: int, dtype: type) -> Float[np.ndarray, "*S m"]:
        """Return target pixels along this axis of `values`, which begins at `first`."""
        shape = [1] * values.ndim
        shape[axis] = len(self.weight)
        terms = zip(self.index.T, self.weight.T.astype(dtype), strict=True)
        first, *rest = (np.take(values, index, axis) * weight.reshape(shape) for index, weight in terms)
        for term in rest:
            first += term
        return np.asarray(first)


def resample(
    pixels: Shaped[np.ndarray, "C h w"], valid: Bool[np.ndarray, "h w"], down: Axis, across: Axis
) -> tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]:
    """Return target pixels, and which are valid: those with at least half of their weight on valid source pixels.

    Invalid source pixels have no weight, so they leave no dark edges.

    Args:
        pixels: source pixels that both axes need, 0 where invalid.
        valid: which of them are valid.
        down: the axis of rows.
        across: the axis of columns.

    Returns:
        pixels of the same dtype, 0 where invalid, and whether each is valid.
    """
    if not valid.any():
        shape = len(down.weight), len(across.weight)
        return np.zeros((len(pixels), *shape), pixels.dtype), np.zeros(shape, bool)
    # float32 holds 24 bits, enough for means of 16; wider values keep all of theirs.
    dtype = np.float32 if pixels.dtype.itemsize <= 2 else np.float64  # noqa: PLR2004
    values = across.resample(down.resample(pixels, 1, dtype), 2, dtype)
    if not valid.all():
        weight = across.resample(down.resample(valid, 0, dtype), 1, dtype)
        valid = weight >= VALID_SHARE
        values = np.where(valid, values / np.where(valid, weight, 1), 0)
    else:
        valid = np.ones(values.shape[1:], bool)
    whole = np.issubdtype(pixels.dtype, np.integer)
    return (np.rint(values) if whole else values).astype(pixels.dtype), valid

"""Which boxes lie on data: those with at least half of their pixels valid.

Shapes: N boxes, H W pixels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int

from geodetect.boxes import Boxes
from geodetect.grid import Window
from geodetect.raster.reader import Reader

_LEAST_VALID = 0.5  # share; an object mostly outside the data can be neither learned nor found
_PLACES = 16  # along each axis, where a box larger than any window is sampled
_SIDE = 64  # px; of each place: boxes of up to 1,024 px are read whole


def mostly_valid(boxes: Boxes, valid: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "N"]:
    """Return which boxes are valid in at least half of their pixels inside the window.

    A box has the pixels whose centre lies in it, and at least the one that holds its upper-left corner.

    Args:
        boxes: in pixels of the window.
        valid: which pixels of the window are valid.
    """
    if not len(boxes) or valid.all():
        return np.ones(len(boxes), bool)
    low, high = _pixels(boxes, valid.shape)
    # Box by box: cumulative sums over the whole window take longer, unless there are thousands of boxes.
    corners = zip(*low.T.tolist(), *high.T.tolist(), strict=True)
    n_valid = np.array([np.count_nonzero(valid[y1:y2, x1:x2]) for x1, y1, x2, y2 in corners])
    return np.asarray(n_valid >= _LEAST_VALID * (high - low).prod(axis=1))


def mostly_valid_in(reader: Reader, boxes: Boxes) -> Bool[np.ndarray, "N"]:
    """Return which boxes are valid in at least half of their pixels; large ones are sampled evenly.

    Args:
        reader: the raster.
        boxes: in its pixels, of any size.
    """
    if reader.all_valid:
        return np.ones(len(boxes), bool)
    corners = zip(*(each.tolist() for each in _pixels(boxes, reader.grid.shape)), strict=True)
    windows = [Window(x1, y1, x2 - x1, y2 - y1) for (x1, y1), (x2, y2) in corners]
    shares = []
    for window in windows:  # up to a million pixels of each
        parts = [reader.read(part)[1] for part in window.spread(_PLACES, _SIDE)]
        shares.append(sum(int(part.sum()) for part in parts) / sum(part.size for part in parts))
    return np.array(shares) >= _LEAST_VALID


def _pixels(boxes: Boxes, shape: tuple[int, ...]) -> tuple[Int[np.ndarray, "N 2"], Int[np.ndarray, "N 2"]]:
    """Return the first pixel (x, y) of each box in a rectangle of `shape`, and the one after its last."""
    size = np.array(shape[::-1])
    # Not rounded half to even, which would depend on where the window begins.
    low, high = np.split(np.ceil(boxes.bounds - 0.5).astype(int), 2, axis=1)
    low = np.clip(low, 0, size - 1)
    return low, np.clip(high, low + 1, size)

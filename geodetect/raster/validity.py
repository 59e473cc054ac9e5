"""Which boxes lie on data: those with at least half of their pixels valid.

Shapes: N boxes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from geodetect.boxes import Boxes
from geodetect.grid import Window
from geodetect.raster.reader import Reader

_LEAST_VALID = 0.5  # share; an object mostly outside the data can be neither learned nor found
_PLACES = 16  # along each axis, where a box larger than any window is sampled
_SIDE = 64  # px; of each place: boxes of up to 1,024 px are read whole


def mostly_valid(boxes: Boxes, valid: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "N"]:
    """Return which boxes are valid in at least half of their pixels inside the window.

    A box has the pixels whose centre lies in it, and at least the one that holds its upper-left corner, or of an
    oriented box its centre.

    Args:
        boxes: in pixels of the window.
        valid: which pixels of the window are valid.
    """
    if not len(boxes) or valid.all():
        return np.ones(len(boxes), bool)
    # Box by box: cumulative sums over the whole window take longer, unless there are thousands of boxes.
    windows = _windows(boxes, valid.shape)
    seen = [valid[each.y : each.y + each.height, each.x : each.x + each.width] for each in windows]
    if not boxes.oriented:
        return np.array([np.count_nonzero(each) >= _LEAST_VALID * each.size for each in seen])
    return np.array([_valid_share(boxes[[k]], [windows[k]], [seen[k]]) >= _LEAST_VALID for k in range(len(boxes))])


def mostly_valid_in(reader: Reader, boxes: Boxes) -> Bool[np.ndarray, "N"]:
    """Return which boxes are valid in at least half of their pixels; large ones are sampled evenly.

    Args:
        reader: the raster.
        boxes: in its pixels, of any size.
    """
    if reader.all_valid:
        return np.ones(len(boxes), bool)
    shares = []
    for k, window in enumerate(_windows(boxes, reader.grid.shape)):  # up to a million pixels of each
        parts = window.spread(_PLACES, _SIDE)
        if boxes.oriented:  # a narrow one may pass between all the places
            parts += _windows(Boxes(np.tile(boxes.centres[[k]], 2), boxes.labels[[k]]), reader.grid.shape)
        shares.append(_valid_share(boxes[[k]], parts, [reader.read(part)[1] for part in parts]))
    return np.array(shares) >= _LEAST_VALID


def _valid_share(box: Boxes, windows: Sequence[Window], valid: Sequence[np.ndarray]) -> float:
    """Return the share of valid pixels among those of one box in the windows; 0 if it has none there."""
    if not box.oriented:
        return sum(np.count_nonzero(part) for part in valid) / sum(part.size for part in valid)
    inside = [_inside(box, window) for window in windows]
    n_valid = sum(np.count_nonzero(each & part) for each, part in zip(inside, valid, strict=True))
    return n_valid / max(sum(np.count_nonzero(each) for each in inside), 1)


def _inside(box: Boxes, window: Window) -> Bool[np.ndarray, "H W"]:
    """Return which pixels of a window have their centre in an oriented box, or hold its centre."""
    assert box.angles is not None
    (centre,), (size,), (angle,) = box.centres, box.sizes, box.angles
    x = np.arange(window.width) + window.x + 0.5 - centre[0]
    y = (np.arange(window.height) + window.y + 0.5 - centre[1])[:, None]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    holds_centre = (np.abs(x) <= 0.5) & (np.abs(y) <= 0.5)  # noqa: PLR2004
    return np.asarray((np.abs(along) <= size[0] / 2) & (np.abs(across) <= size[1] / 2) | holds_centre)


def _windows(boxes: Boxes, shape: tuple[int, ...]) -> list[Window]:
    """Return the pixels of the bounds of each box in a rectangle of `shape`, at least one."""
    size = np.array(shape[::-1])
    # Not rounded half to even, which would depend on where the window begins.
    low, high = np.split(np.ceil(boxes.bounds - 0.5).astype(int), 2, axis=1)
    low = np.clip(low, 0, size - 1)
    high = np.clip(high, low + 1, size)
    return [Window(*corner, *side) for corner, side in zip(low.tolist(), (high - low).tolist(), strict=True)]

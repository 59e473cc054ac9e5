"""Intersection over union of boxes, upright and oriented.

Shapes: N, M boxes, P pairs, E edges of a box.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import shapely
from jaxtyping import Float, Int

from geodetect.boxes.boxes import Boxes, area, as_corners, turn

_ROUNDING = 1e-6  # of a box's side: cores are shrunk by so much less than they could be
_AT_ONCE = 1 << 18  # pairs of oriented boxes whose overlap is computed at once; keeps memory small


class Pairs(NamedTuple):
    """P pairs of boxes that overlap: indices into the first and the second collection, and their IoU."""

    first: Int[np.ndarray, "P"]
    second: Int[np.ndarray, "P"]
    iou: Float[np.ndarray, "P"]


def _as_boxes(boxes: Any) -> Boxes:
    return boxes if isinstance(boxes, Boxes) else Boxes(boxes, np.zeros(len(boxes)))


def iou(a: Any, b: Any) -> Float[np.ndarray, "N M"]:
    """Return the IoU of every box of `a` (N, 4) with every box of `b` (M, 4), 0 to 1; 0 for empty boxes.

    Either may be a `Boxes`, whose angles count.

    Raises:
        ArgumentError: if one of them is not four corners in each row.
    """
    if isinstance(a, Boxes) or isinstance(b, Boxes):
        a, b = _as_boxes(a), _as_boxes(b)
        i, j = np.indices((len(a), len(b))).reshape(2, -1)
        return iou_of_pairs(a[i], b[j]).reshape(len(a), len(b))
    a, b = as_corners(a), as_corners(b)
    return iou_of_upright(a[:, None], b[None, :])


def iou_of_upright(a: Float[np.ndarray, "*#P 4"], b: Float[np.ndarray, "*#P 4"]) -> Float[np.ndarray, "*#P"]:
    """Return the IoU of upright boxes at the same position of two arrays that broadcast."""
    return _over_union(_shared_upright(a, b), area(a), area(b))


def iou_of_pairs(a: Boxes, b: Boxes) -> Float[np.ndarray, "P"]:
    """Return the IoU of boxes at the same position of two collections of equal length."""
    return _over_union(shared_area(a, b), area(a.xyxy), area(b.xyxy))


def _over_union(shared: np.ndarray, area_a: np.ndarray, area_b: np.ndarray) -> np.ndarray:
    union = area_a + area_b - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(union), where=union > 0))


def _shared_upright(a: Float[np.ndarray, "*#P 4"], b: Float[np.ndarray, "*#P 4"]) -> Float[np.ndarray, "*#P"]:
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.prod(np.maximum(sides, 0), axis=-1))


def shared_area(a: Boxes, b: Boxes) -> Float[np.ndarray, "P"]:
    """Return the common area of boxes at the same position of two collections, in square pixels."""
    if not (a.oriented or b.oriented):
        return _shared_upright(a.xyxy, b.xyxy)
    shared = _shared_upright(a.bounds, b.bounds)  # an upper bound; where it is 0, so is what they share
    near = np.flatnonzero(shared)
    for start in range(0, len(near), _AT_ONCE):
        some = near[start : start + _AT_ONCE]
        shared[some] = _shared_oriented(a[some], b[some])
    return shared


def _shared_oriented(a: Boxes, b: Boxes) -> Float[np.ndarray, "P"]:
    """Return the common area of oriented boxes.

    In the frame of `b`, in which it is [0, w] x [0, h], a horizontal line at y meets the convex `a` between x_left and
    x_right, and the common part has the length clamp(x_right, 0, w) - clamp(x_left, 0, w). So the area is the integral
    of clamp(x, 0, w) dy around `a`, as far as y lies in [0, h]. On an edge x is linear in y: a clamped linear function
    is integrated piece by piece between the points where it reaches 0 and w.
    """
    size = np.maximum(b.sizes, 0)
    angles = np.zeros(len(b)) if b.angles is None else b.angles
    start = turn(a.corners - b.centres[:, None], np.zeros_like(b.centres), -angles) + size[:, None] / 2
    end = np.roll(start, -1, axis=1)  # (P, E, 2)
    width, height = size[:, :1], size[:, 1:]
    y0, y1 = np.clip(start[..., 1], 0, height), np.clip(end[..., 1], 0, height)
    rise = end[..., 1] - start[..., 1]
    t0, t1 = (_share(y - start[..., 1], rise) for y in (y0, y1))
    run = end[..., 0] - start[..., 0]
    x0, x1 = start[..., 0] + t0 * run, start[..., 0] + t1 * run
    # From x0 to x1 the clamped function bends where it passes 0 and w; between the bends it is linear.
    bends = np.sort(np.stack([_share(-x0, x1 - x0), _share(width - x0, x1 - x0)]), axis=0)
    at = np.concatenate([np.zeros_like(x0)[None], bends, np.ones_like(x0)[None]])
    values = np.clip(x0 + at * (x1 - x0), 0, width)
    mean = (np.diff(at, axis=0) * (values[1:] + values[:-1]) / 2).sum(axis=0)
    shared = np.maximum((mean * (y1 - y0)).sum(axis=1), 0)
    return np.asarray(np.minimum(shared, np.minimum(area(a.xyxy), area(b.xyxy))))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole within 0 and 1; 0 where the whole is 0."""
    share = np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)
    return np.asarray(np.clip(share, 0, 1))


def find_overlaps(a: Any, b: Any, min_iou: float = 0.0) -> Pairs:
    """Return the pairs of `iou(a, b)` above `min_iou`, without the matrix, in no particular order.

    Args:
        a: `Boxes`, or corners of upright boxes (N, 4).
        b: likewise, (M, 4).
        min_iou: 0 to 1.
    """
    a, b = _as_boxes(a), _as_boxes(b)
    i, j = shapely.STRtree(core_lines(b, min_iou)).query(core_lines(a, min_iou))
    return select_overlaps(a, b, i, j, min_iou=min_iou)


def select_overlaps(a: Boxes, b: Boxes, i: Int[np.ndarray, "P"], j: Int[np.ndarray, "P"], *, min_iou: float) -> Pairs:
    """Return those of the pairs (i, j) of boxes of `a` and `b` whose IoU is above `min_iou`.

    For oriented boxes most pairs are excluded by their bounds, which share at least as much as the boxes themselves.
    """
    if a.oriented or b.oriented:
        most = _shared_upright(a.bounds[i], b.bounds[j]) * (1 + _ROUNDING)
        able = most * (1 + min_iou) > min_iou * (area(a.xyxy)[i] + area(b.xyxy)[j])
        i, j = i[able], j[able]
    shared = iou_of_pairs(a[i], b[j])
    above = shared > min_iou
    return Pairs(i[above], j[above], shared[above])


def core_lines(boxes: Boxes, min_iou: float) -> np.ndarray:
    """Return a line for each box; the bounds of two lines meet wherever the boxes overlap by more than `min_iou`.

    Boxes that overlap by more than t share more than a part t of the area of both. Of an upright box such a part is
    more than t of its width wide. Of an oriented one it is more than 1 - sqrt(1 - t) of the width of the
    bounds: a square on its corner, cut in the middle, is the worst case. So bounds may be shrunk by half of that on
    every side, which leaves fewer pairs for a tree to find; and a line across a box is the same to an STRtree as the
    box, made in half the time.
    """
    share = 1 - np.sqrt(1 - min_iou) if boxes.oriented else min_iou
    xyxy = boxes.bounds
    margin = (xyxy[:, 2:] - xyxy[:, :2]) * max(share / 2 - _ROUNDING, 0)
    corners = np.stack([xyxy[:, :2] + margin, xyxy[:, 2:] - margin], axis=1)
    return np.asarray(shapely.linestrings(corners))

"""Boxes that a window's edge cuts: which to drop, which to keep aside, which to join.

An edge of a window is interior where the scene goes on beyond it. A box that touches one may
be the stump of a longer object. Where the window on the other side sees all of that stump, it sees
the object better, and the stump is dropped. Where it does not (the object is longer than
the overlap), the stump is a part: kept aside, and when the whole scene is
known, parts give way to a box that was seen whole, or are joined to one.

Sides are numbered as corners are stored: 0 left, 1 top, 2 right, 3 bottom.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int

from geodetect.boxes import Boxes, area, chained, enclosing, nms, shared_area
from geodetect.grid import Tiling, Window

# A detector places the side of a box to within a pixel or two: one that ends this close
# to an edge may well go on beyond it.
_TOUCH = 2.0
# Twice as far, so that a box dropped here does not touch the neighbour's own edge over there, even if
# the neighbour puts its side a little differently.
_CLEAR = 2 * _TOUCH
_MOST = 0.7  # a part that another box covers by more than this is part of what that box shows
_AGREE = 0.5  # parts of one object have nearly the same extent across the direction in which they meet

_INWARD = np.array([1.0, 1.0, -1.0, -1.0])  # from a side into the box
_OPPOSITE = [2, 3, 0, 1]


@dataclass(frozen=True, eq=False)
class Parts:
    """N pieces of objects that no window saw whole.

    Args:
        boxes: what the windows saw, in scene pixels.
        cut: for each box, on which sides an interior edge cuts it: left, top, right, bottom.
    """

    boxes: Boxes
    cut: Bool[np.ndarray, "N 4"]

    @classmethod
    def concat(cls, parts: Iterable[Parts]) -> Parts:
        """All pieces of `parts` in their order."""
        parts = list(parts)
        cuts = [np.zeros((0, 4), bool), *(part.cut for part in parts)]
        return cls(Boxes.concat([part.boxes for part in parts], scored=True), np.concatenate(cuts))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, indices: Bool[np.ndarray, "N"] | Int[np.ndarray, "N"]) -> Parts:
        """The pieces that a mask or an index array picks."""
        return Parts(self.boxes[indices], self.cut[indices])


def split(found: Boxes, window: Window, tiling: Tiling, nms_iou: float) -> tuple[Boxes, Parts]:
    """The boxes a window saw whole, and parts of objects longer than its overlap; other cut boxes are dropped.

    Nothing is lost by dropping: each window that drops a box leaves it to the next in one direction, which
    sees all of it with room to spare, and never hands it back.

    Args:
        found: the window's detections, in scene pixels, none reaching over its edges.
        window: where they were seen.
        tiling: the plan that the window is one of.
        nms_iou: overlap above which the worse of two parts from this one window goes.
    """
    cut = _interior(window, tiling) & ((found.bounds - window.xyxy) * _INWARD < _TOUCH)
    clear_of_neighbour = (_neighbours(window, tiling) - found.bounds[:, _OPPOSITE]) * _INWARD >= _CLEAR
    touches, dropped = cut.any(axis=1), (cut & clear_of_neighbour).any(axis=1)
    parts = Parts(found, cut)[touches & ~dropped]
    return found[~touches], parts[nms(parts.boxes, nms_iou)]


def _interior(window: Window, tiling: Tiling) -> Bool[np.ndarray, "4"]:
    """On which sides of the window the ground of the tiling goes on."""
    return np.asarray((np.array(window.xyxy) - tiling.ground.xyxy) * _INWARD > 0)


def _neighbours(window: Window, tiling: Tiling) -> Float[np.ndarray, "4"]:
    """How far the window beyond each side reaches into this one; read it for interior sides only.

    The last windows of a row or column are moved back, so this is not always `overlap` from the edge.
    """
    # rounded up, for windows moved back
    column, row = -((tiling.x - window.x) // tiling.stride), -((tiling.y - window.y) // tiling.stride)
    across = [tiling[max(column - 1, 0)], tiling[min(column + 1, tiling.n_columns - 1)]]
    down = [tiling[n * tiling.n_columns] for n in (max(row - 1, 0), min(row + 1, tiling.n_rows - 1))]
    return np.array([across[0].xyxy[2], down[0].xyxy[3], across[1].x, down[1].y], float)


def join(parts: Parts, whole: Iterable[Boxes], nms_iou: float) -> Boxes:
    """One box for each object that no window saw whole: the bounds of its parts, with the best score.

    Parts that a whole box covers add nothing and are left out; so is a joined box that a
    whole one, or a larger joined one, covers or overlaps by more than `nms_iou`.

    Args:
        parts: all parts of the scene.
        whole: all boxes of the scene that were seen whole and stand, in portions, which are gone through twice.
        nms_iou: overlap above which two boxes show one object.
    """
    parts = parts[~_covered(parts.boxes, whole, nms_iou)]
    joined = _around(parts.boxes, chained(len(parts), *_meeting(parts)))
    joined = joined[~_covered(joined, whole, nms_iou)]
    joined = joined[np.argsort(-area(joined.xyxy), kind="stable")]
    return joined[~_gives_way(joined, joined, nms_iou, only_earlier=True)]


def _covered(boxes: Boxes, portions: Iterable[Boxes], nms_iou: float) -> Bool[np.ndarray, "N"]:
    """Which boxes give way to any box of the portions."""
    goes = np.zeros(len(boxes), bool)
    if len(boxes):
        for portion in portions:
            goes |= _gives_way(boxes, portion, nms_iou)
    return goes


def _gives_way(boxes: Boxes, others: Boxes, nms_iou: float, *, only_earlier: bool = False) -> Bool[np.ndarray, "N"]:
    """Which boxes show no more than a part of, or the same as, one of the others of their class.

    Args:
        boxes: those that may go.
        others: those that stand.
        nms_iou: overlap above which two boxes are the same.
        only_earlier: for a list against itself: count only others that come earlier.
    """
    i, j = _close(boxes, others)
    if only_earlier:
        i, j = i[j < i], j[j < i]
    shared = shared_area(boxes[i], others[j])
    own, others_own = area(boxes.xyxy[i]), area(others.xyxy[j])
    goes = np.zeros(len(boxes), bool)
    goes[i[(shared > _MOST * own) | (shared > nms_iou * (own + others_own - shared))]] = True
    return goes


def _close(a: Boxes, b: Boxes) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Pairs of one box of `a` and one of `b`, of one class, that overlap or nearly touch."""
    grown = shapely.box(*(a.bounds - _TOUCH * _INWARD).T)
    i, j = shapely.STRtree(shapely.box(*b.bounds.T)).query(grown)
    same = a.labels[i] == b.labels[j]
    return i[same], j[same]


def _meeting(parts: Parts) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Return pairs of parts that go on in one another, across a side on which both are cut."""
    first, second = _close(parts.boxes, parts.boxes)
    a, b = parts.boxes.bounds[first], parts.boxes.bounds[second]
    in_line = _in_line(parts.boxes[first], parts.boxes[second]) if parts.boxes.oriented else None
    meet = np.zeros(len(first), bool)
    for low, high in ((0, 2), (1, 3)):  # side by side, then one above the other
        facing = parts.cut[first, high] & parts.cut[second, low]
        # Without this, neighbours that end to end touch with their uncut ends would be joined as well.
        in_order = (a[:, low] <= b[:, low] + _CLEAR) & (a[:, high] <= b[:, high] + _CLEAR)
        agree = _agreement(a[:, 1 - low :: 2], b[:, 1 - low :: 2]) >= _AGREE if in_line is None else in_line
        meet |= facing & in_order & agree
    return first[meet], second[meet]


def _in_line(a: Boxes, b: Boxes) -> Bool[np.ndarray, "P"]:
    """Return whether oriented parts are seen across the same stretch, looking along the longer of both."""
    longer = a.sizes[:, 0] >= b.sizes[:, 0]
    assert a.angles is not None
    assert b.angles is not None
    along = np.where(longer, a.angles, b.angles)
    across = np.stack([-np.sin(along), np.cos(along)], axis=1)[:, None]
    spans = [(each.corners * across).sum(axis=2) for each in (a, b)]
    low_a, low_b = (np.stack([span.min(axis=1), span.max(axis=1)], axis=1) for span in spans)
    return _agreement(low_a, low_b) >= _AGREE


def _agreement(a: Float[np.ndarray, "P 2"], b: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P"]:
    """Return the intersection over union of the intervals (low, high) of each pair."""
    shared = np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0])
    covered = np.maximum(a[:, 1], b[:, 1]) - np.minimum(a[:, 0], b[:, 0])
    return np.asarray(shared / covered)


def _around(boxes: Boxes, group: Int[np.ndarray, "N"]) -> Boxes:
    """Return for each group the smallest box round its boxes, with their label and their best score."""
    _, first = np.unique(group, return_index=True)
    assert boxes.scores is not None
    scores = boxes.scores[first]
    np.maximum.at(scores, group, boxes.scores)
    if boxes.oriented and len(first):
        order = np.argsort(group, kind="stable")
        corners = shapely.multipoints(boxes.corners[order].reshape(-1, 2), indices=np.repeat(group[order], 4))
        around = enclosing(corners, boxes.labels[first])
        return Boxes(around.xyxy, around.labels, scores, around.angles)
    xyxy = boxes.xyxy[first]
    np.minimum.at(xyxy[:, :2], group, boxes.xyxy[:, :2])
    np.maximum.at(xyxy[:, 2:], group, boxes.xyxy[:, 2:])
    return Boxes(xyxy, boxes.labels[first], scores, None if boxes.angles is None else boxes.angles[first])

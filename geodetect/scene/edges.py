"""Which window an object belongs to, and boxes cut by a window's edge: drop them, keep them as parts, join the parts.

An edge of a window is interior if the scene continues beyond it. Near one, a network sees less around an
object, and its scores and boxes are worse. So a box in the neighbour's half of the overlap is left to the
neighbour; else whatever any of the windows takes for an object, right or wrong, would be one on the map.

A box that touches an interior edge may be a fragment of a longer object. If the neighbouring window
contains the whole fragment, it sees the object better, and the fragment is dropped. If it does not (the
object is longer than the overlap), the fragment is kept as a part. Once the whole scene is scanned, parts
covered by a whole box are removed and the others are joined.

Sides are numbered in the order of the corners: 0 left, 1 top, 2 right, 3 bottom.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int

from geodetect.boxes import Boxes, area, connected_components, nms_in_groups, oriented_envelope, shared_area
from geodetect.windows import Frames

# A detector locates the side of a box to within a pixel or two: an object that ends this close
# to an edge may continue beyond it.
_TOUCH = 2.0
# Twice as far, so that a box dropped here does not touch the edge of the neighbouring window, even if
# its side is located a little differently there.
_CLEAR = 2 * _TOUCH
_MOST = 0.7  # a part covered by another box by more than this share belongs to the same object
_ALIKE = 0.5  # IoU above which two boxes show one object for sure, if `nms_iou` is not below
_AGREE = 0.5  # IoU of the extents of two parts across the direction in which they meet

_INWARD = np.array([1.0, 1.0, -1.0, -1.0])  # from a side into the box
_OPPOSITE = [2, 3, 0, 1]


@dataclass(frozen=True, eq=False)
class Parts:
    """N parts of objects that no window contains whole.

    Args:
        boxes: in scene pixels.
        cut: for each box, the sides cut by an interior edge: left, top, right, bottom.
    """

    boxes: Boxes
    cut: Bool[np.ndarray, "N 4"]

    @classmethod
    def concat(cls, parts: Iterable[Parts]) -> Parts:
        """Concatenate `parts` in their order."""
        parts = list(parts)
        cuts = [np.zeros((0, 4), bool), *(part.cut for part in parts)]
        return cls(Boxes.concat([part.boxes for part in parts], scored=True), np.concatenate(cuts))

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, indices: Bool[np.ndarray, "N"] | Int[np.ndarray, "N"]) -> Parts:
        """Select parts by a mask or an index array."""
        return Parts(self.boxes[indices], self.cut[indices])


def split(found: Boxes, of: Int[np.ndarray, "N"], frames: Frames, nms_iou: float) -> tuple[Int[np.ndarray, "W"], Parts]:
    """Return the indices of whole boxes, and parts of objects longer than the overlap; others are dropped.

    A window drops a box only if the next window in some direction contains all of it with room to spare: a cut box
    always, another if it lies further inside that window by at least a share of its length. The share is so large
    that two windows side by side leave boxes to each other only if their IoU is at most `nms_iou`, or 0.5 if that is
    less. Parts come window by window.

    Args:
        found: detections of some windows, in scene pixels, clipped to their window.
        of: the window of each, as a row of `frames`.
        frames: the windows.
        nms_iou: overlap above which two boxes show one object, and the lower-scored of two parts of one window is
            dropped.
    """
    windows, grounds, neighbours = (each[of] for each in frames)
    continues = (windows - grounds) * _INWARD > 0  # (N, 4), beyond each side
    room = (found.bounds - windows) * _INWARD
    cut = continues & (room < _TOUCH)
    # The last windows of a row or column are moved back, so neighbours do not always reach `overlap` beyond the edge.
    room_of_neighbour = (neighbours - found.bounds[:, _OPPOSITE]) * _INWARD
    touches = cut.any(axis=1)
    # Two boxes whose centres are apart by this share of their mean length have an IoU of at most `alike`.
    alike = min(nms_iou, _ALIKE)
    apart = (1 - alike) / (1 + alike) * np.tile(found.bounds[:, 2:] - found.bounds[:, :2], 2)
    # A part on the border of the area may lie in a window that is not run: it is left for its cut sides alone.
    other = np.where(touches[:, None], np.inf, room + apart)
    needed = np.maximum(np.where(cut, 0, other), _CLEAR)
    dropped = (continues & (room_of_neighbour >= needed)).any(axis=1)
    long = np.flatnonzero(touches & ~dropped)
    kept = long[nms_in_groups(found[long], of[long], nms_iou)]
    return np.flatnonzero(~touches & ~dropped), Parts(found[kept], cut[kept])


def join(parts: Parts, whole: Iterable[Boxes], nms_iou: float) -> Boxes:
    """Return one box per object that no window contains whole: the bounds of its parts, with their highest score.

    Parts covered by a whole box are dropped; so is a joined box that a whole one, or a larger joined one,
    covers or overlaps by more than `nms_iou`.

    Args:
        parts: all parts of the scene.
        whole: all whole boxes of the scene after suppression, in chunks; iterated twice.
        nms_iou: overlap above which two boxes show one object.
    """
    parts = parts[~_find_covered(parts.boxes, whole, nms_iou)]
    joined = _around(parts.boxes, connected_components(len(parts), *_find_meeting(parts)))
    joined = joined[~_find_covered(joined, whole, nms_iou)]
    joined = joined[np.argsort(-area(joined.xyxy), kind="stable")]
    return joined[~_is_suppressed(joined, joined, nms_iou, only_earlier=True)]


def _find_covered(boxes: Boxes, portions: Iterable[Boxes], nms_iou: float) -> Bool[np.ndarray, "N"]:
    """Return which boxes are redundant to any box of the chunks."""
    goes = np.zeros(len(boxes), bool)
    if len(boxes):
        for portion in portions:
            goes |= _is_suppressed(boxes, portion, nms_iou)
    return goes


def _is_suppressed(boxes: Boxes, others: Boxes, nms_iou: float, *, only_earlier: bool = False) -> Bool[np.ndarray, "N"]:
    """Return which boxes show the same object as, or a part of, one of the others of their class.

    Args:
        boxes: the boxes that may be dropped.
        others: the boxes to compare with.
        nms_iou: overlap above which two boxes show one object.
        only_earlier: compare with earlier boxes only, for a list against itself.
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
    """Return index pairs of boxes of `a` and `b`, of the same class, that overlap or nearly touch."""
    grown = shapely.box(*(a.bounds - _TOUCH * _INWARD).T)
    i, j = shapely.STRtree(shapely.box(*b.bounds.T)).query(grown)
    same = a.labels[i] == b.labels[j]
    return i[same], j[same]


def _find_meeting(parts: Parts) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """Return pairs of parts that continue each other across a side on which both are cut."""
    first, second = _close(parts.boxes, parts.boxes)
    a, b = parts.boxes.bounds[first], parts.boxes.bounds[second]
    in_line = _in_line(parts.boxes[first], parts.boxes[second]) if parts.boxes.oriented else None
    meet = np.zeros(len(first), bool)
    for low, high in ((0, 2), (1, 3)):  # side by side, then one above the other
        facing = parts.cut[first, high] & parts.cut[second, low]
        # Otherwise parts that touch end to end with their uncut ends would be joined as well.
        in_order = (a[:, low] <= b[:, low] + _CLEAR) & (a[:, high] <= b[:, high] + _CLEAR)
        agree = _agreement(a[:, 1 - low :: 2], b[:, 1 - low :: 2]) >= _AGREE if in_line is None else in_line
        meet |= facing & in_order & agree
    return first[meet], second[meet]


def _in_line(a: Boxes, b: Boxes) -> Bool[np.ndarray, "P"]:
    """Return whether oriented parts have nearly the same extent across the direction of the longer one."""
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
    """Return the smallest enclosing box of each group, with its label and highest score."""
    _, first = np.unique(group, return_index=True)
    assert boxes.scores is not None
    scores = boxes.scores[first]
    np.maximum.at(scores, group, boxes.scores)
    if boxes.oriented and len(first):
        order = np.argsort(group, kind="stable")
        corners = shapely.multipoints(boxes.corners[order].reshape(-1, 2), indices=np.repeat(group[order], 4))
        around = oriented_envelope(corners, boxes.labels[first])
        return Boxes(around.xyxy, around.labels, scores, around.angles)
    xyxy = boxes.xyxy[first]
    np.minimum.at(xyxy[:, :2], group, boxes.xyxy[:, :2])
    np.maximum.at(xyxy[:, 2:], group, boxes.xyxy[:, 2:])
    return Boxes(xyxy, boxes.labels[first], scores, None if boxes.angles is None else boxes.angles[first])

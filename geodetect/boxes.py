"""Boxes as arrays: overlap, suppression, moving between frames.

Shapes: N, M boxes, P pairs. A box is (x1, y1, x2, y2), x to the right, y down,
(0, 0) the outer corner of the first pixel; its width is x2 - x1. Other layouts
enter and leave through `from_xywh` and `to_xywh`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int

from geodetect.errors import ArgumentError, is_share
from geodetect.facts import html_rows

_FIRST_BLOCK = 16_384  # boxes settled at once to begin with; keeps the pairs of a crowded scene few
_SWEEP = 1 << 18  # boxes that `nms` takes in at once on its way down; keeps memory small, and trees in the cache
_SHOWN = 10  # boxes in a notebook
_NO_NUMBERS = (TypeError, ValueError, OverflowError, RuntimeError)  # the last: a tensor of torch that has gradients
_ROUNDING = 1e-6  # of a box's side: so much less than it might be is a core shrunk


if TYPE_CHECKING:
    _Held: TypeAlias = np.ndarray
else:
    _Held = Any  # made from lists too, or wrongly, which a check of types at run time must leave to ours


@dataclass(frozen=True, eq=False)
class Boxes:
    """N boxes with their class indices and, for detections, scores.

    Args:
        xyxy: corners in pixels of one frame (a scene or a chip), float64, (N, 4).
        labels: class indices from 0, (N,).
        scores: 0 to 1, (N,); None for true boxes.

    Raises:
        ArgumentError: if the lengths disagree, the corners are not (N, 4), or anything is no number.
    """

    xyxy: _Held
    labels: _Held
    scores: _Held | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "xyxy", _corners(self.xyxy))
        try:
            object.__setattr__(self, "labels", _whole(self.labels))
            if self.scores is not None:
                object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float64).reshape(-1))
        except _NO_NUMBERS as error:
            raise ArgumentError(f"labels must be numbers of classes and scores numbers; got others: {error}") from error
        self._check()

    def _check(self) -> None:
        n_scores = len(self.labels) if self.scores is None else len(self.scores)
        if not len(self.xyxy) == len(self.labels) == n_scores:
            raise ArgumentError(
                f"every box needs one label and one score; got {len(self.xyxy)} boxes, "
                f"{len(self.labels)} labels, {n_scores} scores"
            )

    @classmethod
    def empty(cls, *, scored: bool = False) -> Boxes:
        """No boxes at all; with `scored` as a detector that found nothing gives them."""
        return cls(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0) if scored else None)

    @classmethod
    def concat(cls, parts: Iterable[Boxes], *, scored: bool = False) -> Boxes:
        """All boxes of `parts` in their order; `scored` says what an empty list gives."""
        parts = list(parts)
        if not parts:
            return cls.empty(scored=scored)
        scores = [part.scores for part in parts if part.scores is not None]
        return cls(
            np.concatenate([part.xyxy for part in parts]),
            np.concatenate([part.labels for part in parts]),
            np.concatenate(scores) if len(scores) == len(parts) else None,
        )

    def __len__(self) -> int:
        return len(self.xyxy)

    def __getitem__(self, indices: Any) -> Boxes:
        """The boxes that a slice, a mask or an index array picks; never a single row."""
        scores = None if self.scores is None else self.scores[indices]
        return Boxes(self.xyxy[indices], self.labels[indices], scores)

    def __repr__(self) -> str:
        counts = ", ".join(
            f"{n:,} of class {k}" for k, n in zip(*np.unique(self.labels, return_counts=True), strict=True)
        )
        told = self.scores is not None and len(self)
        scores = f"; scores {self.scores.min():.3f} to {self.scores.max():.3f}" if told else ""  # type: ignore[union-attr]
        return f"Boxes({len(self):,}{': ' if counts else ''}{counts}{scores})"

    def _repr_html_(self) -> str:
        columns = ["x1", "y1", "x2", "y2", "label", *([] if self.scores is None else ["score"])]
        some = self[:_SHOWN]
        scores = [[]] * len(some) if some.scores is None else some.scores[:, None].tolist()
        rows = [[*box, k, *more] for box, k, more in zip(some.xyxy.tolist(), some.labels, scores, strict=True)]
        return html_rows(f"{len(self):,} boxes{f', the first {_SHOWN}' if len(self) > _SHOWN else ''}", columns, rows)

    @property
    def sizes(self) -> Float[np.ndarray, "N 2"]:
        """Width and height of each box in pixels; negative where corners are swapped."""
        sizes: np.ndarray = self.xyxy[:, 2:] - self.xyxy[:, :2]
        return sizes

    @property
    def centres(self) -> Float[np.ndarray, "N 2"]:
        """Centre (x, y) of each box in pixels."""
        centres: np.ndarray = (self.xyxy[:, 2:] + self.xyxy[:, :2]) / 2
        return centres

    def shift(self, dx: float, dy: float) -> Boxes:
        """The same boxes in a frame whose origin lies at (-dx, -dy) of this one."""
        return Boxes(self.xyxy + np.array([dx, dy, dx, dy], float), self.labels, self.scores)

    def clip(self, width: float, height: float) -> Boxes:
        """The parts inside (0, 0, width, height); boxes wholly outside become empty ones on its edge."""
        limit = np.array([width, height, width, height], float)
        return Boxes(np.clip(self.xyxy, 0, limit), self.labels, self.scores)

    def ranked(self) -> Int[np.ndarray, "N"]:
        """Indices, best score first; equal scores by y1, x1, y2, x2, label, never by position.

        Raises:
            ArgumentError: if the boxes have no scores.
        """
        if self.scores is None:
            raise ArgumentError("ranking boxes needs scores; these boxes have none")
        order: np.ndarray = np.argsort(-self.scores, kind="stable")
        equal = self.scores[order][1:] == self.scores[order][:-1]
        if equal.any():  # only these are sorted by more than their score, which takes ten times as long
            tied = np.flatnonzero(np.append(False, equal) | np.append(equal, False))
            boxes = self[order[tied]]
            x1, y1, x2, y2 = boxes.xyxy.T
            order[tied] = order[tied][np.lexsort((boxes.labels, x2, y2, x1, y1, -self.scores[order[tied]]))]
        return order


def _whole(labels: _Held) -> Int[np.ndarray, "N"]:
    """Labels as integers.

    Raises:
        ValueError: if one is no whole number.
    """
    values = np.asarray(labels).reshape(-1)
    if values.dtype.kind == "f" and not (whole := np.isfinite(values) & (np.rint(values) == values)).all():
        raise ValueError(f"{values[~whole][0]} is not a whole number")
    return np.asarray(values, dtype=np.int64)


def _corners(xyxy: _Held) -> Float[np.ndarray, "N 4"]:
    """Corners as float64; (0, 4) for nothing, whatever its shape.

    Raises:
        ArgumentError: if they are no numbers, or not four in each row.
    """
    try:
        corners = np.asarray(xyxy, dtype=np.float64)
    except _NO_NUMBERS as error:
        raise ArgumentError(f"boxes must be an array (N, 4) of x1, y1, x2, y2; got something else: {error}") from error
    corners = corners.reshape(0, 4) if corners.size == 0 else corners
    if corners.ndim != 2 or corners.shape[1] != 4:  # noqa: PLR2004
        raise ArgumentError(f"boxes must be an array (N, 4) of x1, y1, x2, y2; got shape {corners.shape}")
    return corners


def from_xywh(xywh: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Corners of boxes given as upper-left corner, width and height; `to_xywh` undoes it."""
    xywh = np.asarray(xywh, float).reshape(-1, 4)
    return np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)


def to_xywh(xyxy: Float[np.ndarray, "N 4"]) -> Float[np.ndarray, "N 4"]:
    """Upper-left corner, width and height of boxes given by corners; `from_xywh` undoes it."""
    xyxy = np.asarray(xyxy, float).reshape(-1, 4)
    return np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], axis=1)


def area(xyxy: Float[np.ndarray, "*N 4"]) -> Float[np.ndarray, "*N"]:
    """Area of each box in square pixels; 0 where corners are swapped."""
    areas: np.ndarray = np.prod(np.maximum(xyxy[..., 2:] - xyxy[..., :2], 0), axis=-1)
    return areas


def iou(a: _Held, b: _Held) -> Float[np.ndarray, "N M"]:
    """Intersection over union of every box of `a` (N, 4) with every box of `b` (M, 4), 0 to 1; 0 for empty boxes.

    Raises:
        ArgumentError: if one of them is not four corners in each row.
    """
    a, b = _corners(a), _corners(b)
    return iou_of_pairs(a[:, None], b[None, :])


def iou_of_pairs(a: Float[np.ndarray, "*#P 4"], b: Float[np.ndarray, "*#P 4"]) -> Float[np.ndarray, "*#P"]:
    """IoU of boxes that stand in the same place of two arrays that broadcast."""
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.prod(np.maximum(sides, 0), axis=-1)
    union = area(a) + area(b) - shared
    overlap: np.ndarray = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return overlap


def overlapping(
    a: Float[np.ndarray, "N 4"], b: Float[np.ndarray, "M 4"], min_iou: float = 0.0
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """The pairs of `iou(a, b)` above `min_iou`, without the matrix.

    Returns:
        indices into `a`, indices into `b`, and their IoU, in no particular order.
    """
    a, b = np.asarray(a, float).reshape(-1, 4), np.asarray(b, float).reshape(-1, 4)
    i, j = shapely.STRtree(_cores(b, min_iou)).query(_cores(a, min_iou))
    shared = iou_of_pairs(a[i], b[j])
    above = shared > min_iou
    return i[above], j[above], shared[above]


def _cores(xyxy: Float[np.ndarray, "N 4"], min_iou: float) -> np.ndarray:
    """A line for each box, such that the lines' bounds meet wherever two boxes overlap by more than `min_iou`.

    Overlapping by more than t means to share more than t of the longer of both widths, and of both heights: at least
    t / 2 of each. So boxes may be shrunk by t / 2 on every side, which leaves a tree fewer pairs to find;
    and a line across a box is to an STRtree the same as the box, made in half the time.
    """
    margin = (xyxy[:, 2:] - xyxy[:, :2]) * max(min_iou / 2 - _ROUNDING, 0)
    corners = np.stack([xyxy[:, :2] + margin, xyxy[:, 2:] - margin], axis=1)
    return np.asarray(shapely.linestrings(corners))


def nms(boxes: Boxes, iou: float, *, by_class: bool = True) -> Int[np.ndarray, "K"]:
    """Indices that greedy non-maximum suppression keeps, best first.

    A box is dropped when a better one that is kept overlaps it by more than `iou`.
    The order of the input never matters: ties are settled as in `Boxes.ranked`.
    Goes through the boxes from top to bottom; what reaches beyond the part that was seen waits for the next.

    Args:
        boxes: detections with scores.
        iou: overlap above which the worse of two boxes goes, 0 to 1.
        by_class: only boxes with the same label compete.

    Raises:
        ArgumentError: if `iou` is not possible, or the boxes have no scores.
    """
    if not is_share(iou):
        raise ArgumentError(f"iou must lie between 0 and 1 (intersection over union); got {iou!r}")
    y1, y2 = boxes.xyxy[:, 1], boxes.xyxy[:, 3]
    down, start = np.argsort(y1, kind="stable"), 0
    kept, held = [np.zeros(0, int)], np.zeros(0, int)
    while start < len(boxes):
        stop = start + max(_SWEEP, len(held))  # where many wait for what comes, more has to come
        seen = np.concatenate([held, down[start:stop]])
        line = y1[down[stop]] if stop < len(boxes) else np.inf  # nothing that is still to come starts above it
        sure, unsure = settle(boxes[seen], iou, y2[seen] > line, by_class=by_class)
        kept.append(seen[sure])
        held, start = seen[unsure], stop
    found = np.sort(np.concatenate(kept))
    return np.asarray(found[boxes[found].ranked()])


def settle(
    boxes: Boxes, iou: float, unsure: Bool[np.ndarray, "N"], *, by_class: bool = True
) -> tuple[Int[np.ndarray, "K"], Int[np.ndarray, "U"]]:
    """What `nms` keeps for certain, and what still hangs on boxes that have not been seen.

    Walks the boxes from best to worst in growing blocks. Each block is first thinned by what
    better blocks kept, so that crowded scenes stay near-linear; what is left is
    settled in rounds of array operations (`_settle_block`).

    Args:
        boxes: detections with scores.
        iou: overlap above which the worse of two boxes goes.
        unsure: True for boxes that an unseen better box may yet suppress.
        by_class: only boxes with the same label compete.

    Returns:
        indices kept whatever comes, and indices that may still go either way, both
        best first. All others are suppressed for certain.
    """
    order = boxes.ranked()
    ranked = boxes[order] if by_class else Boxes(boxes.xyxy[order], np.zeros(len(order)))
    cores = _cores(_apart(ranked), iou)
    state = np.where(unsure[order], _UNSURE, _KEPT).astype(np.int8)
    start = 0
    while start < len(order):
        block = np.arange(start, min(max(2 * start, _FIRST_BLOCK), len(order)))
        better = np.flatnonzero(state[:start] != _DROPPED)
        i, j = _rivals(ranked, cores, block, better, iou=iou)
        state[i[state[j] == _UNSURE]] = _UNSURE
        state[i[state[j] == _KEPT]] = _DROPPED
        alive = block[state[block] != _DROPPED]
        state[alive] = _settle_block(alive, state[alive], *_rivals(ranked, cores, alive, alive, iou=iou))
        start = block[-1] + 1
    return order[state == _KEPT], order[state == _UNSURE]


def _apart(boxes: Boxes) -> Float[np.ndarray, "N 4"]:
    """The boxes with each class moved to where no other is, so that a tree need not find their pairs."""
    if not len(boxes):
        return boxes.xyxy
    height = np.ptp(boxes.xyxy[:, 1::2]) + 1
    down = boxes.labels * height
    return np.asarray(boxes.xyxy + down[:, None] * [0, 1, 0, 1])


_OPEN, _KEPT, _DROPPED, _UNSURE = range(4)


def _rivals(
    ranked: Boxes, cores: np.ndarray, worse: np.ndarray, better: np.ndarray, *, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a box of `worse` and a higher-ranked one of `better`, alike in label, that overlap by more than `iou`.

    The cheap conditions come first: most pairs that a tree finds in one set of boxes are
    a box with itself, or the same pair the other way round.
    """
    i, j = shapely.STRtree(cores[better]).query(cores[worse])
    i, j = worse[i], better[j]
    able = (i > j) & (ranked.labels[i] == ranked.labels[j])
    i, j = i[able], j[able]
    near = iou_of_pairs(ranked.xyxy[i], ranked.xyxy[j]) > iou
    return i[near], j[near]


def _settle_block(alive: np.ndarray, best_case: np.ndarray, worse: np.ndarray, better: np.ndarray) -> np.ndarray:
    """The state of boxes given best first, when `best_case` is what each is if no better one overlaps it.

    In each round the boxes with no open better rival are settled: dropped if one of those
    is kept, unsure if one is unsure, else their best case. The best open box always is
    among them, so the rounds end; in practice after a handful.
    """
    worse, better = np.searchsorted(alive, worse), np.searchsorted(alive, better)
    state, doubt = np.zeros(len(alive), np.int8), best_case == _UNSURE
    while (state == _OPEN).any():
        ready = state == _OPEN
        ready[worse] = False
        state[ready] = np.where(doubt[ready], _UNSURE, _KEPT)
        state[worse[state[better] == _KEPT]] = _DROPPED
        doubt[worse[state[better] == _UNSURE]] = True
        still = (state[better] == _OPEN) & (state[worse] == _OPEN)
        better, worse = better[still], worse[still]
    return state


def chained(n: int, i: Int[np.ndarray, "P"], j: Int[np.ndarray, "P"]) -> Int[np.ndarray, "N"]:
    """The group that the pairs (i, j) chain each of `n` things to; groups are counted from 0, by their first members.

    Everything takes the lowest number among its partners, then that one's own, until none changes;
    the second step doubles the distance covered each time, so long chains take few rounds.
    """
    group = np.arange(n)
    while True:
        lowest = group.copy()
        np.minimum.at(lowest, i, group[j])
        np.minimum.at(lowest, j, group[i])
        lowest = lowest[lowest]
        if np.array_equal(lowest, group):
            return np.asarray(np.unique(group, return_inverse=True)[1])
        group = lowest

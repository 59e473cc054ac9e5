"""Greedy non-maximum suppression: exact, near-linear, and incremental.

Shapes: N boxes, K kept, U undecided, P pairs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from jaxtyping import Bool, Int

from geodetect.boxes.boxes import Boxes, stable_order
from geodetect.boxes.overlap import core_lines, select_overlaps
from geodetect.errors import ArgumentError, is_share

_FIRST_BLOCK = 1024  # boxes settled at once to begin with; keeps the pairs of a crowded scene few
_SWEEP = 1 << 18  # boxes that `nms` adds at once on its way down; keeps memory small, and trees in the cache
_OPEN, _KEPT, _DROPPED, _UNSURE = range(4)


class Settled(NamedTuple):
    """Indices of boxes kept for certain, and of those that may still go either way, both by descending score."""

    kept: Int[np.ndarray, "K"]
    unsure: Int[np.ndarray, "U"]


def nms(boxes: Boxes, iou: float, *, by_class: bool = True) -> Int[np.ndarray, "K"]:
    """Return the indices that greedy non-maximum suppression keeps, by descending score.

    A box is dropped when a better one that is kept overlaps it by more than `iou`.
    The order of the input never matters: ties are settled as in `Boxes.rank`.

    Args:
        boxes: detections with scores.
        iou: overlap above which the worse of two boxes goes, 0 to 1.
        by_class: only boxes with the same label compete.

    Raises:
        ArgumentError: if `iou` is impossible, or the boxes have no scores.
    """
    if not is_share(iou):
        raise ArgumentError(f"iou must lie between 0 and 1 (intersection over union); got {iou!r}")
    # A sweep from top to bottom: boxes that reach beyond the part seen so far wait for the next.
    y1, y2 = boxes.bounds[:, 1], boxes.bounds[:, 3]
    down, start = np.argsort(y1, kind="stable"), 0
    kept, held = [np.zeros(0, int)], np.zeros(0, int)
    while start < len(boxes):
        stop = start + max(_SWEEP, len(held))  # where many wait for what comes, more has to come
        seen = np.concatenate([held, down[start:stop]])
        line = y1[down[stop]] if stop < len(boxes) else np.inf  # nothing that is still to come starts above it
        settled = settle(boxes[seen], iou, y2[seen] > line, by_class=by_class)
        kept.append(seen[settled.kept])
        held, start = seen[settled.unsure], stop
    found = np.sort(np.concatenate(kept))
    return np.asarray(found[boxes[found].rank()])


def nms_in_groups(boxes: Boxes, group: Int[np.ndarray, "N"], iou: float) -> Int[np.ndarray, "K"]:
    """Return the indices that `nms` keeps in each group, group by group, each by descending score.

    Args:
        boxes: detections with scores.
        group: number of each box's group, from 0; boxes of different groups do not compete.
        iou: overlap above which the worse of two boxes goes, 0 to 1.
    """
    of_group = group * (boxes.labels.max(initial=0) + 1) + boxes.labels
    kept = nms(Boxes(boxes.xyxy, of_group, boxes.scores, boxes.angles), iou)
    return np.asarray(kept[stable_order(group[kept])])


def settle(boxes: Boxes, iou: float, unsure: Bool[np.ndarray, "N"], *, by_class: bool = True) -> Settled:
    """Return the boxes that `nms` keeps for certain, and those that depend on boxes not seen yet.

    Walks the boxes by descending score in growing blocks. Each block is first thinned by what better blocks kept, so
    that crowded scenes stay near-linear; what is left is settled in rounds of array operations (`_settle_block`).

    Args:
        boxes: detections with scores.
        iou: overlap above which the worse of two boxes goes.
        unsure: True for boxes that an unseen better box may yet suppress.
        by_class: only boxes with the same label compete.
    """
    order = boxes.rank()
    ranked = boxes[order]
    if not by_class:
        ranked = Boxes(ranked.xyxy, np.zeros(len(order)), angles=ranked.angles)
    # Each class is moved to where no other is, so that a tree need not find pairs of two classes.
    down = ranked.labels * (np.ptp(ranked.bounds[:, 1::2]) + 1 if len(ranked) else 0.0)
    apart = Boxes(ranked.xyxy + down[:, None] * [0, 1, 0, 1], ranked.labels, angles=ranked.angles)
    lines = core_lines(apart, iou)
    state = np.where(unsure[order], _UNSURE, _KEPT).astype(np.int8)
    start = 0
    while start < len(order):
        block = np.arange(start, min(max(2 * start, _FIRST_BLOCK), len(order)))
        better = np.flatnonzero(state[:start] != _DROPPED)
        i, j = _find_rivals(ranked, lines, block, better, iou=iou)
        state[i[state[j] == _UNSURE]] = _UNSURE
        state[i[state[j] == _KEPT]] = _DROPPED
        alive = block[state[block] != _DROPPED]
        state[alive] = _settle_block(alive, state[alive], *_find_rivals(ranked, lines, alive, alive, iou=iou))
        start = block[-1] + 1
    return Settled(order[state == _KEPT], order[state == _UNSURE])


def _find_rivals(
    ranked: Boxes, lines: np.ndarray, worse: np.ndarray, better: np.ndarray, *, iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of a box of `worse` and a higher-ranked one of `better`, of one class, that overlap by more.

    The cheap conditions come first: most pairs that a tree finds in one set of boxes are
    a box with itself, or the same pair the other way round.
    """
    i, j = shapely.STRtree(lines[better]).query(lines[worse])
    i, j = worse[i], better[j]
    able = (i > j) & (ranked.labels[i] == ranked.labels[j])
    near = select_overlaps(ranked, ranked, i[able], j[able], min_iou=iou)
    return near.first, near.second


def _settle_block(alive: np.ndarray, best_case: np.ndarray, worse: np.ndarray, better: np.ndarray) -> np.ndarray:
    """Return the state of boxes in ranked order, when `best_case` is what each is if no better one overlaps it.

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

"""Detections and true boxes matched one to one, as COCO matches them.

Shapes: N detections, M true boxes, P pairs that overlap. The rules are those of
https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from geodetect.boxes import Boxes, find_overlaps
from geodetect.errors import ArgumentError, is_share

ALMOST_ONE = 1 - 1e-10  # COCO's ceiling on the threshold: equal boxes match in spite of rounding


def check_match_iou(match_iou: float) -> None:
    """Raise if a threshold is out of range.

    Raises:
        ArgumentError: if `match_iou` is not above 0 and at most 1.
    """
    if not (is_share(match_iou) and match_iou > 0):
        raise ArgumentError(f"match_iou must be above 0 and at most 1; got match_iou={match_iou!r}")


def match_detections(
    detections: Boxes, truth: Boxes, match_iou: float, *, by_class: bool = True
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Find a true box for each detection, no true box twice.

    Args:
        detections: boxes with scores; those of higher score choose first, ties as in `Boxes.rank`.
        truth: boxes of the same scene or chip, in the same pixels; those that are `ignored` are taken only by
            detections for which no other is left.
        match_iou: overlap from which a detection counts as right, above 0 and at most 1.
        by_class: only boxes with the same label match.

    Returns:
        for each detection its index into `truth`, -1 for none, and the IoU with it, 0 for none.

    Raises:
        ArgumentError: if `match_iou` is out of range, or the detections have no scores.
    """
    i, j, iou = find_overlaps(detections, truth)
    if by_class:
        same = detections.labels[i] == truth.labels[j]
        i, j, iou = i[same], j[same], iou[same]
    return match_pairs(detections.rank(), i, j, iou, match_iou=match_iou, last=~truth.counted)


def match_pairs(
    order: Int[np.ndarray, "N"],
    i: Int[np.ndarray, "P"],
    j: Int[np.ndarray, "P"],
    iou: Float[np.ndarray, "P"],
    *,
    match_iou: float,
    last: Bool[np.ndarray, "M"],
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """Match as `match_detections` does, from pairs that overlap instead of boxes.

    Each detection takes the free true box that it overlaps most; of equal overlaps the last one, as COCO.

    Args:
        order: all detections, the first to choose first.
        i: the detection of each pair, in any order.
        j: its true box.
        iou: their overlap by any measure from 0 to 1.
        match_iou: overlap from which a pair may match.
        last: whether a detection takes a true box only if no other is left.
    """
    check_match_iou(match_iou)
    able = iou >= min(match_iou, ALMOST_ONE)
    rank, j, iou = np.argsort(order)[i[able]], j[able], iou[able]
    wish = np.lexsort((-j, -iou, last[j], rank))
    pair = assign_pairs(rank[wish], j[wish], len(order), len(last))
    found = order[pair >= 0]
    chosen = wish[pair[pair >= 0]]
    partner, matched = np.full(len(order), -1), np.zeros(len(order))
    partner[found], matched[found] = j[chosen], iou[chosen]
    return partner, matched


def assign_pairs(i: Int[np.ndarray, "P"], j: Int[np.ndarray, "P"], n_found: int, n_truth: int) -> Int[np.ndarray, "N"]:
    """Return for each detection the first of its pairs whose true box no detection before it has; -1 for none.

    All are matched at once, as in a stable marriage: each detection asks the true boxes of its pairs in turn, and a
    true box keeps the foremost detection that asked. Since all true boxes prefer the same detections, the result is
    that of going through the detections one by one (https://en.wikipedia.org/wiki/Gale-Shapley_algorithm).

    Args:
        i: the detection of each pair, ascending: the foremost chooses first.
        j: its true box, of one detection in the order in which it wants them.
        n_found: number of detections.
        n_truth: number of true boxes.
    """
    next_pair, ends = (np.searchsorted(i, np.arange(n_found), side) for side in ("left", "right"))
    keeper = np.full(n_truth, n_found)
    asking = np.flatnonzero(next_pair < ends)
    while len(asking):
        asked = j[next_pair[asking]]
        before = keeper[asked]
        np.minimum.at(keeper, asked, asking)
        sent_away = np.unique(np.where(keeper[asked] == asking, before, asking))
        sent_away = sent_away[sent_away < n_found]
        next_pair[sent_away] += 1
        asking = sent_away[next_pair[sent_away] < ends[sent_away]]
    pair = np.full(n_found, -1)
    kept = keeper[keeper < n_found]
    pair[kept] = next_pair[kept]
    return pair

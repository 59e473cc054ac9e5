"""Detections and true boxes matched one to one, as COCO matches them.

Shapes: N detections, M true boxes, P pairs that overlap. The rules are those of
https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from geodetect.boxes import Boxes, overlapping
from geodetect.errors import ArgumentError

ALMOST_ONE = 1 - 1e-10  # COCO's ceiling on the threshold: equal boxes match in spite of rounding


def check_match_iou(match_iou: float) -> None:
    """Refuses a threshold at which a match means nothing.

    Raises:
        ArgumentError: if `match_iou` is not above 0 and at most 1.
    """
    if not 0 < match_iou <= 1:
        raise ArgumentError(f"match_iou must be above 0 and at most 1; got match_iou={match_iou}")


def match(
    detections: Boxes, truth: Boxes, match_iou: float, *, by_class: bool = True
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """The true box that each detection finds, no true box twice.

    Args:
        detections: boxes with scores; better ones choose first, ties as in `Boxes.ranked`.
        truth: boxes of the same scene or chip, in the same pixels.
        match_iou: overlap from which a detection counts as right, above 0 and at most 1.
        by_class: only boxes with the same label match.

    Returns:
        for each detection its index into `truth`, -1 for none, and the IoU with it, 0 for none.

    Raises:
        ArgumentError: if `match_iou` is out of range, or the detections have no scores.
    """
    i, j, iou = overlapping(detections.xyxy, truth.xyxy)
    if by_class:
        same = detections.labels[i] == truth.labels[j]
        i, j, iou = i[same], j[same], iou[same]
    return match_pairs(detections.ranked(), i, j, iou, n_truth=len(truth), match_iou=match_iou)


def match_pairs(
    order: Int[np.ndarray, "N"],
    i: Int[np.ndarray, "P"],
    j: Int[np.ndarray, "P"],
    iou: Float[np.ndarray, "P"],
    *,
    n_truth: int,
    match_iou: float,
) -> tuple[Int[np.ndarray, "N"], Float[np.ndarray, "N"]]:
    """What `match` gives, from pairs that overlap instead of boxes.

    Each detection takes the free true box that it overlaps most; of equal overlaps the last one, as COCO.

    Args:
        order: all detections, the first to choose first.
        i: the detection of each pair, in any order.
        j: its true box.
        iou: their overlap by any measure from 0 to 1.
        n_truth: number of true boxes.
        match_iou: overlap from which a pair may match.
    """
    check_match_iou(match_iou)
    partner, matched = np.full(len(order), -1), np.zeros(len(order))
    rank, free = np.argsort(order), np.ones(n_truth, bool)
    able = np.flatnonzero(iou >= min(match_iou, ALMOST_ONE))
    # Sorted so, the first pair whose two ends are both free is always the next match.
    for pair in able[np.lexsort((-j[able], -iou[able], rank[i[able]]))]:
        if partner[i[pair]] < 0 and free[j[pair]]:
            partner[i[pair]], matched[i[pair]], free[j[pair]] = j[pair], iou[pair], False
    return partner, matched

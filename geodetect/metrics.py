"""Matching and average precision on boxes, as COCO defines them, without its cap of 100 boxes.

Shapes: N detections, M true boxes, P pairs that overlap, S distinct scores. The rules are those of
https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int

from geodetect.boxes import Boxes, overlapping
from geodetect.errors import ArgumentError

_RECALLS = np.linspace(0, 1, 101)  # "recThrs - [0:.01:1] R=101 recall thresholds for evaluation"
_ALMOST_ONE = 1 - 1e-10  # COCO's ceiling on the threshold: equal boxes match in spite of rounding


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
    able = np.flatnonzero(iou >= min(match_iou, _ALMOST_ONE))
    # Sorted so, the first pair whose two ends are both free is always the next match.
    for pair in able[np.lexsort((-j[able], -iou[able], rank[i[able]]))]:
        if partner[i[pair]] < 0 and free[j[pair]]:
            partner[i[pair]], matched[i[pair]], free[j[pair]] = j[pair], iou[pair], False
    return partner, matched


def average_precision(scores: Float[np.ndarray, "N"], hit: Bool[np.ndarray, "N"], n_truth: int) -> float:
    """Mean of the precision at the recalls 0, 0.01, ... 1, each the best at that recall or beyond; 0 to 1.

    Args:
        scores: of the detections of one class in all chips; equal ones count in the order given, as COCO.
        hit: whether each found a true box.
        n_truth: number of true boxes of the class, found or not.

    Returns:
        NaN when there is no truth, 0 when there are no detections.
    """
    if n_truth == 0:
        return float("nan")
    found = np.cumsum(hit[np.argsort(-scores, kind="stable")])
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / n_truth, _RECALLS)
    return float(np.append(envelope, 0.0)[reached].mean())


def precision_recall(
    scores: Float[np.ndarray, "N"], hit: Bool[np.ndarray, "N"], n_truth: int
) -> tuple[Float[np.ndarray, "S"], Float[np.ndarray, "S"], Float[np.ndarray, "S"], Float[np.ndarray, "S"]]:
    """Precision, recall and F1 of the detections from each score upwards.

    Args:
        scores: of the detections, in any order.
        hit: whether each found a true box.
        n_truth: number of true boxes, found or not.

    Returns:
        the distinct scores, best first, and precision, recall and F1 there; recall is NaN without truth.
    """
    distinct, group = np.unique(-scores, return_inverse=True)
    n_detections = np.cumsum(np.bincount(group, minlength=len(distinct)))
    found = np.cumsum(np.bincount(group, weights=hit, minlength=len(distinct)))
    recall = found / n_truth if n_truth else np.full(len(distinct), np.nan)
    return -distinct, found / n_detections, recall, 2 * found / (n_detections + n_truth)


def best_score(scores: Float[np.ndarray, "N"], hit: Bool[np.ndarray, "N"], n_truth: int) -> float:
    """The score from which on detections have the best F1, the highest such score; NaN without any hit."""
    if not (n_truth and hit.any()):
        return float("nan")
    distinct, _, _, f1 = precision_recall(scores, hit, n_truth)
    return float(distinct[np.argmax(f1)])

"""Average precision, the curve behind it, and the score of the best F1.

Shapes: N detections, S distinct scores. The rules are those of
https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

_RECALLS = np.linspace(0, 1, 101)  # "recThrs - [0:.01:1] R=101 recall thresholds for evaluation"


def average_precision(scores: Float[np.ndarray, "N"], hit: Bool[np.ndarray, "N"], n_truth: int) -> float:
    """Return the mean precision at the recalls 0, 0.01, ... 1, each the best at that recall or beyond; 0 to 1.

    Args:
        scores: of the detections of one class in all chips; equal ones count in the order given, as COCO.
        hit: whether each found a true box.
        n_truth: number of true boxes of the class, found or not.

    Returns:
        NaN when there is no truth, 0 when there are no detections.
    """
    if n_truth == 0:
        return float("nan")
    return average_precision_of_ranked(hit[np.argsort(-scores, kind="stable")], n_truth)


def average_precision_of_ranked(hit: Bool[np.ndarray, "N"], n_truth: int) -> float:
    """Return the average precision of hits sorted by descending score, with at least one true box."""
    found = np.cumsum(hit)
    precision = found / np.arange(1, len(found) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    reached = np.searchsorted(found / n_truth, _RECALLS)
    return float(np.append(envelope, 0.0)[reached].mean())


class Curve(NamedTuple):
    """Precision, recall and F1 of the detections from each score upwards; (S,) each, the highest score first."""

    scores: Float[np.ndarray, "S"]
    precision: Float[np.ndarray, "S"]
    recall: Float[np.ndarray, "S"]
    f1: Float[np.ndarray, "S"]


def precision_recall(scores: Float[np.ndarray, "N"], hit: Bool[np.ndarray, "N"], n_truth: int) -> Curve:
    """Return precision, recall and F1 at each distinct score; recall is NaN without truth.

    Args:
        scores: of the detections, in any order.
        hit: whether each found a true box.
        n_truth: number of true boxes, found or not.
    """
    distinct, group = np.unique(-scores, return_inverse=True)
    n_detections = np.cumsum(np.bincount(group, minlength=len(distinct)))
    found = np.cumsum(np.bincount(group, weights=hit, minlength=len(distinct)))
    recall = found / n_truth if n_truth else np.full(len(distinct), np.nan)
    return Curve(-distinct, found / n_detections, recall, 2 * found / (n_detections + n_truth))


def best_score(scores: Float[np.ndarray, "N"], hit: Bool[np.ndarray, "N"], n_truth: int) -> float:
    """Return the score from which on detections have the best F1, the highest such score; NaN without any hit."""
    if not (n_truth and hit.any()):
        return float("nan")
    distinct, _, _, f1 = precision_recall(scores, hit, n_truth)
    return float(distinct[np.argmax(f1)])

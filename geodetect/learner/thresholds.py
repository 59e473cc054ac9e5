"""Thresholds from validation: the scores, and the overlap in suppression, with the best F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torchvision.ops import batched_nms

from geodetect.boxes import Boxes
from geodetect.chips.chip import Chips
from geodetect.learner.callbacks import hits_of
from geodetect.learner.results import DetectsChips
from geodetect.learner.validation_map import detect_ground
from geodetect.metadata import LOWEST_SCORE, NMS_IOU, UNKNOWN_SCORE, HasMetadata
from geodetect.metrics import precision_recall
from geodetect.scene.models import made_ready

_NMS_IOUS = [0.3, 0.35, 0.4, 0.45, NMS_IOU, 0.55, 0.6, 0.65, 0.7]


class _Remembered(HasMetadata):
    """A detector whose boxes before suppression are kept, and suppressed anew when it is asked for them again.

    Args:
        detector: made ready; it is asked once for each chip, and the chips come in the same order each time.
    """

    def __init__(self, detector: DetectsChips) -> None:
        self.metadata = detector.metadata
        self._detector = detector
        self._raw: list[Boxes] = []
        self._n_asked = 0

    def begin(self) -> None:
        """The first chip comes again."""
        self._n_asked = 0

    def detect(
        self, pixels: np.ndarray, /, *, min_score: float = LOWEST_SCORE, nms_iou: float = NMS_IOU
    ) -> list[Boxes]:
        """The boxes of each chip of the batch."""
        first, last = self._n_asked, self._n_asked + len(pixels)
        if last > len(self._raw):
            self._raw += self._detector.detect(pixels, min_score=min_score, nms_iou=1.0)
        self._n_asked = last  # not where memory did not suffice: half of them come again
        return [suppressed(boxes, nms_iou) for boxes in self._raw[first:last]]


def operating_point(detector: DetectsChips, chips: Chips) -> dict[str, float]:
    """For each class the score with the best F1 on a map of the chips' ground; 0.5 where that says nothing.

    Args:
        detector: what is to be used.
        chips: with true boxes, none of which it has learnt from.
    """
    best = _best_of(*detect_ground(made_ready(detector), chips), len(detector.classes))
    return dict(zip(detector.classes, best[:, 1].tolist(), strict=True))


def tune(detector: DetectsChips, chips: Chips) -> pd.DataFrame:
    """The best F1 on a map of the chips' ground, and the lowest score to count for it, at each overlap in suppression.

    The network sees each window once; what it gives is then suppressed at all overlaps, for each of which the
    windows are read again.

    Args:
        detector: what is tuned.
        chips: with true boxes, none of which it has learnt from.

    Returns:
        a row for each `nms_iou`; columns `f1` of each class and of `all`, their mean, and `min_score` of each class.
        A class without an object has NaN and 0.5.
    """
    remembered, best = _Remembered(made_ready(detector)), []
    for nms_iou in _NMS_IOUS:
        remembered.begin()
        best.append(_best_of(*detect_ground(remembered, chips, nms_iou=nms_iou), len(detector.classes)))
    index = pd.Index(_NMS_IOUS, name="nms_iou")
    f1 = pd.DataFrame([row[:, 0] for row in best], index, detector.classes)
    scores = pd.DataFrame([row[:, 1] for row in best], index, detector.classes)
    return pd.concat({"f1": f1.assign(all=f1.mean(axis=1)), "min_score": scores}, axis=1)


def suppressed(boxes: Boxes, nms_iou: float) -> Boxes:
    """The boxes of one chip that are left when the worse of two of a class goes, as inference does it."""
    corners, scores, labels = (torch.from_numpy(np.asarray(x)) for x in (boxes.xyxy, boxes.scores, boxes.labels))
    return boxes[batched_nms(corners, scores, labels, nms_iou).numpy()]


def _best_of(found: Sequence[Boxes], truth: Sequence[Boxes], n_classes: int) -> np.ndarray:
    """The best F1 of each class and the lowest score that gives it, (K, 2)."""
    scores, labels, hits = hits_of(list(found), list(truth))
    n_truth = np.bincount(np.concatenate([boxes.labels for boxes in truth]), minlength=n_classes)
    return np.array([_best_f1(scores[labels == k], hits[labels == k], int(n_truth[k])) for k in range(n_classes)])


def _best_f1(scores: np.ndarray, hits: np.ndarray, n_truth: int) -> tuple[float, float]:
    if not (n_truth and hits.any()):
        return (0.0 if n_truth else np.nan), UNKNOWN_SCORE
    distinct, _, _, f1 = precision_recall(scores, hits, n_truth)
    return float(f1.max()), float(distinct[f1.argmax()])

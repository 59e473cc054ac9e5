"""Detections of many chips matched with their true boxes: average precision, and the score with the best F1.

Shapes: N detections, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from geodetect.boxes import Boxes
from geodetect.metadata import DEFAULT_MIN_SCORE
from geodetect.metrics import average_precision, match_detections, precision_recall


class Best(NamedTuple):
    """The best F1 of each class, NaN without truth, and the highest score that gives it, 0.5 without a hit; (K,)."""

    f1: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True, eq=False)
class Hits:
    """Detections of all chips, and which of them match a true box.

    Args:
        scores: (N,) scores of the detections, without those of true boxes that are ignored.
        labels: (N,) labels of the detections.
        hits: (N,) whether each matches a true box of its chip.
        n_truth: (K,) number of true boxes of each class.
    """

    scores: np.ndarray
    labels: np.ndarray
    hits: np.ndarray
    n_truth: np.ndarray

    @classmethod
    def of(cls, found: Sequence[Boxes], truth: Sequence[Boxes], n_classes: int, match_iou: float = 0.5) -> Hits:
        """Match the detections of each chip with its true boxes."""
        partners = [match_detections(a, b, match_iou)[0] for a, b in zip(found, truth, strict=True)]
        counted = [np.append(true.counted, True)[partner] for partner, true in zip(partners, truth, strict=True)]
        every = Boxes.concat([boxes[some] for boxes, some in zip(found, counted, strict=True)], scored=True)
        assert every.scores is not None
        hits = [partner[some] >= 0 for partner, some in zip(partners, counted, strict=True)]
        labels = [true.labels[true.counted] for true in truth]
        return cls(
            every.scores,
            every.labels,
            np.concatenate([np.zeros(0, bool), *hits]),
            np.bincount(np.concatenate([np.zeros(0, int), *labels]), minlength=n_classes),
        )

    def average_precision(self) -> np.ndarray:
        """Return the average precision of each class, (K,); NaN for a class without a true box."""
        classes = [(n, self.labels == k) for k, n in enumerate(self.n_truth)]
        return np.array([average_precision(self.scores[own], self.hits[own], int(n)) for n, own in classes])

    def best_f1(self) -> Best:
        """Return the best F1 of each class and the score that gives it."""
        f1, scores = np.where(self.n_truth > 0, 0.0, np.nan), np.full(len(self.n_truth), DEFAULT_MIN_SCORE)
        for k, n in enumerate(self.n_truth):
            own = self.labels == k
            if n and self.hits[own].any():
                curve = precision_recall(self.scores[own], self.hits[own], int(n))
                f1[k], scores[k] = curve.f1.max(), curve.scores[curve.f1.argmax()]
        return Best(f1, scores)

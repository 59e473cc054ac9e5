"""COCO's scores of detections on chips: AP at ten overlaps, by size of the objects, and recall.

The boxes of all chips are matched together, once for each overlap and size.

Shapes: C chips, K classes, N detections and M true boxes of all chips, P pairs that overlap. The rules are those of
https://github.com/cocodataset/cocoapi/blob/master/PythonAPI/pycocotools/cocoeval.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int

from geodetect.boxes import Boxes, Pairs, area, find_overlaps
from geodetect.errors import ArgumentError
from geodetect.metrics.matching import ALMOST_ONE, assign_pairs
from geodetect.metrics.precision import average_precision_of_ranked

_IOUS = np.linspace(0.5, 0.95, 10)  # "iouThrs - [.5:.05:.95] T=10 IoU thresholds for evaluation"
_AP50, _AP75 = 0, 5
_LOWEST = np.nextafter(_IOUS[0], 0)  # `find_overlaps` returns what lies above
# "areaRng", in square pixels, both ends included.
_AREAS = {"": (0.0, np.inf), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, np.inf)}


def coco_scores(
    found: Sequence[Boxes], truth: Sequence[Boxes], n_classes: int, *, max_boxes: int | None = None
) -> dict[str, Float[np.ndarray, "K"]]:
    """Return AP, AP50, AP75, APs, APm, APl and AR of each class over all chips, 0 to 1, as COCO defines them.

    AP is the mean of the average precisions at the overlaps 0.5, 0.55, ... 0.95, AR that of the recalls;
    AP50 and AP75 are those at one overlap. APs, APm and APl are of objects of up to 32 x 32 pixels, up to 96 x 96,
    and larger. Detections on chips without truth count, and equal scores rank in the order given.

    Args:
        found: detections of each chip, with scores.
        truth: true boxes of each chip; those that are `ignored` are taken last, and neither they nor the detections
            that take them count.
        n_classes: number of classes; labels run from 0.
        max_boxes: most detections of a class in a chip that count, the highest scores first; None: all (COCO: 100).

    Returns:
        for each name an array (K,) of float64; NaN for a class without truth (of that size).

    Raises:
        ArgumentError: if chips are not alike in number, a detection has no score, or a label no class.
    """
    if len(found) != len(truth):
        raise ArgumentError(
            f"every chip needs its detections and its true boxes, if only empty ones; got detections of {len(found)} "
            f"chips and true boxes of {len(truth)}"
        )
    if any(boxes.scores is None and len(boxes) for boxes in found):
        raise ArgumentError("detections need scores to be ranked by; got some without")
    if max_boxes is not None and max_boxes < 1:
        raise ArgumentError(f"max_boxes must be at least 1, or None for no limit; got {max_boxes}")
    labels = np.concatenate([np.zeros(0, int), *(boxes.labels for boxes in [*found, *truth])])
    if labels.size and not 0 <= labels.min() <= labels.max() < n_classes:
        raise ArgumentError(
            f"labels must run from 0 to {n_classes - 1} where n_classes is {n_classes}; "
            f"got labels from {labels.min()} to {labels.max()}"
        )
    contest = _Contest.of(found, truth, max_boxes)
    by_size = {}
    for size, limits in _AREAS.items():
        by_size[size], recall = contest.within(*limits).evaluate(n_classes)
        if not size:
            scores = {"AP50": by_size[""][:, _AP50], "AP75": by_size[""][:, _AP75], "AR": recall.mean(axis=1)}
    scores |= {f"AP{size}": precision.mean(axis=1) for size, precision in by_size.items()}
    return {name: scores[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR")}


@dataclass(frozen=True, eq=False)
class _Contest:
    """Detections of all chips and the true boxes that each may take, in order of preference.

    Args:
        labels: (N,) class of each detection; sorted by class, then by descending score.
        areas: (N,) of detections.
        true_labels: (M,).
        true_areas: (M,).
        i: (P,) detection of each pair that overlaps by 0.5 or more, ascending.
        j: (P,) its true box; of one detection the preferred one first.
        iou: (P,) their overlap.
        ignored: (N,) detections of a size that does not count.
        true_ignored: (M,) true boxes of such a size, and those that are ignored at any size.
    """

    labels: Int[np.ndarray, "N"]
    areas: Float[np.ndarray, "N"]
    true_labels: Int[np.ndarray, "M"]
    true_areas: Float[np.ndarray, "M"]
    i: Int[np.ndarray, "P"]
    j: Int[np.ndarray, "P"]
    iou: Float[np.ndarray, "P"]
    ignored: Bool[np.ndarray, "N"]
    true_ignored: Bool[np.ndarray, "M"]

    @classmethod
    def of(cls, found: Sequence[Boxes], truth: Sequence[Boxes], max_boxes: int | None) -> _Contest:
        """Find the pairs of one chip and class that overlap enough to match at all, over all sizes."""
        detections, true = Boxes.concat(found, scored=True), Boxes.concat(truth)
        assert detections.scores is not None
        parts: list[Pairs] = []
        n_found = n_true = 0
        for ours, theirs in zip(found, truth, strict=True):  # numbered through all chips
            if len(ours) and len(theirs):
                i, j, iou = find_overlaps(ours, theirs, _LOWEST)
                parts.append(Pairs(i + n_found, j + n_true, iou))
            n_found, n_true = n_found + len(ours), n_true + len(theirs)
        nothing = np.zeros(0, int), np.zeros(0, int), np.zeros(0)
        i, j, iou = (np.concatenate(part) for part in zip(nothing, *parts, strict=True))
        same = detections.labels[i] == true.labels[j]
        i, j, iou = i[same], j[same], iou[same]
        order = np.lexsort((-detections.scores, detections.labels))
        if max_boxes is not None:
            chip = np.repeat(np.arange(len(found)), [len(boxes) for boxes in found])
            order = order[_are_first(chip[order], detections.labels[order], max_boxes)]
        place = np.full(len(detections), -1)
        place[order] = np.arange(len(order))
        kept = place[i] >= 0
        i, j, iou = place[i[kept]], j[kept], iou[kept]
        pairs = np.lexsort((-j, -iou, i))  # of equal overlaps the last true box, as in COCO's loop
        return cls(
            labels=detections.labels[order],
            areas=area(detections.xyxy[order]),
            true_labels=true.labels,
            true_areas=area(true.xyxy),
            i=i[pairs],
            j=j[pairs],
            iou=iou[pairs],
            ignored=np.zeros(len(order), bool),
            true_ignored=~true.counted,
        )

    def within(self, low: float, high: float) -> _Contest:
        """Ignore boxes with an area below `low` or above `high`: such true boxes are taken last, and do not count."""
        ignored, true_ignored = (~((low <= areas) & (areas <= high)) for areas in (self.areas, self.true_areas))
        true_ignored |= self.true_ignored
        order = np.argsort(2 * self.i + true_ignored[self.j], kind="stable")
        pairs = {name: getattr(self, name)[order] for name in ("i", "j", "iou")}
        return replace(self, ignored=ignored, true_ignored=true_ignored, **pairs)

    def evaluate(self, n_classes: int) -> tuple[Float[np.ndarray, "K 10"], Float[np.ndarray, "K 10"]]:
        """Return average precision and recall of each class at each overlap; NaN without truth."""
        classes = np.arange(n_classes)
        starts, ends = (np.searchsorted(self.labels, classes, side) for side in ("left", "right"))
        n_truth = np.bincount(self.true_labels[~self.true_ignored], minlength=n_classes)
        precision, recall = np.full((2, n_classes, len(_IOUS)), np.nan)
        for t, match_iou in enumerate(_IOUS):
            able = self.iou >= min(match_iou, ALMOST_ONE)
            i, j = self.i[able], self.j[able]
            # The true box that each detection gets; where it gets none, the last value, which stands for none.
            partner = np.append(j, -1)[assign_pairs(i, j, len(self.labels), len(self.true_labels))]
            hit = partner >= 0
            counts = ~np.where(hit, np.append(self.true_ignored, False)[partner], self.ignored)
            for k in np.flatnonzero(n_truth):
                mine = slice(starts[k], ends[k])
                hits = hit[mine][counts[mine]]
                precision[k, t] = average_precision_of_ranked(hits, int(n_truth[k]))
                recall[k, t] = hits.sum() / n_truth[k]
        return precision, recall


def _are_first(chip: Int[np.ndarray, "N"], label: Int[np.ndarray, "N"], n: int) -> Bool[np.ndarray, "N"]:
    """Return which detections are among the first `n` of their class in their chip."""
    order = np.lexsort((chip, label))
    starts = np.flatnonzero(np.r_[True, (np.diff(chip[order]) != 0) | (np.diff(label[order]) != 0)][: len(order)])
    lengths = np.diff(np.r_[starts, len(order)])
    first = np.empty(len(order), bool)
    first[order] = np.arange(len(order)) - np.repeat(starts, lengths) < n
    return first

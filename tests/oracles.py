"""Slow, plain loops that our array code must agree with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely

from geodetect.boxes import Boxes


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [max(0.0, x2 - x1) * max(0.0, y2 - y1) for x1, y1, x2, y2 in (a, b)]
    union = areas[0] + areas[1] - width * height
    return width * height / union if union > 0 else 0.0


def ranked(boxes: Boxes) -> list[int]:
    """Indices, best first, as `Boxes.rank` promises."""

    def key(k: int) -> tuple[float, ...]:
        x1, y1, x2, y2 = boxes.xyxy[k]
        return -boxes.scores[k], y1, x1, y2, x2, boxes.labels[k]

    return sorted(range(len(boxes)), key=key)


def nms(boxes: Boxes, max_iou: float, *, by_class: bool = True) -> list[int]:
    """Greedy non-maximum suppression: each box against every better one that is kept."""
    kept: list[int] = []
    for k in ranked(boxes):
        rivals = [j for j in kept if not by_class or boxes.labels[j] == boxes.labels[k]]
        if all(iou(boxes.xyxy[k], boxes.xyxy[j]) <= max_iou for j in rivals):
            kept.append(k)
    return kept


def match(found: Boxes, truth: Boxes, match_iou: float, *, by_class: bool = True) -> list[int]:
    """The true box of each detection, -1 for none, by COCO's loop over detections and true boxes."""
    partner, taken = [-1] * len(found), set()
    for k in ranked(found):
        best = min(match_iou, 1 - 1e-10)
        for j in range(len(truth)):
            if j in taken or (by_class and found.labels[k] != truth.labels[j]):
                continue
            overlap = iou(found.xyxy[k], truth.xyxy[j])
            if overlap >= best:
                best, partner[k] = overlap, j
        taken.add(partner[k])
        taken.discard(-1)
    return partner


def once(boxes: Boxes, *, by_class: bool = True) -> Boxes:
    """The boxes without those that repeat an earlier one (of their class) to half a per cent of its width."""
    kept = []
    for k, (box, label) in enumerate(zip(boxes.xyxy, boxes.labels, strict=True)):
        for other, theirs in zip(boxes.xyxy[:k], boxes.labels[:k], strict=True):
            slack = min(other[2] - other[0], other[3] - other[1]) / 200
            if (theirs == label or not by_class) and shapely.box(*box).hausdorff_distance(shapely.box(*other)) <= slack:
                break
        else:
            kept.append(k)
    return boxes[np.array(kept, int)]


def average_precision(scores: Sequence[float], hit: Sequence[bool], n_truth: int) -> float:
    """The mean over 101 recalls of the best precision at that recall or a higher one."""
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    points = []
    for n in range(1, len(order) + 1):
        n_hit = sum(hit[k] for k in order[:n])
        points.append((n_hit / n_truth if n_truth else math.nan, n_hit / n))
    best = [max((p for r, p in points if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
    return math.nan if n_truth == 0 else float(np.mean(best))


def oriented_average_precisions(
    found: Sequence[Boxes], truth: Sequence[Boxes], n_classes: int, match_ious: Sequence[float]
) -> np.ndarray:
    """The average precision of each class at each overlap, by COCO's loop over the polygons of oriented boxes."""
    scores = np.zeros((n_classes, len(match_ious)))
    for k in range(n_classes):
        for t, match_iou in enumerate(match_ious):
            ranked_hits: list[tuple[float, bool]] = []
            for ours, theirs in zip(found, truth, strict=True):
                true = [shapely.Polygon(corners) for corners in theirs.corners[theirs.labels == k]]
                own = ours[ours.labels == k]
                taken: set[int] = set()
                for i in np.argsort(-own.scores, kind="stable"):
                    polygon, best, partner = shapely.Polygon(own.corners[i]), min(match_iou, 1 - 1e-10), -1
                    for j, other in enumerate(true):
                        shared = polygon.intersection(other).area
                        overlap = shared / (polygon.area + other.area - shared)
                        if j not in taken and overlap >= best:
                            best, partner = overlap, j
                    taken.add(partner)
                    ranked_hits.append((float(own.scores[i]), partner >= 0))
            n_truth = sum(int((boxes.labels == k).sum()) for boxes in truth)
            ranked_scores, hits = zip(*ranked_hits, strict=True)
            scores[k, t] = average_precision(ranked_scores, hits, n_truth)
    return scores

"""Matching and average precision of boxes, by the rules of COCO without its cap of 100 boxes."""

from geodetect.metrics.coco import coco_scores
from geodetect.metrics.matching import check_match_iou, match_detections, match_pairs
from geodetect.metrics.precision import average_precision, best_score, precision_recall

__all__ = [
    "average_precision",
    "best_score",
    "check_match_iou",
    "coco_scores",
    "match_detections",
    "match_pairs",
    "precision_recall",
]

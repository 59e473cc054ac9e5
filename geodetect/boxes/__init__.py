"""Boxes as arrays, upright or oriented: overlap, suppression, moving between frames."""

from geodetect.boxes.boxes import Boxes, area, chained, enclosing, from_xywh, to_xywh
from geodetect.boxes.overlap import Pairs, iou, iou_of_pairs, iou_of_upright, overlapping, shared_area
from geodetect.boxes.suppression import Settled, nms, settle

__all__ = [
    "Boxes",
    "Pairs",
    "Settled",
    "area",
    "chained",
    "enclosing",
    "from_xywh",
    "iou",
    "iou_of_pairs",
    "iou_of_upright",
    "nms",
    "overlapping",
    "settle",
    "shared_area",
    "to_xywh",
]

"""Boxes as arrays, upright or oriented: overlap, suppression, moving between frames."""

from geodetect.boxes.boxes import (
    Boxes,
    area,
    connected_components,
    from_xywh,
    oriented_envelope,
    stable_order,
    to_xywh,
)
from geodetect.boxes.overlap import Pairs, find_overlaps, iou, iou_of_pairs, iou_of_upright, shared_area
from geodetect.boxes.suppression import Settled, nms, nms_in_groups, settle

__all__ = [
    "Boxes",
    "Pairs",
    "Settled",
    "area",
    "connected_components",
    "find_overlaps",
    "from_xywh",
    "iou",
    "iou_of_pairs",
    "iou_of_upright",
    "nms",
    "nms_in_groups",
    "oriented_envelope",
    "settle",
    "shared_area",
    "stable_order",
    "to_xywh",
]

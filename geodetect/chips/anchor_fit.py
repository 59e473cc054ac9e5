"""Share of objects that anchors reach, and a search for anchors that reach more.

Of the anchors of one level and shape, the one with the nearest centre has the highest IoU with a box, so only that one
is compared.

Shapes: N boxes, L levels, S anchors of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from geodetect.anchors import LEVELS, AnchorSpec
from geodetect.boxes import iou_of_upright

_BASES = (4.0, 3.0, 2.0, 1.5, 1.0)
_ELONGATIONS = (2.0, 1.5, 2.5, 3.0, 4.0)
_LEAST_GAIN = 0.01  # of the objects; for less the paper's anchors are kept
REACHED = 0.5  # IoU at which an anchor is matched to a box
_SAMPLE = 3000  # boxes; more do not change the result


@dataclass(frozen=True)
class AnchorSuggestion:
    """Anchors fitted to boxes.

    Args:
        scales: sides of a cell's anchors over the base side.
        ratios: height over width of a cell's anchors.
        anchor_size: base side as a multiple of the level's stride.
        recall_before: share of boxes with an IoU of at least 0.5 with a default anchor.
        recall_after: the same share with these anchors.
    """

    scales: Sequence[float]
    ratios: Sequence[float]
    anchor_size: float
    recall_before: float
    recall_after: float


def best_iou(xyxy: np.ndarray, shape: tuple[int, int], spec: AnchorSpec | None = None) -> np.ndarray:
    """Return the highest IoU of each box with any anchor of a chip, (N,), 0 to 1.

    Args:
        xyxy: (N, 4) corners in chip pixels.
        shape: (height, width) of the chip in pixels.
        spec: shapes of the anchors; None for the paper's.
    """
    spec = spec or AnchorSpec()
    centres = (xyxy[:, :2] + xyxy[:, 2:]) / 2
    best = np.zeros(len(xyxy))
    for stride in spec.strides:
        last = np.ceil(np.array(shape[::-1]) / stride) - 1
        nearest = np.clip(np.round(centres / stride), 0, last) * stride
        half = spec.half_sides(stride)
        anchors = np.concatenate([nearest[:, None] - half, nearest[:, None] + half], axis=-1)
        best = np.maximum(best, iou_of_upright(anchors, xyxy[:, None]).max(axis=1, initial=0))
    return best


def suggest_anchors(
    boxes: Sequence[np.ndarray], shape: tuple[int, int], levels: Sequence[int] = LEVELS
) -> AnchorSuggestion:
    """Choose the base size and ratios, of a small table, that reach most boxes; the default if it is as good.

    Scales remain three to the octave: strides double between levels, so other steps leave gaps or repeat.

    Args:
        boxes: (N, 4) corners in pixels, an array for each chip.
        shape: (height, width) of the chips in pixels.
        levels: first and last level of the pyramid.
    """
    xyxy = np.concatenate([np.zeros((0, 4)), *boxes])
    xyxy = xyxy[np.random.default_rng(0).permutation(len(xyxy))[:_SAMPLE]]

    def quality(spec: AnchorSpec) -> tuple[float, float]:
        best = best_iou(xyxy, shape, spec)
        return (float((best >= REACHED).mean()), float(best.mean())) if len(best) else (1.0, 1.0)

    chosen = AnchorSpec(levels=levels)
    found = quality(chosen)
    before = found[0]
    for base, elongation in product(_BASES, _ELONGATIONS):
        spec = AnchorSpec(ratios=(1 / elongation, 1.0, elongation), anchor_size=base, levels=levels)
        tried = quality(spec)
        if tried[0] > found[0] + _LEAST_GAIN:
            chosen, found = spec, tried
    return AnchorSuggestion(chosen.scales, chosen.ratios, chosen.anchor_size, before, found[0])

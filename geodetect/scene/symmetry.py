"""Test-time augmentation: windows in all eight symmetries of a square.

Shapes: B windows, C channels, H W pixels, N boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from geodetect.boxes import Boxes, nms

Detect = Callable[[np.ndarray], list[Boxes]]
_SYMMETRIES = tuple(product((False, True), repeat=3))  # transposed, then mirrored in x, then in y


def in_all_symmetries(detect: Detect, nms_iou: float) -> Detect:
    """Return a function that runs `detect` on all eight symmetries of square windows (B, C, H, W).

    Aerial images have no preferred orientation: rotated or mirrored, they are just as likely. If several
    views show the same object, the box with the highest score is kept, as between windows.

    Args:
        detect: returns the boxes of each window, with scores.
        nms_iou: overlap above which the lower-scored of two boxes of one class is dropped.
    """

    def detect_in_all(pixels: np.ndarray) -> list[Boxes]:
        views = []
        for transposed, mirrored_x, mirrored_y in _SYMMETRIES:
            view = pixels.swapaxes(-2, -1) if transposed else pixels
            view = view[..., :: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1]
            found = detect(view.copy())  # a model may modify its input
            views.append(_back(found, pixels.shape[-1], transposed, mirrored_x, mirrored_y))
        every = (Boxes.concat(found, scored=True) for found in zip(*views, strict=True))
        return [boxes[nms(boxes, nms_iou)] for boxes in every]

    return detect_in_all


def _back(found: list[Boxes], side: int, transposed: bool, mirrored_x: bool, mirrored_y: bool) -> list[Boxes]:
    """Transform the boxes of a view back to window pixels."""
    back = []
    for boxes in found:
        x1, y1, x2, y2 = boxes.xyxy.T
        if mirrored_x:
            x1, x2 = side - x2, side - x1
        if mirrored_y:
            y1, y2 = side - y2, side - y1
        xyxy = (y1, x1, y2, x2) if transposed else (x1, y1, x2, y2)
        # Each mirroring, and each swap of x and y, reverses angles; a swap also puts the longer side along y.
        odd = (transposed + mirrored_x + mirrored_y) % 2
        angles = None if boxes.angles is None else (-boxes.angles if odd else boxes.angles)
        back.append(Boxes(np.stack(xyxy, axis=1), boxes.labels, boxes.scores, angles))
    return back

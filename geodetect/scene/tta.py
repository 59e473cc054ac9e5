"""Test-time augmentation: windows in all eight symmetries of a square.

Shapes: B windows, C channels, H W pixels, N boxes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from jaxtyping import Shaped

from geodetect.boxes import Boxes, nms_in_groups

_SYMMETRIES = tuple(product((False, True), repeat=3))  # transposed, then mirrored in x, then in y


def views_of(pixels: Shaped[np.ndarray, "B C H H"]) -> Iterator[Shaped[np.ndarray, "B C H H"]]:
    """Yield square windows in all eight symmetries, as copies."""
    for transposed, mirrored_x, mirrored_y in _SYMMETRIES:
        view = pixels.swapaxes(-2, -1) if transposed else pixels
        yield view[..., :: -1 if mirrored_y else 1, :: -1 if mirrored_x else 1].copy()  # a model may modify its input


def merge_views(found: Sequence[Sequence[Boxes]], side: int, nms_iou: float) -> list[Boxes]:
    """Return the boxes of each window, given those of its views, highest score first.

    Aerial images have no preferred orientation: rotated or mirrored, they are just as likely. If several
    views show the same object, the box with the highest score is kept, as between windows.

    Args:
        found: for each of `views_of`, the boxes of each window, with scores.
        side: of the windows in pixels.
        nms_iou: overlap above which the lower-scored of two boxes of one class is dropped.
    """
    every = Boxes.concat(_back(Boxes.concat(view), side, *how) for view, how in zip(found, _SYMMETRIES, strict=True))
    n_windows = len(found[0])
    of = np.concatenate([np.repeat(np.arange(n_windows), [len(boxes) for boxes in view]) for view in found])
    kept = nms_in_groups(every, of, nms_iou)
    every, ends = every[kept], np.bincount(of[kept], minlength=n_windows).cumsum().tolist()
    return [every[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _back(boxes: Boxes, side: int, transposed: bool, mirrored_x: bool, mirrored_y: bool) -> Boxes:
    """Transform the boxes of a view back to window pixels."""
    x1, y1, x2, y2 = boxes.xyxy.T
    if mirrored_x:
        x1, x2 = side - x2, side - x1
    if mirrored_y:
        y1, y2 = side - y2, side - y1
    xyxy = (y1, x1, y2, x2) if transposed else (x1, y1, x2, y2)
    # Each mirroring, and each swap of x and y, reverses angles; a swap also puts the longer side along y.
    odd = (transposed + mirrored_x + mirrored_y) % 2
    angles = None if boxes.angles is None else (-boxes.angles if odd else boxes.angles)
    return Boxes(np.stack(xyxy, axis=1), boxes.labels, boxes.scores, angles)

"""Checks that an exported program gives the same candidates as the network.

Candidates are ordered by score, and rounding may swap two with nearly equal scores. So sorted scores are compared,
and boxes only where the order is certain.

Shapes: B pictures, N candidates of a picture, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.export.program import BATCHES, Detections, check_difference, make_noise

_SCORE_TOLERANCE = 1e-4
_BOX_TOLERANCE = 1e-3  # as a fraction of the chip size
_NOISE, _NOISE_FACTOR = 1e-6, 10  # relative change of each pixel; allowed multiple of its effect
_QUANTILE = 0.99
_THIN = 0.01  # px


def to_centres_and_sides(boxes: Tensor) -> Tensor:
    """Return boxes (..., 4) or (..., 5) as centre, width and height, without an angle."""
    upper_left, lower_right = boxes[..., :2], boxes[..., 2:4]
    return torch.cat([(upper_left + lower_right) / 2, lower_right - upper_left], dim=-1)


def to_rows(boxes: Tensor, scores: Tensor) -> np.ndarray:
    """Return candidates (B, N, 4 + K): centre, sides, and the score of each class; with an angle (B, N, 5 + K)."""
    return np.asarray(torch.cat([to_centres_and_sides(boxes), scores, boxes[..., 4:]], dim=2).numpy())


@torch.inference_mode()
def check_same(run: Callable[[Tensor], np.ndarray], detections: Detections, detector: Detector) -> None:
    """Raise if a program and the network give different candidates for synthetic pictures.

    Some networks are so steep that rounding alone changes their results. The tolerance is therefore at least ten
    times the change that noise in the last digits of the input causes in the network itself.

    Args:
        run: the program, from pixels / 255 to the array of `to_rows`.
        detections: the module that was exported.
        detector: the detector that was exported.

    Raises:
        OutputError: if the results differ by more than the tolerance.
    """
    for n_pictures in BATCHES:
        pixels = make_noise(detector, n_pictures) / detections.scale + detections.mean
        got = run(pixels)
        due, shaken = to_rows(*detections(pixels)), to_rows(*detections(pixels * (1 + _NOISE)))
        if got.shape != due.shape:
            raise OutputError(f"the exported program gives {got.shape} where the network gives {due.shape}")
        n_classes = len(detector.classes)
        scores, scores_due, scores_shaken = (each[..., 4 : 4 + n_classes] for each in (got, due, shaken))
        allowed = max(_SCORE_TOLERANCE, _NOISE_FACTOR * _score_difference(scores_shaken, scores_due))
        check_difference(_score_difference(scores, scores_due), allowed, "the exported program")
        # Candidates that are certain of their rank and have no side near 0.
        apart = np.abs(np.diff(detections.candidates(pixels)[1].amax(dim=2).numpy(), axis=1)) > 2 * allowed
        above = np.pad(apart, ((0, 0), (1, 0)), constant_values=True)
        below = np.pad(apart, ((0, 0), (0, 1)))
        below[:, np.cumsum(detections.groups) - 1] = False  # the runner-up of a level is unknown
        certain = above & below & (due[..., 2:4] > _THIN).all(axis=2)
        boxes, boxes_due, boxes_shaken = (_boxes(each, n_classes) for each in (got, due, shaken))
        off, wobble = (np.abs(each - boxes_due)[certain].max(initial=0) for each in (boxes, boxes_shaken))
        allowed_box = max(_BOX_TOLERANCE * detector.chip_size, _NOISE_FACTOR * float(wobble))
        check_difference(float(off), allowed_box, "a box of the exported program")


def _score_difference(got: np.ndarray, due: np.ndarray) -> float:
    """Return the difference of the sorted scores of each class, at the 99 % quantile.

    The largest are ignored: where rounding swaps two candidates, one inside the chip may replace one outside it.
    """
    return float(np.quantile(np.abs(np.sort(got, axis=1) - np.sort(due, axis=1)), _QUANTILE))


def _boxes(rows: np.ndarray, n_classes: int) -> np.ndarray:
    """Return what to compare of the boxes among the numbers of `to_rows`: lengths in pixels that have no jumps.

    An angle counts by the difference of the sides, times cosine and sine of twice the angle.
    """
    boxes, angles = rows[..., :4], rows[..., 4 + n_classes :]
    longer = boxes[..., 2:3] - boxes[..., 3:4]
    return np.concatenate([boxes, longer * np.cos(2 * angles), longer * np.sin(2 * angles)], axis=2)

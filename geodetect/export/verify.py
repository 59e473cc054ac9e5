"""Whether a program that was written finds what the detector's network finds.

Candidates come in the order of their scores, which rounding may turn round where two are nearly alike. So scores are
compared by size, and boxes only where the place is beyond doubt.

Shapes: B pictures, N candidates of a picture, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.export.program import Detections, clouds, refuse_difference

_BATCHES = (1, 3)  # a program that took its example's B for a constant fails on one of them
_SCORE_TOLERANCE = 1e-4
_BOX_TOLERANCE = 1e-3  # as a part of the side of a chip
_SHAKEN, _STEEP = 1e-6, 10  # a part of each pixel; times what that changes
_NEARLY_ALL = 0.99
_THIN = 0.01  # pixels


def centres_and_sides(boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as centre, width and height."""
    upper_left, lower_right = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(upper_left + lower_right) / 2, lower_right - upper_left], dim=-1)


def rows(boxes: Tensor, scores: Tensor) -> np.ndarray:
    """Candidates (B, N, 4 + K): centre, sides, and the score of each class."""
    return np.asarray(torch.cat([centres_and_sides(boxes), scores], dim=2).numpy())


@torch.inference_mode()
def refuse_unlike(run: Callable[[Tensor], np.ndarray], detections: Detections, detector: Detector) -> None:
    """Nothing, when a program gives the same candidates as the network for soft blotches.

    A network may be so steep that rounding alone moves its answers; then more is allowed: ten times what the network
    differs from itself by when its input is shaken in the last digits.

    Args:
        run: the program, from pixels / 255 to `rows`.
        detections: what it was made of.
        detector: whose chips it takes.

    Raises:
        OutputError: if the two differ by more.
    """
    for n_pictures in _BATCHES:
        pixels = clouds(detector, n_pictures) / detections.scale + detections.mean
        got = run(pixels)
        due, shaken = rows(*detections(pixels)), rows(*detections(pixels * (1 + _SHAKEN)))
        if got.shape != due.shape:
            raise OutputError(f"the exported program gives {got.shape} where the network gives {due.shape}")
        allowed = max(_SCORE_TOLERANCE, _STEEP * _by_size(shaken, due))
        refuse_difference(_by_size(got, due), allowed, "the exported program")
        sure = _is_sure(detections.candidates(pixels)[1].amax(dim=2).numpy(), due, detections.groups, 2 * allowed)
        off, wobble = (np.abs(each - due)[sure].max(axis=0, initial=0)[:4].max() for each in (got, shaken))
        allowed_box = max(_BOX_TOLERANCE * detector.chip_size, _STEEP * float(wobble))
        refuse_difference(float(off), allowed_box, "a box of the exported program")


def _by_size(got: np.ndarray, due: np.ndarray) -> float:
    """By how much scores differ when each class has them by size; but for the few at the end.

    Where rounding turns round two candidates, one on the chip may come in the place of one beside it.
    """
    return float(np.quantile(np.abs(np.sort(got[..., 4:], axis=1) - np.sort(due[..., 4:], axis=1)), _NEARLY_ALL))


def _is_sure(best: np.ndarray, due: np.ndarray, groups: list[int], gap: float) -> np.ndarray:
    """Which candidates (B, N) neither change places with a neighbour nor have a side of nearly 0."""
    apart = np.abs(np.diff(best, axis=1)) > gap
    above = np.pad(apart, ((0, 0), (1, 0)), constant_values=True)
    below = np.pad(apart, ((0, 0), (0, 1)))
    below[:, np.cumsum(groups) - 1] = False  # what comes after the last of a level is not known
    return np.asarray(above & below & (due[..., 2:4] > _THIN).all(axis=2))

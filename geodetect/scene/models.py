"""What `detect_objects` asks of a model, and how it asks.

Shapes: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, ModelError

_MIN_SCORE = 0.5  # where a model does not know which score serves it best
_NEEDED = ("detect", "classes", "bands", "chip_size", "overlap", "pixel_size_m", "min_score")


class DetectsPixels(Protocol):
    """What `detect_objects` asks of a detector; any object that has these will do.

    A `detect` that also takes the keywords `min_score` or `nms_iou` is told them, which
    spares it boxes that would be dropped afterwards.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Names that the labels of boxes index, from 0."""

    @property
    def bands(self) -> Sequence[int]:
        """The bands it was trained on, counted from 1."""

    @property
    def chip_size(self) -> int:
        """Side of the squares it wants to see, in pixels."""

    @property
    def overlap(self) -> int | None:
        """How much windows share, in pixels: the size of the largest object; None: a quarter of `chip_size`."""

    @property
    def pixel_size_m(self) -> float | None:
        """Side of a pixel on the ground that it wants to see, in metres; None: the scene's own."""

    @property
    def min_score(self) -> float | Mapping[str, float] | None:
        """The score that serves best, for all classes or for each; None where unknown."""

    def detect(self, pixels: Any, /) -> list[Boxes]:
        """The boxes found in each square of (B, C, H, W), as read from the raster, in pixels of the square."""


class HoldsDetector(Protocol):
    """A learner: what it has trained so far is its `detector`."""

    @property
    def detector(self) -> DetectsPixels:
        """The detector that inference uses."""


def detector_of(model: Any, device: str | None, precision: str) -> DetectsPixels:
    """The detector that was handed over, or is part of, or lies in the file that was."""
    if isinstance(model, (str, Path)):
        from geodetect.detector import load_detector  # here, so that torch loads only where it is wanted

        return load_detector(model, device=device, precision=precision)
    detector: DetectsPixels = getattr(model, "detector", model)
    lacking = [name for name in _NEEDED if not hasattr(detector, name)]
    if lacking:
        raise ModelError(
            "model must be a RetinaNet, a Detector, the path of a saved one, or an object with "
            f"{', '.join(_NEEDED)}; this {type(detector).__name__} has no {', '.join(lacking)}"
        )
    return detector


def told(detector: DetectsPixels, lowest: np.ndarray, nms_iou: float) -> Callable[[np.ndarray], list[Boxes]]:
    """`detector.detect` with what it wants to know beforehand, its answers checked."""
    known = {"min_score": float(lowest.min(initial=1)), "nms_iou": nms_iou}
    wanted = inspect.signature(detector.detect).parameters
    detect = partial(detector.detect, **{name: known[name] for name in known if name in wanted})

    def checked(pixels: np.ndarray) -> list[Boxes]:
        found = detect(pixels)
        if not _is_answer(found, len(pixels)):
            raise ModelError(
                f"detect must give a list of {len(pixels)} Boxes with scores, one for each window; got {found!r:.60}"
            )
        labels = np.concatenate([boxes.labels for boxes in found])
        if labels.size and not 0 <= labels.min() <= labels.max() < len(lowest):
            raise ModelError(
                f"labels must index the model's {len(lowest)} classes from 0; "
                f"got labels from {labels.min()} to {labels.max()}"
            )
        return found

    return checked


def _is_answer(found: Any, n_windows: int) -> bool:
    """Whether a detector gave scored boxes for each window."""
    if not isinstance(found, Sequence) or len(found) != n_windows:
        return False
    return all(isinstance(boxes, Boxes) and boxes.scores is not None for boxes in found)


def lowest_scores(min_score: Any, detector: DetectsPixels) -> np.ndarray:
    """For each class the score below which its boxes are dropped, (K,)."""
    own = detector.min_score
    if own is None or (isinstance(own, Real) and math.isnan(own)):
        own = _MIN_SCORE
    lowest = _by_class(own, dict.fromkeys(detector.classes, _MIN_SCORE))
    if min_score is not None:
        lowest = _by_class(min_score, lowest)
    return np.array([lowest[name] for name in detector.classes], float)


def _by_class(min_score: Any, otherwise: Mapping[str, float]) -> dict[str, float]:
    """A score for each class; those that a mapping does not name keep what they have."""
    given = min_score if isinstance(min_score, Mapping) else dict.fromkeys(otherwise, min_score)
    unknown = [str(name) for name in given if name not in otherwise]
    if unknown:
        raise ArgumentError(
            f"min_score names {', '.join(unknown)}, and the model knows only {', '.join(otherwise)}; use its names"
        )
    for value in given.values():
        if not isinstance(value, Real) or not 0 <= float(value) <= 1:
            raise ArgumentError(
                f"min_score must lie between 0 and 1, or be a mapping of classes to such; got {value!r}"
            )
    return {**otherwise, **given}

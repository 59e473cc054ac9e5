"""The interface that `detect_objects` requires of a model, and checks of it.

Shapes: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from geodetect.addresses import expand_user
from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, ModelError, is_number, is_share, is_whole, warn
from geodetect.metadata import DEFAULT_MIN_SCORE
from geodetect.zoo.names import load_detector

_BATCH_SIZE = 8  # for a model without `suited_batch_size`
_NEEDED = ("detect", "classes", "bands", "chip_size", "overlap", "pixel_size_m", "min_score")


class DetectsPixels(Protocol):
    """The interface that `detect_objects` requires of a detector.

    If `detect` also takes the keywords `min_score` or `nms_iou`, they are passed, so that it can skip boxes that would
    be dropped afterwards. Optional members: `oriented`, True if its boxes have angles; `launch(pixels)` and
    `collect(launched)`, which together do what `detect` does, so that a GPU need not wait; `frozen(precision)` or
    `frozen(precision, device)`, which returns a copy optimised for many windows; `suited_batch_size(chip_size)`;
    `n_to_calibrate`, how many windows with data from all over the scene `calibrate(pixels)` gets before the run;
    `empty(shape, dtype)`, which returns an array for pixels where its device copies them from fastest; `checksum`,
    any text that identifies its weights, so that `resume` does not continue the run of another model.
    Without `checksum`, torch modules among its attributes serve the same purpose.
    """

    @property
    def classes(self) -> Sequence[str]:
        """Class names, indexed by the labels of boxes from 0."""

    @property
    def bands(self) -> Sequence[int]:
        """Bands that it was trained on, counted from 1."""

    @property
    def chip_size(self) -> int:
        """Side of the square windows that it expects, in pixels."""

    @property
    def overlap(self) -> int | None:
        """Overlap of windows in pixels, the size of the largest object; None: a quarter of `chip_size`."""

    @property
    def pixel_size_m(self) -> float | None:
        """Pixel size on the ground that it expects, in metres; None: the scene's own."""

    @property
    def min_score(self) -> float | Mapping[str, float] | None:
        """Best score threshold, for all classes or for each; None if unknown."""

    def detect(self, pixels: Any, /) -> list[Boxes]:
        """Return the boxes found in each window of (B, C, H, W) raster values, in pixels of the window."""


Model = TypeVar("Model", bound=DetectsPixels)


class HoldsDetector(Protocol):
    """A learner, with its current detector as `detector`."""

    @property
    def detector(self) -> DetectsPixels:
        """Detector to run."""


def detector_of(model: Any, device: str | None, precision: str) -> DetectsPixels:
    """Return a detector given as an object, a learner or a file."""
    if isinstance(model, (str, Path)):
        model = load_detector(model, device=device, precision=precision)
    if isinstance(model, type):
        raise ModelError(f"model must be an object that detects; got the class {model.__name__}, make one of it first")
    whole = all(hasattr(model, name) for name in _NEEDED)  # then an attribute `detector` of the model is ignored
    detector: DetectsPixels = model if whole else getattr(model, "detector", model)
    lacking = [name for name in _NEEDED if not hasattr(detector, name)]
    if lacking:
        raise ModelError(
            "model must be a RetinaNet, a Detector, the path of a saved one, or an object with "
            f"{', '.join(_NEEDED)}; this {type(detector).__name__} has no {', '.join(lacking)}"
        )
    for name, (is_possible, expected) in _ATTRIBUTES.items():
        value = getattr(detector, name, None)
        if not is_possible(value):
            raise ModelError(f"{name} of this {type(detector).__name__} must be {expected}; got {value!r:.80}")
    if hasattr(detector, "warn_if_untrained"):
        detector.warn_if_untrained()
    return detector


@dataclass(frozen=True, eq=False)
class ChosenModel:
    """The model of a run, with its device and precision.

    Args:
        detector: the model, loaded.
        name: of a model given by its name; None: given as an object.
        device: as requested; None: where the detector is.
        precision: as requested, or as chosen in the run that is resumed; None: the detector's own.
        by_trial: whether the detector chooses its precision in a benchmark, whose result may vary.
    """

    detector: DetectsPixels
    name: str | Path | None
    device: str | None
    precision: str | None
    by_trial: bool


def load_model(
    model: Any, device: str | None, precision: str, *, earlier: str | None = None, is_local: bool = True
) -> ChosenModel:
    """Load a model given as an object, a learner or a name, and fix its device and precision before the run.

    Args:
        model: as given.
        device: as requested; None: where the model is, or for a name a GPU if available.
        precision: as requested.
        earlier: precision of the run that is resumed.
        is_local: whether it runs in this process; otherwise one given by its name is loaded on the processor.
    """
    name = expand_user(model) if isinstance(model, str | Path) else None
    here = "cpu" if not is_local or (device is None and precision == "int8") else device
    detector = detector_of(model if name is None else name, here, precision)
    if name is not None:
        precision = "auto"  # it was loaded with the requested one
    by_trial = precision == getattr(detector, "precision", None) == "auto"
    chosen = earlier if by_trial else None if precision == "auto" else precision
    return ChosenModel(detector, name, device, chosen, by_trial)


def is_oriented(detector: Any) -> bool:
    """Return whether the detector's boxes have angles; those of a detector that does not say so are upright."""
    return bool(getattr(detector, "oriented", False))


def _is_list(value: Any) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping | Set)


_ATTRIBUTES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "detect": (callable, "a method"),
    "classes": (
        lambda value: _is_list(value) and all(isinstance(v, str) for v in value) and 0 < len(value) == len(set(value)),
        "a list of names (str), all different",
    ),
    "bands": (
        lambda value: (
            _is_list(value) and len(value) > 0 and all(isinstance(b, str) or (is_whole(b) and b > 0) for b in value)
        ),
        "a list of the raster's bands, numbered from 1, such as (1, 2, 3)",
    ),
    "chip_size": (lambda value: is_whole(value) and value > 0, "a whole number of pixels above 0"),
    "overlap": (lambda value: value is None or (is_whole(value) and value >= 0), "a whole number of pixels, or None"),
    "pixel_size_m": (lambda value: value is None or (is_number(value) and value > 0), "metres above 0, or None"),
    "oriented": (lambda value: value is None or isinstance(value, bool | np.bool_), "True or False"),
}


def optimise(detector: Model, precision: str | None = None, device: str | None = None) -> Model:
    """Return the detector optimised for many windows: its `frozen(precision)` if it has that, or itself.

    Args:
        detector: any.
        precision: as requested, or as chosen by an earlier run or another machine; None: chosen by the detector.
        device: where to run it; None: where it is.
    """
    if not callable(getattr(detector, "frozen", None)):
        if precision is not None or device is not None:
            warn(f"this {type(detector).__name__} does not support precision and device; they are ignored")
        return detector
    choices = (precision,) if device is None else (precision, device)
    fast: Model = detector.frozen(*choices)  # type: ignore[attr-defined]
    return fast


def suited_batch_size(detector: DetectsPixels, chip_size: int) -> int:
    """Return how many windows of `chip_size` pixels to run at once: the detector's choice, or 8.

    Raises:
        ModelError: if the detector returns anything but a whole number above 0.
    """
    if not hasattr(detector, "suited_batch_size"):
        return _BATCH_SIZE
    size = detector.suited_batch_size(chip_size)
    if not (is_whole(size) and size > 0):
        raise ModelError(
            f"suited_batch_size of this {type(detector).__name__} must give a number above 0; got {size!r}"
        )
    return int(size)


def resolve_min_scores(min_score: Any, detector: DetectsPixels) -> np.ndarray:
    """Return the minimum score of each class, (K,)."""
    own = detector.min_score
    if isinstance(own, Mapping):
        own = {name: score for name, score in own.items() if not _is_unknown(score)}
    default = dict.fromkeys(detector.classes, DEFAULT_MIN_SCORE)
    lowest = default if _is_unknown(own) else _by_class(own, default)
    if min_score is not None:
        lowest = _by_class(min_score, lowest)
    return np.array([lowest[name] for name in detector.classes], float)


def _is_unknown(score: Any) -> bool:
    return score is None or (isinstance(score, Real) and math.isnan(score))


def _by_class(min_score: Any, otherwise: Mapping[str, float]) -> dict[str, float]:
    """Return a score for each class; classes that a mapping does not name keep their score in `otherwise`."""
    given = min_score if isinstance(min_score, Mapping) else dict.fromkeys(otherwise, min_score)
    unknown = [str(name) for name in given if name not in otherwise]
    if unknown:
        raise ArgumentError(
            f"min_score names {', '.join(unknown)}, and the model knows only {', '.join(otherwise)}; use its names"
        )
    for value in given.values():
        if not is_share(value):
            raise ArgumentError(
                f"min_score must lie between 0 and 1, or be a mapping of classes to such; got {value!r}"
            )
    return {**otherwise, **given}

"""Object detection in aerial and satellite imagery, from labels to map.

The names below load what they need on first use, so that importing the package
and asking the command line for help stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers know of the names below
    from geodetect import accuracy as accuracy
    from geodetect import boxes as boxes
    from geodetect import chips as chips
    from geodetect import detector as detector
    from geodetect import errors as errors
    from geodetect import grid as grid
    from geodetect import learner as learner
    from geodetect import metrics as metrics
    from geodetect import scene as scene
    from geodetect import vector as vector
    from geodetect.accuracy import compute_accuracy as compute_accuracy
    from geodetect.boxes import Boxes as Boxes
    from geodetect.chips import export_training_data as export_training_data
    from geodetect.chips import prepare_data as prepare_data
    from geodetect.detector import Detector as Detector
    from geodetect.drawing import show as show
    from geodetect.learner import RetinaNet as RetinaNet
    from geodetect.scene import detect_objects as detect_objects
    from geodetect.viewer import view as view
    from geodetect.zoo import load_detector as load_detector
    from geodetect.zoo import published as published

__version__ = "0.2.0.dev0"

_HOMES = {
    "Boxes": "boxes",
    "Detector": "detector",
    "RetinaNet": "learner",
    "compute_accuracy": "accuracy",
    "detect_objects": "scene",
    "export_training_data": "chips",
    "load_detector": "zoo.names",
    "prepare_data": "chips",
    "published": "zoo.catalog",
    "show": "drawing",
    "view": "viewer",
}
_ROOMS = ("accuracy", "boxes", "chips", "detector", "errors", "grid", "learner", "metrics", "scene", "vector")

__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # a type checker would take any name for one that this gives

    def __getattr__(name: str) -> Any:
        """Return the public object called `name`, imported on first use."""
        if name in _HOMES:
            return getattr(import_module(f"geodetect.{_HOMES[name]}"), name)
        if name in _ROOMS:
            return import_module(f"geodetect.{name}")
        raise AttributeError(f"module 'geodetect' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, loaded or not."""
    return sorted([*__all__, *_ROOMS, "__version__"])

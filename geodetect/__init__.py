"""Object detection in aerial and satellite imagery, from labels to map.

The names below load what they need on first use, so that importing the package
and asking the command line for help stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Boxes": "boxes",
    "Detector": "detector",
    "RetinaNet": "learner",
    "compute_accuracy": "accuracy",
    "detect_objects": "scene",
    "export_training_data": "chips",
    "load_detector": "detector",
    "prepare_data": "chips",
    "show": "drawing",
    "view": "viewer",
}
_ROOMS = ("accuracy", "boxes", "chips", "detector", "errors", "grid", "learner", "metrics", "scene", "vector")

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """The public name `name`, from the module it lives in."""
    if name in _HOMES:
        return getattr(import_module(f"geodetect.{_HOMES[name]}"), name)
    if name in _ROOMS:
        return import_module(f"geodetect.{name}")
    raise AttributeError(f"module 'geodetect' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted([*__all__, *_ROOMS, "__version__"])

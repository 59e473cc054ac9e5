"""Weights from files: what `Detector.save` wrote, and state dicts of torchvision."""

from __future__ import annotations

import warnings
from pathlib import Path

# Only the name of what torch raises; nothing is unpickled but by torch's own reader of tensors.
from pickle import UnpicklingError

import torch
from torch import Tensor

from geodetect.detector.file import read_safetensors
from geodetect.errors import ArgumentError, ModelError

WORDS = ("imagenet", "coco", None)  # weights that are not files
_SAFE = ".safetensors"
_DAMAGED = (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_INSIDE = ("model", "state_dict")  # where training programs keep the state dict, beside the optimizer's
_WRAPPED = ("model.", "module.")  # what a class round the network puts before every name


def is_saved_detector(weights: str | Path | None) -> bool:
    """Whether weights are a file that `Detector.save` wrote.

    Raises:
        ArgumentError: if they are neither one of the words nor a file.
        ModelError: if the file is called a safetensors file and is none.
    """
    if weights in WORDS:
        return False
    path = Path(str(weights))
    if not path.is_file():
        raise ArgumentError(
            'weights must be "imagenet", "coco", None, or the file of a saved detector or of torchvision\'s weights; '
            f"there is no file {path}"
        )
    return path.suffix == _SAFE and "format_version" in read_safetensors(path)[1]


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, no code of which is ever run.

    Args:
        path: `.safetensors`, or what `torch.save` made of a state dict.

    Raises:
        ModelError: if it is damaged, or holds anything but tensors.
    """
    if path.suffix == _SAFE:
        return _unwrapped(read_safetensors(path)[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about protocols of pickle; what it cannot read it raises
            held = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise ModelError(
            f"{path} is damaged or holds more than tensors, and code in files is never run; "
            "expected what torch.save(model.state_dict(), path) writes"
        ) from error
    if isinstance(held, dict):
        held = next((held[key] for key in _INSIDE if isinstance(held.get(key), dict)), held)
    if not (isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values())):
        raise ModelError(
            f"{path} holds no state dict: expected tensors by name, got {type(held).__name__}; "
            "write it with torch.save(model.state_dict(), path)"
        )
    return _unwrapped(held)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without a beginning that all its names share because the network was part of something."""
    for beginning in _WRAPPED:
        if all(str(name).startswith(beginning) for name in state):
            return {str(name).removeprefix(beginning): value for name, value in state.items()}
    return {str(name): value for name, value in state.items()}

"""State dicts from files: tensors by name, read without running any code."""

from __future__ import annotations

import warnings
from pathlib import Path

# Only the name of an exception of torch; tensors are read by torch's own reader, and nothing else is unpickled.
from pickle import UnpicklingError

import torch
from torch import Tensor

from geodetect.detector.file import read_safetensors
from geodetect.errors import ModelError

_SAFE = ".safetensors"
_DAMAGED = (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_INSIDE = ("model", "state_dict")  # keys under which training programs keep the state dict, beside the optimizer's
_WRAPPED = ("model.", "module.")  # what a class around the network puts before every name


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; no code in it is ever run.

    Args:
        path: a `.safetensors` file, or a state dict written by `torch.save`.

    Raises:
        ModelError: if it is damaged, or holds anything but tensors.
    """
    if path.suffix == _SAFE:
        return _unwrap(read_safetensors(path)[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about protocols of pickle; what it cannot read is an error
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
    return _unwrap(held)


def _unwrap(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state without a prefix of all names, which is there if the network was part of another module."""
    for beginning in _WRAPPED:
        if all(str(name).startswith(beginning) for name in state):
            return {str(name).removeprefix(beginning): value for name, value in state.items()}
    return {str(name): value for name, value in state.items()}

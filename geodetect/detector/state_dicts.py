"""State dicts from files: tensors by name, read without running any code."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

# Only the name of an exception of torch; tensors are read by torch's own reader, and nothing else is unpickled.
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from geodetect.detector.file import read_safetensors
from geodetect.errors import ModelError

_SAFE = ".safetensors"
_DAMAGED = (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_POINTER = b"version https://git-lfs"  # the beginning of what Git LFS leaves in place of a file
_INSIDE = ("model", "state_dict")  # keys under which training programs keep the state dict, beside an average of it
_WRAPPED = ("model.", "module.", "_orig_mod.", "net.", "network.", "backbone.", "encoder.")  # see `_unwrap`


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; no code in it is ever run.

    Args:
        path: a `.safetensors` file, or a state dict written by `torch.save`.

    Raises:
        ModelError: if it is damaged, or holds anything but tensors.
    """
    try:
        with path.open("rb") as file:
            beginning = file.read(len(_POINTER))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}; expected a file of weights") from error
    if beginning == _POINTER:
        raise ModelError(f"{path} is a pointer of Git LFS, which stands for the weights; fetch them with: git lfs pull")
    if not beginning:
        raise ModelError(f"{path} is empty; copy or download it again")
    if path.suffix.lower() == _SAFE:
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
        inside = {key: value for key, value in held.items() if _is_state(value)}
        if known := [key for key in _INSIDE if key in inside] or (list(inside) if len(inside) == 1 else []):
            held = inside[known[0]]
    if not _is_state(held):
        raise ModelError(
            f"{path} holds no state dict: expected tensors by name, got {type(held).__name__}; "
            "write it with torch.save(model.state_dict(), path)"
        )
    return _unwrap(held)


def _is_state(held: object) -> bool:
    return isinstance(held, dict) and bool(held) and all(isinstance(value, Tensor) for value in held.values())


def _unwrap(state: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Return the state without prefixes that all names share.

    They are there if the network was part of other modules: of Lightning, of DataParallel, of `torch.compile`.
    """
    named = {str(name): value for name, value in state.items()}
    while shared := next((each for each in _WRAPPED if all(name.startswith(each) for name in named)), None):
        named = {name.removeprefix(shared): value for name, value in named.items()}
    return named

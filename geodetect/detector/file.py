"""The file of a detector: weights as safetensors, all else as JSON in its metadata; never a pickle.

A checksum in the metadata covers everything else in the file. Files of versions 1 and 2 have one of the weights alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from geodetect.errors import ModelError, OutputError
from geodetect.files import replace_atomically
from geodetect.metadata import Metadata

_UPRIGHT_VERSION = 4  # heads have batch norm, a width and a depth, which version 3 does not know
_FORMAT_VERSION = 5  # boxes have angles; upright detectors are still written as version 4, which older programs read
_OLDER = ("1", "2")
_SUFFIX = ".safetensors"


def write(path: Path, weights: Mapping[str, Tensor], metadata: Metadata) -> Path:
    """Write the weights and the metadata to one file, and return its path.

    Args:
        path: with suffix `.safetensors`.
        weights: on the CPU, contiguous.
        metadata: with an architecture.

    Raises:
        OutputError: if the suffix is another or the file cannot be written there.
    """
    check_output(path)
    stored = {key: json.dumps(value) for key, value in metadata.to_json().items()}
    stored["format_version"] = str(_FORMAT_VERSION if metadata.oriented else _UPRIGHT_VERSION)
    stored["checksum"] = checksum(stored, weights)
    with replace_atomically(path) as part:
        part.write_bytes(serialise(dict(weights), stored))  # `save_file` would make it readable for its owner alone
    return path


def read(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Return the weights and metadata that `write` was given, by this version or an earlier one.

    Raises:
        ModelError: if the file is missing, damaged, newer than this version, or not of a detector.
    """
    weights, stored = read_safetensors(path)
    version = stored.get("format_version", "")
    if not is_detector(stored):
        raise ModelError(
            f"{path} is not a detector that geodetect saved: its metadata lack format_version; "
            "give such weights to RetinaNet(weights=...) instead"
        )
    if "training_version" in stored:
        raise ModelError(
            f"{path} holds the state of a training, not a detector; go on with it by fit(checkpoint=..., resume=True) "
            "with the folder it is in, and save the detector"
        )
    due = checksum(stored, weights)
    if version in _OLDER:  # the CRC-32 of all tensors in the order of their names
        crc = 0
        for _, tensor in sorted(weights.items()):
            crc = zlib.crc32(_bytes_of(tensor), crc)
        due = f"{crc:08x}"
    if stored.get("checksum") != due:  # first of all; newer versions keep this checksum
        raise ModelError(f"{path} is damaged: its content does not have the checksum in it; copy or save it again")
    if version.isdecimal() and int(version) > _FORMAT_VERSION:
        raise ModelError(
            f"{path} has format version {version}, this geodetect reads up to {_FORMAT_VERSION}; update geodetect"
        )
    try:
        facts = {key: json.loads(text) for key, text in stored.items() if key not in ("checksum", "format_version")}
        return weights, Metadata.from_json(facts)
    except KeyError as error:
        raise ModelError(f"the metadata of {path} lack {error.args[0]}; save the detector again") from error
    except (ValueError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"the metadata of {path} are damaged: {reason}; save the detector again") from error


def is_detector(stored: Mapping[str, str]) -> bool:
    """Return whether a safetensors file with these metadata is one that `write` wrote, or was before it was damaged."""
    return not stored.keys().isdisjoint({"format_version", "checksum"})


def holds_detector(path: Path) -> bool:
    """Return whether a path is that of a file that `write` wrote; False, too, if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return is_detector(file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of any safetensors file.

    Raises:
        ModelError: if it is missing or not whole.
    """
    if not path.is_file():
        raise ModelError(f"there is no model file {path}; expected what `save` wrote, with suffix {_SUFFIX}")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}); expected what `save` wrote, "
            + (
                "delete it, and copy or download it again; a model of another kind, such as ONNX, must keep its suffix"
                if path.suffix == _SUFFIX
                else f"which ends in {_SUFFIX}"
            )
        ) from error


def checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of all that a file holds: metadata (but `checksum`), names, types, shapes and bytes."""
    facts = sorted((key, value) for key, value in metadata.items() if key != "checksum")
    digest = hashlib.sha256(json.dumps(facts).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()


def check_finite(weights: Mapping[str, Tensor], source: str) -> None:
    """Raise if a tensor holds NaN or infinity, as a network with such weights detects nothing.

    Raises:
        ModelError: with the number of tensors and the name of one.
    """
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise ModelError(
            f"{len(broken)} tensors of {source} hold NaN or infinity, such as {broken[0]}, so it would detect nothing; "
            "train it again at a lower rate"
        )


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data


def check_output(path: Path) -> None:
    """Raise unless a detector can be saved under this name.

    Raises:
        OutputError: if the suffix is another, the folder is missing or closed to us, or a folder has the name.
    """
    if path.suffix != _SUFFIX:
        raise OutputError(f"a detector is saved as one {_SUFFIX} file; got {path.name!r}")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to save {path.name} in; make it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to; choose another or change its permissions")

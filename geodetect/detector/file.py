"""The file of a detector: weights as safetensors, all else as JSON in its metadata; never a pickle."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from geodetect.errors import ModelError, OutputError

_FORMAT_VERSION = 2
_SUFFIX = ".safetensors"
_FACTS = {
    *("backbone", "anchors", "norm_eps", "head_norm", "classes", "bands", "stretch", "chip_size"),
    *("overlap", "pixel_size_m", "min_score", "summary", "checksum", "format_version"),
}


def write(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Path:
    """The path of the file that now holds them; it appears under its name when it is whole.

    Args:
        path: with suffix `.safetensors`.
        weights: on the CPU, contiguous.
        facts: as JSON takes them.

    Raises:
        OutputError: if the suffix is another or the file cannot be written there.
    """
    _check_output(path)
    metadata = {key: json.dumps(value) for key, value in facts.items()}
    metadata |= {"format_version": str(_FORMAT_VERSION), "checksum": _checksum(weights)}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(serialise(dict(weights), metadata))  # `save_file` would make it readable for its owner alone
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights and facts that `write` was given, by this version or an earlier one; `check` says if they are intact.

    Raises:
        ModelError: if the file is missing, damaged, newer than this version, or not of a detector.
    """
    weights, metadata = read_safetensors(path)
    version = metadata.get("format_version", "")
    if version.isdecimal() and int(version) > _FORMAT_VERSION:
        raise ModelError(
            f"{path} has format version {version}, this geodetect reads up to {_FORMAT_VERSION}; update geodetect"
        )
    absent = sorted(_FACTS - set(metadata) - ({"head_norm"} if version == "1" else set()))  # new in version 2
    if absent:
        raise ModelError(
            f"{path} is not a detector that geodetect saved: its metadata lack {', '.join(absent[:3])}; "
            "give such weights to RetinaNet(weights=...) instead"
        )
    return weights, _parsed(path, metadata)


def _parsed(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        facts = {key: json.loads(metadata[key]) for key in _FACTS - {"checksum"} if key in metadata}
    except ValueError as error:
        raise ModelError(f"the metadata of {path} are damaged: {error}; save the detector again") from error
    return facts | {"checksum": metadata["checksum"]}


def check(path: Path, weights: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Nothing, if the weights that `read` gave are those that `write` was given.

    Raises:
        ModelError: if a bit of them is another; safetensors itself notices none.
    """
    if _checksum(weights) != facts["checksum"]:
        raise ModelError(f"the weights in {path} are not those that were saved; copy the file again")


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
            + ("copy it again" if path.suffix == _SUFFIX else f"which ends in {_SUFFIX}")
        ) from error


def _checksum(weights: Mapping[str, Tensor]) -> str:
    """CRC-32 of all tensors in the order of their names."""
    crc = 0
    for name in sorted(weights):
        crc = zlib.crc32(np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8).data, crc)
    return f"{crc:08x}"


def _check_output(path: Path) -> None:
    if path.suffix != _SUFFIX:
        raise OutputError(f"a detector is saved as one {_SUFFIX} file; got {path.name!r}")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to save {path.name} in; make it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")

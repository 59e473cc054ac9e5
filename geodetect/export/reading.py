"""What exported files say of their models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from geodetect.errors import ModelError
from geodetect.export import stac
from geodetect.export.archives import read_member
from geodetect.export.onnx_detector import facts_of, session


def facts_in(path: Path) -> dict[str, Any] | None:
    """What an exported file says of its model, with the key `format`; None for a file of another kind.

    Raises:
        ModelError: if the file is damaged, or not one that geodetect wrote.
        MissingPackage: for `.onnx` without the extra `onnx`.
    """
    readers: dict[str, Callable[[Path], dict[str, Any] | None]] = {
        ".onnx": _onnx,
        ".dlpk": _dlpk,
        ".pt2": _pt2,
        ".json": _stac,
    }
    reader = readers.get(path.suffix.lower())
    return None if reader is None else reader(path)


def _onnx(path: Path) -> dict[str, Any]:
    facts = facts_of(session(path, "cpu"), path)
    return facts | {"format": f"an ONNX model that answers as {facts['det_type']}"}


def _dlpk(path: Path) -> dict[str, Any]:
    what = "a deep learning package for ArcGIS (.dlpk)"
    definition = _parsed(read_member(path, ".emd", what), path, what)
    if "Geodetect" not in definition:
        raise ModelError(f"{path} is {what}, but not one that geodetect wrote; its .emd lacks Geodetect")
    arguments = {name: definition.get(name) for name in ("Padding", "Threshold", "BatchSize")}
    return dict(definition["Geodetect"]) | {"format": f"{what}, experimental", "arguments": arguments}


def _pt2(path: Path) -> dict[str, Any]:
    what = "a PyTorch program (.pt2) that geodetect wrote"
    return _parsed(read_member(path, "/geodetect.json", what), path, what) | {"format": what}


def _parsed(content: bytes, path: Path, what: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} is not {what}: its description is no JSON ({error}); export it again") from error


def _stac(path: Path) -> dict[str, Any] | None:
    """The facts of a STAC item; None for any other JSON, such as features."""
    try:
        item = json.loads(path.read_bytes())
        properties = item["properties"]
        (given, outputs) = properties["mlm:input"][0], properties["mlm:output"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    hyperparameters = properties.get("mlm:hyperparameters", {})
    return {
        "format": "a STAC item of a model",
        "classes": [each.get("description", each["name"]) for each in outputs[0].get("classification:classes", [])],
        "bands": given.get("bands", []),
        "pixel_size_m": properties.get("gsd"),
        "chip_size": given["input"]["shape"][-1],
        "overlap": hyperparameters.get("overlap"),
        "backbone": hyperparameters.get("backbone"),
        "min_score": hyperparameters.get("min_score"),
        "artifact": ", ".join(_artifact(path, asset) for asset in item.get("assets", {}).values()),
    }


def _artifact(path: Path, asset: dict[str, Any]) -> str:
    """The name of a file that an item describes, and whether it is the one."""
    name = unquote(str(asset.get("href")))
    file = path.parent / name
    if not file.is_file():
        return f"{name} (not here)"
    same = asset.get("file:checksum") == stac.checksum(file)
    return f"{name} ({'as described' if same else 'another file than the one described'})"

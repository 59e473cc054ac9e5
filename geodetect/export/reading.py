"""Reading the metadata of exported files."""

from __future__ import annotations

import json
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote

from geodetect.errors import ModelError
from geodetect.export import stac
from geodetect.export.onnx_detector import load_session, read_metadata

_LARGEST_BYTES = 16_000_000  # of a member; a small archive may unpack to more than the memory


def read_facts(path: Path) -> dict[str, Any] | None:
    """Return the metadata of an exported file, with a description as `format`; None for a file of another kind.

    Raises:
        ModelError: if the file is damaged, or not written by geodetect.
        MissingPackage: for `.onnx` without the extra `onnx`.
    """
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        facts = read_metadata(load_session(path, "cpu"), path)
        return facts | {"format": f"an ONNX model with the output layout {facts['det_type']}"}
    if suffix == ".pt2":
        what = "a PyTorch program (.pt2) written by geodetect"
        return _read_json(path, "/geodetect.json", what) | {"format": what}
    if suffix == ".dlpk":
        what = "a deep learning package for ArcGIS (.dlpk)"
        definition = _read_json(path, ".emd", what)
        if "Geodetect" not in definition:
            raise ModelError(f"{path} is {what}, but not one that geodetect wrote; its .emd lacks Geodetect")
        arguments = {name: definition.get(name) for name in ("Padding", "Threshold", "BatchSize")}
        return dict(definition["Geodetect"]) | {"format": f"{what}, experimental", "arguments": arguments}
    return _read_item(path) if suffix == ".json" else None


def _read_json(path: Path, ending: str, what: str) -> dict[str, Any]:
    """Return the JSON in the one member of a zip file whose name has this ending; nothing is unpacked to disk.

    Raises:
        ModelError: if the file is missing or damaged, a member's name leads out of the archive, or not exactly one
            member has the ending.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}; expected {what}")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                windows = PureWindowsPath(name)
                if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
                    raise ModelError(f"{path} holds a member {name!r}, which leads out of the archive; do not use it")
            found = [each for each in archive.infolist() if each.filename.endswith(ending)]
            if len(found) != 1:
                raise ModelError(f"{path} is not {what}: it holds {len(found)} files *{ending}, where 1 is expected")
            if found[0].file_size > _LARGEST_BYTES:
                raise ModelError(f"{path} is not {what}: its {found[0].filename} is larger than 16 MB")
            content = archive.read(found[0])
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError and NotImplementedError: an encrypted member, or an unknown compression
        raise ModelError(f"{path} is not {what}, or incomplete ({error}); copy or export it again") from error
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path} is not {what}: its metadata is not JSON ({error}); export it again") from error


def _read_item(path: Path) -> dict[str, Any] | None:
    """Return the facts of a STAC item of a model; None for any other JSON, such as GeoJSON."""
    try:
        item = json.loads(path.read_bytes())
        properties = item["properties"]
        (given, outputs) = properties["mlm:input"][0], properties["mlm:output"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    hyperparameters = properties.get("mlm:hyperparameters", {})
    artifacts = []
    for asset in item.get("assets", {}).values():
        name = unquote(str(asset.get("href")))
        if not (path.parent / name).is_file():
            state = "not here"
        elif asset.get("file:checksum") == stac.checksum(path.parent / name):
            state = "as described"
        else:
            state = "another file than the one described"
        artifacts.append(f"{name} ({state})")
    return {
        "format": "a STAC item of a model",
        "classes": [each.get("description", each["name"]) for each in outputs[0].get("classification:classes", [])],
        "bands": given.get("bands", []),
        "pixel_size_m": properties.get("gsd"),
        "chip_size": given["input"]["shape"][-1],
        "overlap": hyperparameters.get("overlap"),
        "backbone": hyperparameters.get("backbone"),
        "min_score": hyperparameters.get("min_score"),
        "artifact": ", ".join(artifacts),
    }

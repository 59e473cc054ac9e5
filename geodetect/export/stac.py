"""`.json`: a STAC item with the Machine Learning Model extension, which describes a `.pt2` file beside it.

https://github.com/stac-extensions/mlm
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

from geodetect.colours import class_colours
from geodetect.detector import Detector
from geodetect.export import pt2
from geodetect.files import appearing

_EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",  # the newest that pystac's extension reads
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v1.1.0/schema.json",
)
_SHA256 = "1220"  # how a multihash says: SHA2-256, 32 bytes (https://multiformats.io/multihash/)
_BATCH_SIZE = 8
_ALWAYS = {"start_datetime": "1900-01-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}  # bound to no time


def export(detector: Detector, path: Path) -> None:
    """Write an item, and the program that it describes under the same name with the suffix `.pt2`.

    Args:
        detector: is not changed.
        path: a `.json` file; it comes last, so that where it is, its program is.

    Raises:
        OutputError: if one of the two cannot be written; the item is not left then.
    """
    program = path.with_suffix(".pt2")
    pt2.export(detector, program)
    with appearing(path) as part:
        part.write_text(json.dumps(_item(detector, program), indent=2, ensure_ascii=False), encoding="utf-8")


def checksum(path: Path) -> str:
    """SHA-256 of a file as a multihash, in hexadecimal."""
    with path.open("rb") as file:
        return _SHA256 + hashlib.file_digest(file, "sha256").hexdigest()


def _item(detector: Detector, program: Path) -> dict[str, Any]:
    """The item; without geometry, since a model lies nowhere."""
    name = _name(program.stem)
    properties = _properties(detector, name)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": name,
        "geometry": None,
        "properties": properties,
        "links": [],
        # The extension wants bands in the properties, and STAC 1.1 wants them in an asset as well then.
        "assets": {"model": _asset(program) | {"bands": properties["bands"]}},
    }


def _name(stem: str) -> str:
    """The name of a file as the extension allows it: letters, digits, and some signs between them."""
    plain = re.sub(r"[^a-zA-Z0-9_.-]+", "-", stem)
    return plain if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", plain) else f"model-{plain.strip('-_.') or '0'}"


def _properties(detector: Detector, name: str) -> dict[str, Any]:
    bands = [{"name": f"band-{band}", "description": f"Band {band} of the raster."} for band in detector.bands]
    told = {
        "datetime": None,
        **_ALWAYS,
        "description": f"Finds {', '.join(detector.classes)}.",
        "bands": bands,
        "mlm:name": name,
        "mlm:architecture": "RetinaNet",
        "mlm:tasks": ["object-detection"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": re.match(r"[\d.]*\d", torch.__version__)[0],  # type: ignore[index]
        "mlm:total_parameters": sum(weight.numel() for weight in detector.network.parameters()),
        "mlm:batch_size_suggestion": _BATCH_SIZE,
        "mlm:input": [_input(detector, [band["name"] for band in bands])],
        "mlm:output": _outputs(detector),
        "mlm:hyperparameters": _hyperparameters(detector),
    }
    return told if detector.pixel_size_m is None else told | {"gsd": detector.pixel_size_m}


def _input(detector: Detector, bands: list[str]) -> dict[str, Any]:
    side = detector.chip_size
    return {
        "name": "pixels",
        "description": "Pixels less the mean, over the standard deviation, band by band.",
        "bands": bands,
        "input": {
            "shape": [-1, len(bands), side, side],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": [
            {"type": "z-score", "mean": mean, "stddev": std}
            for mean, std in zip(detector.stretch.mean, detector.stretch.std, strict=True)
        ],
        "resize_type": None,
    }


def _outputs(detector: Detector) -> list[dict[str, Any]]:
    n_anchors = len(detector.network.anchors((detector.chip_size, detector.chip_size)))
    logits = {
        "description": "For each anchor and class, before the sigmoid; anchors as the hyperparameters describe them.",
        "classification:classes": _classes(detector.classes),
    }
    deltas = {
        "description": "For each anchor how it moves (dx, dy in its sides) and grows (logarithms dw, dh), as in R-CNN.",
        "classification:classes": [],
    }
    return [
        _output("logits", logits, [-1, n_anchors, len(detector.classes)], ["batch", "anchor", "class"]),
        _output("deltas", deltas, [-1, n_anchors, 4], ["batch", "anchor", "delta"]),
    ]


def _output(name: str, told: dict[str, Any], shape: list[int], order: list[str]) -> dict[str, Any]:
    result = {"shape": shape, "dim_order": order, "data_type": "float32"}
    return {"name": name, "tasks": ["object-detection"], "result": result, **told}


def _classes(names: list[str]) -> list[dict[str, Any]]:
    """The classes as the classification extension takes them: plain letters as the name, the real one beside it."""
    colours = class_colours(names)
    return [
        {
            "value": k,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-") or f"class-{k}",
            "description": name,
            "color_hint": colours[name][1:],
        }
        for k, name in enumerate(names)
    ]


def _hyperparameters(detector: Detector) -> dict[str, Any]:
    spec = detector.network.architecture.anchors
    return {
        "backbone": detector.network.architecture.backbone,
        "anchor_scales": list(spec.scales),
        "anchor_ratios": list(spec.ratios),
        "anchor_size": spec.anchor_size,
        "levels": list(spec.levels),
        "heads": detector.network.architecture.heads,
        "overlap": detector.overlap,
        "min_score": detector.min_score,
    }


def _asset(program: Path) -> dict[str, Any]:
    return {
        "href": f"./{quote(program.name)}",
        "title": "The network as a PyTorch program",
        "type": "application/zip; application=pytorch",
        "roles": ["mlm:model"],
        "mlm:artifact_type": "torch.export.save",
        "file:size": program.stat().st_size,
        "file:checksum": checksum(program),
    }

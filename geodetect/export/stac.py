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
from geodetect.files import replace_atomically

_EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",  # the newest that pystac reads
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
    "https://stac-extensions.github.io/classification/v1.1.0/schema.json",
)
_SHA256 = "1220"  # prefix of a multihash for SHA2-256 of 32 bytes (https://multiformats.io/multihash/)
_BATCH_SIZE = 8
_ALWAYS = {"start_datetime": "1900-01-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}  # a model has no date


def export(detector: Detector, path: Path) -> None:
    """Write an item, and the program that it describes under the same name with the suffix `.pt2`.

    Args:
        detector: is not changed.
        path: a `.json` file; written after the program.

    Raises:
        OutputError: if one of the two cannot be written; no partial item is left behind.
    """
    program = path.with_suffix(".pt2")
    pt2.export(detector, program)
    properties = _describe(detector, program.stem)
    model = {
        "href": f"./{quote(program.name)}",
        "title": "The network as a PyTorch program",
        "type": "application/zip; application=pytorch",
        "roles": ["mlm:model"],
        "mlm:artifact_type": "torch.export.save",
        "file:size": program.stat().st_size,
        "file:checksum": checksum(program),
        # The extension requires bands in the properties, and STAC 1.1 then requires them in an asset as well.
        "bands": properties["bands"],
    }
    item = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": properties["mlm:name"],
        "geometry": None,  # a model has no place
        "properties": properties,
        "links": [],
        "assets": {"model": model},
    }
    with replace_atomically(path) as part:
        part.write_text(json.dumps(item, indent=2, ensure_ascii=False), encoding="utf-8")


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file as a multihash, in hexadecimal."""
    with path.open("rb") as file:
        return _SHA256 + hashlib.file_digest(file, "sha256").hexdigest()


def _describe(detector: Detector, stem: str) -> dict[str, Any]:
    """Return the properties of an item; its name is that of the file, as far as the extension allows it."""
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "-", stem)
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", name):  # `_.-` only between letters and digits
        name = f"model-{name.strip('-_.') or '0'}"
    bands = [{"name": f"band-{band}", "description": f"Band {band} of the raster."} for band in detector.bands]
    architecture = detector.network.architecture
    return {
        "datetime": None,
        **_ALWAYS,
        "description": f"Finds {', '.join(detector.classes)}.",
        "bands": bands,
        **({} if detector.pixel_size_m is None else {"gsd": detector.pixel_size_m}),
        "mlm:name": name,
        "mlm:architecture": "RetinaNet",
        "mlm:tasks": ["object-detection"],
        "mlm:framework": "PyTorch",
        "mlm:framework_version": re.match(r"[\d.]*\d", torch.__version__)[0],  # type: ignore[index]
        "mlm:total_parameters": sum(weight.numel() for weight in detector.network.parameters()),
        "mlm:batch_size_suggestion": _BATCH_SIZE,
        "mlm:input": [_describe_input(detector, [band["name"] for band in bands])],
        "mlm:output": _describe_outputs(detector),
        "mlm:hyperparameters": {
            "backbone": architecture.backbone,
            "anchor_scales": list(architecture.anchors.scales),
            "anchor_ratios": list(architecture.anchors.ratios),
            "anchor_size": architecture.anchors.anchor_size,
            "levels": list(architecture.anchors.levels),
            "heads": architecture.heads,
            "overlap": detector.overlap,
            "min_score": detector.min_score,
        },
    }


def _describe_input(detector: Detector, bands: list[str]) -> dict[str, Any]:
    """Return the description of the network's input."""
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
            for mean, std in zip(detector.normalization.mean, detector.normalization.std, strict=True)
        ],
        "resize_type": None,
    }


def _describe_outputs(detector: Detector) -> list[dict[str, Any]]:
    """Return the descriptions of the network's outputs."""
    n_anchors = len(detector.network.anchors((detector.chip_size, detector.chip_size)))
    colours = class_colours(detector.classes)
    # the extension allows plain letters in a name; the description has the real one
    classes = [
        {
            "value": k,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-") or f"class-{k}",
            "description": name,
            "color_hint": colours[name][1:],
        }
        for k, name in enumerate(detector.classes)
    ]
    oriented = detector.network.architecture.oriented
    logits = "For each anchor and class, before the sigmoid; anchors as the hyperparameters describe them."
    deltas = "For each anchor how it moves (dx, dy in its sides) and grows (logarithms dw, dh), as in R-CNN."
    if oriented:
        deltas = (
            "For each anchor how it moves (dx, dy in its sides), how its longer and shorter side grow (logarithms), "
            "and cosine and sine of twice the angle of the longer side, from +x towards +y (down)."
        )
    kinds = (("logits", logits, "class", len(classes)), ("deltas", deltas, "delta", 6 if oriented else 4))
    return [
        {
            "name": name,
            "description": description,
            "tasks": ["object-detection"],
            "result": {
                "shape": [-1, n_anchors, size],
                "dim_order": ["batch", "anchor", dimension],
                "data_type": "float32",
            },
            "classification:classes": classes if name == "logits" else [],
        }
        for name, description, dimension, size in kinds
    ]

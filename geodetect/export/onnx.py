"""`.onnx`: the network with its decoding, for GeoDeep, Deepness, Ultralytics and whatever else runs ONNX.

Deepness (QGIS), GeoDeep (WebODM) and Ultralytics feed pixels / 255 and read from the file's metadata what the outputs
mean. Only Deepness standardises, so the file does it itself, and its metadata say mean 0 and deviation 1.

Shapes: B pictures, C bands, S the side of a chip, K classes, N candidates of a picture.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from geodetect.detector import Detector
from geodetect.errors import missing
from geodetect.export.onnx_detector import IN_COLUMNS, LAYOUTS, METADATA, session
from geodetect.export.program import (
    Detections,
    traced,
)
from geodetect.export.verify import centres_and_sides, refuse_unlike
from geodetect.files import appearing
from geodetect.metadata import NMS_IOU

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_EXPORTED = 18  # the lowest that PyTorch has operators for
_OPSET, _IR = 15, 8  # of onnxruntime 1.10, the oldest that GeoDeep takes (its pyproject.toml); Deepness asks for 1.12
_STRIDE = 32  # Ultralytics' own


class _Rows(nn.Module):
    """Rows of centre, sides, the best score, and the score of each class."""

    def __init__(self, detections: Detections) -> None:
        super().__init__()
        self.detections = detections

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, N, 5 + K) of pixels (B, C, S, S)."""
        boxes, scores = self.detections(pixels)
        return torch.cat([centres_and_sides(boxes), scores.amax(dim=2, keepdim=True), scores], dim=2)


class _Columns(nn.Module):
    """Columns of centre, sides, and the score of each class."""

    def __init__(self, detections: Detections) -> None:
        super().__init__()
        self.detections = detections

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 4 + K, N) of pixels (B, C, S, S)."""
        boxes, scores = self.detections(pixels)
        return torch.cat([centres_and_sides(boxes), scores], dim=2).transpose(1, 2)


def export(detector: Detector, path: Path, layout: str | None) -> None:
    """Write a program from pixels / 255, float32 (B, C, S, S), to candidates in the layout that `det_type` names.

    Args:
        detector: is not changed.
        path: appears when onnxruntime has run the file and got what the network gives.
        layout: a key of `LAYOUTS`; None for the one that all readers understand.

    Raises:
        OutputError: if the file cannot be written, or gives something else; no file is left then.
        MissingPackage: without the extra `onnx`.
    """
    detections = Detections(detector)
    det_type = LAYOUTS[layout]
    arranged = (_Columns if det_type in IN_COLUMNS else _Rows)(detections).eval()
    model = _lowered(_translated(traced(arranged, detector)))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "B"
    # Without a name: if this one has one, Ultralytics takes every dimension for free, and overlooks `imgsz`.
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    for key, value in (_metadata(detector, detections.groups, det_type) | _ultralytics(detector)).items():
        model.metadata_props.add(key=key, value=value)
    with appearing(path) as part:
        part.write_bytes(model.SerializeToString())
        _check(part, detections, detector, det_type)


def _translated(program: torch.export.ExportedProgram) -> ModelProto:
    """The program in ONNX's operators, as PyTorch's exporter translates it."""
    try:
        import onnxscript  # noqa: F401  # the exporter's own need, and its message does not say of which extra
    except ImportError as error:
        raise missing("onnxscript", "onnx", "export to .onnx") from error
    whole = torch.onnx.export(
        program,
        input_names=["images"],
        output_names=["detections"],
        opset_version=_EXPORTED,
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    assert whole is not None
    return whole.model_proto


def _lowered(model: ModelProto) -> ModelProto:
    """The same model for older runtimes: declared in operators of an older set, where those used mean the same.

    From 15 to 18 the operators used here changed in two ways: reductions take their axes as an input
    instead of an attribute, and Resize has new attributes, whose defaults are what it did before
    (https://github.com/onnx/onnx/blob/main/docs/Changelog.md).
    """
    import onnx

    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type.startswith("Reduce") and len(node.input) > 1:
            axes = constants[node.input.pop()].tolist()
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
            _drop(node, {"noop_with_empty_axes"})
        elif node.op_type == "Resize":
            _drop(node, {"antialias", "axes", "keep_aspect_ratio_policy"})
        del node.metadata_props[:]  # of format 10, and about our source code
    used = {name for node in model.graph.node for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]  # onnxruntime warns of others
    del model.graph.value_info[:], model.graph.metadata_props[:], model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.opset_import[0].version, model.ir_version = _OPSET, _IR
    onnx.checker.check_model(model, full_check=True)
    return model


def _drop(node: NodeProto, names: set[str]) -> None:
    """Take these attributes from a node."""
    kept = [each for each in node.attribute if each.name not in names]
    del node.attribute[:]
    node.attribute.extend(kept)


def _metadata(detector: Detector, groups: list[int], det_type: str) -> dict[str, str]:
    """What Deepness and GeoDeep read, in their spelling, and what we read; values are JSON.

    https://github.com/PUTvision/qgis-plugin-deepness/blob/master/src/deepness/processing/models/model_base.py,
    https://github.com/uav4geo/GeoDeep/blob/main/geodeep/inference.py
    """
    told: dict[str, Any] = {
        "model_type": "Detector",
        "det_type": det_type,
        "det_conf": detector.metadata.lowest_score,
        "det_iou_thresh": NMS_IOU,
        "class_names": {str(k): name for k, name in enumerate(detector.classes)},
        "tile_size": detector.chip_size,  # as Deepness' code has it,
        "tiles_size": detector.chip_size,  # and as its manual has it
        "tiles_overlap": math.ceil(100 * detector.overlap / detector.chip_size),  # percent
        "standardization_mean": [0.0] * len(detector.bands),
        "standardization_std": [1.0] * len(detector.bands),
        METADATA: detector.metadata.to_json() | {"groups": groups},
    }
    if detector.pixel_size_m is not None:
        told["resolution"] = round(100 * detector.pixel_size_m, 6)  # centimetres
    return {key: json.dumps(value) for key, value in told.items()}


def _ultralytics(detector: Detector) -> dict[str, str]:
    """What Ultralytics reads, in its spelling; values are Python literals, and text is bare.

    https://github.com/ultralytics/ultralytics/blob/main/ultralytics/nn/autobackend.py
    """
    told = {
        "task": "detect",
        "names": dict(enumerate(detector.classes)),
        "imgsz": [detector.chip_size, detector.chip_size],
        "stride": math.gcd(detector.chip_size, _STRIDE),  # sides of pictures are rounded up to a multiple of it
        "batch": 1,
        "channels": len(detector.bands),
    }
    return {key: str(value) for key, value in told.items()}


def _check(path: Path, detections: Detections, detector: Detector, det_type: str) -> None:
    """Run the file and hold it against the network.

    Raises:
        OutputError: if the two differ.
    """
    running = session(path, "cpu")

    def run(pixels: Tensor) -> np.ndarray:
        (found,) = running.run(None, {"images": pixels.numpy()})
        return np.asarray(found.swapaxes(1, 2) if det_type in IN_COLUMNS else np.delete(found, 4, axis=2))

    refuse_unlike(run, detections, detector)

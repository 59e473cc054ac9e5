"""`.onnx`: the network with its decoding, for GeoDeep, Deepness, Ultralytics and other programs that run ONNX.

Deepness (QGIS), GeoDeep (WebODM) and Ultralytics feed pixels / 255 and read the output layout from the file's metadata.
Only Deepness standardises, so the file does it itself, and its metadata say mean 0 and deviation 1.

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
from geodetect.export.onnx_detector import IN_COLUMNS, LAYOUTS, METADATA, ORIENTED, load_session
from geodetect.export.program import Detections, trace
from geodetect.export.verify import check_same, to_centres_and_sides
from geodetect.files import replace_atomically
from geodetect.metadata import NMS_IOU

if TYPE_CHECKING:
    from onnx import ModelProto

_EXPORTED = 18  # the lowest that PyTorch has operators for
_OPSET, _IR = 15, 8  # of onnxruntime 1.10, the oldest that GeoDeep takes (its pyproject.toml); Deepness asks for 1.12
_STRIDE = 32  # Ultralytics' own


class _Rows(nn.Module):
    """The network with candidates as rows: centre, sides, best score, and the score of each class."""

    def __init__(self, detections: Detections) -> None:
        super().__init__()
        self.detections = detections

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, N, 5 + K) for pixels (B, C, S, S)."""
        boxes, scores = self.detections(pixels)
        return torch.cat([to_centres_and_sides(boxes), scores.amax(dim=2, keepdim=True), scores], dim=2)


class _Columns(_Rows):
    """The network with candidates as columns: centre, sides, the score of each class, and the angle if there is one."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (B, 4 + K, N), oriented (B, 5 + K, N), for pixels (B, C, S, S)."""
        boxes, scores = self.detections(pixels)
        return torch.cat([to_centres_and_sides(boxes), scores, boxes[..., 4:]], dim=2).transpose(1, 2)


def export(detector: Detector, path: Path, layout: str | None) -> None:
    """Write a program from pixels / 255, float32 (B, C, S, S), to candidates in the layout that `det_type` names.

    Args:
        detector: is not changed.
        path: appears only after onnxruntime has run the file and got the network's results.
        layout: a key of `LAYOUTS`; None for the one that all readers understand.

    Raises:
        OutputError: if the file cannot be written, or its results differ; no partial file is left behind.
        MissingPackage: without the extra `onnx`.
    """
    try:
        import onnxscript  # noqa: F401  # the exporter needs it, and its own message does not name the extra
    except ImportError as error:
        raise missing("onnxscript", "onnx", "export to .onnx") from error
    detections, det_type = Detections(detector), ORIENTED if detector.oriented else LAYOUTS[layout]
    in_columns = det_type in IN_COLUMNS
    exported = torch.onnx.export(
        trace((_Columns if in_columns else _Rows)(detections).eval(), detector),
        input_names=["images"],
        output_names=["detections"],
        opset_version=_EXPORTED,
        dynamo=True,
        verbose=False,
        external_data=False,
    )
    assert exported is not None
    model = _lower(exported.model_proto)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "B"
    # Without a name: if this one has one, Ultralytics takes every dimension for free, and ignores `imgsz`.
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    for key, value in _describe(detector, detections.groups, det_type).items():
        model.metadata_props.add(key=key, value=value)
    with replace_atomically(path) as part:
        part.write_bytes(model.SerializeToString())
        session = load_session(part, "cpu")

        def run(pixels: Tensor) -> np.ndarray:
            (found,) = session.run(None, {"images": pixels.numpy()})
            return np.asarray(found.swapaxes(1, 2) if in_columns else np.delete(found, 4, axis=2))

        check_same(run, detections, detector)


def _lower(model: ModelProto) -> ModelProto:
    """Declare a model in an older operator set, for older runtimes; it is changed and returned.

    From 15 to 18 the operators used here changed in two ways: reductions take their axes as an input
    instead of an attribute, and Resize has new attributes, whose defaults are the old behaviour
    (https://github.com/onnx/onnx/blob/main/docs/Changelog.md).
    """
    import onnx

    constants = {each.name: onnx.numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        dropped: set[str] = set()
        if node.op_type.startswith("Reduce") and len(node.input) > 1:
            axes = constants[node.input.pop()].tolist()
            dropped = {"noop_with_empty_axes"}
            node.attribute.append(onnx.helper.make_attribute("axes", axes))
        elif node.op_type == "Resize":
            dropped = {"antialias", "axes", "keep_aspect_ratio_policy"}
        attributes = [each for each in node.attribute if each.name not in dropped]
        del node.attribute[:]
        node.attribute.extend(attributes)
        del node.metadata_props[:]  # of format 10, and about our source code
    used = {name for node in model.graph.node for name in node.input}
    kept = [each for each in model.graph.initializer if each.name in used]  # onnxruntime warns of others
    del model.graph.value_info[:], model.graph.metadata_props[:], model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.opset_import[0].version, model.ir_version = _OPSET, _IR
    onnx.checker.check_model(model, full_check=True)
    return model


def _describe(detector: Detector, groups: list[int], det_type: str) -> dict[str, str]:
    """Return metadata for Deepness and GeoDeep (JSON), Ultralytics (Python literals) and geodetect.

    https://github.com/PUTvision/qgis-plugin-deepness/blob/master/src/deepness/processing/models/model_base.py,
    https://github.com/uav4geo/GeoDeep/blob/main/geodeep/inference.py,
    https://github.com/ultralytics/ultralytics/blob/main/ultralytics/nn/autobackend.py
    """
    deepness: dict[str, Any] = {
        "model_type": "Detector",
        "det_type": det_type,
        "det_conf": detector.metadata.lowest_min_score,
        "det_iou_thresh": NMS_IOU,
        "class_names": {str(k): name for k, name in enumerate(detector.classes)},
        "tile_size": detector.chip_size,  # the key in Deepness' code,
        "tiles_size": detector.chip_size,  # and in its manual
        "tiles_overlap": math.ceil(100 * detector.overlap / detector.chip_size),  # percent
        "standardization_mean": [0.0] * len(detector.bands),
        "standardization_std": [1.0] * len(detector.bands),
        METADATA: detector.metadata.to_json() | {"groups": groups},
    }
    if detector.pixel_size_m is not None:
        deepness["resolution"] = round(100 * detector.pixel_size_m, 6)  # centimetres
    ultralytics = {
        "task": "obb" if detector.oriented else "detect",
        "names": dict(enumerate(detector.classes)),
        "imgsz": [detector.chip_size, detector.chip_size],
        "stride": math.gcd(detector.chip_size, _STRIDE),  # sides of pictures are rounded up to a multiple of it
        "batch": 1,
        "channels": len(detector.bands),
    }
    return {key: json.dumps(value) for key, value in deepness.items()} | {k: str(v) for k, v in ultralytics.items()}

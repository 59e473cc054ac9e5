"""A Python raster function for ArcGIS that runs the network of a geodetect detector.

This file travels alone inside a deep learning package (`.dlpk`), under the name of its class. It needs numpy and
torch, of any version from 1.13 on, and nothing of geodetect. What ArcGIS calls, and with what, is described in
https://github.com/Esri/raster-deep-learning/blob/master/docs/writing_deep_learning_python_raster_functions.md
and https://github.com/Esri/raster-functions/wiki/PythonRasterFunction.

Shapes: B chips, C bands, H W pixels of a block, S the side of a chip, K classes, N candidates or boxes.
"""

from __future__ import annotations

import json
import math
import operator
import os
import struct
from typing import Any

import numpy as np
import torch

_DTYPES = {"F32": torch.float32, "I64": torch.int64}  # of safetensors, as far as the package has them
_BYTE = 255.0
_POLYGON = 4  # of 1 point, 2 multipoint, 3 polyline, 4 polygon
_PERCENT = 100
_CPU, _ANY = -1, -2  # device numbers with a meaning of their own
_INHERITED = 2 | 4 | 8  # pixel type and the like, as Esri's template for detectors has it


class Program:
    """A network as the list of PyTorch's basic operators that it is made of, which every version has.

    Args:
        path: a safetensors file (https://huggingface.co/docs/safetensors) with the list in its metadata.
        device: where to run.
    """

    def __init__(self, path: str, device: torch.device) -> None:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            content = bytearray(file.read())  # one that can be written to, which torch.frombuffer asks for
        program = json.loads(header.pop("__metadata__")["program"])
        self._tensors = {name: _tensor(content, entry).to(device) for name, entry in header.items()}
        self._steps, self._input, self._outputs = program["steps"], program["input"], program["outputs"]
        self.device = device

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """What the network gives for pixels (B, C, S, S)."""
        values: dict[str, Any] = {**self._tensors, self._input: pixels.to(self.device)}
        for step in self._steps:
            arguments = [_filled(each, values) for each in step["args"]]
            named = {name: _filled(each, values) for name, each in step["kwargs"].items()}
            values[step["name"]] = _operator(step["op"])(*arguments, **named)
            for name in step["done"]:
                del values[name]
        return [values[name] for name in self._outputs]


def _tensor(content: bytearray, entry: dict[str, Any]) -> torch.Tensor:
    """The tensor that an entry of a safetensors header describes."""
    first, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if first == end:
        return torch.zeros(entry["shape"], dtype=dtype)
    size = torch.zeros(1, dtype=dtype).element_size()
    return torch.frombuffer(content, dtype=dtype, count=(end - first) // size, offset=first).reshape(entry["shape"])


def _filled(argument: Any, values: dict[str, Any]) -> Any:
    """An argument of a step with values in the places of their names."""
    if isinstance(argument, dict):
        return values[argument["value"]]
    if isinstance(argument, list):
        return [_filled(each, values) for each in argument]
    return argument


def _operator(name: str) -> Any:
    """The operator of this name: one of PyTorch's, else one of Python's."""
    namespace, _, rest = name.partition(".")
    if namespace == "operator":
        return getattr(operator, rest)
    packet, _, overload = rest.partition(".")
    return getattr(getattr(torch.ops.aten, packet), overload)


class GeodetectDetector:
    """What ArcGIS calls, method by method, to detect objects in a raster."""

    def __init__(self) -> None:
        self.name = "geodetect"
        self.description = "Finds objects in imagery with a RetinaNet that geodetect trained."
        self.padding, self.threshold, self.nms_overlap = 0, 0.5, 0.5
        self.batch_size, self.exclude_pad_detections = 1, True
        self._device = torch.device("cpu")
        self._program: Program | None = None

    def initialize(self, **kwargs: Any) -> None:
        """Take the model definition, a file or JSON, and the device; called first."""
        if "model" not in kwargs:
            return
        model = kwargs["model"]
        folder = os.path.dirname(os.path.abspath(__file__))
        if os.path.isfile(model):
            folder = os.path.dirname(os.path.abspath(model))
            with open(model, encoding="utf-8") as file:
                self.definition: dict[str, Any] = json.load(file)
        else:
            self.definition = json.loads(model)
        self._weights = os.path.join(folder, self.definition["ModelFile"])
        self._device = _device(kwargs.get("device"))
        self._side = int(self.definition["ImageHeight"])
        self.getConfiguration()

    def getParameterInfo(self) -> list[dict[str, Any]]:
        """What the tool asks its user, with the defaults."""
        told = self.definition
        return [
            _parameter("raster", "raster", None, "Raster", "Imagery", required=True),
            _parameter("model", "string", None, "Model definition", "File of the model (.emd)", required=True),
            _parameter("device", "numeric", _CPU, "Device", "Number of the GPU; -1: processor; -2: any"),
            _parameter("padding", "numeric", told["Padding"], "Padding", "Pixels around a chip that it shares"),
            _parameter("threshold", "numeric", told["Threshold"], "Threshold", "Lowest confidence, 0 to 1"),
            _parameter("nms_overlap", "numeric", 0.5, "NMS overlap", "Overlap (IoU) of boxes of a class, 0 to 1"),
            _parameter("batch_size", "numeric", told["BatchSize"], "Batch size", "Chips looked at in one go"),
            _parameter(
                "exclude_pad_detections",
                "boolean",
                True,
                "Exclude detections in the padding",
                "Drops boxes whose centre lies in the padding: the neighbouring chip has them",
            ),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        """Which blocks to cut, after the user chose; values may come as text."""
        self.padding = int(float(scalars.get("padding", self.definition["Padding"])))  # text may have a decimal point
        self.threshold = float(scalars.get("threshold", self.definition["Threshold"]))
        self.nms_overlap = float(scalars.get("nms_overlap", self.nms_overlap))
        self.batch_size = max(1, int(float(scalars.get("batch_size", self.definition["BatchSize"]))))
        self.exclude_pad_detections = _truth(scalars.get("exclude_pad_detections", True))
        if not 0 <= 2 * self.padding < self._side:
            raise ValueError(f"padding must be at least 0 and less than half of {self._side}; got {self.padding}")
        rows = max(n for n in range(1, math.isqrt(self.batch_size) + 1) if self.batch_size % n == 0)
        return {
            "extractBands": tuple(self.definition["ExtractBands"]),
            "padding": self.padding,
            "tx": self._inner * (self.batch_size // rows),
            "ty": self._inner * rows,
            "fixedTileSize": 1,
            "inheritProperties": _INHERITED,
            "inputMask": True,
        }

    def getFields(self) -> str:
        """The columns of the result, as JSON."""
        kinds = {"OID": "OID", "Class": "String", "Confidence": "Double", "Shape": "Geometry"}
        fields = [{"name": name, "type": f"esriFieldType{kind}", "alias": name} for name, kind in kinds.items()]
        return json.dumps({"fields": fields})

    def getGeometryType(self) -> int:
        """Polygons."""
        return _POLYGON

    def vectorize(self, **pixelBlocks: Any) -> dict[str, str]:
        """The objects of one block as a feature set in pixels of the block without its padding; empty for none."""
        pixels = np.array(pixelBlocks["raster_pixels"], np.float32)  # a copy: the block is ArcGIS' own
        valid = _valid(pixelBlocks.get("raster_mask"), pixels.shape[1:])
        if not valid.any():
            return {"output_vectors": _feature_set([])}
        pixels[:, ~valid] = 0
        boxes, scores, labels = self._detected(pixels)
        boxes, scores, labels = _picked(_centred_on(boxes, valid, self.padding), boxes, scores, labels)
        boxes, scores, labels = _picked(_suppressed(boxes, scores, labels, self.nms_overlap), boxes, scores, labels)
        names = [each["Name"] for each in self.definition["Classes"]]
        found = [
            _feature(i + 1, names[labels[i]], _PERCENT * float(scores[i]), boxes[i].tolist()) for i in range(len(boxes))
        ]
        return {"output_vectors": _feature_set(found)}

    @property
    def _inner(self) -> int:
        """Side of a chip without its padding: from one chip to the next."""
        return self._side - 2 * self.padding

    def _detected(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (N, 4), scores and labels in a block (C, H, W), before suppression, without the padding's offset."""
        if self._program is None:
            self._program = Program(self._weights, self._device)
        n_bands, height, width = pixels.shape
        starts = [(y, x) for y in self._starts(height) for x in self._starts(width)]
        found = [(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))]
        for first in range(0, len(starts), self.batch_size):
            places = starts[first : first + self.batch_size]
            chips = np.zeros((len(places), n_bands, self._side, self._side), np.float32)
            for chip, (y, x) in zip(chips, places):  # noqa: B905  # Python 3.9, as some ArcGIS have, knows no strict
                part = pixels[:, y : y + self._side, x : x + self._side]
                chip[:, : part.shape[1], : part.shape[2]] = part
            boxes, scores = (each.cpu().numpy() for each in self._program(torch.from_numpy(chips) / _BYTE))
            for i, (y, x) in enumerate(places):
                found.append(self._of_chip(boxes[i], scores[i], x - self.padding, y - self.padding))
        return tuple(np.concatenate(each) for each in zip(*found))  # type: ignore[return-value]  # noqa: B905

    def _starts(self, length: int) -> range:
        """Where chips begin along a side of a block."""
        return range(0, max(length - 2 * self.padding, 1), self._inner)

    def _of_chip(
        self, boxes: np.ndarray, scores: np.ndarray, x: int, y: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes of a chip at (x, y) with a score that counts, from candidates (N, 4) and scores (N, K)."""
        place, label = np.nonzero((scores >= self.threshold) & (scores > 0))
        if self.exclude_pad_detections:
            centres = (boxes[place, :2] + boxes[place, 2:]) / 2
            inside = ((centres >= self.padding) & (centres < self._side - self.padding)).all(axis=1)
            place, label = place[inside], label[inside]
        return boxes[place].astype(float) + np.array([x, y, x, y]), scores[place, label].astype(float), label


def _parameter(
    name: str, kind: str, value: Any, title: str, description: str, *, required: bool = False
) -> dict[str, Any]:
    """A parameter as ArcGIS takes it; None for no default."""
    told = {"name": name, "dataType": kind, "required": required, "displayName": title, "description": description}
    return told if value is None else {**told, "value": value}


def _device(number: Any) -> torch.device:
    """The device that ArcGIS means by a number, or by none."""
    number = _CPU if number is None else int(number)
    if number >= 0:
        return torch.device("cuda", number)
    return torch.device("cuda" if number == _ANY and torch.cuda.is_available() else "cpu")


def _truth(value: Any) -> bool:
    """Whether a value, which may be text, means yes."""
    return str(value).strip().lower() in ("true", "1", "t", "y", "yes")


def _valid(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Which pixels (H, W) of a block say something; all where there is no mask."""
    if mask is None:
        return np.ones(shape, bool)
    valid = np.asarray(mask) != 0
    return np.asarray(valid.all(axis=0) if valid.ndim > len(shape) else valid)


def _centred_on(boxes: np.ndarray, valid: np.ndarray, padding: int) -> np.ndarray:
    """Indices of the boxes whose centre lies on a valid pixel of the padded block."""
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2 + padding).astype(int)
    x, y = (np.clip(centres[:, axis], 0, valid.shape[1 - axis] - 1) for axis in (0, 1))
    return np.flatnonzero(valid[y, x])


def _picked(indices: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    return [array[indices] for array in arrays]


def _suppressed(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, overlap: float) -> np.ndarray:
    """Indices that greedy suppression within each class keeps, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[(labels[order] != labels[best]) | (_iou(boxes[best], boxes[order]) <= overlap)]
    return np.array(kept, int)


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one box with others (N, 4)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.clip(sides, 0, None).prod(axis=1)
    whole = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / whole)


def _feature(number: int, name: str, confidence: float, box: list[float]) -> dict[str, Any]:
    """A box as a polygon of Esri's JSON, clockwise and closed."""
    x1, y1, x2, y2 = box
    ring = [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]
    return {"attributes": {"OID": number, "Class": name, "Confidence": confidence}, "geometry": {"rings": [ring]}}


def _feature_set(features: list[dict[str, Any]]) -> str:
    """Features with what Esri's JSON wants to know about them."""
    kinds = {"OID": "OID", "Class": "String", "Confidence": "Double"}
    return json.dumps(
        {
            "displayFieldName": "",
            "geometryType": "esriGeometryPolygon",
            "fieldAliases": {name: name for name in kinds},
            "fields": [{"name": name, "type": f"esriFieldType{kind}", "alias": name} for name, kind in kinds.items()],
            "features": features,
        }
    )

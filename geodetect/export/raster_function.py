"""`GeodetectDetector`: a Python raster function for ArcGIS that runs the network of a geodetect detector.

This file is copied into each deep learning package (`.dlpk`), under the name of its class. It needs numpy and torch
1.13 or newer, and imports nothing of geodetect. ArcGIS' interface is described in
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
from typing import Any, NamedTuple

import numpy as np
import torch

_DTYPES = {"F32": torch.float32, "I64": torch.int64}  # those of safetensors that a package can hold
_BYTE = 255.0
_POLYGON = 4  # ArcGIS' number of the geometry type
_PERCENT = 100
_CPU, _ANY = -1, -2  # device numbers below those of GPUs
_INHERITED = 2 | 4 | 8  # pixel type, nodata and size, as in Esri's template for detectors


class Program:
    """A network as a list of PyTorch's basic operators, which all versions have.

    Args:
        path: a safetensors file (https://huggingface.co/docs/safetensors) with the list in its metadata.
        device: where to run.
    """

    def __init__(self, path: str, device: torch.device) -> None:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
            content = bytearray(file.read())  # torch.frombuffer wants a writable buffer
        program = json.loads(header.pop("__metadata__")["program"])
        self._tensors = {}
        for name, entry in header.items():
            (first, end), shape, dtype = entry["data_offsets"], entry["shape"], _DTYPES[entry["dtype"]]
            tensor = torch.zeros(shape, dtype=dtype)
            if first < end:  # torch.frombuffer refuses tensors without an element
                tensor = torch.frombuffer(content, dtype=dtype, count=tensor.numel(), offset=first).reshape(shape)
            self._tensors[name] = tensor.to(device)
        self._steps, self._input, self._outputs = program["steps"], program["input"], program["outputs"]
        self.device = device

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Return the network's outputs for pixels (B, C, S, S)."""
        values: dict[str, Any] = {**self._tensors, self._input: pixels.to(self.device)}
        for step in self._steps:
            arguments = [_fill(each, values) for each in step["args"]]
            named = {name: _fill(each, values) for name, each in step["kwargs"].items()}
            # `aten.conv2d.default` of PyTorch, `operator.getitem` of Python
            namespace, name, *overload = step["op"].split(".")
            found = getattr(operator if namespace == "operator" else torch.ops.aten, name)
            values[step["name"]] = (getattr(found, overload[0]) if overload else found)(*arguments, **named)
            for name in step["done"]:
                del values[name]
        return [values[name] for name in self._outputs]


def _fill(argument: Any, values: dict[str, Any]) -> Any:
    """Return an argument of a step with names replaced by values."""
    if isinstance(argument, dict):
        return values[argument["value"]]
    if isinstance(argument, list):
        return [_fill(each, values) for each in argument]
    return argument


class _Found(NamedTuple):
    """Boxes (N, 4) in pixels with their scores (N,), 0 to 1, and labels (N,).

    Oriented boxes (N, 5) are rectangles turned about their centre by the last number, in radians from +x towards +y.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> _Found:
        """Return the boxes at these indices."""
        return _Found(*(each[indices] for each in self))

    def suppress(self, overlap: float) -> _Found:
        """Return the boxes that greedy suppression within each class keeps, best first."""
        order, kept = np.argsort(-self.scores, kind="stable"), []
        while len(order):
            best, order = order[0], order[1:]
            kept.append(best)
            rivals = (self.labels[order] == self.labels[best]) & (_iou(self.boxes[best], self.boxes[order]) > overlap)
            order = order[~rivals]
        return self.take(np.array(kept, int))


class GeodetectDetector:
    """The raster function; ArcGIS calls its public methods."""

    def __init__(self) -> None:
        self.name = "geodetect"
        self.description = "Finds objects in imagery with a RetinaNet that geodetect trained."
        self.padding, self.threshold, self.nms_overlap = 0, 0.5, 0.5
        self.batch_size, self.exclude_pad_detections = 1, True
        self._device = torch.device("cpu")
        self._program: Program | None = None

    def initialize(self, **kwargs: Any) -> None:
        """Read the model definition, a file or JSON, and choose the device; called first."""
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
        number = _CPU if kwargs.get("device") is None else int(kwargs["device"])
        any_gpu = "cuda" if number == _ANY and torch.cuda.is_available() else "cpu"
        self._device = torch.device(f"cuda:{number}" if number >= 0 else any_gpu)
        self._side = int(self.definition["ImageHeight"])
        self.getConfiguration()

    def getParameterInfo(self) -> list[dict[str, Any]]:
        """Return the parameters of the tool, with their defaults."""
        definition = self.definition
        return [
            _parameter("raster", "raster", None, "Raster", "Imagery", required=True),
            _parameter("model", "string", None, "Model definition", "File of the model (.emd)", required=True),
            _parameter("device", "numeric", _CPU, "Device", "Number of the GPU; -1: CPU; -2: GPU if available"),
            _parameter("padding", "numeric", definition["Padding"], "Padding", "Pixels around a chip that it shares"),
            _parameter("threshold", "numeric", definition["Threshold"], "Threshold", "Lowest confidence, 0 to 1"),
            _parameter("nms_overlap", "numeric", 0.5, "NMS overlap", "Overlap (IoU) of boxes of a class, 0 to 1"),
            _parameter("batch_size", "numeric", definition["BatchSize"], "Batch size", "Chips per batch"),
            _parameter(
                "exclude_pad_detections",
                "boolean",
                True,
                "Exclude detections in the padding",
                "Drops boxes whose centre lies in the padding: the neighbouring chip has them",
            ),
        ]

    def getConfiguration(self, **scalars: Any) -> dict[str, Any]:
        """Take the user's choices, which may come as text, and return the blocks to read."""
        self.padding = int(float(scalars.get("padding", self.definition["Padding"])))  # text may have a decimal point
        self.threshold = float(scalars.get("threshold", self.definition["Threshold"]))
        self.nms_overlap = float(scalars.get("nms_overlap", self.nms_overlap))
        self.batch_size = max(1, int(float(scalars.get("batch_size", self.definition["BatchSize"]))))
        exclude = scalars.get("exclude_pad_detections", True)
        self.exclude_pad_detections = str(exclude).strip().lower() in ("true", "1", "t", "y", "yes")
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
        """Return the columns of the result, as JSON."""
        kinds = {"OID": "OID", "Class": "String", "Confidence": "Double", "Shape": "Geometry"}
        fields = [{"name": name, "type": f"esriFieldType{kind}", "alias": name} for name, kind in kinds.items()]
        return json.dumps({"fields": fields})

    def getGeometryType(self) -> int:
        """Return the number of the geometry type."""
        return _POLYGON

    def vectorize(self, **pixelBlocks: Any) -> dict[str, str]:
        """Return the objects of a block as a feature set, in pixels of the block without its padding."""
        pixels = np.array(pixelBlocks["raster_pixels"], np.float32)  # a copy: the block is ArcGIS' own
        mask = pixelBlocks.get("raster_mask")  # (H, W), or one for each band
        valid = np.ones(pixels.shape[1:], bool) if mask is None else np.array(mask, bool)
        valid = np.asarray(valid.all(axis=0)) if valid.ndim == pixels.ndim else valid
        if not valid.any():
            return {"output_vectors": _feature_set([])}
        pixels[:, ~valid] = 0
        found = self._detect(pixels)
        # boxes count by the pixel under their centre, in the padded block
        centres = ((found.boxes[:, :2] + found.boxes[:, 2:4]) / 2 + self.padding).astype(int)
        x, y = (np.clip(centres[:, axis], 0, valid.shape[1 - axis] - 1) for axis in (0, 1))
        found = found.take(np.flatnonzero(valid[y, x])).suppress(self.nms_overlap)
        features = []
        rings = _corners(found.boxes).tolist()  # clockwise
        for number, (corners, score, label) in enumerate(zip(rings, found.scores, found.labels), start=1):  # noqa: B905
            name, confidence = self.definition["Classes"][label]["Name"], _PERCENT * float(score)
            attributes = {"OID": number, "Class": name, "Confidence": confidence}
            features.append({"attributes": attributes, "geometry": {"rings": [[*corners, corners[0]]]}})
        return {"output_vectors": _feature_set(features)}

    @property
    def _inner(self) -> int:
        """Side of a chip without its padding: the stride of chips."""
        return self._side - 2 * self.padding

    def _detect(self, pixels: np.ndarray) -> _Found:
        """Return the objects in a padded block (C, H, W) before suppression, in pixels of the block without padding."""
        if self._program is None:
            self._program = Program(self._weights, self._device)
        n_bands, height, width = pixels.shape
        starts = [(y, x) for y in self._starts(height) for x in self._starts(width)]
        n_numbers = 5 if self.definition["Geodetect"].get("oriented") else 4
        found = [_Found(np.zeros((0, n_numbers)), np.zeros(0), np.zeros(0, int))]
        for first in range(0, len(starts), self.batch_size):
            places = starts[first : first + self.batch_size]
            chips = np.zeros((len(places), n_bands, self._side, self._side), np.float32)
            for chip, (y, x) in zip(chips, places):  # noqa: B905  # Python 3.9, as some ArcGIS have, knows no strict
                part = pixels[:, y : y + self._side, x : x + self._side]
                chip[:, : part.shape[1], : part.shape[2]] = part
            boxes, scores = (each.cpu().numpy() for each in self._program(torch.from_numpy(chips) / _BYTE))
            for i, (y, x) in enumerate(places):
                of_chip = self._select(boxes[i], scores[i])
                offset = np.zeros(n_numbers)
                offset[:4] = np.array([x, y, x, y]) - self.padding
                found.append(of_chip._replace(boxes=of_chip.boxes + offset))
        return _Found(*(np.concatenate(each) for each in zip(*found)))  # noqa: B905

    def _starts(self, length: int) -> range:
        """Return the first pixels of the chips along a side of a padded block."""
        return range(0, max(length - 2 * self.padding, 1), self._inner)

    def _select(self, boxes: np.ndarray, scores: np.ndarray) -> _Found:
        """Return the candidates (N, 4) or (N, 5) of a chip with scores (N, K) from the threshold on."""
        place, label = np.nonzero((scores >= self.threshold) & (scores > 0))
        if self.exclude_pad_detections:
            centres = (boxes[place, :2] + boxes[place, 2:4]) / 2
            inside = ((centres >= self.padding) & (centres < self._side - self.padding)).all(axis=1)
            place, label = place[inside], label[inside]
        return _Found(boxes[place].astype(float), scores[place, label].astype(float), label)


def _parameter(
    name: str, kind: str, value: Any, title: str, description: str, *, required: bool = False
) -> dict[str, Any]:
    """Return a parameter in ArcGIS' form; a value of None is no default."""
    parameter = {"name": name, "dataType": kind, "required": required, "displayName": title, "description": description}
    return parameter if value is None else {**parameter, "value": value}


def _iou(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of one box with others (N, 4), or of oriented ones (N, 5)."""
    if len(box) == 4:  # noqa: PLR2004
        sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
        shared = np.clip(sides, 0, None).prod(axis=1)
    else:
        shared = _shared_oriented(box, others)
    whole = (box[2:4] - box[:2]).prod() + (others[:, 2:4] - others[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / whole)


def _corners(boxes: np.ndarray) -> np.ndarray:
    """Return the corners (N, 4, 2) of boxes (N, 4) or oriented boxes (N, 5), clockwise where y points down."""
    corners = np.asarray(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))
    if boxes.shape[1] == 4:  # noqa: PLR2004
        return corners
    return _turn(corners, (boxes[:, None, :2] + boxes[:, None, 2:4]) / 2, boxes[:, 4])


def _turn(points: np.ndarray, centres: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return points (N, P, 2) turned about centres (N, 1, 2) by angles (N,), from +x towards +y."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x, y = np.moveaxis(points - centres, -1, 0)
    return np.asarray(np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1) + centres)


def _shared_oriented(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the common area of one oriented box with others (N, 5).

    In the frame of `box`, [0, w] x [0, h], a line at y meets another box between two of its edges. So the area is the
    integral of clamp(x, 0, w) dy along the edges, as far as y lies in [0, h]; on an edge x is linear in y, and the
    clamped function bends where x is 0 or w.
    """
    centre, (width, height) = (box[:2] + box[2:4]) / 2, box[2:4] - box[:2]
    turned = _turn(_corners(others), centre[None, None], np.full(len(others), -box[4]))
    start = turned - centre + np.array([width, height]) / 2
    run, rise = np.moveaxis(np.roll(start, -1, axis=1) - start, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        t0, t1 = (np.nan_to_num((y - start[..., 1]) / rise).clip(0, 1) for y in (0.0, height))
        bends = [np.nan_to_num((x - start[..., 0]) / run) for x in (0.0, width)]
    low, high = np.minimum(t0, t1), np.maximum(t0, t1)
    steps = np.sort(np.stack([low, *(bend.clip(low, high) for bend in bends), high]), axis=0)
    x = (start[..., 0] + steps * run).clip(0, width)
    area = (np.diff(steps, axis=0) * (x[1:] + x[:-1]) / 2).sum(axis=0) * rise
    return np.asarray(area.sum(axis=1).clip(0, None))


def _feature_set(features: list[dict[str, Any]]) -> str:
    """Return features as a feature set of Esri's JSON."""
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

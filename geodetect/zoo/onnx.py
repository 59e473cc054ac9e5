"""Detectors of other programs in `.onnx` files, with the metadata of Deepness, GeoDeep or Ultralytics.

Shapes: B images, C bands, S side of an image, N candidates of an image, K classes.
"""

from __future__ import annotations

import ast
import json
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geodetect.boxes import Boxes, nms
from geodetect.errors import ArgumentError, ModelError, warn
from geodetect.export.onnx_detector import METADATA, ORIENTED, OnnxDetector, load_session
from geodetect.metadata import LOWEST_SCORE, NMS_IOU, UNKNOWN_SCORE, HasMetadata, Metadata

_CANDIDATE_RANK = 3  # (B, N, n) or (B, n, N)
_BOX = 4  # numbers of a box
_MOST_OVERLAP = 90  # percent of a window


@dataclass(frozen=True)
class Layout:
    """How the output of a model holds its candidates, by Deepness' rules.

    https://github.com/PUTvision/qgis-plugin-deepness, processing/models/detector.py

    Args:
        in_columns: whether candidates are columns, (n, N), not rows, (N, n).
        first_class: where the scores of the classes begin; before them a box as centre, width and height.
        objectness: whether the number before the scores of classes, that of any object, is the score.
        angle: whether the angle of an oriented box comes after the scores, in radians from +x towards +y.
    """

    in_columns: bool
    first_class: int
    objectness: bool = False
    angle: bool = False


LAYOUTS: Mapping[str, Layout] = {
    "YOLO_v5_or_v7_default": Layout(in_columns=False, first_class=5, objectness=True),
    "YOLO_v6": Layout(in_columns=False, first_class=5),
    "YOLO_v8": Layout(in_columns=True, first_class=4),
    "YOLO_v9": Layout(in_columns=True, first_class=4),
    "YOLO_Ultralytics": Layout(in_columns=True, first_class=4),
    ORIENTED: Layout(in_columns=True, first_class=4, angle=True),
}
_RETINANET = "retinanet"  # three outputs: boxes as corners (N, 4), scores (N,), labels (N,); one image at a time
_END_TO_END = "YOLO_end2end"  # rows of corners, score, label, after suppression: Ultralytics' newest, and `nms=True`


class Candidates(NamedTuple):
    """Boxes (N, 4) as corners, the label of each, its score, and its angle if oriented."""

    xyxy: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    angles: np.ndarray | None = None


def load_onnx(
    path: Path,
    *,
    classes: Sequence[str] | None = None,
    pixel_size_m: float | None = None,
    layout: str | None = None,
    device: str | None = None,
) -> OnnxDetector | ForeignOnnx:
    """Return the detector in an `.onnx` file of ours or of another program.

    The arguments are those of `load_detector`.

    Raises:
        ModelError: if the file is missing, damaged, or holds another kind of model.
        ArgumentError: if something is missing that the file does not say, or is given although it does.
        MissingPackage: without the extra `onnx`.
    """
    loaded = load_session(path, device)
    if METADATA not in loaded.get_modelmeta().custom_metadata_map:
        return ForeignOnnx(path, loaded, classes=classes, pixel_size_m=pixel_size_m, layout=layout)
    given = {"classes": classes, "pixel_size_m": pixel_size_m, "layout": layout}
    if stated := [keyword for keyword, value in given.items() if value is not None]:
        raise ArgumentError(f"{path.name} holds its own {' and '.join(stated)}; leave {' and '.join(stated)} out")
    return OnnxDetector(path, device)


class ForeignOnnx(HasMetadata):
    """A detector of another program, run by onnxruntime in float32.

    Such models are made for 8 bits. Other whole numbers are divided by the largest of their type, as in GeoDeep, and
    floats are taken for numbers from 0 to 255, with a warning. NaN, infinity and padding become 0.

    Args:
        path: an `.onnx` file.
        loaded: a session of it.
        classes: names of the classes, if the file does not name them.
        pixel_size_m: side of a pixel on the ground in metres; None is what the file says.
        layout: a key of `LAYOUTS`, "retinanet" or "YOLO_end2end", if the file does not say.

    Raises:
        ModelError: if it holds another kind of model.
        ArgumentError: if something is missing that the file does not say, or does not fit it.
    """

    def __init__(
        self,
        path: Path,
        loaded: Any,
        *,
        classes: Sequence[str] | None = None,
        pixel_size_m: float | None = None,
        layout: str | None = None,
    ) -> None:
        self.name, self._session, self._warned = path.name, loaded, False
        self.checksum = f"{zlib.crc32(path.read_bytes()):08x}"
        told = {key: _parse_value(value) for key, value in loaded.get_modelmeta().custom_metadata_map.items()}
        _refuse_other_kinds(told, loaded, self.name)
        self.layout = _layout(told, layout, self.name)
        (given,) = loaded.get_inputs()
        self._input, (batch, n_bands, height, width) = given.name, given.shape
        self._at_once = batch if isinstance(batch, int) else None
        if self.layout == _RETINANET:
            self._at_once = 1
        side = width if isinstance(width, int) else _side(told, self.name)
        if not isinstance(n_bands, int) or (isinstance(height, int) and height != side):
            raise ModelError(f"{self.name} must take square images (B, C, S, S); its input is {given.shape}")
        self._mean = _by_band(told, "standardization_mean", 0, n_bands, self.name)
        self._std = _by_band(told, "standardization_std", 1, n_bands, self.name)
        if not (self._std > 0).all():
            raise ModelError(f"{self.name} states standardization_std={self._std.tolist()}; each must be above 0")
        resolution = _number(told, "resolution", math.inf, self.name)  # of Deepness, in cm
        if pixel_size_m is None and resolution:
            pixel_size_m = resolution / 100
        overlap = _number(told, "tiles_overlap", _MOST_OVERLAP, self.name) or 0  # in percent
        try:
            self.metadata = Metadata(
                classes=_classes(told, classes, self._n_classes(), self.name),
                bands=range(1, n_bands + 1),
                chip_size=side,
                overlap=min(side - 1, round(side * overlap / 100)),
                pixel_size_m=pixel_size_m,
                min_score=UNKNOWN_SCORE if (score := _number(told, "det_conf", 1, self.name)) is None else score,
                oriented=self.layout == ORIENTED,
                summary={"layout": self.layout, "nms_iou": told.get("det_iou_thresh")},
            )
        except ArgumentError as error:
            raise ArgumentError(f"{self.name} cannot be run so: {error}") from error

    def _n_classes(self) -> int | None:
        """Return how many classes the output has room for, if its shape says."""
        layout = LAYOUTS.get(self.layout)
        if layout is None:
            return 1 if self.layout == _RETINANET else None
        n = self._session.get_outputs()[0].shape[-2 if layout.in_columns else -1]
        return n - layout.first_class - layout.angle if isinstance(n, int) else None

    def detect(self, pixels: np.ndarray, *, min_score: Any = LOWEST_SCORE, nms_iou: float = NMS_IOU) -> list[Boxes]:
        """Return the boxes on each image, highest score first, in its pixels, cut at its edges.

        Oriented boxes are not cut; those with their centre in the image count.

        Args:
            pixels: (B, C, H, W) as read from the raster, H and W at most `chip_size`.
            min_score: lowest score, for all classes or by name.
            nms_iou: IoU above which the lower-scoring of two boxes of a class is dropped.

        Raises:
            ModelError: if the pixels have another number of bands, or are larger than the model's images.
        """
        floors, found = self.metadata.scores(min_score), []
        for candidates in self._run(self._images(pixels)):
            keep = candidates.scores >= np.maximum(floors[candidates.labels], np.finfo(np.float32).tiny)
            xyxy, labels, scores, angles = candidates
            boxes = Boxes(xyxy[keep], labels[keep], scores[keep], None if angles is None else angles[keep])
            boxes = boxes[nms(boxes, nms_iou)].clip(pixels.shape[3], pixels.shape[2])  # in this order, as Ultralytics
            found.append(boxes[boxes.are_inside(0, 0, pixels.shape[3], pixels.shape[2])])
        return found

    def _images(self, pixels: np.ndarray) -> np.ndarray:
        """Return standardised images (B, C, S, S) of pixels (B, C, H, W)."""
        n, n_bands, height, width = pixels.shape
        if n_bands != len(self.bands):
            raise ModelError(f"{self.name} takes {len(self.bands)} bands; got pixels of {n_bands}")
        if max(height, width) > self.chip_size:
            raise ModelError(f"{self.name} takes images of {self.chip_size} px; got {width} x {height} px")
        highest = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else 255
        if pixels.dtype != np.uint8 and not self._warned:
            self._warned = True
            warn(
                f"{self.name} is made for 8-bit pixels; these are {pixels.dtype}, and {highest:,} counts as white; "
                "if your brightest pixels are much darker, convert the raster first (gdal_translate -ot Byte -scale)"
            )
        images = np.zeros((n, n_bands, self.chip_size, self.chip_size), np.float32)
        images[:, :, :height, :width] = np.nan_to_num(pixels, nan=0, posinf=0, neginf=0) / np.float32(highest)
        standardised: np.ndarray = (images - self._mean[:, None, None]) / self._std[:, None, None]
        return standardised

    def _run(self, images: np.ndarray) -> Iterator[Candidates]:
        """Yield the candidates of each image."""
        step = self._at_once or max(1, len(images))
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            filled = np.concatenate([batch, np.zeros((step - len(batch), *batch.shape[1:]), np.float32)])
            outputs = self._session.run(None, {self._input: filled})
            if self.layout == _RETINANET:
                xyxy, scores, labels = outputs
                yield Candidates(xyxy.astype(float), np.zeros(len(labels), int), scores)
                continue
            for output in outputs[0][: len(batch)]:
                yield self._candidates(output)

    def _candidates(self, output: np.ndarray) -> Candidates:
        if self.layout == _END_TO_END:
            return Candidates(output[:, :_BOX].astype(float), output[:, _BOX + 1].astype(int), output[:, _BOX])
        layout = LAYOUTS[self.layout]
        rows = output.T if layout.in_columns else output
        of_classes = rows[:, layout.first_class : layout.first_class + len(self.classes)]
        labels = of_classes.argmax(axis=1)
        scores = rows[:, _BOX] if layout.objectness else of_classes.max(axis=1)
        centres, halves = rows[:, :2].astype(float), rows[:, 2:_BOX].astype(float) / 2
        xyxy = np.concatenate([centres - halves, centres + halves], axis=1)
        angles = rows[:, layout.first_class + len(self.classes)].astype(float) if layout.angle else None
        return Candidates(xyxy, labels, scores, angles)


def _parse_value(text: str) -> Any:
    """Return a value of the metadata: JSON, as Deepness writes it, or a literal of Python, as Ultralytics does."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text


def _number(told: Mapping[str, Any], key: str, most: float, name: str) -> float | None:
    """Return a number of the metadata, None if it is not there.

    Raises:
        ModelError: if it is no number from 0 to `most`.
    """
    value = told.get(key)
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= most:
        expected = f"a number from 0 to {most:g}" if math.isfinite(most) else "a number of at least 0"
        raise ModelError(f"{name} states {key}={value!r:.80} in its metadata; expected {expected}")
    return number


def _by_band(told: Mapping[str, Any], key: str, otherwise: float, n_bands: int, name: str) -> np.ndarray:
    """Return a number of the metadata for each band; a single one is for all.

    Raises:
        ModelError: if they are no numbers, or too few or many.
    """
    value = told.get(key)
    try:
        numbers: np.ndarray = np.broadcast_to(np.asarray(otherwise if value is None else value, np.float32), n_bands)
    except (TypeError, ValueError) as error:
        raise ModelError(f"{name} states {key}={value!r:.80} in its metadata; expected {n_bands} numbers") from error
    return numbers


def _refuse_other_kinds(told: Mapping[str, Any], loaded: Any, name: str) -> None:
    """Raise unless the model is a detector."""
    kind = str(told.get("model_type") or told.get("task") or "")
    inputs, ranks = loaded.get_inputs(), [len(output.shape) for output in loaded.get_outputs()]
    if kind.lower() not in ("detector", "detect", "obb", "") or (ranks[0] > _CANDIDATE_RANK):
        raise ModelError(f"{name} is a model for {kind.lower() or 'segmentation'}, not for the detection of objects")
    if len(inputs) != 1 or len(inputs[0].shape) != 4:  # noqa: PLR2004
        raise ModelError(f"{name} must have one input (B, C, S, S); it has {[each.shape for each in inputs]}")


def _layout(told: Mapping[str, Any], given: str | None, name: str) -> str:
    known = [*LAYOUTS, _RETINANET, _END_TO_END]
    stated = told.get("det_type")
    if stated is None and "names" in told and "stride" in told:
        arguments = told.get("args")
        has_nms = isinstance(arguments, Mapping) and arguments.get("nms")  # suppression inside the model
        suppressed, is_oriented = told.get("end2end") or has_nms, str(told.get("task")).lower() == "obb"
        if is_oriented and suppressed:
            raise ModelError(f"{name} finds oriented boxes and suppresses them itself; export it with nms=False")
        stated = _END_TO_END if suppressed else ORIENTED if is_oriented else "YOLO_Ultralytics"
    if stated is not None and given is not None and given != stated:
        raise ArgumentError(f"{name} says that its layout is {stated}; got layout={given!r}, leave it out")
    layout = given or stated
    if layout is None:
        raise ArgumentError(f"{name} does not say how its output is laid out; give layout=, one of {', '.join(known)}")
    if layout not in known:
        raise ArgumentError(f"layout must be one of {', '.join(known)}; got {layout!r} for {name}")
    return str(layout)


def _side(told: Mapping[str, Any], name: str) -> int:
    """Return the side of images for an input of any size: `tiles_size` of Deepness or `imgsz` of Ultralytics."""
    side = told.get("tiles_size") or told.get("imgsz")
    side = max(side) if isinstance(side, list | tuple) and side else side
    if not isinstance(side, int):
        raise ModelError(
            f"{name} takes images of any size and does not say which it was trained on; export it with a fixed size"
        )
    return side


def _classes(told: Mapping[str, Any], given: Sequence[str] | None, n_classes: int | None, name: str) -> list[str]:
    """Return the names of the classes in the order of their labels."""
    stated = told.get("class_names") or told.get("names")
    if isinstance(stated, list) and len(stated) == 1 and isinstance(stated[0], Mapping):
        (stated,) = stated  # a list of one mapping, as some files have it
    if isinstance(stated, str):
        stated = [stated]
    if isinstance(stated, Mapping):
        try:
            by_label = {int(label): str(value) for label, value in stated.items()}
        except ValueError as error:
            raise ModelError(
                f"{name} must name its classes by numbers from 0; its metadata has {stated!r:.80}"
            ) from error
        stated = [by_label.get(label, f"class {label}") for label in range(max(by_label, default=-1) + 1)]
    if stated and given is not None:
        raise ArgumentError(f"{name} names its classes {', '.join(map(str, stated))}; leave classes out")
    names = [str(each) for each in (given if given is not None else stated or ())]
    if not names:
        wanted = "its classes" if n_classes is None else f"its {n_classes} classes"
        raise ArgumentError(f"{name} does not name {wanted}; give their names in order, classes=[...]")
    if n_classes is not None and len(names) != n_classes:
        raise ArgumentError(f"{name} has scores of {n_classes} classes; got {len(names)} names: {', '.join(names)}")
    return names

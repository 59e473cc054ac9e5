"""`OnnxDetector`: an `.onnx` file of `geodetect.export.onnx`, run by onnxruntime, without PyTorch.

Shapes: B chips, C bands, H W pixels, S the side of a chip, K classes, N candidates of a chip.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from geodetect.boxes import Boxes, nms
from geodetect.errors import ArgumentError, ModelError, first_line, missing
from geodetect.metadata import CANDIDATE_MIN_SCORE, NMS_IOU, HasMetadata, Metadata, topk_candidates

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

METADATA = "geodetect"  # key of our own metadata
# The `det_type` by which other programs recognise each layout. GeoDeep does not know YOLO_Ultralytics, and reads it as
# the last one; Deepness reads only the first picture of a batch, unless it is YOLO_v9.
LAYOUTS: dict[str | None, str] = {
    None: "YOLO_v9",
    "YOLO_v9": "YOLO_v9",
    "YOLO_Ultralytics": "YOLO_Ultralytics",
    "yolo": "YOLO_Ultralytics",  # its name in earlier versions
    "YOLO_v5_or_v7_default": "YOLO_v5_or_v7_default",
    "YOLO_Ultralytics_obb": "YOLO_Ultralytics_obb",
}
ORIENTED = "YOLO_Ultralytics_obb"  # the layout of oriented detectors, and of no others: an angle after the scores
IN_COLUMNS = ("YOLO_v9", "YOLO_Ultralytics", ORIENTED)  # (4 + K, N), (5 + K, N); the other one has rows, (N, 5 + K)
_BYTE = np.float32(255)
# onnxruntime raises a class of its own for each of its error codes; these stand for files that it cannot read.
_FAILURES = "Fail InvalidArgument InvalidGraph InvalidProtobuf NoSuchFile NotImplemented RuntimeException".split()


class RunsInOnnxruntime(HasMetadata):
    """A detector in an `.onnx` file; copies and pickles hold the file's content, since no session can be pickled.

    Args:
        path: of the file.
        load: makes such a detector of a path.
    """

    def __init__(self, path: Path, load: Callable[[Path], Any]) -> None:
        self.name, self._path, self._load = path.name, path, load
        self._content: bytes | None = None  # of a copy, whose file is gone
        self.checksum = f"{zlib.crc32(read_whole(path)):08x}"

    def __reduce__(self) -> tuple[Any, ...]:
        content = self._content or read_whole(self._path)
        state = {"metadata": self.metadata, "_content": content}
        return _load_from_content, (self._load, self.name, content), state


class OnnxDetector(RunsInOnnxruntime):
    """A detector that runs in onnxruntime, with the results of the exported one in float32.

    Args:
        path: an `.onnx` file written by geodetect.
        device: "cpu", "cuda", "cuda:1"; None: a GPU if onnxruntime has one.

    Raises:
        ModelError: if the file is missing, damaged, or not written by geodetect.
        ArgumentError: if there is no such device.
        MissingPackage: without the extra `onnx`.
    """

    def __init__(self, path: str | Path, device: str | None = None) -> None:
        self._session = load_session(Path(path), device)
        facts = read_metadata(self._session, path)
        super().__init__(Path(path), partial(OnnxDetector, device=device))
        self.metadata = Metadata.from_json(facts)
        self._groups: list[int] = facts["groups"]
        self._in_columns: bool = facts["det_type"] in IN_COLUMNS

    def detect(
        self, pixels: np.ndarray, *, min_score: float = CANDIDATE_MIN_SCORE, nms_iou: float = NMS_IOU
    ) -> list[Boxes]:
        """Return the boxes of each chip, best first, in the chip's pixels and clipped to it.

        Args:
            pixels: (B, C, H, W) as read from the raster; NaN and infinity count as the mean.
            min_score: lowest score.
            nms_iou: IoU above which the worse of two boxes of a class is dropped.

        Raises:
            ModelError: if the pixels have another number of bands, are larger than the model's chips, or the network
                gives NaN for them.
        """
        if not len(pixels):
            return []
        (found,) = self._session.run(None, {"images": self._prepare(pixels)})
        if np.isnan(found).any():
            raise ModelError(
                f"{self.name} gives NaN for these pixels; a fill value far from all others does that: declare it with "
                "nodata="
            )
        rows = found.swapaxes(1, 2) if self._in_columns else found
        return [self._select_boxes(each, (pixels.shape[2], pixels.shape[3]), min_score, nms_iou) for each in rows]

    def _prepare(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels / 255 as (B, C, S, S), padded with NaN, which counts as the mean."""
        n, n_bands, height, width = pixels.shape
        if n_bands != len(self.bands):
            raise ModelError(f"{self.name} takes {len(self.bands)} bands {self.bands}; got pixels of {n_bands}")
        if max(height, width) > self.chip_size:
            raise ModelError(
                f"{self.name} takes chips of {self.chip_size} px, fixed when it was exported; got {width} x {height} px"
            )
        pictures = np.full((n, n_bands, self.chip_size, self.chip_size), np.nan, np.float32)
        np.divide(pixels, _BYTE, out=pictures[:, :, :height, :width], casting="unsafe")
        return pictures

    def _select_boxes(self, rows: np.ndarray, shape: tuple[int, int], min_score: float, nms_iou: float) -> Boxes:
        """Return the boxes among the candidates (N, 4 + n) of one chip of the size (H, W)."""
        n_classes, angles = len(self.classes), rows[:, -1].astype(float)
        scores = rows[:, 4 : 4 + n_classes].copy() if self.oriented else rows[:, -n_classes:].copy()
        ends, most = np.cumsum(self._groups), topk_candidates(shape)
        for first, end in zip(ends - self._groups, ends, strict=True):
            # The largest by size of a level, as in the detector; below 0 are those outside the chip.
            size = np.abs(level := scores[first:end])
            if size.size > most:
                level[size < np.partition(size, -most, axis=None)[-most]] = 0
        place, label = np.nonzero(scores >= max(min_score, np.finfo(np.float32).tiny))
        centres, halves = rows[place, :2].astype(float), rows[place, 2:4].astype(float) / 2
        xyxy = np.concatenate([centres - halves, centres + halves], axis=1)
        boxes = Boxes(xyxy, label, scores[place, label], angles[place] if self.oriented else None)
        boxes = boxes.clip(shape[1], shape[0])
        boxes = boxes[boxes.are_inside(0, 0, shape[1], shape[0])]
        return boxes[nms(boxes, nms_iou)]


def read_whole(path: Path) -> bytes:
    """Return the content of a model file, with the weights that PyTorch's ONNX exporter writes to a file beside it."""
    content = path.read_bytes()
    if path.suffix.lower() != ".onnx" or b"location" not in content:  # the key of that file's name
        return content
    import onnx

    return bytes(onnx.load(path).SerializeToString())


def _load_from_content(load: Callable[[Path], Any], name: str, content: bytes) -> Any:
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        return load(path)


def load_session(path: Path, device: str | None) -> InferenceSession:
    """Load a file into onnxruntime.

    Raises:
        ModelError: if there is no such file, or onnxruntime cannot read it.
        ArgumentError: if there is no such device.
        MissingPackage: without the extra `onnx`.
    """
    try:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise missing("onnxruntime", "onnx", "running an .onnx file") from error
    if not path.is_file():
        raise ModelError(f"there is no model file {path}; expected an .onnx file")
    providers: list[Any] = ["CPUExecutionProvider"]
    cuda, available = "CUDAExecutionProvider", onnxruntime.get_available_providers()
    if device != "cpu" and not (device is None and cuda not in available):
        kind, _, number = (device or "cuda").partition(":")
        if kind != "cuda" or cuda not in available or not (number or "0").isdecimal():
            raise ArgumentError(
                f'onnxruntime has no device {device!r} here; use "cpu", or install onnxruntime-gpu for "cuda"'
            )
        providers.insert(0, (cuda, {"device_id": int(number or 0)}))
    options = onnxruntime.SessionOptions()
    failures = RuntimeError, ValueError, *(getattr(state, name) for name in _FAILURES)
    options.log_severity_level = 3  # errors only; they are raised too
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise ModelError(
            f"onnxruntime opens no file whose name is not valid Unicode, as that of {path}; rename it"
        ) from error
    try:
        return onnxruntime.InferenceSession(path, options, providers=providers)
    except failures as error:
        raise ModelError(
            f"{path} is not a complete ONNX file that onnxruntime runs ({first_line(error)}); export, copy or download "
            "it again, with the file of weights beside it, if it has one; delete it first if it lies in a cache"
        ) from error


def read_metadata(session: InferenceSession, path: str | Path) -> dict[str, Any]:
    """Return the metadata that `export` wrote into a file, with `det_type`.

    Raises:
        ModelError: if geodetect did not write it.
    """
    stored = session.get_modelmeta().custom_metadata_map
    try:
        return dict(json.loads(stored[METADATA])) | {"det_type": json.loads(stored["det_type"])}
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(
            f"{path} is an ONNX file, but not one that geodetect exported: its metadata lacks {METADATA!r}; "
            "any object with a `detect` runs in detect_objects, so wrap it in one"
        ) from error

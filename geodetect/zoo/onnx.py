"""Detectors of other programs in `.onnx` files, with the metadata of Deepness, GeoDeep or Ultralytics.

Shapes: B images, C bands, S side of an image, N candidates of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geodetect.boxes import Boxes, nms
from geodetect.errors import ArgumentError, ModelError, warn
from geodetect.export.onnx_detector import METADATA, OnnxDetector, RunsInOnnxruntime, load_session
from geodetect.metadata import CANDIDATE_MIN_SCORE, DEFAULT_MIN_SCORE, NMS_IOU, Metadata
from geodetect.zoo.onnx_metadata import CANDIDATE_RANK, LAYOUTS, RETINANET, FileMetadata

_BOX = 4  # numbers of a box
_N_RETINANET = 3  # outputs: boxes as corners (N, 4), scores (N,), labels (N,); one image at a time
_TYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8", "tensor(uint8)": "u1"}


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
    """Return the detector in an `.onnx` file of geodetect or of another program.

    The arguments are those of `load_detector`.

    Raises:
        ModelError: if the file is missing, damaged, or holds another kind of model.
        ArgumentError: if something is missing that the file does not say, or is given although it does.
        MissingPackage: without the extra `onnx`.
    """
    loaded = load_session(path, device)
    if METADATA not in loaded.get_modelmeta().custom_metadata_map:
        return ForeignOnnx(path, loaded, device, classes=classes, pixel_size_m=pixel_size_m, layout=layout)
    given = {"classes": classes, "pixel_size_m": pixel_size_m, "layout": layout}
    if stated := [keyword for keyword, value in given.items() if value is not None]:
        raise ArgumentError(f"{path.name} holds its own {' and '.join(stated)}; leave {' and '.join(stated)} out")
    return OnnxDetector(path, device)


class ForeignOnnx(RunsInOnnxruntime):
    """A detector of another program, run by onnxruntime in float32.

    Such models are made for 8 bits. Other integers are divided by the largest of their type, as in GeoDeep, and
    floats are taken for numbers from 0 to 255, with a warning. NaN, infinity and padding become 0.

    Args:
        path: an `.onnx` file.
        loaded: a session of it.
        device: of the session.
        classes: names of the classes, if the file does not name them.
        pixel_size_m: side of a pixel on the ground in metres; None is what the file says.
        layout: a key of `LAYOUTS` or "retinanet", if the file does not say.

    Raises:
        ModelError: if it holds another kind of model.
        ArgumentError: if something is missing that the file does not say, or does not fit it.
    """

    def __init__(
        self,
        path: Path,
        loaded: Any,
        device: str | None = None,
        *,
        classes: Sequence[str] | None = None,
        pixel_size_m: float | None = None,
        layout: str | None = None,
    ) -> None:
        super().__init__(
            path, partial(load_onnx, classes=classes, pixel_size_m=pixel_size_m, layout=layout, device=device)
        )
        self._session = loaded
        self._warned: set[str] = set()  # data types of pixels, and "boxes"
        told = FileMetadata(loaded.get_modelmeta().custom_metadata_map, self.name)
        told.refuse_other_kinds([len(output.shape) for output in loaded.get_outputs()])
        self.layout = told.layout(layout)
        n_bands, side = self._read_input(told)
        if self._type == np.uint8:  # a network that standardises bytes itself
            self._mean, self._std = np.zeros(n_bands), np.ones(n_bands)
        else:
            self._mean, self._std = told.standardisation(n_bands)
        names = told.classes(classes, self._n_classes(), self.layout)
        self._check_outputs([output.shape for output in loaded.get_outputs()], len(names))
        resolution, overlap = told.resolution_m(pixel_size_m), told.overlap(side)
        score, nms_iou = told.number("det_conf", 1), told.number("det_iou_thresh", 1)
        try:
            self.metadata = Metadata(
                classes=names,
                bands=range(1, n_bands + 1),
                chip_size=side,
                overlap=overlap,
                pixel_size_m=resolution,
                min_score=DEFAULT_MIN_SCORE if score is None else score,
                oriented=self.layout != RETINANET and LAYOUTS[self.layout].angle,
                summary={"layout": self.layout, "nms_iou": nms_iou},
            )
        except ArgumentError as error:
            raise ArgumentError(f"{self.name} cannot be run so: {error}") from error

    def _read_input(self, told: FileMetadata) -> tuple[int, int]:
        """Return the number of bands and the side of the images that the network takes.

        Raises:
            ModelError: if it takes anything but square images of floats or bytes.
        """
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:  # noqa: PLR2004
            raise ModelError(
                f"{self.name} must have one input (B, C, S, S); it has {[each.shape for each in inputs]}; export it so"
            )
        (image,) = inputs
        self._input, (batch, n_bands, height, width) = image.name, image.shape
        self._at_once = 1 if self.layout == RETINANET else batch if isinstance(batch, int) else None
        side = width if isinstance(width, int) else told.side()
        if not isinstance(n_bands, int) or (isinstance(height, int) and height != side):
            raise ModelError(
                f"{self.name} must take square images (B, C, S, S) of a fixed number of bands; its input is "
                f"{image.shape}, export it so"
            )
        if image.type not in _TYPES:
            raise ModelError(f"{self.name} must take floats or bytes; its input is a {image.type}, export it again")
        self._type = np.dtype(_TYPES[image.type])
        return n_bands, side

    def _n_classes(self) -> int | None:
        """Return how many classes the output has room for, if its shape says."""
        layout, shape = LAYOUTS.get(self.layout), self._session.get_outputs()[0].shape
        if layout is None:
            return 1
        n = shape[layout.axis] if len(shape) == CANDIDATE_RANK else None
        return n - layout.width(0) if isinstance(n, int) and not layout.suppressed else None

    def _check_outputs(self, shapes: Sequence[Sequence[Any]], n_classes: int) -> None:
        """Raise if the outputs, as far as their shapes are known, are not those of the layout.

        Raises:
            ModelError: if they are not.
        """
        layout = LAYOUTS.get(self.layout)
        if layout is None:
            fits, expected = len(shapes) == _N_RETINANET, "three outputs"
        else:
            n, rank = layout.width(n_classes), len(shapes[0])
            found = shapes[0][layout.axis] if rank == CANDIDATE_RANK else None if rank == 0 else 0
            fits = not isinstance(found, int) or found == n
            expected = f"{'(B, n, N)' if layout.in_columns else '(B, N, n)'} with n = {n} for {n_classes} classes"
        if not fits:
            raise ModelError(
                f"{self.name} does not have the layout {self.layout}: expected {expected}, got "
                f"{', '.join(str(list(shape)) for shape in shapes)}; export it in another layout"
            )

    def detect(
        self, pixels: np.ndarray, *, min_score: Any = CANDIDATE_MIN_SCORE, nms_iou: float = NMS_IOU
    ) -> list[Boxes]:
        """Return the boxes on each image, highest score first, in its pixels, cut at its edges.

        Oriented boxes are not cut; those with their centre in the image count.

        Args:
            pixels: (B, C, H, W) as read from the raster, H and W at most `chip_size`.
            min_score: lowest score, for all classes or by name.
            nms_iou: IoU above which the lower-scoring of two boxes of a class is dropped.

        Raises:
            ModelError: if the pixels have another number of bands, or are larger than the model's images; or if scores
                or boxes are not finite.
        """
        floors, found = self.metadata.scores(min_score), []
        for candidates in self._run(self._images(pixels)):
            xyxy, labels, scores, angles = candidates
            keep = scores >= np.maximum(floors[labels], np.finfo(np.float32).tiny)
            self._check_finite(xyxy[keep])
            if keep.any() and np.abs(xyxy[keep]).max() <= 1:
                self._warn_once(
                    "boxes",
                    f"{self.name} gives boxes within one pixel, such as {xyxy[keep][0].round(2).tolist()}; expected "
                    "pixels of the window: if they are shares of its side, export it with boxes in pixels",
                )
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
        if pixels.dtype != np.uint8:
            self._warn_once(
                str(pixels.dtype),
                f"{self.name} is made for 8-bit pixels; these are {pixels.dtype}, and {highest:,} counts as white; "
                "if your brightest pixels are much darker, convert the raster first (gdal_translate -ot Byte -scale)",
            )
        images = np.zeros((n, n_bands, self.chip_size, self.chip_size), np.float32)
        images[:, :, :height, :width] = np.nan_to_num(pixels, nan=0, posinf=0, neginf=0) / np.float32(highest)
        standardised: np.ndarray = (images - self._mean[:, None, None]) / self._std[:, None, None]
        return np.rint(standardised * 255).astype(np.uint8) if self._type == np.uint8 else standardised

    def _run(self, images: np.ndarray) -> Iterator[Candidates]:
        """Yield the candidates of each image."""
        step = self._at_once or max(1, len(images))
        for start in range(0, len(images), step):
            batch = images[start : start + step]
            filled = np.concatenate([batch, np.zeros((step - len(batch), *batch.shape[1:]))]).astype(self._type)
            outputs = self._session.run(None, {self._input: filled})
            if self.layout == RETINANET:
                xyxy, scores, labels = outputs
                self._check_finite(scores)
                yield Candidates(xyxy.astype(float), np.zeros(len(labels), int), scores)
                continue
            self._check_outputs([output.shape for output in outputs], len(self.classes))
            for output in outputs[0][: len(batch)].astype(np.float32, copy=False):
                yield self._candidates(output)

    def _candidates(self, output: np.ndarray) -> Candidates:
        layout = LAYOUTS[self.layout]
        rows = output.T if layout.in_columns else output
        self._check_finite(rows[:, _BOX:])
        if layout.suppressed:
            rows = rows[rows[:, _BOX] > 0]  # the others fill the output up
        of_classes = rows[:, layout.first_class : layout.width(len(self.classes)) - layout.angle]
        labels = of_classes[:, 0].astype(int) if layout.suppressed else of_classes.argmax(axis=1)
        scores = rows[:, _BOX] if layout.objectness else of_classes.max(axis=1)
        if not ((0 <= labels) & (labels < len(self.classes))).all():
            raise ModelError(f"{self.name} finds the label {labels.max()}, but has only {len(self.classes)} classes")
        if layout.suppressed and not layout.angle:
            return Candidates(rows[:, :_BOX].astype(float), labels, scores)
        centres, halves = rows[:, :2].astype(float), rows[:, 2:_BOX].astype(float) / 2
        xyxy = np.concatenate([centres - halves, centres + halves], axis=1)
        return Candidates(xyxy, labels, scores, rows[:, -1].astype(float) if layout.angle else None)

    def _check_finite(self, values: np.ndarray) -> None:
        """Raise if a score, or a box with a sufficient score, is NaN or infinite."""
        if not np.isfinite(values).all():
            raise ModelError(
                f"{self.name} gives scores or boxes that are not finite numbers; half precision may overflow: export "
                "it in float32; so may a fill value of the raster: declare it with nodata="
            )

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warn(message)

"""Metadata of `.onnx` files from other programs, in the vocabulary of Deepness, GeoDeep or Ultralytics.

Shapes: B images, N candidates of an image, n numbers of a candidate, K classes.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geodetect.errors import ArgumentError, ModelError, is_name
from geodetect.export.onnx_detector import ORIENTED

CANDIDATE_RANK = 3  # (B, N, n) or (B, n, N)
RETINANET = "retinanet"  # GeoDeep's; the one layout of several outputs
_MOST_OVERLAP = 90  # percent of a window
_COARSEST = 10_000_000  # cm
_LARGEST_SIDE = 10_000  # px; an image of three bands takes 1.2 GB then


@dataclass(frozen=True)
class Layout:
    """Layout of the candidates in a model's output, by Deepness' rules.

    https://github.com/PUTvision/qgis-plugin-deepness, processing/models/detector.py

    Args:
        in_columns: whether candidates are columns, (n, N), not rows, (N, n).
        first_class: where the scores of the classes begin; before them a box as centre, width and height.
        objectness: whether the number before the scores of classes, that of any object, is the score.
        angle: whether the angle of an oriented box comes last, in radians from +x towards +y.
        suppressed: whether the model drops duplicates itself; then the label replaces the scores of the classes, and
            upright boxes are corners.
    """

    in_columns: bool
    first_class: int
    objectness: bool = False
    angle: bool = False
    suppressed: bool = False

    def width(self, n_classes: int) -> int:
        """Return how many numbers a candidate has."""
        return self.first_class + (1 if self.suppressed else n_classes) + self.angle

    @property
    def axis(self) -> int:
        """Axis of an output along which the numbers of a candidate lie."""
        return -2 if self.in_columns else -1


LAYOUTS: Mapping[str, Layout] = {
    "YOLO_v5_or_v7_default": Layout(in_columns=False, first_class=5, objectness=True),
    "YOLO_v6": Layout(in_columns=False, first_class=5),
    "YOLO_v8": Layout(in_columns=True, first_class=4),
    "YOLO_v9": Layout(in_columns=True, first_class=4),
    "YOLO_Ultralytics": Layout(in_columns=True, first_class=4),
    ORIENTED: Layout(in_columns=True, first_class=4, angle=True),
    # Ultralytics' exports with `nms=True`, and networks that give no duplicates, such as YOLOv10
    "YOLO_end2end": Layout(in_columns=False, first_class=5, objectness=True, suppressed=True),
    "YOLO_end2end_obb": Layout(in_columns=False, first_class=5, objectness=True, suppressed=True, angle=True),
}


class FileMetadata:
    """The metadata of an `.onnx` file.

    Args:
        stored: texts by key; each is JSON, as Deepness writes it, a literal of Python, as Ultralytics does, or plain.
        name: what messages call the file.
    """

    def __init__(self, stored: Mapping[str, str], name: str) -> None:
        self._values = {key: _parse_value(text) for key, text in stored.items()}
        self._name = name

    def get(self, key: str) -> Any:
        """Return a value; None if it is not there or empty."""
        value = self._values.get(key)
        return None if isinstance(value, str) and not value.strip() else value

    def number(self, key: str, most: float, remedy: str = "") -> float | None:
        """Return a number; None if it is not there, empty or NaN.

        Raises:
            ModelError: if it is not a number from 0 to `most`; the message ends with `remedy`.
        """
        return self._number(key, self.get(key), most, remedy)

    def _number(self, key: str, value: Any, most: float, remedy: str = "") -> float | None:
        if value is None:
            return None
        try:
            number = -1.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = -1.0
        if math.isnan(number):
            return None
        if not 0 <= number <= most:
            raise ModelError(
                f"{self._name} states {key}={value!r:.80} in its metadata; expected a number from 0 to {most:,g}, "
                f"correct it in the file{remedy}"
            )
        return number

    def resolution_m(self, given: float | None) -> float | None:
        """Return the side of a pixel in metres: as given, else as the file says in cm; None if it does not."""
        if given is not None:
            return given
        resolution = self.number(
            "resolution", _COARSEST, " or load it with geodetect.load_detector(..., pixel_size_m=...)"
        )
        return resolution / 100 if resolution else None

    def overlap(self, side: int) -> int:
        """Return the overlap of windows in pixels: the stated percentage of their side, else a quarter."""
        percent = self.number("tiles_overlap", _MOST_OVERLAP)
        if percent is not None and 0 < percent < 1:  # a share, against Deepness' rules
            percent = min(100 * percent, _MOST_OVERLAP)
        return side // 4 if percent is None else min(side - 1, round(side * percent / 100))

    def side(self) -> int:
        """Return the side of images for an input of any size: `tiles_size` of Deepness or `imgsz` of Ultralytics.

        Raises:
            ModelError: if neither is there.
        """
        for key in ("tiles_size", "imgsz"):
            stated = self.get(key)
            each = stated if isinstance(stated, list | tuple) else [stated]
            known = [side for value in each if (side := self._number(key, value, _LARGEST_SIDE))]
            if known:
                return int(max(known))
        raise ModelError(
            f"{self._name} takes images of any size and does not say which it was trained on; export it with a fixed "
            "size"
        )

    def standardisation(self, n_bands: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the deviation of each band, of pixels divided by 255; 0 and 1 if not stated.

        Raises:
            ModelError: if they are no such numbers.
        """
        mean = self._by_band("standardization_mean", 0, n_bands)
        std = self._by_band("standardization_std", 1, n_bands)
        if not (std > 0).all():
            raise ModelError(f"{self._name} states standardization_std={std.tolist()}; each must be above 0")
        if (mean > 1).any():
            raise ModelError(
                f"{self._name} states standardization_mean={mean.tolist()}; each must be at most 1, since pixels are "
                "divided by 255 first"
            )
        return mean, std

    def _by_band(self, key: str, otherwise: float, n_bands: int) -> np.ndarray:
        """Return a number for each band; a single one is for all."""
        value = self.get(key)
        try:
            given = np.asarray(otherwise if value is None else value, np.float32)
            numbers: np.ndarray = np.broadcast_to(given, n_bands)
        except (TypeError, ValueError):
            numbers = np.full(n_bands, np.nan)
        if not np.isfinite(numbers).all():
            raise ModelError(f"{self._name} states {key}={value!r:.80} in its metadata; expected {n_bands} numbers")
        return numbers

    def refuse_other_kinds(self, ranks: Sequence[int]) -> None:
        """Raise unless the model, whose outputs have these ranks, may be a detector.

        Raises:
            ModelError: if it is not.
        """
        kind = str(self.get("model_type") or self.get("task") or "").lower()
        if "rtdetr" in str(self.get("head")).lower():  # of Ultralytics too, and laid out in its own way
            kind = "rt-detr"
        is_detector = kind in ("", "obb") or "detect" in kind
        if not is_detector or ranks[0] > CANDIDATE_RANK:
            shown = "segmentation" if is_detector else kind
            raise ModelError(
                f"{self._name} is a model of the kind {shown!r:.80}, not a detector of objects that is known here"
            )

    def layout(self, given: str | None) -> str:
        """Return the name of the output's layout.

        Raises:
            ArgumentError: if it is missing, unknown, or given although the file says another.
        """
        known = [*LAYOUTS, RETINANET]
        stated = self.get("det_type")
        if stated is None and self.get("names") is not None and self.get("stride") is not None:
            stated = self._layout_of_ultralytics()
        if stated is not None and given is not None and given != stated:
            raise ArgumentError(f"{self._name} says that its layout is {stated}; got layout={given!r}, leave it out")
        layout = given or stated
        if layout is None:
            raise ArgumentError(
                f"{self._name} does not say how its output is laid out; load it with geodetect.load_detector(..., "
                f"layout=...), one of {', '.join(known)}"
            )
        if layout not in known:
            raise ArgumentError(f"layout must be one of {', '.join(known)}; got {layout!r:.80} for {self._name}")
        return str(layout)

    def _layout_of_ultralytics(self) -> str:
        arguments, is_oriented = self.get("args"), str(self.get("task")).lower() == "obb"
        if self.get("end2end") or (isinstance(arguments, Mapping) and arguments.get("nms")):
            return "YOLO_end2end_obb" if is_oriented else "YOLO_end2end"
        return ORIENTED if is_oriented else "YOLO_Ultralytics"

    def classes(self, given: Sequence[str] | None, n_classes: int | None, layout: str) -> list[str]:
        """Return the names of the classes in the order of their labels.

        Args:
            given: by the user, for a file without usable names.
            n_classes: how many the output has scores of, if known.
            layout: of the output.

        Raises:
            ArgumentError: if the file has no usable names and none are given, or others are given although it has.
        """
        stated = self.get("class_names") or self.get("names")
        names = _list_names(stated)
        n_scores = f"{self._name}, laid out as {layout}, has scores of {n_classes} classes"
        if not stated:
            fault = f"{self._name} does not name its classes" if n_classes is None else f"{n_scores} and no names"
        elif not names:
            fault = f"{self._name} must name its classes by numbers from 0; its metadata has {stated!r:.80}"
        elif n_classes not in (None, len(names)):
            fault = f"{n_scores}; got {len(names)} names: {', '.join(names):.80}"
        elif len(set(names)) < len(names) or not all(map(is_name, names)):
            fault = f"{self._name} must give every class its own name of one line; its metadata has {stated!r:.80}"
        else:
            if given is not None and list(given) != names:
                raise ArgumentError(f"{self._name} names its classes {', '.join(names):.200}; leave classes out")
            return names
        if not given:
            raise ArgumentError(
                f"{fault}; load it with geodetect.load_detector(..., classes=[...]), their names in order"
            )
        if n_classes not in (None, len(given)):
            raise ArgumentError(f"{n_scores}; got {len(given)} names: {', '.join(given):.80}")
        return list(given)


def _parse_value(text: str) -> Any:
    """Return the value that a text of the metadata stands for, or the text."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two for too many brackets
            continue
    return text


def _list_names(stated: Any) -> list[str]:
    """Return the names in a list, or in one or several mappings of labels from 0; none if it is anything else."""
    parts = stated if isinstance(stated, list | tuple) else [stated]
    if all(isinstance(part, str | int | float) for part in parts):
        return list(map(str, parts))
    try:
        by_label = {int(label): value for part in parts for label, value in part.items()}
    except (AttributeError, TypeError, ValueError):
        return []
    if None in by_label.values():  # null of JSON
        return []
    labels = sorted(label for label in by_label if label >= 0)  # -1 is the background of some
    return [str(by_label[label]) for label in labels] if labels == list(range(len(labels))) else []

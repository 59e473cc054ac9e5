"""The keywords of `detect_objects`, for type checkers: its result depends on `output` alone, not on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from geodetect.vector.opening import Area


class DetectOptions(TypedDict, total=False):
    """The keyword arguments that `detect_objects` and `RetinaNet.detect` take; `detect_objects` describes them."""

    min_score: float | Mapping[str, float] | None
    nms_iou: float
    chip_size: int | None
    overlap: int | None
    pixel_size_m: float | str | None
    bands: Sequence[int | str] | None
    batch_size: int | None
    aoi: Area | None
    device: str | None
    precision: str
    tta: bool
    measure: bool
    client: Any
    resume: bool
    nodata: float | None
    progress: bool

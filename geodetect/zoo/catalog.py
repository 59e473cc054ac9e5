"""Published detectors that are known to run, kept by hand, with the source of every figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame


class Entry(NamedTuple):
    """A published detector.

    Args:
        name: as `load_detector` takes it.
        finds: what it finds.
        pixel_size_m: side of a pixel that it was trained on, in metres; None where its authors do not say.
        licence: of the weights; "not stated" where its authors do not say.
        source: where the figures come from.
    """

    name: str
    finds: str
    pixel_size_m: float | None
    licence: str
    source: str


class Zoo(NamedTuple):
    """A data set repository of the hub that holds `.onnx` files."""

    repository: str
    files: tuple[str, ...]


# Detection models of https://github.com/uav4geo/GeoDeep; pixel sizes are those that the files state in their metadata.
ZOO = Zoo(
    "UAV4GEO/GeoDeep-Models",
    (
        "car_aerial_detection_yolo7_ITCVD_deepness.onnx",
        "model_yolov7_tiny_planes_256.onnx",
        "tree_crown_detection_retinanet_deepforest.onnx",
        "yolov9_trees.onnx",
        "bird_detection_retinanet_deepforest.onnx",
        "aerovision16-yolo8.onnx",
        "waldo30_nano.onnx",
    ),
)
_SEVERAL = "objects of several kinds"
_FINDS = ("cars", "planes", "tree crowns", "tree crowns", "birds", _SEVERAL, _SEVERAL)
_DEEPFOREST = "https://deepforest.readthedocs.io, prebuilt models"
_GEODEEP = "https://huggingface.co/datasets/UAV4GEO/GeoDeep-Models; the pixel size is in the file"
_AGPL = "not stated; made with Ultralytics' YOLO, which is AGPL-3.0"

CATALOG = (
    Entry("weecology/deepforest-tree", "tree crowns", 0.1, "MIT", f"{_DEEPFOREST}: trained on imagery of about 0.1 m"),
    Entry("weecology/deepforest-bird", "birds", None, "MIT", _DEEPFOREST),
    Entry("weecology/deepforest-livestock", "cattle", None, "MIT", _DEEPFOREST),
    Entry("weecology/everglades-nest-detection", "nests of birds", None, "MIT", _DEEPFOREST),
    *(
        Entry(name, finds, None, _AGPL if "yolo8" in name or "waldo" in name else "not stated", _GEODEEP)
        for name, finds in zip(ZOO.files, _FINDS, strict=True)
    ),
)


def entry(name: str) -> Entry | None:
    """Return the entry with this name, or None."""
    return next((each for each in CATALOG if each.name == name), None)


def published() -> DataFrame:
    """Return published detectors that are known to run, one in a row; the names are for `load_detector`.

    Returns:
        columns `name`, `finds`, `pixel_size_m` (NaN where unknown or held by the file), `licence` of the weights, and
        `source` of these figures.
    """
    import pandas as pd

    return pd.DataFrame(CATALOG)

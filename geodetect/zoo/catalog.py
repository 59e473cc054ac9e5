"""Published detectors in forms that `load_detector` reads, listed by hand with the source of every figure."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pandas import DataFrame


class Entry(NamedTuple):
    """A published detector.

    Args:
        name: as `load_detector` takes it; a bare file is in GeoDeep's repository on the hub.
        finds: kinds of objects.
        pixel_size_m: side of a pixel that it was trained on, in metres; None where its authors do not say.
        licence: of the weights; "not stated" where its authors do not say.
        source: where the figures come from.
    """

    name: str
    finds: str
    pixel_size_m: float | None
    licence: str
    source: str


_DEEPFOREST = "https://deepforest.readthedocs.io, prebuilt models"
_DEEPNESS = "https://qgis-plugin-deepness.readthedocs.io, model zoo"
_GEODEEP = "https://github.com/uav4geo/GeoDeep, models"
_UNSTATED = "not stated"
_AGPL = "not stated; made with Ultralytics' YOLO, which is AGPL-3.0"
_GPL = "not stated; made with YOLOv7 or YOLOv9, which are GPL-3.0"

ZOO = "UAV4GEO/GeoDeep-Models"  # a data set repository of the hub, which holds the `.onnx` files below without a folder
CATALOG = (
    Entry("weecology/deepforest-tree", "tree crowns", 0.1, "MIT", f"{_DEEPFOREST}: trained on imagery of about 0.1 m"),
    Entry("weecology/deepforest-bird", "birds", None, "MIT", _DEEPFOREST),
    Entry("weecology/deepforest-livestock", "cattle", None, "MIT", _DEEPFOREST),
    Entry("weecology/everglades-nest-detection", "nests of birds", None, "MIT", _DEEPFOREST),
    Entry("car_aerial_detection_yolo7_ITCVD_deepness.onnx", "cars", 0.1, _GPL, f"{_DEEPNESS}: aerial cars, 10 cm"),
    Entry("model_yolov7_tiny_planes_256.onnx", "planes", 0.7, _GPL, f"{_DEEPNESS}: Airbus planes, 70 cm"),
    Entry("yolov9_trees.onnx", "tree tops", 0.1, _GPL, f"{_GEODEEP}: trees_yolov9, 10 cm"),
    Entry("tree_crown_detection_retinanet_deepforest.onnx", "tree crowns", 0.1, _UNSTATED, f"{_GEODEEP}: trees, 10 cm"),
    Entry("bird_detection_retinanet_deepforest.onnx", "birds", 0.02, _UNSTATED, f"{_GEODEEP}: birds, 2 cm"),
    Entry(
        "aerovision16-yolo8.onnx",
        "vehicles, planes, boats, storage tanks, sports fields and more",
        0.3,
        _AGPL,
        f"{_GEODEEP}: aerovision, 30 cm",
    ),
    Entry("utilities-811-yolo8.onnx", "paint of utility locators", 0.03, _AGPL, f"{_GEODEEP}: utilities, 3 cm"),
    Entry("waldo30_nano.onnx", "objects of several kinds", 0.05, _AGPL, f"{_GEODEEP}: waldo30_nano, 5 cm"),
)
_ALMOST = 0.75  # as difflib measures likeness: `yolov9-trees` to `yolov9_trees.onnx`, but not `houses.onnx`
ZOO_FILES = frozenset(each.name for each in CATALOG if "/" not in each.name)


def entry(name: str) -> Entry | None:
    """Return the entry with this name, or None."""
    return next((each for each in CATALOG if each.name == name), None)


def suggest(name: str) -> str:
    """Return " (did you mean X?)" for a name that is almost one of the list, whoever its owner, else an empty text."""
    known = {each.name.rpartition("/")[2].lower(): each.name for each in CATALOG}
    near = get_close_matches(name.rpartition("/")[2].lower(), known, n=1, cutoff=_ALMOST)
    return f" (did you mean {known[near[0]]}?)" if near and known[near[0]] != name else ""


def published() -> DataFrame:
    """Return published detectors in forms that are supported, one in a row; the names are for `load_detector`.

    Returns:
        columns `name`, `finds`, `pixel_size_m` (NaN where unknown; a figure in the file takes precedence), `licence`
        of the weights, and `source` of these figures.
    """
    import pandas as pd

    return pd.DataFrame(CATALOG)

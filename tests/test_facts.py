"""What an object says of itself in a console and in a notebook: short, in plain words, and never a script."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.detector import Detector
from geodetect.facts import html_rows, html_table, join_values, text_of
from geodetect.grid import Grid
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from tests.fakes import SHAPE, UPRIGHT, UTM, PaintedScene, make_detector, trained

EVIL = '<script>alert("1")</script> & Söhne'
BOXES = Boxes([[0, 0, 9.5, 9], [5, 5, 20, 30], [40, 5, 60, 9]], [1, 0, 1], [0.875, 0.5, 0.25])


class Cells(HTMLParser):
    """The texts of a table, row by row; nothing but a table's tags may be there."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        assert tag in {"div", "strong", "table", "thead", "tbody", "tr", "th", "td"}
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def table(thing: object) -> dict[str, str]:
    """The facts that a notebook shows."""
    return dict(Cells(thing._repr_html_()).rows)  # type: ignore[attr-defined]


def make(**changes: object) -> Detector:
    network = trained(Network("resnet18", n_classes=2, weights=None))
    options = {
        "bands": (1, 2, 3),
        "normalization": Normalization((1.0,) * 3, (2.0,) * 3),
        "chip_size": 256,
        "overlap": 64,
    }
    told = {"epochs": 20, "valid_loss": 0.25, "AP50": 0.8125}
    scores = {"car": 0.4, "pool": 0.55}
    options |= {"pixel_size_m": 0.3, "min_score": scores, "summary": told}
    return make_detector(network, changes.pop("classes", ("car", "pool")), **(options | changes))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (0.25, "0.250"),
        (float("nan"), "-"),
        (np.float64(0.125), "0.125"),
        ({"car": 0.5, "pool": None}, "car 0.500, pool None"),
        ("roof", "roof"),
    ],
)
def test_values_as_people_read_them(value: object, text: str) -> None:
    assert text_of(value) == text


def test_long_lists_are_cut() -> None:
    assert join_values(["a", 2, 1.259921]) == "a, 2, 1.26"
    assert join_values(range(13)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (13 in all)"


def test_tables_hold_text_alone() -> None:
    assert Cells(html_table(EVIL, {EVIL: EVIL, "nothing": None})).rows == [[EVIL, EVIL]]
    assert Cells(html_rows(EVIL, ["name", EVIL], [[EVIL, 0.5]])).rows == [["name", EVIL], [EVIL, "0.500"]]
    assert "<script" not in html_table(EVIL, {EVIL: EVIL})


def test_boxes() -> None:
    assert repr(BOXES) == "Boxes(3: 1 of class 0, 2 of class 1; scores 0.250 to 0.875)"
    assert repr(Boxes(BOXES.xyxy, BOXES.labels)) == "Boxes(3: 1 of class 0, 2 of class 1)"
    assert repr(Boxes.empty(scored=True)) == "Boxes(0)"
    rows = Cells(BOXES._repr_html_()).rows
    assert rows[:2] == [["x1", "y1", "x2", "y2", "label", "score"], ["0.000", "0.000", "9.500", "9.000", "1", "0.875"]]
    many = Boxes(np.tile([0.0, 0, 1, 1], (1000, 1)), np.zeros(1000))
    assert len(Cells(many._repr_html_()).rows) == 11
    assert "1,000 boxes, the first 10" in many._repr_html_()
    assert Cells(Boxes.empty()._repr_html_()).rows == [["x1", "y1", "x2", "y2", "label"]]


def test_grids() -> None:
    grid = Grid(SHAPE, UPRIGHT, UTM, "scene.tif")
    assert repr(grid) == (
        "Grid(scene.tif: 224 x 160 px, 0.5 x 0.5 m, EPSG:32645, x 353000 to 353112, y 3056920 to 3057000)"
    )
    assert table(grid)["CRS"] == "EPSG:32645"
    assert repr(Grid(SHAPE)) == "Grid(the raster: 224 x 160 px, none, nor a georeference)"
    assert "pixel size" not in table(Grid(SHAPE, UPRIGHT))  # of a transform without a CRS


def test_detectors() -> None:
    assert repr(make()) == (
        "Detector(car, pool: resnet18, 256 px of 0.3 m, bands 1, 2, 3; epochs 20, valid_loss 0.250, AP50 0.812)"
    )
    facts = table(make())
    assert (facts["best score"], facts["epochs"], facts["pixel size"]) == ("car 0.400, pool 0.550", "20", "0.3 m")
    assert table(make(classes=("car", EVIL), min_score=0.5))["classes"] == f"car, {EVIL}"
    assert repr(make(pixel_size_m=None, summary=None)) == "Detector(car, pool: resnet18, 256 px, bands 1, 2, 3)"
    many = [f"class {k}" for k in range(90)]
    network = Network("resnet18", n_classes=90, weights=None)
    untrained = make_detector(
        network, many, bands=(1, 2, 3), normalization=Normalization((1.0,) * 3, (2.0,) * 3), chip_size=256, overlap=64
    )
    assert "class 11, ... (90 in all): resnet18" in repr(untrained)
    assert repr(untrained).endswith("untrained)")
    assert table(untrained)["epochs"] == "none yet"
    untrained.metadata = replace(untrained.metadata, summary={"epochs": 2})  # at a rate that is lost in rounding
    assert repr(untrained).endswith("epochs 2)")
    assert table(untrained)["epochs"] == "2"
    with pytest.warns(UserWarning, match="training has hardly changed this model, .* higher rate"):
        untrained.warn_if_untrained()


def test_data_and_learners(upright: PaintedScene, tmp_path: Path) -> None:
    upright.truth.to_file(tmp_path / "truth.gpkg")
    data = gd.prepare_data(upright.path, tmp_path / "truth.gpkg", chip_size=64, overlap=32)
    n_train, n_valid, n_out = len(data.train), len(data.valid), len(data.left_out)
    for part in (f"{n_train} to train, {n_valid} to validate, {n_out} left out on the border", "64 px of 0.5 m",
                 "bands 1, 2, 3 (uint16)", data.report):  # fmt: skip
        assert part in repr(data)
    assert table(data)["report"] == data.report
    objects = data.describe()["objects"]
    assert table(data)["objects"] == f"blue {objects['blue']}, red {objects['red']}"
    model = gd.RetinaNet(data, backbone="resnet18", weights=None, scales="auto")
    assert repr(model) == f"RetinaNet({model.detector!r}, {data!r})"
    assert table(model)["data"] == repr(data)
    loaded = gd.RetinaNet.from_model(make().save(tmp_path / "model.safetensors"), device="cpu")
    assert repr(loaded) == f"RetinaNet({loaded.detector!r}, no data)"
    assert "data" not in table(loaded)


def test_accuracy(upright: PaintedScene) -> None:
    found = upright.truth.iloc[:-1].assign(score=0.75)
    score = gd.compute_accuracy(found, upright.truth)
    assert repr(score) == (  # one blue square of five is missed: at 81 of 101 recalls precision is 1, so ap is 0.802
        "Accuracy(precision 1.000, recall 0.889, f1 0.941, ap 0.901; TP 8, FP 0, FN 1; best score 0.750)"
    )
    rows = Cells(score._repr_html_()).rows
    assert rows[0] == ["", "precision", "recall", "f1", "ap", "tp", "fp", "fn"]
    assert [row[0] for row in rows[1:]] == ["blue", "red", "all"]
    assert rows[-1][-3:] == ["8", "0", "1"]

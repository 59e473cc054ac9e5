"""Cutting, splitting and preparing: which chip holds which box, and which chip validates."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import geodetect as gd
from geodetect.chips.cut import MIN_SIDE, cut, windows_within
from geodetect.chips.split import at_random, by_blocks
from geodetect.errors import ArgumentError, GeodetectError, LabelsError, OutputError
from geodetect.grid import Tiling, Window
from tests.fakes import CLASSES, SHAPE, FakeReader, PaintedScene, outlines, painted
from tests.strategies import boxes, tilings


def _labels(scene: PaintedScene, crs: str = "EPSG:4326") -> gpd.GeoDataFrame:
    return scene.truth.to_crs(crs)


# cut


def test_cut_gives_the_visible_part_in_window_pixels() -> None:
    # 10 x 10 px at (58, 10): 6 of 10 columns left of x = 64, 4 right of it.
    left, right = Window(0, 0, 64, 64), Window(64, 0, 64, 64)
    found = cut(outlines([(58, 10, 68, 20)]), np.array([3]), [left, right], min_visible=0.3)
    assert found[0].xyxy.tolist() == [[58, 10, 64, 20]]
    assert found[1].xyxy.tolist() == [[0, 10, 4, 20]]
    assert found[0].labels.tolist() == found[1].labels.tolist() == [3]


def test_cut_drops_parts_that_are_too_small() -> None:
    windows = [Window(0, 0, 64, 64), Window(64, 0, 64, 64)]
    label = outlines([(60, 10, 70, 20)])
    shares = [len(part) for part in cut(label, np.array([0]), windows, min_visible=0.5)]
    assert shares == [0, 1]  # 4 of 10 columns, and 6
    sliver = outlines([(62.5, 10, 65.5, 20)])
    assert [len(part) for part in cut(sliver, np.array([0]), windows, min_visible=0.0)] == [0, 0]  # 1.5 px each


def test_the_box_is_the_bounds_of_the_visible_polygon_not_the_polygon_s_bounds_cut() -> None:
    # A right triangle (0, 0), (100, 0), (0, 100): right of x = 50 it is at most 50 px high.
    triangle = np.array([shapely.Polygon([(0, 0), (100, 0), (0, 100)])])
    (part,) = cut(triangle, np.array([0]), [Window(50, 0, 100, 100)], min_visible=0.1)
    assert part.xyxy.tolist() == [[0, 0, 50, 50]]


@given(boxes(max_size=8, scored=False), tilings(largest=200))
def test_every_part_lies_in_its_window_and_in_its_label(labels: gd.Boxes, tiling: Tiling) -> None:
    real = labels[(labels.sizes > 0).all(axis=1)]
    windows = list(tiling)[:50]
    for window, part in zip(windows, cut(outlines(real.xyxy), real.labels, windows, min_visible=0.3), strict=True):
        assert (part.xyxy >= 0).all()
        assert (part.xyxy[:, 2:] <= (window.width, window.height)).all()
        assert (part.sizes >= MIN_SIDE).all()
        if len(part):
            inside = part.shift(window.x, window.y).xyxy
            shared = shapely.area(shapely.intersection(outlines(inside)[:, None], outlines(real.xyxy)[None]))
            assert shared.max(axis=1) == pytest.approx(shapely.area(outlines(inside)), rel=1e-6, abs=1e-3)


def test_windows_within_an_area_start_at_its_corner() -> None:
    reader = FakeReader(painted())
    found = windows_within(reader, chip_size=32, overlap=0, area=shapely.box(16, 40, 80, 104))
    assert {window.xyxy for window in found} == {(x, y, x + 32, y + 32) for x in (16, 48) for y in (40, 72)}


# split


@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from([0, 0, 16, 40]), st.integers(0, 99))
def test_no_training_chip_shares_ground_with_validation(rows: int, columns: int, overlap: int, seed: int) -> None:
    stride = 64 - overlap
    tiling = Tiling((64 + (rows - 1) * stride, 64 + (columns - 1) * stride), 64, overlap)
    footprints = np.array([window.xyxy for window in tiling], float)
    try:
        split = by_blocks(footprints, 0.2, seed)
    except ArgumentError:
        assert overlap or len(footprints) < 2
        return
    train, valid = outlines(footprints[split.train]), outlines(footprints[split.valid])
    assert len(train)
    assert len(valid)
    assert shapely.area(shapely.intersection(train[:, None], valid[None])).max() == 0
    every = np.concatenate([split.train, split.valid, split.left_out])
    assert sorted(every) == list(range(len(footprints)))


def test_blocks_hold_out_the_share_asked_for_to_within_a_chip_row() -> None:
    footprints = np.array([window.xyxy for window in Tiling((640, 640), 64)], float)
    for share in (0.1, 0.2, 0.4):
        split = by_blocks(footprints, share, seed=1)
        assert abs(len(split.valid) - share * 100) <= 10
        assert len(split.left_out) == 0


def test_a_split_that_cannot_be_made_names_the_other_one() -> None:
    with pytest.raises(ArgumentError, match='split="random"'):
        by_blocks(np.array([[0, 0, 64, 64]], float), 0.2, 0)
    with pytest.raises(ArgumentError, match="val_split_pct"):
        by_blocks(np.array([[0, 0, 64, 64]] * 2, float), 1.0, 0)


def test_a_random_split_keeps_a_picture_together() -> None:
    groups = np.repeat(np.arange(10), 3)
    split = at_random(groups, 0.2, seed=0)
    assert set(groups[split.train]).isdisjoint(groups[split.valid])
    assert len(split.valid) == 6


# prepare_data


def test_a_raster_with_labels_in_degrees(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64)
    assert data.classes == sorted(CLASSES)
    assert data.pixel_size_m == pytest.approx(0.5)
    assert data.bands == (1, 2, 3)
    assert data.chip_size == 64
    chip = next(chip for chip in data.train if len(chip.boxes))
    assert chip.pixels.shape == (3, 64, 64)
    assert chip.grid.shape == (64, 64)
    x, y = chip.pixels[:2, -1, -1]  # the bands of the painted scene hold x and y
    corner = upright.grid.to_map(np.array([[float(x) + 1, float(y) + 1]]))
    assert chip.grid.to_map(np.array([[64.0, 64.0]])) == pytest.approx(corner, abs=1e-6)


def test_boxes_lie_on_what_was_painted(scene: PaintedScene) -> None:
    data = gd.prepare_data(scene.path, labels=_labels(scene), chip_size=64, negatives=0)
    colours = {0: 2, 1: 0}  # blue, red: sorted names, and the band that is bright
    for chip in [*data.train, *data.valid]:
        for (x1, y1, x2, y2), label in zip(np.round(chip.boxes.xyxy).astype(int), chip.boxes.labels, strict=True):
            inside = chip.pixels[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1]
            assert (inside[colours[label]] == 60_000).all()


def test_describe_counts_chips_objects_and_what_anchors_do_not_reach(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64, negatives=0)
    table = data.describe()
    assert list(table.columns) == ["chips", "objects", "median_px", "median_m", "unreached"]
    assert list(table.index) == ["blue", "red", "all"]
    assert table.loc["all", "chips"] == len(data.train) + len(data.valid)
    assert table.loc["all", "objects"] == table.loc[["blue", "red"], "objects"].sum()
    assert table.loc["all", "median_m"] == pytest.approx(table.loc["all", "median_px"] / 2)
    assert table.attrs["left_out"] == len(data.left_out)
    assert table.loc["all", "unreached"] == 1.0  # squares of 4 to 20 px; the smallest anchor has 32


def test_suggested_anchors_reach_more(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64, negatives=0)
    found = data.suggest_anchors()
    assert found.recall_after > found.recall_before
    assert found.anchor_size < 4


def test_the_mapping_renames_and_drops(upright: PaintedScene) -> None:
    data = gd.prepare_data(
        upright.path, labels=_labels(upright), chip_size=64, class_mapping={"red": "roof", "blue": None}
    )
    assert data.classes == ["roof"]


def test_an_area_keeps_chips_inside_and_blanks_the_rest(upright: PaintedScene) -> None:
    west = shapely.box(*upright.grid.to_map(np.array([[0.0, 0.0], [120.0, 160.0]])).ravel())
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=40, aoi=west)
    assert all(plan.window.x + plan.window.width <= 120 for plan in data.plans)


def test_a_picture_of_the_batch(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64)
    figure = data.show_batch(rows=2)
    assert sum(bool(axes.get_images()) for axes in figure.axes) == min(
        4, sum(len(plan.boxes) > 0 for plan in data.train.plans)
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chip_size": 64, "overlap": 64}, "overlap must be smaller than chip_size"),
        ({"split": "columns"}, 'split must be "blocks" or "random"'),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"min_visible": 2}, "min_visible must lie between 0 and 1"),
        ({"pixel_size_m": 30}, "no chip of upright.tif holds a label"),
        ({"class_mapping": {"red": None, "blue": None}}, "without a class"),
        ({"chip_size": 1024}, 'split="random"'),
        ({"bands": (1, 9)}, "9"),
        ({"label_field": "kind"}, "kind"),
    ],
)
def test_bad_parameters_are_refused(upright: PaintedScene, change: dict[str, object], told: str) -> None:
    with pytest.raises(GeodetectError, match=told):
        gd.prepare_data(upright.path, **({"labels": _labels(upright), "chip_size": 64} | change))  # type: ignore[arg-type]


def test_a_folder_that_is_a_file_or_not_there(upright: PaintedScene, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="give labels="):
        gd.prepare_data(upright.path)
    with pytest.raises(LabelsError, match="not there"):
        gd.prepare_data(tmp_path / "nothing")
    with pytest.raises(LabelsError, match="no COCO labels"):
        gd.prepare_data(tmp_path)


# export_training_data and COCO


def test_a_folder_that_we_wrote_gives_the_same_chips(scene: PaintedScene, tmp_path: Path) -> None:
    labels = _labels(scene)
    out = gd.export_training_data(scene.path, labels, tmp_path / "chips", chip_size=64, negatives=1, progress=False)
    ours = gd.prepare_data(scene.path, labels=labels, chip_size=64)
    read = gd.prepare_data(out)
    assert read.classes == ours.classes

    def content(data: gd.DetectionData) -> list[tuple[object, ...]]:
        chips = [*data.train, *data.valid, *data.left_out]
        rows = [
            (
                tuple(chip.grid.to_map(np.zeros((1, 2))).round(3)[0]),
                chip.boxes.xyxy.round(2).tolist(),
                chip.boxes.labels.tolist(),
                int(chip.pixels.astype(int).sum()),
            )
            for chip in chips
        ]
        return sorted(rows)

    assert content(read) == content(ours)


def test_an_export_that_was_stopped_goes_on_where_it_was(
    upright: PaintedScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_into(out: Path, chip_size: int = 64) -> Path:
        return gd.export_training_data(upright.path, _labels(upright), out, chip_size=chip_size, progress=False)

    whole, out, replace = cut_into(tmp_path / "whole"), tmp_path / "chips", os.replace

    def full_after_two(source: str, target: str) -> None:
        if len(list((out / "images").glob("*.tif"))) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_after_two)
        with pytest.raises(OutputError, match="No space left"):
            cut_into(out)
    kept = {path: path.stat().st_mtime_ns for path in (out / "images").glob("*.tif")}
    assert len(kept) == 2
    with pytest.raises(OutputError, match="other parameters"):
        cut_into(out, chip_size=32)
    cut_into(out)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())
    assert {path.name for path in out.rglob("*")} == {path.name for path in whole.rglob("*")}
    assert (out / "labels.json").read_text() == (whole / "labels.json").read_text()
    with pytest.raises(OutputError, match="not empty"):
        cut_into(out)


def test_coco_of_other_tools(upright: PaintedScene, tmp_path: Path) -> None:
    out = gd.export_training_data(
        upright.path, _labels(upright), tmp_path / "chips", chip_size=64, negatives=1, progress=False
    )
    content = json.loads((out / "labels.json").read_text())
    # Ids from 0, a supercategory and a class nobody uses, file names with a folder, a picture that is not there.
    ids = {category["id"]: i for i, category in enumerate(content["categories"])}
    content["categories"] = [
        {"id": ids[c["id"]], "name": c["name"], "supercategory": "none"} for c in content["categories"]
    ]
    content["categories"].append({"id": 9, "name": "0"})
    for annotation in content["annotations"]:
        annotation["category_id"] = ids[annotation["category_id"]]
    for image in content["images"]:
        image["file_name"] = "images\\" + image["file_name"]
    content["images"].append({"id": 999, "file_name": "gone.tif"})
    (out / "labels.json").unlink()
    (out / "_annotations.coco.json").write_text("\ufeff" + json.dumps(content), encoding="utf-8")
    data = gd.prepare_data(out)
    assert data.classes == ["blue", "red"]
    assert "1 of" in data.report
    assert "no box of 0, left out" in data.report


def test_coco_that_is_not_complete(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}))
    with pytest.raises(LabelsError, match="file_name"):
        gd.prepare_data(tmp_path)


@pytest.mark.parametrize("keyword", [{"metadata_format": "yolo"}, {"chip_format": "png"}])
def test_formats_that_are_not_written_are_refused(
    upright: PaintedScene, tmp_path: Path, keyword: dict[str, str]
) -> None:
    with pytest.raises(ArgumentError, match="must be"):
        gd.export_training_data(upright.path, _labels(upright), tmp_path / "chips", **keyword)  # type: ignore[arg-type]
    assert not (tmp_path / "chips").exists()


def test_nothing_is_left_behind_when_the_input_is_wrong(upright: PaintedScene, tmp_path: Path) -> None:
    far = _labels(upright).set_geometry(_labels(upright).translate(xoff=10))
    with pytest.raises(GeodetectError):
        gd.export_training_data(upright.path, far, tmp_path / "chips")
    with pytest.raises(OutputError, match="does not exist"):
        gd.export_training_data(upright.path, _labels(upright), tmp_path / "no" / "chips")
    assert not list(tmp_path.iterdir())


def test_validation_from_a_second_folder(upright: PaintedScene, tmp_path: Path) -> None:
    out = gd.export_training_data(upright.path, _labels(upright), tmp_path / "a", chip_size=64, progress=False)
    data = gd.prepare_data(out, valid_path=out)
    assert len(data.train) == len(data.valid)


def test_shape_of_the_painted_scene() -> None:
    assert painted().shape == (3, *SHAPE)

"""Cutting, splitting and preparing: which chip holds which box, and which chip validates."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import yaml
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

import geodetect as gd
from geodetect.chips.chip import Chip, Chips
from geodetect.chips.cut import MIN_SIDE, Cutting, Fate, PixelLabels, cut, draw_negatives, plan_chips, plan_windows
from geodetect.chips.formats import FORMATS, read_folder
from geodetect.chips.images import ImageReader
from geodetect.chips.loaders import make_loaders
from geodetect.chips.prepare import choose_batch_size
from geodetect.errors import ArgumentError, GeodetectError, LabelsError, OutputError, RasterError
from geodetect.grid import Grid, Tiling, Window
from tests.fakes import (
    CLASSES,
    ROTATED,
    SHAPE,
    TRUTH,
    UPRIGHT,
    UTM,
    FakeReader,
    PaintedScene,
    outlines,
    painted,
    write_raster,
)
from tests.strategies import boxes, tilings

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),  # fastai, on import
    # A square of the painted scene lies on the corner of four windows of 64 px, a quarter in each.
    pytest.mark.filterwarnings("ignore:9 objects .* in no chip. 1 under 2 px or visible by less than 30%"),
]


FILES = {"images", "labels.json", "annotations", "export.json"}  # of an export as COCO, besides the map


def _labels(scene: PaintedScene, crs: str = "EPSG:4326") -> gpd.GeoDataFrame:
    return scene.truth.to_crs(crs)


# cut


def test_cut_gives_the_visible_part_in_window_pixels() -> None:
    # 10 x 10 px at (58, 10): 6 of 10 columns left of x = 64, 4 right of it.
    left, right = Window(0, 0, 64, 64), Window(64, 0, 64, 64)
    found = cut(outlines([(58, 10, 68, 20)]), np.array([3]), [left, right], Cutting(min_visible=0.3))
    assert found[0].xyxy.tolist() == [[58, 10, 64, 20]]
    assert found[1].xyxy.tolist() == [[0, 10, 4, 20]]
    assert found[0].labels.tolist() == found[1].labels.tolist() == [3]


def test_cut_drops_parts_that_are_too_small() -> None:
    windows = [Window(0, 0, 64, 64), Window(64, 0, 64, 64)]
    label = outlines([(60, 10, 70, 20)])
    shares = [len(part) for part in cut(label, np.array([0]), windows, Cutting(min_visible=0.5))]
    assert shares == [0, 1]  # 4 of 10 columns, and 6
    sliver = outlines([(62.5, 10, 65.5, 20)])
    assert [len(part) for part in cut(sliver, np.array([0]), windows, Cutting(min_visible=0.0))] == [
        0,
        0,
    ]  # 1.5 px each


def test_the_box_is_the_bounds_of_the_visible_polygon_not_the_polygon_s_bounds_cut() -> None:
    # A right triangle (0, 0), (100, 0), (0, 100): right of x = 50 it is at most 50 px high.
    triangle = np.array([shapely.Polygon([(0, 0), (100, 0), (0, 100)])])
    (part,) = cut(triangle, np.array([0]), [Window(50, 0, 100, 100)], Cutting(min_visible=0.1))
    assert part.xyxy.tolist() == [[0, 0, 50, 50]]


@given(boxes(max_size=8, scored=False), tilings(largest=200))
def test_every_part_lies_in_its_window_and_in_its_label(labels: gd.Boxes, tiling: Tiling) -> None:
    real = labels[(labels.sizes > 0).all(axis=1)]
    windows = list(tiling)[:50]
    for window, part in zip(
        windows, cut(outlines(real.xyxy), real.labels, windows, Cutting(min_visible=0.3)), strict=True
    ):
        assert (part.xyxy >= 0).all()
        assert (part.xyxy[:, 2:] <= (window.width, window.height)).all()
        assert (part.sizes >= MIN_SIDE).all()
        if len(part):
            inside = part.shift(window.x, window.y).xyxy
            shared = shapely.area(shapely.intersection(outlines(inside)[:, None], outlines(real.xyxy)[None]))
            assert shared.max(axis=1) == pytest.approx(shapely.area(outlines(inside)), rel=1e-6, abs=1e-3)


def test_windows_within_an_area_start_at_its_corner() -> None:
    reader = FakeReader(painted())
    found = plan_windows(reader, chip_size=32, overlap=0, area=shapely.box(16, 40, 80, 104))
    assert {window.xyxy for window in found} == {(x, y, x + 32, y + 32) for x in (16, 48) for y in (40, 72)}


def test_at_the_edge_of_an_area_too_the_share_is_of_the_whole_label() -> None:
    # 40 x 40 px from (100, 10) on, of which the area holds 10 columns: 0.25 of it, and all of what is left of it.
    label, area = outlines([(100, 10, 140, 50)]), shapely.box(0, 0, 110, 128)
    for min_visible, found in ((0.3, []), (0.25, [[100, 10, 110, 50]])):
        (part,) = cut(label, np.array([0]), [Window(0, 0, 128, 128)], Cutting(min_visible=min_visible), area=area)
        assert part.xyxy.tolist() == found


def _half_dark() -> FakeReader:
    """A scene of 128 px that holds data left of x = 64."""
    return FakeReader(np.ones((1, 128, 128), np.uint8), valid=np.broadcast_to(np.arange(128) < 64, (128, 128)))


def test_a_box_needs_half_of_its_pixels_not_its_centre() -> None:
    # 10 px wide, of which 5 hold data, then 4; one with a hole in the middle; one in the dark; one that is cut away.
    labels = outlines([(59, 10, 69, 20), (60, 30, 70, 40), (20, 20, 31, 31), (90, 90, 99, 99), (9, 60, 10, 70)])
    reader = _half_dark()
    reader._valid = reader._valid.copy()
    reader._valid[25, 25] = False
    plans, fates = plan_chips(reader, PixelLabels(labels, np.array([3, 4, 5, 6, 7])), Cutting(128))
    assert [plan.boxes.labels.tolist() for plan in plans] == [[3, 5]]
    assert fates.tolist() == [Fate.KEPT, Fate.BLANK, Fate.KEPT, Fate.BLANK, Fate.CUT]
    assert Cutting().report_lost(fates) == (
        "in no chip: 1 under 2 px or visible by less than 30% in every chip, 2 mostly where the raster holds no data"
    )


@given(boxes(max_size=12, scored=False), st.integers(0, 63))
def test_what_is_planned_is_what_is_read(labels: gd.Boxes, x: int) -> None:
    real = labels[(labels.sizes > 0).all(axis=1)]
    reader = FakeReader(np.ones((1, 128, 128), np.uint8), valid=np.broadcast_to(np.arange(128) >= x, (128, 128)))
    plans, fates = plan_chips(reader, PixelLabels(outlines(real.xyxy), real.labels), Cutting(64, min_visible=0))
    read = [chip.boxes.xyxy.tolist() for chip in Chips(plans)]
    assert read == [plan.boxes.xyxy.tolist() for plan in plans]
    assert sum(map(len, read)) >= (fates == Fate.KEPT).sum()
    for plan in plans:
        _, valid = reader.read(plan.window)
        for x1, y1, x2, y2 in plan.boxes.xyxy.round().astype(int):
            assert valid[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)].mean() >= 0.5


def test_a_raster_without_holes_is_not_read_to_plan_it() -> None:
    reader = FakeReader(np.ones((1, 128, 128), np.uint8), broken=(100, 100))
    plans, _ = plan_chips(reader, PixelLabels(outlines([(90, 90, 110, 110)]), np.array([0])), Cutting(64))
    assert len(draw_negatives(plans, Cutting(negatives=3))) == 4


def test_chips_without_an_object_are_drawn_once_from_all_scenes() -> None:
    # Ten scenes of four windows, one with an object: 0.3 of them are three more, though no scene has a whole one.
    plans = []
    for _ in range(10):
        reader = FakeReader(np.ones((1, 64, 64), np.uint8))
        plans += plan_chips(reader, PixelLabels(outlines([(4, 4, 20, 20)]), np.array([0])), Cutting(32))[0]
    for negatives, n_chips in ((0, 10), (0.3, 13), (1, 20), (100, 40)):
        kept = draw_negatives(plans, Cutting(negatives=negatives))
        assert len(kept) == n_chips
        assert [plan for plan in plans if plan in kept] == kept
    dark = plan_chips(_half_dark(), PixelLabels(outlines([(4, 4, 20, 20)]), np.array([0])), Cutting(64))[0]
    assert [plan.window.x for plan in draw_negatives(dark, Cutting(negatives=9))] == [0, 0]  # none where no data are


# prepare_data


def test_a_raster_with_labels_in_degrees(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64)
    assert data.classes == sorted(CLASSES)
    assert {type(name) for name in data.classes} == {str}
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


@pytest.mark.parametrize(("n_chips", "size"), [(1, 2), (40, 2), (59, 2), (60, 3), (159, 7), (160, 8), (9_999, 8)])
def test_a_batch_is_as_large_as_leaves_twenty_in_an_epoch(n_chips: int, size: int) -> None:
    assert choose_batch_size(n_chips) == size


def test_the_batch_is_chosen_by_the_chips_to_train_on(upright: PaintedScene) -> None:
    options = {"labels": _labels(upright), "chip_size": 40, "overlap": 20, "negatives": 9}
    data = gd.prepare_data(upright.path, **options)
    assert data.batch_size == choose_batch_size(len(data.train))
    assert gd.prepare_data(upright.path, **options, batch_size=5).batch_size == 5


def test_a_picture_of_the_batch(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64)
    figure = data.show_batch(rows=2)
    assert sum(bool(axes.get_images()) for axes in figure.axes) == min(
        4, sum(len(plan.boxes) > 0 for plan in data.train.plans)
    )
    for rows in (0, 2.5):
        with pytest.raises(ArgumentError, match="rows must be a whole number of at least 1"):
            data.show_batch(rows=rows)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chip_size": 64, "overlap": 64}, "overlap must be smaller than chip_size"),
        ({"split": "columns"}, 'split must be "blocks" or "random"'),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"val_split_pct": 1.0}, "val_split_pct must lie between 0 and 1"),
        ({"sampler": "rare"}, 'sampler must be "balanced" or None'),
        ({"min_visible": 2}, "min_visible must lie between 0 and 1"),
        ({"pixel_size_m": 30}, "no chip of upright.tif holds a label"),
        ({"class_mapping": {"red": None, "blue": None}}, "dropped by class_mapping"),
        ({"chip_size": 1024}, 'split="random"'),
        ({"bands": (1, 9)}, "9"),
        ({"label_field": "kind"}, "kind"),
        ({"chip_size": 64.0}, "whole pixels"),
        ({"chip_size": "64"}, "whole pixels"),
        ({"overlap": 1.5}, "whole pixels"),
        ({"pixel_size_m": "0.3"}, "pixel_size_m must be above 0"),
        ({"min_visible": "a"}, "min_visible must lie between 0 and 1; got 'a'"),
        ({"negatives": float("inf")}, "negatives must be a number of at least 0; got inf"),
        ({"negatives": -1}, "negatives must be a number of at least 0; got -1"),
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        ({"val_split_pct": "a"}, "val_split_pct must lie between 0 and 1"),
        ({"batch_size": "8"}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of at least 1"),
        ({"num_workers": -3}, "num_workers must be a whole number of at least 0"),
        ({"class_mapping": ["a"]}, "class_mapping must be a dict"),
        ({"dataset_type": "coco"}, "dataset_type cannot be applied to a raster with labels"),
    ],
)
def test_bad_parameters_are_refused(upright: PaintedScene, change: dict[str, object], told: str) -> None:
    with pytest.raises(GeodetectError, match=told):
        gd.prepare_data(upright.path, **({"labels": _labels(upright), "chip_size": 64} | change))  # type: ignore[arg-type]


def test_a_folder_that_is_a_file_or_not_there(upright: PaintedScene, tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match="give labels="):
        gd.prepare_data(upright.path)
    with pytest.raises(LabelsError, match="does not exist"):
        gd.prepare_data(tmp_path / "nothing")
    with pytest.raises(LabelsError, match=r"got 2 paths \(give labels="):
        gd.prepare_data([upright.path, upright.path])  # type: ignore[arg-type]
    with pytest.raises(LabelsError, match="; it is empty"):
        gd.prepare_data(tmp_path)
    for nothing in (None, ""):
        with pytest.raises(LabelsError, match="source must be one folder of labelled chips; got"):
            gd.prepare_data(nothing)  # type: ignore[arg-type]
    with pytest.raises(RasterError, match="got an empty name"):
        gd.prepare_data("", labels=upright.truth)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"aoi": "absent.gpkg", "point_radius_m": 3}, "aoi and point_radius_m cannot be applied to a folder"),
        ({"label_field": "kind"}, "label_field cannot be applied to a folder of labelled chips, only to labels="),
        ({"min_visible": 5}, "min_visible must lie between 0 and 1; got 5"),
        ({"negatives": -1}, "negatives must be"),
        ({"overlap": 500}, "overlap must be smaller than chip_size"),
        ({"dataset_type": ["coco"]}, "dataset_type must be one of"),
    ],
)
def test_parameters_that_mean_nothing_for_a_folder(tmp_path: Path, change: dict[str, object], told: str) -> None:
    with pytest.raises(GeodetectError, match=told):
        gd.prepare_data(_unbalanced(tmp_path), **change)  # type: ignore[arg-type]


def test_what_no_chip_holds_is_told(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64, negatives=0)
    # One of nine squares lies on the corner of four windows, a quarter in each.
    assert data.report.endswith("in no chip: 1 under 2 px or visible by less than 30% in every chip")
    data = gd.prepare_data(upright.path, labels=_labels(upright), chip_size=64, aoi=_west(upright))
    told = "in no chip: 5 outside the aoi; no training chip holds a box of red"
    assert data.report.endswith(told)  # the other windows that it has cut that one less
    bare = gd.prepare_data(upright.path, labels=_labels(upright).iloc[:1], chip_size=40, negatives=9)
    assert "no validation chip holds a box" in bare.report


def test_a_class_without_a_box_is_named_with_the_reasons(upright: PaintedScene, tmp_path: Path) -> None:
    small, off, flat = [5, 5, 6, 6], [900, 5, 910, 15], [30, 5, 30, 15]
    boxes = {
        "ant": [small],
        "boat": [off, [950, 5, 960, 15]],
        "both": [small, off],
        "line": [flat],
        "red": [[60, 5, 80, 25]],
    }
    names = [name for name, some in boxes.items() for _ in some]
    polygons = shapely.transform(outlines([box for some in boxes.values() for box in some]), upright.grid.to_map)
    labels = gpd.GeoDataFrame({"label": names}, geometry=polygons, crs=UTM)
    told = (
        "no box of ant (1 under 2 px or visible by less than 30% in every chip), boat (2 outside the raster), "
        "both (1 outside the raster, 1 under 2 px or visible by less than 30% in every chip), line (1 without area), "
        "left out"
    )
    data = gd.prepare_data(upright.path, labels, chip_size=64, split="random", seed=1)
    assert data.classes == ["red"]
    assert told in data.report
    assert data.report.startswith("3 objects of 3 classes from the frame of labels; left out 1 without area, 3 outside")
    with pytest.warns(UserWarning, match=re.escape(told)):
        gd.export_training_data(upright.path, labels, tmp_path / "chips", chip_size=64, progress=False)
    boat = labels[labels["label"].isin(["boat", "red"])]  # alone lost, which nobody minds of a label
    with pytest.warns(UserWarning, match=r"no box of boat \(2 outside the raster\)"):
        gd.export_training_data(upright.path, boat, tmp_path / "again", chip_size=64, progress=False)


def test_a_layer_and_an_area_in_numbers_are_taken(upright: PaintedScene, tmp_path: Path) -> None:
    path = tmp_path / "town.gpkg"
    for name, some in (("old", upright.truth.iloc[:1]), ("new", upright.truth)):
        some.to_file(path, layer=name)
    west = _west(upright).bounds
    boxes = {}
    for name, source, layer in (
        ("named", path, "new"),
        ("bar", f"{path}|layername=new", None),
        ("frame", upright.truth, None),
    ):
        data = gd.prepare_data(upright.path, source, layer=layer, chip_size=64, split="random", aoi=west)
        out = gd.export_training_data(
            upright.path, source, tmp_path / name, layer=layer, chip_size=64, aoi=west, progress=False, overwrite=True
        )
        boxes[name] = [plan.boxes.xyxy.tolist() for plan in data.plans], len(list((out / "images").iterdir()))
    assert boxes["named"] == boxes["bar"] == boxes["frame"]
    with pytest.warns(UserWarning, match="several layers: old, new"):
        gd.prepare_data(upright.path, path, chip_size=64, split="random")
    with pytest.raises(ArgumentError, match="layer cannot be applied to a folder of labelled chips"):
        gd.prepare_data(tmp_path / "named", layer="new")
    with pytest.raises(OutputError, match=r"holds the input .*town\.gpkg"):
        gd.export_training_data(upright.path, f"{path}|layername=new", tmp_path, overwrite=True)


def _west(scene: PaintedScene) -> shapely.Geometry:
    return shapely.box(*scene.grid.to_map(np.array([[0.0, 0.0], [90.0, 160.0]])).ravel())


def test_scenes_that_differ_in_kind_are_refused_and_in_pixel_size_told(upright: PaintedScene, tmp_path: Path) -> None:
    def other(name: str, dtype: str, size: float) -> Path:
        place = UPRIGHT @ Affine.translation(5000, 0) @ Affine.scale(size)
        return write_raster(tmp_path / name, painted().astype(dtype), Grid(SHAPE, place, UTM))

    deep, coarse = other("deep.tif", "float32", 1), other("coarse.tif", "uint16", 2)
    with pytest.raises(RasterError, match=r"3 of uint16 in upright\.tif, 3 of float32 in deep\.tif"):
        gd.prepare_data([upright.path, deep], labels=_labels(upright), chip_size=64)
    both = [upright.path, coarse]
    data = gd.prepare_data(both, labels=_labels(upright), chip_size=64)
    assert "pixels of 0.5 to 1 m together, as pixel_size_m is not given" in data.report
    assert "together" not in gd.prepare_data(both, labels=_labels(upright), chip_size=64, pixel_size_m=0.5).report


@pytest.mark.parametrize("metadata_format", FORMATS)
@pytest.mark.parametrize("chip_format", ["tif", "png"])
def test_where_no_data_are_all_count_alike(
    upright: PaintedScene, tmp_path: Path, metadata_format: str, chip_format: str
) -> None:
    pixels = painted()
    pixels[:, :, 105:] = 0  # one square is seen by 5 of its 16 px, and four lie beyond
    dark = write_raster(tmp_path / "dark.tif", pixels, upright.grid, nodata=0)
    ours = gd.prepare_data(dark, labels=_labels(upright), chip_size=80, negatives=0, split="random")
    assert "in no chip: 5 mostly where the raster holds no data" in ours.report
    assert ours.describe().loc["all", "objects"] == 4 == sum(len(chip.boxes) for chip in [*ours.train, *ours.valid])
    with pytest.warns(UserWarning, match="9 objects .* in no chip: 5 mostly where the raster holds no data"):
        out = gd.export_training_data(
            dark,
            _labels(upright),
            tmp_path / "chips",
            chip_size=80,
            metadata_format=metadata_format,
            chip_format=chip_format,
            progress=False,
        )
    read = gd.prepare_data(out, split="random")
    assert _content(read, pixels=False) == _content(ours, pixels=False)
    assert read.describe().loc["all", "objects"] == 4


def _filled(folder: Path, value: float = -9999) -> Path:
    """The scene in floats with a value to the right of six of its squares that nothing declares."""
    pixels = painted().astype(np.float32)
    pixels[:, :, 140:] = value
    return write_raster(folder / "filled.tif", pixels, Grid(SHAPE, UPRIGHT, UTM))


def test_undeclared_no_data_is_told_of_and_kept_out_of_the_stretch(upright: PaintedScene, tmp_path: Path) -> None:
    options = {"labels": _labels(upright), "chip_size": 64, "split": "random", "negatives": 9}
    with pytest.warns(UserWarning, match=r"training pixels hold -9999, far from .* nodata=-9999.*without it") as told:
        data = gd.prepare_data(_filled(tmp_path), **options)
    assert len(told) == 1
    assert min(data.normalization.mean) >= 0
    assert "9 objects" in data.report
    given = gd.prepare_data(_filled(tmp_path), nodata=-9999, **options)
    assert "3 mostly where the raster holds no data" in given.report
    assert given.describe().loc["all", "objects"] == 8  # six squares, two of them in two chips each
    numbers = given.normalization.value_range
    assert numbers.dtype == "float32"
    # x in the first band, and red squares of 60,000
    assert (numbers.quantiles[0][0], numbers.quantiles[0][-1]) == (0, 60_000)


def test_no_data_that_is_told_is_cut_into_chips_as_such(upright: PaintedScene, tmp_path: Path) -> None:
    options = {"chip_size": 64, "negatives": 9, "progress": False}
    with pytest.warns(UserWarning, match="3 mostly where the raster holds no data"):
        out = gd.export_training_data(_filled(tmp_path), _labels(upright), tmp_path / "out", nodata=-9999, **options)
    data = gd.prepare_data(out, split="random")
    assert data.describe().loc["all", "objects"] == 8
    assert min(chip.pixels.min() for chip in [*data.train, *data.valid]) == 0
    plain = gd.export_training_data(_filled(tmp_path), _labels(upright), tmp_path / "plain", **options)
    with pytest.warns(UserWarning, match="nodata=-9999"):
        gd.prepare_data(plain, split="random")
    told = gd.prepare_data(plain, split="random", nodata=-9999)
    assert "mostly where the raster holds no data" in told.report
    assert told.describe().loc["all", "objects"] == 8
    with pytest.raises(ArgumentError, match="nodata must be a number"):
        gd.prepare_data(plain, nodata="-9999")


def test_a_fill_that_is_told_otherwise_is_another_plan(upright: PaintedScene, tmp_path: Path) -> None:
    scene, options = _filled(tmp_path, 7), {"chip_size": 64, "negatives": 9, "progress": False}
    gd.export_training_data(scene, _labels(upright), tmp_path / "out", **options)
    with pytest.raises(OutputError, match="is not empty"):
        gd.export_training_data(scene, _labels(upright), tmp_path / "out", nodata=3, **options)


# export_training_data and COCO


def _content(data: gd.DetectionData, *, pixels: bool = True) -> list[tuple[object, ...]]:
    """What all chips of both parts hold, whatever their order."""
    return _content_of([*data.train, *data.valid, *data.left_out], pixels=pixels)


def _content_of(chips: Iterable[Chip], *, pixels: bool = True) -> list[tuple[object, ...]]:
    rows = [
        (
            tuple(chip.grid.to_map(np.zeros((1, 2))).round(3)[0]),
            chip.boxes.xyxy.round(2).tolist(),
            chip.boxes.labels.tolist(),
            int(chip.pixels.astype(int).sum()) if pixels else 0,
        )
        for chip in chips
    ]
    return sorted(rows)


@pytest.mark.parametrize("metadata_format", FORMATS)
def test_a_folder_that_we_wrote_gives_the_same_chips(scene: PaintedScene, tmp_path: Path, metadata_format: str) -> None:
    labels = _labels(scene)
    out = gd.export_training_data(
        scene.path,
        labels,
        tmp_path / "chips",
        metadata_format=metadata_format,
        chip_size=64,
        overlap=None,
        negatives=1,
        progress=False,
    )
    ours = gd.prepare_data(scene.path, labels=labels, chip_size=64)
    read = gd.prepare_data(out)
    assert read.classes == ours.classes
    assert _content(read) == _content(ours)


def _bytes(folder: Path, located: bool) -> PaintedScene:
    """A scene of 8 bits, in which each band is one grey."""
    grid = Grid(SHAPE, ROTATED, UTM, "bytes.tif") if located else Grid(SHAPE, name="bytes.tif")
    pixels = np.broadcast_to(np.array([50, 100, 150], np.uint8)[:, None, None], (3, *SHAPE))
    return PaintedScene(write_raster(folder / "bytes.tif", pixels, grid), grid, TRUTH)


@pytest.mark.parametrize("located", [True, False])
@pytest.mark.parametrize("chip_format", ["png", "jpg"])
def test_pngs_and_jpegs_keep_their_place(tmp_path: Path, chip_format: str, located: bool) -> None:
    scene = _bytes(tmp_path, located)
    out = gd.export_training_data(
        scene.path, scene.truth, tmp_path / "chips", chip_format=chip_format, chip_size=64, progress=False
    )
    ours = gd.prepare_data(scene.path, labels=scene.truth, chip_size=64, negatives=0, split="random")
    read = gd.prepare_data(out, split="random")
    by_place = {tuple(np.round(plan.grid.corners, 3).ravel()) for plan in read.plans}
    if located:
        assert by_place == {tuple(np.round(plan.grid.corners, 3).ravel()) for plan in ours.plans}
        assert all(plan.grid.crs == UTM for plan in read.plans)
        # Other programs read the world file: columns of the matrix, and the centre of the upper left pixel.
        first = next((out / "images").glob(f"*.{chip_format}"))
        values = [float(line) for line in first.with_suffix(f".{chip_format[0]}gw").read_text().split()]
        place = ImageReader(first).grid
        assert values[4:] == pytest.approx(place.to_map(np.array([[0.5, 0.5]]))[0])
    else:
        assert not list(out.rglob("*.?gw"))
    for chip in read.train:  # a JPEG of one grey is off by one at most
        assert chip.pixels.mean(axis=(1, 2)) == pytest.approx([50, 100, 150], abs=1)


@pytest.mark.parametrize(
    ("chip_format", "bands", "told"),
    [
        ("jpg", None, "jpg chips hold 1 or 3 bands of uint8; the raster has 3 of uint16"),
        ("png", (1, 2, 3, 1), "png chips hold 1 or 3 bands of uint8 or uint16; the raster has 4 of uint16"),
    ],
)
def test_pixels_that_a_format_cannot_hold(
    upright: PaintedScene, tmp_path: Path, chip_format: str, bands: tuple[int, ...] | None, told: str
) -> None:
    with pytest.raises(ArgumentError, match=told):
        gd.export_training_data(
            upright.path, _labels(upright), tmp_path / "chips", chip_format=chip_format, bands=bands, chip_size=64
        )
    assert not (tmp_path / "chips").exists()


def test_the_map_shows_chips_and_labels(scene: PaintedScene, tmp_path: Path) -> None:
    out = gd.export_training_data(scene.path, _labels(scene), tmp_path / "chips", chip_size=64, progress=False)
    shown = gpd.read_file(out / "chips.geojson")
    chips, labels = shown[shown["kind"] == "chip"], shown[shown["kind"] == "label"]
    data = gd.prepare_data(out, split="random")
    assert shown.crs == "EPSG:4326"
    assert len(chips) == len(data.plans)
    assert len(labels) == sum(len(plan.boxes) for plan in data.plans)
    assert set(labels["label"]) == set(CLASSES)
    assert {(out / "images" / name).is_file() for name in shown["chip"]} == {True}
    # Every label that was drawn lies, to a decimetre, under the outlines of its parts.
    truth = scene.truth.to_crs(UTM).union_all().buffer(0.1)
    assert truth.contains(labels.to_crs(UTM).union_all())


KILLED = """
import os, signal, sys
import geodetect as gd
replace = os.replace

def run(raster, labels, out, last):
    def killed_at_one_file(source, target):
        if str(target).endswith(last):
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = killed_at_one_file
    gd.export_training_data(raster, labels, out, chip_size=64, progress=False)

gd.export_training_data  # imported before processes are forked
raster, labels, folder, *files = sys.argv[1:]
for file in files:
    if not (process := os.fork()):
        run(raster, labels, os.path.join(folder, file), file)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"""
LAST_FILES = ["000000002.tif", "labels.json", "instances_default.json", "chips.geojson", "export.json"]


@pytest.fixture(scope="module")
def killed(scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of exports, each named after the file that it was killed at, and the labels that were given."""
    folder = tmp_path_factory.mktemp("killed")
    scenes["upright"].truth.to_file(folder / "labels.gpkg")
    command = [sys.executable, "-c", KILLED, scenes["upright"].path, folder / "labels.gpkg", folder, *LAST_FILES]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert answer.stdout.split() == ["-9"] * len(LAST_FILES)
    return folder


@pytest.mark.parametrize("file", LAST_FILES)
def test_a_run_that_was_killed_goes_on_without_cutting_anew(
    upright: PaintedScene, killed: Path, tmp_path: Path, file: str
) -> None:
    labels, out = killed / "labels.gpkg", killed / file
    assert [path for path in out.rglob("*") if path.name.startswith(".")]
    kept = {path: path.stat().st_mtime_ns for path in (out / "images").glob("*.tif")}
    assert 0 < len(kept) < 9 if file.endswith(".tif") else len(kept) == 11
    gd.export_training_data(upright.path, labels, out, chip_size=64, progress=False)
    whole = gd.export_training_data(upright.path, labels, tmp_path / "whole", chip_size=64, progress=False)
    assert _bytes_of(out) == _bytes_of(whole)
    assert all(path.stat().st_mtime_ns == written for path, written in kept.items())


def _bytes_of(folder: Path) -> dict[Path, bytes]:
    """Every file and every folder in it, hidden ones too."""
    return {path.relative_to(folder): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


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
        patch.setattr(os, "cpu_count", lambda: 1)
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
    with pytest.warns(UserWarning, match="chips is complete already; overwrite=True cuts it anew"):
        assert cut_into(out) == out
    with pytest.raises(OutputError, match="not empty"):
        cut_into(out, chip_size=32)
    next((out / "images").glob("*.tif")).unlink()
    with pytest.raises(OutputError, match="not empty"):
        cut_into(out)


def test_another_plan_does_not_go_on_with_chips_of_the_first(
    upright: PaintedScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raster, labels, out = tmp_path / "scene.tif", tmp_path / "labels.gpkg", tmp_path / "chips"
    raster.write_bytes(upright.path.read_bytes())
    upright.truth.to_file(labels)

    def cut_into(what: object = labels, aoi: shapely.Geometry | None = None) -> Path:
        return gd.export_training_data(raster, what, out, chip_size=64, aoi=aoi, progress=False)  # type: ignore[arg-type]

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("geodetect.chips.outdir.OutDir.write", stopped)
        with pytest.raises(KeyboardInterrupt):
            cut_into()
    many = upright.truth.iloc[np.arange(400) % 9].reset_index()  # pandas prints no more than the ends of so many
    moved = [shapely.affinity.translate(each, 0.01 * k) for k, each in enumerate(many.geometry)]
    many = many.set_geometry(gpd.GeoSeries(moved, crs=many.crs))
    for other in (upright.truth.iloc[1:], many):
        with pytest.raises(OutputError, match="other parameters, labels or rasters"):
            cut_into(other)
    with pytest.raises(OutputError, match="other parameters, labels or rasters"):
        cut_into(aoi=shapely.box(*upright.grid.bounds).buffer(-1))
    os.utime(raster, ns=(1, 1))
    with pytest.raises(OutputError, match="other parameters, labels or rasters"):
        cut_into()
    os.utime(raster, ns=(raster.stat().st_atime_ns, (out / ".unfinished.json").stat().st_mtime_ns))
    upright.truth.iloc[1:].to_file(labels)
    with pytest.raises(OutputError, match="other parameters, labels or rasters"):
        cut_into()


@pytest.mark.parametrize("marker", ["", None])
def test_a_run_that_was_killed_as_it_began_goes_on(
    upright: PaintedScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str | None
) -> None:
    out, make = tmp_path / "chips", Path.mkdir

    def killed(path: Path, *arguments: object, **keywords: object) -> None:
        if path.name == "images":
            raise KeyboardInterrupt
        make(path, *arguments, **keywords)  # type: ignore[arg-type]

    def cut_into() -> Path:
        return gd.export_training_data(upright.path, _labels(upright), out, chip_size=64, progress=False)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", killed)
        with pytest.raises(KeyboardInterrupt):
            cut_into()
    if marker is not None:
        next(out.iterdir()).write_text(marker)
    assert (cut_into() / "labels.json").is_file()


def test_overwriting_spares_what_is_read_and_where_people_work(
    upright: PaintedScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town, labels, away = tmp_path / "town", tmp_path / "labels.gpkg", tmp_path / "away.gpkg"
    (town / "deeper").mkdir(parents=True)
    (town / "deeper/scene.tif").write_bytes(upright.path.read_bytes())
    (town / "notes.txt").write_text("mine")
    upright.truth.to_file(town / "labels.gpkg")
    upright.truth.to_file(away)
    labels.symlink_to(town / "labels.gpkg")
    (town / "link.gpkg").symlink_to(away)
    before = sorted(town.rglob("*"))

    def cut_into(raster: object, what: object, out: object = town, aoi: object = None) -> None:
        gd.export_training_data(raster, what, out, aoi=aoi, chip_size=64, overwrite=True, progress=False)  # type: ignore[arg-type]

    for raster, what, aoi in (
        (town / "deeper/scene.tif", away, None),
        (str(town / "deeper" / "*.tif"), away, None),
        ([town / "deeper"], away, None),
        (upright.path, labels, None),
        (upright.path, [away, town / "link.gpkg"], None),
        (upright.path, upright.truth, town / "labels.gpkg"),
    ):
        with pytest.raises(OutputError, match=r"town holds the input .*, and is not emptied"):
            cut_into(raster, what, aoi=aoi)
    monkeypatch.chdir(town / "deeper")
    for out in (".", "..", town):
        with pytest.raises(OutputError, match="is or holds the working directory, and is not emptied"):
            cut_into(upright.path, upright.truth, out)
    assert sorted(town.rglob("*")) == before


def test_overwriting_empties_a_folder_and_leaves_it_what_it_is(upright: PaintedScene, tmp_path: Path) -> None:
    disk, link, kept = tmp_path / "disk", tmp_path / "link", tmp_path / "kept"
    for folder in (disk / "old", kept):
        folder.mkdir(parents=True)
        (folder / "file.txt").write_text("old")
    link.symlink_to(disk)
    (disk / "elsewhere").symlink_to(kept)
    gd.export_training_data(upright.path, _labels(upright), link, chip_size=64, overwrite=True, progress=False)
    assert {path.name for path in disk.iterdir()} == {*FILES, "chips.geojson"}
    assert link.is_symlink()
    assert (kept / "file.txt").is_file()


@pytest.mark.parametrize(
    "crs",
    [
        "IAU_2015:49910",  # Mars
        'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]',
    ],
)
def test_where_nothing_leads_to_wgs84_the_map_is_in_the_raster_s_own_crs(tmp_path: Path, crs: str) -> None:
    grid = Grid(SHAPE, UPRIGHT, CRS.from_user_input(crs), "far.tif")
    path = write_raster(tmp_path / "far.tif", painted(), grid)
    with gd.raster.RasterReader(path) as reader:
        scene = PaintedScene(path, reader.grid, TRUTH)
    out = gd.export_training_data(path, scene.truth, tmp_path / "chips", chip_size=64, progress=False)
    assert {path.name for path in out.iterdir()} == {*FILES, "chips.gpkg"}
    shown = gpd.read_file(out / "chips.gpkg")
    assert (shown["kind"] == "chip").sum() == len(gd.prepare_data(out, split="random").plans)
    assert shapely.box(*scene.grid.bounds).buffer(1e-6).contains(shown.union_all())


def test_where_scenes_have_no_crs_in_common_there_is_no_map(upright: PaintedScene, tmp_path: Path) -> None:
    mars = write_raster(tmp_path / "mars.tif", painted(), Grid(SHAPE, UPRIGHT, CRS.from_user_input("IAU_2015:49910")))
    raster = [upright.path, mars]
    with pytest.warns(UserWarning, match="no map, as no CRS holds all chips"):
        out = gd.export_training_data(
            raster, _labels(upright), tmp_path / "chips", chip_size=64, negatives=9, progress=False
        )
    assert {path.name for path in out.iterdir()} == FILES
    assert len(gd.prepare_data(out, negatives=9, split="random").plans) == 2 * 12


@pytest.mark.parametrize(
    ("metadata_format", "name"),
    [
        ("kitti", "DontCare"),
        ("kitti", "swimming pool"),
        ("kitti", "pool\u3000a"),
        *(
            (kind, name)
            for kind in FORMATS
            for name in ("a\x01b", "two\nlines", "a\x00", "a\x7f", "a\u2028b", "\ud800")
        ),
    ],
)
def test_classes_that_a_format_would_lose_are_refused_before_the_work(
    upright: PaintedScene, tmp_path: Path, metadata_format: str, name: str
) -> None:
    labels = _labels(upright)
    names = np.array([name if label == "red" else label for label in labels["label"]], dtype=object)
    labels["label"] = pd.Series(names, index=labels.index, dtype=object)
    with pytest.raises(ArgumentError, match=f"{metadata_format} cannot hold classes called "):
        gd.export_training_data(upright.path, labels, tmp_path / "chips", metadata_format=metadata_format, chip_size=64)
    assert not (tmp_path / "chips").exists()


@pytest.mark.filterwarnings("ignore:no block of ground parts")  # four chips of 128 px overlap on 224 x 160
@pytest.mark.parametrize("metadata_format", FORMATS)
def test_boxes_of_two_pixels_are_read_back(upright: PaintedScene, tmp_path: Path, metadata_format: str) -> None:
    # Corners at all kinds of fractions, which are written in hundredths of a pixel.
    corner = np.array([[x + 0.137 * x % 1, y + 0.0613 * y % 1] for x in range(4, 120, 7) for y in range(4, 120, 7)])
    squares = shapely.transform(outlines(np.hstack([corner, corner + 2.0])), upright.grid.to_map)
    labels = gpd.GeoDataFrame({"label": ["a"] * len(squares)}, geometry=squares, crs=UTM)
    out = gd.export_training_data(
        upright.path, labels, tmp_path / "chips", metadata_format=metadata_format, chip_size=128, progress=False
    )
    written = sum(gpd.read_file(out / "chips.geojson")["kind"] == "label")
    assert gd.prepare_data(out, split="random").describe().loc["all", "objects"] == written > 200


def test_coco_holds_outlines_and_lies_where_cvat_looks(upright: PaintedScene, tmp_path: Path) -> None:
    out = gd.export_training_data(upright.path, _labels(upright), tmp_path / "chips", chip_size=64, progress=False)
    assert (out / "annotations/instances_default.json").read_bytes() == (out / "labels.json").read_bytes()
    found = json.loads((out / "labels.json").read_text())["annotations"]
    for each in found:
        x, y, w, h = each["bbox"]
        assert each["segmentation"] == [[x, y, x + w, y, x + w, y + h, x, y + h]]
    assert len(read_folder(out).images) == 11
    assert sum(len(each.names) for each in read_folder(out).images) == len(found) == 14


def test_yolo_lists_the_chips_of_both_parts(upright: PaintedScene, tmp_path: Path) -> None:
    out = gd.export_training_data(
        upright.path,
        _labels(upright),
        tmp_path / "chips",
        metadata_format="yolo",
        chip_size=32,
        negatives=9,
        progress=False,
    )
    listed = {part: (out / f"{part}.txt").read_text().splitlines() for part in ("train", "val")}
    names = yaml.safe_load((out / "data.yaml").read_text())
    assert names == {"train": "train.txt", "val": "val.txt", "names": {0: "blue", 1: "red"}}
    assert all((out / line).is_file() for lines in listed.values() for line in lines)
    assert not set(listed["train"]) & set(listed["val"])
    ours = gd.prepare_data(upright.path, _labels(upright), chip_size=32, negatives=9)
    read = gd.prepare_data(out, negatives=9)
    assert [len(part) for part in (read.train, read.valid)] == [len(part) for part in (ours.train, ours.valid)]
    assert [len(lines) for lines in listed.values()] == [len(ours.train), len(ours.valid)]
    for part in ("train", "valid"):
        assert _content_of(getattr(read, part)) == _content_of(getattr(ours, part))


@pytest.mark.parametrize(
    ("options", "told", "lists"),
    [
        ({"chip_size": 128, "overlap": 96}, r"the \d+ chips.*at random.*ground that is trained on.*overlap smaller", 2),
        ({"chip_size": 256}, r"1 chip\(s\) cannot be split.*chip_size smaller", 0),
    ],
)
def test_yolo_says_where_blocks_cannot_part_the_chips(
    upright: PaintedScene, tmp_path: Path, options: dict[str, int], told: str, lists: int
) -> None:
    with pytest.warns(UserWarning, match=told):
        out = gd.export_training_data(
            upright.path, _labels(upright), tmp_path / "chips", metadata_format="yolo", progress=False, **options
        )
    assert len(list(out.glob("*.txt"))) == lists
    (tmp_path / "coco").mkdir()  # which has no parts
    gd.export_training_data(upright.path, _labels(upright), tmp_path / "coco", progress=False, **options)


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


@pytest.mark.parametrize("keyword", [{"metadata_format": "csv"}, {"chip_format": "gif"}, {"metadata_format": ["voc"]}])
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
    for nothing in (None, ""):
        with pytest.raises(ArgumentError, match="out_dir must be the path of a folder"):
            gd.export_training_data(upright.path, _labels(upright), nothing)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_validation_from_a_second_folder(upright: PaintedScene, tmp_path: Path) -> None:
    out = gd.export_training_data(upright.path, _labels(upright), tmp_path / "a", chip_size=64, progress=False)
    data = gd.prepare_data(out, valid_path=out)
    assert len(data.train) == len(data.valid)


def test_shape_of_the_painted_scene() -> None:
    assert painted().shape == (3, *SHAPE)


def _unbalanced(folder: Path) -> Path:
    """Ten pictures with a car, two of which hold a ship too."""
    for number in range(10):
        write_raster(folder / f"{number}.tif", np.zeros((1, 32, 32), np.uint8))
        ship = "1 0.5 0.5 0.5 0.5\n" if number < 2 else ""
        (folder / f"{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n" + ship)
    (folder / "classes.txt").write_text("car\nship\n")
    return folder


def test_rare_classes_come_more_often_when_balanced(tmp_path: Path) -> None:
    folder = _unbalanced(tmp_path)
    assert gd.prepare_data(folder).weights is None
    data = gd.prepare_data(folder, valid_path=folder, sampler="balanced")
    holds_ship = np.array([1 in plan.boxes.labels for plan in data.train.plans])
    # Cars are in 10 chips of 10, ships in 2: sqrt(1 / 0.2) = 2.236.
    assert data.weights == pytest.approx(np.where(holds_ship, 5**0.5, 1))
    assert "chips in both parts, so scores are too good: 10" in data.report


def test_the_loader_draws_by_weight(tmp_path: Path) -> None:
    data = gd.prepare_data(_unbalanced(tmp_path), valid_path=tmp_path, sampler="balanced")
    weights = np.where([1 in plan.boxes.labels for plan in data.train.plans], 6.0, 1.0)
    made = make_loaders(data, data.normalization)
    made.train.weights = weights.tolist()
    drawn = np.concatenate([made.train.get_idxs() for _ in range(300)])
    # Two chips of weight 6 and eight of weight 1: the two are 12 of 20 draws; 3000 draws are within 0.03 of that.
    assert (weights[drawn] == 6).mean() == pytest.approx(0.6, abs=0.03)
    assert list(made.valid.get_idxs()) == list(range(10))


def test_a_second_folder_has_to_be_of_one_kind_with_the_first(upright: PaintedScene, tmp_path: Path) -> None:
    cars, bright = tmp_path / "cars", tmp_path / "bright"
    cars.mkdir()
    bright.mkdir()
    out = gd.export_training_data(upright.path, _labels(upright), tmp_path / "a", chip_size=64, progress=False)
    with pytest.raises(ArgumentError, match=r"3 bands .* uint16; got 1 of uint8"):
        gd.prepare_data(out, valid_path=_unbalanced(cars))
    with pytest.raises(ArgumentError, match=r"1 bands .* uint16; got 1 of uint8"):
        gd.prepare_data(out, bands=(1,), valid_path=cars)
    write_raster(bright / "1.tif", np.full((1, 32, 32), 9, np.uint8))
    (bright / "1.txt").write_text("0 0.5 0.5 0.5 0.5\n1 0.5 0.5 0.5 0.5\n")
    (bright / "classes.txt").write_text("ship\nmast\n")
    assert "boxes of mast are in no training chip" in gd.prepare_data(cars, valid_path=bright).report
    with pytest.raises(LabelsError, match=r"a class in common; .* car, .* mast; class_mapping"):
        gd.prepare_data(cars, class_mapping={"ship": None}, valid_path=bright)
    with pytest.raises(LabelsError, match=r"^valid_path must be one folder of labelled chips; got 5"):
        gd.prepare_data(cars, valid_path=5)  # type: ignore[arg-type]
    with pytest.raises(LabelsError, match=r"^valid_path must be .* got .*gone, which does not exist"):
        gd.prepare_data(cars, valid_path=tmp_path / "gone")


def test_a_chip_is_shown_in_a_line(upright: PaintedScene) -> None:
    chip = gd.prepare_data(upright.path, labels=upright.truth, chip_size=64).train[0]
    assert repr(chip).startswith("Chip(3 x 64 x 64 uint16, Boxes(")
    assert "\n" not in repr(chip)

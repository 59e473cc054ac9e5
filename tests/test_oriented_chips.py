"""Oriented boxes of chips: from polygons, from folders and back, and in batches."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_tools
from shapely import affinity

import geodetect as gd
from geodetect.boxes import Boxes, oriented_envelope
from geodetect.chips.augment import Batch, apply_symmetry, random_symmetry, random_zoom
from geodetect.chips.cut import MIN_SIDE, Cutting, cut
from geodetect.chips.loaders import make_loaders
from geodetect.cli.main import main
from geodetect.errors import ArgumentError, LabelsError
from geodetect.grid import Window
from geodetect.learner.hits import Hits
from geodetect.vector.geometry import make_valid
from tests.fakes import PaintedScene, write_raster

# Turned rectangles in the pixels of the painted scene, 224 x 160: x, y of the centre, length, width, degrees, class.
TURNED = [
    (40, 40, 30, 10, 35, "car"),
    (90, 30, 24, 8, -60, "car"),
    (64, 90, 40, 12, 10, "ship"),  # across the edges of chips of 64 px
    (150, 60, 16, 16, 20, "car"),
    (190, 128, 20, 6, 85, "ship"),
    (120, 140, 26, 9, 0, "car"),
]


def turned(x: float, y: float, length: float, width: float, degrees: float) -> shapely.Polygon:
    """A rectangle whose longer side lies at an angle from +x towards +y."""
    return affinity.rotate(shapely.box(x - length / 2, y - width / 2, x + length / 2, y + width / 2), degrees)


POLYGONS = np.array([turned(*row[:5]) for row in TURNED], dtype=object)


def frame(scene: PaintedScene, polygons: Iterable[shapely.Geometry] = POLYGONS) -> gpd.GeoDataFrame:
    """Objects, given in pixels, on the map."""
    return gpd.GeoDataFrame(
        {"label": [row[5] for row in TURNED][: len(list(polygons))]},
        geometry=shapely.transform(np.array(list(polygons), object), scene.grid.to_map),
        crs=scene.grid.crs,
    )


def shapes(boxes: Boxes) -> np.ndarray:
    return np.asarray(shapely.polygons(boxes.corners), dtype=object)


def assert_same(one: np.ndarray, other: np.ndarray, within: float) -> None:
    """Each of `one` is one of `other`, and there are as many: no corner is further off than `within`."""
    assert len(one) == len(other)
    off = shapely.hausdorff_distance(one[:, None], other[None])
    assert (off.min(axis=1, initial=np.inf) <= within).all()
    assert (off.min(axis=0, initial=np.inf) <= within).all()


def whole_chips(data: gd.DetectionData) -> np.ndarray:
    """The boxes that lie inside their chips, in the pixels of the scene."""
    found = []
    for plan in (*data.train.plans, *data.valid.plans, *data.left_out.plans):
        boxes = plan.boxes.shift(plan.window.x, plan.window.y)
        x1, y1, x2, y2 = plan.window.xyxy
        inside = (boxes.bounds >= (x1, y1, x1, y1)) & (boxes.bounds <= (x2, y2, x2, y2))
        found.append(shapes(boxes[inside.all(axis=1)]))
    return np.concatenate(found)


# Cutting


def test_a_rectangle_inside_a_window_is_its_own_box() -> None:
    (boxes,) = cut(POLYGONS, np.arange(6), [Window(0, 0, 224, 160)], Cutting(min_visible=0.3, oriented=True))
    assert boxes.oriented
    assert_same(shapes(boxes), POLYGONS, 1e-9)
    order = np.argsort(boxes.labels)
    assert boxes.sizes[order][0] == pytest.approx([30, 10])
    assert np.degrees(boxes.angles[order][[0, 1, 2, 4]]) == pytest.approx([35, -60, 10, 85])


def test_of_an_object_across_an_edge_the_box_is_that_of_the_visible_part() -> None:
    diamond = shapely.Polygon([(20, 0), (40, 20), (20, 40), (0, 20)])  # a square of side 20 sqrt(2) on its corner
    (left, right) = cut(
        np.array([diamond]),
        np.array([0]),
        [Window(0, 0, 20, 64), Window(20, 0, 64, 64)],
        Cutting(min_visible=0.5, oriented=True),
    )
    # Half a diamond is a right triangle: with legs of 20 sqrt(2), or with a base of 40 and a height of 20.
    assert left.sizes[0].prod() == right.sizes[0].prod() == pytest.approx(800)
    (less,) = cut(np.array([diamond]), np.array([0]), [Window(0, 0, 19, 64)], Cutting(min_visible=0.5, oriented=True))
    assert not len(less)
    assert less.oriented


@given(st.data())
@settings(max_examples=60)
def test_every_box_is_the_smallest_rectangle_around_its_part(data: st.DataObject) -> None:
    number = st.floats(-10, 74, width=32)
    points = data.draw(st.lists(st.lists(st.tuples(number, number), min_size=3, max_size=7), min_size=1, max_size=5))
    polygons = make_valid(np.array([shapely.Polygon(ring) for ring in points], dtype=object))
    polygons = polygons[shapely.area(polygons) > 0]
    window = Window(0, 0, 64, 64)
    (boxes,) = cut(polygons, np.arange(len(polygons)), [window], Cutting(min_visible=0.2, oriented=True))
    assert (boxes.sizes >= MIN_SIDE).all()
    for box, polygon in zip(shapes(boxes), polygons[boxes.labels], strict=True):
        part = polygon.intersection(shapely.box(*window.xyxy))
        assert part.area >= 0.2 * polygon.area
        assert box.buffer(1e-6).covers(part)
        assert box.area == pytest.approx(shapely.oriented_envelope(part).area)


def test_a_thin_object_across_has_no_box_of_two_pixels() -> None:
    thin = np.array([turned(32, 32, 40, 1.5, 45), turned(32, 32, 40, 2.5, 45)])
    (boxes,) = cut(thin, np.arange(2), [Window(0, 0, 64, 64)], Cutting(min_visible=0.3, oriented=True))
    assert boxes.labels.tolist() == [1]


# A raster with labels


def test_boxes_lie_on_their_objects_on_every_grid(scene: PaintedScene) -> None:
    data = gd.prepare_data(
        scene.path, frame(scene), chip_size=64, overlap=16, split="random", boxes="oriented", negatives=0
    )
    assert data.oriented
    assert "oriented" in repr(data)
    assert all(plan.boxes.oriented and plan.objects.oriented for plan in data.plans)
    off = shapely.hausdorff_distance(whole_chips(data)[:, None], POLYGONS[None]).min(axis=1)
    assert len(off) >= 5
    assert off.max() < 1e-4


def test_upright_boxes_have_no_angle(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, frame(upright), chip_size=64, split="random")
    assert not data.oriented
    assert not any(plan.boxes.oriented or plan.objects.oriented for plan in data.plans)
    assert "oriented" not in repr(data)


def test_a_point_is_a_square(scene: PaintedScene) -> None:
    points = frame(scene, shapely.centroid(POLYGONS))
    data = gd.prepare_data(
        scene.path, points, chip_size=96, overlap=32, split="random", boxes="oriented", point_radius_m=4
    )
    boxes = Boxes.concat([plan.boxes for plan in data.plans])
    whole = boxes[(boxes.sizes[:, 1] > 15.9)]  # the others are cut
    assert len(whole)
    assert whole.sizes == pytest.approx(16, abs=0.05)  # 4 m on each side of the point, at 0.5 m a pixel
    assert np.sin(2 * whole.angles) == pytest.approx(0, abs=1e-6)


def test_a_table_anchors_and_a_figure_of_oriented_boxes(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, frame(upright), chip_size=96, overlap=32, split="random", boxes="oriented")
    table = data.describe()
    sides = [np.sqrt(plan.boxes.sizes.prod(axis=1)) for plan in data.plans]
    assert table.loc["all", "median_px"] == pytest.approx(np.median(np.concatenate(sides)))
    assert table.loc["all", "objects"] == sum(map(len, sides))
    assert data.suggest_anchors().recall_after >= data.suggest_anchors().recall_before
    figure = data.show_batch(1)
    drawn = [path.vertices for axis in figure.axes for lines in axis.collections for path in lines.get_paths()]
    slopes = [np.abs(np.diff(ring, axis=0)).min(axis=1).max() for ring in drawn]
    assert max(slopes) > 1  # sides that are neither horizontal nor vertical


def test_another_kind_of_boxes_is_refused(upright: PaintedScene) -> None:
    with pytest.raises(ArgumentError, match=r'"upright" or "oriented"; got \'turned\''):
        gd.prepare_data(upright.path, frame(upright), boxes="turned")


# Folders


@pytest.mark.parametrize(("kind", "folder"), [("dota", "labelTxt"), ("yolo_obb", "labels")])
def test_a_folder_that_we_wrote_gives_the_same_oriented_chips(
    scene: PaintedScene, tmp_path: Path, kind: str, folder: str
) -> None:
    options = {"chip_size": 64, "overlap": 16}
    made = gd.export_training_data(scene.path, frame(scene), tmp_path / "out", metadata_format=kind, **options)
    assert len(list((made / folder).glob("*.txt"))) == len(list((made / "images").glob("*.tif")))
    written = gd.prepare_data(scene.path, frame(scene), split="random", boxes="oriented", negatives=0, **options)
    for dataset_type in (None, kind):
        read = gd.prepare_data(made, split="random", boxes="oriented", dataset_type=dataset_type)
        assert sorted(read.classes) == sorted(written.classes)
        boxes = [
            np.concatenate([shapes(plan.boxes) for plan in (*data.plans, *data.left_out.plans)])
            for data in (read, written)
        ]
        assert_same(*boxes, within=0.01)


def test_the_map_of_chips_shows_turned_rectangles(upright: PaintedScene, tmp_path: Path) -> None:
    made = gd.export_training_data(
        upright.path, frame(upright), tmp_path / "out", metadata_format="dota", chip_size=224
    )
    shown = gpd.read_file(made / "chips.geojson").to_crs(upright.grid.crs)
    labels = shown[shown["kind"] == "label"].geometry
    assert_same(shapely.transform(labels.to_numpy(), upright.grid.to_pixel), POLYGONS, 0.02)


def picture(path: Path, side: int = 100) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_raster(path, np.full((3, side, side), 99, np.uint8))


def put(root: Path, texts: dict[str, str], names: Iterable[str] = "ab") -> Path:
    """A folder of images of 100 px with label files."""
    for name in names:
        picture(root / "images" / f"{name}.tif")
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def line(polygon: shapely.Polygon, after: str) -> str:
    """A line of DOTA."""
    corners = shapely.get_coordinates(polygon)[:4].ravel()
    return f"{' '.join(f'{value:.4f}' for value in corners)} {after}\n"


ONE, TWO, THREE = turned(30, 30, 30, 8, 30), turned(60, 70, 20, 9, -20), turned(80, 20, 12, 6, 70)
HEADER = "imagesource:GoogleEarth\ngsd:0.146343590398\n"


def test_dota_with_headers_difficulty_and_images_without_an_object(tmp_path: Path) -> None:
    texts = {
        "labelTxt/a.txt": HEADER + line(ONE, "small-vehicle 0") + line(TWO, "ship 1") + line(THREE, "ship 2"),
        "labelTxt/b.txt": HEADER,
        "labelTxt/c.txt": line(THREE, "7 0"),
    }
    data = gd.prepare_data(put(tmp_path, texts, "abc"), split="random", boxes="oriented", negatives=9)
    assert data.classes == ["7", "ship", "small-vehicle"]
    assert len(data.plans) == 3
    found = np.concatenate([shapes(plan.boxes) for plan in data.plans])
    assert_same(found, np.array([ONE, TWO, THREE]), 0.001)
    assert "difficult objects, which scores ignore: 1" in data.report
    assert "objects of difficulty 2, which DOTA's splitter has cut, left out: 1" in data.report


@pytest.mark.parametrize("boxes", ["upright", "oriented"])
def test_difficult_objects_of_dota_are_labels_that_scores_ignore(tmp_path: Path, boxes: str) -> None:
    texts = {"labelTxt/a.txt": line(ONE, "car 0") + line(TWO, "car 1.0"), "labelTxt/b.txt": line(THREE, "car 0")}
    data = gd.prepare_data(put(tmp_path, texts), split="random", boxes=boxes)
    plans = {Path(plan.reader.grid.name).name: plan for plan in data.plans}
    of_a = plans["a.tif"]
    for found in (of_a.boxes, of_a.objects):
        number = [int(shapely.distance(shapely.points(centre), TWO.centroid) < 1) for centre in found.centres]
        assert len(found) == 2
        assert found.ignored.tolist() == [bool(each) for each in number]
    assert plans["b.tif"].boxes.counted.all()
    seen = [Boxes(of_a.boxes.xyxy, of_a.boxes.labels, [0.9, 0.8], of_a.boxes.angles)]
    hits = Hits.of(seen, [of_a.boxes], 1)
    assert (hits.n_truth.tolist(), hits.hits.tolist()) == ([1], [True])


REAL_DOTA = {  # folders as the data set is unpacked, and what their labels are called here
    "train/labelTxt-v1.0/labelTxt": ("ship", ONE),
    "train/labelTxt-v1.0/Train_Task2_gt/trainset_reclabelTxt": ("ship", shapely.box(*ONE.bounds)),
    "train/labelTxt-v1.5/DOTA-v1.5_train": ("crane", TWO),
    "train/labelTxt-v1.5/DOTA-v1.5_train_hbb": ("crane", shapely.box(*TWO.bounds)),
}


def unpack(root: Path, folders: Iterable[str]) -> Path:
    for name in "ab":
        picture(root / "train/images" / f"{name}.tif")
    for folder in folders:
        (root / folder).mkdir(parents=True)
        name, outline = REAL_DOTA[folder]
        for image in "ab":
            (root / folder / f"{image}.txt").write_text(HEADER + line(outline, f"{name} 0"))
    return root


@pytest.mark.parametrize("first", [0, 2])
def test_horizontal_boxes_of_dota_are_not_read_beside_oriented_ones(tmp_path: Path, first: int) -> None:
    folders = list(REAL_DOTA)[first : first + 2]
    data = gd.prepare_data(unpack(tmp_path, folders), split="random", boxes="oriented")
    outline = REAL_DOTA[folders[0]][1]
    assert_same(np.concatenate([shapes(plan.boxes) for plan in data.plans]), np.array([outline, outline]), 0.001)
    assert "without their image" not in data.report


def test_horizontal_boxes_of_dota_are_read_alone(tmp_path: Path) -> None:
    data = gd.prepare_data(unpack(tmp_path, list(REAL_DOTA)[1:2]), split="random")
    assert data.classes == ["ship"]


def test_two_versions_of_dota_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"labelTxt-v1\.[05].*a\.txt and .*labelTxt-v1\.[05].*differ.*move one"):
        gd.prepare_data(unpack(tmp_path, REAL_DOTA), split="random", boxes="oriented")


def test_copies_of_the_labels_of_dota_are_one(tmp_path: Path) -> None:
    text = line(ONE, "car 0")
    texts = {f"{folder}/{name}.txt": text for folder in ("labelTxt", "labelTxt-copy") for name in "ab"}
    texts |= {f"meta/{name}.txt": HEADER for name in "ab"}
    data = gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented")
    assert sum(len(plan.boxes) for plan in data.plans) == 2


def test_of_dota_upright_boxes_are_the_bounds(tmp_path: Path) -> None:
    texts = {"labelTxt/a.txt": line(ONE, "car 0"), "labelTxt/b.txt": line(TWO, "car 0")}
    data = gd.prepare_data(put(tmp_path, texts), split="random")
    found = np.concatenate([plan.boxes.xyxy for plan in data.plans])
    assert sorted(map(tuple, found.round(3))) == sorted(tuple(np.round(each.bounds, 3)) for each in (ONE, TWO))


def test_corners_in_the_wrong_order_are_those_of_the_same_rectangle(tmp_path: Path) -> None:
    corners = shapely.get_coordinates(ONE)[[0, 2, 1, 3]]
    swapped = " ".join(f"{value:.4f}" for value in corners.ravel())
    texts = {"labelTxt/a.txt": f"{swapped} car 0\n", "labelTxt/b.txt": line(TWO, "car 0")}
    data = gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented")
    assert_same(np.concatenate([shapes(plan.boxes) for plan in data.plans]), np.array([ONE, TWO]), 0.001)


def test_a_rectangle_that_reaches_beyond_its_image_stays_whole_and_large_images_are_cut(tmp_path: Path) -> None:
    beyond = turned(95, 50, 20, 8, 30)
    texts = {"labelTxt/a.txt": line(beyond, "car 0"), "labelTxt/b.txt": line(TWO, "car 0")}
    whole = gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented")
    assert_same(np.concatenate([shapes(plan.boxes) for plan in whole.plans]), np.array([beyond, TWO]), 0.001)
    parts = gd.prepare_data(tmp_path, split="random", boxes="oriented", chip_size=60)
    for plan in parts.plans:
        for box in shapes(plan.boxes.shift(plan.window.x, plan.window.y)):
            own = [each for each in (beyond, TWO) if each.intersects(box)]
            assert own[0].buffer(0.01).covers(box.intersection(own[0]))


def shares(polygon: shapely.Polygon, size: float = 100) -> str:
    return " ".join(f"{value:.6f}" for value in (shapely.get_coordinates(polygon)[:4] / size).ravel())


def test_yolo_with_corners_and_with_outlines(tmp_path: Path) -> None:
    outline = shapely.get_coordinates(shapely.segmentize(TWO, 9))[:-1] / 100
    texts = {
        "labels/a.txt": f"0 {shares(ONE)}\n0 {shares(THREE)} 0.93\n",
        "labels/b.txt": f"1 {' '.join(f'{value:.6f}' for value in outline.ravel())}\n",
        "data.yaml": "names: [car, ship]\n",
    }
    data = gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented")
    assert data.classes == ["car", "ship"]
    assert "bounds" not in data.report
    assert "whose bounds are taken: 3" in gd.prepare_data(tmp_path, split="random").report
    assert_same(np.concatenate([shapes(plan.boxes) for plan in data.plans]), np.array([ONE, TWO, THREE]), 0.001)


def coco(*outlines: object) -> str:
    """COCO with an object in each of the images a, b."""
    images = [{"id": i, "file_name": f"{'ab'[i]}.tif", "width": 100, "height": 100} for i in range(2)]
    annotations = [
        {"id": i, "image_id": i % 2, "category_id": 1, "bbox": [1, 2, 30, 40], "segmentation": outline}
        for i, outline in enumerate(outlines)
    ]
    return json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "car"}]})


def ring(polygon: shapely.Polygon) -> list[float]:
    return [float(value) for value in shapely.get_coordinates(polygon)[:-1].ravel()]


def test_polygons_of_coco_give_their_smallest_rectangles(tmp_path: Path) -> None:
    house = shapely.Polygon([(10, 10), (50, 20), (45, 40), (20, 60), (5, 40)])
    split = [ring(shapely.box(60, 60, 70, 66)), ring(shapely.box(74, 60, 90, 66))]  # one object under a bridge
    data = gd.prepare_data(put(tmp_path, {"labels.json": coco([ring(house)], split)}), split="random", boxes="oriented")
    boxes = np.concatenate([shapes(plan.boxes) for plan in data.plans])
    expected = np.array([shapely.oriented_envelope(house), shapely.box(60, 60, 90, 66)])
    assert_same(boxes, expected, 1e-9)
    pairs = np.reshape(ring(house), (-1, 2)).tolist()  # as some tools write a ring
    put(tmp_path, {"labels.json": coco(pairs, split)}, "")
    again = gd.prepare_data(tmp_path, split="random", boxes="oriented")
    assert_same(np.concatenate([shapes(plan.boxes) for plan in again.plans]), expected, 1e-9)


def as_counts(mask: np.ndarray) -> list[int]:
    """The runs of a mask down its columns, the first outside."""
    flat = np.concatenate([[0], mask.T.ravel(), [0]]).astype(int)
    bounds = np.flatnonzero(np.diff(flat))
    counts = np.diff(np.concatenate([[0], bounds, [mask.size]])).tolist()
    return counts[:-1] if counts[-1] == 0 else counts


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("packed", [True, False])
def test_masks_of_coco_give_the_smallest_rectangles_of_their_pixels(tmp_path: Path, seed: int, packed: bool) -> None:
    rng = np.random.default_rng(seed)
    polygon = turned(*rng.uniform(20, 80, 2), *rng.uniform(8, 60, 2), rng.uniform(0, 180))
    if seed == 0:  # whole columns, as far as the edges
        polygon = shapely.box(20, -10, 60, 110).union(shapely.box(60, 0, 100, 30))
    mask = paint(polygon, 100).numpy()
    pixels = [shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(mask)]
    counts = (
        mask_tools.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"].decode() if packed else as_counts(mask)
    )
    outline = {"size": [100, 100], "counts": counts}
    data = gd.prepare_data(put(tmp_path, {"labels.json": coco([ring(ONE)], outline)}), split="random", boxes="oriented")
    found = np.concatenate([shapes(plan.boxes) for plan in data.plans])
    expected = shapely.oriented_envelope(shapely.union_all(pixels))
    assert max(shapely.area(shapely.intersection(found, expected))) == pytest.approx(expected.area)
    areas = shapely.area(found)
    assert abs(areas - expected.area).min() < 1e-6


def test_an_object_of_coco_that_only_has_a_mask_has_its_bounds(tmp_path: Path) -> None:
    content = json.loads(coco([ring(ONE)], {"size": [100, 100], "counts": [1020, 10, 90, 10, 8870]}))
    del content["annotations"][1]["bbox"]
    data = gd.prepare_data(put(tmp_path, {"labels.json": json.dumps(content)}), split="random")
    boxes = [plan.boxes.xyxy.tolist() for plan in data.plans]
    assert [[10, 20, 12, 30]] in boxes
    assert "without a box" not in data.report


FLAT = shapely.LineString([(10, 10), (60, 40), (60, 40), (10, 10)])


@pytest.mark.parametrize(
    ("texts", "dataset_type", "told"),
    [
        ({"labelTxt/a.txt": "1 2 30 4 30 20 1 car 0\n"}, "dota", r"line 1 of .*a\.txt is not DOTA: expected 8 .*got 7"),
        (
            {"labelTxt/a.txt": HEADER + line(ONE, "car 0") + "1 2 30 4 30 20 1 car 0\n"},
            None,
            r"line 4 of .*a\.txt is not DOTA: expected 8 numbers.*got 7 numbers",
        ),
        ({"labelTxt/a.txt": line(ONE, "car 0") + "1 2 3 4 5 6 7 8\n"}, None, r"line 2 of .*is not DOTA.*got 8"),
        ({"labelTxt/a.txt": line(ONE, "car 0") + "10 10 40 10 40 20 10 3 0\n"}, None, r"line 2 of .*is not DOTA"),
        ({"labelTxt/a.txt": line(ONE, "car 0") + "1 2 3 4 5 6 7 8 9 car 0\n"}, None, r"line 2 of .*got 9 numbers"),
        (
            {"labelTxt/a.txt": line(ONE, "car 0"), "labelTxt/b.txt": "0 .5 .5 .1 .1\n"},
            None,
            r"b\.txt is not DOTA.*got 5",
        ),
        ({"labels/a.txt": f"0 {shares(ONE)}\n0 .1 .1 .2 .1 .2 .2 .1\n"}, "yolo_obb", r"line 2 of .*8 numbers.*got 7"),
        ({"labels/a.txt": f"0 {shares(ONE)}\n0 .5 .5 .1 .1\n"}, "yolo_obb", r"line 2 of .*not YOLO-OBB.*got 4"),
        ({"labels/a.txt": f"0 {shares(ONE)}\n0 .1 .1 .2 .1 .2 .2 .1\n"}, None, r"1 of 2 objects .*first in .*a\.txt"),
        (
            {"labels/a.txt": f"0 {shares(ONE)}\n", "labels/b.txt": "0 .5 .5 .1 .1\n0 .2 .2 .1 .1\n"},
            None,
            r'boxes="oriented" needs the outline.*2 of 3 objects.*first in .*b\.txt',
        ),
        ({"labels.json": coco([ring(ONE)], [])}, None, "1 of 2 objects"),
        ({"labels.json": coco([ring(ONE)], [[]])}, None, "1 of 2 objects"),
        ({"labels.json": coco([ring(ONE)], {"size": [100, 100], "counts": [9]})}, None, "sum up to its 100 x 100 px"),
        ({"labels.json": coco([ring(ONE)], {"size": [9, 9], "counts": [80]})}, None, "sum up to its 9 x 9 px"),
        ({"labels.json": coco([ring(ONE)], {"size": [9, 9], "counts": "0 1"})}, None, "a mask hold ' '"),
        ({"labels.json": coco([ring(ONE)], {"counts": "01"})}, None, "no mask: 'size'"),
        ({"labels.json": coco([ring(ONE)], [ring(TWO)[:7]])}, None, r"b\.tif is not made of pairs.*labels\.json"),
        (
            {"labels.json": coco([ring(ONE)], [[0, 0, 1, float("nan"), 9, 9]])},
            None,
            r"b\.tif is not made .* not finite",
        ),
        ({"labelTxt/a.txt": line(FLAT, "car 0")}, None, "boxes without an area: 1"),
        ({"labels/a.txt": f"0 {shares(FLAT)}\n"}, None, "boxes without an area: 1"),
        ({"labels.json": coco([ring(FLAT)])}, None, "boxes without an area: 1"),
        ({"labels.json": coco({"size": [9, 9], "counts": [81]})}, None, "boxes without an area: 1"),
    ],
)
def test_bad_labels_are_told_in_one_sentence(
    tmp_path: Path, texts: dict[str, str], dataset_type: str | None, told: str
) -> None:
    with pytest.raises(LabelsError, match=told):
        gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented", dataset_type=dataset_type)


def test_labels_that_are_bounds_are_told_as_no_angle_can_be_learnt(upright: PaintedScene, tmp_path: Path) -> None:
    outlines = frame(upright)
    made = gd.export_training_data(upright.path, outlines, tmp_path / "chips", metadata_format="coco", chip_size=112)
    for source, labels in ((upright.path, outlines.set_geometry(outlines.envelope)), (made, None)):
        with pytest.warns(UserWarning, match=r'all \d+ boxes lie along the rows.*outlines.*boxes="upright"'):
            gd.prepare_data(source, labels, split="random", boxes="oriented", chip_size=112)


def test_yolo_of_an_object_across_its_image_is_one_that_ultralytics_reads(
    upright: PaintedScene, tmp_path: Path
) -> None:
    """It leaves out images with a box whose width or height is above 1.01."""
    labels = frame(upright, [turned(56, 56, 400, 8, 40), turned(30, 90, 20, 8, 20)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of chips too few for a split by blocks
        made = gd.export_training_data(
            upright.path, labels, tmp_path / "out", metadata_format="yolo_obb", chip_size=112
        )
    lines = [line.split() for line in (made / "labels/000000000.txt").read_text().splitlines()]
    corners = np.array([line[1:] for line in lines], float).reshape(-1, 4, 2)
    assert len(corners) == 2
    assert np.ptp(corners, axis=1).max() == pytest.approx(1, abs=2e-6)
    rings = sorted(shapely.polygons(corners * 112), key=shapely.area)
    assert shapely.hausdorff_distance(rings[0], turned(30, 90, 20, 8, 20)) < 0.01
    assert np.degrees(oriented_envelope(np.array(rings[1:]), [0]).angles[0]) == pytest.approx(40, abs=0.1)
    assert shapely.distance(rings[1].centroid, shapely.Point(56, 56)) < 1


def test_zero_areas_among_others_are_counted(tmp_path: Path) -> None:
    texts = {"labelTxt/a.txt": line(ONE, "car 0") + line(FLAT, "car 0"), "labelTxt/b.txt": line(TWO, "car 0")}
    data = gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented")
    assert "boxes without an area: 1" in data.report
    assert sum(len(plan.boxes) for plan in data.plans) == 2


def test_dota_beside_yolo_of_the_same_images_is_read_and_told(tmp_path: Path) -> None:
    texts = {
        "labelTxt/a.txt": line(ONE, "car 0"),
        "labelTxt/b.txt": line(TWO, "car 0"),
        "labels/a.txt": "0 .5 .5 .1 .1\n",
        "labels/b.txt": "0 .5 .5 .1 .1\n",
    }
    data = gd.prepare_data(put(tmp_path, texts), split="random", boxes="oriented")
    assert data.classes == ["car"]
    assert "read as dota; there is dataset_type='yolo' too" in data.report
    assert gd.prepare_data(tmp_path, split="random", dataset_type="yolo").classes == ["0"]


# Batches


def paint(polygon: shapely.Polygon, side: int) -> torch.Tensor:
    x, y = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5)
    return torch.from_numpy(shapely.contains_xy(polygon, x, y)).float()


def batch_of(boxes: Boxes, images: torch.Tensor) -> Batch:
    rows = np.column_stack([boxes.xyxy, boxes.angles]).astype(np.float32)
    return Batch(images, torch.from_numpy(rows)[None], torch.from_numpy(boxes.labels)[None])


def boxes_of(batch: Batch, index: int = 0) -> Boxes:
    kept = batch.labels[index] >= 0
    rows = batch.boxes[index][kept].double().numpy()
    return Boxes(rows[:, :4], batch.labels[index][kept].numpy(), angles=rows[:, 4])


def test_eight_symmetries_of_a_chip_give_eight_symmetries_of_its_boxes() -> None:
    side = 64
    shape = turned(24, 40, 40, 12, 33)
    whole = batch_of(oriented_envelope(np.array([shape]), [0]), paint(shape, side)[None, None])
    seen = set()
    for number in range(8):
        moved = apply_symmetry(whole, number)
        (box,) = shapes(boxes_of(moved))
        assert (paint(box, side) == moved.images[0, 0]).float().mean() > 0.999
        assert (moved.boxes[..., 2] - moved.boxes[..., 0] > moved.boxes[..., 3] - moved.boxes[..., 1]).all()
        assert ((moved.boxes[..., 4] >= -np.pi / 2 - 1e-6) & (moved.boxes[..., 4] < np.pi / 2)).all()
        seen.add(tuple(np.round(moved.boxes[0, 0].tolist(), 3)))
    assert len(seen) == 8


@given(st.floats(5, 60), st.floats(5, 60), st.floats(3, 40), st.floats(3, 40), st.floats(-2, 2), st.integers(0, 7))
def test_a_symmetry_moves_corners_as_it_moves_points(
    x: float, y: float, length: float, width: float, angle: float, number: int
) -> None:
    half = np.array([length, width]) / 2
    boxes = Boxes([[x - half[0], y - half[1], x + half[0], y + half[1]]], [0], angles=[angle])
    corners = boxes.corners[0]
    if number & 1:
        corners = np.column_stack([64 - corners[:, 0], corners[:, 1]])
    if number & 2:
        corners = np.column_stack([corners[:, 0], 48 - corners[:, 1]])
    if number & 4:
        corners = corners[:, ::-1]
    moved = boxes_of(apply_symmetry(batch_of(boxes, torch.zeros(1, 1, 48, 64)), number))
    assert_same(shapes(moved), np.array([shapely.Polygon(corners)]), 1e-3)


def test_zoom_cuts_boxes_as_chips_do_and_pads_what_is_hardly_visible() -> None:
    side = 64
    polygons = np.array([turned(20, 24, 30, 10, 35), turned(60, 30, 30, 8, -70), turned(40, 54, 18, 6, 5)])
    images = paint(shapely.union_all(polygons), side).repeat(24, 1, 1, 1)
    boxes = oriented_envelope(polygons, np.arange(3))
    one = batch_of(boxes, images)
    batch = Batch(images, one.boxes.repeat(24, 1, 1), one.labels.repeat(24, 1))
    generator = torch.Generator().manual_seed(1)
    moved = random_symmetry(random_zoom(batch, generator), generator)
    assert (moved.labels == -1).any()
    for i in range(24):
        found = boxes_of(moved, i)
        assert (found.sizes >= MIN_SIDE - 1e-3).all()
        seen = torch.stack([paint(shape, side) for shape in shapes(found)]).amax(dim=0) if len(found) else 0
        bright = moved.images[i, 0] > 0.5
        # Boxes are full of what they were drawn round, but where cutting left less than a rectangle.
        assert (bright & (seen > 0)).sum() >= 0.8 * torch.as_tensor(seen).sum()


def test_batches_have_five_numbers_a_box_and_upright_ones_four(upright: PaintedScene) -> None:
    for boxes, n_numbers in (("oriented", 5), ("upright", 4)):
        data = gd.prepare_data(
            upright.path, frame(upright), chip_size=96, overlap=32, split="random", boxes=boxes, batch_size=2
        )
        for loader in make_loaders(data, data.normalization):
            for _, padded, labels in loader:
                assert padded.shape == (*labels.shape, n_numbers)
                assert padded.dtype == torch.float32


# Command line


def test_boxes_on_the_command_line(upright: PaintedScene, tmp_path: Path) -> None:
    labels = tmp_path / "labels.gpkg"
    frame(upright).to_file(labels)
    run = CliRunner().invoke(
        main,
        [
            "chips",
            str(upright.path),
            str(labels),
            str(tmp_path / "out"),
            "--metadata-format",
            "dota",
            "--chip-size",
            "64",
        ],
    )
    assert run.exit_code == 0, run.output
    assert "car" in run.output
    shown = CliRunner().invoke(main, ["train", "--help"])
    assert "--boxes [upright|oriented]" in shown.output

"""Oriented detections on the map: their polygons and angles, in files, journals, comparisons and pages."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass, replace

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from pyproj import CRS, Geod

from geodetect import compute_accuracy, detect_objects, show, view
from geodetect.boxes import Boxes, nms
from geodetect.errors import GeodetectError, ModelError
from geodetect.grid import Grid
from geodetect.raster import mostly_valid, mostly_valid_in
from geodetect.scene.edges import Parts
from geodetect.scene.features import features_of
from geodetect.scene.journal import Journal, read_settings
from geodetect.scene.ranking import Ranking
from geodetect.scene.scan import Strip
from tests.fakes import CLASSES, ROTATED, SOUTH_UP, UPRIGHT, UTM, FakeReader, PaintDetector, painted, write_raster

SHAPE = (300, 420)
# At 60 N, where a degree of longitude is half as long as one of latitude: no pixel is square on the ground.
IN_DEGREES = Affine(5e-6, 0, 25, 0, -5e-6, 60)
GRIDS = {
    "upright": Grid(SHAPE, UPRIGHT, UTM),
    "rotated": Grid(SHAPE, ROTATED, UTM),
    "south up": Grid(SHAPE, SOUTH_UP, UTM),
    "in degrees": Grid(SHAPE, IN_DEGREES, CRS.from_epsg(4326)),
}
# Length, width, angle in degrees from +x towards +y (down), in pixels; across the seams of windows of 128 px as well.
TRUTH = Boxes(
    [
        [40, 50, 100, 70],
        [90, 90, 150, 114],
        [200, 40, 256, 60],
        [300, 200, 380, 220],
        [40, 200, 100, 224],
        [220, 170, 260, 190],
    ],
    [0, 1, 0, 1, 0, 1],
    angles=np.deg2rad([30, -50, 75, 10, -15, -85]),
)
DETECTOR = PaintDetector(chip_size=128, overlap=84, oriented=True)  # the longest reaches over 83 px
OUTPUTS = [".gpkg", ".geojson", ".shp", ".fgb", ".parquet", ".kml", ".csv"]


def find(raster, model=DETECTOR, output=None, **keywords):
    return detect_objects(raster, model, output, **{"progress": False, **keywords})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("turned")
    return {name: write_raster(folder / f"{name}.tif", painted(SHAPE, TRUTH), grid) for name, grid in GRIDS.items()}


@pytest.fixture(scope="module")
def upright(scenes):
    return scenes["upright"]


@pytest.fixture(scope="module")
def found(upright):
    return find(upright)


@pytest.fixture(scope="module")
def files(upright, tmp_path_factory):
    """What one run writes, by suffix."""
    folder = tmp_path_factory.mktemp("files")
    return {path.suffix: path for path in find(upright, output=[folder / f"as_{s[1:]}{s}" for s in OUTPUTS])}


def bearing(grid, box):
    """Direction of the longer side on the map from its two ends, by hand on a plane and geodesic in degrees."""
    corners = grid.to_map(box.corners[0])
    middles = (corners + np.roll(corners, -1, axis=0)) / 2  # of the four sides
    ends = [(middles[0], middles[2]), (middles[1], middles[3])]
    if grid.crs.is_geographic:
        lines = [Geod(ellps="WGS84").inv(*start, *end) for start, end in ends]
        return max((length, azimuth % 180) for azimuth, _, length in lines)[1]
    steps = [end - start for start, end in ends]
    return max((np.hypot(*step), np.rad2deg(np.arctan2(*step)) % 180) for step in steps)[1]


def off(a, b):
    """How far two directions are apart, in degrees."""
    return np.abs((np.asarray(a) - b + 90) % 180 - 90)


@pytest.mark.parametrize("name", GRIDS)
def test_a_painted_rectangle_comes_back_where_it_was_and_as_it_was_turned(scenes, name, tmp_path):
    grid = GRIDS[name]
    path = find(scenes[name], output=tmp_path / "found.gpkg")
    found = gpd.read_file(path)
    assert list(found.columns) == ["label", "score", "angle_deg", "geometry"]
    assert len(found) == len(TRUTH)
    assert found.exterior.is_ccw.all()
    assert ((found["angle_deg"] >= 0) & (found["angle_deg"] < 180)).all()
    for k in range(len(TRUTH)):
        true = shapely.Polygon(grid.to_map(TRUTH.corners[k]))
        row = found.iloc[np.argmin(shapely.distance(found.geometry.to_numpy(), true.centroid))]
        corners = grid.to_pixel(shapely.get_coordinates(row.geometry)[:4])
        far = np.hypot(*np.moveaxis(corners[:, None] - TRUTH.corners[k], -1, 0)).min(axis=0)
        assert far.max() < 1  # px
        assert off(row["angle_deg"], bearing(grid, TRUTH[[k]])) < 0.5
        assert row["label"] == CLASSES[TRUTH.labels[k]]


@pytest.mark.parametrize("name", GRIDS)
@given(st.floats(-90, 90), st.floats(4, 80), st.floats(2, 60))
@settings(max_examples=40)
def test_angles_are_those_of_the_longer_side_on_the_map(name, angle, length, width):
    grid = GRIDS[name]
    box = Boxes(
        [[200 - length / 2, 150 - width / 2, 200 + length / 2, 150 + width / 2]], [0], [0.9], [np.deg2rad(angle)]
    )
    sides = np.hypot(*np.moveaxis((box.corners[0, [1, 3]] - box.corners[0, 0]) * grid.pixel_sides_m, -1, 0))
    if max(sides) > 1.01 * min(sides):  # a square has two
        found = features_of(box, grid, CLASSES)
        assert off(found["angle_deg"][0], bearing(grid, box)) < 0.01


def test_directions_worked_by_hand():
    # 10 x 4 px, turned from +x towards +y, which points down: 30 degrees below east are 120 from north.
    box = Boxes([[40, 43, 50, 47]], [0], [0.9], [np.deg2rad(30)])
    plane = Grid(SHAPE, UPRIGHT, UTM)
    assert features_of(box, plane, CLASSES)["angle_deg"][0] == pytest.approx(120)
    assert features_of(box, replace(plane, transform=SOUTH_UP), CLASSES)["angle_deg"][0] == pytest.approx(60)
    # The grid is turned by 20 degrees counter-clockwise on the map, and all that lies on it.
    assert features_of(box, replace(plane, transform=ROTATED), CLASSES)["angle_deg"][0] == pytest.approx(100)
    assert features_of(box, Grid(SHAPE), CLASSES)["angle_deg"][0] == pytest.approx(120)  # pixels: up is north
    # At 60 N, 1 px east are 0.5 px north: atan(cos 30 / 2 / sin 30) = 40.9 degrees from south, 139.1 from north.
    in_degrees = features_of(box, GRIDS["in degrees"], CLASSES)["angle_deg"][0]
    assert in_degrees == pytest.approx(139.1, abs=0.2)
    north = Boxes([[40, 43, 50, 47]], [0], [0.9], [-np.pi / 2])
    assert features_of(north, plane, CLASSES)["angle_deg"][0] == pytest.approx(0)


def test_upright_detections_have_no_angle(upright, found):
    boxes = find(upright, PaintDetector(chip_size=128))
    assert "angle_deg" not in boxes.columns
    assert "oriented" not in boxes.attrs
    assert found.attrs["oriented"] is True


@dataclass(frozen=True)
class Nothing(PaintDetector):
    """Finds nothing, and says so in boxes of either kind."""

    angles: bool = False

    def detect(self, pixels):
        return [Boxes.empty(scored=True, oriented=self.angles)] * len(pixels)


@pytest.mark.parametrize("angles", [False, True])
@pytest.mark.parametrize("oriented", [False, True])
def test_no_detections_have_the_columns_of_their_kind(upright, tmp_path, angles, oriented):
    model = Nothing(chip_size=128, oriented=oriented, angles=angles)
    columns = ["label", "score", *(["angle_deg"] if oriented else []), "geometry"]
    assert list(find(upright, model).columns) == columns
    assert list(gpd.read_file(find(upright, model, tmp_path / "none.gpkg")).columns) == columns


@dataclass(frozen=True)
class Unlike(PaintDetector):
    """Gives boxes of the other kind than it says."""

    def detect(self, pixels):
        return replace(DETECTOR, chip_size=self.chip_size, oriented=not self.oriented).detect(pixels)


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize(
    ("oriented", "facts"), [(True, "Unlike says oriented = True"), (False, "Unlike does not say oriented = True")]
)
def test_boxes_of_the_other_kind_are_refused(upright, oriented, facts, tta):
    with pytest.raises(ModelError, match=facts):
        find(upright, Unlike(chip_size=128, oriented=oriented), tta=tta)


def test_oriented_is_yes_or_no(upright):
    with pytest.raises(ModelError, match="oriented of this PaintDetector must be True or False; got 'yes'"):
        find(upright, replace(DETECTOR, oriented="yes"))


def test_all_eight_symmetries_find_the_same(upright, found):
    eight = find(upright, tta=True)
    assert len(eight) == len(TRUTH)
    for polygon in found.geometry:
        assert (eight.intersection(polygon).area / eight.union(polygon).area).max() > 0.99


def test_objects_longer_than_the_overlap_are_joined(tmp_path):
    long = Boxes([[40, 130, 380, 150], [60, 30, 200, 46]], [0, 1], angles=np.deg2rad([25, -8]))
    path = write_raster(tmp_path / "long.tif", painted(SHAPE, long), GRIDS["upright"])
    found = find(path, replace(DETECTOR, overlap=48))
    assert sorted(found["label"]) == ["blue", "red"]
    for k, name in enumerate(["red", "blue"]):
        row = found[found["label"] == name].iloc[0]
        true = shapely.Polygon(GRIDS["upright"].to_map(long.corners[k]))
        assert row.geometry.intersection(true).area / row.geometry.union(true).area > 0.85
        assert off(row["angle_deg"], bearing(GRIDS["upright"], long[[k]])) < 2


# Mask and area


def test_a_turned_box_is_judged_by_the_pixels_inside_it():
    # 40 x 4 px along the diagonal: its bounds are mostly elsewhere.
    box = Boxes([[30, 48, 70, 52]], [0], [0.9], [np.pi / 4])
    y, x = np.indices((100, 100))
    along = np.abs(y - x) <= 6
    for valid, expected in ((along, True), (~along, False), (np.ones_like(along), True), (x + y > 110, False)):
        reader = FakeReader(painted((100, 100), Boxes.empty()), valid=valid)
        assert mostly_valid(box, valid).tolist() == [expected]
        assert mostly_valid_in(reader, box).tolist() == [expected]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 30), st.integers(1, 30))
def test_a_box_that_is_not_turned_is_judged_as_an_upright_one(x, y, width, height):
    valid = np.random.default_rng(x + 100 * y).random((90, 90)) < 0.5
    box = Boxes([[x, y, x + width, y + height]], [0], [0.9])
    oriented = replace(box, angles=np.zeros(1))
    assert mostly_valid(oriented, valid).tolist() == mostly_valid(box, valid).tolist()


def test_boxes_smaller_than_a_pixel_are_judged_by_the_one_they_lie_in():
    box = Boxes([[4.1, 4.1, 4.3, 4.2]], [0], [0.9], [0.3])
    valid = np.zeros((9, 9), bool)
    assert not mostly_valid(box, valid).any()
    valid[4, 4] = True
    assert mostly_valid(box, valid).all()


def test_boxes_count_in_an_area_by_their_centre(upright):
    grid = GRIDS["upright"]
    inside = shapely.Polygon(grid.to_map(np.array([[0, 0], [75, 0], [75, 300], [0, 300]], float)))
    assert len(find(upright, aoi=inside)) == 2  # centres at x 70; they reach to 97


def test_boxes_centred_outside_the_scene_are_dropped(tmp_path):
    @dataclass(frozen=True)
    class Beyond(PaintDetector):
        def detect(self, pixels):
            boxes = Boxes([[-30, 20, 20, 40], [-20, 60, 30, 80]], [0, 0], [0.9, 0.9], [0.1, 0.1])
            return [boxes] * len(pixels)

    path = write_raster(tmp_path / "small.tif", painted((128, 128), Boxes.empty()), Grid((128, 128), UPRIGHT, UTM))
    found = find(path, Beyond(chip_size=128, oriented=True))
    (centre,) = Grid((128, 128), UPRIGHT).to_pixel(shapely.get_coordinates(found.centroid))
    np.testing.assert_allclose(centre, [5, 70], atol=1e-6)


def test_boxes_that_reach_beyond_files_that_lie_apart_keep_the_seam_exact(tmp_path):
    @dataclass(frozen=True)
    class Beyond(PaintDetector):
        """Finds one object across each edge of every window, and a worse one that overlaps it."""

        def detect(self, pixels):
            side = pixels.shape[-1]
            middle, ends = side / 2, (3, side - 3)
            half = np.array([15, 5])
            places = np.array([*((middle, y) for y in ends), *((x, middle) for x in ends)])
            places = np.concatenate([places, places + 1])
            boxes = np.hstack([places - half, places + half])
            found = Boxes(boxes, np.zeros(8), [0.9] * 4 + [0.8] * 4, np.tile(np.repeat([1.2, 0.3], 2), 2))
            return [found] * len(pixels)

    folder = tmp_path / "apart"
    folder.mkdir()
    pixels, step = painted((64, 64), Boxes.empty()), 2_000  # px
    for k, (x, y) in enumerate([(0, 0), (step, 40), (2 * step, 64), (3 * step, 66), (4 * step, 120)]):
        place = UPRIGHT @ Affine.translation(x, y)
        write_raster(folder / f"{k}.tif", pixels, Grid((64, 64), place, UTM))
    for batch_size in (1, 2):
        found = find(folder, Beyond(chip_size=64, overlap=0, oriented=True), batch_size=batch_size)
        assert found["score"].tolist() == [0.9] * 20


# Sizes


@pytest.mark.parametrize("name", ["upright", "rotated", "south up"])
def test_the_object_itself_is_measured(scenes, name):
    found = find(scenes[name], measure=True)
    assert list(found.columns) == ["label", "score", "angle_deg", "area_m2", "length_m", "width_m", "geometry"]
    np.testing.assert_allclose(found["area_m2"], found.area)
    np.testing.assert_allclose(np.sort(found["length_m"]), np.sort(TRUTH.sizes[:, 0]) / 2, atol=0.3)  # 0.5 m a pixel
    np.testing.assert_allclose(np.sort(found["width_m"]), np.sort(TRUTH.sizes[:, 1]) / 2, atol=0.3)


def test_in_degrees_the_sides_are_measured_along_the_ground():
    grid = GRIDS["in degrees"]
    east, north = grid.pixel_sides_m
    # 20 px east are as long as 10 px north: of 30 x 20 px, the 20 px north are longer.
    box = Boxes([[100, 100, 130, 120]], [0], [0.9], [0.0])
    (row,) = features_of(box, grid, CLASSES, measure=True).itertuples()
    assert (row.length_m, row.width_m) == pytest.approx((20 * north, 30 * east), rel=1e-3)
    assert row.area_m2 == pytest.approx(600 * north * east, rel=1e-3)
    assert off(row.angle_deg, 0) < 1e-3


@pytest.mark.parametrize(
    "transform",
    [
        Affine.translation(10, 60)
        @ Affine.rotation(30)
        @ Affine.scale(1e-5, -1e-5),  # half as wide as high on the ground
        Affine(1e-5, 4e-6, 10, 0, -1e-5, 60),
    ],
)
def test_sides_are_measured_where_rows_and_columns_are_not_at_right_angles(transform):
    boxes = Boxes([[100, 50, 140, 60]] * 3, [0] * 3, [0.9, 0.8, 0.7], [0.6, -0.4, 1.5])
    found = features_of(boxes, Grid((200, 300), transform, CRS.from_epsg(4326)), CLASSES, measure=True)
    geod = Geod(ellps="WGS84")
    for row in found.itertuples():
        xy = shapely.get_coordinates(row.geometry)
        _, _, sides = geod.inv(*xy[:2].T, *xy[1:3].T)
        assert (row.length_m, row.width_m) == pytest.approx((max(sides), min(sides)), rel=1e-4)
        assert row.area_m2 == pytest.approx(abs(geod.geometry_area_perimeter(row.geometry)[0]), rel=1e-4)


# Files and journals


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_every_file_keeps_polygons_and_angles(files, found, suffix):
    path = files[suffix]
    read = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
    if suffix == ".csv":
        read = gpd.GeoDataFrame(read, geometry=shapely.from_wkt(read["WKT"]), crs=UTM)
    read["angle_deg"] = read["angle_deg"].astype(float)
    read, found = (each.sort_values("angle_deg") for each in (read, found))  # FlatGeobuf has an order of its own
    assert read["angle_deg"].tolist() == pytest.approx(found["angle_deg"].tolist(), abs=1e-6)
    again = read.to_crs(UTM).geometry
    for a, b in zip(again, found.geometry, strict=True):
        assert shapely.hausdorff_distance(a, b) < 0.05
    assert compute_accuracy(path if suffix != ".csv" else read, found, match_iou=0.95).table.loc["all", "tp"] == len(
        TRUTH
    )


def some_boxes(n, seed, *, oriented=True):
    draw = np.random.default_rng(seed)
    corners, sides = draw.uniform(0, 900, (n, 2)), draw.uniform(1, 60, (n, 2))
    scores = draw.choice([0.3, 0.5, 0.7, 0.9], n)
    angles = draw.uniform(-4, 4, n) if oriented else None
    return Boxes(np.hstack([corners, corners + sides]), draw.integers(0, 2, n), scores, angles)


def table(boxes):
    return np.column_stack([boxes.xyxy, boxes.labels, boxes.scores, boxes.angles])


@pytest.mark.parametrize(("run_size", "chunk_size"), [(7, 3), (50, 100), (1000, 10)])
def test_a_ranking_keeps_angles_on_disk_and_in_memory(tmp_path, run_size, chunk_size):
    portions = [some_boxes(n, n) for n in (0, 5, 30, 12)]
    every = Boxes.concat(portions)
    for folder in (tmp_path, None):
        ranking = Ranking(folder, run_size=run_size, chunk_size=chunk_size, oriented=True)
        for portion in [Boxes.empty(scored=True), *portions]:
            ranking.add(portion)
        assert np.array_equal(table(ranking.all()), table(every[every.rank()]))
    assert Ranking(oriented=True).all().oriented


def test_a_journal_keeps_angles(tmp_path):
    strip = Strip(0, some_boxes(9, 1), Boxes.empty(scored=True), Parts(some_boxes(3, 2), np.ones((3, 4), bool)), 5)
    nothing = Strip(1, *[Boxes.empty(scored=True)] * 2, Parts.concat([]), 0)
    journal = Journal(tmp_path / "found.journal", {"oriented": True})
    for each in (strip, nothing):
        journal.add(each)
    read, empty = Journal(journal.folder, {"oriented": True}, resume=True).strips()
    assert np.array_equal(table(read.settled), table(strip.settled))
    assert np.array_equal(table(read.parts.boxes), table(strip.parts.boxes))
    assert len(read.held) == len(empty.settled) == 0


def test_a_journal_of_upright_boxes_is_what_it_was_before_there_were_angles(tmp_path):
    boxes = some_boxes(9, 1, oriented=False)
    journal = Journal(tmp_path / "found.journal", {})
    journal.add(Strip(0, boxes, boxes[:2], Parts.concat([]), 5))
    (file,) = journal.folder.glob("strip-*")
    columns = pa.ipc.open_stream(file.read_bytes()).read_all().column_names
    assert columns == ["kind", "x1", "y1", "x2", "y2", "label", "score", "cut"]
    (read,) = journal.strips()
    assert not read.settled.oriented
    assert np.array_equal(read.settled.xyxy, boxes.xyxy)


@dataclass(frozen=True)
class Stops(PaintDetector):
    """Stops after a number of windows."""

    left: tuple[int, ...] = ()  # how many; a list of one number, which counts down

    def detect(self, pixels):
        self.left[0] -= len(pixels)
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return super().detect(pixels)


def test_a_run_that_was_stopped_goes_on_to_the_same(upright, tmp_path):
    whole = gpd.read_file(find(upright, output=tmp_path / "whole.gpkg", batch_size=1))
    stops = Stops(**{**vars(DETECTOR), "left": [15]})
    with pytest.raises(KeyboardInterrupt):
        find(upright, stops, tmp_path / "found.gpkg", batch_size=1)
    assert read_settings(tmp_path / "found.journal")["oriented"] is True
    assert list((tmp_path / "found.journal").glob("strip-*"))
    path = find(
        upright, Stops(**{**vars(DETECTOR), "left": [1000]}), tmp_path / "found.gpkg", batch_size=1, resume=True
    )
    found = gpd.read_file(path)
    assert found["angle_deg"].tolist() == whole["angle_deg"].tolist()
    assert found.geometry.tolist() == whole.geometry.tolist()


def test_an_upright_run_is_not_gone_on_with_by_an_oriented_one(upright, tmp_path):
    stops = Stops(**{**vars(DETECTOR), "oriented": False, "left": [15]})
    with pytest.raises(KeyboardInterrupt):
        find(upright, stops, tmp_path / "found.gpkg", batch_size=1)
    settings = json.loads((tmp_path / "found.journal" / "settings.json").read_text())
    assert "oriented" not in settings
    turned = Stops(**{**vars(DETECTOR), "left": [1000]})
    with pytest.raises(GeodetectError, match="begun with oriented None, not True"):
        find(upright, turned, tmp_path / "found.gpkg", batch_size=1, resume=True)


# Comparison and pages


def frame(boxes, **columns):
    corners = GRIDS["upright"].to_map(boxes.corners.reshape(-1, 2)).reshape(-1, 4, 2)
    columns = {"label": np.array(CLASSES)[boxes.labels], **columns}
    return gpd.GeoDataFrame(columns, geometry=shapely.polygons(corners), crs=UTM)


# The same rectangles turned by a right angle: the envelopes of squarish ones agree, the rectangles themselves do not.
CROSSED = Boxes([[100, 140, 140, 160]], [0], angles=[np.pi / 4])
TRUE = Boxes([[100, 140, 140, 160]], [0], angles=[-np.pi / 4])


def test_oriented_detections_are_compared_by_polygons_unless_told_otherwise():
    found, truth = frame(CROSSED, score=[0.9], angle_deg=[135.0]), frame(TRUE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compute_accuracy(found, truth).table.loc["all", "tp"] == 0
    with pytest.warns(UserWarning, match="polygon"):
        assert compute_accuracy(found, truth, shape="box").table.loc["all", "tp"] == 1
    assert compute_accuracy(found, found).table.loc["all", "tp"] == 1
    bare = found.drop(columns="angle_deg")
    with pytest.warns(UserWarning, match="polygon"):
        assert compute_accuracy(bare, truth).table.loc["all", "tp"] == 1  # as before
    assert compute_accuracy(bare, truth, shape="polygon").table.loc["all", "tp"] == 0


def test_outcomes_keep_the_angles_and_are_compared_by_polygons_again(tmp_path):
    found = frame(Boxes.concat([TRUE, CROSSED.shift(0, -60)]), score=[0.9, 0.8], angle_deg=[45.0, 135.0])
    accuracy = compute_accuracy(found, frame(Boxes.concat([TRUE, TRUE.shift(0, 60)])))
    outcomes = accuracy.features.set_index("outcome")["angle_deg"]
    assert (outcomes["TP"], outcomes["FP"]) == (45, 135)
    assert np.isnan(outcomes["FN"])
    read = gpd.read_file(accuracy.save(tmp_path / "outcomes.gpkg"), layer="outcomes")
    kept = read[read["outcome"] != "FN"]
    assert compute_accuracy(kept, frame(CROSSED)).table.loc["all", "tp"] == 0
    boxes = found.drop(columns="angle_deg")
    assert "angle_deg" not in compute_accuracy(boxes, frame(TRUE), shape="polygon").features


@pytest.mark.parametrize(("shape", "word"), [("polygon", "polygon"), ("box", "envelope")])
def test_reports_say_what_was_compared(tmp_path, shape, word):
    found = frame(TRUE, score=[0.9], angle_deg=[45.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        accuracy = compute_accuracy(found, frame(TRUE), shape=shape)
    assert accuracy.shape == shape
    assert f"shape {shape}" in accuracy._repr_html_()
    assert f"if its {word} and that of an object overlap" in accuracy.save(tmp_path / "page.html").read_text("utf-8")


def test_upright_and_oriented_detections_are_compared_alike_by_polygons(upright, found):
    truth = frame(TRUTH)
    boxes = find(upright, PaintDetector(chip_size=128, overlap=84))
    by_polygon = [compute_accuracy(each, truth, shape="polygon").table.loc["all", "tp"] for each in (boxes, found)]
    assert by_polygon[1] == len(TRUTH) > by_polygon[0]


def test_a_page_shows_turned_rectangles_and_judges_them(upright, found):
    html = view(upright, found, frame(TRUTH)).html
    content = json.loads(re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", html, re.DOTALL)[1])
    boxes = content["boxes"]
    assert boxes["kind"].count(1) == len(TRUTH)
    assert all(len(outline) == 8 for outline in boxes["outline"])  # four corners


def test_a_figure_shows_turned_rectangles(upright, found):
    drawn = [each for each in show(upright, found).axes[0].collections if isinstance(each, PolyCollection)][-1]
    outlines = shapely.polygons([path.vertices[:4] for path in drawn.get_paths()])
    for corners in TRUTH.corners:
        true = shapely.Polygon(corners)
        shared = shapely.area(shapely.intersection(outlines, true))
        assert (shared / shapely.area(shapely.union(outlines, true))).max() > 0.9


def test_a_geopackage_of_turned_rectangles_brings_its_style(files):
    assert pyogrio.list_layers(files[".gpkg"])[0, 0] == "as_gpkg"
    (xml,) = gpd.read_file(files[".gpkg"], layer="layer_styles").query("f_table_name == 'as_gpkg'")["styleQML"]
    assert {f'value="{name}"' in xml for name in CLASSES} == {True}


def test_the_seam_between_strips_is_that_of_suppression(tmp_path):
    """Many turned boxes of any detector, in windows: what is whole in one comes out as `nms` of all would."""
    truth = some_boxes(400, 7)
    truth = truth[(truth.bounds[:, :2] >= 0).all(axis=1) & (truth.bounds[:, 2:] <= [420, 300]).all(axis=1)]
    truth = truth[(truth.bounds[:, 2:] - truth.bounds[:, :2]).max(axis=1) < 40]

    @dataclass(frozen=True)
    class Listed(PaintDetector):
        def detect(self, pixels):
            found = []
            for chip in pixels:
                x, y = chip[:2].min(axis=(1, 2)).astype(int)
                bounds = truth.shift(-float(x), -float(y)).bounds
                whole = (bounds[:, :2] >= 0).all(axis=1) & (bounds[:, 2:] <= 128).all(axis=1)
                found.append(truth.shift(-float(x), -float(y))[whole])
            return found

    path = write_raster(tmp_path / "plain.tif", painted(SHAPE, Boxes.empty()), GRIDS["upright"])
    found = find(path, Listed(chip_size=128, overlap=60, oriented=True), nms_iou=0.3, min_score=0.1)
    kept = truth[nms(truth, 0.3)]
    assert len(found) == len(kept) > 20
    np.testing.assert_allclose(np.sort(found.area), np.sort(kept.sizes.prod(axis=1)) / 4, rtol=1e-6)

"""`detect_objects`: what comes out does not depend on how the scene was cut, and bad input is refused beforehand."""

import json
import re
import subprocess
import sys
import warnings
from dataclasses import dataclass, field, replace

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from geodetect import detect_objects, prepare_data
from geodetect.boxes import Boxes, nms
from geodetect.errors import ArgumentError, GeodetectError, LabelsError, ModelError, OutputError, RasterError
from geodetect.grid import Grid, Tiling
from geodetect.normalization import Normalization, Sample
from geodetect.scene.models import resolve_min_scores
from geodetect.scene.plan import Selection, Sizes, make_plan
from geodetect.scene.value_range import check_value_range
from geodetect.vector.writers import write_features
from tests.fakes import (
    CLASSES,
    SHAPE,
    TRUTH,
    UPRIGHT,
    UTM,
    FakeReader,
    PaintDetector,
    make_detector,
    painted,
    trained,
    write_raster,
)

FIRST_WINDOW = shapely.transform(shapely.box(0, 0, 30, 30), Grid(SHAPE, UPRIGHT).to_map)
OUTPUTS = [".gpkg", ".geojson", ".shp", ".fgb", ".parquet", ".kml", ".csv"]


def find(raster, model=None, output=None, **keywords):
    """`detect_objects` with the painted squares' detector, without a progress bar."""
    return detect_objects(raster, model or PaintDetector(), output, **{"progress": False, **keywords})


def rows(found, grid):
    """Detections as sorted tuples (label, x1, y1, x2, y2) in scene pixels."""
    corners = grid.in_plane().to_pixel(shapely.get_coordinates(found.geometry)).reshape(-1, 5, 2)
    xyxy = np.hstack([corners.min(axis=1), corners.max(axis=1)]).round(3)
    return sorted((label, *box) for label, box in zip(found["label"], xyxy.tolist(), strict=True))


def rows_of(boxes):
    return sorted((CLASSES[label], *box) for label, box in zip(boxes.labels, boxes.xyxy.tolist(), strict=True))


@dataclass(frozen=True)
class Listed:
    """A detector that reports listed boxes of a scene, whose band 1 and 2 hold x and y."""

    truth: Boxes
    classes: tuple[str, ...] = CLASSES
    bands: tuple[int, ...] = (1, 2, 3)
    chip_size: int = 64
    overlap: int | None = 24
    pixel_size_m: float | None = None
    min_score: float | None = None
    origins: list = field(default_factory=list)

    def detect(self, pixels):
        assert pixels.ndim == 4
        return [self._of(chip) for chip in pixels]

    def _of(self, chip):
        x, y = chip[0, 0, 0], chip[1, 0, 0]
        self.origins.append((int(x), int(y)))
        found = self.truth.shift(-float(x), -float(y)).clip(*chip.shape[:0:-1])
        return found[(found.sizes > 0).all(axis=1)]


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """A scene without squares, for `Listed`."""
    grid = Grid(SHAPE, UPRIGHT, UTM, "plain.tif")
    return write_raster(tmp_path_factory.mktemp("plain") / "plain.tif", painted(boxes=Boxes.empty()), grid)


# What comes out


def test_every_square_is_found_once_whatever_the_grid(scene):
    found = find(scene.path)
    assert rows(found, scene.grid) == rows_of(TRUTH)
    assert found.crs == UTM


def test_the_columns_and_their_types(upright):
    found = find(upright.path)
    assert list(found.columns) == ["label", "score", "geometry"]
    assert all(isinstance(label, str) for label in found["label"])
    assert found["score"].dtype == float
    assert found.index.equals(gpd.pd.RangeIndex(len(TRUTH)))


def test_how_it_was_run_is_recorded(upright):
    told = find(upright.path).attrs
    assert (told["precision"], told["batch_size"]) == (None, 8)
    assert find(upright.path, batch_size=3).attrs["batch_size"] == 3


def test_a_batch_that_does_not_fit_into_memory_is_halved(upright):
    class Small(PaintDetector):
        def detect(self, pixels):
            if len(pixels) > 3:
                raise MemoryError
            return super().detect(pixels)

    found = find(upright.path, Small(), batch_size=12)
    assert rows(found, upright.grid) == rows_of(TRUTH)
    assert found.attrs["batch_size"] == 3


def test_the_best_score_comes_first(plain):
    boxes = Boxes(np.arange(5)[:, None] * 30.0 + [0, 0, 9, 9], np.zeros(5), [0.6, 0.9, 0.7, 0.95, 0.8])
    assert find(plain, Listed(boxes))["score"].tolist() == [0.95, 0.9, 0.8, 0.7, 0.6]


def test_rings_run_counter_clockwise(scene):
    assert find(scene.path).exterior.is_ccw.all()


@st.composite
def streets(draw):
    """Painted objects with 2 px between them: houses, and roads longer than a window, across or down."""
    cells = [(12 * column, 12 * row) for row in range(8) for column in range(16)]
    chosen = draw(st.lists(st.sampled_from(cells), max_size=25, unique=True))
    sizes = draw(st.lists(st.integers(3, 10), min_size=2 * len(chosen), max_size=2 * len(chosen)))
    houses = [[x, y, x + w, y + h] for (x, y), w, h in zip(chosen, sizes[::2], sizes[1::2], strict=True)]
    across = [[draw(st.integers(0, 40)), 98, draw(st.integers(60, 192)), 104]] if draw(st.booleans()) else []
    down = [[194, draw(st.integers(0, 30)), 200, draw(st.integers(50, 110))]] if draw(st.booleans()) else []
    xyxy = np.array(houses + across + down, float).reshape(-1, 4)
    return Boxes(xyxy, draw(st.lists(st.integers(0, 1), min_size=len(xyxy), max_size=len(xyxy))))


@settings(max_examples=15, deadline=None)  # writes and reads files
@given(streets(), st.integers(24, 64), st.integers(10, 16), st.integers(1, 9))
def test_a_tiled_scene_gives_what_one_window_over_everything_gives(tmp_path_factory, truth, chip_size, overlap, n):
    grid = Grid((110, 203), UPRIGHT, UTM, "street.tif")
    path = write_raster(tmp_path_factory.mktemp("street") / "street.tif", painted(grid.shape, truth), grid)
    tiled = find(path, chip_size=chip_size, overlap=overlap, batch_size=n)
    assert rows(tiled, grid) == rows(find(path, chip_size=256, overlap=0), grid) == rows_of(truth)


scored = st.tuples(
    *[st.integers(0, 200), st.integers(0, 140), st.integers(4, 12), st.integers(4, 12)],
    *[st.integers(0, 1), st.sampled_from([0.55, 0.6, 0.8, 0.9])],
)


@settings(max_examples=20, deadline=None)  # writes and reads files
@given(st.lists(scored, max_size=40), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_overlapping_boxes_of_any_detector_go_as_nms_of_all_would(plain, table, nms_iou):
    table = np.array(table, float).reshape(-1, 6)
    boxes = Boxes(np.hstack([table[:, :2], table[:, :2] + table[:, 2:4]]), table[:, 4], table[:, 5])
    boxes = boxes[np.unique(np.column_stack([boxes.xyxy, boxes.labels]), axis=0, return_index=True)[1]]
    found = find(plain, Listed(boxes), nms_iou=nms_iou)
    # Windows that share a box report it twice; at nms_iou=1 nothing would ever be dropped.
    expected = boxes[nms(boxes, nms_iou)] if nms_iou < 1 else boxes
    got = set(rows(found, Grid(SHAPE, UPRIGHT)))
    assert got == set(rows_of(expected))


def test_a_scene_smaller_than_a_window(tmp_path):
    truth = Boxes([[0, 0, 4, 4], [20, 10, 30, 20]], [0, 1])
    grid = Grid((20, 30), UPRIGHT, UTM)
    found = find(write_raster(tmp_path / "small.tif", painted(grid.shape, truth), grid))
    assert rows(found, grid) == rows_of(truth)


def test_boxes_are_clipped_to_the_scene(tmp_path):
    class TooLarge(PaintDetector):
        def detect(self, pixels):
            return [Boxes([[-5, -5, 999, 999]], [0], [0.9]) for _ in pixels]

    grid = Grid((20, 30), UPRIGHT, UTM)
    path = write_raster(tmp_path / "small.tif", painted(grid.shape, Boxes.empty()), grid)
    assert rows(find(path, TooLarge()), grid) == [("red", 0, 0, 30, 20)]


def odd(box):
    """A detector that gives this box, and a good one, of every window."""

    class Odd(PaintDetector):
        def detect(self, pixels):
            return [Boxes([box, [10, 10, 20, 20]], [0, 0], [0.9, 0.9]) for _ in pixels]

    return Odd()


def test_boxes_without_area_are_dropped(plain):
    assert len(find(plain, odd([5, 5, 5, 9]), aoi=FIRST_WINDOW)) == 1


@pytest.mark.parametrize("box", [[9, 9, 5, 5], [np.nan, 0, 9, 9], [0, 0, np.inf, 9], [70, 0, 90, 20], [0, -9, 9, -1]])
@pytest.mark.parametrize("tta", [False, True])
def test_what_is_no_box_in_the_window_is_dropped_and_said_once(plain, box, tta):
    with pytest.warns(UserWarning, match=r"x1, y1, x2, y2 in pixels of the window, from 0 to 64") as told:
        found = find(plain, odd(box), tta=tta)
    assert len(told) == 1
    assert str(list(map(float, box))) in str(told[0].message)
    assert len(found) > 0


def test_an_object_larger_than_any_window_is_one_polygon(tmp_path):
    truth = Boxes([[10, 20, 210, 150]], [1])
    path = write_raster(tmp_path / "lake.tif", painted(boxes=truth), Grid(SHAPE, UPRIGHT, UTM))
    assert rows(find(path), Grid(SHAPE, UPRIGHT)) == rows_of(truth)


# Scores


def test_scores_below_min_score_are_dropped(plain):
    boxes = Boxes([[0, 0, 9, 9], [30, 0, 39, 9], [60, 0, 69, 9]], [0, 1, 1], [0.4, 0.5, 0.6])
    for min_score, n_found in [(None, 2), (0.5, 2), (0.55, 1), (0.0, 3), (1, 0)]:
        assert len(find(plain, Listed(boxes), min_score=min_score)) == n_found
    assert len(find(plain, replace(Listed(boxes), min_score=0.6))) == 1
    assert len(find(plain, replace(Listed(boxes), min_score=float("nan")))) == 2


def test_min_score_by_class_leaves_the_others_to_the_model(plain):
    boxes = Boxes([[0, 0, 9, 9], [30, 0, 39, 9], [60, 0, 69, 9]], [0, 1, 1], [0.4, 0.5, 0.6])
    assert find(plain, Listed(boxes), min_score={"red": 0.3})["label"].tolist() == ["blue", "blue", "red"]
    by_class = replace(Listed(boxes), min_score={"blue": 0.6, "red": 0.6})
    assert find(plain, by_class, min_score={"red": 0.3})["score"].tolist() == [0.6, 0.4]


def test_a_detector_that_wants_the_thresholds_is_told_them(plain):
    told = []

    class Asks(PaintDetector):
        def detect(self, pixels, *, min_score=0.05, nms_iou=0.5):
            told.append((min_score, nms_iou))
            return super().detect(pixels)

    find(plain, Asks(), min_score={"red": 0.01}, nms_iou=0.7)
    assert set(told) == {(0.01, 0.7)}


# Masks and areas


def test_boxes_centred_on_invalid_pixels_are_dropped(tmp_path):
    pixels = painted(boxes=Boxes.empty()) + 1
    pixels[:, :, 90:] = 0
    path = write_raster(tmp_path / "half.tif", pixels, Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    # Centres at 89.5 and 90.5; a part of a third is cut by windows, and its middle is at 97.
    boxes = Boxes([[85, 10, 94, 20], [86, 30, 95, 40], [4, 50, 190, 60], [4, 70, 174, 80]], [0, 0, 1, 1], [0.9] * 4)

    class Shifted(Listed):
        def detect(self, pixels):
            return super().detect(np.where(pixels > 0, pixels - 1, 0))

    found = find(path, Shifted(boxes), chip_size=256)
    assert rows(found, Grid(SHAPE, UPRIGHT)) == rows_of(boxes[[0, 3]])
    tiled = find(path, Shifted(boxes), chip_size=64, overlap=24)
    # Windows beyond 90 hold no valid pixel and are not run, so the long ones end with the last window that is.
    assert [row for row in rows(tiled, Grid(SHAPE, UPRIGHT)) if row[0] == "red"] == rows_of(boxes[[0]])


@dataclass(frozen=True)
class ListedInTheDark(Listed):
    """Listed boxes of a scene whose bands hold x + 1 and y + 1, and 0 where there is no data."""

    def _of(self, chip):
        x, y = chip[:2].astype(int).max(axis=(1, 2)) - chip.shape[-1]
        found = self.truth.shift(-float(x), -float(y)).clip(*chip.shape[:0:-1])
        return found[(found.sizes > 0).all(axis=1)]


def darkened(share):
    """The scene without squares, with this share of the pixels in each of them 0, from its centre on."""
    pixels = painted(boxes=Boxes.empty()) + np.uint16(1)
    for x1, y1, x2, y2 in TRUTH.xyxy.astype(int):
        y, x = np.indices((y2 - y1, x2 - x1))
        far = np.hypot(y - (y2 - y1) // 2, x - (x2 - x1) // 2).ravel()
        nearest = np.argsort(far, kind="stable")[: int(share * far.size)]
        pixels[:, y1 + y.ravel()[nearest], x1 + x.ravel()[nearest]] = 0
    return pixels


@pytest.mark.parametrize(("share", "n_found"), [(0, 9), (0.3, 9), (0.5, 9), (0.6, 0)])
@pytest.mark.parametrize("options", [{"chip_size": 64}, {"chip_size": 96, "overlap": 31}])
def test_dark_pixels_of_an_object_do_not_hide_it(tmp_path, share, n_found, options):
    path = write_raster(tmp_path / "dark.tif", darkened(share), Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    found = find(path, ListedInTheDark(Boxes(TRUTH.xyxy, TRUTH.labels, [0.9] * 9)), **options)
    assert len(found) == n_found


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_labels_and_detections_count_by_one_rule(tmp_path, upright, share):
    path = write_raster(tmp_path / "dark.tif", darkened(share), Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    found = find(path, ListedInTheDark(Boxes(TRUTH.xyxy, TRUTH.labels, [0.9] * 9)), chip_size=96, overlap=31)
    if share < 0.5:
        data = prepare_data(path, upright.truth, chip_size=160, split="random")
        assert "in no chip" not in data.report
        assert len(found) == 9
    else:
        with pytest.raises(LabelsError, match="9 mostly where the raster holds no data"):
            prepare_data(path, upright.truth, chip_size=160, split="random")
        assert len(found) == 0


def test_a_joined_box_is_judged_by_all_of_its_pixels(tmp_path):
    pixels = painted(boxes=Boxes([[10, 40, 210, 60], [10, 100, 210, 120]], [0, 1]))
    valid = np.ones(SHAPE, bool)
    bars = np.arange(SHAPE[1]) % 8 == 0  # hold the paint together
    valid[42:58, ~bars] = False  # 70 % of the first
    valid[105:115, ~bars] = False  # 44 % of the second, its centre among them
    reader = FakeReader(pixels, Grid(SHAPE, UPRIGHT, UTM), valid)
    paint = np.where(valid, pixels, 0).astype(np.uint16)
    path = write_raster(tmp_path / "roads.tif", paint, reader.grid, nodata=0)
    assert find(path)["label"].tolist() == ["blue"]


# Numbers that are not those of training, and undeclared no data


@dataclass(frozen=True)
class Trained(PaintDetector):
    """The painted squares' detector, with the numbers that it was trained on."""

    normalization: Normalization | None = None


def trained_on(pixels):
    numbers = Sample([(pixels, np.ones(pixels.shape[1:], bool))]).value_range()
    return Trained(normalization=Normalization((1.0,) * 3, (1.0,) * 3, numbers))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint16"])
def test_a_scene_in_other_units_is_told_of(tmp_path, dtype):
    factor = {"float32": 1 / 65_535, "uint8": 1 / 257, "uint16": 1 / 257}[dtype]
    path = write_raster(tmp_path / "other.tif", (painted() * factor).astype(dtype), Grid(SHAPE, UPRIGHT, UTM))
    model = trained_on(painted() // 4 + 12_000)
    with pytest.warns(
        UserWarning, match=rf"other\.tif holds {dtype} from 0 to .* trained on uint16 from 12000"
    ) as told:
        find(path, model)
    assert len(told) == 1
    find(path, replace(model, normalization=Normalization((1.0,) * 3, (1.0,) * 3)))  # of an older file: nobody knows


def test_a_scene_like_those_of_training_is_not_told_of(tmp_path, upright):
    find(upright.path, trained_on(painted()))
    dark = write_raster(tmp_path / "dark.tif", painted() // 3, Grid(SHAPE, UPRIGHT, UTM))
    find(dark, trained_on(painted()))
    empty = write_raster(tmp_path / "empty.tif", np.zeros_like(painted()), Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    assert len(find(empty, trained_on(painted()))) == 0


@pytest.mark.parametrize("side", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(160, 224), (700, 900), (3000, 400)])
def test_a_narrow_margin_is_seen(tmp_path, side, shape):
    pixels = np.rot90(np.random.default_rng(0).uniform(0, 255, (3, *shape)).astype(np.float32), side, axes=(1, 2))
    pixels[:, :, : pixels.shape[2] // 25] = -9999
    pixels = np.rot90(pixels, -side, axes=(1, 2))
    reader = FakeReader(pixels, Grid(shape, UPRIGHT, UTM))
    plan = make_plan(reader, PaintDetector(), Selection(np.full(2, 0.5), 0.5), Sizes(128, 32))
    with pytest.warns(UserWarning, match="nodata=-9999"):
        check_value_range(reader, PaintDetector(), plan)


def test_few_pixels_are_looked_at(tmp_path):
    class Counting(FakeReader):
        n_read = 0

        def read(self, window):
            self.n_read += window.width * window.height
            return super().read(window)

    reader = Counting(np.zeros((3, 4000, 5000), np.uint8), Grid((4000, 5000), UPRIGHT, UTM))
    for chip_size in (64, 512, 4000):
        plan = make_plan(reader, PaintDetector(), Selection(np.full(2, 0.5), 0.5), Sizes(chip_size, 0))
        reader.n_read = 0
        check_value_range(reader, PaintDetector(), plan)
        assert 0 < reader.n_read <= 2 * 16 * 4096


def test_a_scene_that_cannot_be_read_here_is_left_to_the_run(tmp_path):
    reader = FakeReader(painted(), Grid(SHAPE, UPRIGHT, UTM), broken=(30, 30))
    plan = make_plan(reader, PaintDetector(), Selection(np.full(2, 0.5), 0.5), Sizes(64, 0))
    check_value_range(reader, PaintDetector(), plan)


@pytest.mark.parametrize(("dtype", "value"), [("float32", -9999.0), ("int32", -32767), ("float32", -3.4028235e38)])
def test_undeclared_no_data_is_told_of_and_may_be_given(tmp_path, dtype, value):
    pixels = painted().astype(dtype)
    pixels[:, :, 98:] = value  # four squares lie to the left of it
    path = write_raster(tmp_path / "filled.tif", pixels, Grid(SHAPE, UPRIGHT, UTM))
    spelt = re.escape("nodata=" + str(np.dtype(dtype).type(value)).removesuffix(".0"))
    with pytest.warns(UserWarning, match=rf"of the pixels of filled\.tif hold .*{spelt}"):
        found = find(path)
    given = find(path, nodata=value)
    assert len(found) == len(given) == 4
    assert given.attrs["n_windows_run"] < found.attrs["n_windows_run"]
    assert (found.attrs["nodata"], given.attrs["nodata"]) == (None, value)


def test_windows_without_a_valid_pixel_are_not_run(tmp_path):
    pixels = painted(boxes=Boxes.empty())
    pixels[:, :, :128] = 0
    path = write_raster(tmp_path / "half.tif", pixels, Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    model = Listed(Boxes.empty(scored=True))
    find(path, model, overlap=0)
    assert min(x for x, _ in model.origins) == 128


def test_only_boxes_centred_in_the_aoi_are_kept_and_only_its_windows_run(upright, plain):
    # Covers the centres of the squares at (58, 58) and (100, 40) alone, a corner of (30, 20) too.
    area = shapely.transform(shapely.box(38, 30, 110, 66), upright.grid.to_map)
    found = find(upright.path, aoi=area)
    assert rows(found, upright.grid) == rows_of(TRUTH[[2, 3]])
    model = Listed(Boxes.empty(scored=True))
    find(plain, model, aoi=area, chip_size=32, overlap=0)
    assert sorted(set(model.origins)) == [(x, y) for x in (32, 64, 96) for y in (0, 32, 64)]


def test_an_aoi_of_any_crs_and_form(upright, tmp_path):
    area = gpd.GeoDataFrame(geometry=[shapely.transform(shapely.box(50, 30, 120, 80), upright.grid.to_map)], crs=UTM)
    path = write_features(area.to_crs(4326).assign(label="x"), tmp_path / "aoi.geojson")
    expected = rows_of(TRUTH[[2, 3]])
    for aoi in (area, area.to_crs(3857), path, str(path)):
        assert rows(find(upright.path, aoi=aoi), upright.grid) == expected


def test_an_aoi_that_does_not_meet_the_raster_is_refused(upright, tmp_path):
    with pytest.raises(LabelsError):
        find(upright.path, output=tmp_path / "out.gpkg", aoi=shapely.box(0, 0, 10, 10))
    assert list(tmp_path.iterdir()) == []


# The raster as the model wants to see it


def test_the_raster_is_resampled_to_the_models_pixels(upright):
    model = PaintDetector(pixel_size_m=0.25)  # twice as fine as the scene's
    found = find(upright.path, replace(model, tolerance=25_000, overlap=48, chip_size=128))
    expected = TRUTH[np.lexsort(TRUTH.xyxy.T)]
    got = np.array([row[1:] for row in rows(found, upright.grid)])
    assert len(got) == len(TRUTH)
    assert np.abs(got[np.lexsort(got.T)] - expected.xyxy).max() <= 1


def test_pixel_size_none_takes_the_pixels_as_they_are(upright):
    found = find(upright.path, PaintDetector(pixel_size_m=3.0), pixel_size_m=None)
    assert rows(found, upright.grid) == rows_of(TRUTH)


def test_a_model_with_a_pixel_size_runs_on_a_raster_without_one(tmp_path):
    path = write_raster(tmp_path / "photo.tif", painted(), Grid(SHAPE, UPRIGHT))
    with pytest.warns(UserWarning, match="no coordinate reference system: the result is in the plane"):
        found = find(path, PaintDetector(pixel_size_m=3.0))
    assert rows(found, Grid(SHAPE, UPRIGHT)) == rows_of(TRUTH)
    assert found.crs is None


def test_without_georeference_the_result_is_in_pixels(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rasterio warns of what is meant here
        path = write_raster(tmp_path / "photo.tif", painted())
    with pytest.warns(UserWarning, match=r"photo\.tif has no coordinate .* in pixels, x right and y down"):
        found = find(path)
    assert rows(found, Grid(SHAPE)) == rows_of(TRUTH)
    assert found.crs is None
    assert found.exterior.is_ccw.all()


def test_a_grey_raster_is_shown_to_an_rgb_model_only_on_request(tmp_path):
    path = write_raster(tmp_path / "grey.tif", painted()[:1], Grid(SHAPE, UPRIGHT, UTM))
    with pytest.raises(ModelError, match=r"takes 3 bands and grey\.tif gives 1; .* bands=\(1, 1, 1\)"):
        find(path)
    assert len(find(path, bands=(1, 1, 1))) == 0


def test_a_raster_with_more_bands_than_the_model(tmp_path):
    pixels = painted()
    path = write_raster(tmp_path / "nir.tif", np.concatenate([pixels, pixels[:1]]), Grid(SHAPE, UPRIGHT, UTM))
    with pytest.raises(ModelError, match=r"takes 3 bands and nir\.tif gives 4; .* bands=\(1, 2, 3\)"):
        find(path)
    assert len(find(path, bands=(1, 2, 3))) == len(TRUTH)
    with pytest.raises(ModelError, match="takes 3 bands"):
        find(path, bands=(1, 2))


def test_bands_chosen_in_training_are_chosen_again(tmp_path):
    path = write_raster(tmp_path / "bgrn.tif", painted()[[0, 2, 1, 0]], Grid(SHAPE, UPRIGHT, UTM))
    assert len(find(path, PaintDetector(bands=(4, 3, 2)))) == len(TRUTH)


# What is told beside label and score


def test_sizes_on_the_ground_along_rows_and_columns(scene):
    found = find(scene.path, measure=True)
    assert list(found.columns) == ["label", "score", "area_m2", "width_m", "height_m", "geometry"]
    # Pixels of 0.5 m: the square of 10 x 10 px measures 5 x 5 m, whichever way the grid lies.
    assert np.allclose(found["width_m"] * found["height_m"], found["area_m2"])
    assert np.allclose(found["area_m2"], found.area)
    assert sorted(found["width_m"]) == pytest.approx(sorted(TRUTH.sizes[:, 0] / 2))


def test_degrees_are_measured_where_each_object_lies(tmp_path):
    # From 64 N to the equator: a degree of longitude is half as wide at 60 N as at the equator.
    grid = Grid((160, 224), Affine(0.4, 0, 0, 0, -0.4, 64), CRS.from_epsg(4326))
    truth = Boxes([[8, 8, 12, 12], [100, 152, 104, 156]], [0, 1])
    found = find(write_raster(tmp_path / "globe.tif", painted(grid.shape, truth), grid), measure=True)
    width = found.set_index("label")["width_m"]
    geod = grid.crs.get_geod()
    for name, latitude in [("red", 60), ("blue", 64 - 154 * 0.4)]:
        assert width[name] == pytest.approx(4 * geod.inv(0, latitude, 0.4, latitude)[2], rel=1e-6)
    assert width["red"] / width["blue"] == pytest.approx(0.5, abs=0.01)


def test_sizes_without_a_crs_are_refused(tmp_path):
    path = write_raster(tmp_path / "photo.tif", painted(), Grid(SHAPE, UPRIGHT))
    with (
        pytest.warns(UserWarning, match="no coordinate"),
        pytest.raises(GeodetectError, match="size of its pixels"),
    ):
        find(path, Listed(None), measure=True)


def test_the_settings_and_the_share_of_windows_that_were_run_are_told(tmp_path):
    pixels = painted(boxes=Boxes.empty())
    pixels[:, :, :128] = 0
    path = write_raster(tmp_path / "half.tif", pixels, Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    told = find(path, overlap=0, nms_iou=0.4).attrs
    # 3 x 4 windows; the last column reaches from 160 to 224, and the third begins at 128.
    assert (told["n_windows"], told["n_windows_run"]) == (12, 6)
    assert (told["raster"], told["model"], told["nms_iou"], told["overlap"]) == ("half.tif", "PaintDetector", 0.4, 0)
    package = find(path, output=tmp_path / "found.gpkg", overlap=0, nms_iou=0.4)
    parquet = find(path, output=tmp_path / "found.parquet", overlap=0, nms_iou=0.4)
    for text in (
        pyogrio.read_info(package)["layer_metadata"]["geodetect"],
        pq.read_schema(parquet).metadata[b"geodetect"],
    ):
        assert json.loads(text) == told


def test_windows_without_data_are_told_of_while_it_runs(tmp_path, capsys):
    pixels = painted(boxes=Boxes.empty())
    pixels[:, :, :128] = 0
    path = write_raster(tmp_path / "half.tif", pixels, Grid(SHAPE, UPRIGHT, UTM), nodata=0)
    find(path, overlap=0, progress=True)
    assert "50% without data" in capsys.readouterr().err


# Models


def test_a_learner_is_asked_through_its_detector(upright):
    class Learner:
        detector = PaintDetector()

    assert len(find(upright.path, Learner())) == len(TRUTH)


def test_a_model_is_asked_itself_whatever_it_keeps(upright):
    class Wrapper(PaintDetector):
        detector, frozen, precision = "the network inside", True, np.float32

    found = find(upright.path, Wrapper())
    assert len(found) == len(TRUTH)
    assert found.attrs["precision"] == "<class 'numpy.float32'>"


@pytest.mark.parametrize("own", [{"red": float("nan"), "blue": 0.4}, {"red": None, "blue": 0.4}])
def test_a_score_that_a_model_does_not_know_is_a_half(own):
    model = PaintDetector(min_score=own)
    assert resolve_min_scores(None, model).tolist() == [0.4 if name == "blue" else 0.5 for name in CLASSES]


def test_precision_and_device_are_a_models_own_business_unless_it_can_change_them(upright):
    with pytest.warns(UserWarning, match="this PaintDetector .* precision and device"):
        find(upright.path, PaintDetector(), precision="float32")


def test_an_object_that_is_no_model_is_refused(upright):
    with pytest.raises(ModelError, match=r"must be a RetinaNet, a Detector, .* this int has no detect, classes"):
        find(upright.path, 7)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("classes", None, "a list of names"),
        ("classes", "roof", "a list of names"),
        ("classes", b"roof", "a list of names"),
        ("classes", [], "a list of names"),
        ("classes", ["roof", "roof"], "all different"),
        ("classes", {0: "roof"}, "a list of names"),
        ("classes", [1, 2], "a list of names"),
        ("classes", [["roof"]], "a list of names"),
        ("bands", None, "numbered from 1"),
        ("bands", 3, "numbered from 1"),
        ("bands", "123", "numbered from 1"),
        ("bands", (0, 1, 2), "numbered from 1"),
        ("bands", (1.0, 2.0, 3.0), "numbered from 1"),
        ("bands", (), "numbered from 1"),
        ("chip_size", None, "a whole number of pixels above 0"),
        ("chip_size", 64.0, "a whole number of pixels above 0"),
        ("chip_size", 0, "a whole number of pixels above 0"),
        ("overlap", -1, "a whole number of pixels, or None"),
        ("overlap", 0.25, "a whole number of pixels, or None"),
        ("pixel_size_m", 0, "metres above 0, or None"),
        ("pixel_size_m", "0.5", "metres above 0, or None"),
        ("pixel_size_m", float("nan"), "metres above 0, or None"),
        ("detect", None, "a method"),
    ],
)
def test_what_a_model_says_of_itself_is_looked_at_before_any_work(name, value, expected):
    model = type("Mine", (PaintDetector,), {})()
    model.__dict__[name] = value
    with pytest.raises(ModelError, match=f"^{name} of this Mine must be .*{expected}.*; got {re.escape(repr(value))}$"):
        find("nowhere.tif", model)


@pytest.mark.parametrize("size", [0, None, "8", 2.5])
def test_a_batch_size_that_is_none_is_refused(upright, size):
    class Odd(PaintDetector):
        def suited_batch_size(self, chip_size):
            return size

    with pytest.raises(ModelError, match="suited_batch_size of this Odd must give a number above 0; got"):
        find(upright.path, Odd())


def test_arrays_of_names_and_bands_are_lists_too(upright):
    model = PaintDetector(classes=np.array(CLASSES), bands=np.array([1, 2, 3]))
    assert len(find(upright.path, model)) == len(TRUTH)


def test_a_class_is_no_model(upright):
    with pytest.raises(ModelError, match="got the class PaintDetector, make one of it first"):
        find(upright.path, PaintDetector)


@pytest.mark.parametrize(
    "error", [ValueError("mine"), KeyError("mine"), RuntimeError("mine"), RasterError("mine"), AssertionError()]
)
@pytest.mark.parametrize("tta", [False, True])
def test_an_error_of_the_model_comes_through_as_itself_and_says_where(upright, error, tta):
    calls = []

    class Raises(PaintDetector):
        def detect(self, pixels):
            calls.append(pixels)
            if len(calls) > (8 if tta else 1):
                raise error
            return super().detect(pixels)

    with pytest.raises(type(error)) as caught:
        find(upright.path, Raises(), batch_size=2, tta=tta)
    assert caught.value is error
    assert error.__notes__[-1:] == [
        "while the model ran on the window x 80 to 144, y 0 to 64 and 1 more of upright.tif"
    ]


def test_a_model_whose_parameters_nobody_can_see_is_asked_without_any(upright):
    class Opaque(PaintDetector):
        @property
        def detect(self):
            return Hidden(super().detect)

    class Hidden:
        def __init__(self, detect):
            self.detect = detect

        @property
        def __signature__(self):
            raise ValueError("no signature found")

        def __call__(self, pixels):
            return self.detect(pixels)

    assert len(find(upright.path, Opaque())) == len(TRUTH)


def test_a_model_that_changes_its_pixels_changes_nothing_else(upright):
    class Spoils(PaintDetector):
        def detect(self, pixels):
            found = super().detect(pixels)
            pixels[:] = 0
            return found

    found = find(upright.path, Spoils(), tta=True)
    assert len(found) == len(find(upright.path, tta=True)) > 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "must give a list of 8 Boxes with scores, one for each window; got None"),
        ([Boxes.empty(scored=True)], "must give a list of 8 Boxes"),
        ([Boxes([[0, 0, 9, 9]], [0])] * 8, "must give a list of 8 Boxes with scores"),
        ([Boxes([[0, 0, 9, 9]], [2], [0.9])] * 8, "index the model's 2 classes from 0; got labels from 2 to 2"),
        ([Boxes([[0, 0, 9, 9]], [0], [np.nan])] * 8, "scores must lie between 0 and 1; got scores from nan to nan"),
        ((Boxes.empty(scored=True) for _ in range(8)), "must give a list of 8 Boxes with scores.*got <generator"),
        (np.zeros((8, 6)), "must give a list of 8 Boxes"),
        ([np.zeros((1, 6))] * 8, "must give a list of 8 Boxes"),
        ([Boxes([[0, 0, 9, 9]], [0], [97.5])] * 8, "scores must lie between 0 and 1; got scores from 97.5 to 97.5"),
    ],
)
def test_an_answer_that_is_none_is_refused(upright, answer, message):
    class Wrong(PaintDetector):
        def detect(self, pixels):
            return answer

    with pytest.raises(ModelError, match=message):
        find(upright.path, Wrong())


def test_without_an_overlap_of_its_own_a_model_gets_a_quarter(plain):
    model = Listed(Boxes.empty(scored=True), overlap=None)
    find(plain, model)
    assert model.origins == [window.xyxy[:2] for window in Tiling(SHAPE, 64, 16)]


def test_a_chip_size_that_is_not_the_models_comes_with_a_quarter_of_overlap(plain):
    model = Listed(Boxes.empty(scored=True), overlap=60)
    find(plain, model, chip_size=40)
    assert model.origins == [window.xyxy[:2] for window in Tiling(SHAPE, 40, 10)]


def test_a_detector_of_ours_gives_the_same_from_its_file(upright, tmp_path):
    import torch

    from geodetect.metadata import Architecture
    from geodetect.network.retinanet import Network

    torch.manual_seed(3)
    network = trained(Network(Architecture("resnet18", width=64, depth=1), n_classes=2, weights=None))
    options = {
        "bands": (1, 2, 3),
        "normalization": Normalization((1e4,) * 3, (2e4,) * 3),
        "chip_size": 64,
        "overlap": 16,
    }
    model = make_detector(network, CLASSES, **options)
    path = model.save(tmp_path / "model.safetensors")
    # Untrained, it gives nearly everything its prior of 0.01: with the default of 0.05 nothing would come out.
    area = shapely.transform(shapely.box(20, 20, 40, 40), upright.grid.to_map)
    given = {"aoi": area, "batch_size": 4}
    found = [find(upright.path, each, min_score=0.01, device="cpu", **given) for each in (model, str(path))]
    assert len(found[0]) > 0
    assert found[0].equals(found[1])
    for precision in ("float32", "bf16"):
        assert find(upright.path, model, precision=precision, **given).attrs["precision"] == precision
    with pytest.raises(ArgumentError, match='precision must be "auto", "float32", "bf16", "float16" or "int8"'):
        find(upright.path, model, precision="half")


def test_a_model_file_that_is_missing_is_refused(upright):
    with pytest.raises(ModelError):
        find(upright.path, "nowhere.safetensors")


def test_torch_is_not_loaded_for_another_detector(upright):
    code = (
        "import sys; from geodetect import detect_objects; from tests.fakes import PaintDetector;"
        f"detect_objects({str(upright.path)!r}, PaintDetector(), progress=False); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Files


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_an_empty_result_is_a_valid_file(plain, tmp_path, suffix):
    path = find(plain, output=tmp_path / f"none{suffix}")
    assert path == tmp_path / f"none{suffix}"
    if suffix == ".csv":
        assert path.read_text() == "label,score,WKT\n"
        return
    again = gpd.read_parquet(path) if suffix == ".parquet" else gpd.read_file(path)
    assert len(again) == 0
    assert again.crs == (4326 if suffix in (".geojson", ".kml") else UTM)
    if suffix not in (".geojson", ".kml"):  # there columns come with features
        assert {"label", "score"} <= set(again.columns)


def test_an_empty_result_has_its_columns_and_crs(plain):
    found = find(plain)
    assert list(found.columns) == ["label", "score", "geometry"]
    assert len(found) == 0
    assert found.crs == UTM


@pytest.mark.parametrize("name", ["missing/out.gpkg", "out.xyz", "out"])
def test_an_output_that_is_not_possible_is_refused_before_all_else(tmp_path, name):
    with pytest.raises(OutputError):
        find("no such raster.tif", object(), tmp_path / name)


def test_kml_of_a_raster_without_crs_is_refused_beforehand(tmp_path):
    path = write_raster(tmp_path / "photo.tif", painted(), Grid(SHAPE, UPRIGHT))
    with pytest.raises(OutputError, match=r"KML is in WGS 84 .* photo\.tif has no .* write out\.gpkg instead"):
        find(path, Listed(None), tmp_path / "out.kml")


def test_a_block_that_cannot_be_read_leaves_no_file(upright, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(upright.path.read_bytes()[:-60_000])
    with pytest.raises(RasterError, match=r"broken\.tif cannot be read at .*\d"):
        find(broken, output=tmp_path / "out.gpkg")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.tif"]


# Arguments


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"min_score": 1.5}, "min_score must lie between 0 and 1, .* got 1.5"),
        ({"min_score": "high"}, "got 'high'"),
        ({"min_score": {"red": -1}}, "got -1"),
        ({"min_score": {"reed": 0.5}}, "min_score names reed, and the model knows only red, blue"),
        ({"nms_iou": 2}, "nms_iou must lie between 0 and 1"),
        ({"nms_iou": None}, "nms_iou must lie between 0 and 1"),
        ({"nms_iou": "0.5"}, "got '0.5'"),
        ({"chip_size": 0}, "chip_size must be a whole number of at least 1; got 0"),
        ({"chip_size": 64.5}, "chip_size must be a whole number"),
        ({"overlap": -1}, "overlap must be a whole number of at least 0"),
        ({"overlap": 64}, "overlap must be smaller than chip_size"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
        ({"pixel_size_m": "scene"}, 'pixel_size_m must be a number of metres, None or "model"'),
        ({"pixel_size_m": -1}, "pixel_size_m must be above 0"),
        ({"pixel_size_m": 1e6}, "larger than the whole"),
    ],
)
def test_impossible_arguments_are_refused_before_the_model_sees_anything(upright, keywords, message):
    model = Listed(None)  # would fail if asked
    with pytest.raises(ArgumentError, match=message):
        find(upright.path, model, **keywords)


def test_a_missing_raster_is_refused():
    with pytest.raises(GeodetectError, match="no file"):
        find("no such raster.tif")


def test_progress_is_shown_on_request_and_never_on_stdout(upright, capsys):
    detect_objects(upright.path, PaintDetector())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "windows" in shown.err
    assert f"100% of {len(Tiling(SHAPE, 64, 24))} windows" in shown.err
    find(upright.path)
    assert capsys.readouterr() == ("", "")


def test_progress_is_lines_where_there_is_no_terminal(upright, capsys):
    detect_objects(upright.path, PaintDetector())
    lines = capsys.readouterr().err.splitlines()
    percents = [int(line.partition("% of 20 windows")[0]) for line in lines]
    assert percents == sorted(set(percents))
    assert lines[-1] == "100% of 20 windows"


def test_stopping_leaves_no_thread_and_no_file(upright, tmp_path):
    import threading

    class Stops(PaintDetector):
        def detect(self, pixels):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detect_objects(upright.path, Stops(), tmp_path / "out.gpkg")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("geodetect-read")]
    assert list(tmp_path.iterdir()) == []


def test_a_grid_far_from_square(tmp_path):
    grid = Grid(SHAPE, UPRIGHT @ Affine.scale(1, 3), UTM)
    found = find(write_raster(tmp_path / "tall.tif", painted(), grid))
    assert rows(found, grid) == rows_of(TRUTH)

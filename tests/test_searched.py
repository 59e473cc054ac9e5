"""The ground that was searched: told in frames and files, and used where labels are counted."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

import geodetect as gd
from geodetect.grid import Grid, Window
from geodetect.scene.ground import ground_of, join_ground
from geodetect.vector.opening import open_features
from geodetect.vector.outputs import SUFFIXES
from geodetect.vector.searched import read_searched_ground
from geodetect.vector.writers import write_features
from tests.fakes import CLASSES, SHAPE, TRANSFORMS, TRUTH, UPRIGHT, UTM, PaintDetector, outlines, painted, write_raster

GRID = Grid(SHAPE, UPRIGHT, UTM)
HOLDING = [suffix for suffix in SUFFIXES if suffix not in (".shp", ".kml", ".csv")]
HEIGHT, WIDTH = SHAPE


def _labels(grid: Grid = GRID) -> gpd.GeoDataFrame:
    polygons = shapely.transform(outlines(TRUTH.xyxy.tolist()), grid.in_plane().to_map)
    return gpd.GeoDataFrame({"label": [CLASSES[k] for k in TRUTH.labels]}, geometry=polygons, crs=grid.crs)


def _on_map(geometry: shapely.Geometry, grid: Grid = GRID) -> shapely.Geometry:
    return shapely.transform(geometry, grid.in_plane().to_map)


def _find(raster: Any, output: Any = None, **keywords: Any) -> Any:
    return gd.detect_objects(raster, PaintDetector(), output, progress=False, **keywords)


def _same(found: Any, expected: shapely.Geometry) -> bool:
    """Whether the ground of detections is this one, to a thousandth of a square metre."""
    ground = read_searched_ground(found)
    assert ground is not None
    return bool(shapely.symmetric_difference(ground.iloc[0], expected).area < 1e-3)


# What is told


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_raster_without_holes_was_searched_all_over(tmp_path: Path, transform: str) -> None:
    grid = Grid(SHAPE, TRANSFORMS[transform], UTM)
    path = write_raster(tmp_path / "a.tif", painted(), grid)
    assert _same(_find(path), shapely.Polygon(grid.corners))
    for suffix in HOLDING:
        assert _same(_find(path, tmp_path / f"found{suffix}"), shapely.Polygon(grid.corners))


def test_formats_without_a_place_for_it_hold_nothing_and_no_file_is_added(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), GRID)
    for suffix in (".kml", ".csv"):
        assert read_searched_ground(_find(path, tmp_path / f"found{suffix}")) is None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tif", "found.csv", "found.kml"]


def test_without_a_crs_it_lies_in_the_rasters_plane(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), Grid(SHAPE))
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        found = _find(path, tmp_path / "found.gpkg")
    ground = read_searched_ground(found)
    assert ground is not None
    assert ground.crs is None
    assert _same(found, shapely.box(0, 0, WIDTH, HEIGHT))


def test_ground_without_data_is_left_out_to_the_pixel(tmp_path: Path) -> None:
    pixels = painted()
    pixels[:, :, :53] = 0
    path = write_raster(tmp_path / "a.tif", pixels, GRID, nodata=0)
    assert _same(_find(path), _on_map(shapely.box(53, 0, WIDTH, HEIGHT)))


def test_nothing_valid_is_nothing_searched(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.zeros((3, *SHAPE), np.uint16), GRID, nodata=0)
    for found in (_find(path), _find(path, tmp_path / "found.gpkg"), _find(path, tmp_path / "found.fgb")):
        assert _same(found, shapely.Polygon())


def test_ground_between_the_files_of_a_mosaic_is_left_out(tmp_path: Path) -> None:
    for x in (0, 160):
        part = GRID.window(Window(x, 0, 64, HEIGHT))
        write_raster(tmp_path / f"{x}.tif", painted()[:, :, x : x + 64], part)
    expected = shapely.union(shapely.box(0, 0, 64, HEIGHT), shapely.box(160, 0, WIDTH, HEIGHT))
    assert _same(_find(tmp_path), _on_map(expected))


def test_only_the_area_of_interest_was_searched(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), GRID)
    aoi = _on_map(shapely.Polygon([(-50, -50), (100, 0), (80, 90)]))
    assert _same(_find(path, aoi=aoi), shapely.intersection(aoi, shapely.Polygon(GRID.corners)))


def test_a_resampled_scene_covers_the_same_ground(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), GRID)
    assert _same(_find(path, pixel_size_m=0.4), shapely.Polygon(GRID.corners))


@given(st.data())
def test_ground_holds_every_valid_pixel_and_no_empty_square(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    valid = np.zeros(shape, bool)
    for _ in range(data.draw(st.integers(1, 5))):
        y, x = (data.draw(st.integers(0, n - 1)) for n in shape)
        valid[y : y + data.draw(st.integers(1, 40)), x : x + data.draw(st.integers(1, 40))] = True
    ground = ground_of(Window(100, 200, shape[1], shape[0]), valid)
    y, x = np.nonzero(valid)
    assert ground.bounds == (100 + x.min(), 200 + y.min(), 101 + x.max(), 201 + y.max())
    assert shapely.covers(ground, shapely.box(100 + x, 200 + y, 101 + x, 201 + y)).all()
    corners = [(x, y) for y in range(0, shape[0], 16) for x in range(0, shape[1], 16)]
    empty = [(x, y) for x, y in corners if not valid[y : y + 16, x : x + 16].any()]
    assert all(
        shapely.intersection(ground, shapely.box(100 + x, 200 + y, 116 + x, 216 + y)).area == 0 for x, y in empty
    )


def test_a_row_of_windows_is_one_rectangle() -> None:
    ground = join_ground([ground_of(Window(x, 0, 64, 64), np.ones((64, 64), bool)) for x in range(0, 400, 40)])
    assert shapely.get_num_coordinates(ground) == 5
    assert join_ground([]).is_empty


def test_the_layer_comes_after_the_detections_and_reads_as_no_label(tmp_path: Path) -> None:
    path = _find(write_raster(tmp_path / "a.tif", painted(), GRID), tmp_path / "zebra.gpkg")
    assert gpd.list_layers(path)["name"].tolist() == ["zebra", "searched", "layer_styles"]
    with pytest.warns(UserWarning, match="More than one layer"):
        assert len(gpd.read_file(path)) == len(TRUTH)
    features = open_features(path)
    assert (len(features.frame), features.note) == (len(TRUTH), "")


def test_files_without_it_say_nothing(tmp_path: Path) -> None:
    _labels().to_file(tmp_path / "a.geojson")
    _labels().to_file(tmp_path / "a.gpkg")
    _labels().to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.geojson").write_text('{"type": "FeatureCollection", "geodetect": [1, ')
    for name in ("a.geojson", "a.gpkg", "a.parquet", "b.geojson", "missing.gpkg"):
        assert read_searched_ground(tmp_path / name) is None


def test_a_long_outline_is_read_from_geojson(tmp_path: Path) -> None:
    angle = np.linspace(0, 2 * np.pi, 20_000)
    circle = shapely.Polygon(np.column_stack([353_000 + 1e4 * np.cos(angle), 3_057_000 + 1e4 * np.sin(angle)]))
    path = write_features(_labels(), tmp_path / "a.geojson", about={"crs": "EPSG:32645"}, searched=circle)
    assert _same(path, circle)


# What it is used for


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """A scene of which only the right half was taken: five of nine labels lie in it."""
    pixels = painted()
    pixels[:, :, :112] = 0
    return write_raster(tmp_path / "half.tif", pixels, GRID, nodata=0)


@pytest.mark.parametrize("suffix", [None, *HOLDING])
def test_labels_elsewhere_are_not_counted_as_missed(half: Path, tmp_path: Path, suffix: str | None) -> None:
    found = _find(half, None if suffix is None else tmp_path / f"found{suffix}")
    n_inside = int((TRUTH.centres[:, 0] > 112).sum())
    name = "the frame of detections" if suffix is None else rf"found\{suffix}"
    with pytest.warns(UserWarning, match=rf"^{9 - n_inside} of 9 labels lie outside .* {name} says was searched"):
        table = gd.compute_accuracy(found, _labels()).table
    assert table.loc["all", ["tp", "fp", "fn"]].tolist() == [n_inside, len(open_features(found).frame) - n_inside, 0]


def test_an_aoi_takes_its_place(half: Path) -> None:
    whole = _on_map(shapely.box(0, 0, WIDTH, HEIGHT))
    table = gd.compute_accuracy(_find(half), _labels(), aoi=whole).table
    assert table.loc["all", ["tp", "fn"]].sum() == 9


def test_nothing_is_said_where_no_label_lies_elsewhere(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), GRID)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gd.compute_accuracy(_find(path), _labels()).table.loc["all", "tp"] == 9


def test_it_is_that_of_the_run_with_the_same_area_given_by_hand(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), GRID)
    aoi = _on_map(shapely.box(20, 10, 125, 100))
    found = _find(path, tmp_path / "found.gpkg", aoi=aoi)
    by_hand = gd.compute_accuracy(found, _labels(), aoi=aoi)
    with pytest.warns(UserWarning, match="of 9 labels lie outside"):
        by_itself = gd.compute_accuracy(found, _labels())
    assert by_itself.table.equals(by_hand.table)
    assert by_itself.features.drop(columns="id").equals(by_hand.features.drop(columns="id"))


def test_a_frame_that_was_filtered_or_reprojected_still_says_where(half: Path) -> None:
    found = _find(half)
    for frame in (found[found["score"] > 0.1], found.to_crs(4326), found.sort_values("score"), found.copy()):
        assert _same(frame, _on_map(shapely.box(112, 0, WIDTH, HEIGHT)))
        with pytest.warns(UserWarning, match="labels lie outside"):
            assert gd.compute_accuracy(frame, _labels()).table.loc["all", "fn"] == 0


def test_several_files_have_the_ground_of_all(tmp_path: Path) -> None:
    paths = []
    for x in (0, 112):
        part = GRID.window(Window(x, 0, 112, HEIGHT))
        raster = write_raster(tmp_path / f"{x}.tif", painted()[:, :, x : x + 112], part)
        paths.append(_find(raster, tmp_path / f"{x}.gpkg"))
    assert _same(paths, shapely.Polygon(GRID.corners))
    _labels().to_file(tmp_path / "more.gpkg")
    assert read_searched_ground([*paths, tmp_path / "more.gpkg"]) is None
    assert _same(f"{paths[0]}|layername=0", shapely.Polygon(GRID.window(Window(0, 0, 112, HEIGHT)).corners))


def test_a_journal_keeps_it(tmp_path: Path, half: Path) -> None:
    class Stops(PaintDetector):
        n = 0

        def detect(self, pixels: Any) -> Any:
            Stops.n += 1
            if Stops.n == 3:
                raise KeyboardInterrupt
            return super().detect(pixels)

    keywords = {"batch_size": 1, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        gd.detect_objects(half, Stops(), tmp_path / "found.gpkg", **keywords)
    found = gd.detect_objects(half, Stops(), tmp_path / "found.gpkg", resume=True, **keywords)
    assert _same(found, _on_map(shapely.box(112, 0, WIDTH, HEIGHT)))


def test_the_page_takes_it_and_an_aoi(half: Path) -> None:
    found, aoi = _find(half), _on_map(shapely.box(112, 0, WIDTH, 80))
    with pytest.warns(UserWarning, match="labels lie outside"):
        gd.view(half, found, _labels())
    inside = shapely.intersects(aoi, found.geometry.centroid.to_numpy())
    assert 0 < inside.sum() < len(found)
    named = found.assign(label=np.where(inside, "within the aoi", "beyond the aoi"))
    for labels in (None, _labels()):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no class of the detections")
            page = gd.view(half, named, labels, aoi=aoi).html
        assert ("within the aoi" in page, "beyond the aoi" in page) == (True, False)

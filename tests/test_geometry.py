"""Geometries as arrays, and boxes across 180 degrees in the formats whose standards ask for degrees."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.grid import Grid
from geodetect.vector.geometry import cut_at_180, join_cut
from geodetect.vector.opening import open_features
from geodetect.vector.writers import write_features
from tests.fakes import PaintDetector, labels_on, painted, write_raster


@pytest.mark.parametrize(
    ("bounds", "parts"),
    [
        ([10, 0, 11, 1], [[10, 0, 11, 1]]),
        ([-180, 0, 180, 1], [[-180, 0, 180, 1]]),
        ([179, 0, 181, 1], [[179, 0, 180, 1], [-180, 0, -179, 1]]),
        ([-181, 0, -179, 1], [[179, 0, 180, 1], [-180, 0, -179, 1]]),
        ([190, 0, 191, 1], [[-170, 0, -169, 1]]),  # of a raster from 0 to 360 degrees
        ([539, 0, 541, 1], [[179, 0, 180, 1], [-180, 0, -179, 1]]),
        ([180, 0, 181, 1], [[-180, 0, -179, 1]]),
    ],
)
def test_polygons_are_cut(bounds: list[float], parts: list[list[float]]) -> None:
    (cut,) = cut_at_180(np.array([shapely.box(*bounds)], object), reprojected=False)
    assert shapely.equals(cut, shapely.union_all([shapely.box(*part) for part in parts]))


def test_corners_that_reprojection_put_at_both_ends_belong_together() -> None:
    torn = shapely.Polygon([(179.9, 0), (-179.9, 0), (-179.9, 1), (179.9, 1)])
    (cut,) = cut_at_180(np.array([torn], object), reprojected=True)
    assert cut.geom_type == "MultiPolygon"
    assert [part.bounds for part in cut.geoms] == [(179.9, 0, 180, 1), (-180, 0, -179.9, 1)]


@pytest.mark.parametrize("epsg", [32660, 32601, 3832])
@pytest.mark.parametrize("suffix", [".kml", ".geojson"])
def test_a_scene_across_180_degrees(tmp_path: Path, epsg: int, suffix: str) -> None:
    crs = CRS.from_epsg(epsg)
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(180, -17)
    truth = Boxes([[20, 20, 40, 40], [90, 40, 110, 60], [150, 60, 170, 80]], [0, 0, 0])  # the second on the line
    grid = Grid((100, 200), Affine(1, 0, round(x) - 100, 0, -1, round(y) + 50), crs)
    scene = write_raster(tmp_path / "scene.tif", painted((100, 200), truth), grid)
    found = open_features(gd.detect_objects(scene, PaintDetector(), tmp_path / f"found{suffix}", progress=False)).frame
    assert sorted(found.geom_type) == ["MultiPolygon", "Polygon", "Polygon"]
    parts = found.geometry.explode()
    assert parts.bounds.abs().to_numpy()[:, [0, 2]].max() <= 180
    assert (parts.bounds["maxx"] - parts.bounds["minx"]).max() < 0.001
    back = np.sort(found.to_crs(crs).area)
    assert back == pytest.approx([400, 400, 400], rel=1e-3)
    centres = shapely.centroid(parts.to_crs(crs).to_numpy())
    on_scene = shapely.box(*grid.bounds)
    assert shapely.contains(on_scene, centres).all()


@pytest.mark.parametrize("west", [179.9, -180.1], ids=["from the west", "from the east"])
@pytest.mark.parametrize("truth", ["geojson", "kml", "gpkg", "frame"])
@pytest.mark.parametrize("found", ["geojson", "kml", "gpkg", "frame"])
def test_boxes_that_were_cut_match_those_that_were_not(tmp_path: Path, west: float, truth: str, found: str) -> None:
    boxes = Boxes([[20, 20, 40, 40], [90, 40, 110, 60], [150, 60, 170, 80]], [0, 0, 0])
    grid = Grid((100, 200), Affine(0.001, 0, west, 0, -0.001, 0.05), CRS.from_epsg(4326))
    scene = write_raster(tmp_path / "scene.tif", painted((100, 200), boxes), grid)
    features = gd.detect_objects(scene, PaintDetector(), progress=False)
    sides = [
        features if kind == "frame" else write_features(features, tmp_path / f"{name}.{kind}")
        for name, kind in {"found": found, "truth": truth}.items()
    ]
    table = gd.compute_accuracy(*sides).table
    assert table.loc["all", ["tp", "fp", "fn"]].tolist() == [3, 0, 0]
    area = (west + 0.088, -0.05, west + 0.112, 0.05)  # around the one on the line
    table = gd.compute_accuracy(sides[0], sides[1], aoi=gpd.GeoSeries([shapely.box(*area)], crs=4326)).table
    assert table.loc["all", ["tp", "fp", "fn"]].tolist() == [1, 0, 0]


@pytest.mark.parametrize("west", [179.9, -180.1, 539.9])
@pytest.mark.parametrize("suffix", [".geojson", ".kml", ".gpkg"])
def test_labels_that_were_cut_are_one_object(tmp_path: Path, west: float, suffix: str) -> None:
    grid = Grid((100, 200), Affine(0.001, 0, west, 0, -0.001, 0.05), CRS.from_epsg(4326))
    scene = write_raster(tmp_path / "scene.tif", painted((100, 200)), grid)
    on_line = gpd.GeoDataFrame({"label": ["a"]}, geometry=[shapely.box(179.99, 0, 180.01, 0.02)], crs=4326)
    path = write_features(on_line, tmp_path / f"cut{suffix}")
    labels = labels_on(path, grid)
    assert shapely.bounds(labels.polygons).round(3).tolist() == [[90, 30, 110, 50]]
    assert labels.objects.report == "1 object of 1 class from " + path.name
    found = gd.detect_objects(scene, PaintDetector(), aoi=path, progress=False)
    assert found.attrs["searched"]


def test_only_halves_of_one_object_are_put_together() -> None:
    boxes = [(179, 0, 180, 1), (-180, 5, -179, 6), (-180, 0, 180, 1), (-180, 0, -179, 1)]
    parts = shapely.box(*np.array(boxes, float).T)
    joined, kept = join_cut(parts, np.zeros(4, int))
    assert kept.tolist() == [True, True, True, False]
    assert shapely.get_num_geometries(joined).tolist() == [2, 1, 1, 1]
    _, kept = join_cut(parts, np.arange(4))
    assert kept.all()


def test_rings_of_both_parts_are_right_handed(tmp_path: Path) -> None:
    features = gpd.GeoDataFrame({"label": ["a"]}, geometry=[shapely.box(179, 0, 181, 1)], crs=4326)
    (feature,) = json.loads(write_features(features, tmp_path / "a.geojson").read_text())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    assert all(shapely.LinearRing(part[0]).is_ccw for part in feature["geometry"]["coordinates"])


def test_other_formats_keep_the_scenes_own_longitudes(tmp_path: Path) -> None:
    features = gpd.GeoDataFrame({"label": ["a"]}, geometry=[shapely.box(190, 0, 191, 1)], crs=4326)
    for suffix in (".gpkg", ".parquet", ".fgb", ".csv"):
        frame = open_features(write_features(features, tmp_path / f"a{suffix}")).frame
        assert frame.total_bounds.tolist() == [190, 0, 191, 1]

"""Boxes across 180 degrees, in the formats whose standards ask for degrees."""

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
from geodetect.vector.degrees import cut_at_180
from geodetect.vector.opening import open_features
from geodetect.vector.writers import write_features
from tests.fakes import PaintDetector, painted, write_raster


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

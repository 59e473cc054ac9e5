"""From a GeoTIFF to a file on disk, through everything that lies between."""

import geopandas as gpd
import numpy as np
import pytest
import shapely

from geodetect import detect_objects
from tests.fakes import PaintDetector


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", ".kml"])
def test_every_painted_square_is_in_the_file_to_within_a_pixel(scene, tmp_path, suffix):
    path = detect_objects(scene.path, PaintDetector(), tmp_path / f"found{suffix}", progress=False)
    found = gpd.read_file(path)
    assert found.crs == (4326 if suffix in (".geojson", ".kml") else scene.grid.crs)
    found, truth = found.to_crs(scene.grid.crs), scene.truth
    assert len(found) == len(truth)
    pairs = truth.sjoin_nearest(found.set_geometry(found.centroid), max_distance=0.1, lsuffix="true", rsuffix="found")
    assert len(pairs) == len(truth)
    assert (pairs["label_true"] == pairs["label_found"]).all()
    apart = shapely.hausdorff_distance(truth.geometry, found.geometry.loc[pairs["index_found"]].values)
    assert np.all(apart < 0.5)  # metres, one pixel
    assert np.all(apart < 0.01)  # and in truth to the centimetre: 7 decimals of a degree


def test_detections_are_their_own_truth_again(scene, tmp_path):
    path = detect_objects(scene.path, PaintDetector(), tmp_path / "found.gpkg", progress=False)
    again = gpd.read_file(path)
    in_memory = detect_objects(scene.path, PaintDetector(), progress=False)
    assert again["label"].tolist() == in_memory["label"].tolist()
    assert again["score"].tolist() == in_memory["score"].tolist()
    assert shapely.equals(again.geometry.values, in_memory.geometry.values).all()

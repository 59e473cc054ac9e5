"""Features in every format, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from hypothesis import HealthCheck, given, settings

from geodetect.boxes import Boxes
from geodetect.errors import OutputError
from geodetect.vector.opening import open_features
from geodetect.vector.writers import check_output, write_features
from tests.fakes import ROTATED, UTM, PaintedScene, full_disk, outlines
from tests.strategies import boxes

SUFFIXES = [".gpkg", ".geojson", ".shp", ".fgb", ".parquet", ".kml", ".csv"]
_KML = "{http://www.opengis.net/kml/2.2}"


def _features(n: int = 3, crs: object = UTM) -> gpd.GeoDataFrame:
    corner = np.arange(n) * 10.0
    polygons = shapely.box(353_000 + corner, 3_057_000 + corner, 353_005 + corner, 3_057_004 + corner)
    names = np.array(["car", "Häuser, 2", "船"])[np.arange(n) % 3]
    return gpd.GeoDataFrame({"label": names, "score": 0.9 - np.arange(n) / 8}, geometry=polygons, crs=crs)


def _read(path: Path) -> gpd.GeoDataFrame:
    """The features of a file, from west to east: FlatGeobuf puts them into the order of its index."""
    frame = open_features(path).frame
    return frame.iloc[np.argsort(frame.bounds["minx"].to_numpy(), kind="stable")].reset_index(drop=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    features = _features()
    path = write_features(features, tmp_path / f"found{suffix}")
    got = _read(path)
    assert path == tmp_path / f"found{suffix}"
    assert got["label"].tolist() == features["label"].tolist()
    assert got["score"].tolist() == pytest.approx(features["score"].tolist())
    back = got.set_crs(UTM) if suffix == ".csv" else got.to_crs(UTM)
    # 7 decimals of a degree are 11 mm on the ground, so a corner is off by half of that at most.
    assert np.allclose(back.bounds, features.bounds, atol=6e-3 if suffix == ".geojson" else 1e-3)
    assert (back.geom_type == "Polygon").all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_crs_is_kept_but_where_the_standard_forbids(tmp_path: Path, suffix: str) -> None:
    crs = _read(write_features(_features(), tmp_path / f"found{suffix}")).crs
    expected = {".geojson": 4326, ".kml": 4326, ".csv": None}.get(suffix, 32645)
    assert (crs and crs.to_epsg()) == expected


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_found_is_a_valid_file(tmp_path: Path, suffix: str) -> None:
    path = write_features(_features(0), tmp_path / f"none{suffix}")
    got = _read(path)
    assert len(got) == 0
    if suffix not in (".geojson", ".kml"):  # these have columns only where they have rows
        assert [*got.columns] == ["label", "score", "geometry"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_stream_of_frames_is_one_file(tmp_path: Path, suffix: str) -> None:
    features = _features(7)
    parts = (features.iloc[start:stop] for start, stop in [(0, 2), (2, 2), (2, 7)])
    got = _read(write_features(parts, tmp_path / f"found{suffix}"))
    assert got["label"].tolist() == features["label"].tolist()
    assert len(_read(write_features(iter([]), tmp_path / "none.gpkg"))) == 0


@pytest.mark.parametrize("suffix", [suffix for suffix in SUFFIXES if suffix != ".kml"])
def test_without_a_crs_nothing_is_said_of_one(tmp_path: Path, suffix: str) -> None:
    path = write_features(_features(crs=None), tmp_path / f"plane{suffix}")
    got = _read(path)
    assert np.allclose(got.bounds, _features().bounds)
    if suffix == ".geojson":
        assert "crs" not in json.loads(path.read_text())
    else:
        assert got.crs is None


def test_kml_without_a_crs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"KML is in WGS 84 by definition.*write plane\.gpkg instead"):
        write_features(_features(crs=None), tmp_path / "plane.kml")
    assert not list(tmp_path.iterdir())


@given(boxes(max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_rotated_boxes_survive_to_the_millimetre(tmp_path: Path, upright: PaintedScene, boxes: Boxes) -> None:
    whole = boxes[(boxes.sizes > 0).all(axis=1)]
    grid = upright.grid.__class__(upright.grid.shape, ROTATED, UTM)
    polygons = shapely.transform(outlines(whole.xyxy.tolist()), grid.to_map)
    features = gpd.GeoDataFrame({"label": whole.labels.astype(str), "score": whole.scores}, geometry=polygons, crs=UTM)
    for suffix in (".gpkg", ".csv"):
        got = _read(write_features(features, tmp_path / f"found{suffix}"))
        back = shapely.transform(got.geometry.to_numpy(), grid.to_pixel)
        assert np.allclose(np.sort(shapely.bounds(back), axis=0), np.sort(whole.xyxy, axis=0), atol=1e-5)


# What each format promises


def test_geojson_is_rfc_7946(tmp_path: Path) -> None:
    content = json.loads(write_features(_features(), tmp_path / "found.geojson").read_text())
    assert "crs" not in content
    for feature in content["features"]:
        ring = np.array(feature["geometry"]["coordinates"][0])
        assert shapely.LinearRing(ring).is_ccw
        assert np.array_equal(ring, ring.round(7))
        assert np.abs(ring - [85.5, 27.6]).max() < 0.1
        assert set(feature["properties"]) == {"label", "score"}


def test_kml_has_the_label_as_name_and_both_as_data(tmp_path: Path) -> None:
    tree = ElementTree.parse(write_features(_features(), tmp_path / "found.kml"))
    marks = [*tree.iter(f"{_KML}Placemark")]
    assert [mark.findtext(f"{_KML}name") for mark in marks] == _features()["label"].tolist()
    data = [{item.get("name"): item.text for item in mark.iter(f"{_KML}SimpleData")} for mark in marks]
    assert [row["label"] for row in data] == _features()["label"].tolist()
    assert [float(row["score"] or "nan") for row in data] == pytest.approx(_features()["score"].tolist())


def test_csv_is_label_score_and_wkt(tmp_path: Path) -> None:
    path = write_features(_features()[["score", "geometry", "label"]], tmp_path / "found.csv")
    assert path.read_text(encoding="utf-8-sig").splitlines()[0] == "label,score,WKT"
    table = pd.read_csv(path)
    assert shapely.equals(shapely.from_wkt(table["WKT"].tolist()), _features().geometry.to_numpy()).all()


def test_a_shapefile_says_that_it_is_utf_8(tmp_path: Path) -> None:
    write_features(_features(), tmp_path / "found.shp")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".cpg", ".dbf", ".prj", ".shp", ".shx"]
    assert (tmp_path / "found.cpg").read_text() == "UTF-8"


def test_a_shapefile_cuts_names_to_ten_characters_and_says_so(tmp_path: Path) -> None:
    features = _features().assign(height_above_sea=[1.0, 2.0, 3.0], height_above_ground=[4.0, 5.0, 6.0])
    with pytest.warns(RuntimeWarning, match=r"'height_above_\w+' to 'height_a"):
        got = _read(write_features(features, tmp_path / "found.shp"))
    assert got["height_abo"].tolist() == [1, 2, 3]
    assert got["height_a_1"].tolist() == [4, 5, 6]


def test_facts_go_where_a_format_has_a_place_for_them(tmp_path: Path) -> None:
    about = {"raster": "Häuser.tif", "overlap": 64}
    for suffix in SUFFIXES:
        path = write_features(_features(), tmp_path / f"found{suffix}", about=about)
        assert len(_read(path)) == 3
    told = pyogrio.read_info(tmp_path / "found.gpkg")["layer_metadata"]["geodetect"]
    assert json.loads(told) == json.loads(pq.read_schema(tmp_path / "found.parquet").metadata[b"geodetect"]) == about


def test_what_is_not_complete_lies_where_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()

    def parts() -> Iterator[gpd.GeoDataFrame]:
        yield _features(2)
        assert [file.name for file in tmp_path.iterdir()] == ["work"]
        assert len(list((tmp_path / "work").iterdir())) == 1

    write_features(parts(), tmp_path / "found.fgb", workplace=tmp_path / "work")
    assert not list((tmp_path / "work").iterdir())


def test_parquet_opens_in_geopandas(tmp_path: Path) -> None:
    got = gpd.read_parquet(write_features(_features(), tmp_path / "found.parquet"))
    assert got.crs == UTM
    assert got.geometry.geom_equals(_features().geometry).all()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_other_columns_and_missing_values_are_kept(tmp_path: Path, suffix: str) -> None:
    features = _features().assign(outcome=["TP", "FP", None], n=[1, 2, 3], score=[0.5, np.nan, 0.25])
    got = _read(write_features(features, tmp_path / f"found{suffix}"))
    assert got["n"].astype(int).tolist() == [1, 2, 3]
    assert got["outcome"].tolist()[:2] == ["TP", "FP"]
    assert got["score"].isna().tolist() == [False, True, False]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_polygons_and_multipolygons_go_together(tmp_path: Path, suffix: str) -> None:
    features = _features()
    first, *rest = features.geometry.tolist()
    features = features.iloc[:2].set_geometry([first, shapely.multipolygons(rest)], crs=UTM)
    got = _read(write_features(features, tmp_path / f"found{suffix}"))
    assert shapely.get_num_geometries(got.geometry.to_numpy()).tolist() == [1, 2]


# Whole or not at all


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_older_file_is_replaced(tmp_path: Path, suffix: str) -> None:
    path = write_features(_features(5), tmp_path / f"found{suffix}")
    names = {file.name for file in tmp_path.iterdir()}
    write_features(_features(2), path)
    assert len(_read(path)) == 2
    assert {file.name for file in tmp_path.iterdir()} == names


def test_no_part_of_an_older_shapefile_stays(tmp_path: Path) -> None:
    for suffix in (".prj", ".sbn", ".qix"):
        (tmp_path / f"found{suffix}").write_text("old")
    (tmp_path / "found.txt").write_text("notes")
    path = write_features(_features(crs=None), tmp_path / "found.shp")
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".cpg", ".dbf", ".shp", ".shx", ".txt"]
    assert _read(path).crs is None


class _Broken(RuntimeError):
    pass


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_stream_that_breaks_leaves_the_older_file(tmp_path: Path, suffix: str) -> None:
    path = write_features(_features(5), tmp_path / f"found{suffix}")
    names = {file.name for file in tmp_path.iterdir()}

    def parts() -> Iterator[gpd.GeoDataFrame]:
        yield _features(2)
        raise _Broken("the power went")

    with pytest.raises(OutputError, match="cannot be written: the power went"):
        write_features(parts(), path)
    assert len(_read(path)) == 5
    assert {file.name for file in tmp_path.iterdir()} == names


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    n = 20_000
    columns = {"label": ["x"] * n, "score": np.ones(n)}
    frame = gpd.GeoDataFrame(columns, geometry=shapely.box(0, 0, np.arange(n) + 1.0, 1), crs=32645)
    with full_disk(200_000), pytest.raises(OutputError):
        write_features(frame, tmp_path / f"found{suffix}")
    assert not list(tmp_path.iterdir())


def test_what_wgs_84_cannot_hold_is_refused(tmp_path: Path) -> None:
    features = gpd.GeoDataFrame({"label": ["x"]}, geometry=[shapely.box(1e30, 1e30, 2e30, 2e30)], crs=UTM)
    for suffix in (".geojson", ".kml"):
        with pytest.raises(OutputError, match=r"no place in WGS 84.*write a \.gpkg instead"):
            write_features(features, tmp_path / f"found{suffix}")
    assert not list(tmp_path.iterdir())


# Asked before hours of work


def test_unknown_suffixes_name_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"found\.xyz should end in one of \.gpkg \.geojson .* got '\.xyz'"):
        check_output(tmp_path / "found.xyz")
    with pytest.raises(OutputError, match="got 'no suffix'"):
        check_output(tmp_path / "found")


def test_folders_that_cannot_take_the_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"there is no folder .*missing to write found\.gpkg into"):
        check_output(tmp_path / "missing" / "found.gpkg")
    (tmp_path / "folder.gpkg").mkdir()
    with pytest.raises(OutputError, match="is a folder; give the name of a file"):
        check_output(tmp_path / "folder.gpkg")
    assert check_output(str(tmp_path / "FOUND.GPKG")) == tmp_path / "FOUND.GPKG"

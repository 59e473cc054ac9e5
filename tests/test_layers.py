"""Which layer of a vector file is read, and what is said where there are several."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from geodetect.errors import ArgumentError, LabelsError
from geodetect.vector.areas import read_area
from geodetect.vector.layers import VectorFile
from geodetect.vector.opening import list_paths, open_features
from geodetect.vector.writers import write_features
from tests.fakes import UTM, PaintedScene


def roofs(n: int, **columns: object) -> gpd.GeoDataFrame:
    """Squares of 10 m in a row."""
    x = np.arange(n) * 20.0
    return gpd.GeoDataFrame({"label": ["roof"] * n, **columns}, geometry=shapely.box(x, 0, x + 10, 10), crs=UTM)


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """A GeoPackage of a table and two layers, of 2 and of 9 roofs."""
    path = tmp_path / "town.gpkg"
    pyogrio.write_dataframe(pd.DataFrame({"text": ["surveyed"]}), path, layer="notes")
    roofs(2).to_file(path, layer="2019")
    roofs(9, floors=range(9)).to_file(path, layer="2024")
    return path


@pytest.mark.parametrize(
    ("options", "layer", "n"),
    [
        ("", "2024", 9),
        ("", "2019", 2),
        ("", 1, 9),  # GDAL and QGIS count from 0, tables without geometry last
        ("", "1", 9),
        ("", 2019, 2),  # no such number, but such a name
        ("", np.int64(0), 2),
        ("|layername=2024", None, 9),
        ("|layername=2024", "2024", 9),
        ("|layerid=0", None, 2),
        ("|layername=2024|subset=floors > 5", None, 3),
        ("|subset=\"floors\" > 5 AND 'a' || 'b' = 'ab'", "2024", 3),
        ("|layername=2024|uniqueGeometryType=yes", None, 9),
    ],
)
def test_a_layer_is_chosen_by_name_or_number(town: Path, options: str, layer: str | int | None, n: int) -> None:
    features = open_features(f"{town}{options}", layer=layer)
    assert len(features.frame) == n
    assert (features.name, features.stem, features.note) == ("town.gpkg", "town", "")


def test_of_several_layers_the_first_is_read_and_all_are_named(town: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"town\.gpkg has several layers: 2019, 2024; 2019 .* town\.gpkg\|layername=2024"
    ) as caught:
        features = open_features(town)
    assert [each.filename for each in caught] == [__file__]
    assert len(features.frame) == 2
    assert features.note == "read layer 2019 of 2019, 2024"


@pytest.mark.parametrize(
    ("options", "layer", "told"),
    [
        ("", "2025", r"town\.gpkg has no layer '2025'; it has 2019, 2024, notes"),
        ("", 3, r"no layer 3; it has 2019, 2024, notes"),
        ("|layername=2025", None, r"no layer '2025'; it has"),
        ("", "notes", r"layer 'notes' of town\.gpkg has no geometry; choose one that has: 2019, 2024"),
        ("|layerid=2", None, r"layer 'notes' of town\.gpkg has no geometry"),
        ("|layerid=first", None, r"\|layerid=NUMBER"),
        ("|geometrytype=Polygon", None, r"only \|layername=NAME, \|layerid=NUMBER and \|subset=CONDITION"),
        ("|layername=2024|subset=storeys > 5", None, r"town\.gpkg cannot be read as a vector file: .*storeys"),
    ],
)
def test_a_layer_that_cannot_be_read_is_refused(town: Path, options: str, layer: str | int | None, told: str) -> None:
    with pytest.raises(LabelsError, match=told):
        open_features(f"{town}{options}", layer=layer)


@pytest.mark.parametrize("layer", [-1, 1.5, True, ["2024"]])
def test_what_is_no_layer_is_refused(town: Path, layer: object) -> None:
    with pytest.raises(ArgumentError, match="layer must be the name of a layer, or its number from 0"):
        open_features(town, layer=layer)  # type: ignore[arg-type]


def test_a_layer_is_chosen_once_and_of_files_that_have_some(town: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"layer='2019' contradicts .*2024"):
        open_features(f"{town}|layername=2024", layer="2019")
    with pytest.raises(ArgumentError, match="layer='2019' cannot be applied to a frame of labels"):
        open_features(roofs(1), layer="2019")
    roofs(1).to_parquet(tmp_path / "roofs.parquet")
    with pytest.raises(LabelsError, match=r"roofs\.parquet has no layers"):
        open_features(tmp_path / "roofs.parquet", layer=0)


def test_a_name_with_a_bar_is_a_file_where_there_is_one(town: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a|layername=b.geojson"
    write_features(roofs(3), odd.with_name("c.geojson")).rename(odd)
    assert VectorFile.parse(odd) == VectorFile(str(odd))
    assert len(open_features(odd).frame) == 3


def test_several_files_have_a_layer_each(town: Path, tmp_path: Path) -> None:
    write_features(roofs(3), tmp_path / "village.geojson")
    several = [f"{town}|layername=2024", f"{town}|layerid=0", tmp_path / "village.geojson"]
    assert len(open_features(several).frame) == 9 + 2 + 3
    assert len(open_features(f"{tmp_path}/*.gpkg|layername=2024").frame) == 9
    assert list_paths(several) == [str(town), str(town), str(tmp_path / "village.geojson")]
    with pytest.raises(LabelsError, match=r"village\.geojson has no layer '2024'"):
        open_features([town, tmp_path / "village.geojson"], layer="2024")


@pytest.mark.parametrize("suffix", [".gdb", ".sqlite", ".kml"])
def test_other_files_have_layers_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"town{suffix}"
    driver = {".gdb": "OpenFileGDB", ".sqlite": "SQLite", ".kml": "LIBKML"}[suffix]
    for name, n in (("old", 2), ("new", 9)):  # a folder each in KML
        roofs(n).to_crs(4326).to_file(path, layer=name, driver=driver)
    with pytest.warns(UserWarning, match=r"several layers: old, new; old is read"):
        assert len(open_features(path).frame) == 2
    assert len(open_features(path, layer="new").frame) == 9


def test_shapefiles_in_an_archive_are_its_layers(tmp_path: Path) -> None:
    for name, n in (("old", 2), ("new", 9)):
        roofs(n).to_file(tmp_path / f"{name}.shp")
    flat, deep = tmp_path / "flat.zip", tmp_path / "deep.zip"
    for path, folder in ((flat, ""), (deep, "data/")):
        with ZipFile(path, "w") as archive:
            for part in sorted(tmp_path.glob("[on][le][dw].*")):
                archive.write(part, f"{folder}{part.name}")
    with pytest.warns(UserWarning, match="several layers: (old, new|new, old)"):
        open_features(flat)
    assert len(open_features(flat, layer="new").frame) == 9
    with pytest.raises(LabelsError, match=rf"give one of the files in it, such as /vsizip/{deep}/data/new\.shp"):
        open_features(deep)
    assert len(open_features(f"/vsizip/{deep}/data/new.shp").frame) == 9


def test_empty_layers_do_not_count(tmp_path: Path) -> None:
    # GPX always has five layers: waypoints, routes, tracks and the points of both.
    points = roofs(3).set_geometry(roofs(3).centroid).to_crs(4326)[["geometry"]]
    points.to_file(tmp_path / "walk.gpx", driver="GPX")
    assert len(open_features(tmp_path / "walk.gpx").frame) == 3
    roofs(0).to_file(tmp_path / "town.gpkg", layer="drafts")
    roofs(2).to_file(tmp_path / "town.gpkg", layer="roofs")
    assert len(open_features(tmp_path / "town.gpkg").frame) == 2


@pytest.mark.parametrize("n", [0, 3])
def test_what_our_own_files_hold_besides_is_no_other_layer(tmp_path: Path, n: int) -> None:
    path = write_features(roofs(n).assign(score=0.9), tmp_path / "found.gpkg")  # which has a table of styles
    roofs(1).drop(columns="label").to_file(path, layer="searched", mode="w")
    assert "layer_styles" in pyogrio.list_layers(path)[:, 0]
    assert len(open_features(path).frame) == n
    assert len(open_features(f"{path}|layername=searched").frame) == 1


def test_an_area_may_be_a_layer(upright: PaintedScene, tmp_path: Path) -> None:
    path = tmp_path / "zones.gpkg"
    for name, box in (("west", [0, 0, 90, 160]), ("east", [90, 0, 224, 160])):
        corners = upright.grid.to_map(np.array(box, float).reshape(2, 2))
        gpd.GeoDataFrame(geometry=[shapely.box(*corners.ravel())], crs=UTM).to_file(path, layer=name)
    with pytest.warns(UserWarning, match=r"zones\.gpkg has several layers: west, east"):
        assert read_area(path, upright.grid).bounds == (0, 0, 90, 160)
    assert read_area(f"{path}|layername=east", upright.grid).bounds == (90, 0, 224, 160)
    with pytest.raises(LabelsError, match=r"aoi: zones\.gpkg has no layer 'north'"):
        read_area(f"{path}|layername=north", upright.grid)

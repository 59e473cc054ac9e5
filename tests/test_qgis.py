"""The style in a GeoPackage; that QGIS takes it was looked at in QGIS 3.22 (see tests/benchmarks/RESULTS.md)."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import pytest
import shapely

from geodetect.colours import class_colours
from geodetect.vector.opening import open_features
from geodetect.vector.qgis import add_style
from geodetect.vector.writers import write_features
from tests.fakes import UTM

LABELS = ["pool", 'a "b" <c>', "船"]


def _features(columns: dict[str, list[object]]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=shapely.box([0, 9, 20], 0, [5, 12, 25], 5), crs=UTM)


def _row(path: Path) -> dict[str, object]:
    """The one style of a GeoPackage."""
    with closing(sqlite3.connect(path)) as database:
        database.row_factory = sqlite3.Row
        (row,) = database.execute("SELECT * FROM layer_styles")
    return dict(row)


def test_a_geopackage_brings_its_style(tmp_path: Path) -> None:
    path = write_features(_features({"label": LABELS, "score": [0.9, 0.8, 0.7]}), tmp_path / "it's found.gpkg")
    row = _row(path)
    assert (row["f_table_name"], row["f_geometry_column"], row["useAsDefault"]) == ("it's found", "geom", 1)
    style = ElementTree.fromstring(str(row["styleQML"]))
    renderer = style.find("renderer-v2")
    assert renderer is not None
    assert (renderer.get("type"), renderer.get("attr")) == ("categorizedSymbol", "label")
    assert [each.get("value") for each in renderer.iter("category")] == sorted(LABELS)
    for name, symbol in zip(sorted(LABELS), renderer.iter("symbol"), strict=True):
        *_, (colour,) = [[each.get("v") for each in layer.findall("prop[@k='line_color']")] for layer in symbol]
        assert colour == ",".join(map(str, (*bytes.fromhex(class_colours(sorted(LABELS))[name][1:]), 255)))
    text = style.find("labeling/settings/text-style")
    rendering = style.find("labeling/settings/rendering")
    assert text is not None
    assert rendering is not None
    assert text.get("fieldName") == 'format_number("score", 2)'
    assert [rendering.get(name) for name in ("scaleVisibility", "scaleMin", "scaleMax")] == ["1", "0", "5000"]


def test_readers_that_ask_for_no_layer_get_the_features(tmp_path: Path) -> None:
    """QGIS finds a style only in a table that is listed as a layer, so there are two of them; ours is the first."""
    path = write_features(_features({"label": LABELS, "score": [0.9, 0.8, 0.7]}), tmp_path / "found.gpkg")
    assert gpd.list_layers(path)["name"].tolist() == ["found", "layer_styles"]
    with pytest.warns(UserWarning, match="More than one layer"):
        assert gpd.read_file(path)["label"].tolist() == LABELS
    assert open_features(path).frame["label"].tolist() == LABELS


def test_the_model_says_which_class_has_which_colour(tmp_path: Path) -> None:
    path = tmp_path / "found.gpkg"
    _features({"label": ["car", "pool", "car"]}).to_file(path)
    add_style(path, ["pool", "tree", "car"])
    style = ElementTree.fromstring(str(_row(path)["styleQML"]))
    assert [each.get("value") for each in style.iter("category")] == ["pool", "tree", "car"]
    assert style.find("labeling") is None  # no scores, nothing to write


@pytest.mark.parametrize("columns", [{}, {"score": [0.5, 0.4, 0.3]}])
def test_features_without_labels_have_no_style(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    path = write_features(_features(columns), tmp_path / "found.gpkg")
    with closing(sqlite3.connect(path)) as database:
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'layer_styles'").fetchall()


def test_no_features_have_a_style_too(tmp_path: Path) -> None:
    path = write_features([], tmp_path / "found.gpkg")
    assert "categorizedSymbol" in str(_row(path)["styleQML"])

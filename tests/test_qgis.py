"""The styles in a GeoPackage, and what QGIS makes of them, where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree

import geopandas as gpd
import pytest
import shapely

import geodetect as gd
from geodetect.colours import OUTCOMES, class_colours
from geodetect.vector.opening import open_features
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


@pytest.mark.parametrize("columns", [{}, {"score": [0.5, 0.4, 0.3]}])
def test_features_without_labels_have_no_style(tmp_path: Path, columns: dict[str, list[object]]) -> None:
    path = write_features(_features(columns), tmp_path / "found.gpkg")
    with closing(sqlite3.connect(path)) as database:
        assert not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'layer_styles'").fetchall()


def test_no_features_have_a_style_too(tmp_path: Path) -> None:
    path = write_features([], tmp_path / "found.gpkg")
    assert "categorizedSymbol" in str(_row(path)["styleQML"])


def _styles(path: Path) -> dict[str, ElementTree.Element]:
    """The style of each layer."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT f_table_name, styleQML FROM layer_styles").fetchall()
    return {name: ElementTree.fromstring(text) for name, text in rows}


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    """A folder with a map of detections and the ground that was searched, and one of their accuracy."""
    found = _features({"label": ["pool", "car", "car"], "score": [0.9, 0.8, 0.7]})
    write_features(found, tmp_path / "found.gpkg", searched=shapely.box(-5, -5, 40, 20))
    truth = gpd.GeoDataFrame(
        {"label": ["pool", "car"]}, geometry=shapely.box([0, 32], [0, 12], [5, 37], [5, 17]), crs=UTM
    )
    gd.compute_accuracy(found, truth).save(tmp_path / "score.gpkg")
    return tmp_path


def test_accuracy_is_styled_by_its_outcomes(maps: Path) -> None:
    (style,) = _styles(maps / "score.gpkg").values()
    renderer = style.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == "outcome"
    told = [(each.get("value"), each.get("label")) for each in renderer.iter("category")]
    assert told == [("TP", "right (TP)"), ("FP", "wrong (FP)"), ("FN", "missed (FN)")]
    for symbol, colour in zip(renderer.iter("symbol"), OUTCOMES.values(), strict=True):
        lines = [each.get("v") for each in symbol.iter("prop") if each.get("k") == "line_color"]
        assert lines[-1] == ",".join(map(str, (*bytes.fromhex(colour[1:]), 255)))
    dashed = [any(prop.get("v") == "dash" for prop in symbol.iter("prop")) for symbol in renderer.iter("symbol")]
    assert dashed == [False, False, True]  # told apart without colours too


def test_the_ground_that_was_searched_is_an_outline(maps: Path) -> None:
    styles = _styles(maps / "found.gpkg")
    assert list(styles) == ["found", "searched"]
    renderer = styles["searched"].find("renderer-v2")
    assert renderer is not None
    assert renderer.get("type") == "singleSymbol"
    assert {each.get("class") for each in renderer.iter("layer")} == {"SimpleLine"}


QGIS = """
import json, os, sys
from qgis.core import QgsApplication, QgsMapRendererParallelJob, QgsMapSettings, QgsRectangle, QgsVectorLayer
from qgis.PyQt.QtCore import QSize

application = QgsApplication([], False)
application.initQgis()
told = {}
for name in ("found", "score", "searched"):
    file = "score.gpkg" if name == "score" else "found.gpkg"
    layer = QgsVectorLayer(f"{sys.argv[1]}/{file}|layername={name}", name, "ogr")
    renderer = layer.renderer()
    categories = [each.value() for each in renderer.categories()] if renderer.type() == "categorizedSymbol" else []
    settings = QgsMapSettings()
    settings.setLayers([layer])
    settings.setDestinationCrs(layer.crs())
    settings.setExtent(QgsRectangle(-10, -10, 40, 40))
    settings.setOutputSize(QSize(500, 500))
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    picture = job.renderedImage()
    dark = lambda box: sum(picture.pixelColor(x, y).lightness() < 128 for x in range(*box[0]) for y in range(*box[1]))
    inside, all_over = dark(((105, 145), (355, 395))), dark(((0, 500), (0, 500)))
    told[name] = [layer.featureCount(), renderer.type(), categories, layer.labelsEnabled(), inside, all_over]
print(json.dumps(told), flush=True)
os._exit(0)  # with layers still there QGIS may crash on its way out
"""
PYTHON = shutil.which("python3", path="/usr/bin")


def test_qgis_takes_the_styles_and_writes_scores_beside_the_boxes(maps: Path) -> None:
    if not PYTHON or subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False).returncode:
        pytest.skip("QGIS is not installed")
    layers = ["found", "score", "searched"]
    # Another PROJ than QGIS' own would be found by the variables that rasterio's wheel sets.
    environment = {name: os.environ[name] for name in ("PATH", "HOME")} | {"QT_QPA_PLATFORM": "offscreen"}
    command = [str(PYTHON), "-c", QGIS, str(maps)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert [told[name][:4] for name in layers] == [
        [3, "categorizedSymbol", ["car", "pool"], True],
        [4, "categorizedSymbol", ["TP", "FP", "FN"], True],
        [1, "singleSymbol", [], False],
    ]
    assert [told[name][4] for name in layers] == [0, 0, 0]  # the inside of the first box is not written over
    assert min(told[name][5] for name in layers) > 100

"""How QGIS shows detections: a style inside the GeoPackage, which it takes by itself when the layer is opened.

QGIS looks for the default style of a layer in a table `layer_styles`, with the columns that it has in PostGIS and
GeoPackage alike: https://docs.qgis.org/latest/en/docs/training_manual/databases/ (and what QGIS itself writes
there with "Save Style > In Database").
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from geodetect.colours import class_colours

_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
    f_table_catalog TEXT(256),
    f_table_schema TEXT(256),
    f_table_name TEXT(256),
    f_geometry_column TEXT(256),
    styleName TEXT(30),
    styleQML TEXT,
    styleSLD TEXT,
    useAsDefault BOOLEAN,
    description TEXT,
    owner TEXT(30),
    ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
"""
# Tables that hold no features are listed as "attributes": https://www.geopackage.org/spec/#attributes
_LISTED = """
INSERT INTO gpkg_contents (table_name, data_type, identifier)
VALUES ('layer_styles', 'attributes', 'layer_styles')
"""
_STYLE = """
INSERT INTO layer_styles
    (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML, styleSLD, useAsDefault,
     description, owner)
VALUES ('', '', ?, ?, 'detections', ?, '', 1, 'Boxes by label; scores from 1:5,000 on', '')
"""
_LABELS_FROM = 5000  # 1 to this many, and closer: a score is then about as wide as a house is
_WIDTH_MM, _CASING_MM = "0.4", "0.9"


def add_style(path: Path, classes: Sequence[str] = ()) -> None:
    """Give the one layer of a GeoPackage its style, where it has a column `label`.

    Args:
        path: a GeoPackage of one layer.
        classes: all that the model knows, in the order that gives them their colours; others follow by name.
    """
    with closing(sqlite3.connect(path)) as database, database:
        table, column = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchone()
        columns = {row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")}
        if "label" not in columns:
            return
        found = database.execute(f"SELECT DISTINCT label FROM {_quoted(table)} WHERE label IS NOT NULL")
        names = [*classes, *sorted({str(name) for (name,) in found} - set(classes))]
        database.execute(_TABLE)
        database.execute(_LISTED)
        database.execute(_STYLE, (table, column, style(class_colours(names), scored="score" in columns)))


def _quoted(name: str) -> str:
    """A name as SQL takes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def style(colours: dict[str, str], *, scored: bool) -> str:
    """A style in QGIS' XML: outlines by label, on a dark casing, and scores beside them from a zoom level on.

    Args:
        colours: of each label, as `#rrggbb`.
        scored: whether there is a column `score`.
    """
    root = Element("qgis", version="3.22.0", styleCategories="Symbology|Labeling", labelsEnabled=str(int(scored)))
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr="label", enableorderby="0")
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for k, (name, colour) in enumerate(colours.items()):
        SubElement(categories, "category", value=name, label=name, symbol=str(k), render="true")
        symbol = SubElement(symbols, "symbol", name=str(k), type="fill", alpha="1")
        _add_line(symbol, "#000000", _CASING_MM, alpha=128)
        _add_line(symbol, colour, _WIDTH_MM)
    if scored:
        _add_labels(root)
    return ElementTree.tostring(root, encoding="unicode")


def _add_line(symbol: Element, colour: str, width_mm: str, alpha: int = 255) -> None:
    """Draw the outline of a symbol once more, over what there is."""
    layer = SubElement(symbol, "layer", {"class": "SimpleLine", "enabled": "1", "pass": "0", "locked": "0"})
    line = {"line_color": _rgba(colour, alpha), "line_width": width_mm, "line_width_unit": "MM", "joinstyle": "miter"}
    options = SubElement(layer, "Option", type="Map")
    for name, value in line.items():
        SubElement(options, "Option", name=name, value=value, type="QString")
        SubElement(layer, "prop", k=name, v=value)  # where QGIS before 3.26 looks


def _rgba(colour: str, alpha: int) -> str:
    return ",".join(str(part) for part in (*bytes.fromhex(colour[1:]), alpha))


def _add_labels(root: Element) -> None:
    """Write the score beside each box, in two decimals, when the map is at least as large as 1:5,000."""
    settings = SubElement(SubElement(root, "labeling", type="simple"), "settings", calloutType="simple")
    text = SubElement(
        settings,
        "text-style",
        fieldName='format_number("score", 2)',
        isExpression="1",
        fontSize="8",
        fontSizeUnit="Point",
        textColor="0,0,0,255",
    )
    SubElement(
        text, "text-buffer", bufferDraw="1", bufferSize="0.7", bufferSizeUnits="MM", bufferColor="255,255,255,255"
    )
    around_centroid, at_some_scales = "0", "1"
    SubElement(settings, "placement", placement=around_centroid, dist="0", distUnits="MM", centroidWhole="0")
    SubElement(
        settings,
        "rendering",
        scaleVisibility=at_some_scales,
        scaleMin="0",
        scaleMax=str(_LABELS_FROM),  # of the number behind "1:", so the smallest map that has scores
        obstacle="0",
    )

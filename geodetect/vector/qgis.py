"""How QGIS shows detections: styles inside the GeoPackage, which it takes by itself when a layer is opened.

QGIS looks for the default style of a layer in a table `layer_styles`, with the columns that it has in PostGIS and
GeoPackage alike: https://docs.qgis.org/latest/en/docs/training_manual/databases/ (and what QGIS itself writes
there with "Save Style > In Database").
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from geodetect.colours import OUTCOMES, class_colours
from geodetect.vector.outputs import SEARCHED

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
VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '')
"""
_LABELS_FROM = 5000  # 1 to this many, and closer: a score is then about as wide as a house is
_WIDTH_MM, _CASING_MM = "0.4", "0.9"
_GREY = "#505050"


@dataclass(frozen=True)
class _Category:
    """One of the kinds of features that are drawn alike.

    Args:
        value: of the column that tells kinds apart.
        name: what the legend calls it.
        colour: as `#rrggbb`.
        dashed: whether its outline is.
    """

    value: str
    name: str
    colour: str
    dashed: bool = False


_OUTCOMES = [
    _Category("TP", "right (TP)", OUTCOMES["TP"]),
    _Category("FP", "wrong (FP)", OUTCOMES["FP"]),
    _Category("FN", "missed (FN)", OUTCOMES["FN"], dashed=True),
]


def add_style(path: Path, classes: Sequence[str] = ()) -> None:
    """Give the layers of a GeoPackage their styles: by `outcome`, or else by `label`, and the ground that was searched.

    Args:
        path: a GeoPackage; a layer without these columns has no style.
        classes: all that the model knows, in the order that gives them their colours; others follow by name.
    """
    with closing(sqlite3.connect(path)) as database, database:
        layers = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
        styles = [
            (table, column, *found)
            for table, column in layers
            if (found := _ground_style() if table == SEARCHED else _style_of(database, table, classes))
        ]
        if styles:
            database.execute(_TABLE)
            database.execute(_LISTED)
            database.executemany(_STYLE, styles)


def _style_of(database: sqlite3.Connection, table: str, classes: Sequence[str]) -> tuple[str, str, str] | None:
    """Name, XML and description of the style of a layer; None where it has neither outcomes nor labels."""
    columns = {row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")}
    scored = "score" in columns
    if "outcome" in columns:
        return "outcomes", style("outcome", _OUTCOMES, scored=scored), "Right, wrong and missed; scores from 1:5,000 on"
    if "label" not in columns:
        return None
    found = database.execute(f"SELECT DISTINCT label FROM {_quoted(table)} WHERE label IS NOT NULL")
    names = [*classes, *sorted({str(name) for (name,) in found} - set(classes))]
    by_class = [_Category(name, name, colour) for name, colour in class_colours(names).items()]
    return "detections", style("label", by_class, scored=scored), "Boxes by label; scores from 1:5,000 on"


def _quoted(name: str) -> str:
    """A name as SQL takes it, whatever it holds."""
    return '"' + name.replace('"', '""') + '"'


def style(column: str, categories: Sequence[_Category], *, scored: bool) -> str:
    """A style in QGIS' XML: outlines by category, on a dark casing, and scores beside them from a zoom level on.

    Args:
        column: that tells the categories apart.
        categories: in the order of the legend.
        scored: whether there is a column `score`.
    """
    root = Element("qgis", version="3.22.0", styleCategories="Symbology|Labeling", labelsEnabled=str(int(scored)))
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr=column, enableorderby="0")
    listed, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for k, each in enumerate(categories):
        SubElement(listed, "category", value=each.value, label=each.name, symbol=str(k), render="true")
        symbol = SubElement(symbols, "symbol", name=str(k), type="fill", alpha="1")
        _add_line(symbol, "#000000", _CASING_MM, alpha=128)
        _add_line(symbol, each.colour, _WIDTH_MM, dashed=each.dashed)
    if scored:
        _add_labels(root)
    return ElementTree.tostring(root, encoding="unicode")


def _ground_style() -> tuple[str, str, str]:
    """Name, XML and description of the style of the ground that was searched: a dashed outline, and nothing inside."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = SubElement(root, "renderer-v2", type="singleSymbol", enableorderby="0")
    symbol = SubElement(SubElement(renderer, "symbols"), "symbol", name="0", type="fill", alpha="1")
    _add_line(symbol, _GREY, _WIDTH_MM, dashed=True)
    return "searched", ElementTree.tostring(root, encoding="unicode"), "Where the model looked"


def _add_line(symbol: Element, colour: str, width_mm: str, *, alpha: int = 255, dashed: bool = False) -> None:
    """Draw the outline of a symbol once more, over what there is."""
    layer = SubElement(symbol, "layer", {"class": "SimpleLine", "enabled": "1", "pass": "0", "locked": "0"})
    line = {"line_color": _rgba(colour, alpha), "line_width": width_mm, "line_width_unit": "MM", "joinstyle": "miter"}
    line |= {"line_style": "dash"} if dashed else {}
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
    # In QGIS' numbers; beside the box, so that small objects stay to be seen.
    outside_polygons, at_some_scales = "8", "1"
    SubElement(settings, "placement", placement=outside_polygons, dist="0.5", distUnits="MM")
    SubElement(
        settings,
        "rendering",
        scaleVisibility=at_some_scales,
        scaleMin="0",
        scaleMax=str(_LABELS_FROM),  # of the number behind "1:", so the smallest map that has scores
        obstacle="0",
    )

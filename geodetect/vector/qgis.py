"""Styles for QGIS inside a GeoPackage, which it applies when a layer is opened.

QGIS looks for the default style of a layer in a table `layer_styles`, with the columns that it has in PostGIS and
GeoPackage alike: https://docs.qgis.org/latest/en/docs/training_manual/databases/ (and QGIS itself writes there with
"Save Style > In Database").
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
# The score of each box in two decimals, where the map is 1:5,000 or larger: it is then about as wide as a house. QGIS'
# number 8 puts it beside the box, so that small objects stay visible.
_LABELS = """<labeling type="simple"><settings calloutType="simple">
<text-style fieldName="format_number(&quot;score&quot;, 2)" isExpression="1" fontSize="8" fontSizeUnit="Point"
 textColor="0,0,0,255">
<text-buffer bufferDraw="1" bufferSize="0.7" bufferSizeUnits="MM" bufferColor="255,255,255,255"/>
</text-style>
<placement placement="8" dist="0.5" distUnits="MM"/>
<rendering scaleVisibility="1" scaleMin="0" scaleMax="5000" obstacle="0"/>
</settings></labeling>"""
_WIDTH_MM, _CASING_MM = "0.4", "0.9"
_GREY = "#505050"


@dataclass(frozen=True)
class _Category:
    """Features that are drawn alike.

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


def add_style(path: Path) -> None:
    """Give the layers of a GeoPackage their styles: by `outcome`, or else by `label`, and the ground that was searched.

    A layer without these columns has no style.
    """
    with closing(sqlite3.connect(path)) as database, database:
        layers = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns").fetchall()
        styles = []
        for table, column in layers:
            quoted = '"' + table.replace('"', '""') + '"'
            columns = {row[1] for row in database.execute(f"PRAGMA table_info({quoted})")}
            if table == SEARCHED:
                styles.append((table, column, "searched", style_ground(), "Where the model looked"))
            elif "outcome" in columns:
                xml = style_boxes("outcome", _OUTCOMES, scored="score" in columns)
                styles.append((table, column, "outcomes", xml, "Right, wrong and missed; scores from 1:5,000 on"))
            elif "label" in columns:
                rows = database.execute(f"SELECT DISTINCT label FROM {quoted} WHERE label IS NOT NULL")
                colours = class_colours(sorted({str(name) for (name,) in rows}))
                by_class = [_Category(name, name, colour) for name, colour in colours.items()]
                xml = style_boxes("label", by_class, scored="score" in columns)
                styles.append((table, column, "detections", xml, "Boxes by label; scores from 1:5,000 on"))
        if styles:
            database.execute(_TABLE)
            database.execute(_LISTED)
            database.executemany(_STYLE, styles)


def style_boxes(column: str, categories: Sequence[_Category], *, scored: bool) -> str:
    """Return a style in QGIS' XML: outlines by category, on a dark casing, and scores beside them from a zoom level on.

    Args:
        column: that tells the categories apart.
        categories: in the order of the legend.
        scored: whether there is a column `score`.
    """
    root = Element("qgis", version="3.22.0", styleCategories="Symbology|Labeling", labelsEnabled=str(int(scored)))
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr=column, enableorderby="0")
    legend, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for k, each in enumerate(categories):
        SubElement(legend, "category", value=each.value, label=each.name, symbol=str(k), render="true")
        symbol = SubElement(symbols, "symbol", name=str(k), type="fill", alpha="1")
        _add_line(symbol, "#000000", _CASING_MM, alpha=128)
        _add_line(symbol, each.colour, _WIDTH_MM, dashed=each.dashed)
    if scored:
        root.append(ElementTree.fromstring(_LABELS))
    return ElementTree.tostring(root, encoding="unicode")


def style_ground() -> str:
    """Return the style of the ground that was searched: a dashed outline with nothing inside."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = SubElement(root, "renderer-v2", type="singleSymbol", enableorderby="0")
    symbol = SubElement(SubElement(renderer, "symbols"), "symbol", name="0", type="fill", alpha="1")
    _add_line(symbol, _GREY, _WIDTH_MM, dashed=True)
    return ElementTree.tostring(root, encoding="unicode")


def _add_line(symbol: Element, colour: str, width_mm: str, *, alpha: int = 255, dashed: bool = False) -> None:
    """Add an outline to a symbol, on top of those that it has."""
    layer = SubElement(symbol, "layer", {"class": "SimpleLine", "enabled": "1", "pass": "0", "locked": "0"})
    rgba = ",".join(map(str, (*bytes.fromhex(colour[1:]), alpha)))
    line = {"line_color": rgba, "line_width": width_mm, "line_width_unit": "MM", "joinstyle": "miter"}
    line |= {"line_style": "dash"} if dashed else {}
    options = SubElement(layer, "Option", type="Map")
    for name, value in line.items():
        SubElement(options, "Option", name=name, value=value, type="QString")
        SubElement(layer, "prop", k=name, v=value)  # where QGIS before 3.26 looks

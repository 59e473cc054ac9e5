"""A page to look at a map with: one HTML file that needs no server and no network.

The page shows a smaller picture of the scene, in scene pixels (x right, y down): the frame in which
detections are upright rectangles, however the grid lies on the map. What is drawn is chosen in the
browser, by score, class and outcome; precision and recall of the choice are counted there too, from
outcomes that were worked out once. That is exact: detections take their labels best first, so those
below a score never change what those above it match.
"""

from __future__ import annotations

import html
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from matplotlib.image import imsave

from geodetect.accuracy import compute_accuracy
from geodetect.errors import OutputError, missing
from geodetect.plots import class_colours
from geodetect.vector.opening import open_features
from geodetect.vector.writers import check_output

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_NOTEBOOK_HEIGHT = 720  # px of the page inside a notebook
_QUALITY = 88  # of the scene's JPEG, 0 to 100; above it the page only grows
_FILL = {"FP": "80", "FN": "40"}  # opacity as hexadecimal; what is right, or not judged, is an outline
_MISSED = "#FFFFFF"  # outline of a missed label, which has no class colour to be confused with a detection's

# Which rows of a source are drawn: a missed label while nothing above the score has taken it, a detection from its score
# on. `outcomes` is null where there are no labels to judge by.
_CHOOSE = """
const {label, score, outcome, missed} = source.data
const shown = new Set(classes.active.map(i => classes.labels[i]))
const kinds = outcomes && new Set(outcomes.active.map(i => outcomes.labels[i].slice(0, 2)))
return label.map((name, i) => shown.has(name) && (missed[i]
    ? score[i] < slider.value && kinds.has("FN")
    : score[i] >= slider.value && (!kinds || kinds.has(outcome[i]))))
"""

_COUNT = """
const {label, score, outcome, missed} = source.data
const shown = new Set(classes.active.map(i => classes.labels[i]))
let found = 0, right = 0, labels = 0
for (let i = 0; i < label.length; i++) {
    if (!shown.has(label[i])) continue
    if (missed[i]) { labels++; continue }
    if (score[i] < slider.value) continue
    found++
    if (outcome[i] === "TP") right++
}
const percent = (part, whole) => whole ? (100 * part / whole).toFixed(1) + " %" : "–"
text.text = `<b>${found.toLocaleString("en")}</b> detections` + (outcomes ? ` of ${labels.toLocaleString("en")} labels:
    precision <b>${percent(right, found)}</b>, recall <b>${percent(right, labels)}</b>,
    F1 <b>${percent(2 * right, found + labels)}</b>` : "")
chosen.change.emit()
"""


@dataclass(frozen=True)
class Page:
    """A page that a notebook shows by itself, and that `save` writes.

    Args:
        html: the whole page.
    """

    html: str

    def _repr_html_(self) -> str:
        frame = f'style="width:100%;height:{_NOTEBOOK_HEIGHT}px;border:0"'
        return f'<iframe srcdoc="{html.escape(self.html)}" {frame}></iframe>'

    def save(self, path: str | Path) -> Path:
        """The file that now holds the page.

        Raises:
            OutputError: if its name does not end in `.html`, or it cannot be written there.
        """
        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise OutputError(f"the page is saved as .html; got {path.name}")
        try:
            path.write_text(self.html, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
        return path


def view(
    raster: str | Path,
    detections: str | Path | GeoDataFrame,
    labels: str | Path | GeoDataFrame | None = None,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    match_iou: float = 0.5,
    max_side: int = 2048,
) -> Page:
    """A page with the scene and what was found in it: zoom, hover, and choose by score, class and outcome.

    With `labels` it counts precision, recall and F1 of what is chosen, and shows what was missed.

    Args:
        raster: the scene.
        detections: polygons with `label` and `score`, as `detect_objects` gives them; without scores all count as 1.
        labels: true objects to judge by, in any CRS.
        label_field: column of the labels' class; None takes `label` where there is one.
        point_radius_m: makes points among the labels into discs of this radius in metres.
        match_iou: overlap from which a detection is right, above 0 and at most 1.
        max_side: longer side of the scene's picture in pixels; the page holds no more of it.

    Raises:
        MissingPackage: if bokeh is not installed.
        GeodetectError: if a file or a value is not usable.
    """
    try:
        from bokeh import embed, resources
    except ImportError as error:
        raise missing("bokeh", "viewer", "A page to look at detections with") from error
    picture = scene_picture(raster, max_side)
    if labels is None:
        rows = _unjudged(open_features(detections, "detections").frame)
    else:
        rows = _judged(detections, labels, label_field, point_radius_m, match_iou)
    table = _drawn(rows, picture.grid)
    layout = _layout(picture, table, judged=labels is not None)
    title = picture.grid.name or "scene"
    parts = resources.Resources(mode="inline")
    return Page(embed.file_html(layout, resources=parts, title=f"{title} – geodetect"))


def _unjudged(frame: GeoDataFrame) -> GeoDataFrame:
    """The detections with the columns that a page needs, none of them judged."""
    count = len(frame)
    label = frame["label"].astype(str) if "label" in frame else ["object"] * count
    score = frame["score"] if "score" in frame else np.ones(count)
    return frame[[]].assign(label=label, score=score, outcome="", missed=False).set_geometry(frame.geometry)


def _judged(
    detections: str | Path | GeoDataFrame,
    labels: str | Path | GeoDataFrame,
    label_field: str | None,
    point_radius_m: float | None,
    match_iou: float,
) -> GeoDataFrame:
    """Detections with their outcome, then all labels: `missed`, each with the score of the detection that took it.

    A label that none took has -1, so that it counts as missed from the lowest score on.
    """
    features = compute_accuracy(
        detections, labels, label_field=label_field, point_radius_m=point_radius_m, match_iou=match_iou
    ).features
    found, taken = features["outcome"] != "FN", features["outcome"] == "TP"
    missed = features[~found | taken].assign(outcome="FN", missed=True)
    missed["score"] = missed["score"].fillna(-1.0)
    return pd.concat([features[found].assign(missed=False), missed], ignore_index=True)


def _drawn(rows: GeoDataFrame, grid: Any) -> dict[str, Any]:
    """A source of the page: rectangles in scene pixels with label, score, outcome and colour."""
    placed = rows.geometry if grid.crs is None or rows.crs is None else rows.geometry.to_crs(grid.crs)
    corners, which = shapely.get_coordinates(placed.to_numpy(), return_index=True)
    pixels = pd.DataFrame(grid.in_plane().to_pixel(corners), columns=["x", "y"]).groupby(which)
    low, high = pixels.min(), pixels.max()
    colours = class_colours(sorted(set(rows["label"])))
    return {
        "left": low["x"].to_numpy(np.float32),
        "right": high["x"].to_numpy(np.float32),
        "top": low["y"].to_numpy(np.float32),
        "bottom": high["y"].to_numpy(np.float32),
        "label": rows["label"].tolist(),
        "score": rows["score"].to_numpy(np.float32),
        "outcome": rows["outcome"].tolist(),
        "missed": rows["missed"].tolist(),
        "inside": [colours[name] + _FILL.get(kind, "00") for name, kind in zip(rows["label"], rows["outcome"], strict=True)],
        "colour": [colours[name] for name in rows["label"]],
        "line": [_MISSED if gone else colours[name] for name, gone in zip(rows["label"], rows["missed"], strict=True)],
    }


def _layout(picture: Any, table: dict[str, Any], *, judged: bool) -> Any:
    """The page's widgets over the scene."""
    from bokeh.document import Document
    from bokeh.layouts import column, row
    from bokeh.models import (
        CDSView,
        CheckboxButtonGroup,
        ColumnDataSource,
        CustomJS,
        CustomJSFilter,
        Div,
        HoverTool,
        Slider,
    )
    from bokeh.plotting import figure

    names = sorted(set(table["label"]))
    source = ColumnDataSource(table)
    slider = Slider(start=0, end=1, step=0.01, value=0.0, title="score at least", width=320)
    classes = CheckboxButtonGroup(labels=names, active=list(range(len(names))))
    outcomes = CheckboxButtonGroup(labels=["TP right (outline)", "FP wrong (filled)", "FN missed (white)"], active=[0, 1, 2]) if judged else None
    text = Div(text="")
    widgets = {"slider": slider, "classes": classes, "outcomes": outcomes}
    chosen = CustomJSFilter(args=widgets, code=_CHOOSE)
    view = CDSView(filter=chosen)
    count = CustomJS(args={**widgets, "source": source, "chosen": chosen, "text": text}, code=_COUNT)

    height, width = picture.grid.shape
    plot = figure(
        x_range=(0, width),
        y_range=(height, 0),
        match_aspect=True,
        tools="pan,wheel_zoom,box_zoom,reset,save",
        active_scroll="wheel_zoom",
        output_backend="webgl",
        sizing_mode="stretch_both",
    )
    plot.axis.visible = plot.grid.visible = False
    plot.background_fill_color = "#222222"
    plot.image_url(url=[picture.url], x=0, y=0, w=width, h=height, anchor="top_left")
    quads = plot.quad(
        left="left",
        right="right",
        top="top",
        bottom="bottom",
        source=source,
        view=view,
        line_color="line",
        line_width=2,
        fill_color="inside",
        legend_group="label",
    )
    tips = [("label", "@label"), ("score", "@score{0.00}"), *([("outcome", "@outcome")] if judged else [])]
    plot.add_tools(HoverTool(tooltips=tips, renderers=[quads], visible=False))
    for widget, property_name in ((slider, "value"), (classes, "active"), (outcomes, "active")):
        if widget is not None:
            widget.js_on_change(property_name, count)
    page = Document()
    page.js_on_event("document_ready", count)
    page.add_root(column(row(slider, classes, *([outcomes] if judged else []), text), plot, sizing_mode="stretch_both"))
    return page

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
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from jaxtyping import Float
from matplotlib.image import imsave

from geodetect.accuracy import compute_accuracy
from geodetect.drawing import picture
from geodetect.errors import LabelsError, OutputError, missing
from geodetect.grid import Grid
from geodetect.plots import class_colours
from geodetect.vector.opening import open_features

if TYPE_CHECKING:
    from bokeh.document import Document
    from geopandas import GeoDataFrame

_NOTEBOOK_HEIGHT = 720  # px of the page inside a notebook
_QUALITY = 88  # of the scene's JPEG, 0 to 100; above it the page only grows
_INSIDE = {"FP": "80", "FN": "40"}  # opacity as hexadecimal; what is right, or not judged, is an outline
_MISSED = "#FFFFFF"  # outline of a missed label, which no class has
_OUTCOMES = ["TP right (outline)", "FP wrong (filled)", "FN missed (white)"]

# Which rows of a source are drawn: a missed label while nothing above the score has taken it, a detection from its
# score on. `outcomes` is null where there are no labels to judge by.
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
const percent = (part, whole) => whole ? (100 * part / whole).toFixed(1) + " %" : "-"
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

    With `labels` it counts precision, recall and F1 of what is chosen, shows what was missed, and begins at the score
    with the best F1.

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
    rgb, grid = picture(raster, longer_side=max_side)
    if labels is None:
        rows, score = _unjudged(open_features(detections, "detections").frame), None
    else:
        result = compute_accuracy(
            detections, labels, label_field=label_field, point_radius_m=point_radius_m, match_iou=match_iou
        )
        rows, score = _judged(result.features), result.best_score
    page = _laid_out(_drawn(rows, grid), _jpeg(rgb), grid.shape, best_score=score)
    title = f"{grid.name or 'scene'} in geodetect"
    return Page(embed.file_html(page, resources=resources.Resources(mode="inline"), title=title))


def _unjudged(frame: GeoDataFrame) -> GeoDataFrame:
    """The detections with the columns that a page needs, none of them judged."""
    count = len(frame)
    label = frame["label"].fillna("no class").astype(str) if "label" in frame else ["object"] * count
    score = frame["score"] if "score" in frame else np.ones(count)
    return frame[[]].assign(label=label, score=score, outcome="", missed=False).set_geometry(frame.geometry)


def _judged(features: GeoDataFrame) -> GeoDataFrame:
    """Detections with their outcome, then all labels: `missed`, each with the score of the detection that took it.

    A label that none took has -1, so that it counts as missed from the lowest score on. One that was taken lies where
    its detection does.
    """
    found, taken = features["outcome"] != "FN", features["outcome"] == "TP"
    missed = features[~found | taken].assign(outcome="FN", missed=True)
    missed["score"] = missed["score"].fillna(-1.0)
    return pd.concat([features[found].assign(missed=False), missed], ignore_index=True)


def _drawn(rows: GeoDataFrame, grid: Grid) -> dict[str, Any]:
    """A source of the page: rectangles in scene pixels with what is known of each and the colours that tell it."""
    placed = rows.geometry if grid.crs is None or rows.crs is None else rows.geometry.to_crs(grid.crs)
    rows = rows[~(placed.is_empty | placed.isna())]
    corners, which = shapely.get_coordinates(placed.to_numpy(), return_index=True)
    pixels = pd.DataFrame(grid.in_plane().to_pixel(corners), columns=["x", "y"]).groupby(which)
    (left, top), (right, bottom) = (side.to_numpy(np.float32).T for side in (pixels.min(), pixels.max()))
    height, width = grid.shape
    if len(rows) and not ((right > 0) & (left < width) & (bottom > 0) & (top < height)).any():
        raise LabelsError(
            f"none of the features lies on {grid.name}; check that both are of one place, and their coordinate "
            "reference systems right"
        )
    colours = class_colours(sorted(set(rows["label"])))
    own = rows["label"].map(colours).astype(str)
    return {
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "label": rows["label"].tolist(),
        "score": rows["score"].to_numpy(np.float32),
        "outcome": rows["outcome"].tolist(),
        "missed": rows["missed"].tolist(),
        "line": own.where(~rows["missed"], _MISSED).tolist(),
        "inside": (own + rows["outcome"].map(_INSIDE).fillna("00").astype(str)).tolist(),
    }


def _jpeg(rgb: Float[np.ndarray, "H W 3"]) -> str:
    """The picture as an address that holds it."""
    file = BytesIO()
    imsave(file, rgb, format="jpeg", pil_kwargs={"quality": _QUALITY})
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _laid_out(source: dict[str, Any], picture: str, shape: tuple[int, int], *, best_score: float | None) -> Document:
    """The page: what chooses and what counts over the scene of this height and width.

    Args:
        source: the boxes.
        picture: address of the scene's picture.
        shape: of the scene.
        best_score: where the slider stands at first, 0 for NaN; None where nothing was judged.
    """
    from bokeh.document import Document
    from bokeh.layouts import column, row
    from bokeh.models import ColumnDataSource, CustomJS, CustomJSFilter
    from bokeh.models.widgets import CheckboxButtonGroup, Div, Slider

    names = sorted(set(source["label"]))
    boxes, text = ColumnDataSource(source), Div(text="")
    judged, first = best_score is not None, np.nan_to_num(best_score or 0)
    # rounded down, so that what has the best score is shown
    slider = Slider(start=0, end=1, step=0.01, value=np.floor(100 * first) / 100, title="score at least", width=320)
    classes = CheckboxButtonGroup(labels=names, active=list(range(len(names))))
    outcomes = CheckboxButtonGroup(labels=_OUTCOMES, active=list(range(len(_OUTCOMES)))) if judged else None
    chosen = CustomJSFilter(args={"slider": slider, "classes": classes, "outcomes": outcomes}, code=_CHOOSE)
    count = CustomJS(args=chosen.args | {"source": boxes, "chosen": chosen, "text": text}, code=_COUNT)
    slider.js_on_change("value", count)
    for buttons in filter(None, (classes, outcomes)):
        buttons.js_on_change("active", count)
    page = Document()
    page.js_on_event("document_ready", count)
    controls = row(*filter(None, (slider, classes, outcomes, text)), sizing_mode="stretch_width")
    controls.styles = {"flex-wrap": "wrap"}  # on a narrow screen
    page.add_root(column(controls, _scene(boxes, chosen, picture, shape), sizing_mode="stretch_both"))
    return page


def _scene(boxes: Any, chosen: Any, picture: str, shape: tuple[int, int]) -> Any:
    """The picture of the scene with the chosen boxes over it."""
    from bokeh.models import BoxZoomTool, CDSView, DataRange1d, HoverTool
    from bokeh.plotting import figure

    height, width = shape
    x_range, y_range = DataRange1d(range_padding=0), DataRange1d(range_padding=0, flipped=True)
    plot = figure(
        x_range=x_range,
        y_range=y_range,
        match_aspect=True,  # ranges of data alone are made wider to keep it
        tools=["pan", "wheel_zoom", BoxZoomTool(match_aspect=True), "reset", "save"],
        active_scroll="wheel_zoom",
        output_backend="webgl",
        sizing_mode="stretch_both",
        background_fill_color="#222222",
    )
    plot.axis.visible = plot.grid.visible = False
    whole = plot.quad(left=[0], right=[width], top=[0], bottom=[height], fill_alpha=0, line_alpha=0)
    x_range.renderers = y_range.renderers = [whole]
    plot.image_url(url=[picture], x=0, y=0, w=width, h=height, anchor="top_left")
    drawn = plot.quad(
        left="left",
        right="right",
        top="top",
        bottom="bottom",
        line_color="line",
        line_width=2,
        fill_color="inside",
        source=boxes,
        view=CDSView(filter=chosen),
    )
    tips = [("label", "@label"), ("score", "@score{0.00}"), ("outcome", "@outcome")]
    plot.add_tools(HoverTool(tooltips=tips, renderers=[drawn], visible=False))
    return plot

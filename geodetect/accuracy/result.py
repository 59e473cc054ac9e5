"""The result of `compute_accuracy`: numbers, features, a figure, and files of them."""

from __future__ import annotations

import math
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pandas as pd
from geopandas import GeoDataFrame
from matplotlib.figure import Figure

from geodetect import plots
from geodetect.errors import OutputError
from geodetect.facts import html_rows, text_of
from geodetect.files import replace_atomically
from geodetect.vector.outputs import check_place
from geodetect.vector.writers import write_features

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #333; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { font-weight: 600 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child { text-align: left } .table tbody tr:last-child { font-weight: 600 }
img { max-width: 100%; height: auto }
.wide { overflow-x: auto }
"""
_WORDS = (
    "Precision is the share of detections that are right, recall the share of objects that were found, F1 their "
    "harmonic mean, AP the average precision over all recalls; all from 0 to 1. TP are right detections, FP wrong "
    "ones, FN objects that none found."
)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Detections compared with true objects.

    Args:
        table: rows classes and `all`, columns precision, recall, f1, ap, tp, fp, fn.
        features: every detection (outcome TP or FP) and every object that none found (FN), in the detections'
            CRS, with label, score (NaN for FN), outcome, iou (0 but for TP), id (its row, from 0, among the
            detections; for FN among the labels) and partner (the id of the label that a TP found); of oriented
            detections also angle_deg (NaN for FN).
        best_score: the score from which on detections of all classes together have the best F1; NaN without any hit.
        curve: columns score, precision, recall, f1 over all classes together, the highest score first.
        confusion: counts with a row for each true class and for no object, and a column for each detected
            class and for no detection; off the diagonal only where classes did not count (`by_class=False`).
        match_iou: overlap from which a detection counted as right.
        shape: what overlapped, "polygon" or "box", the envelopes.
    """

    table: pd.DataFrame
    features: GeoDataFrame
    best_score: float
    curve: pd.DataFrame
    confusion: pd.DataFrame
    match_iou: float
    shape: str = "box"

    def __repr__(self) -> str:
        every = self.table.loc["all"]
        measures = {name: float(every[name]) for name in ("precision", "recall", "f1", "ap")}
        counts = {name.upper(): int(every[name]) for name in ("tp", "fp", "fn")}
        return f"Accuracy({text_of(measures)}; {text_of(counts)}; best score {text_of(self.best_score)})"

    def _repr_html_(self) -> str:
        rows = [[name, *row] for name, row in zip(self.table.index, self.table.to_numpy(object), strict=True)]
        title = f"Accuracy at IoU {self.match_iou:g} (shape {self.shape}); best score {text_of(self.best_score)}"
        return html_rows(title, ["", *self.table.columns], rows)

    def plot(self) -> Figure:
        """Draw precision over recall, and both with F1 over the score, with the best score marked."""
        return plots.draw_curve(self.curve, self.best_score)

    def save(self, path: str | Path) -> Path:
        """Write the features (`.gpkg`), the table (`.csv`), or a page with table, figure and confusion (`.html`).

        The page needs no other file and no network.

        Returns:
            `path`.

        Raises:
            OutputError: if the suffix is another, or the file cannot be written.
        """
        path = check_place(path)
        suffix = path.suffix.lower()
        if suffix not in (".gpkg", ".html", ".csv"):
            raise OutputError(
                f"accuracy is saved as .gpkg (the features), .html (a page) or .csv (the table); got {path.name}"
            )
        if suffix == ".gpkg":
            return Path(write_features(self.features, path))
        text = self.table.to_csv(index_label="class") if suffix == ".csv" else self._page()
        marked = suffix == ".csv" and not text.isascii()  # Excel takes UTF-8 without a mark for the system's encoding
        with replace_atomically(path) as part:
            part.write_text(text, encoding="utf-8-sig" if marked else "utf-8")
        return path

    def _page(self) -> str:
        """Return table and figure, and the confusion where there are several classes, as an HTML page."""
        best = f"F1 is best with the detections that score {self.best_score:.3f} or more."
        if math.isnan(self.best_score):
            best = "No detection is right."
        what = "polygon" if self.shape == "polygon" else "envelope"
        png = BytesIO()
        self.plot().savefig(png, format="png", dpi=160)
        figure = "data:image/png;base64," + b64encode(png.getvalue()).decode("ascii")
        table = self.table.rename(columns={"f1": "F1", "ap": "AP", "tp": "TP", "fp": "FP", "fn": "FN"})
        parts = [
            "<h1>Accuracy</h1>",
            f"<p>A detection is right if its {what} and that of an object overlap by an IoU of {self.match_iou:g} or "
            f"more, and none of a higher score has taken that object. {best}</p>",
            _to_html(table, "table"),
            f"<p>{_WORDS}</p>",
            "<h2>Which score to cut at</h2>",
            f'<img alt="Precision over recall, and both with F1 over the score" src="{figure}">',
        ]
        if len(self.confusion) > 2:  # noqa: PLR2004 more than one class
            legend = "Rows are the true classes of the objects, columns the detected ones."
            parts += ["<h2>Classes</h2>", f"<p>{legend}</p>", _to_html(self.confusion, "classes")]
        viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
        head = f'<meta charset="utf-8">{viewport}<title>Accuracy</title><style>{_STYLE}</style>'
        body = "\n".join(parts)
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _to_html(frame: pd.DataFrame, kind: str) -> str:
    """Return a frame as an HTML table that scrolls if it is too wide; names are escaped, decimals have three places."""
    frame = frame.rename_axis(None).rename_axis(None, axis="columns")
    html = frame.to_html(border=0, classes=kind, float_format="%.3f", na_rep="-")
    return f'<div class="wide">{html}</div>'

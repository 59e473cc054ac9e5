"""The page that a browser shows of an accuracy: one file, without scripts and without a network."""

from __future__ import annotations

import math
from base64 import b64encode
from io import BytesIO

import pandas as pd
from matplotlib.figure import Figure

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


def page_of(
    table: pd.DataFrame, confusion: pd.DataFrame, figure: Figure, *, best_score: float, match_iou: float
) -> str:
    """The page as HTML: what was counted, the figure within it, and the confusion where there are classes.

    Args:
        table: as in `Accuracy`.
        confusion: as in `Accuracy`.
        figure: of the curve.
        best_score: NaN where no detection is right.
        match_iou: overlap from which a detection counted as right.
    """
    none = math.isnan(best_score)
    best = "No detection is right." if none else f"F1 is best with the detections that score {best_score:.3f} or more."
    shown = table.rename(columns={"f1": "F1", "ap": "AP", "tp": "TP", "fp": "FP", "fn": "FN"})
    parts = [
        "<h1>Accuracy</h1>",
        f"<p>A detection is right if it overlaps an object by an IoU of {match_iou:g} or more, and none of a higher "
        f"score has taken that object. {best}</p>",
        _table(shown, "table"),
        f"<p>{_WORDS}</p>",
        "<h2>Which score to cut at</h2>",
        f'<img alt="Precision over recall, and both with F1 over the score" src="{_inlined(figure)}">',
    ]
    if len(confusion) > 2:  # noqa: PLR2004 more than one class
        told = "Rows are what the objects are, columns what they were detected as."
        parts += ["<h2>Classes</h2>", f"<p>{told}</p>", _table(confusion.rename_axis(None, axis="columns"), "classes")]
    viewport = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f'<meta charset="utf-8">{viewport}<title>Accuracy</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _table(frame: pd.DataFrame, kind: str) -> str:
    """The frame as HTML, its names escaped, decimals to three places; it scrolls by itself where it is too wide."""
    html = frame.rename_axis(None).to_html(border=0, classes=kind, float_format="%.3f", na_rep="-")
    return f'<div class="wide">{html}</div>'


def _inlined(figure: Figure) -> str:
    """The figure as an address that holds it."""
    png = BytesIO()
    figure.savefig(png, format="png", dpi=160)
    return "data:image/png;base64," + b64encode(png.getvalue()).decode("ascii")

"""What `compute_accuracy` gives: numbers, features, a figure, and files of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from geopandas import GeoDataFrame
from matplotlib.figure import Figure

from geodetect import plots
from geodetect.accuracy.page import page_of
from geodetect.errors import OutputError
from geodetect.facts import html_rows, text_of
from geodetect.files import appearing
from geodetect.vector.outputs import check_place
from geodetect.vector.writers import write_features


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What came of comparing detections with true objects.

    Args:
        table: rows classes and `all`, columns precision, recall, f1, ap, tp, fp, fn.
        features: every detection (outcome TP or FP) and every object that none found (FN), in the detections'
            CRS, with label, score (NaN for FN), outcome, iou (0 but for TP), id (its row, from 0, among the
            detections; for FN among the labels) and partner (the id of the label that a TP found).
        best_score: the score from which on detections of all classes together have the best F1; NaN without any hit.
        curve: columns score, precision, recall, f1 over all classes together, the best score first.
        confusion: counts with a row for each true class and for no object, and a column for each detected
            class and for no detection; off the diagonal only where classes did not count (`by_class=False`).
        match_iou: overlap from which a detection counted as right.
    """

    table: pd.DataFrame
    features: GeoDataFrame
    best_score: float
    curve: pd.DataFrame
    confusion: pd.DataFrame
    match_iou: float

    def __repr__(self) -> str:
        every = self.table.loc["all"]
        told = {name: float(every[name]) for name in ("precision", "recall", "f1", "ap")}
        counts = {name.upper(): int(every[name]) for name in ("tp", "fp", "fn")}
        return f"Accuracy({text_of(told)}; {text_of(counts)}; best score {text_of(self.best_score)})"

    def _repr_html_(self) -> str:
        rows = [[name, *row] for name, row in zip(self.table.index, self.table.to_numpy(object), strict=True)]
        title = f"Accuracy at IoU {self.match_iou:g}; best score {text_of(self.best_score)}"
        return html_rows(title, ["", *self.table.columns], rows)

    def plot(self) -> Figure:
        """A figure of precision over recall, and of both and F1 over the score, with the best score marked."""
        return plots.curve_figure(self.curve, self.best_score)

    def save(self, path: str | Path) -> Path:
        """The file that now holds the features (`.gpkg`), a page to read (`.html`), or the table (`.csv`).

        The page holds table, figure and confusion, and needs no other file and no network.

        Raises:
            OutputError: if the suffix is another, or nothing can be written there.
        """
        path = check_place(path)
        suffix = path.suffix.lower()
        if suffix not in (".gpkg", ".html", ".csv"):
            raise OutputError(
                f"accuracy is saved as .gpkg (the features), .html (a page) or .csv (the table); got {path.name}"
            )
        if suffix == ".gpkg":
            return Path(write_features(self.features, path))
        if suffix == ".csv":
            text = self.table.to_csv(index_label="class")
            return write_text(
                text if text.isascii() else f"\ufeff{text}", path
            )  # without the mark Excel reads Ã¤ for ä
        page = page_of(self.table, self.confusion, self.plot(), best_score=self.best_score, match_iou=self.match_iou)
        return write_text(page, path)


def write_text(text: str, path: Path) -> Path:
    """Write a file that holds all of the text, and return its path.

    Raises:
        OutputError: if it cannot be written; an older file is then unchanged.
    """
    with appearing(path) as part:
        part.write_text(text, encoding="utf-8")
    return path

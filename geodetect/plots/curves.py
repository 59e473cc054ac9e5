"""Curves: losses, learning rates, precision and recall."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from geodetect.plots.style import FAINT, LINE, SECOND, ShownFigure, tidy


def losses_figure(
    train: ArrayLike, valid: ArrayLike, epoch_ends: ArrayLike, *, ap50: ArrayLike | None = None
) -> Figure:
    """The course of training: its loss by batch, that of validation by epoch, and AP50 below where it is given.

    Args:
        train: loss of each batch.
        valid: validation loss at the end of each epoch.
        epoch_ends: number of batches seen then.
        ap50: average precision at IoU 0.5 then, 0 to 1.
    """
    figure = ShownFigure(figsize=(7, 5.2 if ap50 is not None else 3.6), dpi=110, layout="constrained")
    n_rows = 1 if ap50 is None else 2
    axes = figure.subplots(n_rows, 1, sharex=True, squeeze=False, height_ratios=[2, 1][:n_rows])[:, 0]
    _draw_losses(axes[0], np.asarray(train, float), valid, epoch_ends)
    if ap50 is not None:
        axes[1].plot(epoch_ends, ap50, "o-", color=SECOND, markersize=4)
        axes[1].set(ylabel="AP50, validation", ylim=(0, 1))
        tidy(axes[1])
    axes[-1].set_xlabel("batches")
    return figure


def _draw_losses(ax: Axes, train: np.ndarray, valid: ArrayLike, epoch_ends: ArrayLike) -> None:
    batches = np.arange(1, len(train) + 1)
    smooth = pd.Series(train).rolling(max(5, len(train) // 20), center=True, min_periods=1).median()
    ax.plot(batches, train, color=FAINT, linewidth=0.8)
    ax.plot(batches, smooth, color=LINE, linewidth=1.8, label="training (smoothed)")
    ax.plot(epoch_ends, valid, "o-", color=SECOND, markersize=4, label="validation")
    # A wild first batch would press the rest of the curve flat.
    drawn = np.concatenate([train[np.isfinite(train)], np.asarray(valid, float)])
    if drawn.size:
        ax.set_ylim(0, 1.15 * float(np.nanpercentile(drawn, 99)) or 1)
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    tidy(ax)


def lr_figure(rates: ArrayLike, losses: ArrayLike, suggestion: float | None = None) -> Figure:
    """The loss at learning rates that grow batch by batch, with the suggested rate marked."""
    figure = ShownFigure(figsize=(6, 3.6), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.plot(rates, losses, color=LINE, linewidth=1.8)
    finite = np.asarray(losses, float)[np.isfinite(losses)]
    if finite.size:
        # Where training diverges the loss knows no bound; what matters lies below where it began.
        low, start = float(finite.min()), float(finite[0])
        ax.set_ylim(low - 0.1 * (start - low or 1), start + 0.5 * (start - low or 1))
    if suggestion is not None:
        ax.axvline(suggestion, color=SECOND, linestyle="--", label=f"suggested: {suggestion:.1e}")
        ax.legend(frameon=False)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    tidy(ax)
    return figure


def curve_figure(curve: pd.DataFrame, best_score: float) -> Figure:
    """Precision over recall, and both with F1 over the score; the score with the best F1 is marked in each.

    Args:
        curve: columns score, precision, recall, f1, the best score first.
        best_score: NaN where there is none to mark.
    """
    figure = ShownFigure(figsize=(9.5, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(curve["recall"], curve["precision"], color=LINE, linewidth=1.8)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    for name, colour, style in (("precision", FAINT, "--"), ("recall", FAINT, "-"), ("f1", LINE, "-")):
        right.plot(curve["score"], curve[name], style, color=colour, linewidth=1.8, label=name.replace("f1", "F1"))
    right.set(xlabel="detections from this score on", xlim=(0, 1.02), ylim=(0, 1.02))
    best = curve[curve["score"] == best_score]
    if len(best):
        row = best.iloc[0]
        left.plot(row["recall"], row["precision"], "o", color=SECOND)
        right.plot(best_score, row["f1"], "o", color=SECOND, label=f"best F1: {row['f1']:.2f} from {best_score:.2f}")
    right.legend(frameon=False, fontsize=9)
    for ax in (left, right):
        tidy(ax)
    return figure

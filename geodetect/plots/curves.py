"""Curves: losses, learning rates, precision and recall."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from geodetect.plots.style import FAINT, LINE, SECOND, ShownFigure, tidy


def draw_losses(train: ArrayLike, valid: ArrayLike, epoch_ends: ArrayLike, *, ap50: ArrayLike | None = None) -> Figure:
    """Draw the losses of training by batch and of validation by epoch, and AP50 below if it is given.

    Args:
        train: loss of each batch.
        valid: validation loss at the end of each epoch.
        epoch_ends: number of batches seen by then.
        ap50: average precision at IoU 0.5 by then, 0 to 1.
    """
    figure = ShownFigure(figsize=(7, 5.2 if ap50 is not None else 3.6), dpi=110, layout="constrained")
    n_rows = 1 if ap50 is None else 2
    axes = figure.subplots(n_rows, 1, sharex=True, squeeze=False, height_ratios=[2, 1][:n_rows])[:, 0]
    losses, upper = np.asarray(train, float), axes[0]
    smooth = pd.Series(losses).rolling(max(5, len(losses) // 20), center=True, min_periods=1).median()
    batches = np.arange(1, len(losses) + 1)
    upper.plot(batches, losses, color=FAINT, linewidth=0.8)
    upper.plot(batches, smooth, color=LINE, linewidth=1.8, label="training (smoothed)")
    upper.plot(epoch_ends, valid, "o-", color=SECOND, markersize=4, label="validation")
    drawn = np.concatenate([losses[np.isfinite(losses)], np.asarray(valid, float)])
    if drawn.size:  # a huge loss of the first batch would flatten the rest of the curve
        upper.set_ylim(0, 1.15 * float(np.nanpercentile(drawn, 99)) or 1)
    upper.set_ylabel("loss")
    upper.legend(frameon=False)
    if ap50 is not None:
        axes[1].plot(epoch_ends, ap50, "o-", color=SECOND, markersize=4)
        axes[1].set(ylabel="AP50, validation", ylim=(0, 1))
    for ax in axes:
        tidy(ax)
    axes[-1].set_xlabel("batches")
    return figure


def draw_rates(rates: ArrayLike, losses: ArrayLike, suggestion: float | None = None) -> Figure:
    """Draw the loss at learning rates that grow batch by batch, and mark the suggested rate."""
    figure = ShownFigure(figsize=(6, 3.6), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.plot(rates, losses, color=LINE, linewidth=1.8)
    finite = np.asarray(losses, float)[np.isfinite(losses)]
    if finite.size:
        # The loss of a diverging training has no bound; the part below its start is what matters.
        low, start = float(finite.min()), float(finite[0])
        ax.set_ylim(low - 0.1 * (start - low or 1), start + 0.5 * (start - low or 1))
    if suggestion is not None:
        ax.axvline(suggestion, color=SECOND, linestyle="--", label=f"suggested: {suggestion:.1e}")
        ax.legend(frameon=False)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    tidy(ax)
    return figure


def draw_curve(curve: pd.DataFrame, best_score: float) -> Figure:
    """Draw precision over recall, and both and F1 over the score, and mark the score with the best F1.

    Args:
        curve: columns score, precision, recall, f1, highest score first.
        best_score: NaN for none.
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

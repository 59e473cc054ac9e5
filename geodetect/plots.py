"""Every figure: chips and scenes with boxes, training curves, the operating point.

Shapes: C bands, H W pixels, N boxes, V corners of an outline. Pictures come as arrays, curves as arrays and
frames. All functions give a matplotlib Figure of their own: nothing pops up, and no state is kept in pyplot.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from io import BytesIO
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike

# Okabe and Ito's colours, told apart with any colour vision (https://jfly.uni-koeln.de/color/); without their
# black, which shadows in pictures from above would hide.
_OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
_INK, _FAINT = "#333333", "#BBBBBB"
_LINE, _SECOND = "#0072B2", "#D55E00"
_SHOWN_PERCENTILES = (2, 98)  # for pictures only; the network's stretch is another and is recorded
_MAX_SCORES = 30  # scores written into one picture; more would cover it
_LARGE_SCENE = 900  # pixels on the longer side, from which boxes in the whole picture are too small to judge


class _ShownFigure(Figure):
    """A Figure that a notebook shows by itself; a plain one needs `%matplotlib inline` before."""

    def _repr_png_(self) -> bytes:
        png = BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()


class _Panel(NamedTuple):
    """One picture of a grid of them."""

    picture: np.ndarray
    boxes: np.ndarray
    labels: Collection[str]
    scores: np.ndarray | None
    title: str


def class_colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each class, by its place in `names`, as in every figure of the same classes; repeats after seven."""
    return {name: _OKABE_ITO[k % len(_OKABE_ITO)] for k, name in enumerate(dict.fromkeys(names))}


def as_rgb(pixels: np.ndarray) -> Float[np.ndarray, "H W 3"]:
    """A picture to look at, 0 to 1, of an array (C, H, W): the first three bands, or the first one as grey.

    Bytes are shown as they are; bands of any other type are stretched from their 2nd to their
    98th percentile, each by itself.
    """
    shown = pixels[[0, 1, 2] if len(pixels) > 2 else [0, 0, 0]]  # noqa: PLR2004
    if shown.dtype != np.uint8:
        shown = np.stack([_stretched(band) for band in shown])
    else:
        shown = shown.astype(np.float32) / 255
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def _stretched(band: np.ndarray) -> np.ndarray:
    """The band as float32 from 0 at its 2nd percentile to 1 at its 98th; 0 where it is not a number."""
    finite = band[np.isfinite(band)].astype(np.float64)
    low, high = np.percentile(finite, _SHOWN_PERCENTILES) if finite.size else (0.0, 1.0)
    share = (np.nan_to_num(band.astype(np.float64), nan=low) - low) / (high - low or 1)
    return np.clip(share, 0, 1).astype(np.float32)


def chip_figure(
    pictures: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    labels: Sequence[Collection[str]],
    *,
    classes: Collection[str],
    found: Sequence[tuple[np.ndarray, Collection[str], np.ndarray]] | None = None,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
) -> Figure:
    """Chips in a grid, each with its boxes in the colours of their classes, and one legend.

    Args:
        pictures: arrays (C, H, W), of any sizes.
        boxes: corners (N, 4) in pixels of each picture.
        labels: class names of the boxes of each picture.
        classes: all class names, in the order that gives them their colours.
        found: detections of each picture as boxes, class names and scores; each picture then stands twice,
            its true boxes to the left and these to the right, with their scores where they are few.
        titles: one over each picture.
        columns: pictures, or pairs of them, in a row.
    """
    titles = titles or [""] * len(pictures)
    plain = [None] * len(pictures)
    panels = [_Panel(*panel) for panel in zip(pictures, boxes, labels, plain, titles, strict=True)]
    if found is None:
        columns = columns or min(4, math.ceil(math.sqrt(len(panels) or 1)))
    else:
        left = [panel._replace(title=f"{panel.title}  true boxes".strip()) for panel in panels]
        right = [_Panel(p, *seen, "detections") for p, seen in zip(pictures, found, strict=True)]
        panels = [panel for pair in zip(left, right, strict=True) for panel in pair]
        columns = 2 * (columns or 1)
    return _grid_of(panels, class_colours(classes), columns)


def _grid_of(panels: Sequence[_Panel], colours: Mapping[str, str], columns: int) -> Figure:
    rows = max(1, math.ceil(len(panels) / columns))
    figure = _ShownFigure(figsize=(2.9 * columns, 2.9 * rows + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel, colours)
    present = {label for panel in panels for label in panel.labels}
    _add_legend(figure, {name: colour for name, colour in colours.items() if name in present})
    return figure


def _draw_panel(ax: Axes, panel: _Panel, colours: Mapping[str, str]) -> None:
    ax.imshow(as_rgb(panel.picture), interpolation="nearest", extent=_extent(panel.picture.shape[1:]))
    ax.set_title(panel.title, fontsize=9, color=_INK)
    corners = np.asarray(panel.boxes, float).reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    _draw_outlines(ax, list(corners), panel.labels, colours, width=1.3)
    _write_scores(ax, list(corners), panel.scores)


def _extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Where imshow puts a picture so that (0, 0) is the outer corner of its first pixel, as in our boxes."""
    return 0.0, float(shape[1]), float(shape[0]), 0.0


def _draw_outlines(
    ax: Axes, outlines: Sequence[np.ndarray], labels: Collection[str], colours: Mapping[str, str], *, width: float
) -> None:
    """Outlines in the colours of their classes; wide ones on a dark casing, which shows them on bright roofs too."""
    strokes = [([colours[label] for label in labels], width)]
    if width >= 1:
        strokes.insert(0, (["#0000008C"], 2.2 * width))
    for edges, linewidth in strokes:
        lines = PolyCollection(outlines, facecolors="none", edgecolors=edges, linewidths=linewidth)
        ax.add_collection(lines, autolim=False)


def _write_scores(ax: Axes, outlines: Sequence[np.ndarray], scores: np.ndarray | None) -> None:
    """The score at the upper left of each outline, unless there are so many that they would cover the picture."""
    if scores is None or len(scores) > _MAX_SCORES:
        return
    for outline, score in zip(outlines, scores, strict=True):
        ax.annotate(
            f"{score:.2f}",
            outline.min(axis=0),
            xytext=(1, -1),
            textcoords="offset points",
            va="top",
            fontsize=6,
            color="white",
            path_effects=[withStroke(linewidth=1.6, foreground="black")],
            clip_on=True,
        ).set_in_layout(False)


def _add_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """One entry for each colour, under the figure."""
    patches = [Patch(facecolor="none", edgecolor=c, linewidth=2, label=name) for name, c in colours.items()]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)


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
    figure = _ShownFigure(figsize=(7, 5.2 if ap50 is not None else 3.6), dpi=110, layout="constrained")
    n_rows = 1 if ap50 is None else 2
    axes = figure.subplots(n_rows, 1, sharex=True, squeeze=False, height_ratios=[2, 1][:n_rows])[:, 0]
    _draw_losses(axes[0], np.asarray(train, float), valid, epoch_ends)
    if ap50 is not None:
        axes[1].plot(epoch_ends, ap50, "o-", color=_SECOND, markersize=4)
        axes[1].set(ylabel="AP50, validation", ylim=(0, 1))
        _tidy(axes[1])
    axes[-1].set_xlabel("batches")
    return figure


def _draw_losses(ax: Axes, train: np.ndarray, valid: ArrayLike, epoch_ends: ArrayLike) -> None:
    batches = np.arange(1, len(train) + 1)
    smooth = pd.Series(train).rolling(max(5, len(train) // 20), center=True, min_periods=1).median()
    ax.plot(batches, train, color=_FAINT, linewidth=0.8)
    ax.plot(batches, smooth, color=_LINE, linewidth=1.8, label="training (smoothed)")
    ax.plot(epoch_ends, valid, "o-", color=_SECOND, markersize=4, label="validation")
    # A wild first batch would press the rest of the curve flat.
    drawn = np.concatenate([train[np.isfinite(train)], np.asarray(valid, float)])
    if drawn.size:
        ax.set_ylim(0, 1.15 * float(np.nanpercentile(drawn, 99)) or 1)
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    _tidy(ax)


def lr_figure(rates: ArrayLike, losses: ArrayLike, suggestion: float | None = None) -> Figure:
    """The loss at learning rates that grow batch by batch, with the suggested rate marked."""
    figure = _ShownFigure(figsize=(6, 3.6), dpi=110, layout="constrained")
    ax = figure.subplots()
    ax.plot(rates, losses, color=_LINE, linewidth=1.8)
    finite = np.asarray(losses, float)[np.isfinite(losses)]
    if finite.size:
        # Where training diverges the loss knows no bound; what matters lies below where it began.
        low, start = float(finite.min()), float(finite[0])
        ax.set_ylim(low - 0.1 * (start - low or 1), start + 0.5 * (start - low or 1))
    if suggestion is not None:
        ax.axvline(suggestion, color=_SECOND, linestyle="--", label=f"suggested: {suggestion:.1e}")
        ax.legend(frameon=False)
    ax.set(xscale="log", xlabel="learning rate", ylabel="loss (smoothed)")
    _tidy(ax)
    return figure


def curve_figure(curve: pd.DataFrame, best_score: float) -> Figure:
    """Precision over recall, and both with F1 over the score; the score with the best F1 is marked in each.

    Args:
        curve: columns score, precision, recall, f1, the best score first.
        best_score: NaN where there is none to mark.
    """
    figure = _ShownFigure(figsize=(9.5, 4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(curve["recall"], curve["precision"], color=_LINE, linewidth=1.8)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    for name, colour, style in (("precision", _FAINT, "--"), ("recall", _FAINT, "-"), ("f1", _LINE, "-")):
        right.plot(curve["score"], curve[name], style, color=colour, linewidth=1.8, label=name.replace("f1", "F1"))
    right.set(xlabel="detections from this score on", xlim=(0, 1.02), ylim=(0, 1.02))
    best = curve[curve["score"] == best_score]
    if len(best):
        row = best.iloc[0]
        left.plot(row["recall"], row["precision"], "o", color=_SECOND)
        right.plot(best_score, row["f1"], "o", color=_SECOND, label=f"best F1: {row['f1']:.2f} from {best_score:.2f}")
    right.legend(frameon=False, fontsize=9)
    for ax in (left, right):
        _tidy(ax)
    return figure


def _tidy(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E8E8E8", linewidth=0.8)
    ax.set_axisbelow(True)


def scene_figure(
    rgb: Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 3"],
    outlines: Sequence[np.ndarray],
    labels: Collection[str],
    *,
    classes: Collection[str],
    scores: np.ndarray | None = None,
    title: str = "",
    pixel_size_m: float | None = None,
    detail: tuple[float, float, float, float] | None = None,
) -> Figure:
    """A scene with the outlines of what was found in it; beside a large one, its fullest part enlarged.

    Args:
        rgb: the picture, bytes or 0 to 1, as from `as_rgb`.
        outlines: corners (V, 2) of each object in pixels of the picture.
        labels: class names of the objects.
        classes: all class names, in the order that gives them their colours.
        scores: of the objects, written into the enlarged part where they are few.
        title: over the picture.
        pixel_size_m: draws a scale bar.
        detail: corners x1, y1, x2, y2 of the part to enlarge; found by itself when the scene is large.
    """
    if detail is None and max(rgb.shape[:2]) > _LARGE_SCENE:
        detail = _fullest_part(rgb.shape[:2], outlines)
    colours = class_colours(classes)
    figure, axes = _scene_axes(rgb.shape[:2], n_parts=1 if detail is None else 2)
    for ax in axes:
        ax.imshow(rgb, extent=_extent(rgb.shape), interpolation="antialiased")
    _draw_outlines(axes[0], outlines, labels, colours, width=1.3 if detail is None else 0.6)
    if detail is not None:
        _draw_outlines(axes[1], outlines, labels, colours, width=1.6)
        _enlarge(axes[0], axes[1], detail)
    _write_scores_within(axes[-1], outlines, scores)
    if pixel_size_m is not None:
        for ax in axes:
            _add_scale_bar(ax, pixel_size_m)
    figure.suptitle(title, color=_INK)
    counts = Counter(labels)
    _add_legend(figure, {f"{name} ({counts[name]:,})": colour for name, colour in colours.items() if counts[name]})
    return figure


def _scene_axes(shape: tuple[int, int], *, n_parts: int) -> tuple[Figure, list[Axes]]:
    """Axes as wide as they must be to stand equally high: the scene, and beside it a square for its detail."""
    height = 6.0
    widths = [height * shape[1] / shape[0], height][:n_parts]
    figure = _ShownFigure(figsize=(sum(widths) + 0.3, height + 0.9), dpi=160, layout="constrained")
    axes = list(figure.subplots(1, n_parts, squeeze=False, width_ratios=widths)[0])
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def _fullest_part(shape: tuple[int, int], outlines: Sequence[np.ndarray]) -> tuple[float, float, float, float]:
    """The square cell of the scene, a fifth of its longer side wide, in which most outlines lie."""
    side = float(min(max(shape) / 5, *shape))
    n_rows, n_columns = (int(length // side) for length in shape)
    centres = np.array([(o.min(axis=0) + o.max(axis=0)) / 2 for o in outlines]).reshape(-1, 2)
    column = np.clip(centres[:, 0] // side, 0, n_columns - 1).astype(int)
    row = np.clip(centres[:, 1] // side, 0, n_rows - 1).astype(int)
    fullest = np.bincount(row * n_columns + column, minlength=n_rows * n_columns).argmax()
    y, x = divmod(int(fullest), n_columns)
    return x * side, y * side, (x + 1) * side, (y + 1) * side


def _enlarge(whole: Axes, part: Axes, detail: tuple[float, float, float, float]) -> None:
    """Shows only `detail` in `part`, and where it lies in `whole`."""
    x1, y1, x2, y2 = detail
    part.set(xlim=(x1, x2), ylim=(y2, y1))
    part.spines[:].set(visible=True, color=_INK, linewidth=1.2)
    whole.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=2.6))
    whole.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=_INK, linewidth=1.2))


def _write_scores_within(ax: Axes, outlines: Sequence[np.ndarray], scores: np.ndarray | None) -> None:
    """The scores of the outlines that lie whole in what `ax` shows."""
    if scores is None:
        return
    (x1, x2), (y2, y1) = ax.get_xlim(), ax.get_ylim()
    inside = [k for k, o in enumerate(outlines) if (o >= (x1, y1)).all() and (o <= (x2, y2)).all()]
    _write_scores(ax, [outlines[k] for k in inside], np.asarray(scores)[inside])


def _add_scale_bar(ax: Axes, pixel_size_m: float) -> None:
    """A bar of 1, 2 or 5 times a power of ten metres, at most a quarter of the picture wide."""
    (x1, x2), (y2, y1) = ax.get_xlim(), ax.get_ylim()
    longest = (x2 - x1) * pixel_size_m / 4
    power = 10.0 ** math.floor(math.log10(longest))
    metres = max(n * power for n in (1, 2, 5) if n * power <= longest)
    length, x, y = metres / pixel_size_m, x1 + 0.04 * (x2 - x1), y2 - 0.04 * (y2 - y1)
    casing = [withStroke(linewidth=4.5, foreground="black")]
    ax.plot([x, x + length], [y, y], color="white", linewidth=2.5, solid_capstyle="butt", path_effects=casing)
    text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"  # noqa: PLR2004
    casing = [withStroke(linewidth=2.5, foreground="black")]
    place = (x + length / 2, y - 0.012 * (y2 - y1))
    ax.text(*place, text, color="white", ha="center", va="bottom", fontsize=9, path_effects=casing)

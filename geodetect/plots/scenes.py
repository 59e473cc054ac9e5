"""A scene with what was found in it.

Shapes: H W pixels, V corners of an outline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from geodetect.plots.pictures import add_legend, draw_outlines, extent, write_scores
from geodetect.plots.style import INK, ShownFigure, class_colours

_LARGE_SCENE = 900  # pixels on the longer side, from which boxes in the whole picture are too small to judge


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
        ax.imshow(rgb, extent=extent(rgb.shape), interpolation="antialiased")
    draw_outlines(axes[0], outlines, labels, colours, width=1.3 if detail is None else 0.6)
    if detail is not None:
        draw_outlines(axes[1], outlines, labels, colours, width=1.6)
        _enlarge(axes[0], axes[1], detail)
    _write_scores_within(axes[-1], outlines, scores)
    if pixel_size_m is not None:
        for ax in axes:
            _add_scale_bar(ax, pixel_size_m)
    figure.suptitle(title, color=INK)
    counts = Counter(labels)
    add_legend(figure, {f"{name} ({counts[name]:,})": colour for name, colour in colours.items() if counts[name]})
    return figure


def _scene_axes(shape: tuple[int, int], *, n_parts: int) -> tuple[Figure, list[Axes]]:
    """Axes as wide as they must be to stand equally high: the scene, and beside it a square for its detail."""
    height = 6.0
    widths = [height * shape[1] / shape[0], height][:n_parts]
    figure = ShownFigure(figsize=(sum(widths) + 0.3, height + 0.9), dpi=160, layout="constrained")
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
    part.spines[:].set(visible=True, color=INK, linewidth=1.2)
    whole.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=2.6))
    whole.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=INK, linewidth=1.2))


def _write_scores_within(ax: Axes, outlines: Sequence[np.ndarray], scores: np.ndarray | None) -> None:
    """The scores of the outlines that lie whole in what `ax` shows."""
    if scores is None:
        return
    (x1, x2), (y2, y1) = ax.get_xlim(), ax.get_ylim()
    inside = [k for k, o in enumerate(outlines) if (o >= (x1, y1)).all() and (o <= (x2, y2)).all()]
    write_scores(ax, [outlines[k] for k in inside], np.asarray(scores)[inside])


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

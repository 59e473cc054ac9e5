"""A scene with what was found in it.

Shapes: H W pixels, V corners of an outline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.transforms import ScaledTranslation, Transform

from geodetect.plots.pictures import add_legend, draw_outlines, extent, hide_overlapping_texts, write_scores
from geodetect.plots.style import INK, ShownFigure

_HEIGHT_IN, _WIDTH_IN = 6.0, 14.0  # a figure of a scene is no higher and no wider
_ARROW_IN = 0.38  # length of the arrow to the north


class Ground(NamedTuple):
    """What a picture's pixels are on the ground.

    Args:
        pixel_size_m: side of a pixel in metres.
        north: direction of north in the picture, x right and y down, of length 1.
    """

    pixel_size_m: float
    north: tuple[float, float]


class Detail(NamedTuple):
    """A part of a scene, shown larger beside it.

    Args:
        xyxy: its corners in pixels of the scene's picture.
        rgb: its own picture, of any size.
    """

    xyxy: tuple[float, float, float, float]
    rgb: np.ndarray


def scene_figure(
    rgb: Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 3"],
    outlines: Sequence[np.ndarray],
    labels: Sequence[str],
    *,
    colours: Mapping[str, str],
    dashed: Collection[str] = (),
    scores: np.ndarray | None = None,
    title: str = "",
    ground: Ground | None = None,
    detail: Detail | None = None,
) -> Figure:
    """A scene with the outlines of what was found in it, and beside it a part of it enlarged.

    Args:
        rgb: the picture, bytes or 0 to 1, as from `as_rgb`.
        outlines: corners (V, 2) of each object in pixels of the picture.
        labels: names of the objects.
        colours: of all names, as from `class_colours`.
        dashed: the names whose outlines are broken lines.
        scores: of the objects, written where they are few; NaN for none.
        title: over the picture.
        ground: draws a scale bar and an arrow to the north.
        detail: the part to enlarge; the scores are written there.
    """
    figure, axes = _scene_axes(rgb.shape[:2], n_parts=1 if detail is None else 2)
    axes[0].imshow(rgb, extent=extent(rgb.shape), interpolation="antialiased")
    width = _line_width(outlines, 72 * axes[0].get_position().width * figure.get_figwidth() / rgb.shape[1])
    draw_outlines(axes[0], outlines, labels, colours, width=width, dashed=dashed)
    if detail is not None:
        _enlarge(axes[0], axes[1], detail)
        draw_outlines(axes[1], outlines, labels, colours, width=1.6, dashed=dashed)
    if ground is not None:
        for ax in axes:
            _add_scale_bar(ax, ground.pixel_size_m)
        _add_north(axes[0], ground.north)
    _write_scores_within(axes[-1], outlines, scores)
    if title:
        figure.suptitle(title, color=INK)
    counts = Counter(labels)
    named = {name: f"{name} ({counts[name]:,})" for name in colours if counts[name]}
    add_legend(
        figure, {named[name]: colours[name] for name in named}, [named[name] for name in named if name in dashed]
    )
    hide_overlapping_texts(figure)
    return figure


def _scene_axes(shape: tuple[int, int], *, n_parts: int) -> tuple[Figure, list[Axes]]:
    """Axes as wide as they must be to stand equally high: the scene, and beside it a square for its detail."""
    across = [shape[1] / shape[0], 1.0][:n_parts]
    height = min(_HEIGHT_IN, _WIDTH_IN / sum(across))
    figure = ShownFigure(
        figsize=(max(height * sum(across), 2) + 0.3, max(height, 1) + 0.9), dpi=160, layout="constrained"
    )
    axes = list(figure.subplots(1, n_parts, squeeze=False, width_ratios=across)[0])
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    return figure, axes


def _line_width(outlines: Sequence[np.ndarray], pixel: float) -> float:
    """Points that a line may be wide without hiding what it goes round, where a pixel is so many points."""
    if not len(outlines):
        return 1.0
    size = float(np.median([np.ptp(each, axis=0).max() for each in outlines])) * pixel
    return min(1.3, max(0.5, 0.08 * size))


def fullest_part(
    shape: tuple[int, int], outlines: Sequence[np.ndarray], side: float
) -> tuple[float, float, float, float]:
    """The square cell in which most outlines lie, as corners x1, y1, x2, y2 in pixels of the picture.

    Args:
        shape: height and width of the picture.
        outlines: corners (V, 2) of each object.
        side: of the cell; no more than those of the picture.
    """
    side = min(side, *shape)
    n_rows, n_columns = (int(length // side) for length in shape)
    centres = np.array([(o.min(axis=0) + o.max(axis=0)) / 2 for o in outlines]).reshape(-1, 2)
    column = np.clip(centres[:, 0] // side, 0, n_columns - 1).astype(int)
    row = np.clip(centres[:, 1] // side, 0, n_rows - 1).astype(int)
    fullest = np.bincount(row * n_columns + column, minlength=n_rows * n_columns).argmax()
    y, x = divmod(int(fullest), n_columns)
    return x * side, y * side, (x + 1) * side, (y + 1) * side


def _enlarge(whole: Axes, part: Axes, detail: Detail) -> None:
    """Shows the detail in `part`, and where it lies in `whole`."""
    x1, y1, x2, y2 = detail.xyxy
    part.imshow(detail.rgb, extent=(x1, x2, y2, y1), interpolation="antialiased")
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


def _add_north(ax: Axes, north: tuple[float, float]) -> None:
    """An arrow to the north in the upper right corner, its letter before its tip."""
    x, y = north[0], -north[1]  # inches count y upwards

    def at(share: float) -> Transform:
        """The place on the arrow, from -1 at its tail to 1 at its tip."""
        right, up = (_ARROW_IN * (share * each / 2 - 1) for each in (x, y))
        return ax.transAxes + ScaledTranslation(right, up, ax.figure.dpi_scale_trans)

    corner = (1, 1)
    casing: list[AbstractPathEffect] = [withStroke(linewidth=2.5, foreground="black")]
    arrow = ax.annotate(
        "",
        corner,
        xycoords=at(1),
        xytext=corner,
        textcoords=at(-1),
        arrowprops={"arrowstyle": "-|>", "color": "white", "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0},
    )
    assert arrow.arrow_patch is not None
    arrow.arrow_patch.set_path_effects(casing)
    letter = ax.text(*corner, "N", transform=at(1.45), color="white", ha="center", va="center", fontsize=9)
    letter.set_path_effects(casing)
    for text in (arrow, letter):
        text.set_in_layout(False)

"""A scene with the objects in it.

Shapes: H W pixels, V corners of an outline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.transforms import ScaledTranslation, Transform

from geodetect.plots.images import Marks, add_legend, draw_marks, extent, hide_overlapping_texts, write_scores
from geodetect.plots.style import INK, ShownFigure

_HEIGHT_IN, _WIDTH_IN = 6.0, 14.0  # limits of a figure of a scene
_ARROW_IN = 0.38  # length of the north arrow


class Ground(NamedTuple):
    """Scale and direction of an image on the ground.

    Args:
        pixel_size_m: side of a pixel in metres.
        north: direction of north in the image, x right and y down, of length 1.
    """

    pixel_size_m: float
    north: tuple[float, float]

    def draw_scale_bar(self, ax: Axes) -> None:
        """Draw a bar of 1, 2 or 5 times a power of ten metres, at most a quarter of the image wide."""
        (x1, x2), (y2, y1) = ax.get_xlim(), ax.get_ylim()
        longest = (x2 - x1) * self.pixel_size_m / 4
        power = 10.0 ** math.floor(math.log10(longest))
        metres = max(n * power for n in (1, 2, 5) if n * power <= longest)
        length, x, y = metres / self.pixel_size_m, x1 + 0.04 * (x2 - x1), y2 - 0.04 * (y2 - y1)
        casing = [withStroke(linewidth=4.5, foreground="black")]
        ax.plot([x, x + length], [y, y], color="white", linewidth=2.5, solid_capstyle="butt", path_effects=casing)
        text = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"  # noqa: PLR2004
        casing = [withStroke(linewidth=2.5, foreground="black")]
        place = (x + length / 2, y - 0.012 * (y2 - y1))
        ax.text(*place, text, color="white", ha="center", va="bottom", fontsize=9, path_effects=casing)

    def draw_north(self, ax: Axes) -> None:
        """Draw a north arrow in the upper right corner, with its letter before the tip."""
        x, y = self.north[0], -self.north[1]  # inches count y upwards

        def at(share: float) -> Transform:
            """Return a place on the arrow, from -1 at its tail to 1 at its tip."""
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


class Detail(NamedTuple):
    """A part of a scene, enlarged beside it.

    Args:
        xyxy: its corners in pixels of the scene's image.
        rgb: its own image, of any size.
    """

    xyxy: tuple[float, float, float, float]
    rgb: np.ndarray


def draw_scene(
    rgb: Float[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W 3"],
    marks: Marks,
    *,
    title: str = "",
    ground: Ground | None = None,
    detail: Detail | None = None,
) -> Figure:
    """Draw a scene with the outlines of the objects in it, and a part of it enlarged beside it.

    Args:
        rgb: image of the scene, bytes or 0 to 1, as from `to_rgb`.
        marks: objects; their scores are written if they are few.
        title: title of the figure.
        ground: draws a scale bar and a north arrow.
        detail: part to enlarge; the scores are written there.
    """
    # The axes are as wide as they must be to be equally high: the scene, and beside it a square for its detail.
    across = [rgb.shape[1] / rgb.shape[0], 1.0][: 1 if detail is None else 2]
    height = min(_HEIGHT_IN, _WIDTH_IN / sum(across))
    figure = ShownFigure(
        figsize=(max(height * sum(across), 2) + 0.3, max(height, 1) + 0.9), dpi=160, layout="constrained"
    )
    axes = list(figure.subplots(1, len(across), squeeze=False, width_ratios=across)[0])
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    axes[0].imshow(rgb, extent=extent(rgb.shape), interpolation="antialiased")
    pixel = 72 * axes[0].get_position().width * figure.get_figwidth() / rgb.shape[1]  # in points
    # Lines wide enough to see, and narrow enough not to cover small objects.
    draw_marks(axes[0], marks, width=min(1.3, max(0.5, 0.08 * marks.median_size * pixel)) if marks.labels else 1.0)
    if detail is not None:
        x1, y1, x2, y2 = detail.xyxy
        axes[1].imshow(detail.rgb, extent=(x1, x2, y2, y1), interpolation="antialiased")
        axes[1].set(xlim=(x1, x2), ylim=(y2, y1))
        axes[1].spines[:].set(visible=True, color=INK, linewidth=1.2)
        for colour, width in (("white", 2.6), (INK, 1.2)):
            frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width)
            axes[0].add_patch(frame)
        draw_marks(axes[1], marks, width=1.6)
    if ground is not None:
        for ax in axes:
            ground.draw_scale_bar(ax)
        ground.draw_north(axes[0])
    (x1, x2), (y2, y1) = axes[-1].get_xlim(), axes[-1].get_ylim()
    is_inside = [bool((o >= (x1, y1)).all() and (o <= (x2, y2)).all()) for o in marks.outlines]
    write_scores(axes[-1], marks.select(np.flatnonzero(is_inside).tolist()))
    if title:
        figure.suptitle(title, color=INK)
    counts = Counter(marks.labels)
    named = {name: f"{name} ({counts[name]:,})" for name in marks.colours if counts[name]}
    entries = {named[name]: marks.colours[name] for name in named}
    add_legend(figure, entries, [named[name] for name in named if name in marks.dashed])
    hide_overlapping_texts(figure)
    return figure


def find_fullest_part(
    shape: tuple[int, int], outlines: Sequence[np.ndarray], side: float
) -> tuple[float, float, float, float]:
    """Return the square cell of at most this side with most outlines, as x1, y1, x2, y2 in pixels of the image."""
    side = min(side, *shape)
    n_rows, n_columns = (int(length // side) for length in shape)
    centres = np.array([(o.min(axis=0) + o.max(axis=0)) / 2 for o in outlines]).reshape(-1, 2)
    column = np.clip(centres[:, 0] // side, 0, n_columns - 1).astype(int)
    row = np.clip(centres[:, 1] // side, 0, n_rows - 1).astype(int)
    fullest = np.bincount(row * n_columns + column, minlength=n_rows * n_columns).argmax()
    y, x = divmod(int(fullest), n_columns)
    return x * side, y * side, (x + 1) * side, (y + 1) * side

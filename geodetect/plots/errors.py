"""What a detector got wrong, enlarged.

Shapes: C bands, H W pixels, N boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from geodetect.colours import class_colours
from geodetect.plots.pictures import add_legend, as_rgb, draw_outlines, extent
from geodetect.plots.style import INK, ShownFigure

_TRUE = "true boxes"
_COLUMNS = 2  # of each kind


class Mistake(NamedTuple):
    """One box that is wrong, or that is missing, with what lies around it.

    Args:
        picture: (C, H, W).
        box: corners x1, y1, x2, y2 in pixels of the picture; may reach beyond it.
        label: its class.
        truth: corners (N, 4) of all true boxes.
        title: what is wrong.
    """

    picture: np.ndarray
    box: np.ndarray
    label: str
    truth: np.ndarray
    title: str


def errors_figure(false: Sequence[Mistake], missed: Sequence[Mistake], *, classes: Collection[str]) -> Figure:
    """Detections that are wrong to the left, objects that were missed to the right, the first ones first.

    Each is drawn boldly in the colour of its class, true boxes thinly in white.

    Args:
        false: detections of what is not there.
        missed: true boxes that no detection found.
        classes: all class names, in the order that gives them their colours.
    """
    n_rows = max(1, -(-max(len(false), len(missed)) // _COLUMNS))
    figure = ShownFigure(figsize=(10.4, 2.6 * n_rows + 0.9), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, wspace=0.03)[0]
    colours = class_colours(classes)
    for part, mistakes, title in ((left, false, "Found, but wrong"), (right, missed, "Missed")):
        part.suptitle(title if mistakes else f"{title}: none", color=INK, fontsize=12)
        _draw_mistakes(part, mistakes, colours, n_rows)
    present = {mistake.label for mistake in (*false, *missed)}
    add_legend(figure, {name: colour for name, colour in colours.items() if name in present} | {_TRUE: "#CCCCCC"})
    return figure


def _draw_mistakes(part: SubFigure, mistakes: Sequence[Mistake], colours: Mapping[str, str], n_rows: int) -> None:
    axes = part.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, mistake in zip(axes, mistakes, strict=False):
        _draw_mistake(ax, mistake, colours)


def _draw_mistake(ax: Axes, mistake: Mistake, colours: Mapping[str, str]) -> None:
    limits = extent(mistake.picture.shape[1:])
    ax.imshow(as_rgb(mistake.picture), interpolation="nearest", extent=limits)
    ax.set(xlim=limits[:2], ylim=limits[2:])
    ax.set_title(mistake.title, fontsize=9, color=INK)
    draw_outlines(ax, _outlines(mistake.truth), [_TRUE] * len(mistake.truth), {_TRUE: "white"}, width=1.0)
    draw_outlines(ax, _outlines(mistake.box), [mistake.label], colours, width=2.2)


def _outlines(boxes: np.ndarray) -> list[np.ndarray]:
    """Corners (4, 2) of each box."""
    return list(np.reshape(boxes, (-1, 4))[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2))

"""Errors of a detector, enlarged.

Shapes: C bands, H W pixels, N boxes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from geodetect.colours import class_colours
from geodetect.plots.images import Marks, add_legend, draw_marks, show_image
from geodetect.plots.style import INK, ShownFigure

_TRUE = "true boxes"
_COLUMNS = 2  # of each kind


class Mistake(NamedTuple):
    """A box that is false or missed, with its surroundings.

    Args:
        image: pixels (C, H, W).
        box: its corners (4, 2) in pixels of the image; may reach beyond it.
        label: its class.
        truth: corners (N, 4, 2) of all true boxes.
        title: kind of error.
    """

    image: np.ndarray
    box: np.ndarray
    label: str
    truth: np.ndarray
    title: str


def draw_errors(false: Sequence[Mistake], missed: Sequence[Mistake], *, classes: Collection[str]) -> Figure:
    """Draw false detections to the left, missed objects to the right, in the order given.

    Each is drawn boldly in the colour of its class, true boxes thinly in white.

    Args:
        false: detections that match no object.
        missed: true boxes without a detection.
        classes: all class names, in the order that gives them their colours.
    """
    n_rows = max(1, -(-max(len(false), len(missed)) // _COLUMNS))
    figure = ShownFigure(figsize=(10.4, 2.6 * n_rows + 0.9), dpi=110, layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, wspace=0.03)[0]
    colours = class_colours(classes)
    for part, mistakes, title in ((left, false, "Found, but wrong"), (right, missed, "Missed")):
        part.suptitle(title if mistakes else f"{title}: none", color=INK, fontsize=12)
        axes = part.subplots(n_rows, _COLUMNS, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, mistake in zip(axes, mistakes, strict=False):
            show_image(ax, mistake.image, mistake.title)
            truth = Marks(list(mistake.truth), [_TRUE] * len(mistake.truth), colours={_TRUE: "white"})
            draw_marks(ax, truth, width=1.0)
            draw_marks(ax, Marks([mistake.box], [mistake.label], colours=colours), width=2.2)
    present = {mistake.label for mistake in (*false, *missed)}
    add_legend(figure, {name: colour for name, colour in colours.items() if name in present} | {_TRUE: "#CCCCCC"})
    return figure

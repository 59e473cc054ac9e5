"""Chips in a grid, with their boxes.

Shapes: C bands, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from geodetect.colours import class_colours
from geodetect.errors import check_whole
from geodetect.plots.images import (
    Marks,
    add_legend,
    compute_limits,
    draw_marks,
    hide_overlapping_texts,
    show_image,
    write_scores,
)
from geodetect.plots.style import ShownFigure

_MOST_ROWS = 100  # matplotlib draws no more than 65,536 pixels


class _Panel(NamedTuple):
    """One image of the grid."""

    image: np.ndarray
    marks: Marks
    title: str = ""


def check_rows(rows: object) -> None:
    """Raise unless a figure can have so many rows.

    Raises:
        ArgumentError: if it is not from 1 to 100.
    """
    check_whole("rows", rows, at_most=_MOST_ROWS)


def draw_chips(
    images: Sequence[np.ndarray],
    marks: Sequence[Marks],
    *,
    classes: Collection[str],
    found: Sequence[Marks] | None = None,
    columns: int | None = None,
) -> Figure:
    """Draw chips in a grid, each with its boxes in the colours of their classes, and one legend.

    Args:
        images: arrays (C, H, W), of any sizes.
        marks: boxes of each image.
        classes: all class names, in the order that gives them their colours.
        found: detections of each image; each image is then drawn twice, with its true boxes to the left and these to
            the right, with their scores if they are few.
        columns: images, or pairs of them, in a row.
    """
    if found is None:
        panels = [_Panel(*panel) for panel in zip(images, marks, strict=True)]
        columns = columns or min(4, math.ceil(math.sqrt(len(panels) or 1)))
    else:
        pairs = zip(images, marks, found, strict=True)
        panels = [
            panel
            for image, true, seen in pairs
            for panel in (_Panel(image, true, "true boxes"), _Panel(image, seen, "detections"))
        ]
        columns = 2 * (columns or 1)
    rows = max(1, math.ceil(len(panels) / columns))
    figure = ShownFigure(figsize=(2.9 * columns, 2.9 * rows + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    kinds = {(image.dtype, len(image)) for image in images}
    limits = compute_limits(images) if len(kinds) == 1 and kinds.pop()[0] != np.uint8 else None
    colours = class_colours(classes)
    for ax, panel in zip(axes, panels, strict=False):
        show_image(ax, panel.image, panel.title, limits)
        draw_marks(ax, replace(panel.marks, colours=colours), width=1.3)
        write_scores(ax, panel.marks)
    present = {label for panel in panels for label in panel.marks.labels}
    add_legend(figure, {name: colour for name, colour in colours.items() if name in present})
    hide_overlapping_texts(figure)
    return figure

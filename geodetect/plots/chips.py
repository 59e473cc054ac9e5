"""Chips in a grid, with their boxes.

Shapes: C bands, H W pixels, N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geodetect.colours import class_colours
from geodetect.errors import check_whole
from geodetect.plots.pictures import (
    add_legend,
    as_rgb,
    draw_outlines,
    extent,
    hide_overlapping_texts,
    shown_limits,
    write_scores,
)
from geodetect.plots.style import INK, ShownFigure

_MOST_ROWS = 100  # of pictures; matplotlib draws no more than 65,536 pixels


class _Panel(NamedTuple):
    """One picture of a grid of them."""

    picture: np.ndarray
    boxes: np.ndarray
    labels: Collection[str]
    scores: np.ndarray | None
    title: str


def check_rows(rows: object) -> None:
    """Refuse a number of rows that is none, or too large for a figure.

    Raises:
        ArgumentError: if it is not from 1 to 100.
    """
    check_whole("rows", rows, at_most=_MOST_ROWS)


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
    figure = ShownFigure(figsize=(2.9 * columns, 2.9 * rows + 0.5), dpi=110, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    limits = _limits([panel.picture for panel in panels])
    for ax, panel in zip(axes, panels, strict=False):
        _draw_panel(ax, panel, colours, limits)
    present = {label for panel in panels for label in panel.labels}
    add_legend(figure, {name: colour for name, colour in colours.items() if name in present})
    hide_overlapping_texts(figure)
    return figure


def _limits(pictures: Sequence[np.ndarray]) -> np.ndarray | None:
    """What all chips show as black and white; None where they need none, or have not the same bands."""
    kinds = {(picture.dtype, len(picture)) for picture in pictures}
    return shown_limits(pictures) if len(kinds) == 1 and kinds.pop()[0] != np.uint8 else None


def _draw_panel(ax: Axes, panel: _Panel, colours: Mapping[str, str], limits: np.ndarray | None) -> None:
    ax.imshow(as_rgb(panel.picture, limits), interpolation="nearest", extent=extent(panel.picture.shape[1:]))
    ax.set_title(panel.title, fontsize=9, color=INK)
    corners = np.asarray(panel.boxes, float).reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    draw_outlines(ax, list(corners), panel.labels, colours, width=1.3)
    write_scores(ax, list(corners), panel.scores)

"""Pictures from arrays, and what is drawn over them.

Shapes: C bands, H W pixels, V corners of an outline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

_SHOWN_PERCENTILES = (2, 98)  # for pictures only; the network's stretch is another and is recorded
_MAX_SCORES = 30  # scores written into one picture; more would cover it


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


def extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Where imshow puts a picture so that (0, 0) is the outer corner of its first pixel, as in our boxes."""
    return 0.0, float(shape[1]), float(shape[0]), 0.0


def draw_outlines(
    ax: Axes, outlines: Sequence[np.ndarray], labels: Collection[str], colours: Mapping[str, str], *, width: float
) -> None:
    """Outlines in the colours of their classes; wide ones on a dark casing, which shows them on bright roofs too."""
    strokes = [([colours[label] for label in labels], width)]
    if width >= 1:
        strokes.insert(0, (["#0000008C"], 2.2 * width))
    for edges, linewidth in strokes:
        lines = PolyCollection(outlines, facecolors="none", edgecolors=edges, linewidths=linewidth)
        ax.add_collection(lines, autolim=False)


def write_scores(ax: Axes, outlines: Sequence[np.ndarray], scores: np.ndarray | None) -> None:
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


def add_legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """One entry for each colour, under the figure."""
    patches = [Patch(facecolor="none", edgecolor=c, linewidth=2, label=name) for name, c in colours.items()]
    if patches:
        figure.legend(handles=patches, loc="outside lower center", ncols=6, frameon=False, fontsize=9)

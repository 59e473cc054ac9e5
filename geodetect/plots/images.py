"""Images from arrays, and boxes drawn over them.

Shapes: C bands, H W pixels, N boxes, V corners of an outline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from geodetect.plots.style import INK

_SHOWN_PERCENTILES = (2, 98)  # for figures only; the network's normalisation is another and is recorded
_MAX_SCORES = 30  # scores written into one image; more would cover it
_MAX_ENTRIES = 24  # of a legend; more would be as tall as the image
_LONGEST_NAME = 40  # characters of a name in a legend
_CHARACTER_IN, _HANDLE_IN = 0.08, 0.55  # width of a letter of 9 points, and of the handle before the text, in inches
_DASHES = (3, 2)


@dataclass(frozen=True, eq=False)
class Marks:
    """Outlines to draw over an image.

    Args:
        outlines: corners (V, 2) of each object, in pixels of the image.
        labels: label of each.
        scores: (N,) score of each, NaN for none; None if none has one.
        colours: colours of all labels, in the order of the legend.
        dashed: labels with dashed lines.
    """

    outlines: Sequence[np.ndarray] = ()
    labels: Sequence[str] = ()
    scores: np.ndarray | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    dashed: Collection[str] = ()

    @classmethod
    def of_boxes(
        cls,
        xyxy: np.ndarray,
        labels: Sequence[str],
        scores: np.ndarray | None = None,
        *,
        colours: Mapping[str, str] | None = None,
    ) -> Marks:
        """Return marks for boxes with corners (N, 4) or (4,)."""
        corners = np.asarray(xyxy, float).reshape(-1, 4)[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        return cls(list(corners), list(labels), scores, colours or {})

    def select(self, kept: Sequence[int]) -> Marks:
        """Return the marks with these numbers."""
        return replace(
            self,
            outlines=[self.outlines[k] for k in kept],
            labels=[self.labels[k] for k in kept],
            scores=None if self.scores is None else self.scores[list(kept)],
        )

    @property
    def median_size(self) -> float:
        """Median of the longer sides, in pixels; NaN without outlines."""
        sizes = [np.ptp(each, axis=0).max() for each in self.outlines]
        return float(np.median(sizes)) if sizes else float("nan")


def to_rgb(pixels: np.ndarray, limits: np.ndarray | None = None) -> Float[np.ndarray, "H W 3"]:
    """Return an array (C, H, W) as an RGB image, 0 to 1: the first three bands, or the first one as grey.

    Bytes stay as they are; bands of any other type are stretched between their limits.

    Args:
        pixels: of any number of bands, 0 in all of them where there is no data.
        limits: (C, 2) values shown as black and as white, as from `compute_limits`; None: the limits of these pixels.
    """
    bands = [0, 1, 2] if len(pixels) > 2 else [0, 0, 0]  # noqa: PLR2004
    if pixels.dtype == np.uint8:
        shown = pixels[bands].astype(np.float32) / 255
    else:
        low, high = (compute_limits([pixels]) if limits is None else limits)[bands].T[..., None, None]
        values = np.nan_to_num(pixels[bands].astype(np.float64), nan=-np.inf)
        span = np.where(high > low, high - low, 1)
        shown = (np.clip(values - low, 0, span) / span).astype(np.float32)
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def compute_limits(images: Sequence[np.ndarray]) -> Float[np.ndarray, "C 2"]:
    """Return the 2nd and 98th percentile of each band over all images together, so that they can be compared.

    Arrays (C, H, W), at least one. Pixels without data, which are 0 in all bands, and values that are not finite are
    left out.
    """
    flat = np.concatenate([image.reshape(len(image), -1) for image in images], axis=1)
    data = flat[:, (flat != 0).any(axis=0)]
    bands = [band[np.isfinite(band)].astype(np.float64) for band in data]
    return np.array([np.percentile(band, _SHOWN_PERCENTILES) if band.size else (0.0, 1.0) for band in bands])


def extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Return the extent for imshow with (0, 0) at the outer corner of the first pixel, as in our boxes."""
    return 0.0, float(shape[1]), float(shape[0]), 0.0


def show_image(ax: Axes, pixels: np.ndarray, title: str, limits: np.ndarray | None = None) -> None:
    """Show an array (C, H, W), with a title; boxes that reach beyond it do not widen the axes."""
    frame = extent(pixels.shape[1:])
    ax.imshow(to_rgb(pixels, limits), interpolation="nearest", extent=frame)
    ax.set(xlim=frame[:2], ylim=frame[2:])
    ax.set_title(title, fontsize=9, color=INK)


def draw_marks(ax: Axes, marks: Marks, *, width: float) -> None:
    """Draw outlines `width` points wide; wide ones on a dark casing, which shows them on bright roofs too."""
    strokes = [([marks.colours[label] for label in marks.labels], width)]
    if width >= 1:
        strokes.insert(0, (["#0000008C"], 2.2 * width))
    styles = [(0, _DASHES) if label in marks.dashed else "solid" for label in marks.labels]
    for edges, linewidth in strokes:
        lines = PolyCollection(
            marks.outlines, facecolors="none", edgecolors=edges, linewidths=linewidth, linestyles=styles or "solid"
        )
        ax.add_collection(lines, autolim=False)


def write_scores(ax: Axes, marks: Marks) -> None:
    """Write the score at the upper left of each outline, highest first, unless so many would cover the image."""
    scores = marks.scores
    if scores is None or len(scores) > _MAX_SCORES:
        return
    for k in np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable"):
        if np.isfinite(scores[k]):
            ax.annotate(
                f"{scores[k]:.2f}",
                marks.outlines[k].min(axis=0),
                xytext=(1, -1),
                textcoords="offset points",
                va="top",
                fontsize=6,
                color="white",
                path_effects=[withStroke(linewidth=1.6, foreground="black")],
                clip_on=True,
            ).set_in_layout(False)


def hide_overlapping_texts(figure: Figure) -> None:
    """Hide every text that overlaps one written before it."""
    if not any(len(ax.texts) > 1 for ax in figure.axes):
        return
    figure.draw_without_rendering()  # lays out the axes, which decides where texts lie
    for ax in figure.axes:
        shown: list[Bbox] = []
        for text in ax.texts:
            place = text.get_window_extent()
            if Bbox.intersection(place, ax.bbox) and place.count_overlaps(shown):
                text.set_visible(False)
            else:
                shown.append(place)


def add_legend(figure: Figure, colours: Mapping[str, str], dashed: Collection[str] = ()) -> None:
    """Add a legend of colours under the figure, in as many columns as fit; of many entries the first ones."""
    kept = list(colours) if len(colours) <= _MAX_ENTRIES else list(colours)[: _MAX_ENTRIES - 1]
    texts = [shorten(name, _LONGEST_NAME, placeholder="...") or name[:_LONGEST_NAME] for name in kept]
    styles: list[Any] = [(0, _DASHES) if name in dashed else "solid" for name in kept]
    patches = [
        Patch(facecolor="none", edgecolor=colours[name], linewidth=2, linestyle=style, label=text)
        for name, style, text in zip(kept, styles, texts, strict=True)
    ]
    if len(kept) < len(colours):
        texts.append(f"and {len(colours) - len(kept)} more")
        patches.append(Patch(facecolor="none", edgecolor="none", label=texts[-1]))
    if patches:
        longest = max(map(len, texts))
        columns = max(1, min(6, int(figure.get_figwidth() / (_CHARACTER_IN * longest + _HANDLE_IN))))
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)

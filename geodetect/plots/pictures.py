"""Pictures from arrays, and what is drawn over them.

Shapes: C bands, H W pixels, V corners of an outline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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

_SHOWN_PERCENTILES = (2, 98)  # for pictures only; the network's stretch is another and is recorded
_MAX_SCORES = 30  # scores written into one picture; more would cover it
_MAX_ENTRIES = 24  # of a legend; more would be as tall as the picture
_LONGEST_NAME = 40  # characters of a name in a legend
_CHARACTER_IN, _HANDLE_IN = 0.08, 0.55  # width of a letter of 9 points, and of what stands before it, in inches
_DASHES = (3, 2)


def as_rgb(pixels: np.ndarray, limits: np.ndarray | None = None) -> Float[np.ndarray, "H W 3"]:
    """A picture to look at, 0 to 1, of an array (C, H, W): the first three bands, or the first one as grey.

    Bytes are shown as they are, bands of any other type from their lower to their upper limit.

    Args:
        pixels: of any number of bands, 0 in all of them where there is no data.
        limits: (C, 2) what is shown as black and as white, as from `shown_limits`; None: the limits of these pixels.
    """
    bands = _shown_bands(len(pixels))
    if pixels.dtype == np.uint8:
        shown = pixels[bands].astype(np.float32) / 255
    else:
        low, high = (shown_limits([pixels]) if limits is None else limits)[bands].T[..., None, None]
        share = (np.nan_to_num(pixels[bands].astype(np.float64), nan=-np.inf) - low) / np.where(
            high > low, high - low, 1
        )
        shown = np.clip(share, 0, 1).astype(np.float32)
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


def _shown_bands(n_bands: int) -> list[int]:
    return [0, 1, 2] if n_bands > 2 else [0, 0, 0]  # noqa: PLR2004


def shown_limits(pictures: Sequence[np.ndarray]) -> Float[np.ndarray, "C 2"]:
    """The 2nd and 98th percentile of each band over all pictures together, so that they can be compared.

    Pixels without data, which are 0 in all bands, and values that are no numbers have no say.

    Args:
        pictures: arrays (C, H, W) of the same bands, one at least.
    """
    flat = np.concatenate([picture.reshape(len(picture), -1) for picture in pictures], axis=1)
    data = flat[:, (flat != 0).any(axis=0)]
    bands = [band[np.isfinite(band)].astype(np.float64) for band in data]
    return np.array([np.percentile(band, _SHOWN_PERCENTILES) if band.size else (0.0, 1.0) for band in bands])


def extent(shape: Sequence[int]) -> tuple[float, float, float, float]:
    """Where imshow puts a picture so that (0, 0) is the outer corner of its first pixel, as in our boxes."""
    return 0.0, float(shape[1]), float(shape[0]), 0.0


def draw_outlines(
    ax: Axes,
    outlines: Sequence[np.ndarray],
    labels: Collection[str],
    colours: Mapping[str, str],
    *,
    width: float,
    dashed: Collection[str] = (),
) -> None:
    """Outlines in the colours of their labels; wide ones on a dark casing, which shows them on bright roofs too.

    Args:
        ax: where to draw.
        outlines: corners (V, 2) of each.
        labels: of the outlines.
        colours: of the labels.
        width: of the lines, in points.
        dashed: the labels whose lines are broken.
    """
    strokes = [([colours[label] for label in labels], width)]
    if width >= 1:
        strokes.insert(0, (["#0000008C"], 2.2 * width))
    styles = [(0, _DASHES) if label in dashed else "solid" for label in labels]
    for edges, linewidth in strokes:
        lines = PolyCollection(
            outlines, facecolors="none", edgecolors=edges, linewidths=linewidth, linestyles=styles or "solid"
        )
        ax.add_collection(lines, autolim=False)


def write_scores(ax: Axes, outlines: Sequence[np.ndarray], scores: np.ndarray | None) -> None:
    """The score at the upper left of each outline, the best first, unless so many would cover the picture."""
    if scores is None or len(scores) > _MAX_SCORES:
        return
    for k in np.argsort(-np.nan_to_num(scores, nan=-1), kind="stable"):
        if np.isfinite(scores[k]):
            ax.annotate(
                f"{scores[k]:.2f}",
                outlines[k].min(axis=0),
                xytext=(1, -1),
                textcoords="offset points",
                va="top",
                fontsize=6,
                color="white",
                path_effects=[withStroke(linewidth=1.6, foreground="black")],
                clip_on=True,
            ).set_in_layout(False)


def hide_overlapping_texts(figure: Figure) -> None:
    """Of the texts in a picture that would lie on each other, only those written first are seen."""
    if not any(len(ax.texts) > 1 for ax in figure.axes):
        return
    figure.draw_without_rendering()  # lays out the axes, without which nobody knows where a text comes to lie
    for ax in figure.axes:
        shown: list[Bbox] = []
        for text in ax.texts:
            place = text.get_window_extent()
            if Bbox.intersection(place, ax.bbox) and place.count_overlaps(shown):
                text.set_visible(False)
            else:
                shown.append(place)


def add_legend(figure: Figure, colours: Mapping[str, str], dashed: Collection[str] = ()) -> None:
    """One entry for each colour, under the figure, in as many columns as fit; of many entries the first ones.

    Args:
        figure: where to draw.
        colours: by what the entries say, the most important first.
        dashed: entries whose lines are broken.
    """
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

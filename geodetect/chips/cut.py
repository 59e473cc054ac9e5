"""Labels cut at the edges of windows: which box each chip holds.

Shapes: N labels, W windows, P pairs of a label and a window that it meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import shapely

from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan
from geodetect.errors import ArgumentError
from geodetect.grid import Tiling, Window
from geodetect.raster import MaskedReader, Reader

MIN_SIDE = 2.0  # px; what is narrower after cutting is a sliver that nothing can be learnt from


def windows_within(reader: Reader, *, chip_size: int, overlap: int, area: shapely.Geometry | None) -> list[Window]:
    """The windows of a tiling over the whole raster, or over the bounds of `area` where they meet it.

    Args:
        reader: the raster.
        chip_size: side of a window in pixels.
        overlap: how much neighbours share, in pixels.
        area: scene pixels; None for the whole raster.
    """
    if area is None:
        return list(Tiling(reader.grid.shape, chip_size, overlap))
    height, width = reader.grid.shape
    bounds = np.array(area.bounds)
    x1, y1 = np.maximum(np.floor(bounds[:2]), 0).astype(int)
    x2, y2 = np.minimum(np.ceil(bounds[2:]), (width, height)).astype(int)
    tiling = Tiling((int(y2 - y1), int(x2 - x1)), chip_size, overlap)
    moved = [Window(int(w.x + x1), int(w.y + y1), w.width, w.height) for w in tiling]
    shapely.prepare(area)
    return [window for window in moved if shapely.intersects(area, shapely.box(*window.xyxy))]


def cut(polygons: np.ndarray, labels: np.ndarray, windows: Sequence[Window], *, min_visible: float) -> list[Boxes]:
    """The boxes of each window, in its own pixels: the bounds of the visible part of each label.

    Args:
        polygons: (N,) shapely polygons in scene pixels.
        labels: (N,) class indices.
        windows: rectangles in scene pixels.
        min_visible: a part with a smaller share of its label's area is dropped, 0 to 1.

    Returns:
        as many `Boxes` as windows; parts under 2 px on a side are dropped too.
    """
    frames = shapely.box(*np.array([window.xyxy for window in windows], float).reshape(-1, 4).T)
    which, label = shapely.STRtree(polygons).query(frames)
    parts = _visible_parts(polygons[label], frames[which])
    share = np.divide(shapely.area(parts), shapely.area(polygons[label]), out=np.zeros(len(label)), where=True)
    bounds = shapely.bounds(parts)
    with np.errstate(invalid="ignore"):
        keep = (share >= min_visible) & (np.nan_to_num(bounds[:, 2:] - bounds[:, :2]) >= MIN_SIDE).all(axis=1)
    return _by_window(windows, which[keep], bounds[keep], labels[label[keep]])


def _visible_parts(polygons: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Each polygon's part inside its frame; those wholly inside are not cut, which most are not."""
    inside = (shapely.bounds(polygons)[:, :2] >= shapely.bounds(frames)[:, :2]).all(axis=1)
    inside &= (shapely.bounds(polygons)[:, 2:] <= shapely.bounds(frames)[:, 2:]).all(axis=1)
    parts = polygons.copy()
    parts[~inside] = shapely.intersection(polygons[~inside], frames[~inside])
    return parts


def _by_window(windows: Sequence[Window], which: np.ndarray, bounds: np.ndarray, labels: np.ndarray) -> list[Boxes]:
    """Boxes (P, 4) in scene pixels handed out to their windows, in each window's own pixels."""
    order = np.argsort(which, kind="stable")
    ends = np.searchsorted(which[order], np.arange(len(windows) + 1))
    shares = (order[start:stop] for start, stop in pairwise(ends))
    return [
        Boxes(bounds[share], labels[share]).shift(-window.x, -window.y)
        for window, share in zip(windows, shares, strict=True)
    ]


def plan_chips(
    reader: Reader,
    polygons: np.ndarray,
    labels: np.ndarray,
    *,
    chip_size: int,
    overlap: int = 0,
    min_visible: float = 0.3,
    negatives: float = 1.0,
    area: shapely.Geometry | None = None,
    seed: int = 42,
) -> list[ChipPlan]:
    """The chips of one raster: every window with a box, and some without; none when no box is left.

    Args:
        reader: the raster.
        polygons: (N,) shapely polygons in scene pixels.
        labels: (N,) class indices.
        chip_size: side of a chip in pixels.
        overlap: how much neighbours share, in pixels.
        min_visible: smallest share of a label's area that is still a label.
        negatives: chips without a box, as a share of those with one; 0 or more.
        area: scene pixels; what lies outside becomes invalid, and labels are cut at its edge.
        seed: which of the chips without a box are taken.

    Raises:
        ArgumentError: if a value is not possible.
    """
    if not 0 <= min_visible <= 1 or negatives < 0:
        raise ArgumentError(
            f"min_visible must lie between 0 and 1 and negatives be at least 0; "
            f"got min_visible={min_visible}, negatives={negatives}"
        )
    if area is not None:
        reader, polygons = MaskedReader(reader, area), shapely.intersection(polygons, area)
    windows = windows_within(reader, chip_size=chip_size, overlap=overlap, area=area)
    boxes = cut(polygons, labels, windows, min_visible=min_visible)
    full = [i for i, found in enumerate(boxes) if len(found)]
    bare = np.random.default_rng(seed).permutation([i for i, found in enumerate(boxes) if not len(found)])
    kept = _with_pixels(reader, windows, bare, round(negatives * len(full)))
    return [ChipPlan(reader, windows[i], boxes[i]) for i in sorted([*full, *kept])]


def _with_pixels(reader: Reader, windows: Sequence[Window], candidates: np.ndarray, n_wanted: int) -> list[int]:
    """The first `n_wanted` candidates whose window holds a valid pixel; reads no more than it must."""
    kept: list[int] = []
    for i in candidates:
        if len(kept) >= n_wanted:
            break
        if reader.read(windows[i])[1].any():
            kept.append(int(i))
    return kept

"""Labels cut at the edges of windows: which box each chip holds.

Shapes: N labels, W windows, P pairs of a label and a window that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np
import shapely

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan
from geodetect.errors import ArgumentError, check_seed, is_number, is_share
from geodetect.grid import Tiling, Window
from geodetect.raster import MaskedReader, Reader, mostly_valid
from geodetect.windows import Windows, check_stride, tilings_over

MIN_SIDE = 2.0  # px; what is narrower after cutting is a sliver that nothing can be learnt from
_PLAN_BYTES = 2000  # of a chip that is planned
_LARGEST_WHOLE = 1024  # px; pictures up to this size are chips as they are
_USUAL_CHIP = 512


@dataclass(frozen=True)
class Cutting:
    """How rasters become chips; the names are those of `prepare_data`.

    Raises:
        ArgumentError: if a value is not possible.
    """

    chip_size: int | None = None
    overlap: int = 0
    pixel_size_m: float | None = None
    bands: Sequence[int | str] | None = None
    min_visible: float = 0.3
    negatives: float = 1.0
    seed: int = 42
    nodata: float | None = None

    def __post_init__(self) -> None:
        if self.chip_size is not None:
            Tiling((1, 1), self.chip_size, self.overlap)
            what = f"a chip of {self.chip_size:,} x {self.chip_size:,} px"
            memory.check_fits(self.chip_size**2, what, "make chip_size smaller")
        if not is_share(self.min_visible):
            raise ArgumentError(f"min_visible must lie between 0 and 1; got {self.min_visible!r}")
        if not (is_number(self.negatives) and self.negatives >= 0):
            raise ArgumentError(f"negatives must be a number of at least 0; got {self.negatives!r}")
        check_seed(self.seed)

    def side(self, shapes: Sequence[tuple[int, int]]) -> int:
        """The chip size asked for, else the pictures' own when they are alike and small, else 512."""
        if self.chip_size is not None:
            return self.chip_size
        largest = max(max(shape) for shape in shapes)
        return largest if len(set(shapes)) == 1 and largest <= _LARGEST_WHOLE else _USUAL_CHIP


class Fate(IntEnum):
    """What became of a label, from worst to best: of several scenes that it meets the best counts."""

    OUTSIDE = 0
    CUT = 1
    BLANK = 2
    KEPT = 3


def windows_within(reader: Reader, *, chip_size: int, overlap: int, area: shapely.Geometry | None) -> list[Window]:
    """The windows of a tiling over the raster, or over the bounds of `area`, that meet its files and the area.

    Args:
        reader: the raster.
        chip_size: side of a window in pixels.
        overlap: how much neighbours share, in pixels.
        area: scene pixels; None for the whole raster.
    """
    pixels = math.prod(min(chip_size, length) for length in reader.grid.shape) * reader.n_bands
    what = f"a chip of {chip_size:,} px of {reader.grid.name}"
    memory.check_fits(pixels * reader.dtype.itemsize, what, "make chip_size smaller")
    if area is None:
        tilings = tilings_over(reader.grid.shape, chip_size, overlap, reader.footprints)
    else:
        bounds = np.array(area.bounds)
        x1, y1 = np.maximum(np.floor(bounds[:2]), 0).astype(int).tolist()
        x2, y2 = np.minimum(np.ceil(bounds[2:]), reader.grid.shape[::-1]).astype(int).tolist()
        tilings = [Tiling((y2 - y1, x2 - x1), chip_size, overlap, x1, y1)]
    check_stride(chip_size, overlap)
    windows = Windows.of(tilings, reader.footprints, None if area is None else np.array([area], object))
    memory.check_fits(
        _PLAN_BYTES * len(windows),
        f"plans of {len(windows):,} chips of {reader.grid.name}",
        "make chip_size larger or overlap smaller, or choose ground with aoi",
    )
    return list(windows)


def cut(
    polygons: np.ndarray,
    labels: np.ndarray,
    windows: Sequence[Window],
    *,
    min_visible: float,
    area: shapely.Geometry | None = None,
    min_side: float = MIN_SIDE,
) -> list[Boxes]:
    """The boxes of each window, in its own pixels: the bounds of the visible part of each label.

    Args:
        polygons: (N,) shapely polygons in scene pixels.
        labels: (N,) class indices, or whatever numbers the boxes are to bear.
        windows: rectangles in scene pixels.
        min_visible: a part with a smaller share of its label's area is dropped, 0 to 1.
        area: scene pixels; what lies outside is not visible.
        min_side: pixels; parts with a shorter side are dropped too.

    Returns:
        as many `Boxes` as windows.
    """
    inside = polygons if area is None else shapely.intersection(polygons, area)
    frames = shapely.box(*np.array([window.xyxy for window in windows], float).reshape(-1, 4).T)
    which, label = shapely.STRtree(inside).query(frames)
    parts = _visible_parts(inside[label], frames[which])
    share = np.divide(shapely.area(parts), shapely.area(polygons[label]), out=np.zeros(len(label)), where=True)
    bounds = shapely.bounds(parts)
    with np.errstate(invalid="ignore"):
        keep = (share >= min_visible) & (np.nan_to_num(bounds[:, 2:] - bounds[:, :2]) >= min_side).all(axis=1)
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
    cutting: Cutting,
    *,
    side: int,
    area: shapely.Geometry | None = None,
    min_side: float = MIN_SIDE,
) -> tuple[list[ChipPlan], np.ndarray]:
    """A plan for every window of one raster, with a box or without, and the `Fate` of each label.

    A raster that may hold invalid pixels is read here, in the windows that hold labels and nowhere else: what is
    told of the boxes, what trains and what is written is the same then. It costs what an epoch costs in reading.

    Args:
        reader: the raster.
        polygons: (N,) shapely polygons in scene pixels.
        labels: (N,) class indices.
        cutting: how much chips share, and which parts of labels count.
        side: of a chip in pixels.
        area: scene pixels; what lies outside becomes invalid, and labels are cut at its edge.
        min_side: pixels; parts with a shorter side are dropped.
    """
    windows = windows_within(reader, chip_size=side, overlap=cutting.overlap, area=area)
    numbers = np.arange(len(polygons))
    parts = cut(polygons, numbers, windows, min_visible=cutting.min_visible, area=area, min_side=min_side)
    seen = [_on_data(reader, window, boxes) for window, boxes in zip(windows, parts, strict=True)]
    fates = np.full(len(polygons), Fate.CUT)
    if reader.footprints is not None:
        fates[~_meeting(polygons, reader.footprints)] = Fate.BLANK
    if area is not None:
        fates[~shapely.intersects(polygons, area)] = Fate.OUTSIDE
    for fate, each in ((Fate.BLANK, parts), (Fate.KEPT, seen)):
        fates[Boxes.concat(each).labels] = fate
    reader = reader if area is None else MaskedReader(reader, area)
    whole = _whole(polygons, numbers[fates != Fate.BLANK], reader.grid.shape, cutting.min_visible, min_side, area)
    plans = [
        ChipPlan(reader, window, *(Boxes(each.xyxy, labels[each.labels]) for each in (boxes, objects)))
        for window, boxes, objects in zip(windows, seen, _centred(whole, windows), strict=True)
    ]
    return plans, fates


def _meeting(polygons: np.ndarray, footprints: np.ndarray) -> np.ndarray:
    """Which polygons meet any footprint, (N,)."""
    meets = np.zeros(len(polygons), bool)
    meets[shapely.STRtree(footprints).query(polygons, "intersects")[0]] = True
    return meets


def _whole(
    polygons: np.ndarray,
    numbers: np.ndarray,
    shape: tuple[int, int],
    min_visible: float,
    min_side: float,
    area: shapely.Geometry | None,
) -> Boxes:
    """The boxes of labels on the scene, in its pixels, as far as they are visible in the area; labelled by number."""
    scene = Window(0, 0, shape[1], shape[0])
    (boxes,) = cut(polygons[numbers], numbers, [scene], min_visible=min_visible, area=area, min_side=min_side)
    return boxes


def _centred(every: Boxes, windows: Sequence[Window]) -> list[Boxes]:
    """For each window the boxes, in scene pixels, with their centre in it."""
    frames = shapely.box(*np.array([window.xyxy for window in windows], float).reshape(-1, 4).T)
    which, label = shapely.STRtree(shapely.points(every.centres)).query(frames)
    ends = np.searchsorted(which, np.arange(len(windows) + 1))
    return [every[label[start:stop]] for start, stop in pairwise(ends)]


def _on_data(reader: Reader, window: Window, boxes: Boxes) -> Boxes:
    """The boxes of a window that lie on data."""
    if reader.all_valid or not len(boxes):
        return boxes
    return boxes[mostly_valid(boxes, reader.read(window)[1])]


def reasons(cutting: Cutting) -> dict[Fate, str]:
    """Why a label of each fate but `KEPT` is in no chip."""
    return {
        Fate.OUTSIDE: "outside the aoi",
        Fate.CUT: f"under {MIN_SIDE:g} px or visible by less than {cutting.min_visible:.0%} in every chip",
        Fate.BLANK: "mostly where the raster holds no data",
    }


def in_no_chip(fates: np.ndarray, cutting: Cutting) -> str:
    """How many labels no chip holds, and why, for a report; empty where there are none."""
    told = [f"{n:,} {reason}" for fate, reason in reasons(cutting).items() if (n := int((fates == fate).sum()))]
    return f"in no chip: {', '.join(told)}" if told else ""


def with_negatives(plans: Sequence[ChipPlan], cutting: Cutting) -> list[ChipPlan]:
    """The chips with a box, and as many of those without as are asked for, drawn from all scenes alike.

    Those without a valid pixel do not count; no more are read than must be to know it.
    """
    bare = [i for i, plan in enumerate(plans) if not len(plan.boxes)]
    n_wanted = round(min(len(bare), cutting.negatives * (len(plans) - len(bare))))
    drawn = np.random.default_rng(cutting.seed).permutation(bare).tolist()
    kept: list[int] = []
    while drawn and len(kept) < n_wanted:
        n_missing = n_wanted - len(kept)
        kept += [i for i in sorted(drawn[:n_missing]) if plans[i].holds_data]  # scene by scene, row by row
        drawn = drawn[n_missing:]
    left_out = set(bare) - set(kept)
    return [plan for i, plan in enumerate(plans) if i not in left_out]

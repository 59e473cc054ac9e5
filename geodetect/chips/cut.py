"""Clip labels to windows, which gives the boxes of each chip.

Shapes: N labels, W windows, P pairs of a label and a window that it meets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import shapely

from geodetect import memory
from geodetect.boxes import Boxes, oriented_envelope
from geodetect.chips.chip import ChipPlan
from geodetect.errors import ArgumentError, check_seed, is_number, is_share
from geodetect.grid import Tiling, Window
from geodetect.raster import MaskedReader, Reader, mostly_valid
from geodetect.windows import Windows, check_stride, plan_tilings

MIN_SIDE = 2.0  # px; narrower clipped parts are dropped from training
_PLAN_BYTES = 2000  # of a chip that is planned
_LARGEST_WHOLE = 1024  # px; images up to this size are chips as they are
_USUAL_CHIP = 512
_ENDLESS = 1e9  # px; beyond any label


class PixelLabels(NamedTuple):
    """Labels of one raster: (N,) polygons in its pixels, class indices, and whether scores ignore each (None: no)."""

    polygons: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray | None = None


class Fate(IntEnum):
    """Outcome of a label: in a chip, or why in none. Over several scenes the highest value counts."""

    OUTSIDE = 0
    CUT = 1
    BLANK = 2
    KEPT = 3


@dataclass(frozen=True)
class Cutting:
    """How rasters are cut into chips: parameters of `prepare_data`, the shortest side of a box and its kind.

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
    # Stopped exports are recognised by the repr of the others.
    min_side: float = field(default=MIN_SIDE, repr=False)
    oriented: bool = field(default=False, repr=False)

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

    def choose_side(self, shapes: Sequence[tuple[int, int]]) -> int:
        """Return the requested chip size, else the size of the images if they are equal and small, else 512."""
        if self.chip_size is not None:
            return self.chip_size
        largest = max(max(shape) for shape in shapes)
        return largest if len(set(shapes)) == 1 and largest <= _LARGEST_WHOLE else _USUAL_CHIP

    @property
    def reasons(self) -> dict[Fate, str]:
        """Description of each fate but `KEPT`."""
        return {
            Fate.OUTSIDE: "outside the aoi",
            Fate.CUT: f"under {MIN_SIDE:g} px or visible by less than {self.min_visible:.0%} in every chip",
            Fate.BLANK: "mostly where the raster holds no data",
        }

    def report_lost(self, fates: np.ndarray) -> str:
        """Return how many labels are in no chip, and why, in one line; empty if there are none."""
        lost = [f"{n:,} {reason}" for fate, reason in self.reasons.items() if (n := int((fates == fate).sum()))]
        return f"in no chip: {', '.join(lost)}" if lost else ""


def plan_windows(reader: Reader, *, chip_size: int, overlap: int, area: shapely.Geometry | None) -> list[Window]:
    """Return the windows of a tiling over the raster, or over the bounds of `area`, that meet its files and the area.

    Args:
        reader: the raster.
        chip_size: side of a window in pixels.
        overlap: of neighbouring windows, in pixels.
        area: scene pixels; None for the whole raster.
    """
    pixels = math.prod(min(chip_size, length) for length in reader.grid.shape) * reader.n_bands
    what = f"a chip of {chip_size:,} px of {reader.grid.name}"
    memory.check_fits(pixels * reader.dtype.itemsize, what, "make chip_size smaller")
    if area is None:
        tilings = plan_tilings(reader.grid.shape, chip_size, overlap, reader.footprints)
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
    cutting: Cutting,
    *,
    area: shapely.Geometry | None = None,
    within: tuple[int, int] | None = None,
) -> list[Boxes]:
    """Return the boxes of each window, in its own pixels, around the visible part of each label.

    Args:
        polygons: (N,) shapely polygons in scene pixels.
        labels: (N,) class indices, or other numbers for the boxes.
        windows: rectangles in scene pixels.
        cutting: the smallest part and side of a label that is kept, and whether boxes are bounds of the parts or the
            smallest rotated rectangles around them.
        area: scene pixels; nothing outside is visible.
        within: (height, width) of an image that is labelled by itself: what reaches beyond it is not cut there.

    Returns:
        One `Boxes` for each window.
    """
    inside = polygons if area is None else shapely.intersection(polygons, area)
    frames = _frames(windows, within)
    which, label = shapely.STRtree(inside).query(frames)
    parts, frames = inside[label], frames[which]
    own, bounds = shapely.bounds(parts), shapely.bounds(frames)
    across = ~((own[:, :2] >= bounds[:, :2]) & (own[:, 2:] <= bounds[:, 2:])).all(axis=1)  # few are
    parts[across] = shapely.intersection(parts[across], frames[across])
    share = np.divide(shapely.area(parts), shapely.area(polygons[label]), out=np.zeros(len(label)), where=True)
    bounds = shapely.bounds(parts)
    with np.errstate(invalid="ignore"):
        sides = np.nan_to_num(bounds[:, 2:] - bounds[:, :2])
        keep = (share >= cutting.min_visible) & (sides >= cutting.min_side).all(axis=1)
    if cutting.oriented:
        # A convex outline fills at least half of its smallest rotated rectangle; slivers may have none at all.
        keep[keep] = shapely.area(shapely.convex_hull(parts[keep])) >= cutting.min_side**2 / 2
        boxes = oriented_envelope(parts[keep], labels[label[keep]])
        wide = boxes.sizes.min(axis=1, initial=np.inf) >= cutting.min_side
        keep[keep], boxes = wide, boxes[wide]
    else:
        boxes = Boxes(bounds[keep], labels[label[keep]])
    return [
        boxes[share].shift(-window.x, -window.y)
        for window, share in zip(windows, _slices(which[keep], len(windows)), strict=True)
    ]


def _frames(windows: Sequence[Window], within: tuple[int, int] | None = None) -> np.ndarray:
    """Return the windows as polygons; those at the edges of `within` (height, width) without an end there."""
    xyxy = np.array([window.xyxy for window in windows], float).reshape(-1, 4)
    if within is not None:
        size = np.array(within[::-1])
        xyxy = np.concatenate(
            [np.where(xyxy[:, :2] <= 0, -_ENDLESS, xyxy[:, :2]), np.where(xyxy[:, 2:] >= size, _ENDLESS, xyxy[:, 2:])],
            axis=1,
        )
    return np.asarray(shapely.box(*xyxy.T), object)


def _slices(which: np.ndarray, n: int) -> list[slice]:
    """Return the slice of each of `n` windows in pairs sorted by window, as `STRtree.query` returns them."""
    return [slice(*ends) for ends in pairwise(np.searchsorted(which, np.arange(n + 1)))]


def plan_chips(
    reader: Reader,
    labelled: PixelLabels,
    cutting: Cutting,
    *,
    area: shapely.Geometry | None = None,
    within: tuple[int, int] | None = None,
) -> tuple[list[ChipPlan], np.ndarray]:
    """Plan a chip for every window of one raster, with a box or without, and return the `Fate` of each label.

    If the raster may hold invalid pixels, the windows with labels are read here, so that plans, training and files
    agree on the boxes. It costs as much reading as an epoch.

    Args:
        reader: the raster.
        labelled: its labels.
        cutting: with a chip size; the overlap of chips, and which parts of labels count.
        area: scene pixels; pixels outside become invalid, and labels are cut at its edge.
        within: as in `cut`.
    """
    polygons, labels, ignored = labelled
    assert cutting.chip_size is not None
    windows = plan_windows(reader, chip_size=cutting.chip_size, overlap=cutting.overlap, area=area)
    visible = partial(cut, cutting=cutting, area=area, within=within)
    numbers = np.arange(len(polygons))
    parts = visible(polygons, numbers, windows)
    seen = [
        boxes if reader.all_valid or not len(boxes) else boxes[mostly_valid(boxes, reader.read(window)[1])]
        for window, boxes in zip(windows, parts, strict=True)
    ]
    fates = np.full(len(polygons), Fate.CUT)
    if reader.footprints is not None:
        met, _ = shapely.STRtree(reader.footprints).query(polygons, "intersects")
        fates[~np.isin(numbers, met)] = Fate.BLANK
    if area is not None:
        fates[~shapely.intersects(polygons, area)] = Fate.OUTSIDE
    for fate, each in ((Fate.BLANK, parts), (Fate.KEPT, seen)):
        fates[Boxes.concat(each).labels] = fate
    reader = reader if area is None else MaskedReader(reader, area)
    height, width = reader.grid.shape
    held = numbers[fates != Fate.BLANK]
    (whole,) = visible(polygons[held], held, [Window(0, 0, width, height)])
    which, centred = shapely.STRtree(shapely.points(whole.centres)).query(_frames(windows, within))
    objects = [whole[centred[share]] for share in _slices(which, len(windows))]

    def relabel(boxes: Boxes) -> Boxes:
        number = boxes.labels
        return replace(boxes, labels=labels[number], ignored=None if ignored is None else ignored[number])

    plans = [
        ChipPlan(reader, window, relabel(boxes), relabel(whole))
        for window, boxes, whole in zip(windows, seen, objects, strict=True)
    ]
    return plans, fates


def draw_negatives(plans: Sequence[ChipPlan], cutting: Cutting) -> list[ChipPlan]:
    """Return the chips with a box and a random sample of those without, drawn from all scenes alike.

    Chips without a valid pixel do not count; no more are read than necessary.
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

"""Scan of the strips of a scene: run the detector on each window and set aside boxes cut by its edges.

Shapes: N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np
import shapely

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.grid import Window
from geodetect.raster import Reader, mostly_valid, mostly_valid_in
from geodetect.scene.edges import Parts, split
from geodetect.scene.ground import ground_of, join_ground
from geodetect.scene.plan import Plan
from geodetect.scene.prefetch import batches
from geodetect.scene.runner import Runner, run_batches
from geodetect.scene.seam import Seam

Passed = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Strip:
    """Detections in a strip of the scene, in scene pixels.

    Args:
        number: of the strip in the plan.
        settled: whole boxes that are final, whatever the adjacent strips hold.
        held: whole boxes that still depend on the strips above and below.
        parts: parts of objects that no window contains whole.
        n_run: number of windows run; the others hold no valid pixel, or are outside the area.
        ground: their ground with data; may extend beyond the area.
    """

    number: int
    settled: Boxes
    held: Boxes
    parts: Parts
    n_run: int
    ground: shapely.Geometry = field(default_factory=shapely.Polygon)


class _Seen(NamedTuple):
    """Result of one window: whole boxes, parts of larger objects, and its ground, in scene pixels."""

    whole: Boxes
    parts: Parts
    ground: shapely.Geometry


def scan_strips(
    reader: Reader, model: Runner, plan: Plan, strips: Sequence[int], *, passed: Passed = lambda n_passed, n_run: None
) -> Generator[Strip, None, None]:
    """Scan the strips with these numbers and yield them in this order.

    Args:
        reader: the scene.
        model: run on each window.
        plan: of the run.
        strips: in ascending order.
        passed: callback that takes the number of windows done since the last call and how many of them were run.
    """
    groups = (plan.of_strip(strip) for strip in strips)
    coming = batches(reader, groups, chip_size=plan.windows.chip_size, batch_size=plan.batch_size)
    following = 0
    with memory.reuse_freed(), closing(coming):  # its threads end here, also after an error
        found = run_batches(coming, model, reader.grid.name)
        n_passed = 0
        for group, of_group in groupby(found, key=lambda answer: answer[0].group):
            yield from map(_empty, strips[following:group])
            seen: list[_Seen] = []
            for batch, boxes in of_group:
                windows = zip(boxes, batch.windows, batch.valid, strict=True)
                seen += [_select_boxes(each, window, valid, plan) for each, window, valid in windows]
                passed(batch.n_passed - n_passed, len(batch.windows))
                n_passed = batch.n_passed
            yield _settle(strips[group], seen, plan)
            following = group + 1
    yield from map(_empty, strips[following:])


def _empty(number: int) -> Strip:
    """Return a strip in which no window was run."""
    nothing = Boxes.empty(scored=True)
    return Strip(number, nothing, nothing, Parts.concat([]), 0)


def _settle(number: int, seen: list[_Seen], plan: Plan) -> Strip:
    """Merge the results of the windows of a strip."""
    row_start, row_end = plan.lines(number)
    seam = Seam(plan.selection.nms_iou, row_start)
    settled = seam.feed(Boxes.concat([each.whole for each in seen]), row_end)
    parts, ground = Parts.concat([each.parts for each in seen]), join_ground([each.ground for each in seen])
    return Strip(number, settled, seam.held, parts, len(seen), ground)


def _select_boxes(found: Boxes, window: Window, valid: np.ndarray, plan: Plan) -> _Seen:
    """Filter a window's detections, given in window pixels, and split them into whole boxes and parts."""
    tiling = plan.windows.tiling_of(window)
    found = found.clip(window.width, window.height)
    assert found.scores is not None
    enough = found.scores >= plan.selection.lowest[found.labels]
    found = found[enough & (found.sizes > 0).all(axis=1)].shift(window.x, window.y)
    if found.oriented:
        # They are not clipped. As `Plan.lines` takes for granted, none extends beyond the window by more than its size.
        limits = np.array(window.xyxy) + tiling.chip_size * np.array([-1, -1, 1, 1])
        near = (found.bounds[:, :2] >= limits[:2]) & (found.bounds[:, 2:] <= limits[2:])
        found = found[found.are_inside(*tiling.ground.xyxy) & near.all(axis=1)]
    whole, parts = split(found, window, tiling, plan.selection.nms_iou)
    on_data = mostly_valid(whole.shift(-window.x, -window.y), valid)
    return _Seen(whole[on_data & plan.selection.is_inside(whole)], parts, ground_of(window, valid))


def on_ground(boxes: Boxes, reader: Reader, plan: Plan) -> np.ndarray:
    """Return which boxes lie on data and have their centre in the area, (N,).

    For joined boxes; whole boxes of windows are checked when they are scanned.
    """
    good = plan.selection.is_inside(boxes)
    good[good] = mostly_valid_in(reader, boxes[good])
    return good

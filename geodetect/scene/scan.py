"""Strips of a scene, scanned: each window shown to the detector, and freed of what its edges cut.

Shapes: N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
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
from geodetect.scene.ground import ground_of, joined
from geodetect.scene.plan import Plan
from geodetect.scene.prefetch import Batch, batches
from geodetect.scene.runner import Runner, run_batches
from geodetect.scene.seam import Seam

Passed = Callable[[int, int], None]
_Answer = tuple[Batch, list[Boxes]]


def _nobody(n_passed: int, n_run: int) -> None:
    """Keeps what it is told to itself."""


@dataclass(frozen=True, eq=False)
class Strip:
    """What was seen in a strip of the scene, in scene pixels.

    Args:
        number: which strip of the plan.
        settled: boxes seen whole that stand, whatever lies beside the strip.
        held: boxes seen whole whose fate hangs on the strips above and below.
        parts: pieces of objects that no window saw whole.
        n_run: windows that the model saw; the others hold no valid pixel, or lie outside the area.
        ground: what they hold of the scene, beyond the area too where they reach over it.
    """

    number: int
    settled: Boxes
    held: Boxes
    parts: Parts
    n_run: int
    ground: shapely.Geometry = field(default_factory=shapely.Polygon)


class _Seen(NamedTuple):
    """What of one window is of use: boxes that it saw whole, parts of others, and its ground, in scene pixels."""

    whole: Boxes
    parts: Parts
    ground: shapely.Geometry


def scanned(
    reader: Reader, model: Runner, plan: Plan, strips: Sequence[int], *, passed: Passed = _nobody
) -> Generator[Strip, None, None]:
    """The strips with these numbers, in this order.

    Args:
        reader: the scene.
        model: asked for the boxes of each window.
        plan: what is to be done.
        strips: in ascending order.
        passed: is told of windows that are done, and how many of them were run.
    """
    groups = (plan.of_strip(strip) for strip in strips)
    coming = batches(reader, groups, chip_size=plan.windows.chip_size, batch_size=plan.batch_size)
    following = 0
    with memory.kept(), closing(coming):  # its threads end here, also after an error
        found = run_batches(coming, model, reader.grid.name)
        for group, of_group in groupby(_told_of(found, passed), key=lambda answer: answer[0].group):
            yield from map(_empty, strips[following:group])
            seen = [each for batch, boxes in of_group for each in _seen_in(batch, boxes, plan)]
            yield _settled(strips[group], seen, plan)
            following = group + 1
    yield from map(_empty, strips[following:])


def _empty(number: int) -> Strip:
    """A strip in which no window is run."""
    nothing = Boxes.empty(scored=True)
    return Strip(number, nothing, nothing, Parts.concat([]), 0)


def _seen_in(batch: Batch, boxes: Sequence[Boxes], plan: Plan) -> Iterator[_Seen]:
    """What of each window is of use."""
    for window, valid, found in zip(batch.windows, batch.valid, boxes, strict=True):
        yield _seen(found, window, valid, plan)


def _told_of(answers: Iterable[_Answer], passed: Passed) -> Iterator[_Answer]:
    """Batches with their boxes, each told of when it is dealt with."""
    n_passed = 0
    for batch, boxes in answers:
        yield batch, boxes
        passed(batch.n_passed - n_passed, len(batch.windows))
        n_passed = batch.n_passed


def _settled(number: int, seen: list[_Seen], plan: Plan) -> Strip:
    """A strip whose windows have seen this."""
    row_start, row_end = plan.lines(number)
    seam = Seam(plan.nms_iou, row_start)
    settled = seam.feed(Boxes.concat([each.whole for each in seen]), row_end)
    parts, ground = Parts.concat([each.parts for each in seen]), joined([each.ground for each in seen])
    return Strip(number, settled, seam.held, parts, len(seen), ground)


def _seen(found: Boxes, window: Window, valid: np.ndarray, plan: Plan) -> _Seen:
    """What of a window and its detections, in window pixels, is of use."""
    found = found.clip(window.width, window.height)
    assert found.scores is not None
    enough = found.scores >= plan.lowest[found.labels]
    found = found[enough & (found.sizes > 0).all(axis=1)].shift(window.x, window.y)
    whole, parts = split(found, window, plan.windows.tiling_of(window), plan.nms_iou)
    on_data = mostly_valid(whole.shift(-window.x, -window.y), valid)
    return _Seen(whole[on_data & _inside(whole, plan.area)], parts, ground_of(window, valid))


def on_ground(boxes: Boxes, reader: Reader, plan: Plan) -> np.ndarray:
    """Which boxes lie on data, with their centre in the area, (N,).

    For boxes that no window saw whole; those of windows are judged when they are seen.
    """
    good = _inside(boxes, plan.area)
    good[good] = mostly_valid_in(reader, boxes[good])
    return good


def _inside(boxes: Boxes, area: shapely.Geometry | None) -> np.ndarray:
    """Which boxes have their centre in the area, (N,)."""
    return np.ones(len(boxes), bool) if area is None else np.asarray(shapely.intersects_xy(area, *boxes.centres.T))

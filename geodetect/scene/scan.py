"""Scan of the strips of a scene: run the detector on each window and set aside boxes cut by its edges.

Shapes: N boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import NamedTuple

import numpy as np
import shapely
from jaxtyping import Bool, Int

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.raster import Reader, mostly_valid, mostly_valid_in
from geodetect.scene.edges import Parts, split
from geodetect.scene.ground import ground_of, join_ground
from geodetect.scene.models import ChosenModel, optimise
from geodetect.scene.plan import Plan, Selection, Sizes, make_plan
from geodetect.scene.prefetch import Batch, batches
from geodetect.scene.runner import Runner, run_batches, runner_for
from geodetect.scene.seam import Seam
from geodetect.windows import Frames

Passed = Callable[[int, int], None]
_SAMPLE_PIXELS = 1 << 24  # of windows that a detector is calibrated on; 64 of 512 px


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
    """Result of a batch in scene pixels: whole boxes, parts of larger objects, and the ground of each window."""

    whole: Boxes
    parts: Parts
    grounds: list[shapely.Geometry]


class LocalScanner:
    """Scans a scene in this process.

    Args:
        chosen: the model to run.
    """

    def __init__(self, chosen: ChosenModel) -> None:
        device = chosen.device if chosen.name is None else None  # one given by its name was loaded there
        self.detector = optimise(chosen.detector, chosen.precision, device)

    def make_plan(self, reader: Reader, selection: Selection, sizes: Sizes, *, tta: bool) -> Plan:
        """Return the plan of the scan; sizes that are None are chosen for the model."""
        plan = make_plan(reader, self.detector, selection, sizes, tta=tta)
        if n_windows := getattr(self.detector, "n_to_calibrate", 0):
            self.detector.calibrate(_read_sample(reader, plan, n_windows))  # type: ignore[attr-defined]
        self._runner = runner_for(self.detector, plan)
        return plan

    @property
    def used_batch_size(self) -> int:
        """Number of windows in a batch; smaller than planned if memory ran out."""
        return self._runner.batch_size

    def scan(self, reader: Reader, plan: Plan, strips: Sequence[int], passed: Passed) -> Generator[Strip, None, None]:
        """Scan the strips with these numbers; as `scan_strips`."""
        return scan_strips(reader, self._runner, plan, strips, passed=passed)


def _read_sample(reader: Reader, plan: Plan, n_windows: int) -> np.ndarray:
    """Read windows with data from all over the scene, (N, C, H, W), the same ones each time.

    There are fewer if the scene is small or windows are large; a single one without data if that is all there is.
    """
    size, n_all = plan.windows.chip_size, len(plan.windows)
    n_windows = max(1, min(n_windows, _SAMPLE_PIXELS // size**2))
    order = np.random.default_rng(0).choice(n_all, min(n_all, 4 * n_windows), replace=False)  # some hold no data
    groups = chain([[plan.windows[i] for i in order.tolist()]], (plan.of_strip(i) for i in range(plan.n_strips)))
    with closing(batches(reader, groups, chip_size=size, batch_size=n_windows)) as coming:
        batch = next(coming, None)
    return np.zeros((1, reader.n_bands, size, size), reader.dtype) if batch is None else batch.pixels


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
    coming = batches(reader, groups, chip_size=plan.windows.chip_size, batch_size=plan.batch_size, empty=model.empty)
    # Its threads end here, also after an error. The work in the seam's thread mostly releases the GIL.
    with memory.reuse_freed(), closing(coming), ThreadPoolExecutor(1, "geodetect-seam") as pool:
        found = run_batches(coming, model, reader.grid.name)
        n_passed = following = 0
        settling: Future[Strip] | None = None
        try:
            for group, of_group in groupby(found, key=lambda answer: answer[0].group):
                seen: list[_Seen] = []
                for batch, boxes in of_group:
                    seen.append(_select_boxes(boxes, batch, plan))
                    passed(batch.n_passed - n_passed, len(batch.windows))
                    n_passed = batch.n_passed
                    if settling is not None and settling.done():
                        yield settling.result()
                        settling = None
                if settling is not None:
                    yield settling.result()
                yield from map(_empty, strips[following:group])
                settling, following = pool.submit(_settle, strips[group], seen, plan), group + 1
        except GeneratorExit:
            raise
        except BaseException:  # of a model, a raster, or Ctrl-C: the strips before it are kept
            if settling is not None:
                yield settling.result()
            raise
        if settling is not None:
            yield settling.result()
    yield from map(_empty, strips[following:])


def _empty(number: int) -> Strip:
    """Return a strip in which no window was run."""
    nothing = Boxes.empty(scored=True)
    return Strip(number, nothing, nothing, Parts.concat([]), 0)


def _settle(number: int, seen: list[_Seen], plan: Plan) -> Strip:
    """Merge the results of the batches of a strip."""
    row_start, row_end = plan.lines(number)
    seam = Seam(plan.selection.nms_iou, row_start)
    settled = seam.feed(Boxes.concat([each.whole for each in seen]), row_end)
    parts, grounds = Parts.concat([each.parts for each in seen]), [*chain(*(each.grounds for each in seen))]
    return Strip(number, settled, seam.held, parts, len(grounds), join_ground(grounds))


def _select_boxes(found: Sequence[Boxes], batch: Batch, plan: Plan) -> _Seen:
    """Filter the detections of a batch, given in window pixels, and split them into whole boxes and parts."""
    frames = plan.windows.frames(batch.windows)
    of = np.repeat(np.arange(len(found)), [len(boxes) for boxes in found])
    corners = frames.windows[:, :2]
    boxes = Boxes.concat(found).clip(*(frames.windows[:, 2:] - corners)[of].T)
    assert boxes.scores is not None
    enough = (boxes.scores >= plan.selection.lowest[boxes.labels]) & (boxes.sizes > 0).all(axis=1)
    boxes, of = boxes[enough].shift(*corners[of[enough]].T), of[enough]
    if boxes.oriented:
        near = _near(boxes, of, frames, plan.windows.chip_size)
        boxes, of = boxes[near], of[near]
    is_whole, parts = split(boxes, of, frames, plan.selection.nms_iou)
    whole, of = boxes[is_whole], of[is_whole]
    good, ground = plan.selection.is_inside(whole), shapely.box(*frames.windows.T)
    for number, (window, valid) in enumerate(zip(batch.windows, batch.valid, strict=True)):
        if valid is not None:
            ground[number], mine = ground_of(window, valid), np.flatnonzero(of == number)
            good[mine] &= mostly_valid(whole[mine].shift(-window.x, -window.y), valid)
    return _Seen(whole[good], parts, list(ground))


def _near(boxes: Boxes, of: Int[np.ndarray, "N"], frames: Frames, chip_size: int) -> Bool[np.ndarray, "N"]:
    """Return which oriented boxes, which are not clipped, have their centre on the ground of their tiling, (N,).

    None of them extends beyond its window by more than its size, as `Plan.lines` assumes.
    """
    grounds, limits = frames.grounds[of], frames.windows[of] + chip_size * np.array([-1, -1, 1, 1])
    on_ground = (boxes.centres >= grounds[:, :2]) & (boxes.centres <= grounds[:, 2:])
    inside = (boxes.bounds[:, :2] >= limits[:, :2]) & (boxes.bounds[:, 2:] <= limits[:, 2:])
    return np.asarray((on_ground & inside).all(axis=1))


def on_ground(boxes: Boxes, reader: Reader, plan: Plan) -> np.ndarray:
    """Return which boxes lie on data and have their centre in the area, (N,).

    For joined boxes; whole boxes of windows are checked when they are scanned.
    """
    good = plan.selection.is_inside(boxes)
    good[good] = mostly_valid_in(reader, boxes[good])
    return good

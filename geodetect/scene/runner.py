"""Inference batch by batch: thresholds are passed to the model, its results checked, and the device kept busy.

Shapes: B batch, C channels, H W pixels, N boxes.
"""

from __future__ import annotations

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.errors import ModelError
from geodetect.scene.models import DetectsPixels
from geodetect.scene.plan import Plan
from geodetect.scene.prefetch import Batch, Empty
from geodetect.scene.tta import merge_views, views_of

_ROUNDING = 1e-6  # by which a sigmoid or softmax in float32 may exceed 1
_IN_FLIGHT = 2  # batches queued on a GPU, so that it never waits for the boxes of the last one


class Runner:
    """Runs a model on batches of windows, which are launched first and collected later.

    A model with `launch` and `collect` works on a batch while the next is launched; any other does all its work in
    `launch`.

    Args:
        detector: any model.
        plan: provides the selection, `batch_size` and the windows' chip size.
    """

    def __init__(self, detector: DetectsPixels, plan: Plan) -> None:
        in_two = hasattr(detector, "launch") and hasattr(detector, "collect")
        ask: Callable[..., Any] = detector.launch if in_two else detector.detect  # type: ignore[attr-defined]
        known = {"min_score": float(plan.selection.lowest.min(initial=1)), "nms_iou": plan.selection.nms_iou}
        try:
            wanted: Iterable[str] = inspect.signature(ask).parameters
        except (TypeError, ValueError):  # of functions written in C
            wanted = ()
        self._ask = partial(ask, **{name: known[name] for name in known if name in wanted})
        self._collect = detector.collect if in_two else lambda found: found  # type: ignore[attr-defined]
        self._oriented, self._kind = plan.oriented, type(detector).__name__
        self._n_classes, self._side = len(plan.selection.lowest), plan.windows.chip_size
        self._nms_iou = plan.selection.nms_iou
        self._warned = False
        self.batch_size = plan.batch_size
        self.empty: Empty = getattr(detector, "empty", np.empty)

    def launch(self, pixels: np.ndarray) -> list[Any]:
        """Start inference on these windows (B, C, H, W) and return the handles that `collect` takes.

        If memory runs out, `batch_size` is halved from then on.

        Raises:
            ModelError: if there is not enough memory for a single window.
        """
        launched: list[tuple[int, Any]] = []
        start = 0
        while start < len(pixels):
            part = pixels[start : start + self.batch_size]
            try:
                launched.append((len(part), self._ask(part)))
            except (MemoryError, RuntimeError) as error:
                self._halve(len(part), pixels.shape[-1], error)
            else:
                start += len(part)
        return launched

    def _halve(self, n_windows: int, chip_size: int, error: Exception) -> None:
        if not memory.is_out_of_memory(error):
            raise error
        if n_windows == 1:
            raise ModelError(
                f"there is not enough memory to show the model one window of {chip_size} px; make chip_size smaller"
            ) from error
        self.batch_size = n_windows // 2

    def collect(self, launched: Sequence[Any]) -> list[Boxes]:
        """Return the boxes of each window of a launched batch.

        Raises:
            ModelError: if the model returned anything but valid boxes.
        """
        return [boxes for n_windows, part in launched for boxes in self._check(self._collect(part), n_windows)]

    def _check(self, given: Any, n_windows: int) -> list[Boxes]:
        is_complete = isinstance(given, Sequence) and len(given) == n_windows
        if not (is_complete and all(isinstance(boxes, Boxes) and boxes.scores is not None for boxes in given)):
            raise ModelError(
                f"detect must give a list of {n_windows} Boxes with scores, one for each window; got {given!r:.60}"
            )
        found = [self._with_angles(boxes) for boxes in given]
        labels = np.concatenate([boxes.labels for boxes in found])
        if labels.size and not 0 <= labels.min() <= labels.max() < self._n_classes:
            raise ModelError(
                f"labels must index the model's {self._n_classes} classes from 0; "
                f"got labels from {labels.min()} to {labels.max()}"
            )
        scores = np.concatenate([np.asarray(boxes.scores) for boxes in found])
        if not ((scores >= -_ROUNDING) & (scores <= 1 + _ROUNDING)).all():  # False for NaN too
            raise ModelError(f"scores must lie between 0 and 1; got scores from {scores.min():g} to {scores.max():g}")
        if (scores > 1).any() or (scores < 0).any():
            found = [replace(boxes, scores=np.clip(np.asarray(boxes.scores), 0, 1)) for boxes in found]
        every = Boxes.concat(found)
        possible = self._possible(every)
        if possible.all():
            return found
        if not self._warned:
            self._warned = True
            turned = "" if every.angles is None else f" turned by {every.angles[~possible][0]:g}"
            warnings.warn(
                f"detect gives boxes that are dropped, such as {every.xyxy[~possible][0].tolist()}{turned}: they must "
                f"be x1, y1, x2, y2 in pixels of the window, from 0 to {self._side}, with x1 < x2 and y1 < y2"
                f"{' and an angle in radians' if turned else ''}",
                UserWarning,
                stacklevel=2,
            )
        return [boxes[self._possible(boxes)] for boxes in found]

    def _with_angles(self, boxes: Boxes) -> Boxes:
        """Return boxes that are oriented if the detector says so; no boxes at all may be of either kind.

        Raises:
            ModelError: if there are boxes of the other kind.
        """
        if boxes.oriented == self._oriented:
            return boxes
        if not len(boxes):
            return Boxes.empty(scored=True, oriented=self._oriented)
        if self._oriented:
            raise ModelError(
                f"detect must give Boxes with angles, because this {self._kind} says oriented = True; got {len(boxes)} "
                "without: give angles, or leave oriented out"
            )
        raise ModelError(
            f"detect must give Boxes without angles, because this {self._kind} does not say oriented = True; got "
            f"{len(boxes)} with angles: say it, or leave the angles out"
        )

    def _possible(self, boxes: Boxes) -> Bool[np.ndarray, "N"]:
        """Return which boxes are finite, ordered and within reach of the window."""
        corners, bounds = boxes.xyxy, boxes.bounds
        possible = np.isfinite(bounds).all(axis=1) & (corners[:, :2] <= corners[:, 2:]).all(axis=1)
        return np.asarray(possible & ((bounds[:, :2] <= self._side) & (bounds[:, 2:] >= 0)).all(axis=1))


class SymmetricRunner(Runner):
    """Runs a model on each window in all eight symmetries of a square."""

    def launch(self, pixels: np.ndarray) -> list[Any]:
        """Start inference on all views of these windows (B, C, H, W)."""
        return [super(SymmetricRunner, self).launch(view) for view in views_of(pixels)]

    def collect(self, launched: Sequence[Any]) -> list[Boxes]:
        """Return the boxes of each window that all its views together show."""
        found = [super(SymmetricRunner, self).collect(view) for view in launched]
        return merge_views(found, self._side, self._nms_iou)


def runner_for(detector: DetectsPixels, plan: Plan) -> Runner:
    """Return the runner of a detector for a plan."""
    return SymmetricRunner(detector, plan) if plan.tta else Runner(detector, plan)


def run_batches(
    coming: Iterable[Batch], model: Runner, raster: str = "the scene"
) -> Iterator[tuple[Batch, list[Boxes]]]:
    """Yield each batch with the boxes of its windows, in window pixels; later batches are launched before collecting.

    An error of the model is raised unchanged, with a note that names the windows.

    Args:
        coming: the batches.
        model: run on each batch.
        raster: name of the scene in the note.
    """

    def collected(batch: Batch, launched: list[Any]) -> tuple[Batch, list[Boxes]]:
        with _name_windows(batch, raster):
            return batch, model.collect(launched)

    waiting: deque[tuple[Batch, list[Any]]] = deque()
    for batch in coming:
        with _name_windows(batch, raster):
            waiting.append((batch, model.launch(batch.pixels)))
        if len(waiting) > _IN_FLIGHT:
            yield collected(*waiting.popleft())
    for each in waiting:
        yield collected(*each)


@contextmanager
def _name_windows(batch: Batch, raster: str) -> Iterator[None]:
    """Add a note to an error that names the windows of the batch; StopIteration becomes a ModelError."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # of a model that may be anybody's
        x1, y1, x2, y2 = batch.windows[0].xyxy
        more = f" and {len(batch.windows) - 1} more" if len(batch.windows) > 1 else ""
        place = f"the window x {x1} to {x2}, y {y1} to {y2}{more} of {raster}"
        if isinstance(error, StopIteration):  # which cannot propagate through a generator
            raise ModelError(f"the model raised StopIteration on {place}; fix its detect method") from error
        error.add_note(f"while the model ran on {place}")
        raise

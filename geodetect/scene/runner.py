"""A model asked about one batch of windows after the other: told its thresholds, its answers checked, never idle.

Shapes: B batch, C channels, H W pixels.
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

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.errors import ModelError
from geodetect.scene.models import DetectsPixels
from geodetect.scene.plan import Plan
from geodetect.scene.prefetch import Batch
from geodetect.scene.symmetry import in_all_symmetries

_ROUNDING = 1e-6  # by which a sigmoid or softmax in float32 may lie above 1
_IN_FLIGHT = 2  # batches that a GPU may have before it, so that it never waits for the boxes of the last


class Runner:
    """A model and what it is asked: the boxes of batches, launched first and collected later.

    A model with `launch` and `collect` works on a batch while the next is launched; any other does all its work in
    `launch`.

    Args:
        detector: any model.
        plan: its `lowest`, `nms_iou` and `batch_size` are those to be used.
    """

    def __init__(self, detector: DetectsPixels, plan: Plan) -> None:
        in_two = hasattr(detector, "launch") and hasattr(detector, "collect")
        ask: Callable[..., Any] = detector.launch if in_two else detector.detect  # type: ignore[attr-defined]
        known = {"min_score": float(plan.lowest.min(initial=1)), "nms_iou": plan.nms_iou}
        wanted = _parameters(ask)
        self._ask = partial(ask, **{name: known[name] for name in known if name in wanted})
        self._collect = detector.collect if in_two else _as_it_is  # type: ignore[attr-defined]
        self._n_classes, self._side = len(plan.lowest), plan.windows.chip_size
        self._warned = False
        self.batch_size = plan.batch_size

    def launch(self, pixels: np.ndarray) -> list[Any]:
        """What `collect` takes to give the boxes of these windows (B, C, H, W).

        Where memory does not suffice, half as many windows are shown at once from then on: `batch_size` says how many.

        Raises:
            ModelError: if memory does not suffice for a single window.
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
        if not memory.is_short(error):
            raise error
        if n_windows == 1:
            raise ModelError(
                f"there is not enough memory to show the model one window of {chip_size} px; make chip_size smaller"
            ) from error
        self.batch_size = n_windows // 2

    def collect(self, launched: Sequence[Any]) -> list[Boxes]:
        """The boxes of each window of a batch that was launched.

        Raises:
            ModelError: if the model gave something else.
        """
        return [boxes for n_windows, part in launched for boxes in self._checked(self._collect(part), n_windows)]

    def _checked(self, found: Any, n_windows: int) -> list[Boxes]:
        if not _is_answer(found, n_windows):
            raise ModelError(
                f"detect must give a list of {n_windows} Boxes with scores, one for each window; got {found!r:.60}"
            )
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
            found = [replace(boxes, scores=np.clip(boxes.scores, 0, 1)) for boxes in found]
        return [self._possible(boxes) for boxes in found]

    def _possible(self, boxes: Boxes) -> Boxes:
        """The boxes that are some, in the window that was shown; a warning tells once of others."""
        corners = boxes.xyxy
        possible = np.isfinite(corners).all(axis=1) & (corners[:, :2] <= corners[:, 2:]).all(axis=1)
        possible &= ((corners[:, :2] <= self._side) & (corners[:, 2:] >= 0)).all(axis=1)
        if possible.all():
            return boxes
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"detect gives boxes that are left out, such as {corners[~possible][0].tolist()}: they must be "
                f"x1, y1, x2, y2 in pixels of the window, from 0 to {self._side}, with x1 < x2 and y1 < y2",
                UserWarning,
                stacklevel=2,
            )
        return boxes[possible]


class SymmetricRunner(Runner):
    """A model that is asked about each window in all eight symmetries of a square; the answer is there at launch."""

    def __init__(self, detector: DetectsPixels, plan: Plan) -> None:
        super().__init__(detector, plan)
        self._in_all = in_all_symmetries(self._in_one, plan.nms_iou)

    def _in_one(self, pixels: np.ndarray) -> list[Boxes]:
        return super().collect(super().launch(pixels))

    def launch(self, pixels: np.ndarray) -> list[Any]:
        """The boxes of these windows, (B, C, H, W)."""
        return self._in_all(pixels)

    def collect(self, launched: Sequence[Any]) -> list[Boxes]:
        """What was launched."""
        return list(launched)


def runner_for(detector: DetectsPixels, plan: Plan) -> Runner:
    """The detector as the plan asks it."""
    return SymmetricRunner(detector, plan) if plan.tta else Runner(detector, plan)


def _parameters(ask: Callable[..., Any]) -> Iterable[str]:
    """The names of what can be told; none where nobody can see them, as of functions written in C."""
    try:
        return inspect.signature(ask).parameters
    except (TypeError, ValueError):
        return ()


def _as_it_is(found: Any) -> Any:
    return found


def _is_answer(found: Any, n_windows: int) -> bool:
    """Whether a detector gave scored boxes for each window."""
    if not isinstance(found, Sequence) or len(found) != n_windows:
        return False
    return all(isinstance(boxes, Boxes) and boxes.scores is not None for boxes in found)


def run_batches(
    coming: Iterable[Batch], model: Runner, raster: str = "the scene"
) -> Iterator[tuple[Batch, list[Boxes]]]:
    """Each batch with the boxes of its windows, in window pixels; the next are launched before one is collected.

    An error of the model comes through as it is, with a note of the windows that it was shown.

    Args:
        coming: the batches.
        model: asked about each.
        raster: what the note calls the scene.
    """

    def collected(batch: Batch, launched: list[Any]) -> tuple[Batch, list[Boxes]]:
        with _noting(batch, raster):
            return batch, model.collect(launched)

    waiting: deque[tuple[Batch, list[Any]]] = deque()
    for batch in coming:
        with _noting(batch, raster):
            waiting.append((batch, model.launch(batch.pixels)))
        if len(waiting) > _IN_FLIGHT:
            yield collected(*waiting.popleft())
    for each in waiting:
        yield collected(*each)


@contextmanager
def _noting(batch: Batch, raster: str) -> Iterator[None]:
    """Note on an error which windows the model was shown."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        x1, y1, x2, y2 = batch.windows[0].xyxy
        more = f" and {len(batch.windows) - 1} more" if len(batch.windows) > 1 else ""
        place = f"the window x {x1} to {x2}, y {y1} to {y2}{more} of {raster}"
        if isinstance(error, StopIteration):  # which Python does not let through a generator
            raise ModelError(f"the model raised StopIteration while it was shown {place}; mend its detect") from error
        error.add_note(f"while the model was shown {place}")
        raise

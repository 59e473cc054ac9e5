"""Strips scanned by the workers of a cluster; what a strip gives is the same wherever it is scanned."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodetect import cluster
from geodetect.raster import RasterReader
from geodetect.scene.models import DetectsPixels, detector_of, made_ready
from geodetect.scene.plan import Plan
from geodetect.scene.runner import Runner, runner_for
from geodetect.scene.scan import Strip, scanned

_PER_WORKER = 8  # tasks at least, so that none waits long for the last
_LARGEST = 16  # strips in one task: what a worker that dies takes with it


@dataclass(frozen=True, eq=False)
class _File:
    """A file that travels.

    Args:
        name: without its folder.
        content: all of it.
    """

    name: str
    content: bytes


class Work:
    """The scan of a scene as it travels: each process unpacks the model once, whatever it scans.

    Args:
        reader: the scene, of a file that every worker finds under the same name.
        model: a file that a learner saved, which travels as it is; or any detector.
        plan: what is to be done.
        device: where it runs; None: where it is, or for a file a GPU where a worker has one.
        precision: what it computes with, the same on every worker; None: what it is made for.
    """

    def __init__(
        self,
        reader: RasterReader,
        model: Path | _File | DetectsPixels,
        plan: Plan,
        *,
        device: str | None,
        precision: str | None,
    ) -> None:
        self._reader, self._plan = reader, plan
        self._model = _File(model.name, model.read_bytes()) if isinstance(model, Path) else model
        self._device, self._precision = device, precision
        self._runner: Runner | None = None
        self._turn = threading.Lock()  # one network on one device gains nothing from threads

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (self._reader, self._model, self._plan, self._device, self._precision)

    def __call__(self, strips: Sequence[int]) -> list[Strip]:
        """What is seen in the strips with these numbers."""
        with self._turn:
            if self._runner is None:
                self._runner = runner_for(self._ready(), self._plan)
            with closing(scanned(self._reader, self._runner, self._plan, strips)) as seen:
                return list(seen)

    def _ready(self) -> DetectsPixels:
        if not isinstance(self._model, _File):
            return made_ready(self._model, self._precision, self._device)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / self._model.name
            file.write_bytes(self._model.content)
            return made_ready(detector_of(file, self._device, self._precision or "auto"), self._precision)


def _arrived(reader: RasterReader, model: Any, plan: Plan, device: str | None, precision: str | None) -> Work:
    return Work(reader, model, plan, device=device, precision=precision)


def scanned_by(
    client: Any, work: Work, strips: Sequence[int]
) -> Generator[tuple[Sequence[int], list[Strip]], None, None]:
    """What `scanned` gives of these strips, a few at a time with the numbers that were asked for, in any order.

    Args:
        client: of the cluster.
        work: what its workers are to do.
        strips: in ascending order.
    """
    size = max(1, min(_LARGEST, len(strips) // (_PER_WORKER * cluster.n_workers(client))))
    tasks = [strips[start : start + size] for start in range(0, len(strips), size)]
    with closing(cluster.run(work, tasks, client)) as done:
        yield from done

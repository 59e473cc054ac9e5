"""Strips scanned by the workers of a cluster; the result of a strip does not depend on the worker."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geodetect import cluster, memory
from geodetect.raster import RasterReader
from geodetect.scene.models import DetectsPixels, detector_of, optimise
from geodetect.scene.plan import Plan
from geodetect.scene.runner import Runner, runner_for
from geodetect.scene.scan import Strip, scan_strips

_PER_WORKER = 8  # minimum number of tasks, so that no worker idles long at the end
_LARGEST = 16  # strips per task: the work lost when a worker dies


@dataclass(frozen=True, eq=False)
class _File:
    """A file sent to the workers.

    Args:
        name: without its folder.
        content: all bytes.
    """

    name: str
    content: bytes


class Work:
    """A picklable scan of a scene; each process loads the model once, however many strips it scans.

    Args:
        reader: the scene, of files that every worker can open under the same name.
        model: a saved model file, which is sent unchanged, or any detector.
        plan: of the run.
        device: where it runs; None: where it is, or for a file a GPU if the worker has one.
        precision: the same on every worker; None: the model's own.
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
        """Scan the strips with these numbers."""
        with self._turn:
            if self._runner is None:
                self._runner = runner_for(self._ready(), self._plan)
            scan = scan_strips(self._reader, self._runner, self._plan, strips)
            with memory.spare_collector(), closing(scan) as seen:
                return list(seen)

    def _ready(self) -> DetectsPixels:
        if not isinstance(self._model, _File):
            return optimise(self._model, self._precision, self._device)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / self._model.name
            file.write_bytes(self._model.content)
            return optimise(detector_of(file, self._device, self._precision or "auto"), self._precision)


def _arrived(reader: RasterReader, model: Any, plan: Plan, device: str | None, precision: str | None) -> Work:
    return Work(reader, model, plan, device=device, precision=precision)


def scan_on_cluster(
    client: Any, work: Work, strips: Sequence[int]
) -> Generator[tuple[Sequence[int], list[Strip]], None, None]:
    """Scan strips on a cluster; yield the numbers of each task with its strips, in any order.

    Args:
        client: of the cluster.
        work: the scan.
        strips: in ascending order.
    """
    size = max(1, min(_LARGEST, len(strips) // (_PER_WORKER * cluster.n_workers(client))))
    tasks = [strips[start : start + size] for start in range(0, len(strips), size)]
    with closing(cluster.run(work, tasks, client)) as done:
        yield from done

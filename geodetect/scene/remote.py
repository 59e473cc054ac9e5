"""Scenes scanned by the workers of a cluster, and all choices that only they require.

The detector is loaded on each worker. Its precision and the batch size are chosen on one of them for all, so that the
result of a strip does not depend on the worker.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from geodetect import cluster, memory
from geodetect.errors import ArgumentError
from geodetect.export.onnx_detector import read_whole
from geodetect.raster import RasterReader
from geodetect.scene.models import ChosenModel, DetectsPixels, detector_of, optimise, suited_batch_size
from geodetect.scene.plan import Plan, Selection, Sizes, make_plan
from geodetect.scene.runner import Runner, runner_for
from geodetect.scene.scan import Passed, Strip, scan_strips

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


@dataclass(frozen=True, eq=False)
class RemoteModel:
    """A model on its way to the workers of a cluster.

    Several workers that see the same GPUs take one each; those of dask-cuda see them in orders of their own, and take
    the first (https://docs.rapids.ai/api/dask-cuda/stable/).

    Args:
        model: a file of a model, or any detector.
        device: where it runs; None: where it is, or a GPU of the worker if `is_named`.
        precision: None: the model's own, or chosen by the worker.
        is_named: whether it was given by its name, not as an object.
        numbers: of the workers that see the same GPUs, by name.
    """

    model: _File | DetectsPixels
    device: str | None
    precision: str | None
    is_named: bool
    numbers: Mapping[Any, int]

    @classmethod
    def of(cls, chosen: ChosenModel, client: Any) -> RemoteModel:
        """Return the chosen model for the workers that the cluster has now.

        Raises:
            ArgumentError: if `client` is not a client of dask.
            ClusterError: if there is no worker.
        """
        from geodetect.network.devices import list_gpus  # here, as it loads torch, which other detectors do without

        numbers = cluster.number_workers(client, list_gpus)
        file = None if chosen.name is None else Path(chosen.name)
        sent = _File(file.name, read_whole(file)) if file is not None and file.is_file() else chosen.detector
        own = None if chosen.by_trial else getattr(chosen.detector, "precision", None)
        return cls(sent, chosen.device, chosen.precision or own, chosen.name is not None, numbers)

    def choose(self, client: Any, chip_size: int) -> Choice:
        """Return what suits one of the workers. All use it, so that the result of a strip depends on none of them."""
        with closing(cluster.run(self._choose, [chip_size], client)) as done:
            ((_, choice),) = done
        return choice

    def _choose(self, chip_size: int) -> Choice:
        detector = self.load()
        return Choice(getattr(detector, "precision", None), suited_batch_size(detector, chip_size))

    def load(self) -> DetectsPixels:
        """Return the detector, optimised for many windows, where the worker that runs this is to run it."""
        device = self.device
        if self.is_named or device is not None or str(getattr(self.model, "device", None)).startswith("cuda"):
            from geodetect.network.devices import share_gpus

            device = share_gpus(device, cluster.own_number(self.numbers))
        if not isinstance(self.model, _File):
            return optimise(self.model, self.precision, device)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / self.model.name
            file.write_bytes(self.model.content)
            return optimise(detector_of(file, device, self.precision or "auto"), self.precision)


class Choice(NamedTuple):
    """Precision, None if the detector has none, and batch size of a run."""

    precision: str | None
    batch_size: int


class Work:
    """A picklable scan of a scene; each process loads the model once, however many strips it scans.

    Args:
        reader: the scene, of files that every worker can open under the same name.
        model: to run.
        plan: of the run.
    """

    def __init__(self, reader: RasterReader, model: RemoteModel, plan: Plan) -> None:
        self._reader, self.model, self._plan = reader, model, plan
        self._runner: Runner | None = None
        self._turn = threading.Lock()  # one network on one device gains nothing from threads

    def __reduce__(self) -> tuple[Any, ...]:
        return Work, (self._reader, self.model, self._plan)

    def __call__(self, strips: Sequence[int]) -> list[Strip]:
        """Scan the strips with these numbers."""
        with self._turn:
            if self._runner is None:
                self._runner = runner_for(self.model.load(), self._plan)
            scan = scan_strips(self._reader, self._runner, self._plan, strips)
            with memory.freeze_collector(), closing(scan) as seen:
                return list(seen)


class ClusterScanner:
    """Scans a scene on the workers of a cluster, as `LocalScanner` does in this process.

    Args:
        chosen: the model to run.
        client: of the cluster.

    Raises:
        ArgumentError: if `client` is not a client of dask, or the precision is "int8".
        ClusterError: if there is no worker.
    """

    def __init__(self, chosen: ChosenModel, client: Any) -> None:
        if "int8" in (chosen.precision, getattr(chosen.detector, "precision", None)):
            raise ArgumentError('precision="int8" is calibrated in one process: leave client out, or use "auto"')
        self._chosen, self._client, self._model = chosen, client, RemoteModel.of(chosen, client)
        self.detector = chosen.detector

    def make_plan(self, reader: RasterReader, selection: Selection, sizes: Sizes, *, tta: bool) -> Plan:
        """Return the plan of the scan; a worker chooses what is left to the model."""
        chosen, size = self._chosen, sizes.batch_size
        at_first = replace(sizes, batch_size=1) if size is None else sizes
        plan = make_plan(reader, chosen.detector, selection, at_first, tta=tta)
        if size is None or (chosen.by_trial and chosen.precision is None):
            choice = self._model.choose(self._client, plan.windows.chip_size)
            self._model = replace(self._model, precision=choice.precision)
            plan = replace(plan, batch_size=size or choice.batch_size)
        here = None if chosen.name is not None or chosen.device is None else "cpu"
        self.detector = optimise(chosen.detector, self._model.precision, here)
        self.used_batch_size = plan.batch_size
        return plan

    def scan(
        self, reader: RasterReader, plan: Plan, strips: Sequence[int], passed: Passed
    ) -> Generator[Strip, None, None]:
        """Scan the strips with these numbers, which ascend, and yield them in any order."""
        size = max(1, min(_LARGEST, len(strips) // (_PER_WORKER * cluster.n_workers(self._client))))
        tasks = [strips[start : start + size] for start in range(0, len(strips), size)]
        with closing(cluster.run(Work(reader, self._model, plan), tasks, self._client)) as done:
            for task, seen in done:
                passed(plan.n_windows(task), sum(strip.n_run for strip in seen))
                yield from seen

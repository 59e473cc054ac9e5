"""Loaders in processes of their own: whatever way these are started, training sees the same."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.chips import loaders
from geodetect.chips.cached import CachedChips
from geodetect.chips.chip import Chip
from geodetect.chips.loaders import collate, make_loaders
from geodetect.grid import Grid
from geodetect.network.inference import send_pixels
from geodetect.normalization import Normalization
from tests.fakes import PaintedScene, counted

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # fastai, on import

TRAINING = """
import json, sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
import torch
import geodetect as gd
from tests.fakes import counted

if __name__ == "__main__":
    raster, labels, method, n_workers, log = sys.argv[1:]
    torch.set_num_threads(1)
    torch.multiprocessing.set_start_method(method)
    data = gd.prepare_data(
        raster, labels, chip_size=64, batch_size=2, num_workers=int(n_workers), sampler="balanced"
    )
    data = replace(data, train=counted(data.train, log))
    model = gd.RetinaNet(data, backbone="resnet18", weights=None, scales="auto", size="small", device="cpu")
    model.fit(2, progress=False)
    told = [model.learner.recorder.losses, *model.learner.recorder.values]
    print(json.dumps([[float(value) for value in values] for values in told]))
"""


@pytest.mark.slow
def test_losses_are_the_same_and_chips_read_once_with_processes_started_in_any_way(
    upright: PaintedScene, tmp_path: Path
) -> None:
    script, labels = tmp_path / "train.py", tmp_path / "labels.gpkg"
    script.write_text(TRAINING)
    upright.truth.to_file(labels)
    losses = {}
    for method, n_workers in (("fork", 0), ("fork", 2), ("fork", 8), ("spawn", 2), ("spawn", 8), ("forkserver", 2)):
        log = tmp_path / f"{method}{n_workers}.txt"
        arguments = [upright.path, labels, method, str(n_workers), log]
        command = [sys.executable, "-W", "ignore", script, *arguments]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1], env=_with_tests()
        )
        assert answer.returncode == 0, answer.stderr
        losses[method, n_workers] = json.loads(answer.stdout)
        assert set(Counter(log.read_text().splitlines()).values()) == {1}
    alone = losses.pop(("fork", 0))
    assert len(alone[0]) > 2
    assert all(others == alone for others in losses.values())


def _with_tests() -> dict[str, str]:
    """The environment, with this checkout's folder on the path of modules."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


@pytest.mark.parametrize("sampler", [None, "balanced"])
@pytest.mark.parametrize("kept", [True, False])
def test_processes_live_on_and_chips_are_read_once(
    upright: PaintedScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool, sampler: str | None
) -> None:
    if not kept:
        monkeypatch.setattr(loaders, "_MOST_CACHED_BYTES", 1)
    options = {"chip_size": 64, "overlap": 32, "batch_size": 4, "transforms": False, "sampler": sampler}
    data = gd.prepare_data(upright.path, upright.truth, **options)
    log, processes, seen = tmp_path / "reads.txt", [], []
    for n_workers in (0, 3):
        made = make_loaders(
            replace(data, train=counted(data.train, log), num_workers=n_workers), data.normalization, device="cpu"
        )
        log.unlink(missing_ok=True)
        seen.append([])
        for epoch in range(3):
            made.train.reseed(epoch, 0)
            seen[-1] += [part.tolist() for batch in made.train for part in batch]
            processes.append(made.train.dataset._processes)
        reads = Counter(log.read_text().splitlines())
        n_needed = 3 * len(made.train) * 4
        assert reads.total() == n_needed if not kept else set(reads.values()) == {1}
        made.train.dataset.close()
    assert seen[0] == seen[1]
    assert kept or processes[3] is processes[4] is processes[5] is not None


@pytest.mark.parametrize("kept", [True, False])
def test_a_second_iteration_during_another_reads_in_this_process(upright: PaintedScene, kept: bool) -> None:
    data = gd.prepare_data(upright.path, upright.truth, chip_size=64, overlap=32)
    chips = CachedChips(data.train, kept=kept)
    numbers = list(range(len(chips)))
    for chip, number in zip(chips.read(numbers, 1), numbers, strict=True):
        later = min(number + 2, numbers[-1])
        (other,) = chips.read([later], 1)
        assert np.array_equal(other.pixels, data.train[later].pixels)
        assert np.array_equal(chip.pixels, data.train[number].pixels)
    chips.close()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "int32", ">u2"])
def test_pixels_travel_as_they_are_if_that_is_less(dtype: str) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, min(60_000, np.iinfo(dtype).max if dtype[0] != "f" else 60_000), (3, 8, 8)).astype(dtype)
    images, _, _ = collate([Chip(values, Boxes.empty(), Grid((8, 8)))], 8)
    assert images.element_size() <= min(4, values.itemsize)
    assert np.array_equal(send_pixels(images, torch.device("cpu"))[0].numpy(), values.astype(np.float32))


def test_what_is_sent_to_a_process_holds_no_pixels(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, upright.truth, chip_size=64, sampler="balanced")
    made = make_loaders(data, Normalization((1.0,) * 3, (1.0,) * 3))
    made.train.one_batch()
    sent = pickle.dumps(made.train.dataset.chips)
    assert len(sent) < data.train[0].pixels.nbytes
    chips = pickle.loads(sent)
    assert [chips[i].pixels.tolist() for i in range(2)] == [data.train[i].pixels.tolist() for i in range(2)]

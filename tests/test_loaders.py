"""Loaders in processes of their own: whatever way these are started, training sees the same."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import geodetect as gd
from geodetect.chips.loaders import make_loaders
from geodetect.stretch import Stretch
from tests.fakes import PaintedScene

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # fastai, on import

TRAINING = """
import json, sys
import torch
import geodetect as gd

if __name__ == "__main__":
    raster, labels, method, n_workers = sys.argv[1:]
    torch.set_num_threads(1)
    torch.multiprocessing.set_start_method(method)
    data = gd.prepare_data(
        raster, labels, chip_size=64, batch_size=2, num_workers=int(n_workers), sampler="balanced"
    )
    model = gd.RetinaNet(data, backbone="resnet18", weights=None, scales="auto", device="cpu")
    model.fit(1, progress=False)
    told = [model.learner.recorder.losses, *model.learner.recorder.values]
    print(json.dumps([[float(value) for value in values] for values in told]))
"""


@pytest.mark.slow
def test_losses_are_the_same_with_processes_started_in_any_way(upright: PaintedScene, tmp_path: Path) -> None:
    script, labels = tmp_path / "train.py", tmp_path / "labels.gpkg"
    script.write_text(TRAINING)
    upright.truth.to_file(labels)
    losses = {}
    for method, n_workers in (("spawn", 0), ("fork", 2), ("spawn", 2), ("forkserver", 2)):
        command = [sys.executable, "-W", "ignore", script, upright.path, labels, method, str(n_workers)]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        losses[method, n_workers] = json.loads(answer.stdout)
    alone = losses.pop(("spawn", 0))
    assert len(alone[0]) > 2
    assert all(others == alone for others in losses.values())


def test_what_is_sent_to_a_process_holds_no_pixels(upright: PaintedScene) -> None:
    data = gd.prepare_data(upright.path, upright.truth, chip_size=64, sampler="balanced")
    made = make_loaders(data, Stretch((1.0,) * 3, (1.0,) * 3))
    before = len(pickle.dumps(made.train.fake_l))
    made.train.one_batch()
    assert any(made.train.dataset._kept.values())
    sent = pickle.dumps(made.train.fake_l)
    assert len(sent) == pytest.approx(before, rel=0.2)
    assert len(sent) < data.train[0].pixels.nbytes
    chips = pickle.loads(sent).d.dataset
    assert [chips[i].pixels.tolist() for i in range(2)] == [data.train[i].pixels.tolist() for i in range(2)]

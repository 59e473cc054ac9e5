"""Training and inference on another device, which only pretends: see `tests/pretend.py`.

`test_device.py` runs this module in a process of its own: torch must know the device before its first backward pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

import geodetect as gd
from tests import pretend
from tests.fakes import PaintedScene

SMALL = {"backbone": "resnet18", "weights": None, "scales": "auto", "size": "small"}


@pytest.fixture(scope="module")
def device() -> torch.device:
    if not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch knows no devices written in Python")
    return pretend.device()


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene]) -> gd.DetectionData:
    upright = scenes["upright"]
    data = gd.prepare_data(upright.path, labels=upright.truth, chip_size=64, overlap=32, batch_size=2)
    return replace(data, train=data.train[:4], valid=data.valid[:2])


@pytest.fixture(scope="module")
def trained(data: gd.DetectionData, device: torch.device) -> gd.RetinaNet:
    model = gd.RetinaNet(data, device=device, **SMALL)
    model.fit(2, lr=5e-4, progress=False)
    return model


def test_the_device_refuses_what_mps_refuses(device: torch.device) -> None:
    ones = torch.ones(3, device=device)
    with pytest.raises(TypeError, match="float64"):
        ones.double()
    with pytest.raises(RuntimeError, match="one device"):
        ones + torch.ones(3)


def test_an_early_read_gets_what_lay_in_memory(device: torch.device) -> None:
    values = torch.ones(3, device=device).to("cpu", non_blocking=True)
    assert values.isnan().all()
    pretend.synchronize()
    assert (values == 1).all()


def test_a_temporary_that_is_freed_before_it_travelled_is_lost(device: torch.device) -> None:
    lost = torch.ones(3).to(device, non_blocking=True)
    assert lost.cpu().isnan().all()
    assert (torch.ones(3).to(device).cpu() == 1).all()


def test_training_stays_on_the_device(trained: gd.RetinaNet, device: torch.device) -> None:
    assert trained.detector.device == device
    assert trained.detector.summary["epochs"] == 2


def test_a_resumed_training_is_the_same(
    trained: gd.RetinaNet, data: gd.DetectionData, device: torch.device, tmp_path: Path
) -> None:
    first = gd.RetinaNet(data, device=device, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        first.fit(2, lr=5e-4, progress=False, checkpoint=tmp_path, callbacks=[StopAtSecondEpoch()])
    again = gd.RetinaNet(data, device=device, **SMALL)
    again.fit(2, lr=5e-4, progress=False, checkpoint=tmp_path, resume=True)
    for name, weight in again.detector.network.state_dict().items():
        torch.testing.assert_close(weight.cpu(), trained.detector.network.state_dict()[name].cpu(), msg=name)


class StopAtSecondEpoch(Callback):  # type: ignore[misc]
    """Interrupts training as Ctrl-C does."""

    def before_epoch(self) -> None:
        if self.epoch == 1:
            raise KeyboardInterrupt


def test_the_detector_finds_the_same_as_on_the_processor(trained: gd.RetinaNet, data: gd.DetectionData) -> None:
    pixels = data.train[0].pixels[None]
    (found,) = trained.detector.detect(pixels, min_score=0.01)
    (on_cpu,) = trained.detector.frozen("float32", "cpu").detect(pixels, min_score=0.01)
    assert len(found) == len(on_cpu) > 0
    # Folded norms round otherwise, which may swap boxes of nearly equal scores: the best are apart.
    np.testing.assert_allclose(found.xyxy[:100], on_cpu.xyxy[:100], atol=1e-3)


def test_scores_figures_and_predictions(trained: gd.RetinaNet, data: gd.DetectionData) -> None:
    assert {"blue", "red", "all"} <= set(trained.evaluate().index)
    assert set(trained.average_precision_score()) == {"blue", "red"}
    assert trained.show_results(rows=1, min_score=0.01).axes
    assert set(trained.predict(data.train[0].pixels, min_score=0.01).columns) >= {"label", "score", "geometry"}


@pytest.mark.slow
def test_a_rate_is_found(trained: gd.RetinaNet) -> None:
    assert trained.lr_find(plot=False) > 0


def test_a_saved_detector_comes_back_on_the_device(
    trained: gd.RetinaNet, data: gd.DetectionData, device: torch.device, tmp_path: Path
) -> None:
    again = gd.load_detector(str(trained.save(tmp_path / "model.safetensors")), device=device)
    assert again.device == device
    pixels = data.train[0].pixels[None]
    np.testing.assert_array_equal(again.detect(pixels)[0].xyxy, trained.detector.detect(pixels)[0].xyxy)


@pytest.mark.parametrize("tta", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_scene_gives_the_same_map_as_on_the_processor(
    trained: gd.RetinaNet, scenes: dict[str, PaintedScene], tta: bool
) -> None:
    options = {"min_score": 0.01, "chip_size": 64, "overlap": 0, "tta": tta, "progress": False}
    found, on_cpu = (
        gd.detect_objects(scenes["upright"].path, detector, **options)
        for detector in (trained, trained.detector.frozen("float32", "cpu"))
    )
    assert len(found) == len(on_cpu) > 0
    np.testing.assert_allclose(found["score"], on_cpu["score"], atol=1e-4)


def test_windows_that_do_not_fit_are_run_in_smaller_batches(
    trained: gd.RetinaNet, scenes: dict[str, PaintedScene]
) -> None:
    def run(batch_size: int, limit: int | None = None) -> tuple[gpd.GeoDataFrame, int]:
        with pretend.watch(limit) as seen:
            start, options = seen.n_bytes, {"min_score": 0.01, "chip_size": 64, "overlap": 24, "progress": False}
            found = gd.detect_objects(scenes["upright"].path, trained, batch_size=batch_size, **options)
            return found, seen.most_bytes - start

    (whole, most), (_, least) = run(16), run(1)
    with pretend.watch() as seen:
        limit = seen.n_bytes + (most + least) // 2
    parts, needed = run(16, limit)
    assert least <= needed < most
    assert len(parts) == len(whole) > 0
    np.testing.assert_allclose(parts["score"], whole["score"], atol=1e-5)


def test_detection_waits_once_a_batch(trained: gd.RetinaNet, data: gd.DetectionData) -> None:
    detector, pixels = trained.detector.frozen(), data.train[0].pixels[None]
    detector.detect(pixels)  # makes anchors
    with pretend.watch() as seen:
        detector.detect(pixels)
        assert seen.operations["from the device"] == 1
        assert seen.waits == {"copy": seen.operations["to the device"] + 1}


def test_a_training_step_waits_five_times_at_most(data: gd.DetectionData, device: torch.device) -> None:
    model = gd.RetinaNet(data, device=device, **SMALL)
    counter = CountWaits()
    with pretend.watch() as seen:
        counter.seen = seen
        model.fit(3, lr=5e-4, progress=False, checkpoint=False, callbacks=[counter])
    steps = counter.steps[2:]  # anchors are made in the first epoch
    assert len(steps) == 4
    for waits in steps:
        assert sum(waits.values()) - waits["copy"] <= 5, waits  # copies to CUDA come from page-locked memory


class CountWaits(Callback):  # type: ignore[misc]
    """Counts the waits of each step, from the end of one to the end of the next."""

    order = 100
    seen: pretend.Seen

    def before_fit(self) -> None:
        self.steps: list[Counter[str]] = []

    def before_train(self) -> None:
        self.so_far = Counter(self.seen.waits)

    def after_batch(self) -> None:
        if self.training:
            self.steps.append(Counter(self.seen.waits) - self.so_far)
            self.so_far = Counter(self.seen.waits)

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
from geodetect.boxes import Boxes
from geodetect.chips.chip import Chips
from geodetect.chips.loaders import make_loaders
from geodetect.errors import ModelError
from geodetect.learner.results import detect_chips
from geodetect.network.inference import send_pixels
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


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float64"])
def test_pixels_of_any_type_arrive(device: torch.device, dtype: str) -> None:
    pixels = np.array([0, 1, 255, 30_000, 65_535]).astype(dtype).reshape(1, 1, 1, 5)
    with pretend.watch() as seen:
        arrived = send_pixels(torch.from_numpy(pixels), device)
        assert seen.sent == min(pixels.nbytes, 4 * pixels.size)
    assert arrived.device == device
    assert arrived.cpu().flatten().tolist() == pixels.astype(np.float32).flatten().tolist()


def test_batches_travel_as_bytes(data: gd.DetectionData, device: torch.device) -> None:
    made = make_loaders(data, data.normalization, device=device)
    with pretend.watch() as seen:
        images, boxes, labels = made.train.one_batch()
        assert {images.device, boxes.device, labels.device} == {device}
        n_pixels = images.nelement()
        assert 2 * n_pixels < seen.sent < 2.1 * n_pixels  # of uint16


def test_training_stays_on_the_device(trained: gd.RetinaNet, device: torch.device) -> None:
    assert trained.detector.device == device
    assert trained.detector.summary["epochs"] == 2


@pytest.mark.slow  # test_checkpoints has the same on the processor
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

    # How many batches are on their way at the peak is a matter of timing, so a run's need varies a little.
    (whole, most), (_, least) = run(16), run(1)
    with pretend.watch() as seen:
        limit = seen.n_bytes + (most + least) // 2
    parts, needed = run(16, limit)
    assert needed <= (most + least) // 2 < most
    assert len(parts) == len(whole) > 0
    np.testing.assert_allclose(parts["score"], whole["score"], atol=1e-5)


def test_detection_waits_once_a_batch(trained: gd.RetinaNet, data: gd.DetectionData) -> None:
    detector, pixels = trained.detector.frozen(), data.train[0].pixels[None]
    detector.detect(pixels)  # makes anchors
    with pretend.watch() as seen:
        detector.detect(pixels)
        assert seen.operations["from the device"] == 1
        assert seen.waits == {"copy": seen.operations["to the device"] + 1}


@pytest.mark.parametrize(("boxes", "dtype"), [("oriented", torch.float32), ("upright", torch.float16)])
def test_a_training_step_waits_five_times_at_most(
    scenes: dict[str, PaintedScene], device: torch.device, dtype: torch.dtype, boxes: str
) -> None:
    upright, counter = scenes["upright"], CountWaits()
    data = gd.prepare_data(
        upright.path, labels=upright.truth, chip_size=64, split="random", val_split_pct=0.5, batch_size=2, boxes=boxes
    )
    data = replace(data, train=data.train[:4], valid=data.valid[:4])
    model = gd.RetinaNet(data, device=device, **SMALL)
    model.learner.dtype = dtype
    with pretend.watch(float64=dtype == torch.float16) as seen:  # as CUDA has it, where gradients are scaled
        counter.seen = seen
        model.fit(2, lr=5e-4, progress=False, checkpoint=False, callbacks=[counter])
    steps, batches = counter.steps[len(model.learner.dls.train) :], counter.batches[len(model.learner.dls.valid) :]
    assert len(steps) > 1  # anchors are made in the first epoch
    assert max(map(sum, map(Counter.values, steps))) <= 5, steps
    assert len(batches) > 1
    assert max(map(sum, map(Counter.values, batches))) <= 3, batches  # the last of them for what has arrived


class CountWaits(Callback):  # type: ignore[misc]
    """Counts the waits of each step and each validation batch, from the end of one to the end of the next.

    Copies to the device count for none, as those to CUDA come from page-locked memory.
    """

    order = 100
    seen: pretend.Seen

    def before_fit(self) -> None:
        self.steps: list[Counter[str]] = []
        self.batches: list[Counter[str]] = []

    def before_train(self) -> None:
        self.so_far = self.now()

    def before_validate(self) -> None:
        self.so_far = self.now()

    def now(self) -> Counter[str]:
        return self.seen.waits - Counter({"copy": self.seen.operations["to the device"]})

    def after_batch(self) -> None:
        now = self.now()
        (self.steps if self.training else self.batches).append(now - self.so_far)
        self.so_far = now


def test_float16_scales_its_gradients_and_goes_on_with_the_scale(
    data: gd.DetectionData, device: torch.device, tmp_path: Path
) -> None:
    data = replace(data, train=data.train[:4], valid=data.valid[:1])

    def train(folder: Path, *callbacks: Callback, **options: bool) -> gd.RetinaNet:
        model = gd.RetinaNet(data, device=device, **SMALL, giou=False)
        model.learner.dtype = torch.float16
        model.fit(2, lr=5e-4, progress=False, checkpoint=folder, callbacks=[TooLarge(), *callbacks], **options)
        return model

    with pretend.watch(float64=True):
        whole = train(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", StopAtSecondEpoch())
        parts = train(tmp_path / "parts", resume=True)
    assert whole.learner.scaler.get_scale() == parts.learner.scaler.get_scale() == 2.0**15
    for name, weight in parts.detector.network.state_dict().items():
        torch.testing.assert_close(weight.cpu(), whole.detector.network.state_dict()[name].cpu(), msg=name)


class TooLarge(Callback):  # type: ignore[misc]
    """Lets the gradients of the first step overflow, which halves the scale."""

    def after_backward(self) -> None:
        if (self.epoch, self.iter) == (0, 0):
            next(self.model.parameters()).grad.fill_(torch.inf)


@pytest.mark.parametrize("precision", ["bf16", "float16"])
def test_short_types_find_the_same_as_on_the_processor(
    trained: gd.RetinaNet, data: gd.DetectionData, precision: str
) -> None:
    pixels = data.train[0].pixels[None]
    (found,) = trained.detector.frozen(precision).detect(pixels, min_score=0.01)
    (on_cpu,) = trained.detector.frozen(precision, "cpu").detect(pixels, min_score=0.01)
    assert len(found) == pytest.approx(len(on_cpu), rel=0.05)
    np.testing.assert_allclose(found.scores[:10], on_cpu.scores[:10], atol=1e-2)


def test_chips_that_do_not_fit_are_scored_in_smaller_batches(
    trained: gd.RetinaNet, data: gd.DetectionData, device: torch.device
) -> None:
    many = Chips(data.train.plans[:8])

    def run(plans: Chips, limit: int | None = None) -> tuple[list[Boxes], int]:
        with pretend.watch(limit) as seen:
            start = seen.n_bytes
            return detect_chips(trained.detector, plans)[0], seen.most_bytes - start

    run(many)  # makes anchors
    (whole, most), (_, least) = run(many), run(Chips(many.plans[:1]))
    with pretend.watch() as seen:
        limit = seen.n_bytes + (most + least) // 2
    parts, needed = run(many, limit)
    assert least <= needed < most
    assert [len(boxes) for boxes in parts] == [len(boxes) for boxes in whole]
    with pytest.raises(ModelError, match="not enough memory for a chip of 64 x 64 px"):
        run(many, limit - most)

"""The training loop: parts of a batch give the step of the whole, rates by layer, logs, and losses that are none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import CSVLogger
from hypothesis import given
from hypothesis import strategies as st

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.chips import DetectionData
from geodetect.chips.chip import Chip, Chips
from geodetect.chips.loaders import ChipLoader, make_loaders
from geodetect.errors import ArgumentError, RasterError, TrainingError
from geodetect.grid import Grid, Window
from geodetect.learner import training
from geodetect.learner.callbacks import patience
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from tests.fakes import PaintedScene

MODEL = {"backbone": "resnet18", "weights": None, "scales": "auto", "size": "small"}


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene]) -> DetectionData:
    upright = scenes["upright"]
    data = gd.prepare_data(upright.path, labels=upright.truth, chip_size=64, batch_size=4)
    return replace(data, train=data.train[:8], valid=data.valid[:3])


class SmallMemory:
    """A network's forward hook that runs out of memory above a number of chips, as an accelerator would."""

    def __init__(self, network: Network, most: int, *, of_processor: bool = False) -> None:
        self.most, self.of_processor, self.seen = most, of_processor, set[int]()
        self.handle = network.register_forward_pre_hook(self)

    def __call__(self, network: Network, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > self.most:
            torch.empty(1 << 50 if self.of_processor else 0)  # torch's own error for the one memory
            raise torch.OutOfMemoryError("out of memory")
        self.seen.add(len(inputs[0]))


def recorded(model: gd.RetinaNet, name: str) -> np.ndarray:
    """What fastai's recorder knows of a training."""
    rows = getattr(model.learner.recorder, name)
    return np.array([[float(value) for value in row] if name == "values" else float(row) for row in rows])


@pytest.mark.filterwarnings("ignore:the backbone has random weights")
def test_parts_of_a_batch_give_the_steps_of_the_whole(data: DetectionData) -> None:
    without_batch_norm = {"freeze": True, "head_norm": "group"}
    whole, small = (gd.RetinaNet(data, **MODEL, **without_batch_norm) for _ in range(2))
    whole.learner.dtype = small.learner.dtype = torch.float32
    whole.fit(1, lr=1e-3, progress=False)
    memory = SmallMemory(small.learner.model, most=2)
    with pytest.warns(UserWarning, match=r"does not hold 4 chips at once: .* 2 at a time") as said:
        small.fit(1, lr=1e-3, progress=False)
    assert len(said) == 1
    assert max(memory.seen) == 2
    for name in ("losses", "values"):
        ours, theirs = (recorded(model, name) for model in (small, whole))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    for name, value in whole.detector.network.state_dict().items():
        torch.testing.assert_close(small.detector.network.state_dict()[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the memory of")
def test_a_chip_that_no_memory_holds_is_one_sentence(data: DetectionData) -> None:
    model = gd.RetinaNet(data, **MODEL)
    SmallMemory(model.learner.model, most=0, of_processor=True)
    with pytest.raises(TrainingError, match="does not hold 1 of the chips; choose a smaller batch_size"):
        model.fit(1, progress=False)


def rates_of(model: gd.RetinaNet, lr: float | slice) -> list[float]:
    """The rates of backbone, pyramid and heads after an epoch at constant rates."""
    model.fit(1, lr=lr, one_cycle=False, progress=False)
    return [group["lr"] for group in model.learner.opt.hypers]


class NormModes(Callback):  # type: ignore[misc]
    """Whether the heads' norms were training at each step, and their statistics afterwards."""

    def __init__(self) -> None:
        self.training_at: list[bool] = []
        self.means: list[np.ndarray] = []

    def after_step(self) -> None:
        norm = self.model.box_head.norms[0][0]
        self.training_at.append(norm.training)
        self.means.append(norm.running_mean.numpy().copy())


def test_statistics_of_the_heads_are_fixed_from_half_of_all_steps_on(data: DetectionData) -> None:
    model, seen = gd.RetinaNet(data, **MODEL), NormModes()
    model.fit(3, callbacks=[seen], progress=False)  # 8 chips in batches of 4: 2 steps an epoch
    assert seen.training_at == [True] * 3 + [False] * 3
    assert not np.array_equal(seen.means[1], seen.means[2])
    assert all(np.array_equal(mean, seen.means[2]) for mean in seen.means[3:])
    constant = NormModes()
    model.fit(1, one_cycle=False, callbacks=[constant], progress=False)
    assert constant.training_at == [True] * 2


def test_rates_are_alike_unless_a_slice_says_otherwise(data: DetectionData) -> None:
    model = gd.RetinaNet(data, **MODEL)
    sizes = [len(group) for group in training.split_parameters(model.detector.network)]
    assert sum(sizes) == len(list(model.detector.network.parameters()))
    assert min(sizes) > 0
    assert rates_of(model, 1e-4) == [1e-4] * 3
    assert rates_of(model, slice(1e-6, 1e-4)) == pytest.approx([1e-6, 1e-5, 1e-4])
    model.detector.network.backbone.pretrained = True
    assert rates_of(model, 1e-4) == [1e-4] * 3
    for lr in (0, -1, slice(1e-4), slice(0, 1e-4), float("nan"), "high"):
        with pytest.raises(ArgumentError, match="lr must be above 0"):
            model.fit(1, lr=lr)


class Course(Callback):  # type: ignore[misc]
    """Lets the validation losses be those that it is given."""

    order = 55  # after the recorder

    def __init__(self, losses: list[float]) -> None:
        self.given = losses

    def after_epoch(self) -> None:
        self.recorder.values[-1][1] = self.given[self.epoch]


@pytest.mark.filterwarnings("ignore:no training chip holds")
def test_early_stopping_waits_five_epochs_for_a_better_one(
    data: DetectionData, capsys: pytest.CaptureFixture[str]
) -> None:
    few = Chips(data.train.plans[:2])
    model = gd.RetinaNet(replace(data, train=few, valid=few, batch_size=2), **MODEL)
    model.fit(12, early_stopping=True, callbacks=[Course([3, 2, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2])], progress=False)
    assert model.detector.summary["epochs"] == 8  # the third was the best, and five more
    model.fit(12, early_stopping=True, resume=True)
    out = capsys.readouterr().out
    assert out == "nothing to train: early stopping ended it after 8 epochs; leave early_stopping out to go on\n"
    model.fit(8, lr=1e-3, checkpoint=False, early_stopping=True, monitor="AP50", progress=False)
    assert capsys.readouterr().out == ""
    model.fit(12, lr=1e-4, early_stopping=True, callbacks=[Course([3, 2, 1, *[2] * 9])])
    assert "stopped after 8 epochs: no better valid_loss in the last 5\n" in capsys.readouterr().out


def test_early_stopping_waits_longer_in_longer_trainings() -> None:
    assert [patience(n_epochs) for n_epochs in (1, 10, 17, 18, 60, 334)] == [5, 5, 5, 6, 20, 111]


@pytest.mark.filterwarnings("ignore:no training chip holds")
def test_of_epochs_with_the_same_ap50_the_one_with_the_lowest_loss_is_kept(data: DetectionData) -> None:
    few = Chips([plan for plan in data.train.plans if len(plan.boxes)][:2])
    model = gd.RetinaNet(replace(data, train=few, valid=few, batch_size=2), **MODEL)
    model.fit(4, lr=1e-6, monitor="AP50", callbacks=[Course([4, 2, 1, 3])], progress=False)
    assert [row[2] for row in model.learner.recorder.values] == [0] * 4  # nothing is learnt at such a rate
    assert model.detector.summary["valid_loss"] == 1
    model.fit(5, lr=1e-6, monitor="AP50", callbacks=[Course([4, 2, 1, 3, 0.5])], resume=True, progress=False)
    assert model.detector.summary["valid_loss"] == 0.5


@pytest.mark.filterwarnings("ignore:no training chip holds")
def test_few_steps_of_an_untrained_network_are_told_of(data: DetectionData, capsys: pytest.CaptureFixture[str]) -> None:
    few = Chips(data.train.plans[:2])
    model = gd.RetinaNet(replace(data, train=few, valid=few, batch_size=2), **MODEL)
    model.fit(2)
    assert "2 steps are too few to learn much; fit() without epochs makes 1000\n" in capsys.readouterr().out
    model.fit(2)  # a training that goes on
    assert "too few" not in capsys.readouterr().out


def test_logs_of_fastai(data: DetectionData, tmp_path: Path) -> None:
    model = gd.RetinaNet(data, **MODEL)
    model.fit(2, lr=1e-4, callbacks=[CSVLogger(tmp_path / "losses.csv")], progress=False)
    table = pd.read_csv(tmp_path / "losses.csv")
    assert list(table.columns) == ["epoch", "train_loss", "valid_loss", "AP50", "time"]
    assert table["valid_loss"].tolist() == pytest.approx([row[1] for row in model.learner.recorder.values])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_logs_of_tensorboard(data: DetectionData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from fastai.callback.tensorboard import TensorBoardCallback

    model = gd.RetinaNet(data, **MODEL)
    logs = TensorBoardCallback(tmp_path / "runs", trace_model=False, log_preds=False)
    model.fit(1, lr=1e-4, callbacks=[logs], progress=False)
    (written,) = (tmp_path / "runs").iterdir()
    assert written.stat().st_size > 100
    with pytest.raises(ArgumentError, match="log_preds=False"):
        model.fit(1, callbacks=[TensorBoardCallback(tmp_path / "runs", trace_model=False)])


def test_epochs_without_a_number_leave_a_model_that_can_be_used(data: DetectionData) -> None:
    model = gd.RetinaNet(data, **MODEL)
    model.fit(2, lr=1e-5, callbacks=[Course([float("nan")] * 2)], progress=False)
    assert set(model.detector.min_score) == set(data.classes)
    assert model.detector.summary["epochs"] == 2


def test_the_best_weights_are_copied_only_when_they_are_better(data: DetectionData) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    class Keep(Callback):  # type: ignore[misc]
        order = 80  # after the best epoch

        def after_epoch(self) -> None:
            kept.append(self.best_epoch.weights)

    model = gd.RetinaNet(replace(data, train=data.train[:4], valid=data.valid[:1]), **MODEL)
    model.fit(4, lr=1e-5, callbacks=[Course([3.0, 4.0, 2.0, 5.0]), Keep()], progress=False)
    assert kept[0] is kept[1] is not kept[2]
    assert kept[2] is kept[3]
    assert all(weight.is_contiguous() for weight in kept[3].values())  # a file takes them without another copy


@pytest.mark.parametrize("wrong", [{"epochs": 1.5}, {"epochs": "3"}, {"checkpoint": None}])
def test_what_is_no_number_of_epochs_or_no_folder(data: DetectionData, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="must be"):
        gd.RetinaNet(data, **MODEL).fit(**wrong)


def test_a_loss_that_is_no_number_names_the_chips(data: DetectionData) -> None:
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at batch \d+ of epoch 0, on .*upright.tif \(x \d+ to"
    ):
        model.fit(1, lr=1e12, one_cycle=False, progress=False)


@dataclass(frozen=True)
class Gone:
    """A raster that went away after it was opened, or takes the process that reads it with it."""

    reader: Any
    number: int = 0

    @property
    def grid(self) -> Grid:
        return self.reader.grid

    def read(self, window: Window) -> Any:
        if self.number:
            os.kill(os.getpid(), self.number)
        raise RasterError("scene.tif cannot be read at pixels x 0 to 64; is the disk there?")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_raster_that_goes_away_is_one_sentence(data: DetectionData, num_workers: int) -> None:
    train = Chips([replace(plan, reader=Gone(plan.reader)) for plan in data.train.plans])
    model = gd.RetinaNet(replace(data, train=train, num_workers=num_workers), **MODEL)
    with pytest.raises(RasterError) as caught:
        model.fit(1, progress=False)
    assert str(caught.value) == "scene.tif cannot be read at pixels x 0 to 64; is the disk there?"


@pytest.mark.slow
def test_a_process_that_was_killed_is_one_sentence(data: DetectionData) -> None:
    train = Chips([replace(plan, reader=Gone(plan.reader, signal.SIGKILL)) for plan in data.train.plans])
    model = gd.RetinaNet(replace(data, train=train, num_workers=1), **MODEL)
    with pytest.raises(TrainingError, match=r"a process that reads chips was killed, .* fewer num_workers"):
        model.fit(1, progress=False)


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")  # what fastai's finder was to tidy up
@pytest.mark.parametrize("find_rate", [False, True])
def test_a_norm_with_a_single_value_is_one_sentence(upright: PaintedScene, find_rate: bool) -> None:
    data = gd.prepare_data(upright.path, upright.truth, chip_size=32, batch_size=1, num_workers=0)
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(TrainingError, match=r"a batch of 1 chip\(s\) of 32 px .* larger chip_size, or a batch_size of"):
        model.lr_find(plot=False) if find_rate else model.fit(1, progress=False)


def test_classes_that_no_training_chip_holds_are_named(data: DetectionData) -> None:
    reds = [plan for plan in data.train.plans if set(plan.boxes.labels) == {data.classes.index("red")}]
    with pytest.warns(UserWarning, match="no training chip holds blue, which will not be learnt"):
        gd.RetinaNet(replace(data, train=Chips(reds)), **MODEL)


def test_names_that_no_format_holds_are_refused_before_training(data: DetectionData) -> None:
    with pytest.raises(ArgumentError, match="classes must be names of one line without control characters"):
        gd.RetinaNet(replace(data, classes=["red", "blue\x00"]), **MODEL)


def test_chips_without_boxes_train_as_background(data: DetectionData) -> None:
    bare = Chips([replace(plan, boxes=Boxes.empty()) for plan in data.train.plans[:4]])
    model = gd.RetinaNet(data, **MODEL)
    learner = model.learner
    images, boxes, labels = next(
        iter(make_loaders(replace(data, train=bare, valid=bare, batch_size=4), data.normalization).train)
    )
    learner.model.train()
    loss = learner.loss_func(learner.model(images), boxes, labels)
    loss.backward()
    assert torch.isfinite(loss)
    assert loss > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in learner.model.class_head.parameters())


class Overflow(Callback):  # type: ignore[misc]
    """Lets the gradients of every step overflow, at a scale of 1."""

    order = 60  # after the scaler is made

    def before_fit(self) -> None:
        self.learn.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)

    def after_backward(self) -> None:
        next(self.model.parameters()).grad.fill_(torch.inf)


@pytest.mark.filterwarnings("ignore:no training chip holds")
def test_gradients_that_float16_never_holds_end_training(data: DetectionData) -> None:
    small = replace(data, train=data.train[:1], valid=data.valid[:1], batch_size=1)
    model = gd.RetinaNet(small, **MODEL)
    model.learner.dtype = torch.float16
    with pytest.raises(TrainingError, match=r"float16 holds no gradients of epoch 0, even scaled by 0\.5"):
        model.fit(2, callbacks=[Overflow()], progress=False)


class Numbered(Chips):
    """Chips of one pixel that hold their own number."""

    def __init__(self, n: int) -> None:
        super().__init__([])
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        return Chip(np.full((1, 1, 1), index, np.float32), Boxes.empty(), gd.chips.chip.Grid((1, 1)))


def pairs(n: int, batch_size: int, rank: int, n_ranks: int) -> tuple[ChipLoader, ChipLoader]:
    normalization = Normalization((0.0,), (1.0,))
    chips = DetectionData(
        [],
        Numbered(n),
        Numbered(n),
        chip_size=1,
        pixel_size_m=None,
        bands=(1,),
        normalization=normalization,
        dtype="uint8",
        batch_size=batch_size,
        transforms=False,
    )
    made = make_loaders(chips, normalization, rank=rank, n_ranks=n_ranks)
    return made.train, made.valid


@given(st.integers(3, 20), st.integers(1, 4), st.integers(1, 3))
def test_processes_share_the_batches_of_one(n: int, batch_size: int, n_ranks: int) -> None:
    shares = [pairs(n, batch_size, rank, n_ranks) for rank in range(n_ranks)]
    together = [[images.flatten().tolist() for images, *_ in loader] for loader, _ in shares]
    assert len({len(batches) for batches in together}) == 1
    assert [len(batches) for batches in together] == [len(loader) for loader, _ in shares]
    size = max(1, min(batch_size, n // n_ranks))
    alone = [images.flatten().tolist() for images, *_ in pairs(n, size * n_ranks, 0, 1)[0]]
    assert [list(chain(*parts)) for parts in zip(*together, strict=True)] == alone
    validated = [value for _, loader in shares for images, *_ in loader for value in images.flatten().tolist()]
    assert sorted(validated) == list(range(n))


def test_each_process_needs_a_chip() -> None:
    with pytest.raises(ArgumentError, match="got 1 chips for 2 processes"):
        pairs(1, 2, 0, 2)


@contextmanager
def in_bf16(model: gd.RetinaNet) -> Iterator[None]:
    """The model's learner computing in bf16, wherever that is slow too."""
    model.learner.dtype = torch.bfloat16
    yield
    model.learner.dtype = torch.float32


def test_bf16_leaves_outputs_losses_and_weights_in_float32(data: DetectionData) -> None:
    class Look(Callback):  # type: ignore[misc]
        def after_loss(self) -> None:
            assert self.pred[0].dtype == self.loss.dtype == torch.float32

        def before_step(self) -> None:
            assert {p.grad.dtype for p in self.model.parameters()} == {torch.float32}

    model, plain = gd.RetinaNet(data, **MODEL), gd.RetinaNet(data, **MODEL)
    with in_bf16(model):
        model.fit(1, lr=1e-5, callbacks=[Look()], progress=False)
    plain.learner.dtype = torch.float32
    plain.fit(1, lr=1e-5, progress=False)
    ours, theirs = ([float(x) for x in m.learner.recorder.losses] for m in (model, plain))
    assert ours == pytest.approx(theirs, rel=0.05)
    assert not torch.is_autocast_enabled("cpu")

"""Whatever ends a training, what it has come to is kept: in the model, in a file, and said."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback

import geodetect as gd
from geodetect.chips import DetectionData
from geodetect.chips.chip import Chips
from geodetect.errors import OutputError, RasterError, TrainingError
from geodetect.learner.interrupts import defer_interrupts
from geodetect.learner.thresholds import set_min_score
from geodetect.raster import Reader
from tests.fakes import PaintedScene

SAME = {"backbone": "resnet18", "scales": "auto", "size": "small"}
MODEL = SAME | {"weights": None}


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene]) -> DetectionData:
    scene = scenes["upright"]
    data = gd.prepare_data(scene.path, scene.truth, chip_size=64, overlap=0, batch_size=2, negatives=0)
    return replace(data, train=data.train[:4], valid=data.valid[:2])


class At(Callback):  # type: ignore[misc]
    """Does something at one event of one epoch."""

    def __init__(self, event: str, do: Callable[[], object], *, epoch: int = 1, order: int = 75) -> None:
        self.order, self.when, self.do = order, epoch, do
        setattr(self, event, self.act)

    def act(self) -> None:
        if getattr(self, "epoch", 0) == self.when and self.do is not None:
            do, self.do = self.do, None
            do()


def raising(error: BaseException) -> Callable[[], object]:
    def do() -> None:
        raise error

    return do


def weights(model: gd.RetinaNet) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.detector.network.state_dict().items()}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def one_epoch(data: DetectionData) -> gd.RetinaNet:
    """What the first of three epochs comes to."""
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(KeyboardInterrupt):
        model.fit(3, lr=1e-3, callbacks=[At("before_epoch", raising(KeyboardInterrupt()))], progress=False)
    return model


@pytest.mark.parametrize(
    ("event", "error"),
    [
        ("before_epoch", ValueError("mine")),
        ("after_loss", KeyboardInterrupt()),
        ("after_batch", MemoryError("none")),
        ("after_train", RasterError("it went away")),
        ("after_validate", KeyboardInterrupt()),
    ],
)
def test_an_error_anywhere_leaves_the_best_weights_and_says_so(
    data: DetectionData, one_epoch: gd.RetinaNet, tmp_path: Path, event: str, error: BaseException
) -> None:
    model, file = gd.RetinaNet(data, **MODEL), tmp_path / "model.safetensors"
    with pytest.raises(type(error)) as caught:
        model.fit(3, lr=1e-3, callbacks=[At(event, raising(error))], save_as=file, progress=False)
    assert caught.value is error
    assert error.__notes__[-1] == f"wrote {file} with the best weights of 1 epoch"
    assert same(weights(model), weights(one_epoch))
    saved = gd.load_detector(file, device="cpu")
    assert same(dict(saved.network.state_dict()), weights(one_epoch))
    assert (saved.min_score, saved.summary) == (one_epoch.detector.min_score, one_epoch.detector.summary)
    assert saved.summary["epochs"] == 1


@pytest.mark.parametrize("event", ["before_fit", "after_loss", "after_validate"])
def test_a_training_without_an_epoch_leaves_the_model_as_it_was(
    data: DetectionData, tmp_path: Path, event: str
) -> None:
    model, file = gd.RetinaNet(data, **MODEL), tmp_path / "model.safetensors"
    model.fit(1, lr=1e-3, progress=False)
    before, detector = weights(model), scores_and_summary(model)
    callback = At(event, raising(ValueError("mine")), epoch=0)
    with pytest.raises(ValueError, match="no epoch was complete, so the model is as it was before"):
        model.fit(2, lr=0.1, callbacks=[callback], checkpoint=event != "after_loss", progress=False)
    with pytest.raises(KeyboardInterrupt) as caught:
        model.fit(2, callbacks=[At(event, raising(KeyboardInterrupt()), epoch=0)], save_as=file, progress=False)
    assert caught.value.__notes__ == ["no epoch was complete, so nothing was written"]
    assert not file.exists()
    assert same(weights(model), before)
    assert scores_and_summary(model) == detector
    model.fit(2, resume=True, progress=False)  # goes on with the training that came to its end
    assert model.detector.summary["epochs"] == 2


def scores_and_summary(model: gd.RetinaNet) -> dict[str, Any]:
    return {"min_score": dict(model.detector.min_score), "summary": dict(model.detector.summary)}


def test_a_loss_that_is_no_number_keeps_the_epochs_before(data: DetectionData, one_epoch: gd.RetinaNet) -> None:
    model = gd.RetinaNet(data, **MODEL)

    def spoil() -> None:
        with torch.no_grad():
            model.detector.network.class_head.out.bias.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"the loss is nan at batch 0 of epoch 1(?s:.*)best weights of 1 epoch"):
        model.fit(3, lr=1e-3, callbacks=[At("before_epoch", spoil)], progress=False)
    assert same(weights(model), weights(one_epoch))


def test_a_validation_loss_that_is_no_number_is_never_the_best(data: DetectionData) -> None:
    model = gd.RetinaNet(data, **MODEL)
    before = weights(model)

    def spoil() -> None:
        with torch.no_grad():
            model.detector.network.class_head.out.bias.fill_(float("nan"))

    with pytest.raises(TrainingError, match="the validation loss of epoch 0 is nan"):
        model.fit(2, lr=1e-3, callbacks=[At("before_validate", spoil, epoch=0)], progress=False)
    assert same(weights(model), before)


@dataclass(frozen=True, eq=False)
class Watched:
    """A reader that lets something happen when it is read, once it is armed."""

    reader: Reader
    armed: list[Callable[[], object]]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def read(self, window: Any) -> Any:
        for do in self.armed:
            do()
        return self.reader.read(window)


def watched(data: DetectionData, armed: list[Callable[[], object]]) -> DetectionData:
    reader = Watched(data.valid.plans[0].reader, armed)
    return replace(data, valid=Chips([replace(plan, reader=reader) for plan in data.valid.plans]))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("no room"), OSError(5, "gone")], ids=type)
def test_ground_that_cannot_be_mapped_leaves_the_scores(
    data: DetectionData, one_epoch: gd.RetinaNet, error: Exception
) -> None:
    before = dict(one_epoch.detector.min_score)
    with pytest.warns(UserWarning, match="the validation ground could not be mapped"):
        set_min_score(one_epoch.detector, watched(data, [raising(error)]).valid)
    assert one_epoch.detector.min_score == before


def test_ground_that_cannot_be_mapped_costs_no_training(data: DetectionData, tmp_path: Path) -> None:
    armed: list[Callable[[], object]] = []
    model, file = gd.RetinaNet(watched(data, armed), **MODEL), tmp_path / "model.safetensors"
    there = []

    def fail() -> None:
        there.append(gd.load_detector(file, device="cpu").min_score)
        raise RasterError("it went away")

    ready = At("after_fit", lambda: armed.append(fail), epoch=0)
    with pytest.warns(UserWarning, match="the validation ground could not be mapped"):
        model.fit(1, lr=1e-3, callbacks=[ready], save_as=file, progress=False)
    assert len(there) >= 1  # saved before the map was begun
    assert gd.load_detector(file, device="cpu").min_score == there[0] == model.detector.min_score
    assert model.detector.summary["epochs"] == 1


def test_ctrl_c_while_the_ground_is_mapped_keeps_the_training(data: DetectionData, tmp_path: Path) -> None:
    armed: list[Callable[[], object]] = []
    model, file = gd.RetinaNet(watched(data, armed), **MODEL), tmp_path / "model.safetensors"
    ready = At("after_fit", lambda: armed.append(raising(KeyboardInterrupt())), epoch=0)
    with pytest.raises(KeyboardInterrupt) as caught:
        model.fit(1, lr=1e-3, callbacks=[ready], save_as=file, progress=False)
    assert caught.value.__notes__[-1] == f"wrote {file} with the best weights of 1 epoch"
    assert same(weights(model), dict(gd.load_detector(file, device="cpu").network.state_dict()))


def test_a_folder_that_goes_away_is_made_up_for(data: DetectionData, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    model, file = gd.RetinaNet(data, **MODEL), folder / "model.safetensors"
    with pytest.raises(
        OutputError, match=r"no folder .*models.*; it is saved as .*model.safetensors instead"
    ) as caught:
        model.fit(
            1,
            lr=1e-3,
            callbacks=[At("after_epoch", lambda: shutil.rmtree(folder), epoch=0)],
            save_as=file,
            progress=False,
        )
    rescued = Path(str(caught.value).partition("it is saved as ")[2].removesuffix(" instead"))
    assert same(weights(model), dict(gd.load_detector(rescued, device="cpu").network.state_dict()))
    shutil.rmtree(rescued.parent)


@pytest.mark.parametrize("name", ["model.pt", "nowhere/model.safetensors", "folder.safetensors"])
def test_places_to_save_are_refused_before_training(data: DetectionData, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    started: list[int] = []
    with pytest.raises(OutputError):
        gd.RetinaNet(data, **MODEL).fit(
            1, callbacks=[At("before_fit", lambda: started.append(1))], save_as=tmp_path / name, progress=False
        )
    assert not started


def test_epochs_of_all_calls_are_counted(data: DetectionData, tmp_path: Path) -> None:
    model = gd.RetinaNet(data, **MODEL)
    for n_epochs in (2, 1):
        model.fit(n_epochs, lr=1e-4, progress=False)
    model.fit(2, resume=True, progress=False)  # one more of the last training
    assert model.detector.summary["epochs"] == 4
    file = model.save(tmp_path / "model.safetensors")
    for further in (gd.RetinaNet.from_model(file, data, device="cpu"), gd.RetinaNet(data, weights=file, **SAME)):
        further.fit(1, lr=1e-4, progress=False)
        assert further.detector.summary["epochs"] == 5


def interrupted(after_s: float) -> None:
    """Ctrl-C, from another thread."""
    threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT)).start()


def test_ctrl_c_waits_for_what_must_not_be_left_half_done() -> None:
    done = []

    def block() -> None:
        with defer_interrupts():
            interrupted(0.01)
            time.sleep(0.2)
            os.kill(os.getpid(), signal.SIGINT)  # pressed twice
            done.append("all")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            block()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        with defer_interrupts():
            pass
    finally:
        signal.signal(signal.SIGINT, before)
    assert done == ["all"]


def test_an_error_while_ctrl_c_waits_is_not_lost() -> None:
    def block() -> None:
        with defer_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            raise ValueError("mine")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            block()
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(caught.value.__context__, ValueError)


def test_other_threads_and_signals_without_a_handler_are_left_alone() -> None:
    before, inside = signal.getsignal(signal.SIGTERM), []

    def block() -> None:
        with defer_interrupts():
            inside.append(signal.getsignal(signal.SIGINT))

    usual = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert inside == [usual]
    with defer_interrupts():
        assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_ctrl_c_at_any_moment_leaves_a_model_that_is_whole(data: DetectionData, tmp_path: Path, seed: int) -> None:
    """The weights are always those after some whole epoch, or those from before."""
    rng, file = np.random.default_rng(seed), tmp_path / "model.safetensors"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for _ in range(10):
            model, known = gd.RetinaNet(data, **MODEL), []
            file.unlink(missing_ok=True)
            known.append(weights(model))
            interrupted(rng.uniform(0, 6))
            with suppress(KeyboardInterrupt):
                model.fit(2, lr=1e-3, callbacks=[_Noting(known)], save_as=file, progress=False)
                time.sleep(6)  # where it was faster than Ctrl-C
            assert any(same(weights(model), each) for each in known)
            if file.exists():
                assert any(
                    same(dict(gd.load_detector(file, device="cpu").network.state_dict()), each) for each in known
                )
    finally:
        signal.signal(signal.SIGINT, before)


class _Noting(Callback):  # type: ignore[misc]
    """Copies the weights after every epoch."""

    order = 59  # before the best are kept

    def __init__(self, known: list[dict[str, torch.Tensor]]) -> None:
        self.known = known

    def after_epoch(self) -> None:
        self.known.append({name: value.clone() for name, value in self.model.state_dict().items()})

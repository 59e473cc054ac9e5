"""Training that was left, killed or interrupted goes on as if nothing had happened, or says why it cannot."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from safetensors import safe_open
from safetensors.torch import save_file

import geodetect as gd
from geodetect.chips import DetectionData
from geodetect.chips.chip import Chips
from geodetect.detector.file import checksum
from geodetect.errors import ModelError, OutputError, TrainingError
from geodetect.learner import training
from geodetect.learner.checkpoints import FILE
from tests.fakes import PaintedScene

EPOCHS = 3
MODEL = {"backbone": "efficientnet_b0", "weights": None, "scales": "auto", "size": "small"}  # drops layers at random
CHIPS = {"chip_size": 64, "overlap": 0, "batch_size": 2, "negatives": 0}


class StopAt(Callback):  # type: ignore[misc]
    """Ctrl-C at the second batch of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.stop_epoch = epoch

    def after_loss(self) -> None:
        if self.training and self.epoch == self.stop_epoch and self.iter == 1:
            raise KeyboardInterrupt


KILLED = f"""
import os, signal, sys
from dataclasses import replace
import geodetect as gd
from fastai.callback.core import Callback

class Kill(Callback):
    def after_loss(self):
        if self.training and self.epoch == 2 and self.iter == 1:
            os.kill(os.getpid(), signal.SIGKILL)

raster, labels, folder = sys.argv[1:]
data = gd.prepare_data(raster, labels, **{CHIPS})
data = replace(data, train=data.train[:4], valid=data.valid[:2])
gd.RetinaNet(data, **{MODEL}).fit({EPOCHS}, lr=1e-3, checkpoint=folder, callbacks=[Kill()], progress=False)
"""


@pytest.fixture(scope="module")
def labels(scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "squares.geojson"
    scenes["upright"].truth.to_file(path)
    return path


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene], labels: Path) -> DetectionData:
    data = gd.prepare_data(scenes["upright"].path, labels, **CHIPS)
    return replace(data, train=data.train[:4], valid=data.valid[:2])


@pytest.fixture(scope="module")
def undisturbed(data: DetectionData, tmp_path_factory: pytest.TempPathFactory) -> tuple[gd.RetinaNet, Path]:
    folder = tmp_path_factory.mktemp("undisturbed")
    model = gd.RetinaNet(data, **MODEL)
    model.fit(EPOCHS, lr=1e-3, checkpoint=folder, progress=False)
    return model, folder / FILE


def recorded(model: gd.RetinaNet, name: str) -> np.ndarray:
    """What fastai's recorder knows of a training."""
    rows = getattr(model.learner.recorder, name)
    return np.array([[float(value) for value in row] if name == "values" else float(row) for row in rows])


def assert_same(model: gd.RetinaNet, other: gd.RetinaNet) -> None:
    """Equal losses of every batch and epoch, equal weights, equal operating point: to the last bit."""
    for name in ("losses", "lrs", "values", "iters"):
        np.testing.assert_array_equal(recorded(model, name), recorded(other, name))
    ours, theirs = (each.detector.network.state_dict() for each in (model, other))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert model.detector.min_score == other.detector.min_score
    assert model.detector.summary == other.detector.summary


@pytest.mark.slow  # a program of its own; that of Ctrl-C, from a folder, is the same but for how it ends
def test_after_a_kill_it_gives_what_an_undisturbed_training_gives(
    data: DetectionData,
    scenes: dict[str, PaintedScene],
    labels: Path,
    undisturbed: tuple[gd.RetinaNet, Path],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "states"
    command = [sys.executable, "-c", KILLED, scenes["upright"].path, labels, folder]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert [path.name for path in folder.iterdir()] == [FILE]
    model = gd.RetinaNet(data, **MODEL, seed=42)
    model.fit(EPOCHS, checkpoint=folder, resume=True, progress=False)
    assert_same(model, undisturbed[0])


def test_after_ctrl_c_the_same_object_goes_on(data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path]) -> None:
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(KeyboardInterrupt):
        model.fit(EPOCHS, lr=1e-3, callbacks=[StopAt(1)], progress=False)
    assert model.detector.summary["epochs"] == 1
    assert set(model.detector.min_score) == {"red", "blue"}
    model.fit(EPOCHS, resume=True, progress=False)
    assert_same(model, undisturbed[0])
    model.fit(EPOCHS, resume=True, progress=False)  # nothing is left to do
    assert_same(model, undisturbed[0])


def test_a_resumed_training_counts_epochs_in_all(data: DetectionData) -> None:
    once, twice = gd.RetinaNet(data, **MODEL), gd.RetinaNet(data, **MODEL)
    once.fit(2, lr=1e-3, one_cycle=False, progress=False)
    twice.fit(1, lr=1e-3, one_cycle=False, progress=False)
    twice.fit(2, one_cycle=False, resume=True, progress=False)
    assert_same(once, twice)


def test_without_a_number_a_resumed_training_has_as_many_epochs_as_it_was_to_have(
    data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(KeyboardInterrupt):
        model.fit(EPOCHS, lr=1e-3, checkpoint=tmp_path, callbacks=[StopAt(1)], progress=False)
    again = gd.RetinaNet(data, **MODEL)
    again.fit(checkpoint=tmp_path, resume=True)
    assert re.search(rf"^{EPOCHS} epochs of .* steps, 1 epoch done", capsys.readouterr().out)
    assert_same(again, undisturbed[0])
    again.fit(checkpoint=tmp_path, resume=True)
    out = capsys.readouterr().out
    assert f"nothing to train: {EPOCHS} epochs are done" in out
    assert "train_loss" not in out  # no table without a line


def test_a_second_training_repeats_no_epoch_of_the_first(data: DetectionData) -> None:
    model, orders = gd.RetinaNet(data, **MODEL), []
    for _ in range(2):
        model.fit(1, lr=1e-5, progress=False)
        orders.append(model.learner.dls.train.batches)
    assert orders[0] != orders[1]


def test_a_folder_without_a_training_is_where_one_starts(
    data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path
) -> None:
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(KeyboardInterrupt):
        model.fit(EPOCHS, lr=1e-3, checkpoint=tmp_path, resume=True, callbacks=[StopAt(0)], progress=False)
    assert list(tmp_path.iterdir()) == []
    assert model.detector.summary == {}


def test_a_training_that_starts_in_a_folder_has_the_rate_that_was_found(
    data: DetectionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_rate", lambda learner: (2e-3, [], []))
    model = gd.RetinaNet(data, **MODEL)
    model.lr_find(plot=False)
    model.fit(1, one_cycle=False, checkpoint=tmp_path, resume=True, progress=False)
    assert set(model.learner.recorder.lrs) == {2e-3}
    again = gd.RetinaNet(data, **MODEL)
    monkeypatch.setattr(training, "find_rate", lambda learner: (1e-3, [], []))
    again.lr_find(plot=False)
    again.fit(2, one_cycle=False, checkpoint=tmp_path, resume=True, progress=False)
    assert set(again.learner.recorder.lrs) == {2e-3}  # that of the training which goes on


def stored(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a state."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def changed(path: Path, folder: Path, *, signed: bool = False, **metadata: str) -> Path:
    """A copy of a state in a folder of its own, with other metadata and, if signed, the checksum that they ask for."""
    tensors, known = stored(path)
    known |= metadata
    save_file(tensors, folder / FILE, known | ({"checksum": checksum(known, tensors)} if signed else {}))
    return folder


def test_what_is_no_state_of_training_is_one_sentence(
    data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path
) -> None:
    model, path = undisturbed
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    detector = model.save(tmp_path / "model.safetensors").read_bytes()
    fresh = gd.RetinaNet(data, **MODEL)
    for content, told in [
        (whole[:-9], "not a whole file"),
        (b"", "not a whole file"),
        (bytes(flipped), "checksum"),
        (detector, "not a state of training"),
    ]:
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(TrainingError, match=f"{told}.*; remove it to start from the beginning$"):
            fresh.fit(2, checkpoint=tmp_path, resume=True)
    with pytest.raises(TrainingError, match="newer geodetect"):
        fresh.fit(2, checkpoint=changed(path, tmp_path, signed=True, training_version="3"), resume=True)
    tensors, metadata = stored(path)
    facts = json.dumps(json.loads(metadata["facts"]) | {"best": 0})
    for other in ({"facts": facts}, {"training_version": "1"}, {"training_version": ""}):
        with pytest.raises(TrainingError, match="damaged: checksum"):
            fresh.fit(2, checkpoint=changed(path, tmp_path, **other), resume=True)
    name = next(name for name in tensors if name.startswith("best."))
    tensors[f"worst.{name}"] = tensors.pop(name)
    save_file(tensors, tmp_path / FILE, metadata)
    with pytest.raises(TrainingError, match="damaged: checksum"):
        fresh.fit(2, checkpoint=tmp_path, resume=True)


def test_states_of_version_1_are_gone_on_with(
    data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path
) -> None:
    model, path = undisturbed
    tensors, metadata = stored(path)
    facts = json.loads(metadata["facts"])
    del facts["epochs"], facts["model"]["heads"], facts["model"]["loss parameters"]  # not in earlier versions
    metadata["facts"] = json.dumps(facts)
    crc = zlib.crc32(metadata["facts"].encode())
    for name in sorted(tensors):
        crc = zlib.crc32(tensors[name].numpy().tobytes(), crc)
    save_file(tensors, tmp_path / FILE, metadata | {"training_version": "1", "checksum": f"{crc:08x}"})
    with pytest.raises(TrainingError, match=r"other tensors than this one, whose heads are .*'group'"):
        gd.RetinaNet(data, **MODEL, head_norm="group").fit(EPOCHS, checkpoint=tmp_path, resume=True)
    again = gd.RetinaNet(data, **MODEL)
    again.fit(EPOCHS, checkpoint=tmp_path, resume=True, progress=False)
    assert_same(again, model)


class Poison(Callback):  # type: ignore[misc]
    """A step of the second epoch that makes a weight NaN."""

    def after_step(self) -> None:
        if self.epoch == 1 and self.iter == 0:
            self.model.class_head.out.bias.data[0] = np.nan


def test_weights_that_are_not_finite_hide_no_error_of_training(data: DetectionData, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(TrainingError, match="the loss is nan at batch 1 of epoch 1") as caught:
        model.fit(EPOCHS, lr=1e-3, checkpoint=False, callbacks=[Poison()], save_as=file, progress=False)
    assert caught.value.__notes__ == ["the model's weights are not finite, so nothing was written"]
    assert not file.exists()


class Full(Callback):  # type: ignore[misc]
    """A disk that is full during one epoch: what is larger than a block cannot be written."""

    order = 65  # before the state is written

    def __init__(self, epoch: int) -> None:
        self.full_epoch, self.limit = epoch, resource.getrlimit(resource.RLIMIT_FSIZE)

    def after_epoch(self) -> None:
        size = 4096 if self.epoch == self.full_epoch else self.limit[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.limit[1]))


@pytest.mark.slow
def test_a_full_disk_ends_no_training_and_leaves_the_last_state(
    data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path
) -> None:
    model = gd.RetinaNet(data, **MODEL)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.warns(UserWarning, match=r"cannot be written: .*before is unchanged.*training goes on"):
            model.fit(EPOCHS, lr=1e-3, checkpoint=tmp_path, callbacks=[Full(1)], progress=False)
    finally:
        signal.signal(signal.SIGXFSZ, before)
    assert_same(model, undisturbed[0])
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    model = gd.RetinaNet(data, **MODEL)
    full = Full(EPOCHS - 1)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.warns(UserWarning, match="state of another training, .* resume=True goes on with it"), \
            pytest.warns(UserWarning, match="cannot be written"):  # fmt: skip
            model.fit(EPOCHS, lr=1e-3, checkpoint=tmp_path, callbacks=[full], progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, full.limit)
        signal.signal(signal.SIGXFSZ, before)
    again = gd.RetinaNet(data, **MODEL)
    again.fit(EPOCHS, checkpoint=tmp_path, resume=True, progress=False)  # from the second epoch's
    assert_same(again, undisturbed[0])


@pytest.mark.filterwarnings("ignore:.* overlap no anchor")
def test_a_state_of_another_training_is_refused(data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path]) -> None:
    folder = undisturbed[1].parent
    with pytest.raises(TrainingError, match="anchors"):
        gd.RetinaNet(data, **MODEL | {"scales": (1, 1.5), "anchor_size": 1.5}).fit(3, checkpoint=folder, resume=True)
    with pytest.raises(TrainingError, match="classes are"):
        gd.RetinaNet(replace(data, classes=["a", "b"]), **MODEL).fit(3, checkpoint=folder, resume=True)
    with pytest.raises(TrainingError, match="'valid_loss', not 'AP50'"):
        gd.RetinaNet(data, **MODEL).fit(3, checkpoint=folder, monitor="AP50", resume=True)
    with pytest.raises(TrainingError, match=r"heads are .*'batch'.*, here .*'group'"):
        gd.RetinaNet(data, **MODEL, head_norm="group").fit(3, checkpoint=folder, resume=True)
    with pytest.raises(TrainingError, match=r"loss parameters are .*'giou': True.*, here .*'giou': False"):
        gd.RetinaNet(data, **MODEL, giou=False).fit(3, checkpoint=folder, resume=True)


@pytest.mark.filterwarnings("ignore:the backbone has random weights")
def test_a_frozen_backbone_stays_frozen_when_training_goes_on(data: DetectionData, tmp_path: Path) -> None:
    once, folder = gd.RetinaNet(data, **MODEL, freeze=True), tmp_path / "states"
    once.fit(2, lr=1e-3, progress=False)
    with pytest.raises(KeyboardInterrupt):
        gd.RetinaNet(data, **MODEL, freeze=True).fit(2, lr=1e-3, checkpoint=folder, callbacks=[StopAt(1)])
    again = gd.RetinaNet(data, **MODEL)
    with pytest.raises(TrainingError, match=r"with the whole backbone frozen, here nothing; call freeze\(\)"):
        again.fit(2, checkpoint=folder, resume=True, progress=False)
    again.freeze()
    again.fit(2, checkpoint=folder, resume=True, progress=False)
    assert_same(again, once)
    again.unfreeze()
    with pytest.raises(TrainingError, match=r"the last training is .*; call freeze\(\) .*, or leave resume out"):
        again.fit(3, resume=True, progress=False)
    second = tmp_path / "second phase"
    again.fit(1, checkpoint=second, resume=True, progress=False)  # another training, as the first was frozen
    assert again.detector.summary["epochs"] == 3
    saved = gd.RetinaNet.from_model(again.save(tmp_path / "first.safetensors"), data)
    with pytest.warns(UserWarning, match=r"with nothing frozen, here 96 tensors, so it will end with other"):
        saved.fit(2, checkpoint=second, resume=True, progress=False)


def test_a_second_phase_starts_after_a_first_of_an_earlier_version(
    data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path
) -> None:
    facts = json.loads(stored(undisturbed[1])[1]["facts"])
    del facts["model"]["frozen"], facts["model"]["windows"]
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    model = gd.RetinaNet(data, **MODEL)
    folder = changed(undisturbed[1], first, signed=True, facts=json.dumps(facts))
    model.fit(EPOCHS, checkpoint=folder, resume=True, progress=False)
    model.freeze()
    model.fit(1, checkpoint=second, resume=True, progress=False)
    assert model.detector.summary["epochs"] == EPOCHS + 1


def test_a_state_is_no_detector(data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path]) -> None:
    for read in (gd.load_detector, lambda path: gd.RetinaNet(data, **MODEL | {"weights": path})):
        with pytest.raises(ModelError, match=r"state of a training, not a detector; .*resume=True"):
            read(undisturbed[1])


def test_there_must_be_something_to_resume_and_a_place_for_it(data: DetectionData, tmp_path: Path) -> None:
    model = gd.RetinaNet(data, **MODEL)
    with pytest.raises(TrainingError, match="no training to resume; call fit"):
        model.fit(2, resume=True)
    with pytest.raises(OutputError, match="a folder, or one that can be made"):
        model.fit(2, checkpoint=tmp_path / "no" / "folder")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="checkpoint must be a folder"):
        model.fit(2, checkpoint=tmp_path / "file")


def test_other_chips_are_told_of(data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path) -> None:
    shutil.copy(undisturbed[1], tmp_path)
    fewer = gd.RetinaNet(replace(data, valid=data.valid[:1]), **MODEL)
    with pytest.warns(
        UserWarning, match=r"other chips \(4 to train on, 2 .*; here 4 to train on, 1 .*\).* leave resume out"
    ):
        fewer.fit(EPOCHS + 1, checkpoint=tmp_path, resume=True, progress=False)
    shutil.copy(undisturbed[1], tmp_path)
    plans = data.valid.plans[:1] + data.train.plans[1:] + data.train.plans[:1] + data.valid.plans[1:]
    parted = replace(data, train=Chips(plans[:4]), valid=Chips(plans[4:]))  # as many, with as many boxes
    with pytest.warns(UserWarning, match=r"other chips \(.*; here as many, at other places or split differently\)"):
        gd.RetinaNet(parted, **MODEL).fit(EPOCHS + 1, checkpoint=tmp_path, resume=True, progress=False)


def test_another_course_is_told_of(data: DetectionData, undisturbed: tuple[gd.RetinaNet, Path], tmp_path: Path) -> None:
    shutil.copy(undisturbed[1], tmp_path)
    again = gd.RetinaNet(replace(data, batch_size=1), seed=7, **MODEL)
    there = r"seed=42, one_cycle=True, batch_size=2, here seed=7, one_cycle=False, batch_size=1, so it will end"
    with (
        pytest.warns(UserWarning, match=there),
        pytest.warns(UserWarning, match=r"had a rate of 0\.001, now 1e-05; leave lr out"),
    ):
        again.fit(EPOCHS, lr=1e-5, one_cycle=False, checkpoint=tmp_path, resume=True, progress=False)


def test_files_lie_where_training_began(data: DetectionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Moves(Callback):  # type: ignore[misc]
        def before_epoch(self) -> None:
            os.chdir(tmp_path / "elsewhere")

    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    model = gd.RetinaNet(data, **MODEL)
    model.fit(1, checkpoint="states", save_as="model.safetensors", callbacks=[Moves()], progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "model.safetensors", "states"]
    assert not list((tmp_path / "elsewhere").iterdir())

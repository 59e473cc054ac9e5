"""Checkpoints: the state of training after an epoch, in memory and as one file in a folder.

The seeds of an epoch follow from its number (`SeededEpochs`), so no state of a random generator is kept.
"""

from __future__ import annotations

import json
import warnings
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geodetect.chips import DetectionData
from geodetect.detector import Detector
from geodetect.detector.file import checksum
from geodetect.errors import OutputError, TrainingError, warn
from geodetect.files import replace_atomically
from geodetect.learner import distributed
from geodetect.learner.callbacks import BestEpoch, copy_weights
from geodetect.learner.interrupts import defer_interrupts
from geodetect.network.losses import Loss
from geodetect.network.retinanet import Network

FILE = "training.safetensors"
_FORMAT_VERSION = 2
_WEIGHTS, _BEST, _OPTIMIZER = "weights.", "best.", "optimizer."
_BACKBONE = "the whole backbone"
_START_ANEW = "remove it to start from the beginning"
_RECORDED = ("lrs", "losses", "iters", "values")  # attributes of fastai's recorder


@dataclass(frozen=True)
class State:
    """The state of training after an epoch, from which it continues as if it had never stopped.

    Args:
        facts: values that JSON can hold.
        tensors: weights, best weights so far, and state of the optimizer, each under a prefix.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors with this prefix, by their names without it."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def with_model(self, model: dict[str, Any]) -> State:
        """Return the state with those facts of the model that it lacks, as states of earlier versions do."""
        return State(self.facts | {"model": model | self.facts["model"]}, self.tensors)


class Checkpoint(Callback):  # type: ignore[misc]
    """Keeps the state of training after every epoch, and starts training from one.

    Args:
        best: callback that keeps the best weights.
        model: facts that the state of another training must share, as returned by `identify`.
        rates: peak learning rates of the backbone, the pyramid and the heads.
        folder: folder to write states to; None for memory only.
        state: state to start from; None for the beginning.
    """

    order = 70  # after the recorder and the best epoch, whose state it keeps

    def __init__(
        self,
        best: BestEpoch,
        *,
        model: dict[str, Any],
        rates: list[float],
        folder: Path | None = None,
        state: State | None = None,
    ) -> None:
        self.best, self.identity, self.rates = best, model, rates
        self.folder, self.state = folder, state
        self.first_epoch = 0 if state is None else state.facts["n_done"]

    def before_fit(self) -> None:
        """Load the state that training starts from."""
        if self.state is not None:
            with defer_interrupts():
                self._load(self.state)
        self.best.before = copy_weights(self.model)

    def _load(self, state: State) -> None:
        facts = state.facts
        self.model.load_state_dict(state.under(_WEIGHTS))
        parameters = [parameter for group in self.opt.param_groups for parameter in group["params"]]
        memory: dict[int, dict[str, Tensor]] = {}
        for name, value in state.under(_OPTIMIZER).items():
            number, _, key = name.partition(".")
            like = parameters[int(number)]
            if value.shape == like.shape:  # fused steps need the memory layout of the parameter
                value = torch.empty_like(like).copy_(value)
            memory.setdefault(int(number), {})[key] = value
        self.opt.load_state_dict(self.opt.state_dict() | {"state": memory})  # rates are set before every batch anyway
        self.best.weights = state.under(_BEST) if self.best.keep else {}
        self.best.best, self.best.waited, self.best.min_scores = (facts[k] for k in ("best", "waited", "min_scores"))
        self.best.kept_epoch, self.best.n_done = facts["kept_epoch"], facts["n_done"]
        self.learn.seeded_epochs.earlier = facts["earlier"]
        self.learn.train_iter = len(facts["losses"])
        if self.learn.scaler.is_enabled() and facts.get("scaler"):  # none of a training in another precision
            self.learn.scaler.load_state_dict(facts["scaler"])
        for name in _RECORDED:
            setattr(self.recorder, name, list(facts[name]))
        smooth = self.recorder.smooth_loss
        smooth.val, smooth.count = torch.tensor(facts["smooth_loss"]), facts["smooth_count"]

    def after_epoch(self) -> None:
        """Keep the present state."""
        if not self.best.keep:
            self.state = None  # that of an earlier epoch is outdated
            return
        tensors = {_WEIGHTS + name: value for name, value in copy_weights(self.model).items()}
        tensors |= {_BEST + name: value for name, value in self.best.weights.items()}
        for number, memory in self.opt.state_dict()["state"].items():
            for key, value in memory.items():
                tensors[f"{_OPTIMIZER}{number}.{key}"] = value.detach().to("cpu", copy=True)
        self.state = State(self._facts(), tensors)
        if self.folder is not None and distributed.rank() == 0:
            with defer_interrupts():
                try:
                    write(self.state, self.folder)
                except OutputError as error:  # hours of training may be in memory
                    # Not `errors.warn`, which would blame fastai's loop.
                    message = f"{error}; training goes on, but a crash would lose this epoch"
                    warnings.warn(message, UserWarning, stacklevel=2)

    def _facts(self) -> dict[str, Any]:
        recorder = self.recorder
        recorded = {name: _numbers(getattr(recorder, name)) for name in _RECORDED}
        return recorded | {
            "n_done": self.best.n_done,
            "epochs": self.n_epoch,
            "rates": self.rates,
            "monitor": self.best.monitor,
            "best": self.best.best,
            "waited": self.best.waited,
            "min_scores": self.best.min_scores,
            "kept_epoch": self.best.kept_epoch,
            "earlier": self.learn.seeded_epochs.earlier,
            "smooth_loss": float(recorder.smooth_loss.val),
            "smooth_count": recorder.smooth_loss.count,
            "scaler": self.learn.scaler.state_dict(),
            "model": self.identity,
        }


def identify(detector: Detector, loss: Loss, data: DetectionData, course: dict[str, Any]) -> dict[str, Any]:
    """Return the facts by which `check` finds out whether one training may go on with the state of another.

    Args:
        detector: to train.
        loss: of the training.
        data: to train on.
        course: what else decides the order of chips and the rate of a step.
    """
    network, architecture, parts = detector.network, detector.network.architecture, (data.train, data.valid)
    facts = {
        "classes": detector.classes,
        "bands": detector.bands,
        "chip size": detector.chip_size,
        "backbone": architecture.backbone,
        "anchors": asdict(architecture.anchors),
        "pixel statistics": {"mean": detector.normalization.mean, "std": detector.normalization.std},
        "heads": {name: getattr(architecture, name) for name in ("width", "depth", "head_norm")},
        "loss parameters": asdict(loss),
        "frozen": _describe_frozen(network),
        "chips": {
            "to train on": len(data.train),
            "to validate on": len(data.valid),
            "boxes": sum(len(plan.boxes) for part in parts for plan in part.plans),
        },
        "course": course | {"batch_size": data.batch_size},
        "windows": _checksum([[(p.window.xyxy, p.boxes.labels.tolist()) for p in part.plans] for part in parts]),
        "tensors": _checksum([(k, tuple(v.shape)) for k, v in network.state_dict().items()]),
    }
    return dict(json.loads(json.dumps(facts)))  # as a checkpoint holds them


def _checksum(values: list[Any]) -> int:
    return zlib.crc32(str(values).encode())


def _describe_frozen(network: Network) -> str:
    """Return what of a network is not trained, in words."""
    if not any(parameter.requires_grad for parameter in network.backbone.parameters()):
        return _BACKBONE
    n_frozen = sum(not parameter.requires_grad for parameter in network.parameters())
    return f"{n_frozen} tensors" if n_frozen else "nothing"


def make_folder(folder: Path) -> Path:
    """Create the folder unless it exists, and return it.

    Raises:
        OutputError: if it cannot be created.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"checkpoint must be a folder, or one that can be made; got {folder}: {error}") from error
    return folder


def write(state: State, folder: Path) -> None:
    """Write the state to the folder; it replaces the last one when it is complete.

    Raises:
        OutputError: if it cannot be written.
    """
    tensors = {name: value.contiguous() for name, value in state.tensors.items()}
    metadata = {"facts": json.dumps(state.facts), "training_version": str(_FORMAT_VERSION)}
    with replace_atomically(folder / FILE) as part:
        try:
            save_file(tensors, part, metadata | {"checksum": checksum(metadata, tensors)})
        except SafetensorError as error:  # a full disk, for instance
            raise OSError(str(error)) from error


def read(folder: Path) -> State | None:
    """Return the last state written to the folder, None without one. No code in it is executed.

    Raises:
        TrainingError: if the file is damaged, or something else.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} is not a whole file ({error}); {_START_ANEW}") from error
    if metadata.keys().isdisjoint({"training_version", "facts"}):
        raise TrainingError(f"{path} is not a state of training that fit() wrote; {_START_ANEW}")
    version = metadata.get("training_version", "")
    due = checksum(metadata, tensors)
    if version == "1":  # the CRC-32 of the facts and of all tensors' bytes
        crc = zlib.crc32(metadata.get("facts", "").encode())
        for name in sorted(tensors):
            crc = zlib.crc32(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8).data, crc)
        due = f"{crc:08x}"
    if metadata.get("checksum") != due:
        raise TrainingError(f"{path} is damaged: checksum mismatch; {_START_ANEW}")
    if version.isdecimal() and int(version) > _FORMAT_VERSION:
        raise TrainingError(f"{path} was written by a newer geodetect; update this one to go on with it")
    return State(json.loads(metadata["facts"]), tensors)


def check(state: State, *, model: dict[str, Any], monitor: str, where: str) -> None:
    """Raise if a state is not of this training; warn if it is of other chips or another course, or froze other parts.

    Raises:
        TrainingError: if a fact or the monitor differs.
    """
    theirs = state.facts["model"]
    unlike = [name for name in model if name in theirs and model[name] != theirs[name]]  # older states have fewer
    if unlike_chips := {"chips", "windows"}.intersection(unlike):
        unlike = [name for name in unlike if name not in unlike_chips]
        then, now = (", ".join(f"{n} {what}" for what, n in each["chips"].items()) for each in (theirs, model))
        if "chips" not in unlike_chips:
            now = "as many, at other places or split differently"
        warn(
            f"{where} is of a training on other chips ({then}; here {now}), and the best epoch is chosen by scores "
            "on both; leave resume out to start anew, with weights= to keep what was learnt"
        )
    if "course" in unlike:
        unlike.remove("course")
        then, now = (", ".join(f"{k}={each['course'].get(k)!r}" for k in model["course"]) for each in (theirs, model))
        warn(f"{where} is of a training with {then}, here {now}, so it will end with other weights")
    if "frozen" in unlike:
        unlike.remove("frozen")
        _compare_frozen(theirs["frozen"], model["frozen"], where)
    for name in unlike:
        verb = "are" if name.endswith("s") else "is"
        told = f"its {name} {verb} {theirs[name]}, here {model[name]}"
        if name == "tensors":  # the last, a checksum of names and shapes
            told = f"its network has other tensors than this one, whose heads are {model['heads']}"
        raise TrainingError(f"{where} is of another model or other data ({told}); resume with the same model and data")
    if state.facts["monitor"] != monitor:
        raise TrainingError(
            f"{where} has its best epoch by {state.facts['monitor']!r}, not {monitor!r}; resume with the same monitor"
        )


def _compare_frozen(then: str, now: str, where: str) -> None:
    """Raise if the backbone was frozen in one of two trainings alone; warn if they differ in another part.

    Raises:
        TrainingError: if it was.
    """
    told = f"{where} is of a training with {then} frozen, here {now}"
    if _BACKBONE in (then, now):
        remedy = "freeze()" if then == _BACKBONE else "unfreeze()"
        raise TrainingError(f"{told}; call {remedy} to go on with it, or leave resume out to start another")
    warn(f"{told}, so it will end with other weights; make RetinaNet with the weights= and freeze= that it had")


def _numbers(values: Any) -> Any:
    """Return values of fastai's recorder as JSON can hold them."""
    if isinstance(values, Tensor | float | int | np.number):
        return float(values) if not isinstance(values, int) else values
    return [_numbers(value) for value in values]

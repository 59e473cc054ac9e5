"""The fastai `Learner` that trains a detector's network, and how it is run."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import valley
from fastai.callback.training import BnFreeze, GradientClip
from fastai.optimizer import OptimWrapper
from fastcore.basics import noop
from fastprogress.fastprogress import IN_NOTEBOOK
from torch import Tensor, nn

from geodetect import memory
from geodetect.addresses import expand_user
from geodetect.boxes import Boxes
from geodetect.chips import DetectionData
from geodetect.chips.loaders import loaders
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, TrainingError, check_whole, is_number
from geodetect.learner import checkpoints, distributed
from geodetect.learner.callbacks import BestEpoch, ChipAP, FixHeadNorms, MeanLoss, SeededEpochs, StopOnNan
from geodetect.learner.checkpoints import Checkpoint, State
from geodetect.learner.interrupts import held_back
from geodetect.learner.loop import DetectionLearner
from geodetect.network.coding import decode_batch
from geodetect.network.matching import match
from geodetect.network.precision import resolve
from geodetect.network.retinanet import Network

USUAL_RATE = 5e-4  # AdamW's peak; at 1e-3 some detectors from random weights diverge, see the benchmarks
_MOST_EPOCHS = 100_000
_WEIGHT_DECAY = 0.05
_LARGEST_GRADIENT = 1.0  # norm; steadies the early steps, whose few positives give huge ones; see the benchmarks
_PATIENCE = 5  # epochs without a better value before early stopping
# A backbone that has learnt from millions of pictures needs smaller steps than layers that begin at random:
# DETR's ratio, "We train with AdamW setting the initial learning rate to 1e-4 and the backbone's to 1e-5"
# (https://arxiv.org/abs/2005.12872, section 4).
_PRETRAINED_SHARE = 0.1


class DetectionLoss:
    """The loss of a batch as fastai calls it: outputs, then targets.

    Args:
        network: whose outputs they are.
        chip_size: side of the chips, in pixels.
        loss: focal and box loss, as `network.losses.loss` gives them.
    """

    def __init__(self, network: Network, chip_size: int, loss: Callable[..., tuple[Tensor, Tensor]]) -> None:
        self.network, self.shape, self._loss = network, (chip_size, chip_size), loss

    def __call__(self, outputs: tuple[Tensor, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """The sum of both losses, a scalar."""
        logits, deltas = outputs
        focal, box = self._loss(logits, deltas, self.network.anchors(self.shape), boxes, labels)
        return focal + box

    def n_positive(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """The number of anchors, over all chips, that the loss of these boxes is a mean over; may be 0."""
        return (match(self.network.anchors(self.shape), boxes, labels) >= 0).sum()


class _Optimizer(OptimWrapper):  # type: ignore[misc]
    """fastai's wrapper of torch's optimizers, with settings that are numbers alone, as its loggers expect them."""

    @property
    def hypers(self) -> list[dict[str, Any]]:
        """The settings of each group."""
        return [{name: value for name, value in group.items() if value is not None} for group in super().hypers]


def make_learner(
    detector: Detector, data: DetectionData, *, loss: Callable[..., tuple[Tensor, Tensor]], seed: int
) -> DetectionLearner:
    """A fastai learner over the data's chips; what it writes without being told a place goes to a temporary folder.

    Args:
        detector: whose network it trains.
        data: chips.
        loss: focal and box loss, as `network.losses.loss` gives them.
        seed: of everything random.
    """
    network, shape = detector.network, (data.chip_size, data.chip_size)

    def decode(logits: Tensor, deltas: Tensor) -> list[Boxes]:
        return decode_batch(logits, deltas, network.anchors(shape), shape, level_sizes=network.level_sizes(shape))

    dls = loaders(
        data.train,
        data.valid,
        chip_size=data.chip_size,
        stretch=detector.stretch,
        batch_size=data.batch_size,
        transforms=data.transforms,
        num_workers=data.num_workers,
        weights=data.weights,
        seed=data.seed,
        device=network.device,
        rank=distributed.rank(),
        n_ranks=distributed.n_processes(),
    )
    learner = DetectionLearner(
        dls,
        network,
        loss_func=DetectionLoss(network, data.chip_size, loss),
        opt_func=partial(_Optimizer, opt=torch.optim.AdamW, fused=True),
        splitter=groups,
        metrics=[ChipAP(decode, len(data.classes))],
        cbs=[SeededEpochs(seed), StopOnNan(data.train.plans), GradientClip(_LARGEST_GRADIENT), BnFreeze()],
        path=Path(),
        model_dir=Path(tempfile.gettempdir()),  # where fastai keeps weights while it looks for a rate
        wd=_WEIGHT_DECAY,
    )
    learner.dtype = resolve(detector.precision, detector.device)
    learner.recorder.loss = MeanLoss()
    return learner


def groups(network: Network) -> list[list[nn.Parameter]]:
    """Parameters of the backbone, of the pyramid, and of the heads, each of which may have a rate of its own."""
    backbone, pyramid = list(network.backbone.parameters()), list(network.pyramid.parameters())
    known = {id(parameter) for parameter in backbone + pyramid}
    return [backbone, pyramid, [p for p in network.parameters() if id(p) not in known]]


def rates(network: Network, rate: float | slice) -> list[float]:
    """The peak rates of the three groups: all alike, but a tenth for a backbone with ImageNet's weights.

    Args:
        network: whose groups they are.
        rate: of the heads; a slice says those of the backbone and of the heads, with the pyramid between them.

    Raises:
        ArgumentError: if a rate is not above 0.
    """
    first, last = (rate.start, rate.stop) if isinstance(rate, slice) else (rate, rate)
    if not (_is_above_0(first) and _is_above_0(last)):
        raise ArgumentError(f"lr must be above 0, or a slice of two such rates; got {rate}")
    if isinstance(rate, slice):
        return [float(each) for each in np.geomspace(first, last, 3)]
    return [rate * (_PRETRAINED_SHARE if network.backbone.pretrained else 1), rate, rate]


def _is_above_0(value: Any) -> bool:
    return is_number(value) and value > 0


def check(epochs: Any, callbacks: Sequence[Callback]) -> None:
    """Refuse what training could only stumble over later.

    Raises:
        ArgumentError: if there is no epoch to train, or a callback wants to draw what it cannot.
    """
    check_whole("epochs", epochs, at_most=_MOST_EPOCHS)
    for callback in callbacks if isinstance(callbacks, Iterable) else [None]:
        if not isinstance(callback, Callback):
            raise ArgumentError(f"callbacks must be a list of fastai's Callback objects; got {callbacks!r}")
        if getattr(callback, "log_preds", False):
            raise ArgumentError(
                f"{callback} can draw predictions of fastai's own kinds alone; "
                "give it log_preds=False, and look at show_results() instead"
            )


def begin(
    detector: Detector,
    *,
    rate: float | slice | None,
    monitor: str,
    early_stopping: bool,
    checkpoint: bool | str | Path,
    resume: bool,
    last: State | None,
) -> Checkpoint:
    """What keeps the course of a training that is to start, or to go on from where the folder or `last` left it.

    Args:
        detector: what is trained.
        rate: peak learning rate; None for that of the resumed training, else the usual one.
        monitor: what tells the best epoch.
        early_stopping: whether to end when no better epoch comes.
        checkpoint: whether to keep anything, or the folder to keep it in too.
        resume: whether to go on.
        last: what the last training of this detector left, if there was one.
    """
    if monitor not in ("valid_loss", "AP50"):
        raise ArgumentError(f'monitor must be "valid_loss" or "AP50"; got {monitor!r}')
    if not isinstance(checkpoint, bool | str | Path):
        raise ArgumentError(f"checkpoint must be True, False, or a folder; got {checkpoint!r}")
    folder = None if isinstance(checkpoint, bool) else checkpoints.prepared(Path(expand_user(checkpoint)))
    chosen = None if rate is None else rates(detector.network, rate)
    model, state = checkpoints.identity(detector), None
    if folder and not resume and last is None and (folder / checkpoints.FILE).exists():
        warnings.warn(
            f"{folder} holds the state of another training, which the first epoch of this one replaces; "
            "resume=True goes on with it",
            UserWarning,
            stacklevel=3,
        )
    if resume:
        state = (checkpoints.read(folder) if folder else None) or last
        if state is None and folder is None:
            raise TrainingError(
                "there is no training to resume; call fit() first, with checkpoint=True, or give checkpoint=FOLDER"
            )
    if state is not None:
        checkpoints.check(state, model=model, monitor=monitor, where=str(folder or "the last training"))
        chosen = chosen or state.facts["rates"]
    return Checkpoint(
        BestEpoch(monitor, keep=bool(checkpoint), patience=_PATIENCE if early_stopping else None),
        model=model,
        rates=chosen or rates(detector.network, USUAL_RATE),
        keep=bool(checkpoint),
        folder=folder,
        state=state,
    )


def run(
    learner: DetectionLearner, epochs: int, course: Checkpoint, *, one_cycle: bool, callbacks: Sequence[Callback]
) -> None:
    """Train up to `epochs`; the network is left with the weights of the last step."""
    learner.opt, learner.first_epoch = None, course.first_epoch
    fit = learner.fit_one_cycle if one_cycle else learner.fit
    halfway = [FixHeadNorms()] if one_cycle else []  # at a constant rate more epochs may follow the last
    try:
        with memory.kept(), distributed.spread(learner.model) as learner.spread:
            fit(epochs, course.rates, cbs=[course.best, course, *halfway, *callbacks])
    finally:
        learner.spread, learner.first_epoch = None, 0
    learner.stop_on_nan.check()


class RateTest(NamedTuple):
    """A learning rate, and the rates that were tried with their losses."""

    rate: float
    rates: list[float]
    losses: list[float]


def find_rate(learner: DetectionLearner) -> RateTest:
    """Return a learning rate; the weights stay as they were."""
    if distributed.n_processes() > 1:
        raise TrainingError("lr_find() runs in one process alone; find the rate without torchrun, and give it as lr")
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.opt = None
    try:
        with memory.kept(), learner.no_bar():
            found = learner.lr_find(show_plot=False, suggest_funcs=(valley,))
    finally:
        with held_back():
            learner.model.load_state_dict(state)
            learner.opt = None
    losses = [float(value) for value in learner.recorder.losses]
    return RateTest(float(found.valley), [float(rate) for rate in learner.recorder.lrs], losses)


@contextmanager
def shown(learner: DetectionLearner, *, progress: bool) -> Iterator[None]:
    """The learner with a bar and a table of epochs; in a file or a pipe, lines; without `progress`, nothing.

    Of several processes only the first shows anything.
    """
    progress = progress and distributed.rank() == 0
    try:
        if progress and (IN_NOTEBOOK or sys.stdout.isatty()):
            yield
            return
        with learner.no_bar():
            learner.logger = _write_line if progress else noop
            if progress:
                _write_line(["epoch", "train_loss", "valid_loss", *(metric.name for metric in learner.metrics), "time"])
            yield
    finally:
        learner.logger = print


def _write_line(values: Iterable[Any]) -> None:
    """One epoch, in columns."""
    row = [f"{value:.4f}" if isinstance(value, float) else str(value) for value in values]
    sys.stdout.write("".join(f"{text:>12}" for text in row) + "\n")
    sys.stdout.flush()


def history(learner: DetectionLearner) -> dict[str, Any]:
    """What the last training recorded, from its beginning: loss of each batch, and of each epoch loss and AP50."""
    recorder = learner.recorder
    names = list(recorder.metric_names[1:-1])
    values = np.array([list(row) for row in recorder.values], float).reshape(-1, len(names))
    columns = {name: values[:, i] for i, name in enumerate(names)}
    return {
        "train": np.array([float(value) for value in recorder.losses]),
        "epoch_ends": np.array(recorder.iters, int),
        "valid": columns["valid_loss"],
        "ap50": columns["AP50"],
    }

"""The fastai `Learner` that trains a detector's network, and how it is run."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import valley
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.callback.training import BnFreeze, GradientClip
from fastai.learner import Learner
from fastai.optimizer import OptimWrapper
from fastai.torch_core import set_seed
from fastcore.basics import noop
from fastprogress.fastprogress import IN_NOTEBOOK
from torch import Tensor, nn

from geodetect.chips import DetectionData
from geodetect.chips.loaders import loaders
from geodetect.learner.callbacks import Autocast, BestWeights, ChipAP, Decode, StopOnNan
from geodetect.network.losses import loss
from geodetect.network.retinanet import Network
from geodetect.stretch import Stretch

USUAL_RATE = 5e-4  # AdamW's peak; at 1e-3 some detectors from random weights diverge, see the benchmarks
_WEIGHT_DECAY = 0.05
_LARGEST_GRADIENT = 1.0  # norm; steadies the early steps, whose few positives give huge ones; see the benchmarks
_PATIENCE = 5  # epochs without a better value before early stopping


class DetectionLoss:
    """Focal plus weighted smooth L1 loss of a batch, as fastai calls it: outputs, then targets."""

    def __init__(self, network: Network, chip_size: int, *, box_weight: float, alpha: float, gamma: float) -> None:
        self.network, self.shape = network, (chip_size, chip_size)
        self.options = {"box_weight": box_weight, "alpha": alpha, "gamma": gamma}

    def __call__(self, outputs: tuple[Tensor, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """The sum of both losses, a scalar."""
        logits, deltas = outputs
        focal, box = loss(logits, deltas, self.network.anchors(self.shape), boxes, labels, **self.options)
        return focal + box


def make_learner(
    network: Network,
    data: DetectionData,
    *,
    stretch: Stretch,
    criterion: DetectionLoss,
    decode: Decode,
    dtype: torch.dtype,
) -> Learner:
    """A fastai learner over the data's chips; it writes nothing outside a temporary folder."""
    dls = loaders(
        data.train,
        data.valid,
        chip_size=data.chip_size,
        stretch=stretch,
        batch_size=data.batch_size,
        transforms=data.transforms,
        num_workers=data.num_workers,
        seed=data.seed,
        device=network.device,
    )
    return Learner(
        dls,
        network,
        loss_func=criterion,
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW, fused=True),
        splitter=groups,
        metrics=[ChipAP(decode, len(data.classes))],
        cbs=[Autocast(dtype, network.device), StopOnNan(), GradientClip(_LARGEST_GRADIENT), BnFreeze()],
        path=tempfile.gettempdir(),
        wd=_WEIGHT_DECAY,
    )


def groups(network: Network) -> list[list[nn.Parameter]]:
    """Parameters in two groups, the backbone's and the rest, so that the first can be frozen."""
    backbone = list(network.backbone.parameters())
    known = {id(parameter) for parameter in backbone}
    return [backbone, [p for p in network.parameters() if id(p) not in known]]


def run(
    learner: Learner,
    epochs: int,
    rate: float,
    *,
    one_cycle: bool,
    early_stopping: bool,
    best: BestWeights | None,
    callbacks: Sequence[Callback],
    seed: int,
) -> None:
    """Train; the network holds the best epoch's weights afterwards, also when it was interrupted."""
    more = [EarlyStoppingCallback(monitor=best.monitor if best else "valid_loss", patience=_PATIENCE)]
    every = [*([best] if best else []), *(more if early_stopping else []), *callbacks]
    set_seed(seed)
    learner.opt = None
    try:
        if one_cycle:
            learner.fit_one_cycle(epochs, rate, cbs=every)
        else:
            learner.fit(epochs, rate, cbs=every)
    finally:
        if best is not None:
            best.restore(learner.model)
    learner.stop_on_nan.check()


def find_rate(learner: Learner, seed: int) -> tuple[float, list[float], list[float]]:
    """A learning rate, with the rates that were tried and their losses; the weights stay as they were."""
    set_seed(seed)
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.opt = None
    with learner.no_bar():
        found = learner.lr_find(show_plot=False, suggest_funcs=(valley,))
    learner.model.load_state_dict(state)
    learner.opt = None
    losses = [float(value) for value in learner.recorder.losses]
    return float(found.valley), [float(rate) for rate in learner.recorder.lrs], losses


@contextmanager
def shown(learner: Learner, *, progress: bool) -> Iterator[None]:
    """The learner with a bar and a table of epochs; in a file or a pipe, lines; without `progress`, nothing."""
    if progress and (IN_NOTEBOOK or sys.stdout.isatty()):
        yield
        return
    with learner.no_bar():
        learner.logger = _write_line if progress else noop
        try:
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


def history(learner: Learner) -> dict[str, Any]:
    """What the last training recorded: loss of each batch, and at the end of each epoch loss and AP50."""
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

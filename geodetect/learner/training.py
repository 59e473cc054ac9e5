"""The fastai `Learner` that trains a detector's network, its learning rates, and the search for one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.callback.schedule import valley
from fastai.callback.training import BnFreeze, GradientClip
from fastai.optimizer import OptimWrapper
from torch import Tensor, nn

from geodetect import memory
from geodetect.chips import DetectionData
from geodetect.chips.loaders import make_loaders
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, TrainingError, is_number
from geodetect.learner import distributed
from geodetect.learner.callbacks import ChipAP, MeanLoss, ScaledGradients, SeededEpochs, StopOnNan
from geodetect.learner.interrupts import defer_interrupts
from geodetect.learner.loop import DetectionLearner
from geodetect.network.losses import Loss
from geodetect.network.matching import match_anchors
from geodetect.network.precision import resolve
from geodetect.network.retinanet import Network

USUAL_RATE = 5e-4  # AdamW's peak; at 1e-3 some detectors from random weights diverge, see the benchmarks
_WEIGHT_DECAY = 0.05
_LARGEST_GRADIENT = 1.0  # norm; steadies the early steps, whose few positives give huge ones; see the benchmarks
# For small data: ten epochs of 40 chips in batches of 8 are 50 steps, and teach nothing; see the benchmarks.
_ENOUGH_STEPS, _ENOUGH_CHIPS = 500, 2000
_FEWEST_EPOCHS = 10
_LOSSES_LEFT_OUT = 15  # by fastai's `lr_find`: the first 10 of 100 steps, and the last 5 before the loss grew


class DetectionLoss:
    """The loss of a batch of chips as fastai calls it: outputs, then targets."""

    def __init__(self, network: Network, chip_size: int, loss: Loss) -> None:
        self.network, self.shape, self.loss = network, (chip_size, chip_size), loss

    def __call__(self, outputs: tuple[Tensor, Tensor], boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of both losses, a scalar."""
        focal, box = self.loss(*outputs, self.network.anchors(self.shape), boxes, labels)
        return focal + box

    def n_positive(self, boxes: Tensor, labels: Tensor) -> Tensor:
        """Return the number of anchors, over all chips, that the loss of these boxes is a mean over; may be 0."""
        return (match_anchors(self.network.anchors(self.shape), boxes, labels) >= 0).sum()


class _Optimizer(OptimWrapper):  # type: ignore[misc]
    """fastai's wrapper of torch's optimizers, without settings that are None, which its loggers cannot take."""

    @property
    def hypers(self) -> list[dict[str, Any]]:
        """The settings of each group."""
        return [{name: value for name, value in group.items() if value is not None} for group in super().hypers]


class _Learner(DetectionLearner):
    """A learner that freezes as the model does: fastai's would train the backbone's norms, and freeze the pyramid."""

    freeze_groups: Callable[[int], None]

    def freeze(self) -> None:
        """Freeze the backbone."""
        self.freeze_to(1)

    def freeze_to(self, n: int) -> None:
        """Freeze the groups before the n-th, counted from the end if n is below 0."""
        self.freeze_groups(n)
        if self.opt is not None:
            self.opt.clear_state()


def make_learner(
    detector: Detector, data: DetectionData, loss: Loss, *, seed: int, freeze_groups: Callable[[int], None]
) -> DetectionLearner:
    """Return a fastai learner over the data's chips; files that fastai writes go to a temporary folder.

    Its methods that freeze call `freeze_groups` with the number of groups of `split_parameters`.
    """
    network = detector.network
    dls = make_loaders(
        data,
        detector.normalization,
        device=network.device,
        rank=distributed.rank(),
        n_ranks=distributed.n_processes(),
    )
    learner = _Learner(
        dls,
        network,
        loss_func=DetectionLoss(network, data.chip_size, loss),
        opt_func=partial(_Optimizer, opt=torch.optim.AdamW, fused=True),
        splitter=split_parameters,
        metrics=[ChipAP(data.chip_size, len(data.classes))],
        cbs=[
            SeededEpochs(seed),
            StopOnNan(data.train.plans),
            ScaledGradients(),
            GradientClip(_LARGEST_GRADIENT),
            BnFreeze(),
        ],
        path=Path(),
        model_dir=Path(tempfile.gettempdir()),  # where fastai keeps weights during `lr_find`
        wd=_WEIGHT_DECAY,
    )
    learner.dtype = resolve(detector.precision, detector.device)
    learner.recorder.loss, learner.freeze_groups = MeanLoss(), freeze_groups
    return learner


def split_parameters(network: Network) -> list[list[nn.Parameter]]:
    """Return the parameters of the backbone, of the pyramid, and of the heads; each group has a learning rate."""
    backbone, pyramid = list(network.backbone.parameters()), list(network.pyramid.parameters())
    known = {id(parameter) for parameter in backbone + pyramid}
    return [backbone, pyramid, [p for p in network.parameters() if id(p) not in known]]


class Rate(NamedTuple):
    """The learning rate that `fit` was given, and the one that `lr_find` found; None for none."""

    given: float | slice | None
    found: float | None

    def choose(self, resumed: Sequence[float] | None) -> list[float]:
        """Return the rates given, else those of the training that is resumed, else the one found, else the usual one.

        Raises:
            ArgumentError: if the rate given is not above 0.
        """
        if self.given is not None:
            return choose_rates(self.given)
        return list(resumed or choose_rates(self.found or USUAL_RATE))


def choose_rates(rate: float | slice) -> list[float]:
    """Return the peak rates of backbone, pyramid and heads: all the same, or from the first to the last of a slice.

    A pretrained backbone learns at the rate of the rest, not at DETR's tenth of it (https://arxiv.org/abs/2005.12872,
    section 4): in the benchmarks that found more on every place and with every seed.

    Raises:
        ArgumentError: if a rate is not above 0.
    """
    first, last = (rate.start, rate.stop) if isinstance(rate, slice) else (rate, rate)
    if not all(is_number(each) and each > 0 for each in (first, last)):
        raise ArgumentError(f"lr must be above 0, or a slice of two such rates; got {rate}")
    if isinstance(rate, slice):
        return [float(each) for each in np.geomspace(first, last, 3)]
    return [float(rate)] * 3


def choose_epochs(learner: DetectionLearner) -> int:
    """Return as many epochs as make 500 steps and show 2,000 chips, at least 10."""
    n_batches, n_chips = max(1, len(learner.dls.train)), int(learner.dls.train.n)
    return max(_FEWEST_EPOCHS, -(-_ENOUGH_STEPS // n_batches), -(-_ENOUGH_CHIPS // n_chips))


class RateTest(NamedTuple):
    """The result of `find_rate`: the rate that it suggests, and the losses at all rates."""

    rate: float
    rates: list[float]
    losses: list[float]


def find_rate(learner: DetectionLearner) -> RateTest:
    """Return a learning rate; the weights stay as they were.

    Raises:
        TrainingError: in one of several processes, or if the loss grows too soon to tell.
    """
    if distributed.n_processes() > 1:
        raise TrainingError("lr_find() runs in one process alone; find the rate without torchrun, and give it as lr")
    state = {name: value.clone() for name, value in learner.model.state_dict().items()}
    learner.opt = None
    try:
        with memory.reuse_freed(), learner.no_bar():
            found = learner.lr_find(show_plot=False, suggest_funcs=(valley,))
    except IndexError as error:
        if len(learner.recorder.losses) > _LOSSES_LEFT_OUT:
            raise
        raise TrainingError(
            "lr_find() ended after too few steps to see a falling loss, as happens with few small chips; give fit a "
            f"rate, lr={USUAL_RATE:g} for example, or larger batches"
        ) from error
    finally:
        with defer_interrupts():
            learner.model.load_state_dict(state)
            learner.opt = None
    losses = [float(value) for value in learner.recorder.losses]
    return RateTest(float(found.valley), [float(rate) for rate in learner.recorder.lrs], losses)

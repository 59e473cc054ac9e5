"""What happens in the training loop besides training: seeds, average precision, the best weights, wild losses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Metric
from fastai.torch_core import set_seed
from torch import Tensor, nn

from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan
from geodetect.errors import TrainingError
from geodetect.learner import distributed
from geodetect.learner.interrupts import held_back
from geodetect.metadata import UNKNOWN_SCORE
from geodetect.metrics import average_precision, best_score, match

Decode = Callable[[Tensor, Tensor], list[Boxes]]

_MAX_NAMED = 3  # chips that a message names


class SeededEpochs(Callback):  # type: ignore[misc]
    """Lets all that is random in an epoch follow from `seed` and its number, so that one can start in the middle."""

    order = 1  # after the network is set to train

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.earlier = 0  # epochs of earlier trainings of this network: the next one shall not repeat them

    def before_train(self) -> None:
        """Seed the order of chips, alike in all processes, and what happens to them, which is each one's own."""
        numbers = np.random.SeedSequence([self.seed % 2**32, self.earlier + self.epoch])
        chips, changes, layers = (int(number) for number in numbers.generate_state(3))
        self.dls.train.reseed(chips, changes + distributed.rank())
        set_seed(layers + distributed.rank())


class FixHeadNorms(Callback):  # type: ignore[misc]
    """Keeps the statistics of the heads' batch norms as they are from half of all steps on.

    The heads then learn with what they will be run with, in windows of any size. The moment follows from the number
    of the step and of all steps, so that it is the same in a training that was resumed.
    """

    order = 2  # after the network is set to train

    def before_batch(self) -> None:
        """Fix them, as every epoch sets them to train anew."""
        n_steps = len(self.dls.train)
        if self.training and 2 * (self.epoch * n_steps + self.iter) >= self.n_epoch * n_steps:
            self.model.fix_head_norms()


class ChosenLength(Callback):  # type: ignore[misc]
    """Says how long a training will be whose length was chosen, and, after its first epoch, in minutes.

    Args:
        write: takes a line of text.
    """

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write

    def before_fit(self) -> None:
        """Name the numbers that were chosen."""
        n_steps, epochs = len(self.dls.train), self.n_epoch
        self.write(f"{epochs} epochs of {n_steps} batches of {self.dls.train.bs} chips: {epochs * n_steps:,} steps")
        self._start, self._first = time.perf_counter(), self.learn.first_epoch

    def after_epoch(self) -> None:
        """Tell the time that the other epochs will take, from that of the first."""
        if self.epoch == self._first:
            minutes = (time.perf_counter() - self._start) * (self.n_epoch - self.epoch - 1) / 60
            self.write(f"about {max(1, round(minutes))} min to go")


class StopOnNan(Callback):  # type: ignore[misc]
    """Ends training when the loss is no longer a number; `check` says so, with the chips that it came from.

    An error raised in a callback reaches the user with fastai's words before ours.
    """

    def __init__(self, plans: tuple[ChipPlan, ...]) -> None:
        self.plans = plans
        self.seen: str | None = None

    def before_fit(self) -> None:
        """Forget what an earlier training came to."""
        self.seen = None

    def after_loss(self) -> None:
        """Look at the loss before it reaches the weights."""
        if self.training and not torch.isfinite(self.loss):
            chips = self.dls.train.batches[self.iter]
            names = [_name(self.plans[index]) for index in chips[:_MAX_NAMED]]
            more = len(chips) - len(names)
            self.seen = (
                f"the loss is {self.loss.item()} at batch {self.iter} of epoch {self.epoch}, "
                f"on {', '.join(names)}{f' and {more} more chips' if more else ''}"
            )
            raise CancelFitException

    def check(self) -> None:
        """Nothing, if every loss was a number.

        Raises:
            TrainingError: if one was not.
        """
        if self.seen:
            raise TrainingError(f"{self.seen}; try a lower learning rate, and look at the chips with show_batch()")


def _name(plan: ChipPlan) -> str:
    """What a message calls a chip: its file and the pixels of its window."""
    x1, y1, x2, y2 = plan.window.xyxy
    return f"{plan.reader.grid.name or 'a raster'} (x {x1} to {x2}, y {y1} to {y2})"


class BestEpoch(TrackerCallback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the best `monitor`; may end training when no better one comes.

    Args:
        monitor: "valid_loss" or "AP50".
        keep: whether weights are kept; else only the last epoch's operating point is.
        patience: epochs without a better one after which training ends; None for any number.
    """

    def __init__(self, monitor: str, *, keep: bool = True, patience: int | None = None) -> None:
        super().__init__(monitor=monitor, reset_on_fit=False)
        self.keep, self.patience = keep, patience
        self.waited = 0
        self.n_done = 0  # epochs that were completed
        self.before: dict[str, Tensor] = {}  # the weights to go back to while there is none
        self.weights: dict[str, Tensor] = {}
        self.min_scores: list[float] = []
        self.kept_epoch = 0  # the one that weights and scores are of

    def before_epoch(self) -> None:
        """End training when there was no better epoch for long: before the next, so that the last is complete."""
        if self.patience is not None and self.waited >= self.patience:
            raise CancelFitException

    def after_epoch(self) -> None:
        """Keep the weights when this epoch is the best so far."""
        with held_back():
            super().after_epoch()
            self.waited = 0 if self.new_best else self.waited + 1
            if self.new_best and self.keep:
                self.weights = copied(self.model)
            if self.new_best or not self.weights:  # without best weights the network has the last ones
                (metric,) = (each for each in self.metrics if isinstance(each, ChipAP))
                self.min_scores, self.kept_epoch = metric.min_scores, self.epoch
            self.n_done, self.before = self.epoch + 1, {}

    def restore(self, network: nn.Module) -> None:
        """Give the network the best weights; if no epoch was completed, those from before."""
        if weights := self.weights or self.before:
            network.load_state_dict(weights)


def copied(network: nn.Module) -> dict[str, Tensor]:
    """The weights as they are now, in the memory of the processor."""
    return {name: value.detach().to("cpu", copy=True) for name, value in network.state_dict().items()}


class ChipAP(Metric):  # type: ignore[misc]
    """Mean average precision over the classes at IoU 0.5, on the validation chips of all processes."""

    def __init__(self, decode: Decode, n_classes: int) -> None:
        self.decode, self.n_classes = decode, n_classes
        self.reset()

    def reset(self) -> None:
        """Forget the chips of the last epoch."""
        self.found: list[Boxes] = []
        self.truth: list[Boxes] = []
        self.min_scores: list[float] = []

    def accumulate(self, learn: Any) -> None:
        """Decode a batch of the network's outputs, which are at hand anyway."""
        self.found += self.decode(*(output.detach() for output in learn.pred))
        self.truth += [unpadded(boxes, labels) for boxes, labels in zip(*learn.yb, strict=True)]

    @property
    def value(self) -> float:
        """0 to 1; NaN when validation holds no object. `min_scores` are then those with the best F1."""
        pairs = distributed.gathered(list(zip(self.found, self.truth, strict=True)))
        found, truth = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.min_scores = operating_point(found, truth, self.n_classes)
        scores = chip_ap(found, truth, self.n_classes)
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    @property
    def name(self) -> str:
        """What the table of epochs, and `monitor`, call it."""
        return "AP50"


class MeanLoss(Metric):  # type: ignore[misc]
    """The mean loss over the validation chips of all processes, under fastai's name for it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the chips of the last epoch."""
        self.total, self.count = 0.0, 0

    def accumulate(self, learn: Any) -> None:
        """Add a batch by the number of its chips, as fastai weighs them."""
        n_chips = len(learn.xb[0])
        self.total, self.count = self.total + learn.loss.item() * n_chips, self.count + n_chips

    @property
    def value(self) -> float:
        """NaN when nothing was validated."""
        pairs = distributed.gathered([(self.total, self.count)])
        total, count = (sum(values) for values in zip(*pairs, strict=True))
        return total / count if count else float("nan")

    @property
    def name(self) -> str:
        """As fastai's own is called."""
        return "loss"


def unpadded(boxes: Tensor, labels: Tensor) -> Boxes:
    """One chip's true boxes from its row (M, 4) of a batch, without the padding."""
    real = labels >= 0
    return Boxes(boxes[real].double().cpu().numpy(), labels[real].cpu().numpy())


def chip_ap(found: list[Boxes], truth: list[Boxes], n_classes: int, match_iou: float = 0.5) -> np.ndarray:
    """Average precision of each class over all chips, (K,); NaN for a class without a true box."""
    scores, labels, hits = hits_of(found, truth, match_iou)
    n_truth = np.bincount(np.concatenate([boxes.labels for boxes in truth]), minlength=n_classes)
    return np.array(
        [average_precision(scores[labels == k], hits[labels == k], int(n_truth[k])) for k in range(n_classes)]
    )


def operating_point(found: list[Boxes], truth: list[Boxes], n_classes: int) -> list[float]:
    """For each class the score with the best F1 over all chips at IoU 0.5; 0.5 where they say nothing."""
    scores, labels, hits = hits_of(found, truth)
    n_truth = np.bincount(np.concatenate([boxes.labels for boxes in truth]), minlength=n_classes)
    best = [best_score(scores[labels == k], hits[labels == k], int(n_truth[k])) for k in range(n_classes)]
    return [score if np.isfinite(score) else UNKNOWN_SCORE for score in best]


class Hits(NamedTuple):
    """Detections of all chips, (N,) each: their scores, labels, and whether each matches a true box of its chip."""

    scores: np.ndarray
    labels: np.ndarray
    hits: np.ndarray


def hits_of(found: list[Boxes], truth: list[Boxes], match_iou: float = 0.5) -> Hits:
    """Return which detections match a true box of their chip."""
    partners = [match(a, b, match_iou)[0] for a, b in zip(found, truth, strict=True)]
    every = Boxes.concat(found, scored=True)
    hits = np.concatenate([np.zeros(0, int), *partners]) >= 0
    assert every.scores is not None
    return Hits(every.scores, every.labels, hits)

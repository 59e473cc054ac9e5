"""Callbacks and metrics of training: seeds, average precision, the best weights, non-finite losses."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Metric
from fastai.torch_core import set_seed
from torch import Tensor, nn

from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.errors import ArgumentError, TrainingError, warn
from geodetect.learner import distributed
from geodetect.learner.hits import Hits
from geodetect.learner.interrupts import defer_interrupts
from geodetect.metadata import NMS_IOU
from geodetect.network.coding import select_candidates, suppress
from geodetect.network.inference import Pending

_MAX_NAMED = 3  # chips that a message names
_LEAST_PATIENCE = 5  # epochs


class SeededEpochs(Callback):  # type: ignore[misc]
    """Seeds every epoch from `seed` and its number alone, so that training can start at any epoch."""

    order = 1  # after the network is set to train

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.earlier = 0  # epochs of earlier trainings of this network, which the next one must not repeat

    def before_train(self) -> None:
        """Seed the order of chips, the same in all processes, and augmentation, different in each."""
        numbers = np.random.SeedSequence([self.seed % 2**32, self.earlier + self.epoch])
        chips, changes, layers = (int(number) for number in numbers.generate_state(3))
        self.dls.train.reseed(chips, changes + distributed.rank())
        set_seed(layers + distributed.rank())


class FixHeadNorms(Callback):  # type: ignore[misc]
    """Fixes the statistics of the heads' batch norms from half of all steps on.

    The heads then learn with the statistics that inference uses, in windows of any size. The moment follows from the
    number of the step and of all steps, so that it is the same in a resumed training.
    """

    order = 2  # after the network is set to train

    def before_batch(self) -> None:
        """Fix them in every batch, as every epoch sets the network to train."""
        n_steps = len(self.dls.train)
        if self.training and 2 * (self.epoch * n_steps + self.iter) >= self.n_epoch * n_steps:
            self.model.fix_head_norms()


class TimeLeft(Callback):  # type: ignore[misc]
    """Prints the remaining minutes after the first epoch.

    Args:
        write: function that takes a line of text.
    """

    order = 60  # after the recorder, which writes the line of the epoch

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write

    def before_fit(self) -> None:
        """Start the clock."""
        self._start, self._first = time.perf_counter(), self.learn.first_epoch

    def after_epoch(self) -> None:
        """Print the time of the remaining epochs, estimated from the first."""
        n_left = self.n_epoch - self.epoch - 1
        if self.epoch == self._first and n_left:
            minutes = (time.perf_counter() - self._start) * n_left / 60
            self.write(f"about {max(1, round(minutes))} min to go")


class ScaledGradients(Callback):  # type: ignore[misc]
    """Scales the loss in float16, whose smallest gradients would become 0; in other types it does nothing.

    Gradients are those of the loss itself again when they are clipped. A step whose gradients overflow is skipped, and
    the scale is halved (https://docs.pytorch.org/docs/stable/amp.html#gradient-scaling).
    """

    order = MixedPrecision.order  # after fastai's accumulation of gradients, before they are clipped

    def before_fit(self) -> None:
        """Create a gradient scaler with the default scale."""
        self.learn.scaler = torch.amp.GradScaler(self.model.device.type, enabled=self.dtype == torch.float16)

    def before_backward(self) -> None:
        """Scale the loss used for gradients, not the one that is displayed."""
        self.learn.loss_grad = self.scaler.scale(self.loss_grad)

    def before_step(self) -> None:
        """Scale the gradients back."""
        self.scaler.unscale_(self.opt.opt)

    def after_step(self) -> None:
        """Update the scale for the next step."""
        self.scaler.update()


class StopOnNan(Callback):  # type: ignore[misc]
    """Ends training at a non-finite loss; `check` then raises an error that names the chips.

    An error raised in the callback itself would get a prefix from fastai.
    """

    def __init__(self, plans: tuple[ChipPlan, ...]) -> None:
        self.plans = plans
        self.problem: str | None = None
        self.is_whole = True  # the validation

    def before_fit(self) -> None:
        """Forget the problem of an earlier training."""
        self.problem = None

    def after_loss(self) -> None:
        """Check the loss before the optimizer uses it."""
        if not self.training or torch.isfinite(self.loss):
            return
        chips, names = self.dls.train.batches[self.iter], []
        for plan in (self.plans[index] for index in chips[:_MAX_NAMED]):
            x1, y1, x2, y2 = plan.window.xyxy
            names.append(f"{plan.reader.grid.name or 'a raster'} (x {x1} to {x2}, y {y1} to {y2})")
        more = len(chips) - len(names)
        self.problem = (
            f"the loss is {self.loss.item()} at batch {self.iter} of epoch {self.epoch}, "
            f"on {', '.join(names)}{f' and {more} more chips' if more else ''}"
        )
        raise CancelFitException

    def after_train(self) -> None:
        """End training if the gradient scale, which is halved for each skipped step, has fallen below 1."""
        if self.scaler.is_enabled() and (scale := self.scaler.get_scale()) < 1:
            self.problem = f"float16 holds no gradients of epoch {self.epoch}, even scaled by {scale:g}"
            raise CancelFitException

    def before_validate(self) -> None:
        """Expect a whole validation."""
        self.is_whole = True

    def after_cancel_validate(self) -> None:
        """Note that the validation is incomplete; the search for a rate leaves it out."""
        self.is_whole = False

    def after_validate(self) -> None:
        """End training if the validation loss is not finite: what the network computes then is of no use."""
        if self.is_whole and self.dls.valid_ds and not np.isfinite(loss := self.recorder.loss.value):
            self.problem = f"the validation loss of epoch {self.epoch} is {loss}"
            raise CancelFitException

    def check(self) -> None:
        """Raise if training ended at a loss that is not finite.

        Raises:
            TrainingError: if it did.
        """
        if self.problem:
            raise TrainingError(f"{self.problem}; try a lower learning rate, and look at the chips with show_batch()")


class BestEpoch(TrackerCallback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the best `monitor`; may end training if no better one comes.

    Of epochs with the same AP50, 0 in the first ones, the one with the lowest validation loss is the best.

    Args:
        monitor: "valid_loss" or "AP50".
        keep: whether to keep weights; otherwise only the scores of the last epoch are kept.
        stop_early: whether to end training if no better epoch comes.

    Raises:
        ArgumentError: if there is no such monitor.
    """

    def __init__(self, monitor: str, *, keep: bool = True, stop_early: bool = False) -> None:
        if monitor not in ("valid_loss", "AP50"):
            raise ArgumentError(f'monitor must be "valid_loss" or "AP50"; got {monitor!r}')
        super().__init__(monitor=monitor, reset_on_fit=False)
        self.keep, self.stop_early = keep, stop_early
        self.new_best = False  # whether the last epoch is the best so far
        self.waited = 0  # epochs since the best one
        self.n_done = 0  # completed epochs
        self.before: dict[str, Tensor] = {}  # weights to restore if no epoch is completed
        self.weights: dict[str, Tensor] = {}
        self.min_scores: list[float] = []
        self.kept_epoch = 0  # epoch of `weights` and `min_scores`

    def warn_if_unknown(self, valid: Chips) -> None:
        """Warn if these validation chips give no `monitor`, so that no epoch is better than another."""
        counted = [plan for plan in valid.plans if self.monitor != "AP50" or len(plan.boxes)]
        if not counted:
            lacking = "no validation chip holds an object" if len(valid) else "there are no validation chips"
            warn(
                f"{lacking}, so {self.monitor} is unknown: training keeps the weights of the last epoch and does not "
                "stop early; hold out more chips"
            )

    def before_epoch(self) -> None:
        """End training if no better epoch came: before the next epoch, so that the last one is complete."""
        if self.stop_early and self.waited >= patience(self.n_epoch):
            raise CancelFitException

    def after_cancel_train(self) -> None:
        """Record the loss of an incomplete epoch too; fastai would skip it, which shifts the columns of its table."""
        self.recorder.cancel_train = False

    def after_cancel_validate(self) -> None:
        """Record the metrics of an incomplete validation too."""
        self.recorder.cancel_valid = False

    def after_epoch(self) -> None:
        """Keep the weights if this epoch is the best so far."""
        with defer_interrupts():
            super().after_epoch()
            self.new_best = self.new_best or self._breaks_tie()
            # AP50 or loss is NaN without a validation object or chip; that counts neither way.
            self.waited = 0 if self.new_best else self.waited + int(np.isfinite(self.best))
            if self.new_best and self.keep:
                self.weights = copy_weights(self.model)
            if self.new_best or not self.weights:  # without best weights the network keeps the last ones
                (metric,) = (each for each in self.metrics if isinstance(each, ChipAP))
                self.min_scores, self.kept_epoch = metric.min_scores, self.epoch
            self.n_done, self.before = self.epoch + 1, {}

    def _breaks_tie(self) -> bool:
        """Whether this epoch has the best AP50 so far, as the one kept has, and a lower validation loss."""
        loss = list(self.recorder.metric_names[1:-1]).index("valid_loss")
        this, kept = self.recorder.values[-1], self.recorder.values[self.kept_epoch]
        return bool(this[self.idx] == self.best and this[loss] < kept[loss])

    def restore(self, network: nn.Module) -> None:
        """Load the best weights into the network; those from before training if no epoch was completed."""
        if weights := self.weights or self.before:
            network.load_state_dict(weights)


def patience(n_epochs: int) -> int:
    """Return the number of epochs without a better one before early stopping: a third of all, at least 5.

    While the learning rate is high, a tenth to a third of a short training passes without a better epoch.
    """
    return max(_LEAST_PATIENCE, n_epochs // 3)


def copy_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights in the processor's memory, laid out as files hold them."""
    return {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in network.state_dict().items()
    }


class ChipAP(Metric):  # type: ignore[misc]
    """Mean average precision over the classes at IoU 0.5, on the validation chips of all processes."""

    def __init__(self, chip_size: int, n_classes: int) -> None:
        self.shape, self.n_classes = (chip_size, chip_size), n_classes
        self.reset()

    def reset(self) -> None:
        """Forget the chips of the last epoch."""
        self.found: list[Boxes] = []
        self.truth: list[Boxes] = []
        self.min_scores: list[float] = []
        self._coming: Pending | None = None

    def accumulate(self, learn: Any) -> None:
        """Decode the network's outputs of a batch, and suppress those of the last one, which have arrived."""
        logits, deltas = (output.detach() for output in learn.pred)
        anchors, sizes = learn.model.anchors(self.shape), learn.model.level_sizes(self.shape)
        candidates = select_candidates(logits, deltas, anchors, self.shape, level_sizes=sizes)
        self._collect()
        self._coming = Pending(candidates)
        plans = learn.dl.dataset.chips.plans
        self.truth += [plans[number].boxes for number in learn.dl.batches[learn.iter]]

    def _collect(self) -> None:
        if self._coming is not None:
            self.found += suppress(self._coming.wait(), NMS_IOU)
            self._coming = None

    @property
    def value(self) -> float:
        """Mean AP50, 0 to 1; NaN without a validation object. Sets `min_scores`, the scores with the best F1."""
        self._collect()
        pairs = distributed.gather(list(zip(self.found, self.truth, strict=True)))
        hits = Hits.of([found for found, _ in pairs], [truth for _, truth in pairs], self.n_classes)
        self.min_scores, scores = hits.best_f1().scores.tolist(), hits.average_precision()
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    @property
    def name(self) -> str:
        """Column name in the table of epochs, also used for `monitor`."""
        return "AP50"


class MeanLoss(Metric):  # type: ignore[misc]
    """Mean loss over the validation chips of all processes; replaces fastai's metric."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the chips of the last epoch."""
        self.losses: list[Tensor] = []
        self.counts: list[int] = []

    def accumulate(self, learn: Any) -> None:
        """Add a batch, weighted by its number of chips as in fastai; its loss stays on the device."""
        self.losses.append(learn.loss)
        self.counts.append(len(learn.xb[0]))

    @property
    def value(self) -> float:
        """Mean loss; NaN without a validation chip."""
        losses = torch.stack(self.losses).tolist() if self.losses else []
        sum_here = sum(loss * n_chips for loss, n_chips in zip(losses, self.counts, strict=True))
        pairs = distributed.gather([(sum_here, sum(self.counts))])
        total, count = (sum(values) for values in zip(*pairs, strict=True))
        return total / count if count else float("nan")

    @property
    def name(self) -> str:
        """Column name, as in fastai."""
        return "loss"

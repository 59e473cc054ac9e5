"""What happens in the training loop besides training: precision, average precision, the best weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.tracker import TrackerCallback
from fastai.learner import Metric
from torch import Tensor

from geodetect.boxes import Boxes
from geodetect.errors import TrainingError
from geodetect.metrics import average_precision, match
from geodetect.network.precision import autocast

Decode = Callable[[Tensor, Tensor], list[Boxes]]


class Autocast(Callback):  # type: ignore[misc]
    """The network in bf16, the loss in float32.

    fastai's own `MixedPrecision` speaks to CUDA alone; bf16 pays on processors that have it too.
    """

    order = 10

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.context: AbstractContextManager[Any] = nullcontext()

    def before_batch(self) -> None:
        """Enter the precision of the network."""
        self.context = autocast(self.dtype, self.device)
        self.context.__enter__()  # type: ignore[no-untyped-call]

    def after_pred(self) -> None:
        """Leave it, with outputs in float32."""
        self.context.__exit__(None, None, None)
        self.context = nullcontext()
        self.learn.pred = tuple(output.float() for output in self.pred)


class StopOnNan(Callback):  # type: ignore[misc]
    """Ends training when the loss is no longer a number; `check` says so.

    An error raised in a callback reaches the user with fastai's words before ours.
    """

    def __init__(self) -> None:
        self.seen: str | None = None

    def before_fit(self) -> None:
        """Forget what an earlier training came to."""
        self.seen = None

    def after_loss(self) -> None:
        """Look at the loss before it reaches the weights."""
        if self.training and not torch.isfinite(self.loss.detach()):
            self.seen = f"the loss is {self.loss.item()} at batch {self.iter} of epoch {self.epoch}"
            raise CancelFitException

    def check(self) -> None:
        """Nothing, if every loss was a number.

        Raises:
            TrainingError: if one was not.
        """
        if self.seen:
            raise TrainingError(f"{self.seen}; try a lower learning rate, and look at the chips with show_batch()")


class BestWeights(TrackerCallback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the best `monitor`, in memory."""

    def __init__(self, monitor: str) -> None:
        super().__init__(monitor=monitor)
        self.state: dict[str, Tensor] | None = None

    def after_epoch(self) -> None:
        """Keep the weights when this epoch is the best so far."""
        super().after_epoch()
        if self.new_best:
            self.state = deepcopy(self.model.state_dict())

    def restore(self, network: torch.nn.Module) -> None:
        """Give the network the best weights, if an epoch was completed."""
        if self.state is not None:
            network.load_state_dict(self.state)


class ChipAP(Metric):  # type: ignore[misc]
    """Mean average precision over the classes at IoU 0.5, on the validation chips."""

    def __init__(self, decode: Decode, n_classes: int) -> None:
        self.decode, self.n_classes = decode, n_classes
        self.reset()

    def reset(self) -> None:
        """Forget the chips of the last epoch."""
        self.found: list[Boxes] = []
        self.truth: list[Boxes] = []

    def accumulate(self, learn: Any) -> None:
        """Decode a batch of the network's outputs, which are at hand anyway."""
        self.found += self.decode(*(output.detach() for output in learn.pred))
        self.truth += [unpadded(boxes, labels) for boxes, labels in zip(*learn.yb, strict=True)]

    @property
    def value(self) -> float:
        """0 to 1; NaN when validation holds no object."""
        scores = chip_ap(self.found, self.truth, self.n_classes)
        return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")

    @property
    def name(self) -> str:
        """What the table of epochs, and `monitor`, call it."""
        return "AP50"


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


def hits_of(
    found: list[Boxes], truth: list[Boxes], match_iou: float = 0.5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels, and whether each detection matches a true box of its chip, over all chips, (N,) each."""
    partners = [match(a, b, match_iou)[0] for a, b in zip(found, truth, strict=True)]
    every = Boxes.concat(found, scored=True)
    hits = np.concatenate([np.zeros(0, int), *partners]) >= 0
    assert every.scores is not None
    return every.scores, every.labels, hits

"""fastai's training loop with what it lacks: bf16 anywhere, batches that outgrow the memory, a start in the middle.

Shapes: B chips, A anchors, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fastai.callback.core import (
    CancelBackwardException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
)
from fastai.learner import Learner
from torch import Tensor, nn

from geodetect import memory
from geodetect.errors import GeodetectError, TrainingError
from geodetect.learner import distributed
from geodetect.network.precision import autocast

Tensors = tuple[Tensor, ...]


class DetectionLearner(Learner):  # type: ignore[misc]
    """fastai's `Learner`, whose `loss_func` also tells `n_positive`: over how many anchors it is a mean.

    A batch that memory does not hold goes through in parts, whose gradients add up to those of the whole; only batch
    norms see the parts. Ctrl-C ends training as a callback would, so that every callback closes what it opened, and
    is raised again at the end.
    """

    dtype = torch.float32  # of the network; outputs and loss are float32
    n_parts = 1  # in which a batch goes through the network
    first_epoch = 0  # above 0 where training is resumed
    spread: nn.Module | None = None  # the network as several processes train it
    interrupt: KeyboardInterrupt | None = None

    xb: Tensors
    yb: Tensors
    pred: Any
    loss: Tensor
    loss_grad: Any

    def _do_fit(self) -> None:
        try:
            for epoch in range(self.first_epoch, self.n_epoch):
                self.epoch = epoch
                self._with_events(self._do_epoch, "epoch", CancelEpochException)
        except KeyboardInterrupt as error:
            self.interrupt = error
            raise CancelFitException from error

    def _end_cleanup(self) -> None:
        super()._end_cleanup()
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt

    def all_batches(self) -> None:
        """Go through the batches; an error of a process that reads them is told without that process' traceback."""
        try:
            super().all_batches()
        except GeodetectError as error:
            before, of_worker, message = str(error).rpartition(f"{type(error).__name__}: ")
            if not (of_worker and "DataLoader worker" in before):
                raise
            raise type(error)(message.strip()) from None
        except RuntimeError as error:
            if not any(sign in str(error) for sign in ("killed by signal", "exited unexpectedly")):
                raise
            raise TrainingError(
                "a process that reads chips was killed, most likely for lack of memory; choose fewer num_workers, or "
                "a smaller batch_size"
            ) from error

    def _do_epoch_validate(self, ds_idx: int = 1, dl: Any = None) -> None:
        distributed.share_buffers(self.model)
        super()._do_epoch_validate(ds_idx, dl)

    def _do_one_batch(self) -> None:
        while not self._memory_sufficed():
            self._use_smaller_parts()
        if self.training:
            self._with_events(self._step, "step", CancelStepException)
            self.opt.zero_grad()

    def _memory_sufficed(self) -> bool:
        """Whether outputs, loss and gradients of the batch could be had; no error keeps their memory afterwards."""
        whole = self.xb, self.yb
        try:
            self._run_parts(*whole)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_short(error):
                raise
            n_chips = len(whole[0][0])
            if self.n_parts >= n_chips or self.spread is not None:
                raise TrainingError(
                    f"the memory of {self.model.device} does not hold {-(-n_chips // self.n_parts)} of the chips; "
                    "choose a smaller batch_size, chip_size or backbone"
                ) from error
            return False
        finally:
            self.xb, self.yb = whole
        return True

    def _use_smaller_parts(self) -> None:
        n_chips = len(self.xb[0])
        self.n_parts = min(2 * self.n_parts, n_chips)
        self.pred, self.loss_grad = None, None
        if self.training:
            self.opt.zero_grad()
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"the memory of {self.model.device} does not hold {n_chips} chips at once: they go through the network "
            f"{-(-n_chips // self.n_parts)} at a time from here on, with the same steps",
            UserWarning,
            stacklevel=2,
        )

    def _run_parts(self, xb: Tensors, yb: Tensors) -> None:
        """Outputs and loss of the whole batch, and its gradients in training."""
        parts = _slices(len(xb[0]), self.n_parts)
        seen = []
        for part, share in zip(parts, self._shares(yb, parts), strict=True):
            self.xb, self.yb = tuple(x[part] for x in xb), tuple(y[part] for y in yb)
            seen.append(self._run_part(share))
        if len(seen) > 1:
            self.pred = tuple(torch.cat(outputs) for outputs in zip(*(pred for pred, _ in seen), strict=True))
            self.loss = torch.stack([loss for _, loss in seen]).sum()

    def _run_part(self, share: Tensor | None) -> tuple[Tensors, Tensor]:
        """Detached outputs and loss of the chips in `xb`, of whose loss `share` counts; all of it for None."""
        network = self.spread if self.training and self.spread is not None else self.model
        with autocast(self.dtype, self.model.device), _values_enough(self.xb[0]):
            outputs = network(*self.xb)
        self.pred = tuple(output.float() for output in outputs)
        self("after_pred")
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        if share is not None:
            self.loss_grad = self.loss_grad * share
        self.loss = self.loss_grad.detach().clone()
        if self.training and self.spread is not None:
            self.loss = distributed.total(self.loss) / distributed.n_processes()
        self("after_loss")
        if self.training:
            self._with_events(self._backward, "backward", CancelBackwardException)
        return tuple(output.detach() for output in self.pred), self.loss

    def _shares(self, yb: Tensors, parts: list[slice]) -> list[Any]:
        """Factors on the losses of the parts, whose means are over anchors of their own, not of the whole batch.

        Of several processes too: torch takes the mean of their gradients.
        """
        together = self.training and self.spread is not None
        if len(parts) == 1 and not together:
            return [None]
        counts = torch.stack([self.loss_func.n_positive(*(y[part] for y in yb)) for part in parts])
        whole = distributed.total(counts.sum()) if together else counts.sum()
        factor = distributed.n_processes() if together else 1
        return list(factor * counts.clamp(min=1) / whole.clamp(min=1))


@contextmanager
def _values_enough(images: Tensor) -> Iterator[None]:
    """Explain what torch says of a norm that has a single value to take the mean and deviation of."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        n_chips, _, _, side = images.shape
        raise TrainingError(
            f"a batch of {n_chips} chip(s) of {side} px leaves some norm of the network a single value to take the "
            "mean and deviation of; choose a larger chip_size, or a batch_size of at least 2"
        ) from error


def _slices(n_chips: int, n_parts: int) -> list[slice]:
    """Neighbouring parts of a batch, of equal length but the last."""
    length = -(-n_chips // min(n_parts, n_chips))
    return [slice(first, first + length) for first in range(0, n_chips, length)]

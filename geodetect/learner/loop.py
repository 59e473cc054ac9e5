"""fastai's training loop, with bf16 and float16 on any device, batches larger than memory, and a start at any epoch.

Shapes: B chips, A anchors, K classes.
"""

from __future__ import annotations

import warnings
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
    """fastai's `Learner`, whose `loss_func` has `n_positive`: the number of anchors that the loss is a mean of.

    A batch that does not fit into memory is processed in parts, whose gradients add up to those of the whole; only
    batch norms see the parts. Ctrl-C ends training as a callback would, so that every callback closes what it opened,
    and is raised again at the end.
    """

    dtype = torch.float32  # of the network; outputs and loss are float32
    scaler: torch.amp.GradScaler  # of the gradients
    n_parts = 1  # of a batch
    first_epoch = 0  # above 0 if training is resumed
    parallel: nn.Module | None = None  # the network as several processes train it
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
        for loader in self.dls.loaders:
            loader.dataset.close()
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt

    def all_batches(self) -> None:
        """Process all batches; an error of a process that reads chips is raised without that process' traceback."""
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
                "a process that reads chips was killed, most likely for lack of memory; choose fewer num_workers or "
                "a smaller batch_size"
            ) from error

    def _do_epoch_validate(self, ds_idx: int = 1, dl: Any = None) -> None:
        distributed.share_buffers(self.model)
        super()._do_epoch_validate(ds_idx, dl)

    def _do_one_batch(self) -> None:
        while not self._try_parts():
            self._use_smaller_parts()
        if self.training:
            self._with_events(self._step, "step", CancelStepException)
            self.opt.zero_grad()

    def _step(self) -> None:
        self.scaler.step(self.opt.opt)

    def _try_parts(self) -> bool:
        """Compute outputs, loss and gradients of the batch; return False if memory does not suffice.

        The error is not kept, as it would hold the memory.
        """
        whole = self.xb, self.yb
        try:
            self._run_parts(*whole)
        except (MemoryError, RuntimeError) as error:
            if not memory.is_out_of_memory(error):
                raise
            n_chips = len(whole[0][0])
            if self.n_parts >= n_chips or self.parallel is not None:
                raise TrainingError(
                    f"the memory of {self.model.device} does not hold {-(-n_chips // self.n_parts)} of the chips; "
                    "choose a smaller batch_size, chip_size or backbone"
                ) from error
            return False
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            n_chips, _, _, side = self.xb[0].shape
            raise TrainingError(
                f"a batch of {n_chips} chip(s) of {side} px leaves a norm of the network a single value, which has no "
                "deviation; choose a larger chip_size, or a batch_size of at least 2"
            ) from error
        finally:
            self.xb, self.yb = whole
        return True

    def _use_smaller_parts(self) -> None:
        n_chips = len(self.xb[0])
        self.n_parts = min(2 * self.n_parts, n_chips)
        self.pred, self.loss_grad = None, None
        if self.training:
            self.opt.zero_grad()
        if self.model.device.type != "cpu":
            torch.get_device_module(self.model.device).empty_cache()
        warnings.warn(  # not `errors.warn`, which would blame fastai's loop
            f"the memory of {self.model.device} does not hold {n_chips} chips at once: from here on the network takes "
            f"{-(-n_chips // self.n_parts)} at a time, with the same steps",
            UserWarning,
            stacklevel=2,
        )

    def _run_parts(self, xb: Tensors, yb: Tensors) -> None:
        """Set outputs and loss of the whole batch, and its gradients in training."""
        n_chips = len(xb[0])
        length = -(-n_chips // min(self.n_parts, n_chips))
        parts = [slice(first, first + length) for first in range(0, n_chips, length)]
        done = []
        for part, share in zip(parts, self._shares(yb, parts), strict=True):
            self.xb, self.yb = tuple(x[part] for x in xb), tuple(y[part] for y in yb)
            done.append(self._run_part(share))
        if len(done) > 1:
            self.pred = tuple(torch.cat(outputs) for outputs in zip(*(pred for pred, _ in done), strict=True))
            self.loss = torch.stack([loss for _, loss in done]).sum()

    def _run_part(self, share: Tensor | None) -> tuple[Tensors, Tensor]:
        """Return detached outputs and loss of the chips in `xb`; `share` is a factor on the loss, None for 1."""
        network = self.parallel if self.training and self.parallel is not None else self.model
        with autocast(self.dtype, self.model.device):
            outputs = network(*self.xb)
        self.pred = tuple(output.float() for output in outputs)
        self("after_pred")
        self.loss_grad = self.loss_func(self.pred, *self.yb)
        if share is not None:
            self.loss_grad = self.loss_grad * share
        self.loss = self.loss_grad.detach().clone()
        if self.training and self.parallel is not None:
            self.loss = distributed.sum_over_processes(self.loss) / distributed.n_processes()
        self("after_loss")
        if self.training:
            self._with_events(self._backward, "backward", CancelBackwardException)
        return tuple(output.detach() for output in self.pred), self.loss

    def _shares(self, yb: Tensors, parts: list[slice]) -> list[Any]:
        """Return factors that turn the losses of the parts, each a mean over its own anchors, into summands.

        With several processes too: torch takes the mean of their gradients.
        """
        together = self.training and self.parallel is not None
        if len(parts) == 1 and not together:
            return [None]
        counts = torch.stack([self.loss_func.n_positive(*(y[part] for y in yb)) for part in parts])
        whole = distributed.sum_over_processes(counts.sum()) if together else counts.sum()
        factor = distributed.n_processes() if together else 1
        return list(factor * counts.clamp(min=1) / whole.clamp(min=1))

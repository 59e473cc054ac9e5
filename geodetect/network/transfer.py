"""Asynchronous copies between the processor's memory and the device of a network.

CUDA copies from and to page-locked memory while both sides go on working
(https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html). Elsewhere these are plain copies.
"""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; work that is queued there later finds it complete."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Pending:
    """A tensor on its way from a device; it may still be being computed."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._arrived: torch.cuda.Event | None = None
        if tensor.is_cuda:
            self._tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._tensor.copy_(tensor, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """Wait for the device, and return the tensor in the processor's memory."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensor.cpu()

"""Several processes that train one network, each on its share of every batch.

fastai's own support asks for the package accelerate, speaks to CUDA alone, and hands out epochs, not batches;
torch's DistributedDataParallel (https://docs.pytorch.org/docs/stable/notes/ddp.html) needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from geodetect.errors import ArgumentError


@contextmanager
def joined(device: str | None = None) -> Iterator[str | None]:
    """The device of this process, in the group that `torchrun` started; the device as given where it did not.

    Args:
        device: "cpu" or "cuda"; None takes a GPU for each process where there are any.

    Raises:
        ArgumentError: if the device is one that several processes would have to share.
    """
    if not distributed.is_available() or not distributed.is_torchelastic_launched() or distributed.is_initialized():
        yield device
        return
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if str(place) != place.type:
        raise ArgumentError(f'torchrun gives each process a device of its own; give "{place.type}", not "{place}"')
    if place.type == "cuda":
        place = torch.device("cuda", distributed.get_node_local_rank())
        torch.cuda.set_device(place)
    distributed.init_process_group()
    try:
        yield str(place)
    finally:
        distributed.destroy_process_group()


def n_processes() -> int:
    """Processes that train together; 1 without a group."""
    return distributed.get_world_size() if _grouped() else 1


def rank() -> int:
    """The number of this process among them, from 0."""
    return distributed.get_rank() if _grouped() else 0


def _grouped() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def spread(network: nn.Module) -> Iterator[nn.Module | None]:
    """The network as all processes train it, with equal weights and gradients; None where there is one process.

    On GPUs batch norms take the statistics of the whole batch; torch has no such layer for a CPU.
    """
    if n_processes() == 1:
        yield None
        return
    place = next(network.parameters()).device
    with _common_norms(network) if place.type == "cuda" else nullcontext():
        yield DistributedDataParallel(network, device_ids=[place] if place.type == "cuda" else None)


@contextmanager
def _common_norms(network: nn.Module) -> Iterator[None]:
    """The network with batch norms that learn from all processes, save frozen ones; afterwards with its own."""
    swapped = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.BatchNorm2d) and layer.weight.requires_grad
    ]
    for parent, name, layer in swapped:  # they share weights and running means with those that they stand in for
        setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(layer))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for parent, name, layer in swapped:
            setattr(parent, name, layer)


@torch.no_grad()
def share_buffers(network: nn.Module) -> None:
    """Give every process the running means of the first: without a common norm each has seen its own chips."""
    if n_processes() > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


def total(value: Tensor) -> Tensor:
    """The sum over all processes."""
    if n_processes() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def gathered(items: list[Any]) -> list[Any]:
    """The items of all processes, in the order of their numbers."""
    if n_processes() == 1:
        return items
    parts: list[list[Any]] = [[] for _ in range(n_processes())]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]

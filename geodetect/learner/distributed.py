"""Several processes that train one network, each on its share of every batch.

fastai's own support needs the package accelerate, supports CUDA only, and hands out epochs, not batches;
torch's DistributedDataParallel (https://docs.pytorch.org/docs/stable/notes/ddp.html) needs neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from geodetect.errors import ArgumentError
from geodetect.network.devices import find_device


@contextmanager
def join(device: str | None = None) -> Iterator[str | None]:
    """Join the group that `torchrun` started, and yield the device of this process; without one yield `device`.

    Args:
        device: "cpu" or "cuda"; None takes a GPU for each process if there are any.

    Raises:
        ArgumentError: if several processes would have to share the device.
    """
    if not distributed.is_available() or not distributed.is_torchelastic_launched() or distributed.is_initialized():
        yield device
        return
    place = find_device(device)
    if device is not None and str(device) != place.type:
        raise ArgumentError(f'torchrun gives each process a device of its own; give "{place.type}", not "{place}"')
    if place.type == "mps":  # torch.distributed has no backend for it
        if device is not None:
            raise ArgumentError('several processes cannot train on mps; give "cpu", or start one process')
        place = torch.device("cpu")
    if place.type == "cuda":
        number, n_gpus = distributed.get_node_local_rank(), torch.cuda.device_count()
        if number >= n_gpus:
            raise ArgumentError(
                f"each process needs a GPU of its own; torchrun started more than the {n_gpus} of this machine: "
                f"use --nproc-per-node {n_gpus}"
            )
        place = torch.device("cuda", number)
        torch.cuda.set_device(place)
    distributed.init_process_group()
    try:
        yield str(place)
    finally:
        distributed.destroy_process_group()


def n_processes() -> int:
    """Return the number of processes that train together; 1 without a group."""
    return distributed.get_world_size() if _has_group() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return distributed.get_rank() if _has_group() else 0


def _has_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


@contextmanager
def parallelise(network: nn.Module) -> Iterator[nn.Module | None]:
    """Yield the network as all processes train it, with equal weights and gradients; None for a single process.

    On GPUs batch norms use the statistics of the whole batch; torch has no such layer for a CPU.
    """
    if n_processes() == 1:
        yield None
        return
    place = next(network.parameters()).device
    with _sync_norms(network) if place.type == "cuda" else nullcontext():
        yield DistributedDataParallel(network, device_ids=[place] if place.type == "cuda" else None)


@contextmanager
def _sync_norms(network: nn.Module) -> Iterator[None]:
    """Replace all batch norms but frozen ones by norms over all processes, and put them back at the end."""
    swapped = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.BatchNorm2d) and layer.weight.requires_grad
    ]
    for parent, name, layer in swapped:  # the new norms share weights and running means with the old ones
        norm = nn.SyncBatchNorm.convert_sync_batchnorm(layer)  # type: ignore[no-untyped-call]
        for part in norm.children():  # timm's BatchNormAct2d has its dropout and its activation within
            norm.register_forward_hook(partial(_run_after, part))
        setattr(parent, name, norm)
    try:
        yield
    finally:
        for parent, name, layer in swapped:
            setattr(parent, name, layer)


def _run_after(part: nn.Module, norm: nn.Module, given: object, result: Tensor) -> Tensor:
    """Return a norm's result with a part of it applied, as a hook."""
    return part(result)  # type: ignore[no-any-return]


@torch.no_grad()
def share_buffers(network: nn.Module) -> None:
    """Give every process the running means of the first, as norms that are not shared have seen other chips."""
    if n_processes() > 1:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum over all processes."""
    if n_processes() > 1:
        value = value.detach().clone()
        distributed.all_reduce(value)
    return value


def gather(items: list[Any]) -> list[Any]:
    """Return the items of all processes, in the order of their numbers."""
    if n_processes() == 1:
        return items
    parts: list[list[Any]] = [[] for _ in range(n_processes())]
    distributed.all_gather_object(parts, items)
    return [item for part in parts for item in part]

"""Inference: standardised images, a fast copy of a network, and copies between memory and device.

Shapes: B images, C bands, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Num
from torch import Tensor, nn

from geodetect.network.backbones import TimmBackbone, fold
from geodetect.network.packed import can_pack, pack
from geodetect.network.precision import is_native
from geodetect.network.retinanet import Network

_LONGEST = 1333  # pixels, torchvision's `max_size`
MULTIPLE = 32  # pixels; sides that every backbone halves without a remainder


class Images(NamedTuple):
    """Pixels as a network takes them, (B, C, h, w), and the size (H, W) of what is not padding."""

    pixels: Float[Tensor, "B C _h _w"]
    shape: tuple[int, int]


def prepare_images(
    pixels: Num[Tensor, "B C H W"],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    *,
    min_size: int | None = None,
) -> Images:
    """Return standardised pixels on the network's device, padded with the mean to multiples of 32.

    Args:
        pixels: of any type of number; NaN and infinities become the mean of their band.
        mean: of each band.
        std: of each band.
        device: of the network.
        min_size: resize images so that their shorter side has so many pixels, as torchvision's detectors do, but the
            longer one no more than 1,333; None leaves them as they are.
    """
    images = normalize(send_pixels(pixels, device), mean, std, finite=not pixels.is_floating_point())
    if min_size is not None:
        sides = pixels.shape[2:]
        factor = min(min_size / min(sides), _LONGEST / max(sides))
        images = nn.functional.interpolate(
            images, scale_factor=factor, mode="bilinear", recompute_scale_factor=True, align_corners=False
        )
    height, width = images.shape[2:]
    padded = nn.functional.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
    return Images(padded.contiguous(memory_format=torch.channels_last), (height, width))


def normalize(
    pixels: Float[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float], *, finite: bool = False
) -> Float[Tensor, "B C H W"]:
    """Return pixels less each band's mean, over its standard deviation; what is not finite becomes 0.

    Args:
        pixels: in the units of mean and deviation.
        mean: of each band.
        std: of each band.
        finite: whether all pixels are known to be finite.
    """
    offsets, factors = send(torch.tensor([mean, std]), pixels.device)[:, :, None, None]
    images: Tensor = (pixels - offsets).div_(factors)
    return images if finite else images.nan_to_num_(nan=0, posinf=0, neginf=0)


@torch.no_grad()
def freeze(network: Network, dtype: torch.dtype) -> Network:
    """Return a faster copy with the same outputs, in eval mode; later training of the network does not change it.

    Batch norms are folded into the convolutions before them, and the weights of convolutions are cast to `dtype` once,
    where autocast would cast them for every batch; on a processor they are packed (`packed.pack`) too. Outputs in
    float32 are the same to rounding.
    """
    weights = [*network.parameters(), *network.buffers()]
    fast = deepcopy(network, {id(weight): weight for weight in weights})  # shared at first: most are replaced anyway
    if isinstance(fast.backbone, TimmBackbone):
        fast.backbone.fold_norms()
    else:
        _fold_norms(fast.backbone)
    for head in (fast.class_head, fast.box_head):
        head.fold_norms()
    for layer in fast.modules():
        is_cast = isinstance(layer, nn.Conv2d | nn.Linear)
        for name, weight in list(layer.named_parameters(recurse=False)):
            own = weight.detach().to(dtype if is_cast else weight.dtype, copy=True)
            setattr(layer, name, nn.Parameter(own, requires_grad=False))
        for name, buffer in list(layer.named_buffers(recurse=False)):
            setattr(layer, name, buffer.clone())
    fast = fast.eval().to(memory_format=torch.channels_last)
    if network.device.type == "cpu" and can_pack() and is_native(dtype, network.device):
        for part in fast.children():
            # Other layers of timm look at each other's weights.
            for block in part.folded if isinstance(part, TimmBackbone) else [part]:
                pack(block)
    return fast


def _fold_norms(backbone: nn.Module) -> None:
    """Fold batch norms into the convolutions right before them, whose output they take in torchvision's models."""
    for block in list(backbone.modules()):
        for (name, layer), (norm_name, norm) in pairwise(list(block.named_children())):
            if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:  # subclasses do more than their names say
                setattr(block, name, fold(layer, norm))
                setattr(block, norm_name, nn.Identity())


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Set the network to eval mode, and every layer back to its own mode at the end: it may be in training."""
    training = [layer for layer in network.modules() if layer.training]
    network.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


def empty(shape: tuple[int, ...], dtype: np.dtype[Any], device: torch.device) -> np.ndarray:
    """Return a new array that `send` copies to a device from as it is, page-locked for CUDA."""
    if device.type != "cuda":
        return np.empty(shape, dtype)
    n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return np.asarray(torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape))


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device without waiting for it; work that is queued there later finds it complete.

    CUDA copies from page-locked memory while both sides go on working
    (https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html), in a stream of its own: in the one that
    computes, a batch would only be copied when all before it is done. Elsewhere the copy blocks: MPS would read the
    memory of a tensor that is freed before it has been copied.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    copying, computing = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        sent = tensor.pin_memory().to(device, non_blocking=True)
    computing.wait_stream(copying)
    sent.record_stream(computing)  # its memory belongs to the other stream, which must not reuse it before
    return sent


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream in which everything is copied to a GPU."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def send_pixels(pixels: Num[Tensor, "B C H W"], device: torch.device) -> Float[Tensor, "B C H W"]:
    """Return pixels as float32 on a device; integers of 8 and 16 bits become floats there, as they travel faster.

    MPS has neither float64 nor uint16 (https://github.com/pytorch/pytorch/issues/159076): 32 and 64 bits travel as
    float32, and uint16 as int16 of the same bits.
    """
    if device.type == "cpu":
        return pixels.to(device).float()
    if pixels.dtype == torch.uint16:
        return (send(pixels.view(torch.int16), device).int() & 0xFFFF).float()
    is_small = not pixels.is_floating_point() and pixels.dtype.itemsize <= torch.int16.itemsize
    return send(pixels if is_small else pixels.float(), device).float()


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

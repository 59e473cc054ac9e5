"""Inference: pixels as a network takes them, and a copy of it made fast, while the network itself goes on learning.

Shapes: B pictures, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from geodetect.network.backbones import TimmBackbone
from geodetect.network.packed import can_pack, pack
from geodetect.network.precision import is_native
from geodetect.network.retinanet import Network
from geodetect.network.transfer import sent

_LONGEST = 1333  # pixels, torchvision's `max_size`
MULTIPLE = 32  # pixels; sides at which every backbone halves without a remainder


class Pictures(NamedTuple):
    """Pixels as a network takes them: (B, C, h, w), and the size (H, W) of what is not padding."""

    pixels: Float[Tensor, "B C _h _w"]
    shape: tuple[int, int]


def standardised(
    pixels: Num[Tensor, "B C H W"],
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    min_size: int | None = None,
) -> Pictures:
    """Return pixels as the network takes them, on its device, padded with the mean to sides that it can halve.

    Args:
        pixels: of any type of number; what is not finite becomes the mean.
        mean: of each band.
        std: of each band.
        device: of the network.
        min_size: resize images so that their shorter side has so many pixels, as torchvision's detectors do, but the
            longer one no more than 1,333; None leaves them as they are.
    """
    offsets, factors = sent(torch.tensor([mean, std]), device)[:, :, None, None]
    # To the device first: 8 and 16 bits travel faster than floats.
    pictures = (sent(pixels, device).float() - offsets).div_(factors)
    if pixels.is_floating_point():
        pictures.nan_to_num_(nan=0, posinf=0, neginf=0)
    if min_size is not None:
        sides = pixels.shape[2:]
        factor = min(min_size / min(sides), _LONGEST / max(sides))
        pictures = nn.functional.interpolate(
            pictures, scale_factor=factor, mode="bilinear", recompute_scale_factor=True, align_corners=False
        )
    height, width = pictures.shape[2:]
    padded = nn.functional.pad(pictures, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
    return Pictures(padded.contiguous(memory_format=torch.channels_last), (height, width))


@torch.no_grad()
def frozen(network: Network, dtype: torch.dtype) -> Network:
    """A copy that gives the same answers faster, in eval mode; what the network learns later does not reach it.

    Batch norms are folded into the convolutions before them, and the weights of convolutions lie in `dtype` once
    and for all, where autocast would cast them for every batch; on a processor they are `packed` too.

    Args:
        network: in any mode.
        dtype: the precision that it will be run in; float32 answers stay the same to rounding.
    """
    weights = [*network.parameters(), *network.buffers()]
    fast = deepcopy(network, {id(weight): weight for weight in weights})  # shared at first: most are replaced anyway
    for block in list(fast.backbone.modules()):
        _fold_norms(block)
    for head in (fast.class_head, fast.box_head):
        head.fold_norms()
    for layer in fast.modules():
        _take_weights(layer, dtype if isinstance(layer, nn.Conv2d | nn.Linear) else None)
    fast = fast.eval().to(memory_format=torch.channels_last)
    if network.device.type == "cpu" and can_pack() and is_native(dtype, network.device):
        for part in fast.children():
            if not isinstance(part, TimmBackbone):  # whose layers look at each other's weights
                pack(part)
    return fast


def _fold_norms(block: nn.Module) -> None:
    """Let convolutions do what the batch norms right behind them did.

    In the backbones that come from torchvision such a norm takes what the convolution gives. Subclasses, which timm
    has many of, are left alone: they do more than their names say.
    """
    for (_, layer), (name, norm) in pairwise(list(block.named_children())):
        if type(layer) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            moments = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            layer.weight, layer.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *moments)
            setattr(block, name, nn.Identity())


def _take_weights(layer: nn.Module, dtype: torch.dtype | None) -> None:
    """Give a layer weights of its own, in `dtype` or, for None, as they are."""
    for name, weight in list(layer.named_parameters(recurse=False)):
        own = weight.detach().to(dtype or weight.dtype, copy=True)
        setattr(layer, name, nn.Parameter(own, requires_grad=False))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        setattr(layer, name, buffer.clone())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in eval mode, and every layer as it was afterwards: a learner may be training it."""
    training = [layer for layer in network.modules() if layer.training]
    network.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True

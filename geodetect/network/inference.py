"""Inference: pixels as a network takes them, and a copy of it made fast, while the network itself goes on learning.

Shapes: B pictures, C bands, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from geodetect.network.backbones import TimmBackbone
from geodetect.network.packed import can_pack, pack
from geodetect.network.precision import is_native
from geodetect.network.retinanet import Network
from geodetect.network.transfer import sent

MULTIPLE = 32  # pixels; sides at which every backbone halves without a remainder


def standardised(
    pixels: Num[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Float[Tensor, "B C _h _w"]:
    """Pixels as the network takes them, on its device, padded with the mean to sides it can halve.

    Args:
        pixels: of any type of number; what is not finite becomes the mean.
        mean: of each band.
        std: of each band.
        device: where the network lies.
    """
    # To the device first: 8 and 16 bits travel faster than floats.
    pictures = normalize(sent(pixels, device), mean, std)
    right, below = (-side % MULTIPLE for side in (pixels.shape[3], pixels.shape[2]))
    return nn.functional.pad(pictures, (0, right, 0, below)).contiguous(memory_format=torch.channels_last)


def normalize(pixels: Num[Tensor, "B C H W"], mean: Sequence[float], std: Sequence[float]) -> Float[Tensor, "B C H W"]:
    """Return pixels less each band's mean, over its standard deviation; what is not finite becomes 0.

    Args:
        pixels: of any type of number.
        mean: of each band.
        std: of each band.
    """
    offsets, factors = sent(torch.tensor([mean, std]), pixels.device)[:, :, None, None]
    images: Tensor = (pixels.float() - offsets).div_(factors)
    if pixels.is_floating_point():
        images.nan_to_num_(nan=0, posinf=0, neginf=0)
    return images


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

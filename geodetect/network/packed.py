"""Convolutions for a processor: weights in oneDNN's own layout, and ReLU in the same pass.

torch keeps weights in a layout of its own and rearranges them at every call, and its ReLU reads and writes every map
once more. The operators used here are those that `torch.compile` puts into its programs for processors
(https://github.com/pytorch/pytorch/blob/main/torch/_inductor/fx_passes/mkldnn_fusion.py), without the minute
that compiling takes. Where torch has them not, nothing is changed.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck


class PackedConvolution(nn.Module):
    """What a convolution answers, after ReLU if `rectified`.

    Args:
        layer: a plain convolution with weights in the precision that it is to compute in, on the processor.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.rectified = False
        self.bias = layer.bias
        self._weight = layer.weight.detach()
        self._shape = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
        self._packed: dict[tuple[int, int], Tensor] = {}

    def forward(self, maps: Float[Tensor, "B _c _h _w"]) -> Float[Tensor, "B _C _H _W"]:
        """The answer in the precision of the weights."""
        after = "relu" if self.rectified else "none"
        answer: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps.to(self._weight.dtype), self._fitted(maps), self.bias, *self._shape, after, [], ""
        )
        return answer

    def _fitted(self, maps: Float[Tensor, "B _c _h _w"]) -> Tensor:
        """The weights as oneDNN wants them for maps of this height and width, whatever their number."""
        size = maps.shape[2], maps.shape[3]
        if size not in self._packed:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self._packed[size] = reorder(self._weight, *self._shape, list(maps.shape))
        return self._packed[size]


class _Residual(nn.Module):
    """A block of a ResNet whose convolutions are packed: a few of them, and what they are added to."""

    def __init__(self, layers: list[PackedConvolution], shortcut: nn.Module) -> None:
        super().__init__()
        self.layers, self.shortcut = nn.Sequential(*layers), shortcut
        for layer in layers[:-1]:
            layer.rectified = True

    def forward(self, maps: Float[Tensor, "B _c _h _w"]) -> Float[Tensor, "B _C _H _W"]:
        """ReLU of the sum."""
        answer: Tensor = self.layers(maps)
        return answer.add_(self.shortcut(maps)).relu_()


def can_pack() -> bool:
    """Whether this torch has the operators."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def pack(network: nn.Module) -> None:
    """Replace the plain convolutions in a network of which batch norms were folded, and the ReLUs right behind them."""
    for block in list(network.modules()):
        for name, layer in block.named_children():
            if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                setattr(block, name, PackedConvolution(layer))
    for block in list(network.modules()):
        for name, layer in block.named_children():
            if isinstance(layer, BasicBlock | Bottleneck):
                setattr(block, name, _residual(layer))
        if isinstance(block, nn.Sequential):
            _rectify(block)


def _residual(block: BasicBlock | Bottleneck) -> nn.Module:
    layers = [layer for layer in block.children() if isinstance(layer, PackedConvolution)]
    return _Residual(layers, block.downsample or nn.Identity())


def _rectify(chain: nn.Sequential) -> None:
    """Let the convolutions of a chain do what ReLUs behind them did."""
    active = [name for name, layer in chain.named_children() if not isinstance(layer, nn.Identity)]
    for before, name in pairwise(active):
        layer = chain.get_submodule(before)
        if isinstance(layer, PackedConvolution) and isinstance(chain.get_submodule(name), nn.ReLU):
            layer.rectified = True
            setattr(chain, name, nn.Identity())

"""Convolutions for a processor: weights in oneDNN's own layout, and activations in the same pass.

torch keeps weights in a layout of its own and rearranges them at every call, and its activations read and write every
map once more. The operators used here are those that `torch.compile` puts into its programs for processors
(https://github.com/pytorch/pytorch/blob/main/torch/_inductor/fx_passes/mkldnn_fusion.py), without the minute
that compiling takes. A torch without them runs the plain layers.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

# What the operator calls activations, and the numbers it takes for them.
_ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.SiLU: ("swish", []),
}


class PackedConvolution(nn.Module):
    """A plain convolution on the processor, in the precision of its weights; `activation` comes after it."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.activation: type[nn.Module] | None = None
        self.bias = layer.bias
        self._weight = layer.weight.detach()
        self._shape = list(layer.padding), list(layer.stride), list(layer.dilation), layer.groups
        self._packed: dict[tuple[int, int], Tensor] = {}  # by height and width of the maps

    def forward(self, maps: Float[Tensor, "B _c _h _w"]) -> Float[Tensor, "B _C _H _W"]:
        """Return the result in the precision of the weights."""
        size = maps.shape[2], maps.shape[3]
        if size not in self._packed:
            reorder = torch.ops.mkldnn._reorder_convolution_weight
            self._packed[size] = reorder(self._weight, *self._shape, list(maps.shape))
        after, numbers = _ACTIVATIONS[self.activation] if self.activation else ("none", [])
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps.to(self._weight.dtype), self._packed[size], self.bias, *self._shape, after, numbers, ""
        )
        return result


class _Residual(nn.Module):
    """A block of a ResNet with packed convolutions."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        layers = [layer for layer in block.children() if isinstance(layer, PackedConvolution)]
        self.layers, self.shortcut = nn.Sequential(*layers), block.downsample or nn.Identity()
        for layer in layers[:-1]:
            layer.activation = nn.ReLU

    def forward(self, maps: Float[Tensor, "B _c _h _w"]) -> Float[Tensor, "B _C _H _W"]:
        """Return the ReLU of the sum of layers and shortcut."""
        result: Tensor = self.layers(maps)
        return result.add_(self.shortcut(maps)).relu_()


def can_pack() -> bool:
    """Return whether this torch has the operators."""
    names = ("_reorder_convolution_weight", "_convolution_pointwise")
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available) and all(hasattr(torch.ops.mkldnn, name) for name in names)


def pack(network: nn.Module) -> None:
    """Replace the plain convolutions of a network with folded batch norms, and the activations right after them."""
    for block in list(network.modules()):
        for name, layer in block.named_children():
            if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                setattr(block, name, PackedConvolution(layer))
    for block in list(network.modules()):
        for name, layer in block.named_children():
            if isinstance(layer, BasicBlock | Bottleneck):
                setattr(block, name, _Residual(layer))
        if isinstance(block, nn.Sequential):
            active = [name for name, layer in block.named_children() if not isinstance(layer, nn.Identity)]
            for before, name in pairwise(active):
                layer, activation = block.get_submodule(before), type(block.get_submodule(name))
                if isinstance(layer, PackedConvolution) and activation in _ACTIVATIONS:
                    layer.activation = activation
                    setattr(block, name, nn.Identity())

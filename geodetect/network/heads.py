"""The two heads, shared by all levels: a small tower of convolutions and one that answers.

Shapes: B pictures, C channels, h w cells of a level, A anchors of all levels, K numbers for each anchor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

_GROUPS = 32  # of channels, as in https://arxiv.org/abs/1803.08494, table 3
PRIOR = 0.01  # "every anchor should be labeled as foreground with confidence of ~pi. We use pi = .01"
_PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)


class Head(nn.Module):
    """What the network says of every anchor: `n_outputs` numbers.

    "Applies four 3x3 conv layers, each with C filters and each followed by ReLU activations, followed
    by a 3x3 conv layer with KA filters" (https://arxiv.org/abs/1708.02002, section 4). The towers of both
    heads have the same layout and do not share weights.

    Args:
        channels: of the pyramid's levels.
        per_cell: anchors at a cell.
        n_outputs: numbers for each anchor.
        bias: what the head answers at first.
        norm: follow every convolution of the tower by group norm, which is not in the paper but in torchvision's
            second RetinaNet: from random weights such towers learn much faster (see the benchmarks).
    """

    def __init__(self, channels: int, per_cell: int, n_outputs: int, *, bias: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        # torchvision's block, so that its trained towers load under the same names (conv.0.0.weight)
        layer = partial(nn.GroupNorm, _GROUPS) if norm else None
        self.conv = nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=layer) for _ in range(4)))
        self.out = nn.Conv2d(channels, per_cell * n_outputs, 3, padding=1)
        self.reset(bias)

    @torch.no_grad()
    def reset(self, bias: float) -> None:
        """Start anew: "initialized with bias b = 0 and a Gaussian weight fill with sigma = 0.01"."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(std=0.01)
                if layer.bias is not None:
                    layer.bias.zero_()
        self.out.weight.normal_(std=0.01)
        if self.out.bias is not None:
            self.out.bias.fill_(bias)

    @property
    def gives_prior(self) -> bool:
        """Whether the biases are still those of a class head that nothing was trained on."""
        bias = self.out.bias
        return bias is not None and bool((bias == bias.new_tensor(_PRIOR_LOGIT)).all())

    def forward(self, levels: Sequence[Float[Tensor, "B C _h _w"]]) -> Float[Tensor, "B A K"]:
        """Answers in the order of `anchors.anchors`: levels, rows, columns, shapes of a cell."""
        answers = [self.out(self.conv(level)) for level in levels]
        # Channels are (shape, number); cells before shapes is what the anchors' order asks for.
        return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.n_outputs) for x in answers], dim=1)


def class_head(channels: int, per_cell: int, n_classes: int, *, norm: bool = False) -> Head:
    """A head of one logit a class, which at first gives every class `PRIOR` everywhere.

    "Prevents the large number of background anchors from generating a large, destabilizing loss
    value in the first iteration of training" (section 4.1).
    """
    return Head(channels, per_cell, n_classes, bias=_PRIOR_LOGIT, norm=norm)


def box_head(channels: int, per_cell: int, *, norm: bool = False) -> Head:
    """A head of four deltas for each anchor, the same for all classes, near 0 at first."""
    return Head(channels, per_cell, 4, norm=norm)

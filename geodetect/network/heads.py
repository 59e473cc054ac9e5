"""The two heads, shared by all levels: a small tower of convolutions and one that answers.

Shapes: B pictures, C channels, h w cells of a level, A anchors of all levels, K numbers for each anchor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.utils.fusion import fuse_conv_bn_eval
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
        n_levels: of the pyramid.
        depth: number of convolutions before the last.
        bias: what the head answers at first.
        norm: what follows every convolution of the tower, which has nothing but ReLU in the paper: "batch" for batch
            norm with statistics of each level's own, "group" for group norm, which torchvision's second RetinaNet has,
            or None. From random weights towers with a norm learn much faster (see the benchmarks).
    """

    def __init__(
        self,
        channels: int,
        per_cell: int,
        n_outputs: int,
        *,
        n_levels: int = 5,
        depth: int = 4,
        bias: float = 0.0,
        norm: str | None = None,
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        # torchvision's block, so that its trained towers load under the same names (conv.0.0.weight)
        layer = partial(nn.GroupNorm, math.gcd(_GROUPS, channels)) if norm == "group" else None
        block = partial(Conv2dNormActivation, channels, channels, norm_layer=layer, bias=norm is None)
        self.conv = nn.Sequential(*(block() for _ in range(depth)))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(depth))
            for _ in range(n_levels if norm == "batch" else 0)
        )
        self.folded = nn.ModuleList()
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
        answers = [self.out(self._tower(number, level)) for number, level in enumerate(levels)]
        # Channels are (shape, number); cells before shapes is what the anchors' order asks for.
        return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.n_outputs) for x in answers], dim=1)

    def _tower(self, number: int, x: Float[Tensor, "B C _h _w"]) -> Float[Tensor, "B C _h _w"]:
        """The map of level `number`, counted from 0, after the convolutions before the last."""
        if self.folded:
            return self.folded[number](x)  # type: ignore[no-any-return]
        if not self.norms:
            return self.conv(x)  # type: ignore[no-any-return]
        for convolution, norm, rectify in self._layers(number):
            x = rectify(_normed(norm, convolution(x)))
        return x

    def _layers(self, number: int) -> Iterator[tuple[Any, Any, Any]]:
        """The convolutions of the tower, each with its norm at level `number` and the ReLU behind it."""
        for block, norm in zip(self.conv.children(), self.norms[number].children(), strict=True):
            convolution, rectify = block.children()
            yield convolution, norm, rectify

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Let convolutions do what the batch norms behind them did, with the statistics that each level has.

        There is a tower for each level then, which costs what one without norms costs; it is for evaluation alone.
        """
        self.eval()
        for number in range(len(self.norms)):
            layers = [(fuse_conv_bn_eval(conv, norm), rectify) for conv, norm, rectify in self._layers(number)]
            self.folded.append(nn.Sequential(*(layer for pair in layers for layer in pair)))
        if self.folded:
            self.conv, self.norms = nn.Sequential(), nn.ModuleList()


def _normed(norm: nn.BatchNorm2d | nn.SyncBatchNorm, x: Float[Tensor, "B C _h _w"]) -> Float[Tensor, "B C _h _w"]:
    """The map after batch norm; a single value has no deviation, and takes the running statistics."""
    if norm.training and x.numel() == x.shape[1] and not isinstance(norm, nn.SyncBatchNorm):
        return batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
    return norm(x)  # type: ignore[no-any-return]


def class_head(
    channels: int, per_cell: int, n_classes: int, *, n_levels: int = 5, depth: int = 4, norm: str | None = None
) -> Head:
    """A head of one logit a class, which at first gives every class `PRIOR` everywhere.

    "Prevents the large number of background anchors from generating a large, destabilizing loss
    value in the first iteration of training" (section 4.1).
    """
    return Head(channels, per_cell, n_classes, n_levels=n_levels, depth=depth, bias=_PRIOR_LOGIT, norm=norm)


def box_head(channels: int, per_cell: int, *, n_levels: int = 5, depth: int = 4, norm: str | None = None) -> Head:
    """A head of four deltas for each anchor, the same for all classes, near 0 at first."""
    return Head(channels, per_cell, 4, n_levels=n_levels, depth=depth, norm=norm)

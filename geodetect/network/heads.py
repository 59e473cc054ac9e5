"""The two heads, shared by all levels: a small tower of convolutions and an output convolution.

Shapes: B images, C channels, h w cells of a level, A anchors of all levels, K numbers for each anchor.
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

from geodetect.metadata import Architecture
from geodetect.network.coding import N_DELTAS, N_ORIENTED_DELTAS

_GROUPS = 32  # of channels, as in https://arxiv.org/abs/1803.08494, table 3
PRIOR = 0.01  # "every anchor should be labeled as foreground with confidence of ~pi. We use pi = .01"
_PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)


class Head(nn.Module):
    """A head: `n_outputs` numbers for every anchor.

    "Applies four 3x3 conv layers, each with C filters and each followed by ReLU activations, followed
    by a 3x3 conv layer with KA filters" (https://arxiv.org/abs/1708.02002, section 4). The towers of both
    heads have the same layout and do not share weights. The paper's have no norm; from random weights towers with one
    learn much faster (see the benchmarks).

    Args:
        architecture: its anchors, width, depth, and norm in the heads: "batch" for batch norm with statistics of each
            level's own, "group" for group norm, which torchvision's second RetinaNet has, or None.
        n_outputs: numbers for each anchor.
        bias: initial bias of the last convolution.
    """

    def __init__(self, architecture: Architecture, n_outputs: int, *, bias: float = 0.0) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        width, depth, norm = architecture.width, architecture.depth, architecture.head_norm
        # torchvision's block, so that its trained towers load under the same names (conv.0.0.weight)
        layer = partial(nn.GroupNorm, math.gcd(_GROUPS, width)) if norm == "group" else None
        block = partial(Conv2dNormActivation, width, width, norm_layer=layer, bias=norm is None)
        self.conv = nn.Sequential(*(block() for _ in range(depth)))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth))
            for _ in architecture.anchors.strides
            if norm == "batch"
        )
        self.folded = nn.ModuleList()
        self.out = nn.Conv2d(width, architecture.anchors.per_cell * n_outputs, 3, padding=1)
        self.reset(bias)

    @torch.no_grad()
    def reset(self, bias: float) -> None:
        """Set the initial weights: "initialized with bias b = 0 and a Gaussian weight fill with sigma = 0.01"."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(std=0.01)
                if layer.bias is not None:
                    layer.bias.zero_()
        self.out.weight.normal_(std=0.01)
        assert self.out.bias is not None
        self.out.bias.fill_(bias)

    @property
    def gives_prior(self) -> bool:
        """Whether the biases still have their initial values, as before any training."""
        assert self.out.bias is not None
        return bool((self.out.bias == torch.full_like(self.out.bias, _PRIOR_LOGIT)).all())

    def forward(self, levels: Sequence[Float[Tensor, "B C _h _w"]]) -> Float[Tensor, "B A K"]:
        """Return the outputs in the order of `anchors.make_anchors`: levels, rows, columns, shapes of a cell."""
        outputs = [self.out(self._tower(number, level)) for number, level in enumerate(levels)]
        # Channels are (shape, number); in the order of anchors cells come before shapes.
        return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.n_outputs) for x in outputs], dim=1)

    def _tower(self, number: int, x: Float[Tensor, "B C _h _w"]) -> Float[Tensor, "B C _h _w"]:
        """Return the map of level `number`, counted from 0, after all convolutions but the last."""
        if self.folded:
            return self.folded[number](x)  # type: ignore[no-any-return]
        if not self.norms:
            return self.conv(x)  # type: ignore[no-any-return]
        for convolution, norm, rectify in self._layers(number):
            x = convolution(x)
            if norm.training and x.numel() == x.shape[1] and not isinstance(norm, nn.SyncBatchNorm):
                # A single value has no deviation.
                x = batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
            else:
                x = norm(x)
            x = rectify(x)
        return x

    def _layers(self, number: int) -> Iterator[tuple[Any, Any, Any]]:
        """Yield the convolutions of the tower, each with its norm at level `number` and the ReLU after it."""
        for block, norm in zip(self.conv.children(), self.norms[number].children(), strict=True):
            convolution, rectify = block.children()
            yield convolution, norm, rectify

    @torch.no_grad()
    def fold_norms(self) -> None:
        """Fold the batch norms of each level into the convolutions before them.

        Each level has a tower of its own then, which costs as much as one without norms; it is for evaluation only.
        """
        self.eval()
        for number in range(len(self.norms)):
            layers = [(fuse_conv_bn_eval(conv, norm), rectify) for conv, norm, rectify in self._layers(number)]
            self.folded.append(nn.Sequential(*(layer for pair in layers for layer in pair)))
        if self.folded:
            self.conv, self.norms = nn.Sequential(), nn.ModuleList()


def make_class_head(architecture: Architecture, n_classes: int) -> Head:
    """Return a head of one logit a class, which at first gives every class `PRIOR` everywhere.

    "Prevents the large number of background anchors from generating a large, destabilizing loss
    value in the first iteration of training" (section 4.1).
    """
    return Head(architecture, n_classes, bias=_PRIOR_LOGIT)


def make_box_head(architecture: Architecture) -> Head:
    """Return a head of four deltas for each anchor, six if oriented, the same for all classes, near 0 at first."""
    return Head(architecture, N_ORIENTED_DELTAS if architecture.oriented else N_DELTAS)

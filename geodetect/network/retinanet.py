"""The network: pictures in, a logit for every anchor and class and four deltas for every anchor out.

Shapes: B pictures, C bands, H W pixels, A anchors, K classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geodetect.errors import ArgumentError
from geodetect.network import backbones
from geodetect.network.anchors import AnchorSpec, anchors, level_sizes
from geodetect.network.heads import box_head, class_head
from geodetect.network.pyramid import CHANNELS, Pyramid

_LEVELS = (3, 7)  # what the pyramid gives


class Network(nn.Module):
    """RetinaNet (https://arxiv.org/abs/1708.02002): backbone, pyramid, two heads; no loss and no decoding.

    Args:
        backbone: a name that `backbones.build` knows.
        n_classes: classes, background not counted.
        n_bands: bands of the pictures.
        spec: shapes of the anchors.
        weights: "imagenet" for the backbone, or None.

    Raises:
        ArgumentError: if a value is not possible.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        n_classes: int,
        n_bands: int = 3,
        spec: AnchorSpec | None = None,
        weights: str | None = "imagenet",
    ) -> None:
        super().__init__()
        self.spec = spec or AnchorSpec()
        if n_classes < 1:
            raise ArgumentError(f"a network needs at least 1 class; got n_classes={n_classes}")
        if self.spec.levels != _LEVELS:
            raise ArgumentError(f"the pyramid has levels {_LEVELS}; got anchors for levels {self.spec.levels}")
        self.backbone_name, self.n_classes, self.n_bands = backbone, n_classes, n_bands
        self.norm_eps: float | None = None
        self.backbone = backbones.build(backbone, n_bands, weights)
        self.pyramid = Pyramid(self.backbone.channels)
        self.class_head = class_head(CHANNELS, self.spec.per_cell, n_classes)
        self.box_head = box_head(CHANNELS, self.spec.per_cell)
        self._anchors: dict[tuple[tuple[int, int], torch.device], Tensor] = {}

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B A K"], Float[Tensor, "B A 4"]]:
        """Logits and deltas in the order of `anchors`, whether training or not.

        Args:
            pictures: standardised; H and W need not be multiples of a stride.
        """
        levels = self.pyramid(self.backbone(pictures))
        return self.class_head(levels), self.box_head(levels)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def anchors(self, shape: tuple[int, int]) -> Float[Tensor, "A 4"]:
        """The anchors of a picture (H, W), on the network's device; kept for the next of that shape."""
        key = (shape[0], shape[1]), self.device
        if key not in self._anchors:
            with torch.inference_mode(False):  # training may be the next to take them
                self._anchors[key] = anchors(self.spec, key[0], self.device)
        return self._anchors[key]

    def level_sizes(self, shape: tuple[int, int]) -> list[int]:
        """Number of anchors at each level of a picture (H, W), finest first."""
        return level_sizes(self.spec, shape)

    def set_norm_eps(self, eps: float | None) -> None:
        """Make every batch norm add `eps` to variances; None leaves them as they are.

        Weights fit the value they were trained with: torchvision's published RetinaNet used 0.
        """
        self.norm_eps = eps
        for layer in self.modules():
            if eps is not None and isinstance(layer, nn.BatchNorm2d):
                layer.eps = eps

"""The network: pictures in, a logit for every anchor and class and four deltas for every anchor out.

Shapes: B pictures, C bands, H W pixels, A anchors, K classes.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geodetect.anchors import AnchorSpec
from geodetect.errors import ArgumentError, check_whole
from geodetect.metadata import Architecture, known_norm
from geodetect.network import backbones
from geodetect.network.anchors import anchors, level_sizes
from geodetect.network.heads import box_head, class_head
from geodetect.network.pyramid import Pyramid

_COARSEST = 32  # pixels; stride of a backbone's last map


class Network(nn.Module):
    """RetinaNet (https://arxiv.org/abs/1708.02002): backbone, pyramid, two heads; no loss and no decoding.

    Args:
        backbone: a name that `backbones.build` knows.
        n_classes: classes, background not counted.
        n_bands: bands of the pictures.
        spec: shapes of the anchors.
        weights: "imagenet" for the backbone, or None.
        head_norm: "batch" or "group" norm in the heads, or None, as in the paper.
        width: channels of the pyramid and of the heads.
        depth: convolutions of a head before its last.

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
        head_norm: str | bool | None = None,
        width: int = Architecture.width,
        depth: int = Architecture.depth,
    ) -> None:
        super().__init__()
        self.spec = spec or AnchorSpec()
        if n_classes < 1:
            raise ArgumentError(f"a network needs at least 1 class; got n_classes={n_classes}")
        self.backbone_name, self.n_classes, self.n_bands = backbone, n_classes, n_bands
        self.norm_eps: float | None = None
        self.head_norm = known_norm(head_norm)
        self.width, self.depth = check_whole("width", width), check_whole("depth", depth)
        strides = [stride for stride in self.spec.strides if stride <= _COARSEST]
        self.backbone = backbones.build(backbone, n_bands, weights, strides=strides)
        self.pyramid = Pyramid(self.backbone.channels, width)
        n_levels = self.spec.levels[1] - self.spec.levels[0] + 1
        self.class_head = class_head(
            width, self.spec.per_cell, n_classes, n_levels=n_levels, depth=depth, norm=self.head_norm
        )
        self.box_head = box_head(width, self.spec.per_cell, n_levels=n_levels, depth=depth, norm=self.head_norm)
        self._anchors: dict[tuple[tuple[int, int], torch.device], Tensor] = {}

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B A K"], Float[Tensor, "B A 4"]]:
        """Logits and deltas in the order of `anchors`, whether training or not.

        Args:
            pictures: standardised; H and W need not be multiples of a stride.
        """
        levels = self.pyramid(self.backbone(pictures))
        return self.class_head(levels), self.box_head(levels)

    @property
    def architecture(self) -> Architecture:
        """What the network is built of."""
        return Architecture(
            self.backbone_name, self.spec, self.norm_eps, self.head_norm, width=self.width, depth=self.depth
        )

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
        """Make every batch norm of the backbone add `eps` to variances; None leaves them as they are.

        Weights fit the value they were trained with: torchvision's published RetinaNet used 0. Norms that add
        nothing are frozen, as they were there: a map that is the same all over a batch has no variance to divide by.
        """
        self.norm_eps = eps
        if eps is None:
            return
        for norm in self._norms():
            norm.eps = eps
            if not eps:
                norm.requires_grad_(False)

    def freeze_backbone(self, frozen: bool) -> None:
        """Keep the backbone's weights as they are in training, or train all but norms that add nothing to variances."""
        self.backbone.requires_grad_(not frozen)
        for norm in self._norms():
            norm.requires_grad_(norm.eps > 0 and not frozen)

    def fix_head_norms(self) -> None:
        """Keep the statistics of the heads' batch norms as they are, until the network is next set to train."""
        for head in (self.class_head, self.box_head):
            head.norms.eval()

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [layer for layer in self.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]

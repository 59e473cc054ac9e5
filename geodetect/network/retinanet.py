"""The network: images in, a logit for every anchor and class and the deltas of every anchor out.

Shapes: B images, C bands, H W pixels, A anchors, K classes, D numbers of a box (4, or 6 if oriented).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geodetect.errors import ArgumentError
from geodetect.metadata import Architecture
from geodetect.network import backbones
from geodetect.network.anchors import level_sizes, make_anchors
from geodetect.network.heads import make_box_head, make_class_head
from geodetect.network.pyramid import Pyramid

_COARSEST = 32  # pixels; stride of a backbone's last map


class Network(nn.Module):
    """RetinaNet (https://arxiv.org/abs/1708.02002): backbone, pyramid, two heads; no loss and no decoding.

    Args:
        architecture: what to build; the name of a backbone stands for the paper's architecture with that backbone.
        n_classes: number of classes, background not counted.
        n_bands: bands of the images.
        weights: "imagenet" for the backbone, or None.

    Raises:
        ArgumentError: if a value is not possible.
    """

    def __init__(
        self, architecture: Architecture | str, *, n_classes: int, n_bands: int = 3, weights: str | None = "imagenet"
    ) -> None:
        super().__init__()
        if n_classes < 1:
            raise ArgumentError(f"a network needs at least 1 class; got n_classes={n_classes}")
        if isinstance(architecture, str):
            architecture = Architecture(architecture)
        self.architecture, self.n_classes, self.n_bands = architecture, n_classes, n_bands
        strides = [stride for stride in architecture.anchors.strides if stride <= _COARSEST]
        self.backbone = backbones.build(architecture.backbone, n_bands, weights, strides=strides)
        self.pyramid = Pyramid(self.backbone.channels, architecture.width)
        self.class_head, self.box_head = make_class_head(architecture, n_classes), make_box_head(architecture)
        self._anchors: dict[tuple[tuple[int, int], torch.device], Tensor] = {}
        self.set_norm_eps(architecture.norm_eps)

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B A K"], Float[Tensor, "B A D"]]:
        """Return logits and deltas in the order of `anchors`; H and W need not be multiples of a stride."""
        levels = self.pyramid(self.backbone(images))
        return self.class_head(levels), self.box_head(levels)

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def anchors(self, shape: tuple[int, int]) -> Float[Tensor, "A 4"]:
        """Return the anchors of an image (H, W), on the network's device; cached."""
        key = (shape[0], shape[1]), self.device
        if key not in self._anchors:
            with torch.inference_mode(False):  # the next to use them may be training
                self._anchors[key] = make_anchors(self.architecture.anchors, key[0], self.device)
        return self._anchors[key]

    def level_sizes(self, shape: tuple[int, int]) -> list[int]:
        """Return the number of anchors at each level of an image (H, W), finest first."""
        return level_sizes(self.architecture.anchors, shape)

    def set_norm_eps(self, eps: float | None) -> None:
        """Set the eps of every batch norm in the backbone; None leaves them as they are.

        Weights fit the value they were trained with: torchvision's published RetinaNet used 0. Norms with eps 0
        are frozen, as they were there: a map that is constant over a batch has no variance to divide by.
        """
        self.architecture = replace(self.architecture, norm_eps=eps)
        if eps is None:
            return
        for norm in self._norms():
            norm.eps = eps
            if not eps:
                norm.requires_grad_(False)

    def freeze_backbone(self, frozen: bool, *, norms: bool = False) -> None:
        """Freeze the backbone's weights, or only those of its batch norms, or none but norms with eps 0.

        Frozen batch norms keep their running statistics in training.
        """
        self.backbone.requires_grad_(not frozen)
        for norm in self._norms():
            norm.requires_grad_(norm.eps > 0 and not (frozen or norms))

    def fix_head_norms(self) -> None:
        """Fix the statistics of the heads' batch norms until the network is next set to train."""
        for head in (self.class_head, self.box_head):
            head.norms.eval()

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [layer for layer in self.backbone.modules() if isinstance(layer, nn.BatchNorm2d)]

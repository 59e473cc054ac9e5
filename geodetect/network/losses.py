"""The loss of a batch: focal loss of the classes, smooth L1 or a measure of overlap of the boxes.

Shapes: B images, A anchors, K classes, M boxes of an image with padding, N positive anchors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import sigmoid_focal_loss

from geodetect.network.coding import decode, encode
from geodetect.network.matching import IGNORED, match_anchors
from geodetect.network.oriented import N_ORIENTED, probiou_loss
from geodetect.network.oriented import encode as encode_oriented

_TINY = 1e-7  # keeps the area of nothing from dividing by 0


@dataclass(frozen=True)
class Loss:
    """The loss of RetinaNet.

    Args:
        box_weight: factor on the box loss.
        focal_alpha: weight of positives in the focal loss; negatives weigh 1 - focal_alpha.
        focal_gamma: how fast well-classified anchors lose weight.
        giou: let the box loss be 1 - generalised IoU (https://arxiv.org/abs/1902.09630), 0 to 2 for each positive
            anchor, where the paper has smooth L1; for oriented boxes the distance of ProbIoU
            (https://arxiv.org/abs/2106.06072), 0 to 1, with smooth L1 of the angle beside it.
    """

    box_weight: float = 1.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    giou: bool = False

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Loss:
        """Return the loss that `to_json` described; other facts are ignored."""
        return cls(**{each.name: facts[each.name] for each in fields(cls) if each.name in facts})

    def to_json(self) -> dict[str, Any]:
        """Return the values that are not the paper's."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Loss, name)}

    def __call__(
        self,
        logits: Float[Tensor, "B A K"],
        deltas: Float[Tensor, "B A _d"],
        anchors: Float[Tensor, "A 4"],
        boxes: Float[Tensor, "B M _n"],
        labels: Int[Tensor, "B M"],
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Return focal loss and weighted box loss of a batch, whose sum is the training loss; always float32.

        "The total focal loss of an image is computed as the sum of the focal loss over all ~100k anchors,
        normalized by the number of anchors assigned to a ground-truth box" (https://arxiv.org/abs/1708.02002,
        section 4.1); here both losses are summed and normalised over the batch, so that an empty chip
        weighs no more than its false alarms.

        Args:
            logits: outputs of the network.
            deltas: outputs of the network.
            anchors: anchors of these images.
            boxes: true boxes, with angles (B, M, 5) if deltas are (B, A, 6); M may be 0.
            labels: class indices from 0, -1 for padding.
        """
        target = match_anchors(anchors, boxes, labels)
        image, anchor = (target >= 0).nonzero(as_tuple=True)
        truth = target[image, anchor]
        classes = logits.new_zeros(logits.shape, dtype=anchors.dtype)
        classes[image, anchor, labels[image, truth]] = 1
        focal = sigmoid_focal_loss(logits.float(), classes, alpha=self.focal_alpha, gamma=self.focal_gamma).sum(dim=2)
        moves, positive, true = deltas[image, anchor].float(), anchors[anchor], boxes[image, truth].to(anchors)
        if boxes.shape[2] == N_ORIENTED:
            box = self._oriented(moves, positive, true)
        elif self.giou:
            box = _giou_loss(decode(positive, moves), true).sum()
        else:
            box = smooth_l1_loss(moves, encode(positive, true), beta=1.0, reduction="sum")
        n_positive = max(1, len(anchor))
        return focal.masked_fill(target == IGNORED, 0).sum() / n_positive, self.box_weight * box / n_positive

    def _oriented(
        self, deltas: Float[Tensor, "N 6"], anchors: Float[Tensor, "N 4"], boxes: Float[Tensor, "N 5"]
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses of oriented boxes.

        The angle weighs 1 - (shorter / longer side)^2: a square has none, and the pair of one may be anything. Where
        the Gaussians are compared it counts as well: one with a pair of (0, 0) and equal sides has no gradient.
        """
        each = smooth_l1_loss(deltas, encode_oriented(anchors, boxes), beta=1.0, reduction="none")
        longer, shorter = (boxes[:, 2:4] - boxes[:, :2]).unbind(dim=1)
        elongation = 1 - (shorter / longer).square()
        rest = probiou_loss(anchors, deltas, boxes) if self.giou else each[:, :4].sum(dim=1)
        return (rest + elongation * each[:, 4:].sum(dim=1)).sum()


def _giou_loss(boxes: Float[Tensor, "N 4"], true: Float[Tensor, "N 4"]) -> Float[Tensor, "N"]:
    """Return 1 - generalised IoU of each pair, as torchvision's loss, whose masks wait for the device."""
    size, true_size, overlap, hull = (
        high - low
        for low, high in (
            (boxes[:, :2], boxes[:, 2:]),
            (true[:, :2], true[:, 2:]),
            (torch.maximum(boxes[:, :2], true[:, :2]), torch.minimum(boxes[:, 2:], true[:, 2:])),
            (torch.minimum(boxes[:, :2], true[:, :2]), torch.maximum(boxes[:, 2:], true[:, 2:])),
        )
    )
    shared, around = overlap[:, 0].clamp(min=0) * overlap[:, 1].clamp(min=0), hull[:, 0] * hull[:, 1]
    union = size[:, 0] * size[:, 1] + true_size[:, 0] * true_size[:, 1] - shared
    return 1 - shared / (union + _TINY) + (around - union) / (around + _TINY)

"""The loss of a batch: focal loss of the classes, smooth L1 or generalised IoU of the boxes.

Shapes: B pictures, A anchors, K classes, M boxes of a picture with padding, N positive anchors.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from geodetect.network.coding import decode, encode
from geodetect.network.matching import IGNORED, match


def loss(
    logits: Float[Tensor, "B A K"],
    deltas: Float[Tensor, "B A 4"],
    anchors: Float[Tensor, "A 4"],
    boxes: Float[Tensor, "B M 4"],
    labels: Int[Tensor, "B M"],
    *,
    box_weight: float = 1.0,
    alpha: float = 0.25,
    gamma: float = 2.0,
    giou: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Focal loss and weighted box loss of a batch; the training loss is their sum.

    "The total focal loss of an image is computed as the sum of the focal loss over all ~100k anchors,
    normalized by the number of anchors assigned to a ground-truth box" (https://arxiv.org/abs/1708.02002,
    section 4.1); here both losses are summed and normalised over the batch, so that an empty chip
    weighs no more than its false alarms. In float32 whatever the network's precision is.

    Args:
        logits: what the network gives.
        deltas: what the network gives.
        anchors: of these pictures.
        boxes: true boxes; M may be 0.
        labels: class indices from 0, -1 for padding.
        box_weight: factor on the box loss.
        alpha: weight of positives in the focal loss; negatives weigh 1 - alpha.
        gamma: how fast well-classified anchors lose weight.
        giou: let the box loss be 1 - generalised IoU (https://arxiv.org/abs/1902.09630), 0 to 2 for each positive
            anchor, where the paper has smooth L1.
    """
    target = match(anchors, boxes, labels)
    picture, anchor = (target >= 0).nonzero(as_tuple=True)
    truth = target[picture, anchor]
    classes = logits.new_zeros(logits.shape, dtype=anchors.dtype)
    classes[picture, anchor, labels[picture, truth]] = 1
    focal = sigmoid_focal_loss(logits.float(), classes, alpha=alpha, gamma=gamma).sum(dim=2)
    box = _box_loss(deltas[picture, anchor].float(), anchors[anchor], boxes[picture, truth].to(anchors), giou=giou)
    n_positive = max(1, len(anchor))
    return focal[target != IGNORED].sum() / n_positive, box_weight * box / n_positive


def _box_loss(
    deltas: Float[Tensor, "N 4"], anchors: Float[Tensor, "N 4"], boxes: Float[Tensor, "N 4"], *, giou: bool
) -> Float[Tensor, ""]:
    """The sum over positive anchors of how far what they say is from their boxes."""
    if giou:
        off: Tensor = generalized_box_iou_loss(decode(anchors, deltas), boxes, reduction="sum")
        return off
    return smooth_l1_loss(deltas, encode(anchors, boxes), beta=1.0, reduction="sum")

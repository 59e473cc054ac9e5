"""Between boxes in pixels and what the network says about its anchors: the only door.

Shapes: B pictures, A anchors, K classes, N boxes, P candidates of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import batched_nms

from geodetect.boxes import Boxes

_MAX_LOG_SIDE = math.log(1000 / 16)  # torchvision's `bbox_xform_clip`: exp of a wild delta must stay finite
_MAX_PER_LEVEL = 1000  # "at most 1k top-scoring predictions per FPN level" (arXiv:1708.02002, section 4.1)
_NOT_A_CANDIDATE = -1.0  # below every score


def encode(anchors: Float[Tensor, "*N 4"], boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Deltas (dx, dy, dw, dh) that move each anchor onto its box; `decode` undoes it.

    The parameters of R-CNN (https://arxiv.org/abs/1311.2524, appendix C): centres in units of
    the anchor's sides, sides as logarithms of their ratio.

    Args:
        anchors: with sides above 0.
        boxes: with sides above 0, one for each anchor.
    """
    centres, sides = _centres_and_sides(anchors)
    box_centres, box_sides = _centres_and_sides(boxes)
    return torch.cat([(box_centres - centres) / sides, (box_sides / sides).log()], dim=-1)


def decode(anchors: Float[Tensor, "*N 4"], deltas: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Boxes that the deltas move the anchors to, no side above 62.5 times the anchor's.

    Width and height come from dw and dh alone; `encode` says what the deltas mean.
    """
    centres, sides = _centres_and_sides(anchors)
    box_centres = centres + deltas[..., :2] * sides
    half_sides = deltas[..., 2:].clamp(max=_MAX_LOG_SIDE).exp() * sides / 2
    return torch.cat([box_centres - half_sides, box_centres + half_sides], dim=-1)


def _centres_and_sides(boxes: Float[Tensor, "*N 4"]) -> tuple[Float[Tensor, "*N 2"], Float[Tensor, "*N 2"]]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides


def decode_batch(
    logits: Float[Tensor, "B A K"],
    deltas: Float[Tensor, "B A 4"],
    anchors: Float[Tensor, "A 4"],
    shape: tuple[int, int],
    *,
    level_sizes: Sequence[int],
    min_score: float | Float[Tensor, " K"] = 0.05,
    nms_iou: float = 0.5,
) -> list[Boxes]:
    """Detections of each picture, best first, after non-maximum suppression within each class.

    At most 1,000 candidates of a level are decoded, as in the paper; what is left after suppression
    is not capped, since a chip of palms holds more than 100.

    Args:
        logits: what the network gives, before the sigmoid.
        deltas: what the network gives.
        anchors: of these pictures.
        shape: (H, W) that boxes are clipped to; may be smaller than the picture, which then was padded.
        level_sizes: number of anchors at each level; they sum to A.
        min_score: lowest score of a candidate, for all classes or for each.
        nms_iou: overlap above which the worse of two boxes of a class goes.

    Returns:
        one `Boxes` a picture, empty where nothing was found.
    """
    scores, picture, anchor, label = _candidates(logits, level_sizes, min_score)
    boxes = _clip(decode(anchors[anchor], deltas[picture, anchor].float()), shape)
    real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # wholly outside, or not a number
    boxes, scores, picture, label = (x[real] for x in (boxes, scores, picture, label))
    # float64, since batched_nms moves every group by as much as the largest coordinate, which float32 would blur
    kept = batched_nms(boxes.double(), scores.double(), picture * logits.shape[2] + label, nms_iou)
    return _by_picture(boxes[kept], scores[kept], picture[kept], label[kept], n_pictures=len(logits))


def _candidates(
    logits: Float[Tensor, "B A K"], level_sizes: Sequence[int], min_score: float | Float[Tensor, " K"]
) -> tuple[Float[Tensor, " P"], Int[Tensor, " P"], Int[Tensor, " P"], Int[Tensor, " P"]]:
    """Scores, pictures, anchors and labels of the best predictions of each level that reach `min_score`."""
    n_classes = logits.shape[2]
    scores = logits.float().sigmoid()
    scores = torch.where(scores >= min_score, scores, _NOT_A_CANDIDATE)  # `>=` is False for NaN too
    best, places, first = [], [], 0
    for level in torch.split(scores, list(level_sizes), dim=1):
        top = level.flatten(1).topk(min(_MAX_PER_LEVEL, level.shape[1] * n_classes))
        best.append(top.values)
        places.append(top.indices + first * n_classes)
        first += level.shape[1]
    found, place = torch.cat(best, dim=1), torch.cat(places, dim=1)
    picture, rank = torch.nonzero(found > _NOT_A_CANDIDATE, as_tuple=True)
    place = place[picture, rank]
    return found[picture, rank], picture, place // n_classes, place % n_classes


def _clip(boxes: Float[Tensor, "N 4"], shape: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """The parts of the boxes inside a picture (H, W)."""
    limits = boxes.new_tensor([shape[1], shape[0], shape[1], shape[0]])
    return boxes.clamp(min=0).minimum(limits)


def _by_picture(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, " N"],
    picture: Int[Tensor, " N"],
    label: Int[Tensor, " N"],
    *,
    n_pictures: int,
) -> list[Boxes]:
    """One `Boxes` for each picture, best first, on the CPU."""
    xyxy, score, where, what = (x.cpu().numpy() for x in (boxes, scores, picture, label))
    found = [Boxes(xyxy[where == i], what[where == i], score[where == i]) for i in range(n_pictures)]
    return [part[part.ranked()] for part in found]

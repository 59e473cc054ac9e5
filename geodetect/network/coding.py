"""Between boxes in pixels and what the network says about its anchors: the only door.

Shapes: B pictures, A anchors, K classes, N boxes, P candidates of a picture.
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
_NEARLY_CERTAIN = 1 - 1e-6  # a score whose logit is finite; that of 1 is not
_MARGIN = 0.05  # between a floor as a logit and as a score, for the rounding of bf16; scores decide


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
    found = candidates(logits, deltas, anchors, shape, level_sizes=level_sizes, min_score=min_score)
    return suppressed(found.cpu(), nms_iou)


def candidates(
    logits: Float[Tensor, "B A K"],
    deltas: Float[Tensor, "B A 4"],
    anchors: Float[Tensor, "A 4"],
    shape: tuple[int, int],
    *,
    level_sizes: Sequence[int],
    min_score: float | Float[Tensor, " K"] = 0.05,
) -> Float[Tensor, "B P 6"]:
    """The best predictions of each level as boxes, before suppression: x1, y1, x2, y2, score, label.

    As many for every picture, whatever was found: nothing here depends on values, so a device is never waited for.
    What is no candidate has a score below 0. The arguments are those of `decode_batch`.
    """
    floors = torch.as_tensor(min_score, dtype=torch.float32, device=logits.device).expand(logits.shape[2])
    best, anchor, label = _best(logits, level_sizes, floors)
    moves = deltas.gather(1, anchor[..., None].expand(-1, -1, 4)).float()
    boxes = _clip(decode(anchors[anchor], moves), shape)
    scores = best.float().sigmoid()
    real = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1) & (best > -math.inf)  # not outside, not what is no number
    scores = scores.where(real & (scores >= floors[label]), _NOT_A_CANDIDATE)
    return torch.cat([boxes, scores[..., None], label[..., None].to(boxes.dtype)], dim=-1)


def _best(
    logits: Float[Tensor, "B A K"], level_sizes: Sequence[int], floors: Float[Tensor, " K"]
) -> tuple[Float[Tensor, "B P"], Int[Tensor, "B P"], Int[Tensor, "B P"]]:
    """Logits, anchors and labels of the best predictions of each level that reach the floors; -inf where too few do."""
    lowest = (torch.logit(floors.clamp(max=_NEARLY_CERTAIN)) - _MARGIN).to(logits.dtype)
    able = torch.where(logits >= lowest, logits, -math.inf)  # `>=` is False for what is no number too
    levels = torch.split(able, list(level_sizes), dim=1)
    found = [_best_of_level(level) for level in levels]
    best, places, label = zip(*found, strict=True)
    anchor = [level + sum(level_sizes[:i]) for i, level in enumerate(places)]
    return torch.cat(best, dim=1), torch.cat(anchor, dim=1), torch.cat(label, dim=1)


def _best_of_level(
    logits: Float[Tensor, "B _n K"],
) -> tuple[Float[Tensor, "B _p"], Int[Tensor, "B _p"], Int[Tensor, "B _p"]]:
    """Logits, anchors and labels of at most 1,000 predictions.

    First the anchors with the best classes: each of the best predictions is on one of those. With many classes
    that leaves little to sort.
    """
    n_anchors, n_classes = logits.shape[1:]
    some = logits.amax(dim=2).topk(min(_MAX_PER_LEVEL, n_anchors)).indices
    of_some = logits.gather(1, some[..., None].expand(-1, -1, n_classes)).flatten(1)
    top = of_some.topk(min(_MAX_PER_LEVEL, of_some.shape[1]))
    return top.values, some.gather(1, top.indices // n_classes), top.indices % n_classes


def _clip(boxes: Float[Tensor, "*N 4"], shape: tuple[int, int]) -> Float[Tensor, "*N 4"]:
    """The parts of the boxes inside a picture (H, W)."""
    x, y = boxes[..., 0::2].clamp(0, shape[1]), boxes[..., 1::2].clamp(0, shape[0])
    return torch.stack([x, y], dim=-1).flatten(-2)


def suppressed(found: Float[Tensor, "B P 6"], nms_iou: float) -> list[Boxes]:
    """One `Boxes` for each picture, best first, after non-maximum suppression within each class.

    Args:
        found: what `candidates` gives, on the CPU.
        nms_iou: overlap above which the worse of two boxes of a class goes.
    """
    picture, place = torch.nonzero(found[..., 4] >= 0, as_tuple=True)
    # float64, since batched_nms moves every group by as much as the largest coordinate, which float32 would blur
    rows = found[picture, place].double()
    boxes, scores, label = rows[:, :4], rows[:, 4], rows[:, 5].long()
    kept = batched_nms(boxes, scores, picture * (label.max() + 1 if len(label) else 1) + label, nms_iou)
    kept = kept[picture[kept].argsort(stable=True)]
    everything = Boxes(boxes[kept].numpy(), label[kept].numpy(), scores[kept].numpy())
    ends = torch.bincount(picture[kept], minlength=len(found)).cumsum(0).tolist()
    parts = [everything[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [part[part.rank()] for part in parts]

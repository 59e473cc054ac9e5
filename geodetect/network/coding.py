"""Boxes in pixels to the deltas of anchors, and the network's outputs to boxes in pixels.

Shapes: B images, A anchors, K classes, N boxes, P candidates of an image, D numbers of a box (4, or 6 if oriented),
R numbers of a candidate (6, or 7 if oriented).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from geodetect.boxes import Boxes, nms_in_groups, stable_order
from geodetect.metadata import topk_candidates
from geodetect.network import oriented

N_DELTAS, N_ORIENTED_DELTAS = 4, 6  # numbers of an upright and of an oriented box
_N_ORIENTED_ROW = 7  # of a candidate: an oriented box, score, label
_NOT_A_CANDIDATE = -1.0  # below every score
_NEARLY_CERTAIN = 1 - 1e-6  # a score whose logit is finite; that of 1 is not
_TOGETHER = 128  # boxes of several labels that are suppressed in one call, which costs as much as 100 boxes
_MARGIN = 0.05  # by which logits may miss the threshold, as bf16 rounds them; scores decide


def encode(anchors: Float[Tensor, "*N 4"], boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Return the deltas (dx, dy, dw, dh) that move each anchor onto its box; `decode` undoes it.

    The parameters of R-CNN (https://arxiv.org/abs/1311.2524, appendix C): offsets of the centre in units of
    the anchor's sides, and logarithms of the ratios of the sides, which must be above 0.
    """
    centres, sides = _centres_and_sides(anchors)
    box_centres, box_sides = _centres_and_sides(boxes)
    return torch.cat([(box_centres - centres) / sides, (box_sides / sides).log()], dim=-1)


def decode(anchors: Float[Tensor, "*N 4"], deltas: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 4"]:
    """Return the boxes that the deltas of `encode` move the anchors to, no side above 62.5 times the anchor's."""
    centres, sides = _centres_and_sides(anchors)
    box_centres = centres + deltas[..., :2] * sides
    half_sides = deltas[..., 2:].clamp(max=oriented.MAX_LOG_SIDE).exp() * sides / 2
    return torch.cat([box_centres - half_sides, box_centres + half_sides], dim=-1)


def _centres_and_sides(boxes: Float[Tensor, "*N 4"]) -> tuple[Float[Tensor, "*N 2"], Float[Tensor, "*N 2"]]:
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides


def select_candidates(
    logits: Float[Tensor, "B A K"],
    deltas: Float[Tensor, "B A D"],
    anchors: Float[Tensor, "A 4"],
    shape: tuple[int, int],
    *,
    level_sizes: Sequence[int],
    min_score: float | Float[Tensor, " K"] = 0.05,
) -> Float[Tensor, "B P R"]:
    """Return the best predictions of each level as boxes, before suppression: x1, y1, x2, y2, score, label.

    Oriented boxes have their angle before the score, and are not clipped: those with their centre in the image count.

    At most `topk_candidates(shape)` predictions of a level are decoded. They are on the anchors with the best classes,
    which are chosen first: that leaves little to sort with many classes. Every image gets the same number of rows,
    whatever the values, so the device need not be waited for. Rows that are no candidate have a score below 0, and
    those where the network gave NaN have a score of NaN: such rows come first.

    Args:
        logits: outputs of the network, before the sigmoid.
        deltas: outputs of the network.
        anchors: anchors of these images.
        shape: (H, W) that boxes are clipped to; smaller than the images if they were padded.
        level_sizes: number of anchors at each level; they sum to A.
        min_score: lowest score of a candidate, for all classes or for each.
    """
    lowest = torch.zeros(logits.shape[2], device=logits.device) + min_score
    floors = (torch.logit(lowest.clamp(max=_NEARLY_CERTAIN)) - _MARGIN).to(logits.dtype)
    able = torch.where(logits < floors, -math.inf, logits)  # NaN stays, and is the largest to `amax` and `topk`
    n_classes, most, first, levels = logits.shape[2], topk_candidates(shape), 0, []
    for level in torch.split(able, list(level_sizes), dim=1):
        places = level.amax(dim=2).topk(min(most, level.shape[1])).indices
        of_these = level.gather(1, places[..., None].expand(-1, -1, n_classes)).flatten(1)
        top = of_these.topk(min(most, of_these.shape[1]))
        levels.append((top.values, first + places.gather(1, top.indices // n_classes), top.indices % n_classes))
        first += level.shape[1]
    logit, anchor, label = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    moves = deltas.gather(1, anchor[..., None].expand(-1, -1, deltas.shape[2])).float()
    if moves.shape[2] == N_DELTAS:
        corners = decode(anchors[anchor], moves)
        x, y = corners[..., 0::2].clamp(0, shape[1]), corners[..., 1::2].clamp(0, shape[0])
        boxes = torch.stack([x, y], dim=-1).flatten(-2)
        is_inside = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
    else:
        boxes = oriented.decode(anchors[anchor], moves)
        is_inside = oriented.are_inside(boxes, shape)
    scores = logit.float().sigmoid()
    is_real = is_inside & (logit > -math.inf)
    scores = scores.where(is_real & (scores >= lowest[label]), _NOT_A_CANDIDATE)
    scores = scores.where(~(logit.isnan() | moves.isnan().any(dim=-1)), math.nan)
    return torch.cat([boxes, scores[..., None], label[..., None].to(boxes.dtype)], dim=-1)


def suppress(found: Float[Tensor, "B P R"], nms_iou: float) -> list[Boxes]:
    """Return the boxes of each image after non-maximum suppression within each class, highest score first.

    Takes the result of `select_candidates` on the CPU. The number of boxes is not limited, since a chip of palms holds
    more than 100.
    """
    places = np.flatnonzero(found[..., -2].numpy() >= 0)
    # float64, as groups of boxes are moved apart, which would blur float32
    rows = found.flatten(0, 1).numpy()[places].astype(float)
    image = places // max(found.shape[1], 1)
    angles = rows[:, 4] if rows.shape[1] == _N_ORIENTED_ROW else None
    every = Boxes(rows[:, :4], rows[:, -1], rows[:, -2], angles)
    kept = nms_in_groups(every, image, nms_iou) if every.oriented else _suppress_upright(every, image, nms_iou)
    every = every[kept]
    ends = np.bincount(image[kept], minlength=len(found)).cumsum().tolist()
    return [every[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _suppress_upright(boxes: Boxes, image: Int[np.ndarray, "N"], nms_iou: float) -> Int[np.ndarray, "K"]:
    """Return what `nms_in_groups` does, faster for boxes of many images that do not crowd one.

    The time of torchvision's `nms` grows with the square of the number of boxes, and `batched_nms` calls it for each
    class of each image. Here those with few boxes share a call, moved apart as there.
    """
    assert boxes.scores is not None
    group = image * (boxes.labels.max(initial=0) + 1) + boxes.labels
    order = stable_order(group)
    begins = np.flatnonzero(np.diff(group[order], prepend=-1))
    number = np.repeat(np.arange(len(begins)), np.diff(begins, append=len(order)))  # of each group that occurs
    shift = number % _TOGETHER * (boxes.xyxy.max(initial=0) + 1)
    xyxy, scores = torch.from_numpy(boxes.xyxy[order] + shift[:, None]), torch.from_numpy(boxes.scores[order])
    ends, kept, start = [*begins[1:].tolist(), len(order)], [np.zeros(0, int)], 0
    while start < len(order):
        # As many whole groups as there is room for, and at least one.
        stop = ends[max(bisect_right(ends, start), bisect_right(ends, start + _TOGETHER) - 1)]
        kept.append(start + torchvision_nms(xyxy[start:stop], scores[start:stop], nms_iou).numpy())
        start = stop
    found = order[np.concatenate(kept)]
    found = found[boxes[found].rank()]
    return np.asarray(found[stable_order(image[found])])

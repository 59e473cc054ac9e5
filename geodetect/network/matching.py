"""Which anchor learns which label.

Shapes: B pictures, A anchors, M boxes of a picture with padding, U labels that lost their best anchor.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BACKGROUND, IGNORED = -1, -2

_POSITIVE_IOU, _BACKGROUND_IOU = 0.5, 0.4  # arXiv:1708.02002, section 4, "Anchors"
_CHUNK, _CHUNK_ON_GPU = 1 << 22, 1 << 24  # overlaps at once: what a processor's cache holds, what keeps a GPU busy


@torch.no_grad()
def match(
    anchors: Float[Tensor, "A 4"], boxes: Float[Tensor, "B M 4"], labels: Int[Tensor, "B M"]
) -> Int[Tensor, "B A"]:
    """For every anchor the index of the box it learns, or `BACKGROUND`, or `IGNORED`.

    An anchor learns the box it overlaps most if that is by an IoU of 0.5 or more, is background below
    0.4 and is ignored between. Whatever the IoU, every box keeps the anchors that overlap it most
    (all of a tie) unless another box overlaps them more; a box that so loses all of them gets the best
    anchor that no box keeps. A box that overlaps no anchor gets none.

    Args:
        anchors: with sides above 0.
        boxes: those without area, or not finite, count as padding; M may be 0.
        labels: -1 for padding.
    """
    if not boxes.shape[1]:
        return labels.new_full((len(boxes), len(anchors)), BACKGROUND)
    boxes = _without_padding(boxes.to(anchors), labels)
    overlap, box, most = _best(anchors, boxes)
    target = torch.where(overlap >= _POSITIVE_IOU, box, IGNORED)
    target = torch.where(overlap < _BACKGROUND_IOU, BACKGROUND, target)
    kept = (overlap > 0) & (overlap == most.gather(1, box))
    target = torch.where(kept, box, target)
    content = torch.zeros_like(most, dtype=torch.int8).scatter_reduce(1, box, kept.to(torch.int8), reduce="amax")
    losers = ((most > 0) & (content == 0)).nonzero()
    if len(losers):
        picture, anchor, loser = _best_free(anchors, boxes, losers, kept)
        target[picture, anchor] = loser
    return target


def _without_padding(boxes: Float[Tensor, "B M 4"], labels: Int[Tensor, "B M"]) -> Float[Tensor, "B M 4"]:
    """The boxes, with (0, 0, 0, 0), which overlaps nothing, in place of what no anchor can learn."""
    real = (labels >= 0) & boxes.isfinite().all(dim=2) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
    return torch.where(real[..., None], boxes, 0)


def _best(
    anchors: Float[Tensor, "A 4"], boxes: Float[Tensor, "B M 4"]
) -> tuple[Float[Tensor, "B A"], Int[Tensor, "B A"], Float[Tensor, "B M"]]:
    """The best IoU of every anchor, the box it is with, and the best IoU of every box.

    The matrix of all overlaps (1.6 GB for 8 pictures of 1,000 boxes) never exists whole.
    """
    chunk = _CHUNK if anchors.device.type == "cpu" else _CHUNK_ON_GPU
    overlaps, indices, most = [], [], torch.zeros_like(boxes[..., 0])
    for part in torch.split(anchors, max(1, chunk // boxes[..., 0].numel())):
        iou = _iou(boxes, part)
        best = iou.max(dim=1)
        overlaps.append(best.values)
        indices.append(best.indices)
        most = most.maximum(iou.amax(dim=2))
    return torch.cat(overlaps, dim=1), torch.cat(indices, dim=1), most


def _iou(boxes: Float[Tensor, "*N 4"], anchors: Float[Tensor, "A 4"]) -> Float[Tensor, "*N A"]:
    """IoU of every box with every anchor, worked out in place: memory is what takes the time."""
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)
    left, upper, right, lower = anchors.T.contiguous()
    shared = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    shared *= torch.minimum(y2, lower).sub_(torch.maximum(y1, upper)).clamp_(min=0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (lower - upper)
    return shared.div_(union.sub_(shared))


def _best_free(
    anchors: Float[Tensor, "A 4"], boxes: Float[Tensor, "B M 4"], losers: Int[Tensor, "U 2"], kept: Bool[Tensor, "B A"]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"], Int[Tensor, " N"]]:
    """For boxes (picture, index) without an anchor, the best that is free: pictures, anchors, indices.

    Where two want the same, the one with more overlap has it (the first of equals) and the other looks on,
    which is deferred acceptance: nobody is left who wants an anchor more than the one who has it.
    """
    picture, box = losers.unbind(dim=1)
    overlap, choices = _choices(anchors, boxes, losers, kept)
    turn = torch.zeros_like(picture)
    while True:
        worth = overlap.gather(1, turn[:, None]).squeeze(1)
        anchor = choices.gather(1, turn[:, None]).squeeze(1)
        wins = _first_of_equals(picture * len(anchors) + anchor, worth)
        looks_on = ~wins & (worth > 0) & (turn + 1 < choices.shape[1])
        if not looks_on.any():
            wins &= worth > 0
            return picture[wins], anchor[wins], box[wins]
        turn += looks_on


def _choices(
    anchors: Float[Tensor, "A 4"], boxes: Float[Tensor, "B M 4"], losers: Int[Tensor, "U 2"], kept: Bool[Tensor, "B A"]
) -> tuple[Float[Tensor, "U C"], Int[Tensor, "U C"]]:
    """IoU and index of the free anchors that each loser overlaps most, best first, equals by index.

    As many as there are losers in a picture: no more than the others can be taken.
    """
    n_choices = min(len(anchors), int(losers[:, 0].bincount().max()))
    number, best = torch.arange(len(anchors), device=anchors.device), []
    for picture, box in (part.unbind(dim=1) for part in torch.split(losers, max(1, _CHUNK_ON_GPU // len(anchors)))):
        free = _iou(boxes[picture, box], anchors).masked_fill_(kept[picture], 0)
        # topk leaves the order of equals open; as integers the bits of positive floats keep their order, with room for
        # the anchor's number below them.
        ranked = free.view(torch.int32).long() * len(anchors) - number
        indices = ranked.topk(n_choices, dim=1).indices
        best.append((free.gather(1, indices), indices))
    overlaps, choices = zip(*best, strict=True)
    return torch.cat(overlaps), torch.cat(choices)


def _first_of_equals(key: Int[Tensor, " U"], worth: Float[Tensor, " U"]) -> Bool[Tensor, " U"]:
    """True for the one of highest worth among all with the same key, the first of ties."""
    order = worth.argsort(descending=True, stable=True)
    order = order[key[order].argsort(stable=True)]
    first = torch.ones_like(key, dtype=torch.bool)
    first[order[1:]] = key[order[1:]] != key[order[:-1]]
    return first

"""Assignment of anchors to labels.

Shapes: B images, A anchors, M boxes of an image with padding, U boxes that lost their best anchor.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from geodetect.network.oriented import N_ORIENTED, hulls

BACKGROUND, IGNORED = -1, -2

_POSITIVE_IOU, _BACKGROUND_IOU = 0.5, 0.4  # arXiv:1708.02002, section 4, "Anchors"
_CHUNK, _CHUNK_ON_GPU = 1 << 22, 1 << 24  # overlaps at once: what fits into a processor's cache, what keeps a GPU busy


@torch.no_grad()
def match_anchors(
    anchors: Float[Tensor, "A 4"], boxes: Float[Tensor, "B M _n"], labels: Int[Tensor, "B M"]
) -> Int[Tensor, "B A"]:
    """Return for every anchor the index of the box it learns, or `BACKGROUND`, or `IGNORED`.

    An anchor learns the box it overlaps most if that is by an IoU of 0.5 or more, is background below
    0.4 and is ignored between. Whatever the IoU, every box keeps the anchors that overlap it most
    (all of a tie) unless another box overlaps them more; a box that loses all of them so gets the best
    anchor that no box keeps. A box that overlaps no anchor gets none.

    Args:
        anchors: with sides above 0.
        boxes: those without area, or not finite, count as padding; M may be 0. Oriented ones (B, M, 5) are matched by
            the smallest upright boxes around them.
        labels: -1 for padding.
    """
    if not boxes.shape[1]:
        return labels.new_full((len(boxes), len(anchors)), BACKGROUND)
    boxes = boxes.to(anchors)
    is_real = (labels >= 0) & boxes.isfinite().all(dim=2) & (boxes[..., 2:4] > boxes[..., :2]).all(dim=2)
    if boxes.shape[2] == N_ORIENTED:
        boxes = hulls(boxes)
    boxes = torch.where(is_real[..., None], boxes, 0)  # (0, 0, 0, 0) overlaps nothing
    # The matrix of all overlaps (1.6 GB for 8 images of 1,000 boxes) never exists whole.
    chunk = _CHUNK if anchors.device.type == "cpu" else _CHUNK_ON_GPU
    parts, best_of_box = [], torch.zeros_like(boxes[..., 0])
    for part in torch.split(anchors, max(1, chunk // labels.numel())):
        overlaps = _iou(boxes, part)
        parts.append(overlaps.max(dim=1))
        best_of_box = best_of_box.maximum(overlaps.amax(dim=2))
    iou, box = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    target = torch.where(iou >= _POSITIVE_IOU, box, IGNORED)
    target = torch.where(iou < _BACKGROUND_IOU, BACKGROUND, target)
    kept = (iou > 0) & (iou == best_of_box.gather(1, box))
    target = torch.where(kept, box, target)
    n_kept = torch.zeros_like(labels).scatter_add(1, box, kept.to(labels))
    losers = ((best_of_box > 0) & (n_kept == 0)).nonzero()
    if len(losers):
        _give_free_anchors(target, losers, anchors, boxes, kept=kept)
    return target


def _iou(boxes: Float[Tensor, "*N 4"], anchors: Float[Tensor, "A 4"]) -> Float[Tensor, "*N A"]:
    """Return the IoU of every box with every anchor, computed in place: memory is what takes the time."""
    x1, y1, x2, y2 = boxes[..., None].unbind(-2)
    left, upper, right, lower = anchors.T.contiguous()
    shared = torch.minimum(x2, right).sub_(torch.maximum(x1, left)).clamp_(min=0)
    shared *= torch.minimum(y2, lower).sub_(torch.maximum(y1, upper)).clamp_(min=0)
    union = (x2 - x1) * (y2 - y1) + (right - left) * (lower - upper)
    return shared.div_(union.sub_(shared))


def _give_free_anchors(
    target: Int[Tensor, "B A"],
    losers: Int[Tensor, "U 2"],
    anchors: Float[Tensor, "A 4"],
    boxes: Float[Tensor, "B M 4"],
    *,
    kept: Bool[Tensor, "B A"],
) -> None:
    """Give each box (image, index) without an anchor the best one that no box keeps, in `target`.

    If two want the same anchor, the one with more overlap has it (the first of equals) and the other turns to its next
    choice. This is deferred acceptance: in the end no box wants an anchor more than the box that has it. A box has as
    many choices as there are losers in an image, as the others cannot take more.
    """
    n_choices = min(len(anchors), int(losers[:, 0].bincount().max()))
    number, parts = torch.arange(len(anchors), device=anchors.device), []
    for image, box in (part.unbind(dim=1) for part in torch.split(losers, max(1, _CHUNK_ON_GPU // len(anchors)))):
        free = _iou(boxes[image, box], anchors).masked_fill_(kept[image], 0)
        # topk leaves the order of equals open; as integers the bits of positive floats keep their order, with room for
        # the anchor's number below them.
        ranked = free.view(torch.int32).long() * len(anchors) - number
        indices = ranked.topk(n_choices, dim=1).indices
        parts.append((free.gather(1, indices), indices))
    overlaps, choices = map(torch.cat, zip(*parts, strict=True))
    image, box = losers.unbind(dim=1)
    turn = torch.zeros_like(image)
    while True:
        iou = overlaps.gather(1, turn[:, None]).squeeze(1)
        anchor = choices.gather(1, turn[:, None]).squeeze(1)
        wins = _first_of_equals(image * len(anchors) + anchor, iou)
        turns = ~wins & (iou > 0) & (turn + 1 < n_choices)
        if not turns.any():
            wins &= iou > 0
            target[image[wins], anchor[wins]] = box[wins]
            return
        turn += turns


def _first_of_equals(key: Int[Tensor, " U"], worth: Float[Tensor, " U"]) -> Bool[Tensor, " U"]:
    """Return True for the element of highest worth among all with the same key, the first of ties."""
    order = worth.argsort(descending=True, stable=True)
    order = order[key[order].argsort(stable=True)]
    first = torch.ones_like(key, dtype=torch.bool)
    first[order[1:]] = key[order[1:]] != key[order[:-1]]
    return first

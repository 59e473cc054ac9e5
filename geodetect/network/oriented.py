"""Oriented boxes as the network codes them.

An oriented box is (x1, y1, x2, y2, angle), as in `geodetect.boxes`: a rectangle with its longer side along x, turned
about its centre. The network gives the pair (cos 2a, sin 2a) instead of the angle a: half a turn, which changes
nothing about a rectangle, changes nothing about the pair, and it has no jump anywhere.

Shapes: N boxes.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

N_ORIENTED = 5  # numbers of an oriented box
MAX_LOG_SIDE = math.log(1000 / 16)  # torchvision's `bbox_xform_clip`: exp of a wild delta must stay finite
_LEAST = 1e-6  # of determinants and distances, whose logarithms and roots must have gradients


def hulls(boxes: Float[Tensor, "*N 5"]) -> Float[Tensor, "*N 4"]:
    """Return the smallest upright box around each oriented one."""
    centres, sides = (boxes[..., :2] + boxes[..., 2:4]) / 2, boxes[..., 2:4] - boxes[..., :2]
    cos, sin = boxes[..., 4:].cos().abs(), boxes[..., 4:].sin().abs()
    half = (cos * sides + sin * sides.flip(-1)) / 2
    return torch.cat([centres - half, centres + half], dim=-1)


def encode(anchors: Float[Tensor, "*N 4"], boxes: Float[Tensor, "*N 5"]) -> Float[Tensor, "*N 6"]:
    """Return the numbers (dx, dy, dl, ds, cos 2a, sin 2a) that turn each anchor into its box; `decode` undoes it.

    Offsets of the centre in units of the anchor's width and height, as for upright boxes, and the logarithms of the
    box's longer side over the anchor's longer, and of its shorter over the anchor's shorter.
    """
    sides = anchors[..., 2:] - anchors[..., :2]
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    moves = ((boxes[..., :2] + boxes[..., 2:4]) / 2 - centres) / sides
    growth = ((boxes[..., 2:4] - boxes[..., :2]) / _longer_first(sides)).log()
    double = 2 * boxes[..., 4:]
    return torch.cat([moves, growth, double.cos(), double.sin()], dim=-1)


def decode(anchors: Float[Tensor, "*N 4"], deltas: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N 5"]:
    """Return the oriented boxes that the numbers of `encode` stand for, no side above 62.5 times the anchor's."""
    centres, sides = _move(anchors, deltas)
    tall = sides[..., :1] < sides[..., 1:]
    half = torch.where(tall, sides.flip(-1), sides) / 2
    pair = torch.where(tall, -deltas[..., 4:], deltas[..., 4:])  # a right angle more
    angles = torch.atan2(pair[..., 1:], pair[..., :1]) / 2
    angles = torch.where(angles < math.pi / 2, angles, -math.pi / 2)
    return torch.cat([centres - half, centres + half, angles], dim=-1)


def are_inside(boxes: Float[Tensor, "*N 5"], shape: tuple[int, int]) -> Bool[Tensor, "*N"]:
    """Return whether each box has an area and its centre in an image (H, W), as `Boxes.are_inside`; False for NaN."""
    x, y = ((boxes[..., :2] + boxes[..., 2:4]) / 2).unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x <= shape[1]) & (y <= shape[0])
    return inside & (boxes[..., 2:4] > boxes[..., :2]).all(dim=-1) & boxes[..., 4].isfinite()


def _move(
    anchors: Float[Tensor, "*N 4"], deltas: Float[Tensor, "*N 6"]
) -> tuple[Float[Tensor, "*N 2"], Float[Tensor, "*N 2"]]:
    """Return centres and sides of anchors moved by the deltas; the sides are meant to be the longer and the shorter."""
    sides = anchors[..., 2:] - anchors[..., :2]
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * sides
    return centres, deltas[..., 2:4].clamp(max=MAX_LOG_SIDE).exp() * _longer_first(sides)


def probiou_loss(
    anchors: Float[Tensor, "N 4"], deltas: Float[Tensor, "N 6"], boxes: Float[Tensor, "N 5"]
) -> Float[Tensor, " N"]:
    """Return the Hellinger distance of each predicted box from the true one as Gaussians, 0 to 1.

    The loss L1 of ProbIoU (https://arxiv.org/abs/2106.06072): a box is the Gaussian with the same centre and
    covariance, and the distance of two is sqrt(1 - exp(-B)) with B that of Bhattacharyya. A square has the
    same covariance at any angle. A predicted pair shorter than 1 stands for an uncertain angle and rounds
    the Gaussian, so that the gradient is finite for the pair (0, 0) too.
    """
    centres, sides = _move(anchors, deltas)
    pair = deltas[..., 4:] / deltas[..., 4:].norm(dim=-1, keepdim=True).clamp(min=1)
    double = 2 * boxes[..., 4:]
    ours = _covariance(sides, pair)
    theirs = _covariance(boxes[..., 2:4] - boxes[..., :2], torch.cat([double.cos(), double.sin()], dim=-1))
    both = (ours + theirs) / 2
    (xx, yy, xy), det = both.unbind(-1), _determinant(both)
    dx, dy = (centres - (boxes[..., :2] + boxes[..., 2:4]) / 2).unbind(-1)
    apart = (yy * dx.square() + xx * dy.square() - 2 * xy * dx * dy) / det / 8
    unlike = (det.log() - (_determinant(ours).log() + _determinant(theirs).log()) / 2) / 2
    return (-torch.expm1(-(apart + unlike))).clamp(min=_LEAST).sqrt()


def _longer_first(sides: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
    return torch.stack([sides.amax(dim=-1), sides.amin(dim=-1)], dim=-1)


def _covariance(sides: Float[Tensor, "N 2"], pair: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
    """Return the variances along x and y and the covariance of boxes with these sides and (cos 2a, sin 2a)."""
    along, across = (sides.square() / 12).unbind(-1)
    mean, half = (along + across) / 2, (along - across) / 2
    return torch.stack([mean + half * pair[..., 0], mean - half * pair[..., 0], half * pair[..., 1]], dim=-1)


def _determinant(covariance: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    return (covariance[..., 0] * covariance[..., 1] - covariance[..., 2].square()).clamp(min=_LEAST)

"""Anchors: the boxes that the network classifies and moves, at every cell of every level.

Shapes: A anchors of an image, S shapes at one cell. Level l has stride 2**l pixels.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geodetect.anchors import AnchorSpec


def make_anchors(spec: AnchorSpec, shape: tuple[int, int], device: torch.device | None = None) -> Float[Tensor, "A 4"]:
    """Return the anchors of an image: level by level, cell by cell along rows, the shapes of a cell innermost.

    They are centred on the upper-left corners of the cells, one stride apart, and may reach over the image's edge.

    Args:
        spec: shapes of the anchors.
        shape: (H, W) of the image in pixels; need not be a multiple of a stride.
        device: where to put the result.
    """
    levels = []
    for stride, cells in zip(spec.strides, _cells(spec, shape), strict=True):
        y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) * stride for n in cells), indexing="ij")
        half = torch.from_numpy(spec.half_sides(stride))
        corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
        levels.append((corners + torch.cat([-half, half], dim=1)).reshape(-1, 4))
    return torch.cat(levels).to(device)


def level_sizes(spec: AnchorSpec, shape: tuple[int, int]) -> list[int]:
    """Return the number of anchors at each level of an image (H, W), finest first; they sum to A."""
    return [rows * columns * spec.per_cell for rows, columns in _cells(spec, shape)]


def _cells(spec: AnchorSpec, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the rows and columns of cells at each level; a padded stride-2 convolution halves and rounds up."""
    return [(math.ceil(shape[0] / stride), math.ceil(shape[1] / stride)) for stride in spec.strides]

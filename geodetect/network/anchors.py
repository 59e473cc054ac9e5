"""Anchors: the boxes that the network classifies and moves, at every cell of every level.

Shapes: A anchors of a picture, S shapes at one cell. Level l has stride 2**l pixels.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from geodetect.anchors import AnchorSpec


def _shapes(spec: AnchorSpec, stride: int) -> Float[Tensor, "S 4"]:
    """Anchors round (0, 0) at a level with this stride."""
    half = torch.from_numpy(spec.half_sides(stride))
    return torch.cat([-half, half], dim=1)


def level_sizes(spec: AnchorSpec, shape: tuple[int, int]) -> list[int]:
    """Number of anchors at each level of a picture (H, W), finest first; they sum to A."""
    return [rows * columns * spec.per_cell for rows, columns in _cells(spec, shape)]


def _cells(spec: AnchorSpec, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Rows and columns of cells at each level; a stride-2 convolution with padding halves upwards."""
    return [(math.ceil(shape[0] / stride), math.ceil(shape[1] / stride)) for stride in spec.strides]


def anchors(spec: AnchorSpec, shape: tuple[int, int], device: torch.device | None = None) -> Float[Tensor, "A 4"]:
    """Anchors of a picture: level by level, cell by cell along rows, the shapes of a cell innermost.

    Centred on the upper-left corners of the cells, one stride apart; they may reach over the picture's edge.

    Args:
        spec: their shapes.
        shape: (H, W) of the picture in pixels; need not be a multiple of a stride.
        device: where the result lies.
    """
    levels = zip(spec.strides, _cells(spec, shape), strict=True)
    return torch.cat([_level(spec, stride, cells) for stride, cells in levels]).to(device)


def _level(spec: AnchorSpec, stride: int, cells: tuple[int, int]) -> Float[Tensor, "N 4"]:
    """Anchors of one level with this many rows and columns of cells."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) * stride for n in cells), indexing="ij")
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + _shapes(spec, stride)).reshape(-1, 4)

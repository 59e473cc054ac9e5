"""Anchors: the boxes that the network classifies and moves, at every cell of every level.

Shapes: A anchors of a picture, S shapes at one cell. Level l has stride 2**l pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from geodetect.errors import ArgumentError

_MOST_PER_CELL = 100  # the paper has 9; the heads' last layers grow with it
_LARGEST = 1_000  # of a factor: an anchor of a thousand strides is larger than any chip
_PYRAMIDS = ((3, 7), (2, 7))


@dataclass(frozen=True)
class AnchorSpec:
    """Shapes of the anchors, the same at every level but for the level's stride.

    "At each pyramid level we use anchors at three aspect ratios {1:2, 1:1, 2:1} [and] add anchors
    of sizes {2^0, 2^(1/3), 2^(2/3)}" (https://arxiv.org/abs/1708.02002, section 4).

    Args:
        scales: factors on the base side.
        ratios: height / width.
        anchor_size: base side as a multiple of the level's stride.
        levels: first and last level of the pyramid: (3, 7), or (2, 7) for objects under 16 px.

    Raises:
        ArgumentError: if a value is not positive, an anchor would round to nothing, or there is no such pyramid.
    """

    scales: Sequence[float] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    ratios: Sequence[float] = (0.5, 1.0, 2.0)
    anchor_size: float = 4.0
    levels: Sequence[int] = (3, 7)

    def __post_init__(self) -> None:
        for name in ("scales", "ratios", "levels"):  # lists come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        values = (*self.scales, *self.ratios, self.anchor_size)
        if not (0 < self.per_cell <= _MOST_PER_CELL):
            raise ArgumentError(
                f"anchors need at least one scale and one ratio, all above 0, and at most {_MOST_PER_CELL} for a cell; "
                f"got {len(self.scales):,} scales and {len(self.ratios):,} ratios"
            )
        if not all(0 < value <= _LARGEST for value in values):
            raise ArgumentError(
                f"scales, ratios and anchor_size must be above 0 and at most {_LARGEST:,}; "
                f"got scales={self.scales}, ratios={self.ratios}, anchor_size={self.anchor_size}"
            )
        if self.levels not in _PYRAMIDS:
            raise ArgumentError(f"levels must be (3, 7), or (2, 7) for objects under 16 px; got {self.levels}")
        smallest = _shapes(self, 2 ** self.levels[0])
        if (smallest[:, 2:] <= smallest[:, :2]).any():
            raise ArgumentError(
                f"an anchor of the finest level would be less than a pixel wide or high; make anchor_size larger: "
                f"got anchor_size={self.anchor_size}, scales={self.scales}, ratios={self.ratios}"
            )

    @property
    def per_cell(self) -> int:
        """Number of anchors at one cell of one level."""
        return len(self.scales) * len(self.ratios)

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels from one cell to the next at each level, finest first."""
        first, last = self.levels
        return tuple(2**level for level in range(first, last + 1))


def _shapes(spec: AnchorSpec, stride: int) -> Float[Tensor, "S 4"]:
    """Anchors round (0, 0) at a level with this stride: ratios outer, scales inner.

    Sides are `int(base * scale)` before the ratio and half sides are rounded, as in torchvision's
    `AnchorGenerator` and `_default_anchorgen`, so that its trained heads fit.
    """
    sides = torch.tensor([int(spec.anchor_size * stride * scale) for scale in spec.scales], dtype=torch.float32)
    height_factors = torch.tensor(spec.ratios, dtype=torch.float32).sqrt()
    widths = ((1 / height_factors)[:, None] * sides).flatten()
    heights = (height_factors[:, None] * sides).flatten()
    return (torch.stack([-widths, -heights, widths, heights], dim=1) / 2).round()


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

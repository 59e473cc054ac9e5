"""Shapes of anchors, for building a network and for comparison with labels before there is one.

Shapes: S shapes of a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from geodetect.errors import ArgumentError

SCALES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)
LEVELS = (3, 7)
PYRAMIDS = (LEVELS, (2, 7))
_MOST_PER_CELL = 100  # the paper has 9; the heads' last layers grow with it
_LARGEST = 1_000  # of a factor: an anchor of a thousand strides is larger than any chip


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

    scales: Sequence[float] = SCALES
    ratios: Sequence[float] = RATIOS
    anchor_size: float = 4.0
    levels: Sequence[int] = LEVELS

    def __post_init__(self) -> None:
        for name in ("scales", "ratios"):  # JSON holds lists, and no numbers of numpy
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        object.__setattr__(self, "anchor_size", float(self.anchor_size))
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
        if (levels := tuple(self.levels)) not in PYRAMIDS:
            raise ArgumentError(f"levels must be (3, 7), or (2, 7) for objects under 16 px; got {levels}")
        object.__setattr__(self, "levels", PYRAMIDS[PYRAMIDS.index(levels)])
        if not self.half_sides(self.strides[0]).all():
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

    def half_sides(self, stride: int) -> Float[np.ndarray, "S 2"]:
        """Return half the width and height of a cell's anchors in pixels: ratios outer, scales inner.

        Sides are `int(base * scale)` before the ratio, half sides are rounded, and all is float32, as in torchvision's
        `AnchorGenerator` and `_default_anchorgen`, so that its trained heads fit.
        """
        sides = np.array([int(self.anchor_size * stride * scale) for scale in self.scales], np.float32)
        tall = np.sqrt(np.array(self.ratios, np.float32))[:, None]
        widths, heights = (np.float32(1) / tall) * sides, tall * sides
        return np.round(np.stack([widths, heights], axis=-1).reshape(-1, 2) / 2)

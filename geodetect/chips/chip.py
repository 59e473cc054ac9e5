"""Chips: the pixels of a window, with their boxes and grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

import numpy as np

from geodetect.boxes import Boxes
from geodetect.grid import Grid, Window
from geodetect.raster import Reader


@dataclass(frozen=True, eq=False, repr=False)
class Chip:
    """The pixels of one window of a raster.

    Args:
        pixels: (C, H, W) as read from the raster; invalid pixels are 0.
        boxes: true boxes in chip pixels; `labels` index the classes from 0.
        grid: of the chip's pixels.
    """

    pixels: np.ndarray
    boxes: Boxes
    grid: Grid

    def __repr__(self) -> str:
        return f"Chip({' x '.join(map(str, self.pixels.shape))} {self.pixels.dtype}, {self.boxes!r}, {self.grid!r})"


@dataclass(frozen=True, eq=False)
class ChipPlan:
    """A chip that has not been read.

    Args:
        reader: its raster.
        window: its pixels in the raster.
        boxes: true boxes in chip pixels, cut at the chip's edges.
        objects: boxes in scene pixels of all objects with their centre in the chip, not cut at its edges, including
            those of which too little is visible. None: the same as the boxes.
        original: name that the image shares with other copies, which a split keeps together; None without copies.
    """

    reader: Reader = field(repr=False)
    window: Window
    boxes: Boxes
    objects: Boxes | None = field(default=None, repr=False)
    original: str | None = field(default=None, kw_only=True)

    @property
    def grid(self) -> Grid:
        """Grid of the chip's pixels."""
        return self.reader.grid.window(self.window)

    @property
    def holds_data(self) -> bool:
        """Whether any pixel is valid; reads the pixels only if some may be invalid."""
        return self.reader.all_valid or bool(self.reader.read(self.window)[1].any())

    def read(self) -> Chip:
        """Read the chip."""
        pixels, _ = self.reader.read(self.window)
        return Chip(pixels, self.boxes, self.grid)


def relabel(plans: Iterable[ChipPlan], old: Sequence[str], new: Sequence[str]) -> list[ChipPlan]:
    """Return chips whose labels index other class names than before; boxes of classes that are missing are dropped."""
    number = np.array([new.index(name) if name in new else -1 for name in old], int)

    def renumber(boxes: Boxes) -> Boxes:
        labels = number[boxes.labels]
        return replace(boxes, labels=labels)[labels >= 0]

    return [
        replace(plan, boxes=renumber(plan.boxes), objects=None if plan.objects is None else renumber(plan.objects))
        for plan in plans
    ]


class Chips(Sequence[Chip]):
    """Chips that are read on access; `plans` holds all but their pixels."""

    def __init__(self, plans: Sequence[ChipPlan]) -> None:
        self.plans = tuple(plans)

    def __len__(self) -> int:
        return len(self.plans)

    @overload
    def __getitem__(self, index: int) -> Chip: ...
    @overload
    def __getitem__(self, index: slice) -> Chips: ...
    def __getitem__(self, index: int | slice) -> Chip | Chips:
        """Read a chip; a slice is a `Chips`, not yet read."""
        if isinstance(index, slice):
            return Chips(self.plans[index])
        return self.plans[index].read()

    @property
    def n_pixels(self) -> int:
        """Number of pixels of all chips."""
        return sum(plan.window.width * plan.window.height for plan in self.plans)

    def __repr__(self) -> str:
        return f"Chips({len(self)} chips, {sum(len(plan.boxes) for plan in self.plans)} boxes)"

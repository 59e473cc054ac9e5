"""A chip: the pixels of one window, with its boxes and where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np

from geodetect.boxes import Boxes
from geodetect.grid import Grid, Window
from geodetect.raster import Reader


@dataclass(frozen=True, eq=False)
class Chip:
    """The pixels of one window of a raster.

    Args:
        pixels: (C, H, W) as read from the raster; invalid pixels are 0.
        boxes: true boxes in chip pixels; `labels` index the classes from 0.
        grid: where the chip's pixels lie.
    """

    pixels: np.ndarray
    boxes: Boxes
    grid: Grid


@dataclass(frozen=True, eq=False)
class ChipPlan:
    """A chip that has not been read: which window of which raster, and its boxes in chip pixels."""

    reader: Reader = field(repr=False)
    window: Window
    boxes: Boxes

    @property
    def grid(self) -> Grid:
        """Where the chip's pixels lie."""
        return self.reader.grid.window(self.window)

    @property
    def holds_data(self) -> bool:
        """Whether any pixel is valid; read only where that is not certain anyway."""
        return self.reader.all_valid or bool(self.reader.read(self.window)[1].any())

    def read(self) -> Chip:
        """The chip, with all its boxes."""
        pixels, _ = self.reader.read(self.window)
        return Chip(pixels, self.boxes, self.grid)


class Chips(Sequence[Chip]):
    """Chips that are read when they are asked for; `plans` tells all but the pixels."""

    def __init__(self, plans: Sequence[ChipPlan]) -> None:
        self.plans = tuple(plans)

    def __len__(self) -> int:
        return len(self.plans)

    @overload
    def __getitem__(self, index: int) -> Chip: ...
    @overload
    def __getitem__(self, index: slice) -> Chips: ...
    def __getitem__(self, index: int | slice) -> Chip | Chips:
        """The chip with this number, read now; a slice is read later."""
        if isinstance(index, slice):
            return Chips(self.plans[index])
        return self.plans[index].read()

    def __iter__(self) -> Iterator[Chip]:
        return (plan.read() for plan in self.plans)

    def __repr__(self) -> str:
        return f"Chips({len(self)} chips, {sum(len(plan.boxes) for plan in self.plans)} boxes)"

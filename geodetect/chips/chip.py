"""A chip: the pixels of one window, with its boxes and where it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        grid: where the chip's pixels lie.
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
        reader: the raster that it is of.
        window: which pixels of it.
        boxes: true boxes in chip pixels, cut at the chip's edges.
        objects: boxes in scene pixels of all objects with their centre in the chip, not cut at its edges; also of
            those that it shows too little of. None: they are the boxes.
        original: what the picture is one of several copies of, which a split keeps together; None where it has none.
    """

    reader: Reader = field(repr=False)
    window: Window
    boxes: Boxes
    objects: Boxes | None = field(default=None, repr=False)
    original: str | None = field(default=None, kw_only=True)

    def relabelled(self, number: np.ndarray) -> ChipPlan:
        """The chip with `number[label]` as label of each box and object; those that get -1 are gone."""
        objects = None if self.objects is None else _relabelled(self.objects, number)
        return replace(self, boxes=_relabelled(self.boxes, number), objects=objects)

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


def _relabelled(boxes: Boxes, number: np.ndarray) -> Boxes:
    labels = number[boxes.labels]
    return Boxes(boxes.xyxy[labels >= 0], labels[labels >= 0])


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

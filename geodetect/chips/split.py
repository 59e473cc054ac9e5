"""The split of chips into training and validation, without a validation pixel that was seen in training.

Shapes: N chips, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import NamedTuple

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from pyproj import Transformer
from pyproj.exceptions import ProjError

from geodetect.chips.chip import ChipPlan
from geodetect.errors import ArgumentError, LabelsError, is_number

_BLOCK_SIDES = (1, 2, 3, 4, 6)  # tried sides of a block of ground, in chips
_WANTED = (1.0, 0.8, 0.6, 0.4, 0.0)  # tried parts of the share, which counts without the chips lost on borders
_TRIES = 8  # draws for each of them
_EDGE = 0.25  # px; chips that overlap by less only touch: world files are rounded
# Costs of a draw that misses the share by more than a row, that leaves no boxes in a part, and that loses all chips:
# training ground is worth more than a validation part of exactly the wanted size.
_OFF_SHARE, _NO_BOXES, _LOST = 10.0, 100.0, 3.0


class Split(NamedTuple):
    """Masks of the training and validation chips; the others are in neither part."""

    train: Bool[np.ndarray, "N"]
    valid: Bool[np.ndarray, "N"]

    def cost(self, counts: Int[np.ndarray, "N K"], share: float, row: float) -> float:
        """Return how much worse it is than a perfect split.

        Args:
            counts: boxes of each class in each chip.
            share: of the chips used for validation.
            row: number of chips by which the share may be missed.
        """
        n_kept = max(int(self.train.sum() + self.valid.sum()), 1)
        miss = abs(self.valid.sum() - share * n_kept)
        lost = 1 - n_kept / len(counts)
        off = _OFF_SHARE if miss > row else 0.0
        return float(_LOST * lost + miss / (share * n_kept) + off + self.imbalance(counts, share))

    def imbalance(self, counts: Int[np.ndarray, "N K"], share: float) -> float:
        """Return how far the share of each class is from that of the chips: 0 for equal, about 1 for not at all."""
        in_train, in_valid = counts[self.train].sum(axis=0), counts[self.valid].sum(axis=0)
        if not (in_train.any() and in_valid.any()):
            return _NO_BOXES if in_train.any() else 2 * _NO_BOXES
        of_class = in_valid / np.maximum(in_train + in_valid, 1)
        # A class without a box in training is not learnt at all.
        return float(np.mean(np.minimum(abs(of_class / share - 1), 1) + (in_train == 0)))


class Parts(NamedTuple):
    """Training chips, validation chips, those in neither part, and a note on the split."""

    train: list[ChipPlan]
    valid: list[ChipPlan]
    left_out: list[ChipPlan]
    report: str = ""


def split_chips(plans: Sequence[ChipPlan], share: float, split: str, seed: int) -> Parts:
    """Split chips into training, validation and neither.

    Args:
        plans: chips of one raster or of many images.
        share: of the chips used for validation, above 0 and below 1.
        split: "blocks" of ground (whole images without georeference), or single chips at "random"; copies of one
            image stay together.
        seed: the same plans and seed give the same split.

    Raises:
        ArgumentError: if a part would be empty.
        LabelsError: if no training chip would hold a box.
    """
    if not (is_number(share) and 0 < share < 1):
        raise ArgumentError(f"val_split_pct must lie between 0 and 1, both excluded; got {share!r}")
    if len(plans) == 1 and plans[0].grid.shape == plans[0].reader.grid.shape:
        height, width = plans[0].grid.shape
        raise ArgumentError(
            f"{plans[0].reader.grid.name} is no larger than one chip, {width} x {height} px, which neither blocks nor "
            'split="random" can divide; choose a smaller chip_size, or give more ground'
        )
    n_classes = 1 + max((int(plan.boxes.labels.max(initial=-1)) for plan in plans), default=0)
    counts = np.array([np.bincount(plan.boxes.labels, minlength=n_classes) for plan in plans])
    footprints = find_footprints(plans) if split == "blocks" else None
    if footprints is not None:
        parts = split_by_blocks(footprints, counts, share, seed)
    else:
        groups = [plan.original or (i if split == "random" else id(plan.reader)) for i, plan in enumerate(plans)]
        number = {group: i for i, group in enumerate(dict.fromkeys(groups))}
        parts = split_at_random(np.array([number[group] for group in groups]), counts, share, seed)
    if not counts[parts.train].any():
        raise LabelsError(
            "no training chip holds a box; all of them fell to validation: give more ground, "
            "a smaller val_split_pct or another seed"
        )
    masks = (parts.train, parts.valid, ~parts.train & ~parts.valid)
    train, valid, left_out = (list(compress(plans, mask)) for mask in masks)
    is_random = split == "blocks" and footprints is None
    note = "whole images are split at random, as they are not georeferenced" if is_random else ""
    return Parts(train, valid, left_out, note)


def find_footprints(plans: Sequence[ChipPlan]) -> Float[np.ndarray, "N 4"] | None:
    """Return the bounds of each chip in the pixels of the first one's raster; None if images have no common plane.

    In those pixels chips that were cut from one rotated raster are upright again.
    """
    if len({id(plan.reader) for plan in plans}) == 1:
        return np.array([plan.window.xyxy for plan in plans], float)
    first, *others = (plan.grid for plan in plans)
    corners = []
    for grid in (first, *others):
        if grid.transform is None or (grid.crs is None) != (first.crs is None):
            return None
        xy = grid.corners
        if grid.crs is not None and first.crs is not None and grid.crs != first.crs:
            try:
                xy = np.column_stack(Transformer.from_crs(grid.crs, first.crs, always_xy=True).transform(*xy.T))
            except ProjError:
                return None
        corners.append(first.to_pixel(xy))
    bounds = np.concatenate([np.min(corners, axis=1), np.max(corners, axis=1)], axis=1)
    return bounds if np.isfinite(bounds).all() else None


def split_at_random(groups: Int[np.ndarray, "N"], counts: Int[np.ndarray, "N K"], share: float, seed: int) -> Split:
    """Split chips so that those of one group, such as an image, stay together.

    Args:
        groups: the group of each chip.
        counts: boxes of each class in each chip; the draw with the most even classes is chosen.
        share: of the chips used for validation.
        seed: the same groups and seed give the same split.

    Raises:
        ArgumentError: if a part would be empty.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) <= 1:
        raise ArgumentError(
            f"a validation part needs at least two chips that can be told apart; got {len(groups)} "
            "chip(s) of one image; give more data, or a smaller chip_size"
        )
    rng = np.random.default_rng(seed)

    def draws() -> Iterator[Split]:
        """Yield random splits that come near to `share`."""
        for _ in range(_TRIES):
            order = rng.permutation(len(names))
            wanted = int(np.searchsorted(np.cumsum(sizes[order]), share * len(groups))) + 1
            valid = np.isin(groups, names[order[: min(wanted, len(names) - 1)]])
            yield Split(~valid, valid)

    return min(draws(), key=lambda draw: draw.imbalance(counts, share))


def split_by_blocks(
    footprints: Float[np.ndarray, "N 4"], counts: Int[np.ndarray, "N K"], share: float, seed: int
) -> Split:
    """Split chips by blocks of ground: validation chips are entirely inside held-out blocks, training chips outside.

    Blocks of several sizes are drawn several times. The best draw comes near to `share`, loses few chips on the
    borders, and has an even share of each class.

    Args:
        footprints: min x, min y, max x, max y of each chip, all in one plane of pixels.
        counts: boxes of each class in each chip.
        share: of the chips used for validation, among those that are not lost on a border.
        seed: the same footprints and seed give the same split.

    Raises:
        ArgumentError: if every draw leaves a part empty; the message names split="random".
    """
    rng = np.random.default_rng(seed)
    side = np.median(footprints[:, 2:] - footprints[:, :2], axis=0)
    row = float((np.ptp(footprints[:, 0::2]) / side[0]).round())
    blocks = [Blocks.of(footprints, side * factor) for factor in _BLOCK_SIDES]
    draws = [each.draw(share * part, rng) for each in blocks for part in _WANTED for _ in range(_TRIES)]
    draws.sort(key=lambda draw: draw.cost(counts, share, row))
    inner = shapely.box(*(footprints + np.array([_EDGE, _EDGE, -_EDGE, -_EDGE])).T)
    for _, valid in draws:
        touching = shapely.STRtree(shapely.box(*footprints[valid].T)).query(inner, predicate="intersects")[0]
        train = ~valid
        train[touching] = False
        if train.any() and valid.any():
            return Split(train, valid)
    raise ArgumentError(
        f"no block of ground can be held out that leaves chips on both sides; got {len(footprints)} chip(s) "
        'that overlap or are too few; give more ground, a smaller chip_size, or split="random", which lets '
        "validation see ground that was trained on"
    )


@dataclass(frozen=True, eq=False)
class Blocks:
    """The blocks of a regular grid that each chip meets, as P pairs of a chip and a block.

    Args:
        chip: (P,) indices of chips.
        block: (P,) indices of blocks; blocks without a chip have none, as chips may lie far apart.
        home: (N,) the block that contains each chip; -1 for none.
    """

    chip: np.ndarray
    block: np.ndarray
    home: np.ndarray

    @classmethod
    def of(cls, footprints: Float[np.ndarray, "N 4"], size: Float[np.ndarray, "2"]) -> Blocks:
        """Lay blocks of this width and height, from the common corner of all chips."""
        low = footprints[:, :2] - footprints[:, :2].min(axis=0) + _EDGE
        first = np.floor(low / size).astype(int)
        last = np.ceil((low + footprints[:, 2:] - footprints[:, :2] - 2 * _EDGE) / size).astype(int) - 1
        spans = np.maximum(last - first + 1, 1)
        n_met = spans.prod(axis=1)
        chip = np.repeat(np.arange(len(footprints)), n_met)
        row, column = np.divmod(np.arange(len(chip)) - np.repeat(np.cumsum(n_met) - n_met, n_met), spans[chip, 0])
        x, y = first[chip, 0] + column, first[chip, 1] + row
        _, block = np.unique(y * (x.max() + 1) + x, return_inverse=True)
        home = np.full(len(footprints), -1)
        home[chip] = block
        return cls(chip, block, np.where(n_met == 1, home, -1))

    def draw(self, share: float, rng: np.random.Generator) -> Split:
        """Hold out blocks in random order, at least one, until they contain that share of the chips."""
        whole = self.home >= 0
        n_inside = np.bincount(self.home[whole], minlength=self.block.max() + 1)
        order = rng.permutation(np.flatnonzero(n_inside))
        enough = int(np.searchsorted(np.cumsum(n_inside[order]), share * len(self.home) - 0.5)) + 1
        held = np.zeros(len(n_inside), bool)
        held[order[:enough]] = True
        train = np.ones(len(self.home), bool)
        train[self.chip[held[self.block]]] = False
        return Split(train, whole & held[self.home])

"""Which chips train and which validate, so that no validation pixel was seen in training.

Shapes: N chips, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely
from jaxtyping import Bool, Float, Int
from pyproj import Transformer
from pyproj.exceptions import ProjError

from geodetect.chips.chip import ChipPlan
from geodetect.errors import ArgumentError, LabelsError, is_number
from geodetect.grid import Grid

_BLOCK_SIDES = (1, 2, 3, 4, 6)  # sides of a block of ground that are tried, in chips
_WANTED = (1.0, 0.8, 0.6, 0.4, 0.0)  # of the share: chips on the border are lost, and the share is of what is left
_TRIES = 8  # draws for each of them
_EDGE = 0.25  # px; chips that overlap by less only touch: world files are rounded
# What a draw costs that is out by more than a row, or that nothing is learnt from; and what all chips lost would cost:
# ground that is not trained on is missed more than a validation part of exactly the size that was asked for.
_OFF_SHARE, _NO_BOXES, _LOST = 10.0, 100.0, 3.0


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the chips that train, validate, and are left out on the border of both."""

    train: np.ndarray
    valid: np.ndarray
    left_out: np.ndarray

    @classmethod
    def of(cls, train: Bool[np.ndarray, "N"], valid: Bool[np.ndarray, "N"]) -> Split:
        """The split in which these chips train and those validate."""
        return cls(np.flatnonzero(train), np.flatnonzero(valid), np.flatnonzero(~train & ~valid))


class Parts(NamedTuple):
    """The chips that train, that validate, and that are left out, with what a report has to say of the split."""

    train: list[ChipPlan]
    valid: list[ChipPlan]
    left_out: list[ChipPlan]
    report: str = ""


def parted(plans: Sequence[ChipPlan], share: float, split: str, seed: int) -> Parts:
    """Split chips into those that train, that validate, and that are left out.

    Args:
        plans: chips of one raster or of many pictures.
        share: how much of the chips validates, above 0 and below 1.
        split: "blocks" of ground (whole pictures where they lie nowhere), or single chips at "random"; copies of one
            picture stay together.
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
    counts = _counts(plans)
    footprints = footprints_of(plans) if split == "blocks" else None
    if split == "random":
        parts = at_random(_numbered(plan.original or i for i, plan in enumerate(plans)), counts, share, seed)
    elif footprints is None:
        parts = at_random(_numbered(plan.original or id(plan.reader) for plan in plans), counts, share, seed)
    else:
        parts = by_blocks(footprints, counts, share, seed)
    if not counts[parts.train].any():
        raise LabelsError(
            "no training chip holds a box; all of them fell to validation: give more ground, "
            "a smaller val_split_pct or another seed"
        )
    report = (
        "whole pictures are split at random, as they do not say where on the ground they lie"
        if split == "blocks" and footprints is None
        else ""
    )
    train, valid, left_out = ([plans[i] for i in part] for part in (parts.train, parts.valid, parts.left_out))
    return Parts(train, valid, left_out, report)


def _numbered(groups: Iterable[Hashable]) -> Int[np.ndarray, "N"]:
    """A number for each group, the same for all of its members."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def _counts(plans: Sequence[ChipPlan]) -> Int[np.ndarray, "N K"]:
    """How many boxes of each class each chip holds."""
    n_classes = 1 + max((int(plan.boxes.labels.max(initial=-1)) for plan in plans), default=0)
    return np.array([np.bincount(plan.boxes.labels, minlength=n_classes) for plan in plans])


def footprints_of(plans: Sequence[ChipPlan]) -> Float[np.ndarray, "N 4"] | None:
    """Bounds of each chip in the pixels of the first one's raster; None where pictures do not lie in one plane.

    In those pixels chips that were cut from one rotated raster are upright again.
    """
    if len({id(plan.reader) for plan in plans}) == 1:
        return np.array([plan.window.xyxy for plan in plans], float)
    grids = [plan.grid for plan in plans]
    if any(grid.transform is None or (grid.crs is None) != (grids[0].crs is None) for grid in grids):
        return None
    try:
        corners = np.array([grids[0].to_pixel(_moved(grid.corners, grid, grids[0])) for grid in grids])
    except ProjError:
        return None
    bounds = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return bounds if np.isfinite(bounds).all() else None


def _moved(xy: np.ndarray, own: Grid, other: Grid) -> np.ndarray:
    """Map coordinates of one grid in the CRS of another."""
    if own.crs == other.crs:
        return xy
    assert own.crs is not None
    assert other.crs is not None
    return np.column_stack(Transformer.from_crs(own.crs, other.crs, always_xy=True).transform(*xy.T))


def at_random(groups: Int[np.ndarray, "N"], counts: Int[np.ndarray, "N K"], share: float, seed: int) -> Split:
    """A split in which the chips of one group (one picture, say) stay together.

    Args:
        groups: the group of each chip.
        counts: boxes of each class in each chip; of several draws the one that shares them out best is taken.
        share: how much of the chips validates.
        seed: the same groups and seed give the same split.

    Raises:
        ArgumentError: if a part would be empty.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) <= 1:
        raise ArgumentError(
            f"a validation part needs at least two chips that can be told apart; got {len(groups)} "
            "chip(s) of one picture; give more data, or a smaller chip_size"
        )
    rng = np.random.default_rng(seed)

    def draws() -> Iterator[Bool[np.ndarray, "N"]]:
        for _ in range(_TRIES):
            order = rng.permutation(len(names))
            wanted = int(np.searchsorted(np.cumsum(sizes[order]), share * len(groups))) + 1
            yield np.isin(groups, names[order[: min(wanted, len(names) - 1)]])

    valid = min(draws(), key=lambda valid: _imbalance(~valid, valid, counts, share))
    return Split.of(~valid, valid)


def by_blocks(footprints: Float[np.ndarray, "N 4"], counts: Int[np.ndarray, "N K"], share: float, seed: int) -> Split:
    """A split by blocks of ground: validation chips lie whole in held-out blocks, training chips outside.

    Blocks of several sizes are drawn several times. Taken is the draw that comes nearest to `share`, loses the fewest
    chips on the borders, and shares the classes out best.

    Args:
        footprints: min x, min y, max x, max y of each chip, all in one plane of pixels.
        counts: boxes of each class in each chip.
        share: how much of the chips validates, of those that are not lost on a border.
        seed: the same footprints and seed give the same split.

    Raises:
        ArgumentError: if every draw leaves a part empty; the message names split="random".
    """
    rng = np.random.default_rng(seed)
    side = np.median(footprints[:, 2:] - footprints[:, :2], axis=0)
    row = float((np.ptp(footprints[:, 0::2]) / side[0]).round())
    blocks = [Blocks.of(footprints, side * factor) for factor in _BLOCK_SIDES]
    draws = [each.draw(share * part, rng) for each in blocks for part in _WANTED for _ in range(_TRIES)]
    draws.sort(key=_cost(counts, share, row))
    for _, valid in draws:
        split = Split.of(valid=valid, train=~valid & ~_touching(footprints, valid))
        if len(split.train) and len(split.valid):
            return split
    raise ArgumentError(
        f"no block of ground can be held out that leaves chips on both sides; got {len(footprints)} chip(s) "
        'that overlap or are too few; give more ground, a smaller chip_size, or split="random", which lets '
        "validation see ground that was trained on"
    )


Draw = tuple[np.ndarray, np.ndarray]  # which chips train, and which validate


@dataclass(frozen=True, eq=False)
class Blocks:
    """Which blocks of a regular grid each chip meets, as P pairs of a chip and a block.

    Args:
        chip: (P,) indices of chips.
        block: (P,) indices of blocks; only those that a chip meets count, for chips may lie far apart.
        home: (N,) the block that each chip lies whole in; -1 for none.
    """

    chip: np.ndarray
    block: np.ndarray
    home: np.ndarray

    @classmethod
    def of(cls, footprints: Float[np.ndarray, "N 4"], size: Float[np.ndarray, "2"]) -> Blocks:
        """The blocks of this width and height, counted from the corner of all chips together."""
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

    def draw(self, share: float, rng: np.random.Generator) -> Draw:
        """Blocks held out in random order, at least one, until that share of chips lies whole in them."""
        whole = self.home >= 0
        n_inside = np.bincount(self.home[whole], minlength=self.block.max() + 1)
        order = rng.permutation(np.flatnonzero(n_inside))
        enough = int(np.searchsorted(np.cumsum(n_inside[order]), share * len(self.home) - 0.5)) + 1
        held = np.zeros(len(n_inside), bool)
        held[order[:enough]] = True
        train = np.ones(len(self.home), bool)
        train[self.chip[held[self.block]]] = False
        return train, whole & held[self.home]


def _cost(counts: Int[np.ndarray, "N K"], share: float, row: float) -> Callable[[Draw], float]:
    """What makes one draw worse than another."""

    def cost(draw: Draw) -> float:
        train, valid = draw
        n_kept = max(int(train.sum() + valid.sum()), 1)
        miss = abs(valid.sum() - share * n_kept)
        lost = 1 - n_kept / len(counts)
        off = _OFF_SHARE if miss > row else 0.0
        return float(_LOST * lost + miss / (share * n_kept) + off + _imbalance(train, valid, counts, share))

    return cost


def _imbalance(train: np.ndarray, valid: np.ndarray, counts: np.ndarray, share: float) -> float:
    """How far the classes' boxes are from being shared out like the chips: 0 for perfectly, about 1 for not at all."""
    in_train, in_valid = counts[train].sum(axis=0), counts[valid].sum(axis=0)
    if not (in_train.any() and in_valid.any()):
        return _NO_BOXES if in_train.any() else 2 * _NO_BOXES
    of_class = in_valid / np.maximum(in_train + in_valid, 1)
    # A class without a box in training is not learnt at all.
    return float(np.mean(np.minimum(abs(of_class / share - 1), 1) + (in_train == 0)))


def _touching(footprints: Float[np.ndarray, "N 4"], valid: Bool[np.ndarray, "N"]) -> Bool[np.ndarray, "N"]:
    """Which chips share ground with one that validates."""
    tree = shapely.STRtree(shapely.box(*footprints[valid].T))
    inner = footprints + np.array([_EDGE, _EDGE, -_EDGE, -_EDGE])
    touching = np.zeros(len(footprints), bool)
    touching[tree.query(shapely.box(*inner.T), predicate="intersects")[0]] = True
    return touching

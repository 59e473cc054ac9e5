"""Which chips train and which validate, so that no validation pixel was seen in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geodetect.errors import ArgumentError

_BLOCK_SIDES = (1, 2, 3, 4, 6)  # sides of a block of ground that are tried, in chips
_TRIES = 8  # draws of blocks for each side


@dataclass(frozen=True, eq=False)
class Split:
    """Indices of the chips that train, validate, and are left out on the border of both."""

    train: np.ndarray
    valid: np.ndarray
    left_out: np.ndarray


def at_random(groups: np.ndarray, share: float, seed: int) -> Split:
    """A split in which the chips of one group (one picture, say) stay together.

    Args:
        groups: (N,) the group of each chip.
        share: how much of the chips validates, above 0 and below 1.
        seed: the same groups and seed give the same split.

    Raises:
        ArgumentError: if a part would be empty.
    """
    _check_share(share)
    names, counts = np.unique(groups, return_counts=True)
    if len(names) <= 1:
        raise ArgumentError(
            f"a validation part needs at least two chips that can be told apart; got {len(groups)} "
            "chip(s) of one picture; give more data, or a smaller chip_size"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    wanted = np.searchsorted(np.cumsum(counts[order]), share * len(groups)) + 1
    chosen = names[order[: min(wanted, len(names) - 1)]]
    valid = np.isin(groups, chosen)
    return Split(np.flatnonzero(~valid), np.flatnonzero(valid), np.zeros(0, int))


def by_blocks(footprints: np.ndarray, share: float, seed: int) -> Split:
    """A split by blocks of ground: validation chips lie whole in held-out blocks, training chips outside.

    Blocks of several sizes are drawn several times; the draw that comes nearest to `share`
    and loses the fewest chips on the borders is taken.

    Args:
        footprints: (N, 4) min x, min y, max x, max y of each chip, all in one plane.
        share: how much of the chips validates, above 0 and below 1.
        seed: the same footprints and seed give the same split.

    Raises:
        ArgumentError: if every draw leaves a part empty; the message names split="random".
    """
    _check_share(share)
    rng = np.random.default_rng(seed)
    side = np.median(footprints[:, 2:] - footprints[:, :2], axis=0)
    # Where the share asked for leaves nothing to train on, a single block may still leave both parts something.
    wanted = [wanted for wanted in (share, 0.0) for _ in range(_TRIES)]
    draws = [_draw(footprints, side * factor, want, rng) for factor in _BLOCK_SIDES for want in wanted]
    draws = [draw for draw in draws if len(draw.train) and len(draw.valid)]
    if not draws:
        raise ArgumentError(
            f"no block of ground can be held out that leaves chips on both sides; got {len(footprints)} chip(s) "
            'that overlap or are too few; give more ground, or split="random", which lets validation see '
            "ground that was trained on"
        )
    return min(draws, key=lambda draw: _cost(draw, len(footprints), share))


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ArgumentError(f"val_split_pct must lie between 0 and 1, both excluded; got {share}")


def _cost(draw: Split, n_chips: int, share: float) -> float:
    return len(draw.left_out) / n_chips + abs(len(draw.valid) / n_chips - share) / share


def _draw(footprints: np.ndarray, block: np.ndarray, share: float, rng: np.random.Generator) -> Split:
    """One draw: blocks are held out, in random order and at least one, until enough chips lie whole in them."""
    origin = footprints[:, :2].min(axis=0)
    first = np.floor((footprints[:, :2] - origin) / block + _EDGE).astype(int)
    last = np.ceil((footprints[:, 2:] - origin) / block - _EDGE).astype(int) - 1
    width = last[:, 0].max() + 1
    held = np.zeros((last[:, 1].max() + 1) * width, bool)
    home = first[:, 1] * width + first[:, 0]
    whole = (first == last).all(axis=1)
    n_inside = np.bincount(home[whole], minlength=len(held))
    order = rng.permutation(np.flatnonzero(n_inside)) if n_inside.any() else np.zeros(0, int)
    held[order[: np.searchsorted(np.cumsum(n_inside[order]), share * len(footprints) - _EDGE) + 1]] = True
    valid = whole & held[home]
    return _without_overlap(footprints, valid)


_EDGE = 1e-6  # of a block; chips that end on a block's edge lie inside it, whatever the rounding


def _without_overlap(footprints: np.ndarray, valid: np.ndarray) -> Split:
    """Validation as given; every other chip trains unless it shares ground with validation."""
    tree = shapely.STRtree(shapely.box(*footprints[valid].T))
    slack = _EDGE * (footprints[:, 2:] - footprints[:, :2])
    inner = np.concatenate([footprints[:, :2] + slack, footprints[:, 2:] - slack], axis=1)
    shares = np.zeros(len(footprints), bool)
    shares[tree.query(shapely.box(*inner.T), predicate="intersects")[0]] = True
    train = ~valid & ~shares
    return Split(np.flatnonzero(train), np.flatnonzero(valid), np.flatnonzero(~valid & ~train))

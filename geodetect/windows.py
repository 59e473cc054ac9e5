"""Windows of scattered scenes: only those that intersect the ground, found without listing all.

Shapes: T tilings, W windows, R runs of windows side by side, B blocks of windows, P polygons.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import shapely
from jaxtyping import Int

from geodetect.boxes import connected_components
from geodetect.errors import ArgumentError
from geodetect.grid import SLIVER, Tiling, Window

_MOST_SEEN = 1024  # windows that may contain one pixel


class Frames(NamedTuple):
    """Windows and what surrounds them, as corners x1, y1, x2, y2 in scene pixels, a row for each window.

    Args:
        windows: (W, 4) the windows.
        grounds: (W, 4) unions of the windows of their tilings.
        neighbours: (W, 4) how far the neighbour on each side reaches into the window; valid where there is one.
    """

    windows: Int[np.ndarray, "W 4"]
    grounds: Int[np.ndarray, "W 4"]
    neighbours: Int[np.ndarray, "W 4"]


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one or several tilings, in rows from top to bottom of the scene.

    Args:
        tilings: of one chip size and overlap, so far apart that no windows of two intersect.
        runs: (R, 4) windows side by side: index of their tiling, row in it, first column, last column + 1.
    """

    tilings: Sequence[Tiling]
    runs: Int[np.ndarray, "R 4"]

    @classmethod
    def of(cls, tilings: Sequence[Tiling], *grounds: np.ndarray | None) -> Windows:
        """Return the windows of the tilings that intersect a polygon of each of `grounds`.

        Time and memory grow with the number of rows of windows that are found, not with the scene.

        Args:
            tilings: as above.
            grounds: (P,) polygons in scene pixels each; None: everywhere.
        """
        blocks = np.array([(i, 0, tiling.n_rows, 0, tiling.n_columns) for i, tiling in enumerate(tilings)])
        places = _Places.of(tilings)
        wanted = [ground for ground in grounds if ground is not None]
        blocks = places.select(blocks.reshape(-1, 5), wanted) if wanted else blocks.reshape(-1, 5)
        # Each row of each block, those side by side joined to runs.
        n_rows = blocks[:, 2] - blocks[:, 1]
        block = np.repeat(np.arange(len(blocks)), n_rows)
        row = blocks[block, 1] + np.arange(len(block)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
        rows = np.column_stack([blocks[block, 0], row, blocks[block, 3:]])
        rows = rows[np.lexsort(rows.T[2::-1])]
        goes_on = (rows[1:, :2] == rows[:-1, :2]).all(axis=1) & (rows[1:, 2] == rows[:-1, 3])
        first = np.flatnonzero(np.concatenate([[True], ~goes_on])[: len(rows)])
        last = np.append(first[1:], len(rows))[: len(first)] - 1
        runs = np.column_stack([rows[first, :3], rows[last, 3]])
        return cls(tuple(tilings), runs[np.lexsort(places.low(*runs[:, :3].T).T)])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Window:
        run = int(np.searchsorted(self.ends, index, "right")) - 1
        return self.of_runs(run, run + 1)[index - int(self.ends[run])]

    def __iter__(self) -> Iterator[Window]:
        return iter(self.of_runs(0, len(self.runs)))

    @cached_property
    def ends(self) -> Int[np.ndarray, "R+1"]:
        """Number of windows before each run, and in all."""
        return np.concatenate([[0], np.cumsum(self.runs[:, 3] - self.runs[:, 2])])

    @cached_property
    def bounds(self) -> Int[np.ndarray, "R 4"]:
        """Corners x1, y1, x2, y2 of each run in scene pixels; y1 never decreases."""
        tiling, row, first, end = self.runs.T
        return np.hstack([self._places.low(tiling, row, first), self._places.high(tiling, row, end - 1)])

    @property
    def chip_size(self) -> int:
        """Side of a window in pixels."""
        return self.tilings[0].chip_size

    @property
    def overlap(self) -> int:
        """Minimum overlap of neighbours in pixels."""
        return self.tilings[0].overlap

    def of_runs(self, first: int, last: int) -> list[Window]:
        """Return the windows of the runs from `first` to before `last`."""
        runs, ends = self.runs[first:last], self.ends[first : last + 1]
        tiling, row, start, _ = np.repeat(runs, np.diff(ends), axis=0).T
        column = start + np.arange(ends[0], ends[-1]) - np.repeat(ends[:-1], np.diff(ends))
        low, high = self._places.low(tiling, row, column), self._places.high(tiling, row, column)
        return [Window(*place) for place in np.hstack([low, high - low]).tolist()]

    def frames(self, windows: Sequence[Window]) -> Frames:
        """Return some of the windows with what surrounds them."""
        own, places = np.array([window.xyxy for window in windows]).reshape(-1, 4), self._places
        tiling = np.zeros(len(own), int)
        if len(self.tilings) > 1:
            of, number = self._tree.query(shapely.points(own[:, :2] + 0.5))
            tiling[of] = number
        grounds = np.hstack([places.origins, places.origins + places.lengths])[tiling]
        column, row = -((grounds[:, :2] - own[:, :2]) // places.stride).T  # rounded up, for windows moved back
        before = places.high(tiling, np.maximum(row - 1, 0), np.maximum(column - 1, 0))
        after = places.low(tiling, row + 1, column + 1)  # at most that of the last one
        return Frames(own, grounds, np.hstack([before, after]))

    @cached_property
    def _places(self) -> _Places:
        return _Places.of(self.tilings)

    @cached_property
    def _tree(self) -> shapely.STRtree:
        return shapely.STRtree(shapely.box(*np.array([tiling.ground.xyxy for tiling in self.tilings]).T))


def check_stride(chip_size: int, overlap: int) -> None:
    """Raise if windows lie so close that each pixel is in more than a thousand of them.

    Raises:
        ArgumentError: with the largest overlap possible.
    """
    if 0 <= overlap < chip_size and (n_seen := (chip_size // (chip_size - overlap)) ** 2) > _MOST_SEEN:
        most = chip_size - math.ceil(chip_size / math.isqrt(_MOST_SEEN))
        raise ArgumentError(
            f"overlap={overlap} of chip_size={chip_size} puts each pixel into {n_seen:,} windows; "
            f"make overlap at most {most}"
        )


def plan_tilings(
    shape: tuple[int, int], chip_size: int, overlap: int, footprints: np.ndarray | None = None
) -> list[Tiling]:
    """Return a tiling of the scene, or one for each part where parts lie so far apart that no window holds two.

    Args:
        shape: (height, width) of the scene in pixels.
        chip_size: side of a window in pixels.
        overlap: minimum overlap of neighbours in pixels.
        footprints: (P,) outlines of the scene's files in its pixels; None: all of it.
    """
    whole = Tiling(shape, chip_size, overlap)
    if footprints is None:
        return [whole]
    parts = np.clip(pixels_of(footprints), 0, [*shape[::-1]] * 2)
    parts = _merge_near(parts[(parts[:, 2:] > parts[:, :2]).all(axis=1)], chip_size)
    return [Tiling((y2 - y1, x2 - x1), chip_size, overlap, x1, y1) for x1, y1, x2, y2 in parts.tolist()] or [whole]


def pixels_of(outlines: np.ndarray) -> Int[np.ndarray, "P 4"]:
    """Return bounds x1, y1, x2, y2 of the whole pixels that outlines intersect."""
    bounds = shapely.bounds(outlines)
    return np.hstack([np.floor(bounds[:, :2] + SLIVER), np.ceil(bounds[:, 2:] - SLIVER)]).astype(int)


def _merge_near(parts: Int[np.ndarray, "N 4"], gap: int) -> Int[np.ndarray, "_M 4"]:
    """Return rectangles, merged to their bounds until all are further apart than `gap`."""
    while True:
        grown = shapely.box(*(parts + np.array([-gap, -gap, gap, gap]) / 2).T)
        group = connected_components(len(parts), *shapely.STRtree(grown).query(grown))
        n_groups = int(group.max(initial=-1)) + 1
        if n_groups == len(parts):
            return parts
        joined = np.repeat([[np.iinfo(int).max] * 2 + [np.iinfo(int).min] * 2], n_groups, axis=0)
        np.minimum.at(joined[:, :2], group, parts[:, :2])
        np.maximum.at(joined[:, 2:], group, parts[:, 2:])
        parts = joined


@dataclass(frozen=True, eq=False)
class _Places:
    """Corners of many windows of T tilings at once.

    Args:
        origins: (T, 2) x and y of each tiling in the scene.
        lengths: (T, 2) its width and height.
        chip_size: side of a window.
        stride: distance of neighbouring windows.
    """

    origins: Int[np.ndarray, "T 2"]
    lengths: Int[np.ndarray, "T 2"]
    chip_size: int
    stride: int

    @classmethod
    def of(cls, tilings: Sequence[Tiling]) -> _Places:
        """Return the places of tilings that share chip size and stride."""
        grounds = np.array([tiling.ground.xyxy for tiling in tilings]).reshape(-1, 4)
        first = tilings[0]
        return cls(grounds[:, :2], grounds[:, 2:] - grounds[:, :2], first.chip_size, first.stride)

    def low(self, tiling: np.ndarray, row: np.ndarray, column: np.ndarray) -> Int[np.ndarray, "N 2"]:
        """Return upper left corners of windows in scene pixels, by tiling, row and column."""
        last = self.lengths[tiling] - self._sizes(tiling)
        return np.asarray(self.origins[tiling] + np.minimum(np.column_stack([column, row]) * self.stride, last))

    def high(self, tiling: np.ndarray, row: np.ndarray, column: np.ndarray) -> Int[np.ndarray, "N 2"]:
        """Return lower right corners of windows in scene pixels, by tiling, row and column."""
        return np.asarray(self.low(tiling, row, column) + self._sizes(tiling))

    def select(self, blocks: Int[np.ndarray, "B 5"], grounds: Sequence[np.ndarray]) -> Int[np.ndarray, "B 5"]:
        """Return blocks of windows all of which intersect a polygon of each of `grounds`.

        A block that intersects none is dropped with all its windows, one inside a polygon is kept whole, and others are
        divided in four until they are single windows.

        Args:
            blocks: tiling, first row, last row + 1, first column, last column + 1 of each.
            grounds: (P,) polygons each.
        """
        polygons = [shapely.get_parts(ground) for ground in grounds]
        found = [blocks[:0]]
        while len(blocks):
            tiling, row, row_end, column, column_end = blocks.T
            low, high = self.low(tiling, row, column), self.high(tiling, row_end - 1, column_end - 1)
            tree = shapely.STRtree(shapely.box(*(low + SLIVER).T, *(high - SLIVER).T))
            meets, inside = np.ones((2, len(blocks)), bool)
            for ground in polygons:
                meets &= _hit(tree, ground, "intersects")
                inside &= _hit(tree, ground, "covers")
            done = meets & (inside | ((row_end - row == 1) & (column_end - column == 1)))
            found.append(blocks[done])
            blocks = blocks[meets & ~done]
            for start, stop in ((1, 2), (3, 4)):  # halved between its rows, then between its columns, if it has several
                upper, lower = blocks.copy(), blocks.copy()
                upper[:, stop] = lower[:, start] = (blocks[:, start] + blocks[:, stop] + 1) // 2
                blocks = np.concatenate([upper, lower[lower[:, stop] > lower[:, start]]])
        return np.concatenate(found)

    def _sizes(self, tiling: np.ndarray) -> Int[np.ndarray, "N 2"]:
        return np.asarray(np.minimum(self.chip_size, self.lengths[tiling]))


def _hit(tree: shapely.STRtree, polygons: np.ndarray, predicate: str) -> np.ndarray:
    """Return for which of a tree's geometries the predicate holds with any polygon, (B,)."""
    hit = np.zeros(len(tree), bool)
    hit[tree.query(polygons, predicate)[1]] = True
    return hit

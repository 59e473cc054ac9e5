"""Random grids, boxes, tilings and windows for the laws."""

from __future__ import annotations

import numpy as np
from affine import Affine
from hypothesis import strategies as st
from pyproj import CRS

from geodetect.boxes import Boxes
from geodetect.grid import Grid, Tiling, Window

_UTM = CRS.from_epsg(32645)
_NICE = st.integers(-8, 48).map(lambda n: n * 4.0)  # few values, so that boxes touch, nest and coincide


def shapes(largest: int = 400) -> st.SearchStrategy[tuple[int, int]]:
    """(height, width) in pixels, 1 px rows and columns among them."""
    side = st.integers(1, largest)
    return st.tuples(side, side)


@st.composite
def grids(draw: st.DrawFn, largest: int = 400) -> Grid:
    """Grids in UTM: upright or rotated, of square pixels or not, north up or south up."""
    angle = draw(st.sampled_from([0.0, 0.0, 20.0, 90.0, 137.5]))
    size = draw(st.floats(0.02, 30))
    stretch = draw(st.sampled_from([1.0, 1.0, 0.5, 1.7]))
    up = draw(st.sampled_from([-1, -1, 1]))
    easting, northing = draw(st.floats(2e5, 8e5)), draw(st.floats(1e4, 9e6))
    place = Affine.translation(easting, northing) @ Affine.rotation(angle) @ Affine.scale(size, up * size * stretch)
    return Grid(draw(shapes(largest)), place, _UTM)


@st.composite
def boxes(draw: st.DrawFn, max_size: int = 40, *, scored: bool = True) -> Boxes:
    """None, one or more boxes of three classes: touching, nested, equal, without area, of equal score."""
    corner = st.one_of(_NICE, st.floats(-32, 192, width=32))
    side = st.one_of(st.sampled_from([0.0, 4.0, 8.0, 16.0, 32.0]), st.floats(0, 64, width=32))
    row = st.tuples(corner, corner, side, side, st.integers(0, 2), st.sampled_from([0.1, 0.5, 0.5, 0.8, 0.9]))
    rows = draw(st.lists(row, max_size=max_size))
    again = draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    table = np.array(rows + again, float).reshape(-1, 6)
    xyxy = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return Boxes(xyxy, table[:, 4], table[:, 5] if scored else None)


@st.composite
def tilings(draw: st.DrawFn, largest: int = 400) -> Tiling:
    """Tilings of scenes smaller and larger than a window, with and without overlap."""
    chip_size = draw(st.integers(1, 128))
    overlap = draw(st.integers(0, chip_size - 1))
    # A stride of 1 px over a large scene is a hundred thousand windows; nothing is learnt from them.
    reach = min(largest, chip_size + 12 * (chip_size - overlap))
    return Tiling(draw(shapes(reach)), chip_size, overlap)


@st.composite
def windows(draw: st.DrawFn, shape: tuple[int, int]) -> Window:
    """Windows inside a scene of `shape`."""
    height, width = shape
    x, y = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    return Window(x, y, draw(st.integers(1, width - x)), draw(st.integers(1, height - y)))

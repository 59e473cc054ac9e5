"""Conversion of boxes in scene pixels to map features.

Shapes: N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely
from jaxtyping import Float

from geodetect.boxes import Boxes
from geodetect.grid import Grid
from geodetect.vector.features import ANGLE
from geodetect.vector.geometry import units_m

_HALF_TURN = 180.0


def features_of(boxes: Boxes, grid: Grid, classes: Sequence[str], *, measure: bool = False) -> gpd.GeoDataFrame:
    """Return detections as features with `label` and `score`, and `angle_deg` if oriented, highest score first.

    Coordinates are pixels if the grid is not georeferenced.

    Args:
        boxes: in the grid's pixels.
        grid: of the scene.
        classes: names that the boxes' labels index.
        measure: add `area_m2`, and `width_m` and `height_m` along the grid's rows and columns, on the ground; of
            oriented boxes `area_m2`, `length_m` and `width_m` along their own sides.
    """
    boxes = boxes[boxes.rank()]
    frame = {"label": np.array(classes, dtype=object)[boxes.labels].astype(str), "score": boxes.scores}
    if boxes.oriented:
        frame[ANGLE] = _bearings(boxes, grid)
    if measure:
        frame |= _measured(boxes, grid)
    return gpd.GeoDataFrame(frame, geometry=_polygons(boxes, grid.in_plane()), crs=grid.crs)


def check_measurable(grid: Grid, *, measure: bool) -> None:
    """Raise if sizes on the ground are requested and cannot be computed.

    Raises:
        NotGeoreferenced: if pixels of the grid have no size in metres.
    """
    if measure:
        grid.pixel_sides_m_at(np.zeros((0, 2)))


def _polygons(boxes: Boxes, grid: Grid) -> np.ndarray:
    """Return the boxes as polygons in map coordinates with counter-clockwise corners, (N,)."""
    down_first = [0, 3, 2, 1]  # counter-clockwise where y points up on the map
    mirrored = grid.transform is not None and grid.transform.determinant > 0
    corners = boxes.corners[:, down_first[::-1] if mirrored else down_first]
    return np.asarray(shapely.polygons(grid.to_map(corners.reshape(-1, 2)).reshape(-1, 4, 2)))


def _sides(boxes: Boxes, grid: Grid, *, in_m: bool) -> Float[np.ndarray, "N 2 2"]:
    """Return the two sides of each box, along its own x and y, as vectors on the map, (east, north).

    Args:
        boxes: in the grid's pixels.
        grid: of the scene.
        in_m: by their lengths in metres on the ground, instead of units of the CRS.
    """
    plane, corners = grid.in_plane(), boxes.corners
    centres = plane.to_map(boxes.centres)
    ends = boxes.centres[:, None] + corners[:, [1, 3]] - corners[:, :1]
    sides = plane.to_map(ends.reshape(-1, 2)).reshape(-1, 2, 2) - centres[:, None]
    if in_m:
        assert grid.crs is not None
        sides = sides * units_m(centres, grid.crs)[:, None]
    return np.asarray(sides)


def _bearings(boxes: Boxes, grid: Grid) -> Float[np.ndarray, "N"]:
    """Return the direction of the longer side of each box on the map, clockwise from north, in degrees from 0 to 180.

    In degrees, steps east and north are compared by their lengths on the ground. Which side is longer may differ from
    the pixels, which need not be square. Without a transform, north is up.
    """
    sides = _sides(boxes, grid, in_m=grid.crs is not None and grid.crs.is_geographic)
    longer = np.hypot(*np.moveaxis(sides, -1, 0)).argmax(axis=1)
    east, north = sides[np.arange(len(sides)), longer].T
    bearings = np.rad2deg(np.arctan2(east, -north if grid.transform is None else north)) % _HALF_TURN
    return np.where(bearings < _HALF_TURN, bearings, 0.0)  # the remainder may be rounded up


def _measured(boxes: Boxes, grid: Grid) -> dict[str, Float[np.ndarray, "N"]]:
    """Return the columns of sizes on the ground."""
    sides = _sides(boxes, grid, in_m=True)
    area = np.abs(np.linalg.det(sides))  # rows and columns of a grid need not be at right angles on the ground
    if not boxes.oriented:
        width, height = (boxes.sizes * grid.pixel_sides_m_at(boxes.centres)).T
        return {"area_m2": area, "width_m": width, "height_m": height}
    lengths = np.hypot(*np.moveaxis(sides, -1, 0))
    return {"area_m2": area, "length_m": lengths.max(axis=1), "width_m": lengths.min(axis=1)}

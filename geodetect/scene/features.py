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
        sides_m = grid.pixel_sides_m_at(boxes.centres)
        if boxes.oriented:
            lengths = np.hypot(*np.moveaxis(_sides(boxes) * sides_m[:, None], -1, 0))
            frame["area_m2"] = boxes.sizes.prod(axis=1) * sides_m.prod(axis=1)
            frame |= {"length_m": lengths.max(axis=1), "width_m": lengths.min(axis=1)}
        else:
            width, height = (boxes.sizes * sides_m).T
            frame |= {"area_m2": width * height, "width_m": width, "height_m": height}
    down_first = [0, 3, 2, 1]  # counter-clockwise where y points up on the map
    plane = grid.in_plane()
    mirrored = plane.transform is not None and plane.transform.determinant > 0
    corners = boxes.corners[:, down_first[::-1] if mirrored else down_first]
    polygons = shapely.polygons(plane.to_map(corners.reshape(-1, 2)).reshape(-1, 4, 2))
    return gpd.GeoDataFrame(frame, geometry=polygons, crs=grid.crs)


def check_measurable(grid: Grid, *, measure: bool) -> None:
    """Raise if sizes on the ground are requested and cannot be computed.

    Raises:
        NotGeoreferenced: if pixels of the grid have no size in metres.
    """
    if measure:
        grid.pixel_sides_m_at(np.zeros((0, 2)))


def _sides(boxes: Boxes) -> Float[np.ndarray, "N 2 2"]:
    """Return the two sides of each box, along its own x and y, as vectors in pixels."""
    corners = boxes.corners
    return np.asarray(corners[:, [1, 3]] - corners[:, :1])


def _bearings(boxes: Boxes, grid: Grid) -> Float[np.ndarray, "N"]:
    """Return the direction of the longer side of each box on the map, clockwise from north, in degrees from 0 to 180.

    In degrees, steps east and north are compared by their lengths on the ground. Which side is longer may differ from
    the pixels, which need not be square. Without a transform, north is up.
    """
    plane = grid.in_plane()
    centres = plane.to_map(boxes.centres)
    sides = plane.to_map((_sides(boxes) + boxes.centres[:, None]).reshape(-1, 2)).reshape(-1, 2, 2) - centres[:, None]
    if grid.crs is not None and grid.crs.is_geographic:
        sides = sides * units_m(centres, grid.crs)[:, None]
    longer = np.hypot(*np.moveaxis(sides, -1, 0)).argmax(axis=1)
    east, north = sides[np.arange(len(sides)), longer].T
    bearings = np.rad2deg(np.arctan2(east, -north if grid.transform is None else north)) % _HALF_TURN
    return np.where(bearings < _HALF_TURN, bearings, 0.0)  # the remainder may be rounded up

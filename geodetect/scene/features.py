"""Conversion of boxes in scene pixels to map features."""

from __future__ import annotations

from collections.abc import Sequence

import geopandas as gpd
import numpy as np
import shapely

from geodetect.boxes import Boxes
from geodetect.grid import Grid


def features_of(boxes: Boxes, grid: Grid, classes: Sequence[str], *, measure: bool = False) -> gpd.GeoDataFrame:
    """Return detections as features with `label` and `score`, highest score first.

    Coordinates are pixels if the grid is not georeferenced.

    Args:
        boxes: in the grid's pixels.
        grid: of the scene.
        classes: names that the boxes' labels index.
        measure: add `area_m2`, and `width_m` and `height_m` along the grid's rows and columns, on the ground.
    """
    boxes = boxes[boxes.rank()]
    frame = {"label": np.array(classes, dtype=object)[boxes.labels].astype(str), "score": boxes.scores}
    if measure:
        width, height = (boxes.sizes * grid.pixel_sides_m_at(boxes.centres)).T
        frame |= {"area_m2": width * height, "width_m": width, "height_m": height}
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
    round_down_first = [[0, 1], [0, 3], [2, 3], [2, 1]]  # counter-clockwise where y points up on the map
    mirrored = grid.transform is not None and grid.transform.determinant > 0
    corners = boxes.xyxy[:, round_down_first[::-1] if mirrored else round_down_first]
    return np.asarray(shapely.polygons(grid.to_map(corners).reshape(-1, 4, 2)))

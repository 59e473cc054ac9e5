"""Where the scene's pixels lie on the ground, as far as the page has to know."""

from __future__ import annotations

from typing import Any

import numpy as np

from geodetect.errors import NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.features import name_crs

# Places a side at which the page knows longitude, latitude and the size of a pixel; it interpolates between them. On
# a scene of 100 km that is 6 km from place to place, over which the earth curves by less than a metre.
_PLACES = 17


def located(grid: Grid) -> dict[str, Any]:
    """The scene's size and place, as JSON holds them; None for whatever nobody knows.

    Returns:
        `name`, `width` and `height` in pixels, `transform` (a to f) to map coordinates, `crs` (its name), and where
        the pixels have a size on the ground: `sides_m` (width and height of one at the centre), `north` (a direction
        in pixels) and `places`: row by row, for each place of a lattice over the scene a unit vector to its longitude
        and latitude, and the width and height of a pixel there in metres. Vectors have no date line and no poles.
    """
    height, width = grid.shape
    scene: dict[str, Any] = {
        "name": grid.name,
        "width": width,
        "height": height,
        "transform": None if grid.transform is None else list(grid.transform[:6]),
        "crs": None if grid.crs is None else name_crs(grid.crs),
        "sides_m": None,
        "north": None,
        "places": None,
    }
    try:
        scene["sides_m"], scene["north"] = grid.pixel_sides_m, grid.north
    except NotGeoreferenced:
        return scene
    x, y = np.meshgrid(np.linspace(0, width, _PLACES), np.linspace(0, height, _PLACES))
    xy = np.column_stack([x.ravel(), y.ravel()])
    lon, lat = np.radians(grid.to_lonlat(xy)).T
    vectors = np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    known = np.column_stack([vectors, grid.pixel_sides_m_at(xy)])
    scene["places"] = [[None if np.isnan(value) else value for value in row] for row in known.tolist()]
    return scene

"""The content of the page as JSON: boxes in scene pixels, where detections are upright rectangles, and their place."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame

from geodetect.colours import class_colours
from geodetect.errors import NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.features import Features, name_crs

# The kinds of boxes; places.js has the same numbers. A label is drawn as long as no detection shown has found it.
UNJUDGED, RIGHT, WRONG, LABEL = range(4)
_TOLERANCE = 0.25  # pixels that an outline may deviate; circles round points have many vertices
_DECIMALS = 2  # of a pixel
_UPRIGHT = 1 - 1e-6  # share of its envelope that an upright rectangle fills, computed in floating point
# Places a side at which the page knows longitude, latitude and the size of a pixel; it interpolates between them. On
# a scene of 100 km that is 6 km from place to place, over which the earth curves by less than a metre.
_PLACES = 17


def describe_boxes(rows: GeoDataFrame, name: str, grid: Grid) -> dict[str, Any]:
    """Return the boxes of a page and their classes.

    Args:
        rows: polygons in any CRS with the columns label, score (NaN for none) and kind.
        name: what messages call them.
        grid: the scene's own pixels.

    Returns:
        `classes`: name and colour of each; `boxes`: for each box its class (an index), score, kind and outline, which
        is x1, y1, x2, y2 of an upright rectangle, or x and y of each corner; of several parts, their envelope.

    Raises:
        LabelsError: if none of the rows lies on the scene.
        NotGeoreferenced: if only one of them and the scene has a CRS.
    """
    polygons, source = Features(rows, name).to_pixels(grid, apart=False)
    rows = rows.iloc[source]
    envelopes = shapely.bounds(polygons)
    upright = shapely.area(polygons) >= _UPRIGHT * shapely.area(shapely.box(*envelopes.T))
    upright |= shapely.get_type_id(polygons) != shapely.GeometryType.POLYGON
    rings = shapely.simplify(shapely.get_exterior_ring(polygons), _TOLERANCE)
    outlines = [
        envelope if is_upright else shapely.get_coordinates(ring)[:-1].ravel()
        for envelope, ring, is_upright in zip(envelopes, rings, upright, strict=True)
    ]
    names, index = np.unique(rows["label"].to_numpy(str), return_inverse=True)
    return {
        "classes": [{"name": name, "colour": colour} for name, colour in class_colours(names.tolist()).items()],
        "boxes": {
            "class": index.tolist(),
            "score": [None if np.isnan(score) else score for score in rows["score"].tolist()],
            "kind": rows["kind"].tolist(),
            "outline": [np.round(outline, _DECIMALS).tolist() for outline in outlines],
        },
    }


def describe_scene(grid: Grid) -> dict[str, Any]:
    """Return the scene's size and place; None for unknown facts.

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

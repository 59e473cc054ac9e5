"""What the page draws: outlines in scene pixels, the frame in which detections are upright rectangles."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame

from geodetect.colours import class_colours
from geodetect.errors import LabelsError
from geodetect.grid import Grid
from geodetect.vector.features import Features

# What a box is; places.js has the same numbers. A label is drawn as long as no detection shown has found it.
UNJUDGED, RIGHT, WRONG, LABEL = range(4)
_TOLERANCE = 0.25  # pixels that an outline may deviate; circles round points have many vertices
_DECIMALS = 2  # of a pixel
_UPRIGHT = 1 - 1e-6  # share of its envelope that an upright rectangle fills, computed in floating point


def described(rows: GeoDataFrame, name: str, grid: Grid) -> dict[str, Any]:
    """The boxes of a page and their classes, as JSON holds them.

    Args:
        rows: polygons in any CRS with the columns label, score (NaN for none) and kind.
        name: what messages call them.
        grid: the scene's own pixels.

    Returns:
        `classes`: name and colour of each; `boxes`: for each box its class (an index), score, kind and outline, which
        is x1, y1, x2, y2 of an upright rectangle, or x and y of each corner.

    Raises:
        LabelsError: if none of the rows lies on the scene.
        NotGeoreferenced: if only one of them and the scene has a CRS.
    """
    placed, reached = Features(rows, name).to_pixels(grid, apart=False)
    rows = rows.iloc[reached]
    if len(placed) and not shapely.intersects(placed, shapely.box(0, 0, *grid.shape[::-1])).any():
        raise LabelsError(
            f"none of the features lies on {grid.name}; check that both are of one place, and their coordinate "
            "reference systems right"
        )
    names, index = np.unique(rows["label"].to_numpy(str), return_inverse=True)
    return {
        "classes": [{"name": name, "colour": colour} for name, colour in class_colours(names.tolist()).items()],
        "boxes": {
            "class": index.tolist(),
            "score": [None if np.isnan(score) else score for score in rows["score"].tolist()],
            "kind": rows["kind"].tolist(),
            "outline": _outlines(placed),
        },
    }


def _outlines(placed: np.ndarray) -> list[list[float]]:
    """The outline of each geometry; of one in several parts its envelope."""
    envelopes = shapely.bounds(placed)
    upright = shapely.area(placed) >= _UPRIGHT * shapely.area(shapely.box(*envelopes.T))
    upright |= shapely.get_type_id(placed) != shapely.GeometryType.POLYGON
    rings = shapely.simplify(shapely.get_exterior_ring(placed), _TOLERANCE)
    corners = [shapely.get_coordinates(ring)[:-1] for ring in rings]
    return [
        np.round(envelopes[k] if upright[k] else corners[k].ravel(), _DECIMALS).tolist() for k in range(len(placed))
    ]

"""Polygons in degrees where longitudes come round: at 180 degrees east and west."""

from __future__ import annotations

import math

import numpy as np
import shapely

_HALF, _WHOLE = 180.0, 360.0
_FAR = 1000.0  # degrees of latitude, beyond whatever may come


def cut_at_180(polygons: np.ndarray, *, reprojected: bool) -> np.ndarray:
    """The polygons (N,) with longitudes from -180 to 180; those that lie across that line become two parts.

    As RFC 7946 asks: "any geometry that crosses the antimeridian SHOULD be represented by cutting it in two"
    (https://datatracker.ietf.org/doc/html/rfc7946#section-3.1.9); KML has no other longitudes either.

    Args:
        polygons: in degrees.
        reprojected: whether corners on both sides of the line have come to lie at both ends of the map; a polygon wider
            than half of the earth is taken for such a one then.
    """
    x1, _, x2, _ = shapely.bounds(polygons).T
    torn = (x2 - x1 > _HALF) if reprojected else np.zeros(len(polygons), bool)
    cut = polygons.copy()
    for i in np.flatnonzero(torn | (x1 < -_HALF) | (x2 > _HALF)):
        cut[i] = _cut(_east(polygons[i]) if torn[i] else polygons[i])
    return cut


def _east(polygon: shapely.Geometry) -> shapely.Geometry:
    """A polygon with its western longitudes counted on beyond 180 degrees east."""
    return shapely.transform(polygon, lambda xy: np.where([True, False], xy % _WHOLE, xy))


def _cut(polygon: shapely.Geometry) -> shapely.Geometry:
    x1, _, x2, _ = polygon.bounds
    parts: list[shapely.Geometry] = []
    for turn in range(math.floor((x1 + _HALF) / _WHOLE), math.ceil((x2 + _HALF) / _WHOLE)):
        east = turn * _WHOLE
        half = shapely.intersection(polygon, shapely.box(east - _HALF, -_FAR, east + _HALF, _FAR))
        parts += shapely.get_parts(shapely.transform(half, lambda xy, east=east: xy - [east, 0.0])).tolist()
    areal = [part for part in parts if part.area > 0]
    return areal[0] if len(areal) == 1 else shapely.multipolygons(areal)

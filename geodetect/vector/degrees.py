"""Polygons in degrees where longitudes come round: at 180 degrees east and west."""

from __future__ import annotations

import math

import numpy as np
import shapely
from jaxtyping import Bool, Int

_HALF, _WHOLE = 180.0, 360.0
_AT_180 = 1e-6  # degrees, 0.1 m, by which a part may end before the line that it was cut at
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


def parts_of_cut(parts: np.ndarray, rows: Int[np.ndarray, "P"]) -> tuple[np.ndarray, Bool[np.ndarray, "P"]]:
    """Put together what was cut in two at 180 degrees, as GeoJSON and KML ask for.

    Args:
        parts: polygons and others, with finite longitudes and latitudes.
        rows: the feature that each is part of.

    Returns:
        the parts, the eastern half of an object now a multipolygon of both, and which of them to keep.
    """
    joined, kept = parts.copy(), np.ones(len(parts), bool)
    x1, _, x2, _ = shapely.bounds(parts).reshape(-1, 4).T
    narrow = (x2 - x1 < _HALF) & (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON)
    ends = np.flatnonzero(narrow & (np.abs(x2 - _HALF) < _AT_180))
    begins = np.flatnonzero(narrow & (np.abs(x1 + _HALF) < _AT_180))
    for west in begins[np.isin(rows[begins], rows[ends])]:
        beyond = _turned(parts[west], _HALF)
        mates = ends[rows[ends] == rows[west]]
        mates = mates[shapely.dwithin(parts[mates], beyond, 2 * _AT_180)]
        if len(mates):
            joined[mates[0]] = shapely.multipolygons([*shapely.get_parts(joined[mates[0]]), parts[west]])
            kept[west] = False
    return joined, kept


def near(geometry: np.ndarray, longitude: float) -> np.ndarray:
    """Geometries (N,) with longitudes counted so that each lies in one place, within half a turn of `longitude`.

    What is beyond two turns is no longitude, and stays as it is.
    """
    x1, _, x2, _ = shapely.bounds(geometry).reshape(-1, 4).T
    turned = geometry.copy()
    elsewhere = (np.abs((x1 + x2) / 2 - longitude) > _HALF) | (x2 - x1 > _HALF)
    for i in np.flatnonzero(elsewhere & (np.maximum(-x1, x2) <= 2 * _WHOLE)):
        parts = shapely.get_parts(geometry[i])
        if len(parts) > 1:
            first = _middle(parts[0])
            turned[i] = type(geometry[i])([_turned(part, first) for part in parts])
        turned[i] = _turned(turned[i], longitude)
    return turned


def _middle(geometry: shapely.Geometry) -> float:
    x1, _, x2, _ = geometry.bounds
    return float(x1 + x2) / 2


def _turned(geometry: shapely.Geometry, longitude: float) -> shapely.Geometry:
    east = _WHOLE * round((longitude - _middle(geometry)) / _WHOLE)
    return shapely.transform(geometry, lambda xy: xy + np.array([east, 0]))

"""Geometries as arrays: parts, repair, circles, outlines, and longitudes at 180 degrees.

Shapes: P geometries.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from geopandas import GeoSeries
from jaxtyping import Bool, Float, Int
from pyproj import CRS

from geodetect.grid import Grid

_MULTI = shapely.GeometryType.MULTIPOINT  # from here on types are made of others
_CIRCLE_CORNERS = 32
_STEP_DEG, _POLE_DEG = 1e-3, 90.0  # over how much the length of a degree is measured, and how far north at most
_SAME = 5e-3  # share of its width by which an outline may differ from a copy: 1 cm of a car, as GeoJSON may round it
_ENDLESS = 1e15  # larger than any map in any unit; files write "no number" as such values, shapefiles as -1e38
_FOUR_CORNERS = 5  # coordinates of a ring with four corners
_HALF, _WHOLE = 180.0, 360.0
_AT_180 = 1e-6  # degrees, 0.1 m, by which a part may end before the line that it was cut at
_FAR = 1000.0  # degrees of latitude, beyond all that may come


def split_parts(geometry: np.ndarray, source: Int[np.ndarray, "P"]) -> tuple[np.ndarray, Int[np.ndarray, "Q"]]:
    """Split multiparts and collections, nested ones too; return the parts and the source of each."""
    parts, which = shapely.get_parts(geometry, return_index=True)
    parts, which = parts[~shapely.is_empty(parts)], which[~shapely.is_empty(parts)]
    if (shapely.get_type_id(parts) >= _MULTI).any():
        return split_parts(parts, source[which])
    return parts, source[which]


def is_finite(geometry: np.ndarray) -> Bool[np.ndarray, "P"]:
    """Return whether all coordinates of each geometry are finite; bounds do not tell, as they leave NaN out."""
    coordinates, which = shapely.get_coordinates(geometry, return_index=True)
    finite = np.ones(len(geometry), bool)
    finite[which[~(np.abs(coordinates) < _ENDLESS).all(axis=1)]] = False
    return finite


def exceeds_degrees(geometry: GeoSeries) -> bool:
    """Return whether coordinates said to be degrees cannot be any.

    GeoJSON has no way to say that it has no CRS: all it holds is read as degrees, pixels too.
    """
    bounds = geometry.bounds.to_numpy()
    low_x, low_y, high_x, high_y = bounds[np.isfinite(bounds).all(axis=1)].T
    beyond = (low_x < -360) | (low_y < -360) | (high_x > 360) | (high_y > 90)  # noqa: PLR2004
    return bool(geometry.crs.is_geographic and beyond.any())


def make_valid(polygons: np.ndarray) -> np.ndarray:
    """Make polygons valid, each still one object, which may have several parts; None where no area is left.

    A ring of four corners that crosses itself has two of them swapped: its convex hull is what was meant.
    """
    polygons = polygons.copy()
    bad = np.flatnonzero(~shapely.is_valid(polygons))
    hulls = shapely.convex_hull(polygons[bad])
    swapped = (shapely.get_num_coordinates(polygons[bad]) == _FOUR_CORNERS) & (
        shapely.get_num_coordinates(hulls) == _FOUR_CORNERS
    )
    polygons[bad[swapped]] = hulls[swapped]
    # shapely's may leave lines and points beside the polygons; buffer takes only what has an area.
    polygons[bad[~swapped]] = shapely.buffer(shapely.make_valid(polygons[bad[~swapped]]), 0)
    polygons[~(shapely.area(polygons) > 0)] = None
    return polygons


def circles(centres: Float[np.ndarray, "P 2"], radius_m: float, crs: CRS | None) -> np.ndarray:
    """Return circles of one radius on the ground; in units of the plane where there is no CRS.

    Args:
        centres: in the coordinates of `crs`.
        radius_m: metres.
        crs: of the result too, where circles may be ellipses.
    """
    angle = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) * radius_m
    unit = np.ones((len(centres), 2)) if crs is None else units_m(centres, crs)
    return np.asarray(shapely.polygons(centres[:, None] + ring / unit[:, None]), dtype=object)


def units_m(xy: Float[np.ndarray, "P 2"], crs: CRS) -> Float[np.ndarray, "P 2"]:
    """Return the length in metres on the ground of a step of 1 in x and in y, at each place in a CRS."""
    step = _STEP_DEG if crs.is_geographic else 1.0
    known = xy[np.abs(xy[:, 1]) <= _POLE_DEG] if crs.is_geographic else xy
    if not len(known):  # no degrees at all, and so on no map either
        return np.ones_like(xy)
    middle = np.median(known, axis=0)
    around = Grid((1, 1), Affine.translation(*middle) @ Affine.scale(step), crs, "the map")
    sides = around.pixel_sides_m_at((xy - middle) / step)
    # Where the CRS reaches no longitude, and no step has a length, take the length in the middle.
    return np.where(sides > 0, sides, around.pixel_sides_m) / step


def number_outlines(polygons: np.ndarray) -> Int[np.ndarray, "P"]:
    """Number the outlines of polygons: those that differ by rounding, or by where their rings begin, are one.

    Args:
        polygons: valid, with an area.
    """
    number, _ = pd.factorize(shapely.to_wkb(shapely.normalize(polygons)))
    first = np.unique(number, return_index=True)[1]
    some = polygons[first]
    bounds = shapely.bounds(some).reshape(-1, 4)
    slack = _SAME * shapely.area(some) / (bounds[:, 2:] - bounds[:, :2]).max(axis=1, initial=0)
    centres = shapely.points((bounds[:, :2] + bounds[:, 2:]) / 2)
    i, j = shapely.STRtree(centres).query(centres, predicate="dwithin", distance=2 * slack)
    i, j = i[i < j], j[i < j]
    alike = shapely.hausdorff_distance(some[i], some[j]) <= slack[i]
    same = np.arange(len(some))
    for earlier, later in sorted(zip(i[alike].tolist(), j[alike].tolist(), strict=True)):
        same[later] = min(same[later], same[earlier])
    return np.asarray(same[number])


def cut_at_180(polygons: np.ndarray, *, reprojected: bool) -> np.ndarray:
    """Return polygons with longitudes from -180 to 180; one that lies across that line becomes a multipolygon.

    As RFC 7946 asks: "any geometry that crosses the antimeridian SHOULD be represented by cutting it in two"
    (https://datatracker.ietf.org/doc/html/rfc7946#section-3.1.9); KML has no other longitudes either.

    Args:
        polygons: in degrees.
        reprojected: whether a polygon wider than half of the earth has its corners at both ends of the map, because it
            lies across the line.
    """
    x1, _, x2, _ = shapely.bounds(polygons).T
    torn = (x2 - x1 > _HALF) if reprojected else np.zeros(len(polygons), bool)
    cut = polygons.copy()
    for i in np.flatnonzero(torn | (x1 < -_HALF) | (x2 > _HALF)):
        # Western longitudes are counted on beyond 180 degrees east, which makes a torn polygon whole.
        whole = (
            shapely.transform(polygons[i], lambda xy: np.where([True, False], xy % _WHOLE, xy))
            if torn[i]
            else polygons[i]
        )
        west, _, east, _ = whole.bounds
        parts: list[shapely.Geometry] = []
        for turn in range(math.floor((west + _HALF) / _WHOLE), math.ceil((east + _HALF) / _WHOLE)):
            middle = turn * _WHOLE
            part = shapely.intersection(whole, shapely.box(middle - _HALF, -_FAR, middle + _HALF, _FAR))
            parts += shapely.get_parts(shapely.transform(part, lambda xy, x=middle: xy - [x, 0.0])).tolist()
        areal = [part for part in parts if part.area > 0]
        cut[i] = areal[0] if len(areal) == 1 else shapely.multipolygons(areal)
    return cut


def join_cut(parts: np.ndarray, rows: Int[np.ndarray, "P"]) -> tuple[np.ndarray, Bool[np.ndarray, "P"]]:
    """Join geometries that were cut at 180 degrees, as GeoJSON and KML require.

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
        beyond = _shift(parts[west], _HALF)
        mates = ends[rows[ends] == rows[west]]
        mates = mates[shapely.dwithin(parts[mates], beyond, 2 * _AT_180)]
        if len(mates):
            joined[mates[0]] = shapely.multipolygons([*shapely.get_parts(joined[mates[0]]), parts[west]])
            kept[west] = False
    return joined, kept


def shift_near(geometry: np.ndarray, longitude: float) -> np.ndarray:
    """Shift geometries by whole turns, so that each lies in one place, within half a turn of a longitude.

    Values beyond two turns are no longitudes, and stay as they are.
    """
    x1, _, x2, _ = shapely.bounds(geometry).reshape(-1, 4).T
    shifted = geometry.copy()
    elsewhere = (np.abs((x1 + x2) / 2 - longitude) > _HALF) | (x2 - x1 > _HALF)
    for i in np.flatnonzero(elsewhere & (np.maximum(-x1, x2) <= 2 * _WHOLE)):
        parts = shapely.get_parts(geometry[i])
        if len(parts) > 1:
            first = _middle(parts[0])
            shifted[i] = type(geometry[i])([_shift(part, first) for part in parts])
        shifted[i] = _shift(shifted[i], longitude)
    return shifted


def _middle(geometry: shapely.Geometry) -> float:
    x1, _, x2, _ = geometry.bounds
    return float(x1 + x2) / 2


def _shift(geometry: shapely.Geometry, longitude: float) -> shapely.Geometry:
    turns = round((longitude - _middle(geometry)) / _WHOLE)
    return shapely.transform(geometry, lambda xy: xy + np.array([turns * _WHOLE, 0]))

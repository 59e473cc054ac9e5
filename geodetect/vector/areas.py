"""Areas of interest: vector files, frames, geometries or corners, in the CRS and the pixels of rasters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj import CRS

from geodetect.errors import ArgumentError, LabelsError, is_number, warn
from geodetect.grid import Grid
from geodetect.vector.datum import warn_of_datum
from geodetect.vector.features import (
    AREAL,
    BEYOND,
    FLAT,
    NO_AREAS,
    NO_GEOMETRY,
    POINT,
    Features,
    Objects,
    Placement,
    Target,
    describe_lost,
    no_overlap,
)
from geodetect.vector.geometry import make_valid
from geodetect.vector.opening import Area, open_features

_CORNERS = 4  # numbers that make a rectangle: x1, y1, x2, y2


def read_area(aoi: Area, grid: Grid) -> shapely.Geometry:
    """Read an area of interest as one polygon or multipolygon in scene pixels.

    Args:
        aoi: a vector file or frame in any CRS, or geometries or (x1, y1, x2, y2) in the raster's.
        grid: of the raster.

    Raises:
        LabelsError: if it cannot be read, holds no polygons, or does not meet the raster.
        NotGeoreferenced: if only one of it and the raster has a CRS.
        ArgumentError: if it is numbers that make no rectangle.
    """
    return read_areas(aoi, [grid])[0]


def read_areas(aoi: Area, grids: Sequence[Grid]) -> list[shapely.Geometry]:
    """Read an area of interest in the pixels of several rasters, one of which it must meet; empty on the others.

    Args:
        aoi: as in `read_area`; geometries and numbers are in the CRS of the first raster.
        grids: of the rasters.

    Raises:
        GeodetectError: as `read_area`.
    """
    features = open_area(aoi, grids[0].crs)
    by_crs: dict[CRS | None, Placement] = {}
    areas, problem = [], None
    for grid in grids:
        if grid.crs not in by_crs:
            target = Target.of_grid(grid, features)
            try:
                by_crs[grid.crs] = place_area(features, target)
            except LabelsError as error:
                by_crs[grid.crs] = Placement(np.zeros(0, object), np.zeros(0, int), target.crs)
                problem = problem or error
        polygons = make_valid(by_crs[grid.crs].to_pixels(grid))
        areas.append(shapely.union_all(polygons[shapely.intersects(polygons, shapely.box(0, 0, *grid.shape[::-1]))]))
    if all(area.is_empty for area in areas):
        raise problem or no_overlap(by_crs[grids[0].crs].geometry, grids[0], features.name)
    return areas


def open_area(aoi: Area, crs: CRS | None) -> Features:
    """Read an area of interest; messages call it "the aoi".

    Args:
        aoi: features, one or several shapely geometries, or (x1, y1, x2, y2).
        crs: of bare geometries and numbers.

    Raises:
        ArgumentError: if numbers are not two corners of a rectangle.
        GeodetectError: as `open_features`, and for any other kind of value.
    """
    several: list[Any] = list(aoi) if isinstance(aoi, Sequence | np.ndarray) and not isinstance(aoi, str) else [aoi]
    if several and all(isinstance(each, Real) for each in several):
        expected = f"an aoi of numbers must be (x1, y1, x2, y2), two corners; got ({', '.join(map(str, several))})"
        if len(several) != _CORNERS or not all(map(is_number, several)):
            raise ArgumentError(f"{expected}, which are not four finite numbers")
        (x1, x2), (y1, y2) = sorted(map(float, several[::2])), sorted(map(float, several[1::2]))
        if x1 == x2 or y1 == y2:
            raise ArgumentError(f"{expected}, which has no area")
        several = [shapely.box(x1, y1, x2, y2)]
    if several and all(isinstance(each, shapely.Geometry) for each in several):
        return Features(GeoDataFrame(geometry=several, crs=crs), "the aoi")
    is_frame = isinstance(aoi, GeoDataFrame | GeoSeries)
    if not (is_frame or (several and all(isinstance(each, str | Path) for each in several))):
        raise LabelsError(
            "an aoi must be a vector file, a GeoDataFrame, a shapely geometry, or (x1, y1, x2, y2); "
            f"got {type(aoi).__name__}"
        )
    try:
        features = open_features(aoi, "the aoi")
    except LabelsError as error:
        raise LabelsError(f"aoi: {error}") from error
    return features if is_frame else replace(features, name=f"the aoi {features.name}")


def place_area(features: Features, target: Target) -> Placement:
    """Bring the polygons of an area of interest into a CRS; warn of features left out, and of the datum shift.

    Raises:
        LabelsError: if there are no polygons with an area, or no transformation leads to this CRS.
    """
    objects = Objects.of(features)
    kinds = shapely.get_type_id(objects.geometry)
    objects.leave_out(kinds == POINT, "points")
    objects.leave_out(~np.isin(kinds, AREAL), NO_AREAS)
    if objects.lost.keys() - {NO_GEOMETRY} and len(objects.used):
        left_out = describe_lost(objects.lost)
        warn(f"{features.name}: left out {left_out}; only polygons with finite coordinates make an aoi")
    reached = objects.place(target)
    polygons = reached.to_polygons()
    if not len(polygons.numbers):
        for numbers, reason in ((reached.numbers, BEYOND), (polygons.numbers, FLAT)):
            objects.leave_out(np.setdiff1d(objects.used, numbers), reason)
        because = f" ({describe_lost(objects.lost)})" if objects.lost else ""
        raise LabelsError(f"{features.name} must hold polygons{because}; an aoi is made of polygons with an area")
    warn_of_datum(features, target)
    return polygons

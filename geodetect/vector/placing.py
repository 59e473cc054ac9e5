"""Features in the pixels of a raster, in whichever CRS they are.

Shapes: N features as they are read, P parts of them.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import shapely
from geopandas import GeoSeries
from jaxtyping import Float
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geodetect.errors import LabelsError, NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.opening import Features

_POLYGON = shapely.GeometryType.POLYGON
_MULTI = shapely.GeometryType.MULTIPOINT  # from here on types are made of others


def pixel_parts(features: Features, grid: Grid, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Single geometries in scene pixels, and which feature each is part of; in the plane, finite.

    Raises:
        LabelsError: if none has a place in the raster's CRS.
        NotGeoreferenced: if only one of them and the raster has a CRS.
    """
    parts, source = single_parts(features, lost)
    placed, reached = in_pixels(parts, features, grid)
    lost["beyond the raster's CRS"] += len(parts) - len(reached)
    return placed, source[reached]


def single_parts(features: Features, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Single geometries in the plane, and which feature each is part of."""
    flat = shapely.force_2d(np.asarray(features.frame.geometry.array, dtype=object))
    empty = shapely.is_missing(flat) | shapely.is_empty(flat)
    lost["without geometry"] += int(empty.sum())
    return _single(flat[~empty], np.flatnonzero(~empty))


def in_pixels(parts: np.ndarray, features: Features, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Geometries in scene pixels, and which of all parts they are: those that have a place in the raster's CRS.

    Raises:
        LabelsError: if none has.
        NotGeoreferenced: if only one of them and the raster has a CRS.
    """
    crs = _common_crs(features.frame.geometry, grid, features.name)
    placed = _reprojected(parts, crs, grid, features.name)
    reached = np.flatnonzero(np.isfinite(shapely.bounds(placed)).all(axis=1))
    if len(parts) and not len(reached):
        raise LabelsError(
            f"none of {features.name} has coordinates in the CRS of {grid.name}; "
            f"is {features.frame.crs} really its own?"
        )
    return shapely.transform(placed[reached], grid.in_plane().to_pixel), reached


def _single(geometry: np.ndarray, source: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Multiparts and collections taken apart, collections in collections too."""
    parts, which = shapely.get_parts(geometry, return_index=True)
    parts, which = parts[~shapely.is_empty(parts)], which[~shapely.is_empty(parts)]
    if (shapely.get_type_id(parts) >= _MULTI).any():
        return _single(parts, source[which])
    return parts, source[which]


def _common_crs(geometry: GeoSeries, grid: Grid, name: str) -> CRS | None:
    """The CRS that labels are in; None where they lie in the raster's own plane.

    Raises:
        NotGeoreferenced: if one of labels and raster has a CRS and the other has not.
    """
    crs: CRS | None = geometry.crs
    if grid.crs is None and (crs is None or no_degrees(geometry)):
        return None
    if crs is None:
        raise NotGeoreferenced(
            f"{name} has no coordinate reference system, so nobody knows where on {grid.name} it lies; "
            "assign one (GeoDataFrame.set_crs, or ogr2ogr -a_srs)"
        )
    if grid.crs is None:
        # A raster's CRS counts for nothing without a transform, so the transform is what is missed first.
        lacks = "transform" if grid.transform is None else "coordinate reference system"
        corners = " -a_ullr ..." if grid.transform is None else ""
        raise NotGeoreferenced(
            f"{grid.name} has no {lacks}, so {name} in {called(crs)} cannot be placed on it; "
            f"assign one to the raster (gdal_edit.py -a_srs EPSG:...{corners}){_or_pixels(name)}"
        )
    return crs


def _or_pixels(name: str) -> str:
    """What else may be meant where a file cannot say that it has no CRS: https://datatracker.ietf.org/doc/html/rfc7946."""
    if not name.lower().endswith((".geojson", ".json")):
        return ""
    return "; GeoJSON is in WGS 84 by its standard: labels in pixels have to come as a .gpkg or a frame without a CRS"


def no_degrees(geometry: GeoSeries) -> bool:
    """Whether coordinates said to be degrees cannot be any.

    GeoJSON has no way to say that it has no CRS: whatever it holds is read as degrees, pixels too.
    """
    low_x, low_y, high_x, high_y = geometry.total_bounds
    return bool(geometry.crs.is_geographic and (min(low_x, low_y) < -360 or high_x > 360 or high_y > 90))  # noqa: PLR2004


def _reprojected(geometry: np.ndarray, crs: CRS | None, grid: Grid, name: str) -> np.ndarray:
    """The geometries in the raster's map coordinates; not finite where those do not reach."""
    if crs is None or grid.crs is None or crs == grid.crs:
        return geometry
    try:
        move = Transformer.from_crs(crs, grid.crs, always_xy=True)
        return _moved(geometry, move)
    except ProjError as error:
        raise LabelsError(
            f"{name} cannot be brought from {called(crs)} into the CRS of {grid.name}, {called(grid.crs)}: {error}"
        ) from error


def _moved(geometry: np.ndarray, move: Transformer) -> np.ndarray:
    def moved(xy: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P 2"]:
        return np.column_stack(move.transform(xy[:, 0], xy[:, 1]))

    return np.asarray(shapely.transform(geometry, moved), dtype=object)


def mended(parts: np.ndarray, source: np.ndarray, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """The valid polygons with an area that polygons are made of; other geometries are left out."""
    areal = shapely.get_type_id(parts) == _POLYGON
    lost["lines"] += int((~areal).sum())
    parts, source = parts[areal], source[areal]
    bad = ~shapely.is_valid(parts)
    parts[bad] = shapely.make_valid(parts[bad])
    single, which = _single(parts, np.arange(len(parts)))
    good = (shapely.get_type_id(single) == _POLYGON) & (shapely.area(single) > 0)
    lost["without area"] += len(parts) - len(np.unique(which[good]))
    return single[good], source[which[good]]


def called(crs: CRS) -> str:
    """A CRS in a few letters: EPSG:32645 where it has a code, else its name."""
    return ":".join(crs.to_authority() or ()) or str(crs.name)

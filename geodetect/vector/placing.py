"""Objects in another CRS, and in the pixels of a raster.

Shapes: O objects of features, P of them that have a place, V coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from geopandas import GeoSeries
from jaxtyping import Float, Int
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geodetect.errors import LabelsError, NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.degrees import near
from geodetect.vector.objects import Objects, circles, is_finite, mended, objects_of
from geodetect.vector.opening import Features

_POINT = shapely.GeometryType.POINT


@dataclass(frozen=True, eq=False)
class Placed:
    """Objects in the coordinates of one CRS.

    Args:
        geometry: (P,) finite, in the plane.
        numbers: (P,) which of the objects each is.
    """

    geometry: np.ndarray
    numbers: Int[np.ndarray, "P"]

    def solid(self, crs: CRS | None, radius_m: float | None) -> Placed:
        """The objects as valid polygons, points as circles; without those that have no area.

        Args:
            crs: of the coordinates; None for a plane, whose units the radius is in then.
            radius_m: of the circles, in metres on the ground; needed only where there are points.
        """
        polygons = self.geometry.copy()
        points = shapely.get_type_id(polygons) == _POINT
        if points.any():
            assert radius_m is not None
            polygons[points] = circles(shapely.get_coordinates(polygons[points]), radius_m, crs)
        polygons = mended(polygons)
        kept = ~shapely.is_missing(polygons)
        return Placed(polygons[kept], self.numbers[kept])


def placed(objects: Objects, crs: CRS | None, there: str, longitude: float | None) -> Placed:
    """Bring the objects that are used into a CRS; those that it does not reach are missing from the result.

    Args:
        objects: of features that are in a CRS, unless `crs` is None.
        crs: where to; None where all lie in one plane.
        there: what messages call what is in this CRS.
        longitude: where it lies, if the CRS has longitudes, which count from there then; None where nobody knows.

    Raises:
        LabelsError: if no way leads from one CRS to the other.
    """
    used = objects.used
    geometry = objects.geometry[used]
    if crs is not None:
        files = objects.features.files or (objects.features,)
        ends = np.cumsum([len(each.frame) for each in files])
        file = np.searchsorted(ends, objects.rows[used], side="right")
        for number, each in enumerate(files):
            own = file == number
            geometry[own] = moved(geometry[own], each.frame.crs, crs, name=each.name, there=there)
    reached = is_finite(geometry)
    geometry = geometry[reached]
    return Placed(geometry if longitude is None else near(geometry, longitude), used[reached])


def longitude_of(grid: Grid) -> float | None:
    """That of a raster's centre; None where it has none."""
    if grid.crs is None or not grid.crs.is_geographic or grid.transform is None:
        return None
    return float(grid.to_map(np.array([grid.shape[::-1]]) / 2)[0, 0])


def moved(geometry: np.ndarray, crs: CRS | None, to: CRS | None, *, name: str, there: str) -> np.ndarray:
    """Bring geometries from one CRS into another; they are not finite where it does not reach.

    Args:
        geometry: finite.
        crs: of the geometries; None for those that stay as they are.
        to: where to; None likewise.
        name: what messages call the geometries.
        there: what messages call what is in the other CRS.

    Raises:
        LabelsError: if no way leads from one to the other.
    """
    if crs is None or to is None or crs == to:
        return geometry
    try:
        move = Transformer.from_crs(crs, to, always_xy=True)

        def move_all(xy: Float[np.ndarray, "V 2"]) -> Float[np.ndarray, "V 2"]:
            return np.column_stack(move.transform(xy[:, 0], xy[:, 1]))

        return np.asarray(shapely.transform(geometry, move_all), dtype=object)
    except ProjError as error:
        raise LabelsError(
            f"{name} cannot be brought from {called(crs)} into the CRS of {there}, {called(to)}: {error}"
        ) from error


def pixel_parts(features: Features, grid: Grid, *, apart: bool = True) -> tuple[np.ndarray, Int[np.ndarray, "P"]]:
    """Return the geometries of features in scene pixels, as they are drawn, and which feature each is part of.

    Args:
        features: in any CRS.
        grid: of the scene.
        apart: take multiparts apart; else each feature is one geometry.

    Raises:
        LabelsError: if none has a place in the raster's CRS.
        NotGeoreferenced: if only one of them and the raster has a CRS.
    """
    objects = objects_of(features, apart=apart)
    here = placed(objects, common_crs(features, grid), grid.name, longitude_of(grid))
    if len(objects.used) and not len(here.numbers):
        raise nowhere(features, grid)
    return shapely.transform(here.geometry, grid.in_plane().to_pixel), objects.rows[here.numbers]


def nowhere(features: Features, grid: Grid) -> LabelsError:
    """The error to raise when no feature has a place in the raster's CRS."""
    return LabelsError(
        f"none of {features.name} has coordinates in the CRS of {grid.name}; is {features.frame.crs} really its own?"
    )


def common_crs(features: Features, grid: Grid) -> CRS | None:
    """Return the CRS to bring features into, the raster's; None where they lie in its own plane.

    Raises:
        NotGeoreferenced: if one of them and the raster has a CRS and the other has not.
    """
    geometry, name = features.frame.geometry, features.name
    if grid.crs is None and (geometry.crs is None or no_degrees(geometry)):
        return None
    if geometry.crs is None:
        raise NotGeoreferenced(
            f"{name} has no coordinate reference system, so nobody knows where on {grid.name} it lies; "
            "assign one (GeoDataFrame.set_crs, or ogr2ogr -a_srs)"
        )
    if grid.crs is None:
        # A raster's CRS counts for nothing without a transform, so the transform is what is missed first.
        lacks = "transform" if grid.transform is None else "coordinate reference system"
        corners = " -a_ullr ..." if grid.transform is None else ""
        raise NotGeoreferenced(
            f"{grid.name} has no {lacks}, so {name} in {called(geometry.crs)} cannot be placed on it; "
            f"assign one to the raster (gdal_edit.py -a_srs EPSG:...{corners}){_or_pixels(name)}"
        )
    return grid.crs


def _or_pixels(name: str) -> str:
    """What else may be meant where a file cannot say that it has no CRS: https://datatracker.ietf.org/doc/html/rfc7946."""
    if not name.lower().endswith((".geojson", ".json")):
        return ""
    return "; GeoJSON is in WGS 84 by its standard: labels in pixels have to come as a .gpkg or a frame without a CRS"


def no_degrees(geometry: GeoSeries) -> bool:
    """Whether coordinates said to be degrees cannot be any.

    GeoJSON has no way to say that it has no CRS: whatever it holds is read as degrees, pixels too.
    """
    bounds = geometry.bounds.to_numpy()
    low_x, low_y, high_x, high_y = bounds[np.isfinite(bounds).all(axis=1)].T
    beyond = (low_x < -360) | (low_y < -360) | (high_x > 360) | (high_y > 90)  # noqa: PLR2004
    return bool(geometry.crs.is_geographic and beyond.any())


def called(crs: CRS) -> str:
    """A CRS in a few letters: EPSG:32645 where it has a code, else its name."""
    return ":".join(crs.to_authority() or ()) or str(crs.name)

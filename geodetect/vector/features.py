"""Features of vector files: as they are read, as single objects, and in another CRS.

Shapes: N features, O objects (the parts of features), P objects that have a place in a CRS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from jaxtyping import Bool, Float, Int
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geodetect.errors import LabelsError, NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.classes import as_text
from geodetect.vector.geometry import circles, exceeds_degrees, is_finite, join_cut, make_valid, shift_near, split_parts

# Why an object is dropped, in the order of reports.
NO_CLASS = "without a class"
DROPPED = "dropped by class_mapping"
NO_GEOMETRY = "without geometry"
NOT_FINITE = "without finite coordinates"
NO_AREAS = "lines"
BEYOND = "beyond the raster's CRS"
FLAT = "without area"
REPEATED = "duplicates"
OUTSIDE = "outside the raster"
_ORDER = (NO_CLASS, DROPPED, NO_GEOMETRY, NOT_FINITE, NO_AREAS, BEYOND, FLAT, REPEATED, OUTSIDE)

POINT = shapely.GeometryType.POINT
ANGLE = "angle_deg"  # column of oriented detections: the bearing of the longer side, from 0 to below 180
AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)  # one of two parts is cut at 180 degrees


@dataclass(frozen=True, eq=False)
class Features:
    """Features as they were read.

    Args:
        frame: their geometry and columns, in any CRS or none.
        name: what messages call them.
        stem: the file's name without its suffix; None for a frame.
        note: what was not read from the file; empty if everything was.
        files: where several files were read together, each of them, in the order of the frame's rows.
    """

    frame: GeoDataFrame
    name: str
    stem: str | None = None
    note: str = ""
    files: tuple[Features, ...] = ()

    @property
    def by_file(self) -> Sequence[Features]:
        """The features of each file."""
        return self.files or (self,)

    def class_names(self, label_field: str | None) -> np.ndarray:
        """Return the class of each feature as text, None where it has none; (N,) objects.

        Each of several files has its own column, or else its own name as the class.

        Args:
            label_field: column of the class; None takes `label` where there is one.

        Raises:
            LabelsError: if there is no such column, or it holds lists and the like.
        """
        if self.files:
            return np.concatenate([each.class_names(label_field) for each in self.files])
        columns = [name for name in self.frame.columns if name != self.frame.active_geometry_name]
        column = label_field or ("label" if "label" in self.frame.columns else None)
        if column is None:
            values: list[Any] = [self.stem or "object"] * len(self.frame)
        elif column in columns:
            values = self.frame[column].tolist()
        else:
            known = ", ".join(map(str, columns))
            raise LabelsError(f"{self.name} has no column {column!r} for label_field; it has {known or 'none at all'}")
        if odd := [value for value in values if not pd.api.types.is_scalar(value)]:
            raise LabelsError(f"classes must be texts or numbers; {self.name} has {odd[0]!r} in its column {column!r}")
        names = np.empty(len(values), object)
        names[:] = list(map(as_text, values))
        return names

    def to_pixels(self, grid: Grid, *, apart: bool = True) -> tuple[np.ndarray, Int[np.ndarray, "P"]]:
        """Return the geometries in scene pixels, not mended, and the row of the feature that each is part of.

        Args:
            grid: of the scene.
            apart: split multiparts; else each feature is one geometry.

        Raises:
            LabelsError: if none lies on the scene.
            NotGeoreferenced: if only one of them and the raster has a CRS.
        """
        objects, target = Objects.of(self, apart=apart), Target.of_grid(grid, self)
        placement = objects.place(target)
        if len(objects.used) and not len(placement.numbers):
            raise no_place(self, target)
        geometry = placement.to_pixels(grid)
        if len(geometry) and not shapely.intersects(geometry, shapely.box(0, 0, *grid.shape[::-1])).any():
            raise LabelsError(
                f"none of {self.name} lies on {grid.name}; check that both are of one place, and their coordinate "
                "reference systems right"
            )
        return geometry, objects.rows[placement.numbers]


@dataclass(eq=False)
class Objects:
    """The single objects of features, each with the reason for which it is dropped.

    Args:
        features: where they come from.
        names: (O,) class of each; None if it has no class.
        geometry: (O,) in the plane, in the CRS of the file that each comes from.
        rows: (O,) the feature that each is, or is part of.
        reasons: (O,) text; empty for those that are used.
        notes: further remarks for the report.
    """

    features: Features
    names: np.ndarray
    geometry: np.ndarray
    rows: Int[np.ndarray, "O"]
    reasons: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, features: Features, names: np.ndarray | None = None, *, apart: bool = True) -> Objects:
        """Split features into single objects; leave out those without a finite geometry.

        Args:
            features: polygons, points, and multiparts and collections of them.
            names: (N,) class of each feature; None without classes.
            apart: whether the parts of a feature are an object each; else the feature is one. Parts that were cut from
                one another at 180 degrees stay together.
        """
        files = features.by_file
        flat = shapely.force_2d(np.concatenate([np.asarray(each.frame.geometry.array, dtype=object) for each in files]))
        bare = shapely.is_missing(flat) | shapely.is_empty(flat)
        rows = np.flatnonzero(~bare)
        geometry = flat[rows]
        if apart:
            geometry, rows = split_parts(geometry, rows)
            degrees = [each.frame.crs is not None and each.frame.crs.is_geographic for each in files]
            cut = np.flatnonzero(np.array(degrees)[_file_of(rows, files)] & is_finite(geometry))
            kept = np.ones(len(rows), bool)
            geometry[cut], kept[cut] = join_cut(geometry[cut], rows[cut])
            geometry, rows = geometry[kept], rows[kept]
        rows = np.concatenate([rows, np.flatnonzero(bare)])
        order = np.argsort(rows, kind="stable")
        geometry, rows = np.concatenate([geometry, flat[bare]])[order], rows[order]
        names = np.full(len(flat), None, object) if names is None else names
        objects = cls(features, names[rows], geometry, rows, np.full(len(rows), "", object))
        objects.leave_out(bare[rows], NO_GEOMETRY)
        objects.leave_out(~is_finite(geometry), NOT_FINITE)
        return objects

    def leave_out(self, which: Bool[np.ndarray, "O"] | Int[np.ndarray, "M"], reason: str) -> None:
        """Record why some objects are not used; the first reason stays."""
        marked = np.zeros(len(self.reasons), bool)
        marked[which] = True
        self.reasons[marked & (self.reasons == "")] = reason

    def require_radius(self, radius_m: float | None) -> None:
        """Raise if points are used and their radius is None.

        Raises:
            LabelsError: if so.
        """
        if radius_m is None and (shapely.get_type_id(self.geometry[self.used]) == POINT).any():
            raise LabelsError(
                f"{self.features.name} holds points; give point_radius_m, the radius in metres of the objects that "
                "they stand for"
            )

    def place(self, target: Target) -> Placement:
        """Bring the objects that are used into a CRS; those that it does not reach are missing from the result.

        Raises:
            LabelsError: if no transformation leads to this CRS.
        """
        used, files = self.used, self.features.by_file
        geometry, file = self.geometry[used], _file_of(self.rows[used], files)
        for number, each in enumerate(files):
            own = file == number
            geometry[own] = target.bring(geometry[own], each.frame.crs, each.name)
        reached = is_finite(geometry)
        return Placement(geometry[reached], used[reached], target.crs)

    @property
    def used(self) -> Int[np.ndarray, "M"]:
        """Indices of the objects that have not been dropped."""
        return np.flatnonzero(self.reasons == "")

    @property
    def lost(self) -> Counter[str]:
        """Number of objects dropped for each reason."""
        return self._count(self.reasons)

    def lost_of(self, name: str) -> Counter[str]:
        """Return the number of objects of a class dropped for each reason."""
        return self._count(self.reasons[self.names == name])

    @staticmethod
    def _count(reasons: np.ndarray) -> Counter[str]:
        found = Counter(reasons[reasons != ""])
        return Counter({reason: found.pop(reason) for reason in _ORDER if reason in found} | found)

    @property
    def complete(self) -> bool:
        """Whether no object was dropped except outside the raster or by `class_mapping`."""
        return not set(self.lost) - {OUTSIDE, DROPPED}

    @property
    def report(self) -> str:
        """Summary of the features read and dropped, in one line."""
        names, source = self.names[self.used], self.features.name
        n_classes, n_features = len(set(names)), len(self.features.frame)
        if n_features != len(self.names):
            source += f" ({pluralize(n_features, 'feature')} with {pluralize(len(self.names), 'part')})"
        classes = f"{n_classes:,} class{'' if n_classes == 1 else 'es'}"
        left_out = f"left out {describe_lost(self.lost)}" if self.lost else ""
        read = f"{pluralize(len(names), 'object')} of {classes} from {source}"
        return "; ".join(filter(None, [read, left_out, self.features.note, *self.notes]))


def _file_of(rows: Int[np.ndarray, "O"], files: Sequence[Features]) -> Int[np.ndarray, "O"]:
    """Return the number of the file that each row of several files, read together, comes from."""
    return np.searchsorted(np.cumsum([len(each.frame) for each in files]), rows, side="right")


@dataclass(frozen=True, eq=False)
class Target:
    """The CRS that features are brought into, and where in it they are expected.

    Args:
        crs: None for a plane without a CRS, where coordinates stay as they are.
        name: what messages call the raster or file that is in this CRS.
        centre: (x, y) of a place on it; None if unknown.
        tolerance_m: error of a datum shift that does no harm; None if unknown.
        tolerance: name of that length.
    """

    crs: CRS | None
    name: str
    centre: Float[np.ndarray, "2"] | None = None
    tolerance_m: float | None = None
    tolerance: str = "a pixel"

    @classmethod
    def of_grid(cls, grid: Grid, features: Features) -> Target:
        """Return the CRS of a raster as a target; none where the features lie in the raster's own plane.

        Raises:
            NotGeoreferenced: if one of them and the raster has a CRS and the other has not.
        """
        geometry, name = features.frame.geometry, features.name
        if grid.crs is None and (geometry.crs is None or exceeds_degrees(geometry)):
            return cls(None, grid.name)
        if geometry.crs is None:
            raise NotGeoreferenced(
                f"{name} has no coordinate reference system, so its place on {grid.name} is unknown; "
                "assign one (GeoDataFrame.set_crs, or ogr2ogr -a_srs)"
            )
        if grid.crs is None:
            # A raster's CRS is of no use without a transform, so the transform is named first. A GeoJSON cannot lack a
            # CRS: https://datatracker.ietf.org/doc/html/rfc7946.
            bare, is_geojson = grid.transform is None, name.lower().endswith((".geojson", ".json"))
            pixels = (
                "; GeoJSON is in WGS 84 by its standard: write labels in pixels as a .gpkg, or give a frame without CRS"
            )
            raise NotGeoreferenced(
                f"{grid.name} has no {'transform' if bare else 'coordinate reference system'}, so {name} in "
                f"{name_crs(geometry.crs)} cannot be placed on it; assign one to the raster "
                f"(gdal_edit.py -a_srs EPSG:...{' -a_ullr ...' if bare else ''}){pixels if is_geojson else ''}"
            )
        try:
            pixel_m = grid.pixel_size_m
        except NotGeoreferenced:
            pixel_m = None
        centre = None if grid.transform is None else grid.to_map(np.array([grid.shape[::-1]]) / 2)[0]
        return cls(grid.crs, grid.name, centre, pixel_m)

    def bring(self, geometry: np.ndarray, crs: CRS | None, name: str) -> np.ndarray:
        """Bring geometries into this CRS; they are not finite where it does not reach.

        Longitudes are counted so that they are near those of `centre`.

        Args:
            geometry: finite.
            crs: of the geometries; None for those that stay as they are.
            name: what messages call them.

        Raises:
            LabelsError: if no transformation leads from one CRS to the other.
        """
        if crs is not None and self.crs is not None and crs != self.crs:
            try:
                transformer = Transformer.from_crs(crs, self.crs, always_xy=True)

                def transform(xy: np.ndarray) -> np.ndarray:
                    return np.column_stack(transformer.transform(xy[:, 0], xy[:, 1]))

                geometry = np.asarray(shapely.transform(geometry, transform), dtype=object)
            except ProjError as error:
                raise LabelsError(
                    f"{name} cannot be brought from {name_crs(crs)} into the CRS of {self.name}, "
                    f"{name_crs(self.crs)}: {error}"
                ) from error
        if self.centre is None or self.crs is None or not self.crs.is_geographic:
            return geometry
        return shift_near(geometry, float(self.centre[0]))


@dataclass(frozen=True, eq=False)
class Placement:
    """Objects in one CRS.

    Args:
        geometry: (P,) finite, in the plane.
        numbers: (P,) number of the object that each is.
        crs: None for a plane without a CRS.
    """

    geometry: np.ndarray
    numbers: Int[np.ndarray, "P"]
    crs: CRS | None

    def to_polygons(self, radius_m: float | None = None) -> Placement:
        """Return the objects as valid polygons, points as circles; those without an area are missing.

        Args:
            radius_m: of the circles, in metres on the ground (in units of a plane without CRS); needed for points.
        """
        polygons = self.geometry.copy()
        points = shapely.get_type_id(polygons) == POINT
        if points.any():
            assert radius_m is not None
            polygons[points] = circles(shapely.get_coordinates(polygons[points]), radius_m, self.crs)
        polygons = make_valid(polygons)
        kept = ~shapely.is_missing(polygons)
        return Placement(polygons[kept], self.numbers[kept], self.crs)

    def to_pixels(self, grid: Grid) -> np.ndarray:
        """Return the geometries in the pixels of a raster in this CRS."""
        return np.asarray(shapely.transform(self.geometry, grid.in_plane().to_pixel), dtype=object)


def no_place(features: Features, target: Target) -> LabelsError:
    """Return the error to raise when no feature has a place in the CRS of a raster."""
    return LabelsError(
        f"none of {features.name} has coordinates in the CRS of {target.name}; is {features.frame.crs} really its own?"
    )


def no_overlap(polygons: np.ndarray, grid: Grid, name: str) -> LabelsError:
    """Return the error to raise when none of the polygons in a raster's CRS meets the raster, with both extents."""
    digits = 5 if grid.crs is not None and grid.crs.is_geographic else 1
    theirs, ours = (
        "x {0} to {2}, y {1} to {3}".format(*(f"{value:.{digits}f}" for value in bounds))
        for bounds in (shapely.total_bounds(polygons), grid.bounds)
    )
    return LabelsError(
        f"{name} does not meet {grid.name}: it spans {theirs}, the raster {ours}, in "
        f"{name_crs(grid.crs) if grid.crs else 'the raster plane'}; check both CRSs"
    )


def name_crs(crs: CRS) -> str:
    """Return a CRS in a few letters: EPSG:32645 where it has a code, else its name."""
    return ":".join(crs.to_authority() or ()) or str(crs.name)


def pluralize(n: int, noun: str) -> str:
    """Return a number with its noun: 1 object, 2 objects."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def describe_lost(lost: Mapping[str, int]) -> str:
    """Return how many were left out for each reason, in one line: 1 line, 2 duplicates, 1 without area."""
    one_of = {reason: reason if " " in reason else reason.removesuffix("s") for reason in lost}
    return ", ".join(f"{n:,} {one_of[reason] if n == 1 else reason}" for reason, n in lost.items())

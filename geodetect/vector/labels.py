"""Labels: true objects from any vector file in any CRS, as polygons in the pixels of rasters.

Shapes: O single objects, P polygons on one raster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from geodetect.errors import ArgumentError, LabelsError, is_number
from geodetect.grid import Grid
from geodetect.vector.classes import (
    note_unmatched,
    note_unread_columns,
    parse_mapping,
    warn_of_identifiers,
    warn_of_similar_names,
)
from geodetect.vector.datum import warn_of_datum
from geodetect.vector.features import (
    AREAL,
    BEYOND,
    DROPPED,
    FLAT,
    NO_AREAS,
    NO_CLASS,
    OUTSIDE,
    POINT,
    REPEATED,
    Features,
    Objects,
    Placement,
    Target,
    describe_lost,
    no_overlap,
    no_place,
    pluralize,
)
from geodetect.vector.geometry import make_valid, number_outlines
from geodetect.vector.opening import Vectors, open_features


@dataclass(frozen=True, eq=False)
class Labels:
    """Source of true objects, with the parameters for reading their classes and points.

    Args:
        source: any vector file, a frame, or several files in a list, a folder or a pattern, in any CRS.
        label_field: column of the class; None takes `label` where there is one, else one class, named after the file.
        layer: which layer of the file, by name or number from 0.
        point_radius_m: points become circles of this radius on the ground.
        class_mapping: new names of values; a value mapped to None is dropped, values not listed keep their own name.

    Raises:
        ArgumentError: if `point_radius_m` is not above 0.
    """

    source: Vectors
    label_field: str | None = None
    layer: str | int | None = None
    point_radius_m: float | None = None
    class_mapping: Mapping[Any, str | None] | None = None

    def __post_init__(self) -> None:
        if self.point_radius_m is not None and not (is_number(self.point_radius_m) and self.point_radius_m > 0):
            raise ArgumentError(f"point_radius_m must be above 0 (metres on the ground); got {self.point_radius_m!r}")

    def read(self) -> Features:
        """Read the features of the source.

        Raises:
            LabelsError: if there is no such file or layer, or no geometry in it.
            ArgumentError: if `layer` is impossible.
        """
        return open_features(self.source, layer=self.layer)

    def on(self, grids: Sequence[Grid]) -> list[GridLabels]:
        """Return the labels on each raster, as polygons in its pixels; some rasters may have none.

        Raises:
            LabelsError: if the file cannot be read, holds no polygons or points of use, or none of them meets a raster.
            NotGeoreferenced: if only one of labels and raster has a CRS.
            ArgumentError: if a parameter is impossible.
        """
        self._check_radius(grids)
        features, new = self.read(), parse_mapping(self.class_mapping)
        values = features.class_names(self.label_field)
        objects = Objects.of(features, np.array([new.get(value, value) for value in values], object))
        dropped = [value is not None and new.get(value, value) is None for value in values]
        objects.leave_out(np.array(dropped, bool)[objects.rows], DROPPED)
        objects.leave_out(np.array([name is None for name in objects.names], bool), NO_CLASS)
        objects.leave_out(~np.isin(shapely.get_type_id(objects.geometry), (POINT, *AREAL)), NO_AREAS)
        objects.require_radius(self.point_radius_m)
        search = _Search(objects, self.point_radius_m)
        labels = [search.find(grid) for grid in grids]
        search.record()
        if not search.met.any():
            raise search.failure(grids)
        for grid in {grid.crs: grid for grid, here in zip(grids, labels, strict=True) if len(here.numbers)}.values():
            warn_of_datum(features, Target.of_grid(grid, features))
        n = int(search.ambiguous.sum())
        shared = f"kept {pluralize(n, 'object')} that share their outline with one of another class" if n else ""
        notes = [shared, note_unmatched(new, values), note_unread_columns(features, self.label_field)]
        objects.notes = tuple(filter(None, notes))
        names = objects.names[objects.used]
        warn_of_similar_names(names)
        warn_of_identifiers(len(set(names)), len(names), features.name)
        return labels

    def _check_radius(self, grids: Sequence[Grid]) -> None:
        """Refuse circles that are larger than every raster, as far as the size of these is known.

        Raises:
            ArgumentError: if they are.
        """
        if self.point_radius_m is None:
            return
        across = {
            grid.name: math.hypot(*np.array(grid.shape[::-1]) * grid.pixel_sides_m)
            for grid in grids
            if grid.transform is not None and grid.crs is not None
        }
        if across and 2 * self.point_radius_m > max(across.values()):
            name, length = max(across.items(), key=lambda item: item[1])
            raise ArgumentError(
                f"point_radius_m={self.point_radius_m:g} makes objects larger than the whole of {name}, which measures "
                f"{length:,.4g} m from corner to corner; give metres on the ground"
            )


@dataclass(frozen=True, eq=False)
class GridLabels:
    """Labels in the pixels of one raster.

    Args:
        polygons: (P,) valid, all meeting the raster; an object that a file gives as a ring that crosses itself may be a
            multipolygon.
        numbers: (P,) which of the objects each is; the same on every raster that a label meets.
        objects: all that was read, with the reason for each object dropped; of all rasters together.
    """

    polygons: np.ndarray
    numbers: np.ndarray
    objects: Objects

    @property
    def names(self) -> np.ndarray:
        """The class of each polygon, (P,)."""
        return np.asarray(self.objects.names[self.numbers])

    @property
    def of_points(self) -> np.ndarray:
        """Whether each polygon is the circle of a point, (P,)."""
        return np.asarray(shapely.get_type_id(self.objects.geometry[self.numbers]) == POINT)


class _Search:
    """A search for objects on one raster after another: what one of them reaches or meets is not lost.

    Args:
        objects: candidates.
        radius_m: of circles for points.
    """

    def __init__(self, objects: Objects, radius_m: float | None) -> None:
        self._objects, self._radius_m = objects, radius_m
        self._reached, self._solid, self._repeated, self.ambiguous, self.met = np.zeros((5, len(objects.names)), bool)
        self._by_crs: dict[CRS | None, tuple[Placement, shapely.STRtree]] = {}
        self._problem: LabelsError | None = None

    def find(self, grid: Grid) -> GridLabels:
        """Return the objects that meet a raster, each once; empty if its CRS covers none of them."""
        if grid.crs not in self._by_crs:
            self._by_crs[grid.crs] = self._bring(grid)
        polygons, tree = self._by_crs[grid.crs]
        near = np.sort(tree.query(shapely.Polygon(grid.corners)))
        here = make_valid(Placement(polygons.geometry[near], near, polygons.crs).to_pixels(grid))
        meets = shapely.intersects(here, shapely.box(0, 0, *grid.shape[::-1]))
        here, numbers = here[meets], polygons.numbers[near[meets]]
        self.met[numbers] = True
        # An object that repeats the outline and the class of an earlier one is dropped.
        outline = number_outlines(here)
        classes = np.unique(self._objects.names[numbers].astype(str), return_inverse=True)[1]
        again = np.ones(len(here), bool)
        again[np.unique(np.column_stack([outline, classes]), axis=0, return_index=True)[1]] = False
        self._repeated[numbers[again]] = True
        once = outline[~again]
        self.ambiguous[numbers[~again][np.bincount(once, minlength=1)[once] > 1]] = True
        return GridLabels(here[~again], numbers[~again], self._objects)

    def _bring(self, grid: Grid) -> tuple[Placement, shapely.STRtree]:
        """Return the objects as polygons in the CRS of a raster, with a tree to find them by."""
        objects, target = self._objects, Target.of_grid(grid, self._objects.features)
        if target.crs is None and (shapely.get_type_id(objects.geometry[objects.used]) == POINT).any():
            _ = grid.pixel_sides_m  # raises, as a radius in metres has no meaning then
        try:
            reached = objects.place(target)
        except LabelsError as error:
            self._problem = self._problem or error
            reached = Placement(objects.geometry[:0], np.zeros(0, int), target.crs)
        polygons = reached.to_polygons(self._radius_m)
        self._reached[reached.numbers] = self._solid[polygons.numbers] = True
        return polygons, shapely.STRtree(polygons.geometry)

    def record(self) -> None:
        """Record the objects that are on no raster, with the reason."""
        self._objects.leave_out(~self._reached, BEYOND)
        self._objects.leave_out(~self._solid, FLAT)
        self._objects.leave_out(~self.met, OUTSIDE)
        self._objects.leave_out(self._repeated, REPEATED)

    def failure(self, grids: Sequence[Grid]) -> LabelsError:
        """Return the error to raise when no raster meets any object: that of the nearest."""
        features, lost = self._objects.features, self._objects.lost
        gaps = []
        for number, grid in enumerate(grids):
            polygons = self._by_crs[grid.crs][0].geometry
            if len(polygons):
                around = shapely.box(*shapely.total_bounds(polygons))
                around = shapely.transform(around, grid.in_plane().to_pixel)
                gaps.append((shapely.distance(around, shapely.box(0, 0, *grid.shape[::-1])), number))
        if gaps:
            grid = grids[min(gaps)[1]]
            nearest = f"; it is the nearest of {len(grids)} rasters" if len(grids) > 1 else ""
            error = no_overlap(self._by_crs[grid.crs][0].geometry, grid, features.name)
            return LabelsError(f"{error}{nearest}")
        if self._problem is not None:
            return self._problem
        if BEYOND in lost and not self._reached.any():
            return no_place(features, Target.of_grid(grids[0], features))
        because = f" ({describe_lost(lost)})" if lost else ""
        return LabelsError(f"{features.name} holds no label of use{because}; polygons or points are expected")

"""Labels and areas of interest: any vector file in any CRS, as polygons in scene pixels.

Shapes: N features as they are read, O single objects of them, P polygons on one raster.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, is_number, warn
from geodetect.grid import Grid
from geodetect.vector.classes import (
    class_names,
    renaming,
    unmatched,
    unread_columns,
    warn_of_identifiers,
    warn_of_likenesses,
)
from geodetect.vector.datum import warn_of_shift
from geodetect.vector.objects import (
    AREAL,
    BEYOND,
    DROPPED,
    FLAT,
    NO_AREAS,
    NO_CLASS,
    NO_GEOMETRY,
    OUTSIDE,
    REPEATED,
    Objects,
    counted,
    listed,
    mended,
    objects_of,
    outlines,
    points_need_radius,
)
from geodetect.vector.opening import Area, Features, Vectors, open_area, open_features
from geodetect.vector.placing import Placed, called, common_crs, longitude_of, nowhere, placed

_POINT = shapely.GeometryType.POINT


@dataclass(frozen=True, eq=False)
class Labels:
    """True objects in the pixels of one scene.

    Args:
        polygons: (P,) valid shapely polygons in scene pixels, all meeting the raster; an object that a file gives as
            a ring that crosses itself may be a multipolygon.
        names: (P,) their classes.
        numbers: (P,) which of the objects each is; the same in every scene that a label meets.
        objects: all that was read, and why what is left out is; those of all scenes together.
    """

    polygons: np.ndarray
    names: np.ndarray
    numbers: np.ndarray
    objects: Objects

    @property
    def report(self) -> str:
        """One line: what was read, what was left out and why."""
        return self.objects.report

    @property
    def complete(self) -> bool:
        """Whether nothing was left out but what lies outside the raster, or is not wanted."""
        return self.objects.complete


def read_labels(
    labels: Vectors,
    grids: Sequence[Grid],
    *,
    label_field: str | None = None,
    layer: str | int | None = None,
    point_radius_m: float | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
) -> list[Labels]:
    """Read the labels that meet each of several rasters, as polygons in its pixels; none on some of them is fine.

    Args:
        labels: any vector file, a frame, or several files in a list, a folder or a pattern, in any CRS.
        grids: those of the rasters.
        label_field: column of the class; None takes `label` where there is one, else one class, named after the file.
        layer: which layer of the file, by name or number from 0.
        point_radius_m: points become circles of this radius on the ground.
        class_mapping: new names of values; a value mapped to None is left out, values not listed keep their own name.

    Returns:
        One for each grid; all have the objects, and the report, of the whole.

    Raises:
        LabelsError: if the file cannot be read, holds no polygons or points of use, or none of them meets a raster.
        NotGeoreferenced: if only one of labels and raster has a CRS.
        ArgumentError: if `point_radius_m` is not above 0, or `layer` impossible.
    """
    if point_radius_m is not None and not (is_number(point_radius_m) and point_radius_m > 0):
        raise ArgumentError(f"point_radius_m must be above 0 (metres on the ground); got {point_radius_m!r}")
    if point_radius_m is not None:
        _check_radius(point_radius_m, grids)
    features = open_features(labels, layer=layer)
    values, new = class_names(features, label_field), renaming(class_mapping)
    objects = objects_of(features, np.array([new.get(value, value) for value in values], object))
    dropped = [value is not None and new.get(value, value) is None for value in values]
    objects.leave_out(np.array(dropped, bool)[objects.rows], DROPPED)
    _leave_out_useless(objects, point_radius_m)
    search = _Search(objects, point_radius_m)
    found = [search.on(grid) for grid in grids]
    search.record()
    if not search.met.any():
        raise search.failure(grids)
    for grid in {grid.crs: grid for grid, here in zip(grids, found, strict=True) if len(here.numbers)}.values():
        _check_datum(features, grid)
    notes = [search.of_two_classes(), unmatched(new, values), unread_columns(features, label_field)]
    objects.notes = tuple(filter(None, notes))
    names = objects.names[objects.used]
    warn_of_likenesses(names)
    warn_of_identifiers(len(set(names)), len(names), features.name)
    return [Labels(here.geometry, objects.names[here.numbers], here.numbers, objects) for here in found]


def _check_radius(radius_m: float, grids: Sequence[Grid]) -> None:
    """Refuse circles that are larger than every raster, as far as it is known how large these are.

    Raises:
        ArgumentError: if they are.
    """
    across = {
        grid.name: math.hypot(*np.array(grid.shape[::-1]) * grid.pixel_sides_m)
        for grid in grids
        if grid.transform is not None and grid.crs is not None
    }
    if across and 2 * radius_m > max(across.values()):
        name, length = max(across.items(), key=lambda item: item[1])
        raise ArgumentError(
            f"point_radius_m={radius_m:g} makes objects larger than the whole of {name}, which measures "
            f"{length:,.4g} m from corner to corner; give metres on the ground"
        )


def _leave_out_useless(objects: Objects, radius_m: float | None) -> None:
    """Leave out what has no class, and what is neither polygon nor point.

    Raises:
        LabelsError: if there are points and no radius.
    """
    kinds = shapely.get_type_id(objects.geometry)
    objects.leave_out(np.array([name is None for name in objects.names], bool), NO_CLASS)
    objects.leave_out(~np.isin(kinds, (_POINT, *AREAL)), NO_AREAS)
    if radius_m is None and (kinds[objects.used] == _POINT).any():
        raise points_need_radius(objects.features.name)


class _Search:
    """Objects, looked for on one raster after another: what one reaches or meets is not lost.

    Args:
        objects: what is looked for, each called by its number.
        radius_m: of circles for points.
    """

    def __init__(self, objects: Objects, radius_m: float | None) -> None:
        self._objects, self._radius_m = objects, radius_m
        self._reached, self._solid, self._repeated, self._ambiguous, self.met = np.zeros((5, len(objects.names)), bool)
        self._maps: dict[CRS | None, tuple[Placed, shapely.STRtree]] = {}
        self._problem: LabelsError | None = None

    def on(self, grid: Grid) -> Placed:
        """The objects that meet a raster, each once, as polygons in its pixels; none where its CRS reaches none."""
        crs = common_crs(self._objects.features, grid)
        if crs is None and (shapely.get_type_id(self._objects.geometry[self._objects.used]) == _POINT).any():
            _ = grid.pixel_sides_m  # raises, as a radius in metres has no meaning then
        if crs not in self._maps:
            self._maps[crs] = self._mapped(crs, grid)
        solid, tree = self._maps[crs]
        near = np.sort(tree.query(shapely.Polygon(grid.corners)))
        polygons = mended(shapely.transform(solid.geometry[near], grid.in_plane().to_pixel))
        meets = shapely.intersects(polygons, _frame(grid))
        polygons, numbers = polygons[meets], solid.numbers[near[meets]]
        self.met[numbers] = True
        again = self._find_repeated(polygons, numbers)
        return Placed(polygons[~again], numbers[~again])

    def _mapped(self, crs: CRS | None, grid: Grid) -> tuple[Placed, shapely.STRtree]:
        """The objects as polygons in a CRS, with a tree to find them by."""
        try:
            there = placed(self._objects, crs, grid.name, longitude_of(grid))
        except LabelsError as error:
            self._problem = self._problem or error
            there = Placed(self._objects.geometry[:0], np.zeros(0, int))
        solid = there.solid(crs, self._radius_m)
        self._reached[there.numbers] = self._solid[solid.numbers] = True
        return solid, shapely.STRtree(solid.geometry)

    def _find_repeated(self, polygons: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Which polygons repeat the outline and the class of an earlier one."""
        outline, names = outlines(polygons), self._objects.names[numbers]
        classes = np.unique(names.astype(str), return_inverse=True)[1]
        pairs = np.column_stack([outline, classes])
        again = np.ones(len(pairs), bool)
        again[np.unique(pairs, axis=0, return_index=True)[1]] = False
        self._repeated[numbers[again]] = True
        once = outline[~again]
        self._ambiguous[numbers[~again][np.bincount(once, minlength=1)[once] > 1]] = True
        return again

    def of_two_classes(self) -> str:
        """A note of objects whose outline comes with several classes; empty where there are none."""
        n = int(self._ambiguous.sum())
        return f"kept {counted(n, 'object')} that share their outline with one of another class" if n else ""

    def record(self) -> None:
        """Record what is on none of the rasters, and why."""
        for lost, reason in (
            (~self._reached, BEYOND),
            (~self._solid, FLAT),
            (~self.met, OUTSIDE),
            (self._repeated, REPEATED),
        ):
            self._objects.leave_out(lost, reason)

    def failure(self, grids: Sequence[Grid]) -> LabelsError:
        """The error to raise when no raster meets any object: that of the nearest."""
        features, lost = self._objects.features, self._objects.lost
        solid = [(self._maps[common_crs(features, grid)][0].geometry, grid) for grid in grids]
        apart = [(_gap(polygons, grid), n) for n, (polygons, grid) in enumerate(solid) if len(polygons)]
        if apart:
            nearest = f"; it is the nearest of {len(grids)} rasters" if len(grids) > 1 else ""
            return LabelsError(f"{_elsewhere(*solid[min(apart)[1]], features.name)}{nearest}")
        if self._problem is not None:
            return self._problem
        if BEYOND in lost and not self._reached.any():
            return nowhere(features, grids[0])
        return LabelsError(f"{features.name} holds no label of use{_because(lost)}; polygons or points are expected")


def read_area(aoi: Area, grid: Grid) -> shapely.Geometry:
    """Read an area of interest as one polygon or multipolygon in scene pixels.

    Args:
        aoi: a vector file or frame in any CRS, or geometries or (x1, y1, x2, y2) in the raster's.
        grid: the raster's.

    Raises:
        LabelsError: if it cannot be read, holds no polygons, or does not meet the raster.
        NotGeoreferenced: if only one of it and the raster has a CRS.
        ArgumentError: if it is numbers that make no rectangle.
    """
    return read_area_on(aoi, [grid])[0]


def read_area_on(aoi: Area, grids: Sequence[Grid]) -> list[shapely.Geometry]:
    """Read an area of interest on several rasters, of which it meets at least one; empty on those that it does not.

    Args:
        aoi: as in `read_area`; geometries and numbers are in the CRS of the first raster.
        grids: the rasters'.

    Raises:
        GeodetectError: as `read_area`.
    """
    features = open_area(aoi, grids[0].crs)
    maps: dict[CRS | None, np.ndarray] = {}
    areas, problem = [], None
    for grid in grids:
        crs = common_crs(features, grid)
        if crs not in maps:
            try:
                maps[crs] = area_in(features, crs, grid.name, longitude_of(grid))
                _check_datum(features, grid)
            except LabelsError as error:
                maps[crs], problem = np.zeros(0, object), problem or error
        polygons = mended(shapely.transform(maps[crs], grid.in_plane().to_pixel))
        areas.append(shapely.union_all(polygons[shapely.intersects(polygons, _frame(grid))]))
    if all(area.is_empty for area in areas):
        raise problem or _elsewhere(maps[common_crs(features, grids[0])], grids[0], features.name)
    return areas


def area_in(features: Features, crs: CRS | None, there: str, longitude: float | None) -> np.ndarray:
    """The polygons of an area of interest in a CRS.

    Args:
        features: as `open_area` reads them.
        crs: where to; None where all lie in one plane.
        there: what messages call what is in this CRS.
        longitude: as in `placed`.

    Raises:
        LabelsError: if there are no polygons with an area, or no way leads to this CRS.
    """
    objects = objects_of(features)
    kinds = shapely.get_type_id(objects.geometry)
    objects.leave_out(kinds == _POINT, "points")
    objects.leave_out(~np.isin(kinds, AREAL), NO_AREAS)
    if objects.lost.keys() - {NO_GEOMETRY} and len(objects.used):
        warn(f"{features.name}: left out {listed(objects.lost)}; only polygons with finite coordinates make an aoi")
    reached = placed(objects, crs, there, longitude)
    solid = reached.solid(crs, None)
    if not len(solid.numbers):
        for numbers, reason in ((reached.numbers, BEYOND), (solid.numbers, FLAT)):
            objects.leave_out(np.setdiff1d(objects.used, numbers), reason)
        raise LabelsError(
            f"{features.name} must hold polygons{_because(objects.lost)}; an aoi is made of polygons with an area"
        )
    return solid.geometry


def _check_datum(features: Features, grid: Grid) -> None:
    """Warn where features were shifted to the datum of a raster less accurately than by a pixel."""
    try:
        limit_m = grid.pixel_size_m
    except NotGeoreferenced:
        return
    middle = grid.to_map(np.array([grid.shape[::-1]]) / 2)[0]
    for crs in {each.frame.crs: None for each in features.files or (features,)}:
        warn_of_shift(features.name, crs, grid.crs, middle, limit_m=limit_m, limit="a pixel")


def _frame(grid: Grid) -> shapely.Polygon:
    """The raster's outline in its own pixels."""
    height, width = grid.shape
    return shapely.box(0, 0, width, height)


def _gap(polygons: np.ndarray, grid: Grid) -> float:
    """Pixels from the bounds of polygons on the map to the raster."""
    around = shapely.transform(shapely.box(*shapely.total_bounds(polygons)), grid.in_plane().to_pixel)
    return float(shapely.distance(around, _frame(grid)))


def _elsewhere(polygons: np.ndarray, grid: Grid, name: str) -> LabelsError:
    """The error to raise when none of the polygons on the map meets the raster, with both extents."""
    return LabelsError(
        f"{name} does not meet {grid.name}: it spans {_extent(shapely.total_bounds(polygons), grid)}, the raster "
        f"{_extent(grid.bounds, grid)}, in {called(grid.crs) if grid.crs else 'the raster plane'}; check both CRSs"
    )


def _extent(bounds: Sequence[float], grid: Grid) -> str:
    digits = 5 if grid.crs is not None and grid.crs.is_geographic else 1
    x1, y1, x2, y2 = (f"{value:.{digits}f}" for value in bounds)
    return f"x {x1} to {x2}, y {y1} to {y2}"


def _because(lost: Counter[str]) -> str:
    return f" ({listed(lost)})" if lost else ""

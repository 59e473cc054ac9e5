"""Labels and areas of interest: any vector file in any CRS, as polygons in scene pixels.

Shapes: N features as they are read, P parts of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from geopandas import GeoDataFrame
from jaxtyping import Float

from geodetect.errors import ArgumentError, LabelsError, is_number
from geodetect.grid import Grid
from geodetect.vector.classes import class_names, renaming, unmatched
from geodetect.vector.opening import Features, Vectors, open_features
from geodetect.vector.placing import called, in_pixels, mended, pixel_parts, single_parts

_POINT, _POLYGON = shapely.GeometryType.POINT, shapely.GeometryType.POLYGON
_CIRCLE_CORNERS = 32
_OUTSIDE = "outside the raster"  # alone of the reasons why labels are left out, one that nobody minds


@dataclass(frozen=True, eq=False)
class Labels:
    """True objects in the pixels of one scene.

    Args:
        polygons: (P,) valid shapely polygons in scene pixels, all meeting the raster.
        names: (P,) their classes.
        numbers: (P,) which label of the file each is; the same in every scene that a label meets.
        report: one line: what was read, what was left out and why.
        complete: whether nothing was left out but what lies outside the raster.
    """

    polygons: np.ndarray
    names: np.ndarray
    numbers: np.ndarray
    report: str
    complete: bool


def read_labels(
    labels: Vectors,
    grid: Grid,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
) -> Labels:
    """The labels of a file or frame that meet a raster, as polygons in its pixels.

    Args:
        labels: any vector file, a frame, or several files in a list, a folder or a pattern, in any CRS.
        grid: the raster's.
        label_field: column of the class; None takes `label` where there is one, else one class, named after the file.
        point_radius_m: points become circles of this radius on the ground.
        class_mapping: new names of values; a value mapped to None is left out, values not listed keep their own name.

    Raises:
        LabelsError: if the file cannot be read, holds no polygons or points of use, or lies elsewhere.
        NotGeoreferenced: if only one of labels and raster has a CRS.
        ArgumentError: if `point_radius_m` is not above 0.
    """
    return read_labels_on(
        labels, [grid], label_field=label_field, point_radius_m=point_radius_m, class_mapping=class_mapping
    )[0]


def read_labels_on(
    labels: Vectors,
    grids: Sequence[Grid],
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
) -> list[Labels]:
    """The labels that meet each of several rasters, at least one of them; none on some is fine.

    Args:
        labels: as in `read_labels`.
        grids: the rasters'.
        label_field: as in `read_labels`.
        point_radius_m: as in `read_labels`.
        class_mapping: as in `read_labels`.

    Returns:
        as many as `grids`; all have the report of the whole.

    Raises:
        GeodetectError: as `read_labels`.
    """
    if point_radius_m is not None and not (is_number(point_radius_m) and point_radius_m > 0):
        raise ArgumentError(f"point_radius_m must be above 0 (metres on the ground); got {point_radius_m!r}")
    features = open_features(labels)
    values, new = class_names(features, label_field), renaming(class_mapping)
    names = np.array([new.get(value, value) for value in values], object)
    lost = Counter({"without a class": sum(name is None for name in names)})
    parts, source = _useful_parts(features, names, point_radius_m, lost)
    search = _Search(features, parts, point_radius_m)
    met = [search.on(grid) for grid in grids]
    search.tell(lost)
    if not search.met.any():
        raise search.failure(lost, len(grids))
    report = _report(features, [names[source[number]] for _, numbers in met for number in numbers], lost)
    report = "; ".join(filter(None, [report, unmatched(new, values)]))
    complete = not features.note and not any(n for why, n in lost.items() if why != _OUTSIDE)
    return [Labels(polygons, names[source[numbers]], numbers, report, complete) for polygons, numbers in met]


def _useful_parts(
    features: Features, names: np.ndarray, radius_m: float | None, lost: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The single polygons and points that have a class, and which feature each is part of.

    Raises:
        LabelsError: if there are points and no radius.
    """
    parts, source = single_parts(features, lost)
    kinds = shapely.get_type_id(parts)
    if radius_m is None and (kinds == _POINT).any():
        raise LabelsError(
            f"{features.name} holds points; give point_radius_m, the radius in metres of the objects that they stand "
            "for"
        )
    useful = np.isin(kinds, (_POINT, _POLYGON))
    lost["lines"] += int((~useful).sum())
    useful &= np.array([names[i] is not None for i in source], bool)
    return parts[useful], source[useful]


class _Search:
    """Labels, looked for on one raster after another: what one reaches or meets is not lost.

    Args:
        features: the labels.
        parts: (P,) polygons and points of theirs, called by their numbers.
        radius_m: of circles for points.
    """

    def __init__(self, features: Features, parts: np.ndarray, radius_m: float | None) -> None:
        self._features, self._parts, self._radius_m = features, parts, radius_m
        self._reached, self._usable, self.met = np.zeros((3, len(parts)), bool)
        self._gap = math.inf
        self._problem: LabelsError | None = None

    def on(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """The polygons that meet a raster, in its pixels, and their numbers; none where its CRS reaches no label."""
        try:
            placed, reached = in_pixels(self._parts, self._features, grid)
        except LabelsError as error:
            self._problem = self._problem or error
            return self._parts[:0], np.zeros(0, int)
        polygons, numbers = _polygons(placed, reached, grid, self._radius_m)
        meets = shapely.intersects(polygons, _frame(grid))
        self._reached[reached] = self._usable[numbers] = self.met[numbers[meets]] = True
        if len(polygons) and not meets.any() and (gap := _gap(polygons, grid)) < self._gap:
            self._gap, self._problem = gap, _elsewhere(polygons, grid, self._features.name)
        return polygons[meets], numbers[meets]

    def tell(self, lost: Counter[str]) -> None:
        """Counts what is on none of the rasters, and why."""
        n_reached, n_usable, n_met = (int(those.sum()) for those in (self._reached, self._usable, self.met))
        lost["beyond the raster's CRS"] = len(self._parts) - n_reached
        lost["without area"] = n_reached - n_usable
        lost[_OUTSIDE] = n_usable - n_met

    def failure(self, lost: Counter[str], n_rasters: int) -> LabelsError:
        """What to raise when no raster meets any label: that of the nearest."""
        if self._usable.any():
            nearest = f"; it is the nearest of {n_rasters} rasters" if n_rasters > 1 else ""
            return LabelsError(f"{self._problem}{nearest}")
        if self._problem is not None and not self._reached.any():
            return self._problem
        return LabelsError(
            f"{self._features.name} holds no label of use{_because(lost)}; polygons or points are expected"
        )


def read_area(aoi: Vectors | shapely.Geometry, grid: Grid) -> shapely.Geometry:
    """An area of interest as one polygon or multipolygon in scene pixels.

    Args:
        aoi: a vector file or frame in any CRS, or a geometry in the raster's.
        grid: the raster's.

    Raises:
        LabelsError: if it cannot be read, holds no polygons, or does not meet the raster.
        NotGeoreferenced: if only one of it and the raster has a CRS.
    """
    if isinstance(aoi, shapely.Geometry):
        aoi = GeoDataFrame(geometry=[aoi], crs=grid.crs)
    features = open_features(aoi, "the aoi")
    lost: Counter[str] = Counter()
    parts, source = pixel_parts(features, grid, lost)
    kept, _ = mended(parts, source, lost)
    if not len(kept):
        raise LabelsError(f"{features.name} holds no polygon{_because(lost)}; an aoi is made of polygons")
    met = kept[shapely.intersects(kept, _frame(grid))]
    if not len(met):
        raise _elsewhere(kept, grid, features.name)
    return shapely.union_all(met)


def _polygons(
    parts: np.ndarray, source: np.ndarray, grid: Grid, radius_m: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Circles for points and valid polygons for polygons, with where they came from."""
    points = shapely.get_type_id(parts) == _POINT
    circles = _circles(shapely.get_coordinates(parts[points]), grid, radius_m) if points.any() else parts[:0]
    polygons, owners = mended(parts[~points], source[~points], Counter())
    order = np.argsort(np.concatenate([source[points], owners]), kind="stable")
    return np.concatenate([circles, polygons])[order], np.concatenate([source[points], owners])[order]


def _circles(centres: Float[np.ndarray, "P 2"], grid: Grid, radius_m: float | None) -> np.ndarray:
    """Polygons that are circles of this radius on the ground; ellipses where pixels are not square."""
    assert radius_m is not None
    angle = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    # Where the CRS reaches no longitude, and no pixel has a size, that of the scene's centre has to do.
    sides = grid.pixel_sides_m_at(centres)
    sides = np.where(sides > 0, sides, grid.pixel_sides_m)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) * radius_m
    return np.asarray(shapely.polygons(centres[:, None] + ring / sides[:, None]), dtype=object)


def _frame(grid: Grid) -> shapely.Polygon:
    """The raster's outline in its own pixels."""
    height, width = grid.shape
    return shapely.box(0, 0, width, height)


def _gap(polygons: np.ndarray, grid: Grid) -> float:
    """Pixels from the bounds of the polygons to the raster."""
    return float(shapely.distance(shapely.box(*shapely.total_bounds(polygons)), _frame(grid)))


def _elsewhere(polygons: np.ndarray, grid: Grid, name: str) -> LabelsError:
    """What to raise when none meets the raster, with both extents in the raster's CRS."""
    low_x, low_y, high_x, high_y = shapely.total_bounds(shapely.transform(polygons, grid.in_plane().to_map))
    return LabelsError(
        f"{name} does not meet {grid.name}: it spans {_extent((low_x, low_y, high_x, high_y), grid)}, the raster "
        f"{_extent(grid.bounds, grid)}, in {called(grid.crs) if grid.crs else 'the raster plane'}; check both CRSs"
    )


def _extent(bounds: tuple[float, float, float, float], grid: Grid) -> str:
    digits = 5 if grid.crs is not None and grid.crs.is_geographic else 1
    x1, y1, x2, y2 = (f"{value:.{digits}f}" for value in bounds)
    return f"x {x1} to {x2}, y {y1} to {y2}"


def _because(lost: Counter[str]) -> str:
    reasons = ", ".join(f"{n:,} {why}" for why, n in lost.items() if n)
    return f" ({reasons})" if reasons else ""


def _report(features: Features, names: Sequence[str], lost: Counter[str]) -> str:
    """What was read and what was left out, in one line."""
    classes = len(set(names))
    left = _because(lost).strip(" ()")
    told = [f"{len(names):,} labels of {classes} class{'es' if classes > 1 else ''} from {features.name}"]
    told += [f"left out {left}"] if left else []
    return "; ".join([*told, *([features.note] if features.note else [])])

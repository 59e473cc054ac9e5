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
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from jaxtyping import Float
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.opening import Features, Vectors, open_features

_POINT, _POLYGON = shapely.GeometryType.POINT, shapely.GeometryType.POLYGON
_MULTI = shapely.GeometryType.MULTIPOINT  # from here on types are made of others
_CIRCLE_CORNERS = 32


@dataclass(frozen=True, eq=False)
class Labels:
    """True objects in the pixels of one scene.

    Args:
        polygons: (P,) valid shapely polygons in scene pixels, all meeting the raster.
        names: (P,) their classes.
        report: one line: what was read, what was left out and why.
    """

    polygons: np.ndarray
    names: np.ndarray
    report: str


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
    if point_radius_m is not None and not (point_radius_m > 0 and math.isfinite(point_radius_m)):
        raise ArgumentError(f"point_radius_m must be above 0 (metres on the ground); got {point_radius_m}")
    features = open_features(labels)
    names = class_names(features, label_field, class_mapping)
    named = np.array([name is not None for name in names], bool)
    met: list[tuple[np.ndarray, np.ndarray]] = []
    for grid in grids:
        lost: Counter[str] = Counter({"without a class": len(named) - int(named.sum())})
        parts, source = pixel_parts(features, grid, lost)
        polygons, source = _polygons(parts, source, grid, point_radius_m, features.name, lost)
        polygons, source = polygons[named[source]], source[named[source]]
        whole = polygons, source
        met.append(_on_raster(polygons, source, grid))
    if not any(len(source) for _, source in met):
        raise _elsewhere(whole[0], grid, features.name, lost)
    lost["outside the raster"] += len(set(whole[1]) - set(np.concatenate([source for _, source in met])))
    report = _report(features, np.concatenate([names[source] for _, source in met]), lost)
    return [Labels(polygons, names[source].astype(str), report) for polygons, source in met]


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
    kept, _ = _mended(parts, source, lost)
    if not len(kept):
        raise LabelsError(f"{features.name} holds no polygon{_because(lost)}; an aoi is made of polygons")
    met, _ = _on_raster(kept, np.zeros(len(kept), int), grid)
    if not len(met):
        raise _elsewhere(kept, grid, features.name, lost)
    return shapely.union_all(met)


def class_names(
    features: Features, label_field: str | None, class_mapping: Mapping[Any, str | None] | None = None
) -> np.ndarray:
    """The class of each feature as text, None where it has none or is mapped to none; (N,) objects.

    Raises:
        LabelsError: if there is no such column.
    """
    frame = features.frame
    column = label_field or ("label" if "label" in frame.columns else None)
    if column is None:
        values: list[Any] = [features.stem or "object"] * len(frame)
    elif column in frame.columns and column != frame.active_geometry_name:
        values = frame[column].tolist()
    else:
        known = ", ".join(str(name) for name in frame.columns if name != frame.active_geometry_name)
        raise LabelsError(f"{features.name} has no column {column!r} for label_field; it has {known or 'none at all'}")
    names = np.empty(len(values), object)
    # Values and keys are compared as text: a file may hold 1.0 where the user says 1, or "1".
    new = {as_text(key): name for key, name in (class_mapping or {}).items()}
    names[:] = [new.get(text, text) for text in map(as_text, values)]
    return names


def as_text(value: Any) -> str | None:
    """A class value as text: numbers without a trailing .0, blanks as None."""
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def pixel_parts(features: Features, grid: Grid, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
    """Single geometries in scene pixels, and which feature each is part of; in the plane, finite."""
    geometry = features.frame.geometry
    flat = shapely.force_2d(np.asarray(geometry.array, dtype=object))
    empty = shapely.is_missing(flat) | shapely.is_empty(flat)
    lost["without geometry"] += int(empty.sum())
    parts, source = _single(flat[~empty], np.flatnonzero(~empty))
    crs = _common_crs(geometry, grid, features.name)
    placed = _reprojected(parts, crs, grid, features.name)
    finite = np.isfinite(shapely.bounds(placed)).all(axis=1)
    if len(finite) and not finite.any():
        raise LabelsError(
            f"none of {features.name} has coordinates in the raster's CRS; is {features.frame.crs} really its own?"
        )
    lost["beyond the raster's CRS"] += len(finite) - int(finite.sum())
    return shapely.transform(placed[finite], grid.in_plane().to_pixel), source[finite]


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
        raise NotGeoreferenced(
            f"{grid.name} has no coordinate reference system, so {name} in {_called(crs)} cannot be placed on it; "
            "assign one to the raster (gdal_edit.py -a_srs EPSG:...)"
        )
    return crs


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
            f"{name} cannot be brought from {_called(crs)} into the CRS of {grid.name}, {_called(grid.crs)}: {error}"
        ) from error


def _moved(geometry: np.ndarray, move: Transformer) -> np.ndarray:
    def moved(xy: Float[np.ndarray, "P 2"]) -> Float[np.ndarray, "P 2"]:
        return np.column_stack(move.transform(xy[:, 0], xy[:, 1]))

    return np.asarray(shapely.transform(geometry, moved), dtype=object)


def _polygons(
    parts: np.ndarray, source: np.ndarray, grid: Grid, radius_m: float | None, name: str, lost: Counter[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Circles for points and valid polygons for polygons, with their features.

    Raises:
        LabelsError: if there are points and no radius, or nothing of use.
    """
    kind = shapely.get_type_id(parts)
    points = kind == _POINT
    if points.any() and radius_m is None:
        raise LabelsError(
            f"{name} holds points; give point_radius_m, the radius in metres of the objects that they stand for"
        )
    circles = _circles(shapely.get_coordinates(parts[points]), grid, radius_m) if points.any() else parts[:0]
    polygons, owners = _mended(parts[~points], source[~points], lost)
    if not len(circles) + len(polygons):
        raise LabelsError(f"{name} holds no label of use{_because(lost)}; polygons or points are expected")
    order = np.argsort(np.concatenate([source[points], owners]), kind="stable")
    return np.concatenate([circles, polygons])[order], np.concatenate([source[points], owners])[order]


def _circles(centres: Float[np.ndarray, "P 2"], grid: Grid, radius_m: float | None) -> np.ndarray:
    """Polygons that are circles of this radius on the ground; ellipses where pixels are not square."""
    assert radius_m is not None
    angle = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    ring = np.column_stack([np.cos(angle), np.sin(angle)]) * radius_m / np.array(grid.pixel_sides_m)
    return np.asarray(shapely.polygons(centres[:, None] + ring), dtype=object)


def _mended(parts: np.ndarray, source: np.ndarray, lost: Counter[str]) -> tuple[np.ndarray, np.ndarray]:
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


def _on_raster(polygons: np.ndarray, source: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Those that meet the raster."""
    height, width = grid.shape
    meets = shapely.intersects(polygons, shapely.box(0, 0, width, height))
    return polygons[meets], source[meets]


def _elsewhere(polygons: np.ndarray, grid: Grid, name: str, lost: Counter[str]) -> LabelsError:
    """What to raise when none meets the raster, with both extents in the raster's CRS."""
    if not len(polygons):
        return LabelsError(f"{name} holds no label of use{_because(lost)}; polygons or points are expected")
    low_x, low_y, high_x, high_y = shapely.total_bounds(shapely.transform(polygons, grid.in_plane().to_map))
    return LabelsError(
        f"{name} does not meet {grid.name}: it spans {_extent((low_x, low_y, high_x, high_y), grid)}, the raster "
        f"{_extent(grid.bounds, grid)}, in {_called(grid.crs) if grid.crs else 'the raster plane'}; check both CRSs"
    )


def _extent(bounds: tuple[float, float, float, float], grid: Grid) -> str:
    digits = 5 if grid.crs is not None and grid.crs.is_geographic else 1
    x1, y1, x2, y2 = (f"{value:.{digits}f}" for value in bounds)
    return f"x {x1} to {x2}, y {y1} to {y2}"


def _called(crs: CRS) -> str:
    """A CRS in a few letters: EPSG:32645 where it has a code, else its name."""
    return ":".join(crs.to_authority() or ()) or str(crs.name)


def _because(lost: Counter[str]) -> str:
    reasons = ", ".join(f"{n:,} {why}" for why, n in lost.items() if n)
    return f" ({reasons})" if reasons else ""


def _report(features: Features, names: np.ndarray, lost: Counter[str]) -> str:
    """What was read and what was left out, in one line."""
    classes = len(set(names))
    left = _because(lost).strip(" ()")
    told = [f"{len(names):,} labels of {classes} class{'es' if classes > 1 else ''} from {features.name}"]
    told += [f"left out {left}"] if left else []
    return "; ".join([*told, *([features.note] if features.note else [])])

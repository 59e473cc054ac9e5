"""What is compared, brought to one frame: detections and true objects as polygons in the detections' CRS."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj import CRS
from pyproj.exceptions import ProjError

from geodetect.boxes import area
from geodetect.errors import LabelsError, NotGeoreferenced
from geodetect.vector.classes import class_names
from geodetect.vector.opening import Features, open_features
from geodetect.vector.placing import no_degrees

ALL = "all"  # the row of all classes together
_TOLD = 3  # classes that a warning names
_ONE_CLASS = "object"  # the name of a row where classes do not count and there is not just one
_UPRIGHT = 0.95  # share of its envelope that an upright rectangle fills; one turned by 1.5 degrees fills less
_Spatial = TypeVar("_Spatial", GeoDataFrame, GeoSeries)
_AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


def common_crs(found: Features, truth: Features) -> CRS | None:
    """The detections' CRS; that of the labels where there are no detections to have one.

    None where one side has none and the other is GeoJSON that holds pixels.

    Raises:
        NotGeoreferenced: if only one side has a CRS.
    """
    for side, other in ((found, truth), (truth, found)):
        if side.frame.crs is None and other.frame.crs is not None and len(side.frame):
            if no_degrees(other.frame.geometry):
                return None
            raise NotGeoreferenced(
                f"{side.name} has no coordinate reference system, but {other.name}, with which it is compared, is in "
                f"{other.frame.crs.to_string()}; assign it its own (GeoDataFrame.set_crs, or ogr2ogr -a_srs)"
            )
    crs: CRS | None = found.frame.crs or truth.frame.crs
    return crs


def area_of_interest(aoi: str | Path | GeoDataFrame | shapely.Geometry, crs: CRS | None) -> shapely.Geometry:
    """The area of interest as one geometry in the detections' CRS."""
    if isinstance(aoi, shapely.Geometry):
        aoi = GeoDataFrame(geometry=[aoi], crs=crs)
    features = open_features(aoi, "the aoi")
    areas = features.frame.geometry
    if not len(areas) or not set(shapely.get_type_id(areas.to_numpy())) <= set(_AREAL):
        raise LabelsError(f"{features.name} must hold polygons, and nothing else, to be an aoi")
    if (areas.crs is None) != (crs is None):
        raise NotGeoreferenced(
            f"{features.name} and the detections must either both have a coordinate reference system or neither; "
            f"got {areas.crs or 'none'} and {crs or 'none'}"
        )
    return shapely.union_all(shapely.make_valid(_in_crs(areas, crs, features.name).to_numpy()))


def _in_crs(features: _Spatial, crs: CRS | None, name: str) -> _Spatial:
    """The features in `crs`, not finite where it does not reach; as they are, and in none, where there is none.

    Raises:
        LabelsError: if no way leads from one CRS to the other.
    """
    moved: _Spatial
    if crs is None:
        moved = features.set_crs(None, allow_override=True)
        return moved
    try:
        moved = features.set_crs(crs) if features.crs is None else features.to_crs(crs)
    except ProjError as error:
        raise LabelsError(f"{name} cannot be brought from {features.crs.name} into {crs.name}: {error}") from error
    return moved


def _classed(features: Features, label_field: str | None = None) -> GeoDataFrame:
    """The features that have a geometry, with label, None where they have none, and id, their row from 0."""
    named = label_field is not None or "label" in features.frame.columns
    names = class_names(features, label_field) if named else [None] * len(features.frame)
    geometry = shapely.force_2d(np.asarray(features.frame.geometry.array, dtype=object))
    frame = GeoDataFrame(
        {"label": np.array(names, dtype=object), "id": np.arange(len(names))}, geometry=geometry, crs=features.frame.crs
    )
    return frame[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]


def detected(features: Features) -> GeoDataFrame:
    """The detections with their scores; 1 for all where they have none.

    Raises:
        LabelsError: if a score is missing or not a finite number, or there are other geometries than polygons.
    """
    frame = _classed(features)
    _refuse_but_areal(frame, features.name)
    if "score" not in features.frame.columns:
        return frame.assign(score=1.0)
    scores = pd.to_numeric(features.frame["score"], errors="coerce").to_numpy(float)
    unknown = ~np.isfinite(scores)
    if unknown.any():
        raise LabelsError(
            f"{features.name} has {unknown.sum():,} detections whose score is missing or not a number; "
            "give every one a score, or leave the column out"
        )
    return frame.assign(score=scores[frame.index])


def true_objects(features: Features, label_field: str | None, point_radius_m: float | None) -> GeoDataFrame:
    """The labels as single polygons, with circles for points.

    Raises:
        LabelsError: if there are lines, or points and no radius.
    """
    frame = _classed(features, label_field).explode(ignore_index=True).assign(score=np.nan)
    points = shapely.get_type_id(frame.geometry.to_numpy()) == shapely.GeometryType.POINT
    if points.any() and point_radius_m is None:
        raise LabelsError(
            f"{features.name} holds points; give point_radius_m, the radius in metres of the objects they stand for"
        )
    if points.any():
        frame.loc[points, "geometry"] = _circles(frame.geometry[points], point_radius_m or 0)
    _refuse_but_areal(frame, features.name)
    return frame


def _circles(points: GeoSeries, radius_m: float) -> GeoSeries:
    """Circles of this radius on the ground, each drawn in the UTM zone of its point; in CRS units off the earth."""
    try:
        degrees = shapely.get_coordinates(points.to_crs("EPSG:4326").to_numpy()) if points.crs is not None else None
    except ProjError:  # an engineering CRS, or one that is not of the earth
        degrees = None
    if degrees is None:
        return points.buffer(radius_m)
    circles = points.copy()
    zones = _utm_zones(degrees)
    for zone in np.unique(zones):
        own = points[zones == zone]
        circles[zones == zone] = own.to_crs(int(zone)).buffer(radius_m).to_crs(points.crs)
    return circles


def _utm_zones(degrees: np.ndarray) -> np.ndarray:
    """The EPSG code of the UTM zone that each place (longitude, latitude) lies in: 326 and 327 with its number."""
    longitude, latitude = degrees.T
    number = np.floor((longitude + 180) / 6).astype(int) % 60 + 1
    return np.asarray(np.where(latitude < 0, 32_700, 32_600) + number)


def _refuse_but_areal(frame: GeoDataFrame, name: str) -> None:
    """Refuses geometries that have no area.

    Raises:
        LabelsError: if there is any; the message names their types.
    """
    others = frame.geometry[~np.isin(shapely.get_type_id(frame.geometry.to_numpy()), _AREAL)]
    if len(others):
        kinds = " and ".join(sorted(set(others.geom_type)))
        raise LabelsError(f"{name} holds {len(others):,} features of type {kinds}; polygons are expected")


def placed(frame: GeoDataFrame, name: str, crs: CRS | None, inside: shapely.Geometry | None) -> GeoDataFrame:
    """The features in `crs`, those with their centroid in the area.

    Raises:
        LabelsError: if there is no area, and a feature lies where the CRS does not reach.
    """
    frame = _in_crs(frame, crs, name)
    reached = np.isfinite(shapely.bounds(frame.geometry.to_numpy())).all(axis=1)
    if inside is None and not reached.all():
        raise LabelsError(
            f"{name} has {(~reached).sum():,} features that lie where the detections' CRS does not reach; "
            "correct its CRS, or give an aoi"
        )
    frame = frame[reached]
    if inside is not None:
        shapely.prepare(inside)
        frame = frame[shapely.intersects(inside, shapely.centroid(frame.geometry.to_numpy()))]
    return frame.reset_index(drop=True)


def solid(truth: GeoDataFrame) -> GeoDataFrame:
    """The labels, mended where they cross themselves; without those of no area, which nothing can find."""
    truth = truth.set_geometry(valid(truth.geometry.to_numpy()), crs=truth.crs)
    return truth[shapely.area(truth.geometry.to_numpy()) > 0].reset_index(drop=True)


def warn_of_apart(found: GeoDataFrame, truth: GeoDataFrame) -> None:
    """Warns where the two lie in different places, so that nothing can match."""
    if len(found) and len(truth):
        ours, theirs = found.total_bounds, truth.total_bounds
        if (ours[:2] > theirs[2:]).any() or (theirs[:2] > ours[2:]).any():
            ours, theirs = (", ".join(f"{edge:.6g}" for edge in edges) for edges in (ours, theirs))
            warnings.warn(
                f"detections and labels lie apart, at {ours} and {theirs} (x1, y1, x2, y2), so none can match",
                UserWarning,
                stacklevel=3,
            )


def warn_of_rotated(found: GeoDataFrame) -> None:
    """Warns where envelopes are much larger than the detections in them."""
    polygons = found.geometry.to_numpy()
    envelopes = area(shapely.bounds(polygons))
    solid = envelopes > 0
    if solid.any() and np.median(shapely.area(polygons[solid]) / envelopes[solid]) < _UPRIGHT:
        warnings.warn(
            "the detections are not upright rectangles, so their envelopes overlap more than they do; "
            'shape="polygon" is fairer',
            stacklevel=3,
        )


def one_naming(
    found: GeoDataFrame, truth: GeoDataFrame, by_class: bool
) -> tuple[GeoDataFrame, GeoDataFrame, list[str]]:
    """Both sides with a column `group`, the class that counts, and the names of all groups.

    Raises:
        LabelsError: if only some detections have a class, or a group is named like the row of all.
    """
    named = [frame["label"].notna() for frame in (found, truth)]
    names = sorted({name for frame in (found, truth) for name in frame["label"].dropna()})
    # A side with nothing on it has no say in this.
    if by_class and names and all(some.any() for some in named if len(some)):
        if not named[0].all():
            raise LabelsError(
                f"{(~named[0]).sum():,} detections have no class, and others have one; give every one a class, or take "
                "by_class=False"
            )
        found, truth = found[named[0]].reset_index(drop=True), truth[named[1]].reset_index(drop=True)
        found, truth = found.assign(group=found["label"]), truth.assign(group=truth["label"])
        ours, theirs = (sorted(frame["group"].unique()) for frame in (found, truth))
        if ours and theirs and not set(ours) & set(theirs):
            warnings.warn(
                f"no class of the detections ({', '.join(ours[:_TOLD])}) is one of the labels' "
                f"({', '.join(theirs[:_TOLD])}), so none can match; by_class=False takes all as one",
                UserWarning,
                stacklevel=3,
            )
    else:
        names = names if len(names) == 1 else [_ONE_CLASS]
        found, truth = (f.assign(group=names[0], label=f["label"].fillna(names[0])) for f in (found, truth))
    if ALL in names:
        raise LabelsError(
            f"a class is named {ALL!r}, which is the row of all classes together; rename it on both sides, "
            f'for example with frame.replace({{"label": {{"{ALL}": "any"}}}})'
        )
    return found, truth, names


def valid(polygons: np.ndarray) -> np.ndarray:
    """The polygons, mended where they cross themselves; GEOS intersects no others."""
    bad = ~shapely.is_valid(polygons)
    polygons = polygons.copy()
    # make_valid may leave lines and points beside the polygons; buffer takes only what has an area.
    polygons[bad] = shapely.buffer(shapely.make_valid(polygons[bad]), 0)
    return polygons

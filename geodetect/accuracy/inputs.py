"""Preparation of the comparison: detections and labels as frames of polygons in the detections' CRS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj import CRS

from geodetect.boxes import area
from geodetect.errors import LabelsError, NotGeoreferenced, warn
from geodetect.vector.areas import open_area, place_area
from geodetect.vector.classes import note_unread_columns, warn_of_similar_names
from geodetect.vector.features import (
    ANGLE,
    AREAL,
    NOT_FINITE,
    POINT,
    Features,
    Objects,
    Placement,
    Target,
    pluralize,
)
from geodetect.vector.geometry import exceeds_degrees, is_finite, make_valid, number_outlines, units_m
from geodetect.vector.labels import Labels
from geodetect.vector.opening import Area

ALL = "all"  # the row of all classes together
_NAMED = 3  # classes that a warning names
_SCORE_COLUMNS = ("score", "scores", "confidence", "conf", "probability", "prob")  # in other programs
_ONE_CLASS = "object"  # the name of a row where classes do not count and there is not just one
_UPRIGHT = 0.95  # share of its envelope that an upright rectangle fills; one turned by 1.5 degrees fills less


def find_target(found: Features, truth: Features) -> Target:
    """Return the CRS to compare in: the detections'; that of the labels where there are no detections to have one.

    None where one side has none and the other is GeoJSON that holds pixels.

    Raises:
        NotGeoreferenced: if only one side has a CRS.
    """
    crs: CRS | None = found.frame.crs or truth.frame.crs
    for side, other in ((found, truth), (truth, found)):
        if side.frame.crs is None and other.frame.crs is not None and len(side.frame):
            if not exceeds_degrees(other.frame.geometry):
                raise NotGeoreferenced(
                    f"{side.name} has no coordinate reference system, but {other.name}, with which it is compared, is "
                    f"in {other.frame.crs.to_string()}; assign it its own (GeoDataFrame.set_crs, or ogr2ogr -a_srs)"
                )
            crs = None
    geometry = np.asarray(found.frame.geometry.array, dtype=object)
    geometry = geometry[is_finite(geometry) & ~shapely.is_missing(geometry) & ~shapely.is_empty(geometry)]
    if crs is None or not len(geometry):
        return Target(crs, "the detections")
    bounds = shapely.bounds(geometry)
    centres = (bounds[:, :2] + bounds[:, 2:]) / 2
    # A corner of the detection in the middle: the middle of detections on both sides of 180 degrees is not one of them.
    typical = np.abs(centres - np.median(centres, axis=0)).sum(axis=1).argmin()
    centre = shapely.get_coordinates(geometry[typical])[0]
    side_m = np.median((bounds[:, 2:] - bounds[:, :2]) * units_m(centre[None], crs))
    return Target(crs, "the detections", centre, side_m / 10, "a tenth of a detection's side")


def read_inside(aoi: Area, target: Target) -> shapely.Geometry:
    """Read an area of interest as one geometry in the CRS of a target.

    Raises:
        GeodetectError: if it cannot be read, or holds no polygons.
        NotGeoreferenced: if only one of it and the target has a CRS.
    """
    features = open_area(aoi, target.crs)
    own = features.frame.crs
    if (own is None) != (target.crs is None):
        raise NotGeoreferenced(
            f"{features.name} and {target.name} must either both have a coordinate reference system or neither; "
            f"got {own or 'none'} and {target.crs or 'none'}"
        )
    inside = shapely.union_all(place_area(features, target).geometry)
    shapely.prepare(inside)
    return inside


def frame_detections(features: Features, target: Target, inside: shapely.Geometry | None) -> GeoDataFrame:
    """Return the detections in an area with label, score (1 for all where they have none) and id, their row from 0.

    Oriented ones keep their angle.

    Raises:
        LabelsError: if a score is missing or not a finite number, or there are other geometries than polygons.
    """
    note_unread_columns(features, None, "rename the one that holds the class to it")
    objects = Objects.of(features, _read_classes(features), apart=False)
    frame = _frame(objects, _place(objects, target, inside, AREAL), inside)
    if ANGLE in features.frame.columns:
        frame[ANGLE] = features.frame[ANGLE].to_numpy()[frame["id"]]
    if "score" not in features.frame.columns:
        if other := [name for name in features.frame.columns if str(name).lower() in _SCORE_COLUMNS]:
            warn(
                f"{features.name} has no column 'score', so that every detection scores 1 and ap and the curve say "
                f"nothing; rename the column {other[0]!r} if it holds the scores"
            )
        return frame.assign(score=1.0)
    scores = pd.to_numeric(features.frame["score"], errors="coerce").to_numpy(float)
    unknown = ~np.isfinite(scores)
    if unknown.any() and "outcome" in features.frame.columns:  # what compute_accuracy returns and saves
        raise LabelsError(
            f"{features.name} holds outcomes, and {unknown.sum():,} of them are objects without a score that were "
            'missed; leave out those whose outcome is "FN"'
        )
    if unknown.any():
        raise LabelsError(
            f"{features.name} has {unknown.sum():,} detections whose score is missing or not a number; "
            "give every one a score, or leave the column out"
        )
    return frame.assign(score=scores[frame["id"]])


def frame_labels(features: Features, labels: Labels, target: Target, inside: shapely.Geometry | None) -> GeoDataFrame:
    """Return the labels in an area as valid polygons with label and id, circles for points; without those of no area.

    Args:
        features: as `labels` reads them.
        labels: column of the class and radius of points.
        target: to bring them into.
        inside: the area, in the CRS of the target; None for everywhere.

    Raises:
        LabelsError: if there are lines, or points and no radius.
    """
    note_unread_columns(features, labels.label_field)
    objects = Objects.of(features, _read_classes(features, labels.label_field))
    objects.require_radius(labels.point_radius_m)
    placement = _place(objects, target, inside, (*AREAL, POINT))
    return _frame(objects, placement.to_polygons(labels.point_radius_m), inside).assign(score=np.nan)


def _read_classes(features: Features, label_field: str | None = None) -> np.ndarray | None:
    """Return the class of each feature; None where they have none at all."""
    named = label_field is not None or "label" in features.frame.columns
    return features.class_names(label_field) if named else None


def _place(
    objects: Objects, target: Target, inside: shapely.Geometry | None, kinds: tuple[shapely.GeometryType, ...]
) -> Placement:
    """Bring objects of these types into the CRS of a target.

    Raises:
        LabelsError: if some are of other types, or, without an area, lie where the CRS does not reach.
    """
    name, geometry = objects.features.name, objects.geometry[objects.used]
    others = geometry[~np.isin(shapely.get_type_id(geometry), kinds)]
    if len(others):
        types = " and ".join(sorted({each.geom_type for each in others}))
        raise LabelsError(f"{name} holds {len(others):,} features of type {types}; polygons are expected")
    if n := objects.lost[NOT_FINITE]:
        warn(f"{name}: left out {pluralize(n, 'object')} without finite coordinates; repair or delete them")
    placement = objects.place(target)
    n_beyond = len(objects.used) - len(placement.numbers)
    if inside is None and n_beyond:
        raise LabelsError(
            f"{name} has {n_beyond:,} features that lie where the detections' CRS does not reach; correct its CRS, or "
            "give an aoi"
        )
    return placement


def _frame(objects: Objects, placement: Placement, inside: shapely.Geometry | None) -> GeoDataFrame:
    """Return the objects with their centroid in the area, as a frame with label and id."""
    geometry, numbers = placement.geometry, placement.numbers
    if inside is not None:
        within = shapely.intersects(inside, shapely.centroid(geometry))
        geometry, numbers = geometry[within], numbers[within]
    columns = {"label": objects.names[numbers], "id": objects.rows[numbers]}
    return GeoDataFrame(columns, geometry=geometry, crs=placement.crs)


def keep_searched(truth: GeoDataFrame, ground: GeoSeries, name: str) -> GeoDataFrame:
    """Return the labels with their centroid on ground that was searched; warn of how many are not.

    Labels are brought into the CRS of the ground, whose straight edges are not straight in any other.

    Args:
        truth: in the detections' CRS.
        ground: where the detections were looked for.
        name: what the warning calls the detections.
    """
    if (truth.crs is None) != (ground.crs is None):  # one of them was changed since
        return truth
    area = ground.union_all()
    target = Target(ground.crs, name, None if area.is_empty else shapely.get_coordinates(area.centroid)[0])
    centroids = target.bring(shapely.centroid(truth.geometry.to_numpy()), truth.crs, "the labels")
    shapely.prepare(area)
    inside = shapely.intersects(area, centroids)
    if not inside.all():
        warn(
            f"{(~inside).sum():,} of {len(inside):,} labels lie outside the ground that {name} says was searched, and "
            "are left out; aoi= takes another"
        )
    return truth[inside].reset_index(drop=True)


def drop_duplicates(truth: GeoDataFrame, name: str) -> GeoDataFrame:
    """Return the labels without those that repeat the outline of another one of their group; warn of how many."""
    outline = pd.Series(number_outlines(truth.geometry.to_numpy()), truth.index)
    again = pd.DataFrame({"outline": outline, "group": truth["group"]}).duplicated()
    if again.any():
        n_left_out = pluralize(int(again.sum()), "duplicate")
        warn(f"{name}: left out {n_left_out} of {len(truth):,} objects, which repeat an outline; delete the copies")
    return truth[~again].reset_index(drop=True)


def warn_if_apart(found: GeoDataFrame, truth: GeoDataFrame) -> None:
    """Warn if detections and labels are in different places, so that nothing can match."""
    if len(found) and len(truth):
        ours, theirs = found.total_bounds, truth.total_bounds
        if (ours[:2] > theirs[2:]).any() or (theirs[:2] > ours[2:]).any():
            ours, theirs = (", ".join(f"{edge:.6g}" for edge in edges) for edges in (ours, theirs))
            warn(f"detections and labels lie apart, at {ours} and {theirs} (x1, y1, x2, y2), so none can match")


def warn_if_rotated(found: GeoDataFrame) -> None:
    """Warn if envelopes are much larger than the detections in them."""
    areas = np.nan_to_num(shapely.area(make_valid(found.geometry.to_numpy())))
    envelopes = area(shapely.bounds(found.geometry.to_numpy()))
    solid = envelopes > 0
    if solid.any() and np.median(areas[solid] / envelopes[solid]) < _UPRIGHT:
        warn(
            "the detections are not upright rectangles, so their envelopes overlap more than they do; "
            'shape="polygon" is fairer'
        )


class Grouped(NamedTuple):
    """Detections and labels with a column `group`, the class that counts, and the names of all groups."""

    found: GeoDataFrame
    truth: GeoDataFrame
    names: list[str]


def group_by_class(found: GeoDataFrame, truth: GeoDataFrame, by_class: bool) -> Grouped:
    """Group detections and labels by class, or all in one group.

    Raises:
        LabelsError: if only some detections have a class, or a class is named like the row of all.
    """
    named = [frame["label"].notna() for frame in (found, truth)]
    names = sorted({name for frame in (found, truth) for name in frame["label"].dropna()})
    # An empty side does not count here.
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
            warn(
                f"no class of the detections ({', '.join(ours[:_NAMED])}) is one of the labels' "
                f"({', '.join(theirs[:_NAMED])}), so none can match; by_class=False takes all as one"
            )
        else:
            warn_of_similar_names(names, "them the same name on both sides")
    else:
        names = names if len(names) == 1 else [_ONE_CLASS]
        found, truth = (f.assign(group=names[0], label=f["label"].fillna(names[0])) for f in (found, truth))
    if ALL in names:
        raise LabelsError(
            f"a class is named {ALL!r}, which is the row of all classes together; rename it on both sides, "
            f'for example with frame.replace({{"label": {{"{ALL}": "any"}}}})'
        )
    return Grouped(found, truth, names)

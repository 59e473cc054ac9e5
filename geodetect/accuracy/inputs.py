"""What is compared, brought to one frame: detections and true objects as polygons in the detections' CRS."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj import CRS

from geodetect.boxes import area
from geodetect.errors import LabelsError, NotGeoreferenced, warn
from geodetect.vector.classes import class_names, unread_columns, warn_of_likenesses
from geodetect.vector.datum import warn_of_shift
from geodetect.vector.degrees import near
from geodetect.vector.labels import area_in
from geodetect.vector.objects import (
    AREAL,
    NOT_FINITE,
    Objects,
    counted,
    is_finite,
    mended,
    objects_of,
    outlines,
    points_need_radius,
    units_m,
)
from geodetect.vector.opening import Area, Features, open_area
from geodetect.vector.placing import Placed, moved, no_degrees, placed

ALL = "all"  # the row of all classes together
_TOLD = 3  # classes that a warning names
_SCORE_COLUMNS = ("score", "scores", "confidence", "conf", "probability", "prob")  # as programs call it
_ONE_CLASS = "object"  # the name of a row where classes do not count and there is not just one
_UPRIGHT = 0.95  # share of its envelope that an upright rectangle fills; one turned by 1.5 degrees fills less
_POINT = shapely.GeometryType.POINT


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


def area_of_interest(aoi: Area, crs: CRS | None, found: Features) -> shapely.Geometry:
    """Read the area of interest as one geometry in the detections' CRS."""
    features = open_area(aoi, crs)
    own = features.frame.crs
    if (own is None) != (crs is None):
        raise NotGeoreferenced(
            f"{features.name} and the detections must either both have a coordinate reference system or neither; "
            f"got {own or 'none'} and {crs or 'none'}"
        )
    inside = shapely.union_all(area_in(features, crs, found.name, longitude_of(found, crs)))
    warn_of_datum(features, crs, found)
    shapely.prepare(inside)
    return inside


def longitude_of(found: Features, crs: CRS | None) -> float | None:
    """The longitude of some detection, which those of all others count from; None where they are not in degrees."""
    corners = shapely.get_coordinates(np.asarray(found.frame.geometry.array, dtype=object))[:, 0]
    finite = corners[np.isfinite(corners)]
    return float(finite[0]) if crs is not None and crs.is_geographic and len(finite) else None


def detected(
    features: Features, crs: CRS | None, inside: shapely.Geometry | None, longitude: float | None
) -> GeoDataFrame:
    """The detections with label, score (1 for all where they have none) and id, their row from 0; those in the area.

    Raises:
        LabelsError: if a score is missing or not a finite number, or there are other geometries than polygons.
    """
    unread_columns(features, None, "rename the one that holds the class to it")
    objects = objects_of(features, _names(features), apart=False)
    _refuse_but(AREAL, objects)
    frame = _framed(objects, _placed(objects, crs, inside, features.name, longitude), crs, inside)
    if "score" not in features.frame.columns:
        if other := [name for name in features.frame.columns if str(name).lower() in _SCORE_COLUMNS]:
            warn(
                f"{features.name} has no column 'score', so that every detection scores 1 and ap and the curve say "
                f"nothing; rename the column {other[0]!r} if it holds the scores"
            )
        return frame.assign(score=1.0)
    scores = pd.to_numeric(features.frame["score"], errors="coerce").to_numpy(float)
    unknown = ~np.isfinite(scores)
    if unknown.any() and "outcome" in features.frame.columns:  # what compute_accuracy gives and saves
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


def true_objects(
    features: Features,
    crs: CRS | None,
    inside: shapely.Geometry | None,
    longitude: float | None,
    *,
    label_field: str | None,
    point_radius_m: float | None,
) -> GeoDataFrame:
    """The labels as valid polygons with label and id, circles for points; those in the area.

    What has no area is left out, as nothing can find it.

    Raises:
        LabelsError: if there are lines, or points and no radius.
    """
    unread_columns(features, label_field)
    objects = objects_of(features, _names(features, label_field))
    if point_radius_m is None and (shapely.get_type_id(objects.geometry[objects.used]) == _POINT).any():
        raise points_need_radius(features.name)
    _refuse_but((*AREAL, _POINT), objects)
    solid = _placed(objects, crs, inside, features.name, longitude).solid(crs, point_radius_m)
    return _framed(objects, solid, crs, inside).assign(score=np.nan)


def _names(features: Features, label_field: str | None = None) -> np.ndarray | None:
    """The class of each feature; None where they have none at all."""
    named = label_field is not None or "label" in features.frame.columns
    return class_names(features, label_field) if named else None


def _refuse_but(kinds: tuple[shapely.GeometryType, ...], objects: Objects) -> None:
    """Refuse objects of other types.

    Raises:
        LabelsError: if there are any; the message names their types.
    """
    geometry = objects.geometry[objects.used]
    others = geometry[~np.isin(shapely.get_type_id(geometry), kinds)]
    if len(others):
        types = " and ".join(sorted({each.geom_type for each in others}))
        raise LabelsError(
            f"{objects.features.name} holds {len(others):,} features of type {types}; polygons are expected"
        )


def _placed(
    objects: Objects, crs: CRS | None, inside: shapely.Geometry | None, name: str, longitude: float | None
) -> Placed:
    """The objects in `crs`, their longitudes counted from `longitude`.

    Raises:
        LabelsError: if there is no area, and an object lies where the CRS does not reach.
    """
    if n := objects.lost[NOT_FINITE]:
        warn(f"{name}: left out {counted(n, 'object')} without finite coordinates; repair or delete them")
    here = placed(objects, crs, "the detections", longitude)
    if inside is None and len(here.numbers) < len(objects.used):
        raise LabelsError(
            f"{name} has {len(objects.used) - len(here.numbers):,} features that lie where the detections' CRS does "
            "not reach; correct its CRS, or give an aoi"
        )
    return here


def _framed(objects: Objects, here: Placed, crs: CRS | None, inside: shapely.Geometry | None) -> GeoDataFrame:
    """The objects with their centroid in the area, as a frame with label and id."""
    geometry, numbers = here.geometry, here.numbers
    if inside is not None:
        within = shapely.intersects(inside, shapely.centroid(geometry))
        geometry, numbers = geometry[within], numbers[within]
    columns = {"label": objects.names[numbers], "id": objects.rows[numbers]}
    return GeoDataFrame(columns, geometry=geometry, crs=crs)


def on_searched(truth: GeoDataFrame, ground: GeoSeries, name: str) -> GeoDataFrame:
    """The labels with their centroid on ground that was searched; a warning says how many are left out.

    Labels are brought into the CRS of the ground, whose straight edges are not straight in any other.

    Args:
        truth: in the detections' CRS.
        ground: where the detections were looked for.
        name: what the warning calls the detections.
    """
    if (truth.crs is None) != (ground.crs is None):  # one of them was changed since
        return truth
    centroids = moved(shapely.centroid(truth.geometry.to_numpy()), truth.crs, ground.crs, name="the labels", there=name)
    area = ground.union_all()
    if ground.crs is not None and ground.crs.is_geographic and not area.is_empty:
        centroids = near(centroids, area.centroid.x)
    shapely.prepare(area)
    inside = shapely.intersects(area, centroids)
    if not inside.all():
        warn(
            f"{(~inside).sum():,} of {len(inside):,} labels lie outside the ground that {name} says was searched, and "
            "are left out; aoi= takes another"
        )
    return truth[inside].reset_index(drop=True)


def once(truth: GeoDataFrame, name: str) -> GeoDataFrame:
    """The labels without those that repeat the outline of another one of their group, of which a warning tells."""
    outline = pd.Series(outlines(truth.geometry.to_numpy()), truth.index)
    again = pd.DataFrame({"outline": outline, "group": truth["group"]}).duplicated()
    if again.any():
        n_left_out = counted(int(again.sum()), "duplicate")
        warn(f"{name}: left out {n_left_out} of {len(truth):,} objects, which repeat an outline; delete the copies")
    return truth[~again].reset_index(drop=True)


def warn_of_datum(features: Features, crs: CRS | None, found: Features) -> None:
    """Warn where what is brought to the detections may lie beside them by a tenth of their size and more."""
    geometry = np.asarray(found.frame.geometry.array, dtype=object)
    bounds = shapely.bounds(geometry[is_finite(geometry) & ~shapely.is_missing(geometry)])
    if crs is None or not len(bounds):
        return
    middle = np.median((bounds[:, :2] + bounds[:, 2:]) / 2, axis=0)
    side_m = np.median((bounds[:, 2:] - bounds[:, :2]) * units_m(middle[None], crs))
    for own in {each.frame.crs: None for each in features.files or (features,)}:
        warn_of_shift(features.name, own, crs, middle, limit_m=side_m / 10, limit="a tenth of a detection's side")


def warn_of_apart(found: GeoDataFrame, truth: GeoDataFrame) -> None:
    """Warns where the two lie in different places, so that nothing can match."""
    if len(found) and len(truth):
        ours, theirs = found.total_bounds, truth.total_bounds
        if (ours[:2] > theirs[2:]).any() or (theirs[:2] > ours[2:]).any():
            ours, theirs = (", ".join(f"{edge:.6g}" for edge in edges) for edges in (ours, theirs))
            warn(f"detections and labels lie apart, at {ours} and {theirs} (x1, y1, x2, y2), so none can match")


def warn_of_rotated(found: GeoDataFrame) -> None:
    """Warns where envelopes are much larger than the detections in them."""
    areas = np.nan_to_num(shapely.area(mended(found.geometry.to_numpy())))
    envelopes = area(shapely.bounds(found.geometry.to_numpy()))
    solid = envelopes > 0
    if solid.any() and np.median(areas[solid] / envelopes[solid]) < _UPRIGHT:
        warn(
            "the detections are not upright rectangles, so their envelopes overlap more than they do; "
            'shape="polygon" is fairer'
        )


class Grouped(NamedTuple):
    """Both sides with a column `group`, the class that counts, and the names of all groups."""

    found: GeoDataFrame
    truth: GeoDataFrame
    names: list[str]


def one_naming(found: GeoDataFrame, truth: GeoDataFrame, by_class: bool) -> Grouped:
    """Return both sides with their features grouped by class, or all in one group.

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
            warn(
                f"no class of the detections ({', '.join(ours[:_TOLD])}) is one of the labels' "
                f"({', '.join(theirs[:_TOLD])}), so none can match; by_class=False takes all as one"
            )
        else:
            warn_of_likenesses(names, "them the same name on both sides")
    else:
        if by_class and len(names) > 1:
            without, other = ("labels", "detections") if named[0].any() else ("detections", "labels")
            warn(
                f"the {without} have no classes, so that the {len(names)} classes of the {other} count as one; give "
                f"the {without} a column 'label', or by_class=False if this is what you want"
            )
        names = names if len(names) == 1 else [_ONE_CLASS]
        found, truth = (f.assign(group=names[0], label=f["label"].fillna(names[0])) for f in (found, truth))
    if ALL in names:
        raise LabelsError(
            f"a class is named {ALL!r}, which is the row of all classes together; rename it on both sides, "
            f'for example with frame.replace({{"label": {{"{ALL}": "any"}}}})'
        )
    return Grouped(found, truth, names)

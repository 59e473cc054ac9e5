"""`compute_accuracy`: detections against true objects."""

from __future__ import annotations

from geodetect.accuracy import inputs
from geodetect.accuracy.comparison import compared
from geodetect.accuracy.result import Accuracy
from geodetect.errors import ArgumentError, is_number, warn
from geodetect.metrics import check_match_iou
from geodetect.vector.opening import Area, Vectors, open_features
from geodetect.vector.searched import searched_ground


def compute_accuracy(
    detections: Vectors,
    labels: Vectors,
    *,
    label_field: str | None = None,
    layer: str | int | None = None,
    point_radius_m: float | None = None,
    aoi: Area | None = None,
    match_iou: float = 0.5,
    by_class: bool = True,
    shape: str = "box",
) -> Accuracy:
    """How many true objects were found, and how many detections are true.

    A detection is right if it overlaps a true object that no better detection has taken by at least
    `match_iou`. Every detection given counts, whatever its score; those without a column `score` count as
    1. Precision and F1 are 0 where nothing was found; recall and `ap` are NaN for a class without truth.

    Args:
        detections: polygons with the columns `label` and `score`, as `detect_objects` gives them.
        labels: true objects in any CRS: polygons, or points with `point_radius_m`. Parts of multipolygons count
            each, copies of one object once; features without a geometry, or without a class among others with one, are
            left out.
        label_field: column of the labels' class; None takes `label` where there is one.
        layer: which layer of the labels' file, by name or number from 0; None: the first that holds features, with a
            warning if there are more. For `detections` and `aoi` write `file.gpkg|layername=NAME`.
        point_radius_m: points become circles of this radius on the ground.
        aoi: only what has its centroid inside counts, on both sides: a vector file or frame in any CRS, or a geometry
            or (x1, y1, x2, y2) in the detections'. None: the ground that the detections say was searched, if they do:
            labels outside are not counted as missed, and a warning gives their number.
        match_iou: overlap from which a detection is right, above 0 and at most 1.
        by_class: only features of one class match. Otherwise, or where either side has no classes,
            all count as one: in a row with the name of the only class, or `object`.
        shape: `box` compares envelopes in the detections' CRS, `polygon` the polygons themselves.

    Raises:
        ArgumentError: if a value is not possible.
        LabelsError: if a file cannot be read or holds something else than polygons or points, or a class
            is named `all`, like the row of all classes.
        NotGeoreferenced: if only one of the two has a CRS.
    """
    _check(match_iou, shape, point_radius_m)
    ours, theirs = open_features(detections, "detections"), open_features(labels, "labels", layer)
    crs = inputs.common_crs(ours, theirs)
    inside = None if aoi is None else inputs.area_of_interest(aoi, crs, ours)
    longitude = inputs.longitude_of(ours, crs)
    found = inputs.detected(ours, crs, inside, longitude)
    truth = inputs.true_objects(theirs, crs, inside, longitude, label_field=label_field, point_radius_m=point_radius_m)
    if aoi is None and (ground := searched_ground(detections)) is not None:
        truth = inputs.on_searched(truth, ground, ours.name)
    if inside is not None and len(found) == len(truth) == 0 < len(ours.frame) + len(theirs.frame):
        warn("neither detections nor labels lie inside the aoi")
    inputs.warn_of_apart(found, truth)
    inputs.warn_of_datum(theirs, crs, ours)
    if shape == "box":
        inputs.warn_of_rotated(found)
    found, truth, classes = inputs.one_naming(found, truth, by_class)
    truth = inputs.once(truth, theirs.name)
    return compared(found, truth, classes, match_iou=match_iou, polygons=shape == "polygon")


def _check(match_iou: float, shape: str, point_radius_m: float | None) -> None:
    check_match_iou(match_iou)
    if shape not in ("box", "polygon"):
        raise ArgumentError(f"shape must be 'box' or 'polygon'; got {shape!r}")
    if point_radius_m is not None and not (is_number(point_radius_m) and point_radius_m > 0):
        raise ArgumentError(f"point_radius_m must be above 0 (metres on the ground); got {point_radius_m!r}")

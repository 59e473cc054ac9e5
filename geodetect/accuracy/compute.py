"""`compute_accuracy`: detections against true objects."""

from __future__ import annotations

from geodetect.accuracy.comparison import compared
from geodetect.accuracy.inputs import (
    drop_duplicates,
    find_target,
    frame_detections,
    frame_labels,
    group_by_class,
    keep_searched,
    read_inside,
    warn_of_apart,
    warn_of_rotated,
)
from geodetect.accuracy.result import Accuracy
from geodetect.errors import ArgumentError, warn
from geodetect.metrics import check_match_iou
from geodetect.vector.datum import warn_of_datum
from geodetect.vector.labels import Labels
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
    check_match_iou(match_iou)
    if shape not in ("box", "polygon"):
        raise ArgumentError(f"shape must be 'box' or 'polygon'; got {shape!r}")
    given = Labels(labels, label_field, layer, point_radius_m)
    features = open_features(detections, "detections")
    target = find_target(features, given.features)
    inside = None if aoi is None else read_inside(aoi, target)
    found, truth = frame_detections(features, target, inside), frame_labels(given, target, inside)
    if aoi is None and (ground := searched_ground(detections)) is not None:
        truth = keep_searched(truth, ground, features.name)
    if inside is not None and len(found) == len(truth) == 0 < len(features.frame) + len(given.features.frame):
        warn("neither detections nor labels lie inside the aoi")
    warn_of_apart(found, truth)
    warn_of_datum(given.features, target)
    if shape == "box":
        warn_of_rotated(found)
    found, truth, classes = group_by_class(found, truth, by_class)
    truth = drop_duplicates(truth, given.features.name)
    return compared(found, truth, classes, match_iou=match_iou, polygons=shape == "polygon")

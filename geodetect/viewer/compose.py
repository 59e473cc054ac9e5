"""`view`: a scene with its detections and the labels that were missed, as a page.

The outcomes are computed once, by `compute_accuracy`; the page counts them from any score on. That is exact:
detections take their labels in order of score, so those below a score never change what those above it match.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from geodetect.accuracy import compute_accuracy
from geodetect.accuracy.inputs import find_target, frame_detections, read_inside
from geodetect.drawing import render
from geodetect.vector.opening import Area, Vectors, open_features
from geodetect.viewer.content import LABEL, RIGHT, UNJUDGED, WRONG, describe_boxes, describe_scene
from geodetect.viewer.page import Page


def view(
    raster: str | Path,
    detections: Vectors,
    labels: Vectors | None = None,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    aoi: Area | None = None,
    match_iou: float = 0.5,
    shape: str | None = None,
    max_side: int = 2048,
) -> Page:
    """Return a page that shows a scene with its detections, to be filtered by score, class and outcome.

    With `labels` the page also shows which detections are wrong and which labels were missed, counts both with
    precision, recall and F1 at any score, and starts at the score with the best F1. The counts are those of
    `compute_accuracy`.

    Args:
        raster: the scene.
        detections: polygons with `label` and `score`, as `detect_objects` gives them; without scores all count as 1.
        labels: true objects to judge by, in any CRS.
        label_field: column of the labels' class; None takes `label` where there is one.
        point_radius_m: makes points among the labels into discs of this radius in metres.
        aoi: only what has its centroid inside is shown and counted; None: all detections, and of the labels those on
            the ground that the detections record as searched, as in `compute_accuracy`.
        match_iou: overlap from which a detection is right, above 0 and at most 1.
        shape: `box` compares envelopes in the detections' CRS, `polygon` the polygons themselves; None: `polygon` for
            oriented detections, which have a column `angle_deg`, and `box` for all others.
        max_side: longer side of the scene's picture in pixels; a larger scene is shown at a lower resolution.

    Raises:
        GeodetectError: if a file or a value cannot be used.
    """
    rgb, grid = render(raster, longer_side=max_side)
    if labels is None:
        features = open_features(detections, "detections")
        target = find_target(features, features)
        found = frame_detections(features, target, None if aoi is None else read_inside(aoi, target))
        nameless = "no class" if found["label"].notna().any() else "object"
        rows = found.assign(label=found["label"].fillna(nameless), kind=UNJUDGED)
        name, best_score = features.name, float("nan")
    else:
        result = compute_accuracy(
            detections,
            labels,
            label_field=label_field,
            point_radius_m=point_radius_m,
            aoi=aoi,
            match_iou=match_iou,
            shape=shape,
        )
        found, outcome = result.features, result.features["outcome"]
        is_found = outcome != "FN"
        kinds = np.where(outcome[is_found] == "TP", RIGHT, WRONG)
        # All labels, after the detections. One that was found has the score of its detection, and is drawn where that
        # lies once the detection is below the score asked for; one that was missed has no score.
        true = found[outcome != "FP"].assign(kind=LABEL)
        rows = pd.concat([found[is_found].assign(kind=kinds), true])
        name, best_score = "the frame of detections and labels", result.best_score
    content = {
        "scene": describe_scene(grid) | {"picture": rgb.shape[:2]},
        **describe_boxes(rows, name, grid),
        "judged": labels is not None,
        "best_score": None if np.isnan(best_score) else best_score,
    }
    return Page.of(grid.name, rgb, content)

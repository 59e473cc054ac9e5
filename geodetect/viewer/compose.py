"""`view`: a scene, what was found in it, and what was missed, as a page.

The outcomes are worked out once, by `compute_accuracy`; the page counts them from any score on. That is exact:
detections take their labels best first, so those below a score never change what those above it match.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from geopandas import GeoDataFrame

from geodetect.accuracy import compute_accuracy
from geodetect.accuracy.inputs import area_of_interest, detected, longitude_of
from geodetect.drawing import render
from geodetect.vector.opening import Area, Features, Vectors, open_features
from geodetect.viewer.boxes import LABEL, RIGHT, UNJUDGED, WRONG, described
from geodetect.viewer.ground import located
from geodetect.viewer.page import Page, filled


def view(
    raster: str | Path,
    detections: Vectors,
    labels: Vectors | None = None,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    aoi: Area | None = None,
    match_iou: float = 0.5,
    shape: str = "box",
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
            the ground that the detections say was searched, as in `compute_accuracy`.
        match_iou: overlap from which a detection is right, above 0 and at most 1.
        shape: `box` compares envelopes in the detections' CRS, `polygon` the polygons themselves.
        max_side: longer side of the scene's picture in pixels; a larger scene is shown at a lower resolution.

    Raises:
        GeodetectError: if a file or a value is not usable.
    """
    rgb, grid = render(raster, longer_side=max_side)
    if labels is None:
        features = open_features(detections, "detections")
        rows, name, best_score = _unjudged(features, aoi), features.name, float("nan")
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
        rows, name, best_score = _judged(result.features), "the frame of detections and labels", result.best_score
    content = {
        "scene": located(grid) | {"picture": rgb.shape[:2]},
        **described(rows, name, grid),
        "judged": labels is not None,
        "best_score": None if np.isnan(best_score) else best_score,
    }
    return Page(filled(grid.name, rgb, content))


def _unjudged(features: Features, aoi: Area | None) -> GeoDataFrame:
    """Return the detections in an area, with a class for those that have none."""
    crs = features.frame.crs
    inside = None if aoi is None else area_of_interest(aoi, crs, features)
    found = detected(features, crs, inside, longitude_of(features, crs))
    nameless = "no class" if found["label"].notna().any() else "object"
    return found.assign(label=found["label"].fillna(nameless), kind=UNJUDGED)


def _judged(features: GeoDataFrame) -> GeoDataFrame:
    """The detections by outcome, then all labels, each with the score of the detection that found it.

    A label that none found has no score. One that was found is drawn, when its detection is below the score that
    is asked for, where the detection lies.
    """
    found, right = features["outcome"] != "FN", features["outcome"] == "TP"
    kinds = np.where(right[found], RIGHT, WRONG)
    return pd.concat([features[found].assign(kind=kinds), features[right | ~found].assign(kind=LABEL)])

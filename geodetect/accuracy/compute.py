"""`compute_accuracy`: detections compared with true objects.

Both are frames with the columns label, group (the class that counts), score, id and geometry, in one CRS.
Shapes: N detections, P pairs that overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from jaxtyping import Float, Int

from geodetect.accuracy.inputs import (
    ALL,
    drop_duplicates,
    find_target,
    frame_detections,
    frame_labels,
    group_by_class,
    keep_searched,
    read_inside,
    warn_if_apart,
    warn_if_rotated,
)
from geodetect.accuracy.result import Accuracy
from geodetect.boxes import Boxes, area, find_overlaps
from geodetect.errors import ArgumentError, warn
from geodetect.metrics import average_precision, best_score, check_match_iou, match_pairs, precision_recall
from geodetect.vector.datum import warn_of_datum
from geodetect.vector.features import ANGLE
from geodetect.vector.geometry import make_valid
from geodetect.vector.labels import Labels
from geodetect.vector.opening import Area, Vectors, open_features
from geodetect.vector.searched import read_searched_ground

_ROUNDED = 1 - 1e-9  # equal areas, computed in two ways
_NO_OBJECT, _NO_DETECTION = "no object", "no detection"  # where false detections and missed objects are counted


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
    shape: str | None = None,
) -> Accuracy:
    """Count how many true objects were found, and how many detections are right.

    A detection is right if it overlaps a true object that no better detection has taken by at least
    `match_iou`. Every detection given counts, with any score; those without a column `score` count as
    1. Precision and F1 are 0 where nothing was found; recall and `ap` are NaN for a class without truth.

    Args:
        detections: polygons with the columns `label` and `score`, as `detect_objects` gives them.
        labels: true objects in any CRS: polygons, or points with `point_radius_m`. Each part of a multipolygon
            counts, copies of an object count once; features without a geometry, or without a class among others with
            one, are dropped.
        label_field: column of the labels' class; None takes `label` where there is one.
        layer: which layer of the labels' file, by name or number from 0; None: the first that holds features, with a
            warning if there are more. For `detections` and `aoi` write `file.gpkg|layername=NAME`.
        point_radius_m: points become circles of this radius on the ground.
        aoi: only what has its centroid inside counts, on both sides: a vector file or frame in any CRS, or a geometry
            or (x1, y1, x2, y2) in the detections'. None: the ground that the detections record as searched, if any:
            labels outside are not counted as missed, and a warning gives their number.
        match_iou: overlap from which a detection is right, above 0 and at most 1.
        by_class: only features of one class match. Otherwise, or where either side has no classes,
            all count as one: in a row with the name of the only class, or `object`.
        shape: `box` compares envelopes in the detections' CRS, `polygon` the polygons themselves; None: `polygon` for
            oriented detections, which have a column `angle_deg`, and `box` for all others.

    Raises:
        ArgumentError: if a value is impossible.
        LabelsError: if a file cannot be read or holds other geometries than polygons and points, or a
            class is named `all`, like the row of all classes.
        NotGeoreferenced: if only one of the two has a CRS.
    """
    check_match_iou(match_iou)
    if shape not in (None, "box", "polygon"):
        raise ArgumentError(f"shape must be 'box' or 'polygon'; got {shape!r}")
    given = Labels(labels, label_field, layer, point_radius_m)
    ours, theirs = open_features(detections, "detections"), given.read()
    polygons = shape == "polygon" or (shape is None and ANGLE in ours.frame.columns)
    target = find_target(ours, theirs)
    inside = None if aoi is None else read_inside(aoi, target)
    found, truth = frame_detections(ours, target, inside), frame_labels(theirs, given, target, inside)
    if aoi is None and (ground := read_searched_ground(detections)) is not None:
        truth = keep_searched(truth, ground, ours.name)
    if inside is not None and len(found) == len(truth) == 0 < len(ours.frame) + len(theirs.frame):
        warn("neither detections nor labels lie inside the aoi")
    warn_if_apart(found, truth)
    warn_of_datum(theirs, target)
    if not polygons:
        warn_if_rotated(found)
    found, truth, classes = group_by_class(found, truth, by_class)
    truth = drop_duplicates(truth, theirs.name)
    comparison = _Comparison.of(found, truth, classes, match_iou=match_iou, polygons=polygons)
    scores, hit, n_truth = comparison.found["score"].to_numpy(), comparison.partner >= 0, len(truth)
    curve = precision_recall(scores, hit, n_truth)
    return Accuracy(
        table=comparison.tabulate(classes),
        features=comparison.list_outcomes(),
        best_score=best_score(scores, hit, n_truth),
        curve=pd.DataFrame(dict(zip(("score", "precision", "recall", "f1"), curve, strict=True))),
        confusion=comparison.count_confusions(),
        match_iou=match_iou,
        shape="polygon" if polygons else "box",
    )


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Detections and the labels that they found.

    Args:
        found: detections, highest score first; ties by place, so that no result depends on the order of rows in a file.
        truth: labels, in a fixed order too.
        partner: (N,) row of the label that each detection found; -1 for none.
        iou: (N,) their overlap; 0 for none.
    """

    found: GeoDataFrame
    truth: GeoDataFrame
    partner: Int[np.ndarray, "N"]
    iou: Float[np.ndarray, "N"]

    @classmethod
    def of(
        cls, found: GeoDataFrame, truth: GeoDataFrame, classes: Sequence[str], *, match_iou: float, polygons: bool
    ) -> _Comparison:
        """Match detections with labels, alike in CRS and naming."""
        sides = []
        for frame in (found, truth.assign(score=1.0)):
            groups = pd.Categorical(frame["group"], classes).codes
            boxes = Boxes(shapely.bounds(frame.geometry.to_numpy()), groups, frame["score"].to_numpy())
            sides.append(frame.iloc[boxes.rank()].reset_index(drop=True))
        found, truth = sides
        # Pairs of one class that may match, and their IoU, without a matrix of all pairs.
        a, b = (frame.geometry.to_numpy() for frame in sides)
        envelopes = shapely.bounds(a), shapely.bounds(b)
        i, j, iou = find_overlaps(*envelopes)
        able = found["group"].to_numpy()[i] == truth["group"].to_numpy()[j]
        if polygons:
            a = make_valid(a)
            areas = np.nan_to_num(shapely.area(a))[i] + shapely.area(b)[j]
            # Polygons share no more than their envelopes do; most pairs are too far apart by that alone.
            shared = iou / (1 + iou) * (area(envelopes[0])[i] + area(envelopes[1])[j])
            able &= shared >= match_iou / (1 + match_iou) * areas * _ROUNDED
            shared = np.nan_to_num(shapely.area(shapely.intersection(a[i[able]], b[j[able]])))
            iou[able] = shared / (areas[able] - shared)
        i, j, iou = i[able], j[able], iou[able]
        partner, iou = match_pairs(
            np.arange(len(found)), i, j, iou, match_iou=match_iou, last=np.zeros(len(truth), bool)
        )
        return cls(found, truth.assign(score=np.nan), partner, iou)

    def tabulate(self, classes: Sequence[str]) -> pd.DataFrame:
        """Return counts and measures of each class and of all.

        0 / 0 is NaN, but the precision of no detections is 0 where there is truth.
        """
        group, hit, n_truth = self.found["group"].to_numpy(), self.partner >= 0, self.truth["group"].value_counts()
        rows = []
        for name in classes:
            mine, n = group == name, int(n_truth.get(name, 0))
            tp = int(hit[mine].sum())
            ap = average_precision(self.found["score"].to_numpy()[mine], hit[mine], n)
            rows.append({"ap": ap, "tp": tp, "fp": int(mine.sum()) - tp, "fn": n - tp})
        table = pd.DataFrame(rows, index=list(classes), columns=["ap", "tp", "fp", "fn"])
        counts = table[["tp", "fp", "fn"]].sum()
        table.loc[ALL] = {"ap": table["ap"].mean(), **counts}
        table = table.astype({"tp": int, "fp": int, "fn": int})
        tp, fp, fn = (table[name] for name in ("tp", "fp", "fn"))
        precision = (tp / (tp + fp)).mask((tp + fp == 0) & (fn > 0), 0.0)
        ratios = pd.DataFrame({"precision": precision, "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn)})
        return ratios.join(table)

    def list_outcomes(self) -> GeoDataFrame:
        """Return the detections with their outcome, and after them the labels that were missed."""
        found, truth, hit = self.found, self.truth, self.partner >= 0
        ids = pd.Series(pd.NA, index=found.index, dtype="Int64")
        ids[hit] = truth["id"].to_numpy()[self.partner[hit]]
        seen = found.assign(outcome=np.where(hit, "TP", "FP"), iou=self.iou, partner=ids)
        missed = truth.drop(index=self.partner[hit])
        none = pd.Series(pd.NA, index=missed.index, dtype="Int64")
        both = pd.concat([seen, missed.assign(outcome="FN", iou=0.0, partner=none)], ignore_index=True)
        angle = [ANGLE] if ANGLE in found.columns else []
        columns = ["label", "score", *angle, "outcome", "iou", "id", "partner"]
        return GeoDataFrame(both[columns], geometry=list(both.geometry), crs=found.crs or truth.crs)

    def count_confusions(self) -> pd.DataFrame:
        """Return the confusion matrix of the classes, with counts of missed and of false objects."""
        names = sorted(set(self.found["label"]) | set(self.truth["label"]))
        seen, true = (pd.Categorical(frame["label"], names).codes.astype(int) for frame in (self.found, self.truth))
        missed = np.delete(np.arange(len(true)), self.partner[self.partner >= 0])
        counts = np.zeros((len(names) + 1, len(names) + 1), int)
        np.add.at(counts, (np.append(true, len(names))[self.partner], seen), 1)  # partner -1: the last row, no object
        np.add.at(counts, (true[missed], len(names)), 1)
        rows, columns = pd.Index([*names, _NO_OBJECT], name="true"), pd.Index([*names, _NO_DETECTION], name="detected")
        return pd.DataFrame(counts, rows, columns)

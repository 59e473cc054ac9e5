"""Both sides compared: who found whom, and what that comes to.

Both are frames with the columns label, group (the class that counts), score, id and geometry, in one CRS; what
follows is the matching of `metrics`. Shapes: N detections, M true objects, P pairs that overlap, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame
from jaxtyping import Bool, Float, Int

from geodetect.accuracy.inputs import ALL
from geodetect.accuracy.result import Accuracy
from geodetect.boxes import Boxes, Pairs, area, overlapping
from geodetect.metrics import average_precision, best_score, match_pairs, precision_recall
from geodetect.vector.geometry import mend

_ROUNDED = 1 - 1e-9  # equal areas, computed in two ways
_NO_OBJECT, _NO_DETECTION = "no object", "no detection"  # where false detections and missed objects are counted


def compared(
    found: GeoDataFrame, truth: GeoDataFrame, classes: Sequence[str], *, match_iou: float, polygons: bool
) -> Accuracy:
    """The accuracy of detections against truth, alike in CRS and naming."""
    found, truth = _ranked(found, classes), _ranked(truth.assign(score=1.0), classes).assign(score=np.nan)
    i, j, iou = _overlaps(found, truth, match_iou, polygons)
    partner, matched = match_pairs(np.arange(len(found)), i, j, iou, n_truth=len(truth), match_iou=match_iou)
    scores, hit, n_truth = found["score"].to_numpy(), partner >= 0, len(truth)
    curve = precision_recall(scores, hit, n_truth)
    return Accuracy(
        table=_table(found, truth, hit, classes),
        features=_outcomes(found, truth, partner, matched),
        best_score=best_score(scores, hit, n_truth),
        curve=pd.DataFrame(dict(zip(("score", "precision", "recall", "f1"), curve, strict=True))),
        confusion=_confusion(found, truth, partner),
        match_iou=match_iou,
    )


def _ranked(features: GeoDataFrame, classes: Sequence[str]) -> GeoDataFrame:
    """The features best first, ties by place: so no result hangs on the order of rows in a file."""
    groups = pd.Categorical(features["group"], classes).codes
    boxes = Boxes(shapely.bounds(features.geometry.to_numpy()), groups, features["score"].to_numpy())
    return features.iloc[boxes.ranked()].reset_index(drop=True)


def _overlaps(found: GeoDataFrame, truth: GeoDataFrame, match_iou: float, polygons: bool) -> Pairs:
    """Pairs of one class that may match, and how much they overlap, without a matrix of all pairs."""
    a, b = (frame.geometry.to_numpy() for frame in (found, truth))
    boxes, true_boxes = shapely.bounds(a), shapely.bounds(b)
    i, j, iou = overlapping(boxes, true_boxes)
    able = found["group"].to_numpy()[i] == truth["group"].to_numpy()[j]
    if not polygons:
        return Pairs(i[able], j[able], iou[able])
    a = mend(a)
    areas = np.nan_to_num(shapely.area(a))[i] + shapely.area(b)[j]
    # Polygons share no more than their envelopes do; most pairs are too far apart by that alone.
    shared = iou / (1 + iou) * (area(boxes)[i] + area(true_boxes)[j])
    able &= shared >= match_iou / (1 + match_iou) * areas * _ROUNDED
    i, j, areas = i[able], j[able], areas[able]
    shared = np.nan_to_num(shapely.area(shapely.intersection(a[i], b[j])))
    return Pairs(i, j, shared / (areas - shared))


def _table(
    found: GeoDataFrame, truth: GeoDataFrame, hit: Bool[np.ndarray, "N"], classes: Sequence[str]
) -> pd.DataFrame:
    """Counts and measures of each class and of all."""
    group, n_truth = found["group"].to_numpy(), truth["group"].value_counts()
    rows = []
    for name in classes:
        mine, n = group == name, int(n_truth.get(name, 0))
        tp = int(hit[mine].sum())
        ap = average_precision(found["score"].to_numpy()[mine], hit[mine], n)
        rows.append({"ap": ap, "tp": tp, "fp": int(mine.sum()) - tp, "fn": n - tp})
    table = pd.DataFrame(rows, index=list(classes), columns=["ap", "tp", "fp", "fn"])
    counts = table[["tp", "fp", "fn"]].sum()
    table.loc[ALL] = {"ap": table["ap"].mean(), **counts}
    table = table.astype({"tp": int, "fp": int, "fn": int})
    return _with_ratios(table)


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The counts with precision, recall and F1 before them; 0 / 0 is NaN, but precision of nothing where truth is."""
    tp, fp, fn = (table[name] for name in ("tp", "fp", "fn"))
    precision = (tp / (tp + fp)).mask((tp + fp == 0) & (fn > 0), 0.0)
    ratios = pd.DataFrame({"precision": precision, "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn)})
    return ratios.join(table)


def _outcomes(
    found: GeoDataFrame, truth: GeoDataFrame, partner: Int[np.ndarray, "N"], iou: Float[np.ndarray, "N"]
) -> GeoDataFrame:
    """Detections with their outcome, and under them what was missed."""
    hit, missed = partner >= 0, truth.drop(index=partner[partner >= 0])
    ids = pd.Series(pd.NA, index=found.index, dtype="Int64")
    ids[hit] = truth["id"].to_numpy()[partner[hit]]
    seen = found.assign(outcome=np.where(hit, "TP", "FP"), iou=iou, partner=ids)
    none = pd.Series(pd.NA, index=missed.index, dtype="Int64")
    both = pd.concat([seen, missed.assign(outcome="FN", iou=0.0, partner=none)], ignore_index=True)
    columns = ["label", "score", "outcome", "iou", "id", "partner"]
    return GeoDataFrame(both[columns], geometry=list(both.geometry), crs=found.crs or truth.crs)


def _confusion(found: GeoDataFrame, truth: GeoDataFrame, partner: Int[np.ndarray, "N"]) -> pd.DataFrame:
    """How often an object of each class was found as each, missed, or seen where there is none."""
    names = sorted(set(found["label"]) | set(truth["label"]))
    seen, true = (pd.Categorical(frame["label"], names).codes.astype(int) for frame in (found, truth))
    missed = np.delete(np.arange(len(truth)), partner[partner >= 0])
    counts = np.zeros((len(names) + 1, len(names) + 1), int)
    np.add.at(counts, (np.append(true, len(names))[partner], seen), 1)  # partner -1: the last row, no object
    np.add.at(counts, (true[missed], len(names)), 1)
    rows, columns = pd.Index([*names, _NO_OBJECT], name="true"), pd.Index([*names, _NO_DETECTION], name="detected")
    return pd.DataFrame(counts, rows, columns)

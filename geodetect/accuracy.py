"""How good detections are: features against features, on the map.

Both sides are brought to frames with the columns label, score and geometry in the detections'
CRS; what follows is the matching of `metrics`. Shapes: N detections, M labels, P pairs that overlap.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from pyproj import CRS
from pyproj.exceptions import ProjError

from geodetect import plots
from geodetect.boxes import Boxes, area, overlapping
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, OutputError
from geodetect.metrics import average_precision, best_score, check_match_iou, match_pairs, precision_recall
from geodetect.vector.labels import class_names
from geodetect.vector.opening import Features, open_features
from geodetect.vector.writers import check_output, write_features

_ONE_CLASS = "object"  # the name of a row where classes do not count and there is not just one
_UPRIGHT = 0.95  # share of its envelope that an upright rectangle fills; one turned by 1.5 degrees fills less
_Spatial = TypeVar("_Spatial", GeoDataFrame, GeoSeries)
_AREAL = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """What came of comparing detections with true objects.

    Args:
        table: rows classes and `all`, columns precision, recall, f1, ap, tp, fp, fn.
        features: every detection (outcome TP or FP) and every object that none found (FN), in the
            detections' CRS, with label, score (NaN for FN), outcome and iou (0 but for TP).
        best_score: the score from which on detections of all classes together have the best F1; NaN without any hit.
        curve: columns score, precision, recall, f1 over all classes together, the best score first.
    """

    table: pd.DataFrame
    features: GeoDataFrame
    best_score: float
    curve: pd.DataFrame

    def plot(self) -> Figure:
        """A figure of precision over recall, and of both and F1 over the score, with the best score marked."""
        return plots.curve_figure(self.curve, self.best_score)

    def save(self, path: str | Path) -> Path:
        """The file that now holds the features (`.gpkg`) or the table (`.csv`).

        Raises:
            OutputError: if the suffix is another, or nothing can be written there.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix not in (".gpkg", ".csv"):
            raise OutputError(f"accuracy is saved as .gpkg (the features) or .csv (the table); got {path.name}")
        check_output(path)
        if suffix == ".gpkg":
            return Path(write_features(self.features, path))
        return _write_text(self.table.to_csv(index_label="class"), path)


def _write_text(text: str, path: Path) -> Path:
    """A file that holds all of the text; where it cannot, none, and an older one as it was."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            part = Path(folder) / path.name
            part.write_text(text, encoding="utf-8")
            return part.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def compute_accuracy(
    detections: str | Path | GeoDataFrame,
    labels: str | Path | GeoDataFrame,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    aoi: str | Path | GeoDataFrame | shapely.Geometry | None = None,
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
            each; features without a geometry, or without a class among others with one, are left out.
        label_field: column of the labels' class; None takes `label` where there is one.
        point_radius_m: points become circles of this radius on the ground.
        aoi: only what has its centroid inside counts, on both sides; a bare geometry is in the detections' CRS.
        match_iou: overlap from which a detection is right, above 0 and at most 1.
        by_class: only features of one class match. Otherwise, or where either side has no classes,
            all count as one: in a row with the name of the only class, or `object`.
        shape: `box` compares envelopes in the detections' CRS, `polygon` the polygons themselves.

    Raises:
        ArgumentError: if a value is not possible.
        LabelsError: if a file cannot be read or holds something else than polygons or points.
        NotGeoreferenced: if only one of the two has a CRS.
    """
    _check(match_iou, shape, point_radius_m)
    ours, theirs = open_features(detections, "detections"), open_features(labels, "labels")
    crs = _common_crs(ours, theirs)
    inside = None if aoi is None else _area(aoi, crs)
    found = _placed(_detected(ours), ours.name, crs, inside)
    truth = _solid(_placed(_true(theirs, label_field, point_radius_m), theirs.name, crs, inside))
    if shape == "box":
        _warn_of_rotated(found)
    return _compared(*_one_naming(found, truth, by_class), match_iou=match_iou, polygons=shape == "polygon")


def _check(match_iou: float, shape: str, point_radius_m: float | None) -> None:
    check_match_iou(match_iou)
    if shape not in ("box", "polygon"):
        raise ArgumentError(f"shape must be 'box' or 'polygon'; got {shape!r}")
    if point_radius_m is not None and not 0 < point_radius_m < np.inf:
        raise ArgumentError(f"point_radius_m must be above 0 (metres on the ground); got {point_radius_m}")


def _common_crs(found: Features, truth: Features) -> CRS | None:
    """The detections' CRS; that of the labels where there are no detections to have one.

    Raises:
        NotGeoreferenced: if only one side has a CRS.
    """
    for side, other in ((found, truth), (truth, found)):
        if side.frame.crs is None and other.frame.crs is not None and len(side.frame):
            raise NotGeoreferenced(
                f"{side.name} has no coordinate reference system, but {other.name}, with which it is compared, is in "
                f"{other.frame.crs.to_string()}; assign it its own (GeoDataFrame.set_crs, or ogr2ogr -a_srs)"
            )
    crs: CRS | None = found.frame.crs or truth.frame.crs
    return crs


def _area(aoi: str | Path | GeoDataFrame | shapely.Geometry, crs: CRS | None) -> shapely.Geometry:
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
    """The features in `crs`, not finite where it does not reach; as they are where there is none.

    Raises:
        LabelsError: if no way leads from one CRS to the other.
    """
    if crs is None:
        return features
    try:
        moved: _Spatial = features.set_crs(crs) if features.crs is None else features.to_crs(crs)
    except ProjError as error:
        raise LabelsError(f"{name} cannot be brought from {features.crs.name} into {crs.name}: {error}") from error
    return moved


def _classed(features: Features, label_field: str | None = None) -> GeoDataFrame:
    """The features that have a geometry, with their class in a column label; None where they have none."""
    named = label_field is not None or "label" in features.frame.columns
    names = class_names(features, label_field) if named else [None] * len(features.frame)
    geometry = shapely.force_2d(np.asarray(features.frame.geometry.array, dtype=object))
    frame = GeoDataFrame({"label": np.array(names, dtype=object)}, geometry=geometry, crs=features.frame.crs)
    return frame[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]


def _detected(features: Features) -> GeoDataFrame:
    """The detections with their scores; 1 for all where they have none.

    Raises:
        LabelsError: if a score is missing or not a number, or there are other geometries than polygons.
    """
    frame = _classed(features)
    _refuse_but_areal(frame, features.name)
    if "score" not in features.frame.columns:
        return frame.assign(score=1.0)
    scores = pd.to_numeric(features.frame["score"], errors="coerce").to_numpy(float)
    if np.isnan(scores).any():
        raise LabelsError(
            f"{features.name} has {np.isnan(scores).sum():,} detections whose score is missing or not a number; "
            "give every one a score, or leave the column out"
        )
    return frame.assign(score=scores[frame.index])


def _true(features: Features, label_field: str | None, point_radius_m: float | None) -> GeoDataFrame:
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
    """Circles of this radius on the ground; in CRS units where no UTM zone says what a metre is."""
    try:
        metric = points.estimate_utm_crs() if points.crs is not None else None
    except RuntimeError:  # geopandas': an engineering CRS, or one that is not of the earth
        metric = None
    if metric is None:
        return points.buffer(radius_m)
    return points.to_crs(metric).buffer(radius_m).to_crs(points.crs)


def _refuse_but_areal(frame: GeoDataFrame, name: str) -> None:
    """Refuses geometries that have no area.

    Raises:
        LabelsError: if there is any; the message names their types.
    """
    others = frame.geometry[~np.isin(shapely.get_type_id(frame.geometry.to_numpy()), _AREAL)]
    if len(others):
        kinds = " and ".join(sorted(set(others.geom_type)))
        raise LabelsError(f"{name} holds {len(others):,} features of type {kinds}; polygons are expected")


def _placed(frame: GeoDataFrame, name: str, crs: CRS | None, inside: shapely.Geometry | None) -> GeoDataFrame:
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


def _solid(truth: GeoDataFrame) -> GeoDataFrame:
    """The labels, mended where they cross themselves; without those of no area, which nothing can find."""
    truth = truth.set_geometry(_valid(truth.geometry.to_numpy()), crs=truth.crs)
    return truth[shapely.area(truth.geometry.to_numpy()) > 0].reset_index(drop=True)


def _warn_of_rotated(found: GeoDataFrame) -> None:
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


def _one_naming(
    found: GeoDataFrame, truth: GeoDataFrame, by_class: bool
) -> tuple[GeoDataFrame, GeoDataFrame, list[str]]:
    """Both sides with a column `group`, the class that counts, and the names of all groups."""
    named = [frame["label"].notna() for frame in (found, truth)]
    names = sorted({name for frame in (found, truth) for name in frame["label"].dropna()})
    # A side with nothing on it has no say in this.
    if by_class and names and all(some.any() for some in named if len(some)):
        found, truth = found[named[0]].reset_index(drop=True), truth[named[1]].reset_index(drop=True)
        return found.assign(group=found["label"]), truth.assign(group=truth["label"]), names
    name = names[0] if len(names) == 1 else _ONE_CLASS
    found, truth = (frame.assign(group=name, label=frame["label"].fillna(name)) for frame in (found, truth))
    return found, truth, [name]


def _compared(
    found: GeoDataFrame, truth: GeoDataFrame, classes: Sequence[str], *, match_iou: float, polygons: bool
) -> Accuracy:
    """The accuracy of detections against truth, alike in CRS and naming."""
    groups, scores = pd.Categorical(found["group"], classes).codes, found["score"].to_numpy()
    boxes = Boxes(shapely.bounds(found.geometry.to_numpy()), groups, scores)
    # Best first, ties by place: so no result hangs on the order of rows in a file.
    order = boxes.ranked()
    found, scores = found.iloc[order].reset_index(drop=True), scores[order]
    i, j, iou = _overlaps(found, truth, polygons)
    partner, matched = match_pairs(np.arange(len(found)), i, j, iou, n_truth=len(truth), match_iou=match_iou)
    hit, missed = partner >= 0, np.ones(len(truth), bool)
    missed[partner[hit]] = False
    curve = precision_recall(scores, hit, len(truth))
    return Accuracy(
        table=_table(found, truth, hit, classes),
        features=_outcomes(found, truth[missed], hit, matched),
        best_score=best_score(scores, hit, len(truth)),
        curve=pd.DataFrame(dict(zip(("score", "precision", "recall", "f1"), curve, strict=True))),
    )


def _overlaps(
    found: GeoDataFrame, truth: GeoDataFrame, polygons: bool
) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"], Float[np.ndarray, "P"]]:
    """Pairs of one class that overlap, and by how much, without a matrix of all pairs."""
    a, b = (frame.geometry.to_numpy() for frame in (found, truth))
    i, j, iou = overlapping(shapely.bounds(a), shapely.bounds(b))
    same = found["group"].to_numpy()[i] == truth["group"].to_numpy()[j]
    i, j, iou = i[same], j[same], iou[same]
    if polygons:
        a = _valid(a)
        shared = shapely.area(shapely.intersection(a[i], b[j]))
        iou = shared / (shapely.area(a)[i] + shapely.area(b)[j] - shared)
    return i, j, iou


def _valid(polygons: np.ndarray) -> np.ndarray:
    """The polygons, mended where they cross themselves; GEOS intersects no others."""
    bad = ~shapely.is_valid(polygons)
    polygons = polygons.copy()
    # make_valid may leave lines and points beside the polygons; buffer takes only what has an area.
    polygons[bad] = shapely.buffer(shapely.make_valid(polygons[bad]), 0)
    return polygons


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
    table.loc["all"] = {"ap": table["ap"].mean(), **counts}
    table = table.astype({"tp": int, "fp": int, "fn": int})
    return _with_ratios(table)


def _with_ratios(table: pd.DataFrame) -> pd.DataFrame:
    """The counts with precision, recall and F1 before them; 0 / 0 is NaN, but precision of nothing where truth is."""
    tp, fp, fn = (table[name] for name in ("tp", "fp", "fn"))
    precision = (tp / (tp + fp)).mask((tp + fp == 0) & (fn > 0), 0.0)
    ratios = pd.DataFrame({"precision": precision, "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn)})
    return ratios.join(table)


def _outcomes(
    found: GeoDataFrame, missed: GeoDataFrame, hit: Bool[np.ndarray, "N"], iou: Float[np.ndarray, "N"]
) -> GeoDataFrame:
    """Detections with their outcome, and under them what was missed."""
    seen = found.assign(outcome=np.where(hit, "TP", "FP"), iou=iou)
    both = pd.concat([seen, missed.assign(outcome="FN", iou=0.0)], ignore_index=True)
    columns = ["label", "score", "outcome", "iou"]
    return GeoDataFrame(both[columns], geometry=list(both.geometry), crs=found.crs or missed.crs)

from __future__ import annotations

import base64
import html
import math
import re
import warnings

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from geodetect.accuracy import compute_accuracy
from geodetect.boxes import Boxes, area
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, OutputError
from tests import oracles
from tests.strategies import boxes

pytestmark = [  # boxes drawn at random may lie anywhere
    pytest.mark.filterwarnings("ignore:detections and labels lie apart"),
    pytest.mark.filterwarnings("ignore:no class of the detections"),
    pytest.mark.filterwarnings("ignore:the frame of labels. left out .* duplicate"),
]

UTM = 32645
EAST, NORTH = 353_000, 3_057_000  # of the squares below
CLASSES = np.array(["house", "shed", "tree"])


def squares(*corners: tuple[float, float], **columns: list) -> gpd.GeoDataFrame:
    """Squares of 10 m by their lower left corners, in metres from the place above."""
    x, y = np.array(corners, float).reshape(-1, 2).T + np.array([[EAST], [NORTH]])
    return gpd.GeoDataFrame(columns, geometry=shapely.box(x, y, x + 10, y + 10), crs=UTM)


def frame_of(found: Boxes) -> gpd.GeoDataFrame:
    """Boxes as features in a plane, where no rounding of large coordinates moves an IoU over a threshold."""
    columns = {"label": CLASSES[found.labels]} | ({} if found.scores is None else {"score": found.scores})
    return gpd.GeoDataFrame(columns, geometry=shapely.box(*found.xyxy.T))


FOUND = squares((0, 0), (3, 0), (100, 0), (200, 0), label=["a", "a", "b", "a"], score=[0.9, 0.8, 0.7, 0.6])
TRUTH = squares((0, 0), (100, 5), (200, 0), (300, 0), label=["a", "b", "b", "b"])


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15))
def test_truth_found_as_it_is_has_no_fault(found):
    solid = oracles.once(found[area(found.xyxy) > 0])
    table = compute_accuracy(frame_of(solid), frame_of(solid).drop(columns="score"), match_iou=0.99).table
    assert table.loc["all", "tp"] == len(solid)
    assert (table[["fp", "fn"]] == 0).all(axis=None)
    assert (table[["precision", "recall", "f1", "ap"]] == 1).all(axis=None) or not len(solid)


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15), boxes(max_size=15, scored=False), st.booleans())
def test_what_matches_is_what_the_slow_loop_matches(found, truth, by_class):
    solid = oracles.once(truth[area(truth.xyxy) > 0], by_class=by_class)
    hits = sum(j >= 0 for j in oracles.match(found, solid, 0.5, by_class=by_class))
    row = compute_accuracy(frame_of(found), frame_of(solid), by_class=by_class).table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"]) == (hits, len(found) - hits, len(solid) - hits)


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15), boxes(max_size=15, scored=False), st.randoms(use_true_random=False))
def test_nothing_hangs_on_the_order_of_rows(found, truth, random):
    mixed = (side[np.array(random.sample(range(len(side)), len(side)), int)] for side in (found, truth))
    before, after = (compute_accuracy(frame_of(a), frame_of(b)) for a, b in ((found, truth), mixed))
    assert_frame_equal(before.table, after.table)
    assert_frame_equal(before.curve, after.curve)
    np.testing.assert_equal(before.best_score, after.best_score)


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15), boxes(max_size=15, scored=False))
def test_every_feature_has_one_outcome_and_the_table_counts_them(found, truth):
    result = compute_accuracy(frame_of(found), frame_of(truth))
    count = result.features.groupby(["label", "outcome"]).size().unstack(fill_value=0)
    for name, row in result.table.drop(index="all").iterrows():
        assert [row["tp"], row["fp"], row["fn"]] == [count.get(o, {}).get(name, 0) for o in ("TP", "FP", "FN")]
    total = result.table.drop(index="all")[["tp", "fp", "fn"]].sum()
    assert (result.table.loc["all", ["tp", "fp", "fn"]] == total).all()


def test_the_table_worked_by_hand():
    # a: 0.9 hits, 0.8 comes to the same object too late, 0.6 lies on a b. b: 0.7 overlaps half: 50 / 150 is too little.
    result = compute_accuracy(FOUND, TRUTH)
    expected = pd.DataFrame(
        {
            "precision": [1 / 3, 0, 1 / 4],
            "recall": [1, 0, 1 / 4],
            "f1": [1 / 2, 0, 1 / 4],
            "ap": [1, 0, 1 / 2],
            "tp": [1, 0, 1],
            "fp": [2, 1, 3],
            "fn": [0, 3, 3],
        },
        index=["a", "b", "all"],
    )
    assert_frame_equal(result.table, expected, check_dtype=False)
    assert result.best_score == 0.9
    assert list(result.features["outcome"]) == ["TP", "FP", "FP", "FP", "FN", "FN", "FN"]
    assert list(result.features["iou"]) == [1, 0, 0, 0, 0, 0, 0]
    assert list(result.features["score"].isna()) == [False] * 4 + [True] * 3
    assert list(result.features.columns) == ["label", "score", "outcome", "iou", "id", "partner", "geometry"]
    assert list(result.features["id"]) == [0, 1, 2, 3, 2, 3, 1]  # below the detections, rows of the labels
    assert list(result.features["partner"].fillna(-1)) == [0, -1, -1, -1, -1, -1, -1]
    assert result.features.crs == UTM


def test_a_lower_threshold_matches_less_overlap():
    assert compute_accuracy(FOUND, TRUTH, match_iou=0.3).table.loc["b", "tp"] == 1


def test_without_by_class_all_count_as_one():
    table = compute_accuracy(FOUND, TRUTH, by_class=False).table
    assert list(table.index) == ["object", "all"]
    assert list(table.loc["all", ["tp", "fp", "fn"]]) == [2, 2, 2]


def test_the_confusion_worked_by_hand():
    # 0.9 finds the a, 0.6 takes a b for an a; 0.8 and 0.7 find nothing, two b are missed.
    confusion = compute_accuracy(FOUND, TRUTH, by_class=False).confusion
    assert (list(confusion.index), list(confusion.columns)) == (["a", "b", "no object"], ["a", "b", "no detection"])
    assert confusion.to_numpy().tolist() == [[1, 0, 0], [1, 0, 2], [1, 1, 0]]
    by_class = compute_accuracy(FOUND, TRUTH).confusion
    assert by_class.to_numpy().tolist() == [[1, 0, 0], [0, 0, 3], [2, 1, 0]]


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15), boxes(max_size=15, scored=False), st.booleans())
def test_the_confusion_counts_every_feature_once(found, truth, by_class):
    truth = oracles.once(truth[area(truth.xyxy) > 0], by_class=by_class)
    result = compute_accuracy(frame_of(found), frame_of(truth), by_class=by_class)
    confusion, outcome = result.confusion, result.features["outcome"]
    assert confusion.loc["no object", "no detection"] == 0
    assert confusion["no detection"].sum() == (outcome == "FN").sum()
    assert confusion.loc["no object"].sum() == (outcome == "FP").sum()
    assert confusion.to_numpy().sum() == len(result.features)
    if by_class:
        names = confusion.index[:-1]
        assert np.trace(confusion.loc[names, names]) == confusion.loc[names, names].to_numpy().sum()


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15), boxes(max_size=15, scored=False))
def test_partners_are_the_objects_that_were_found(found, truth):
    truth = oracles.once(truth)
    labels = frame_of(truth)
    detections = frame_of(found)
    features = compute_accuracy(detections, labels).features
    hits, missed = features[features["outcome"] == "TP"], features[features["outcome"] == "FN"]
    assert len(set(hits["partner"])) == len(hits)
    solid = set(np.flatnonzero(area(truth.xyxy) > 0))
    assert set(hits["partner"]) | set(missed["id"]) == solid
    assert not set(hits["partner"]) & set(missed["id"])
    for hit in hits.itertuples():
        mine, theirs = detections.geometry[hit.id], labels.geometry[hit.partner]
        assert mine.intersection(theirs).area / mine.union(theirs).area == pytest.approx(hit.iou)
        assert hit.geometry.equals(mine)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4326, 3857, 32644]))
def test_nothing_hangs_on_the_crs_of_the_labels(seed, crs):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (20, 2))
    truth = squares(*corners, label=list(rng.choice(CLASSES, 20)))
    found = squares(*corners + rng.normal(0, 2, (20, 2)), label=list(truth["label"]), score=list(rng.random(20)))
    before, after = (compute_accuracy(found, labels) for labels in (truth, truth.to_crs(crs)))
    assert_frame_equal(before.table, after.table)
    assert before.best_score == after.best_score


@settings(max_examples=15, deadline=None)
@given(boxes(max_size=15), boxes(max_size=15, scored=False), boxes(max_size=1, scored=False))
def test_a_false_positive_above_all_never_raises_ap(found, truth, stray):
    far = Boxes(stray.xyxy + 10_000, stray.labels, np.full(len(stray), 0.99))
    before, after = (
        compute_accuracy(frame_of(f), frame_of(truth)).table["ap"] for f in (found, Boxes.concat([found, far]))
    )
    both = before.index.intersection(after.index)
    assert not (after[both] > before[both] + 1e-12).any()


def test_a_class_named_like_the_row_of_all_is_refused():
    with pytest.raises(LabelsError, match=r"a class is named 'all', which is the row .* rename it on both sides"):
        compute_accuracy(FOUND.assign(label="all"), TRUTH)
    renamed = FOUND.assign(label="all").replace({"label": {"all": "any"}})
    assert list(compute_accuracy(renamed, TRUTH).table.index) == ["a", "any", "b", "all"]


@pytest.mark.parametrize(
    ("found", "truth", "row"),
    [
        (FOUND, TRUTH.drop(columns="label"), "object"),
        (FOUND.drop(columns="label"), TRUTH, "object"),
        (FOUND.assign(label="house"), TRUTH.drop(columns="label"), "house"),
        (FOUND.drop(columns="label"), TRUTH.assign(label="house"), "house"),
        (FOUND.drop(columns="label"), TRUTH.assign(label=None), "object"),
    ],
)
def test_without_classes_on_one_side_both_count_as_one(found, truth, row):
    result = compute_accuracy(found, truth)
    assert list(result.table.index) == [row, "all"]
    assert result.table.loc["all", "tp"] == 2
    assert result.features["label"].notna().all()


def test_the_label_field_is_read_as_text():
    truth = TRUTH.drop(columns="label").assign(kind=[1.0, 2.0, 2.0, 2.0])
    table = compute_accuracy(FOUND.assign(label=["1", "1", "2", "1"]), truth, label_field="kind").table
    assert list(table.index) == ["1", "2", "all"]
    assert table.loc["1", "tp"] == 1


def test_detections_without_scores_all_count_as_1():
    result = compute_accuracy(FOUND.drop(columns="score"), TRUTH)
    assert list(result.curve["score"]) == [1]
    assert result.best_score == 1


@pytest.mark.parametrize("crs", [4326, 3857, 32644])
def test_labels_may_be_in_any_crs(crs):
    assert_frame_equal(compute_accuracy(FOUND, TRUTH.to_crs(crs)).table, compute_accuracy(FOUND, TRUTH).table)


def test_files_and_frames_are_the_same(tmp_path):
    FOUND.to_file(tmp_path / "found.gpkg")
    TRUTH.to_crs(4326).to_file(tmp_path / "truth.geojson")
    result = compute_accuracy(tmp_path / "found.gpkg", str(tmp_path / "truth.geojson"))
    assert_frame_equal(result.table, compute_accuracy(FOUND, TRUTH).table)


def test_frames_are_left_as_they_were():
    before = FOUND.copy(), TRUTH.copy()
    compute_accuracy(FOUND, TRUTH.assign(label=None))
    assert_frame_equal(before[0], FOUND)
    assert_frame_equal(before[1], TRUTH)


def test_no_crs_on_either_side_is_one_plane():
    plain = FOUND.set_crs(None, allow_override=True), TRUTH.set_crs(None, allow_override=True)
    result = compute_accuracy(*plain)
    assert_frame_equal(result.table, compute_accuracy(FOUND, TRUTH).table)
    assert result.features.crs is None


@pytest.mark.parametrize("side", [0, 1])
def test_a_crs_on_one_side_alone_is_refused_by_name(side):
    both = [FOUND, TRUTH]
    both[side] = both[side].set_crs(None, allow_override=True)
    with pytest.raises(NotGeoreferenced, match=f"the frame of {['detections', 'labels'][side]} has no coordinate"):
        compute_accuracy(*both)


def test_points_become_circles_of_metres():
    truth = gpd.GeoDataFrame(geometry=[shapely.Point(EAST + 5, NORTH + 5)], crs=UTM).to_crs(3857)
    result = compute_accuracy(FOUND.iloc[:1], truth, point_radius_m=5, match_iou=0.99)
    assert result.table.loc["all", "tp"] == 1


@pytest.mark.parametrize("elsewhere", [(60, 27), (20, 27), (-70, 40)])
def test_a_circle_does_not_hang_on_where_other_points_lie(elsewhere):
    truth = gpd.GeoDataFrame(geometry=[shapely.Point(EAST + 5, NORTH + 5)], crs=UTM).to_crs(4326)
    truth = gpd.GeoDataFrame(geometry=[*truth.geometry, shapely.Point(*elsewhere)], crs=4326)
    around = shapely.box(EAST - 99, NORTH - 99, EAST + 99, NORTH + 99)
    result = compute_accuracy(FOUND.iloc[:1], truth, point_radius_m=5, match_iou=0.99, aoi=around)
    assert result.table.loc["all", ["tp", "fn"]].tolist() == [1, 0]


def test_geojson_of_pixels_meets_labels_in_pixels(tmp_path):
    pixels = gpd.GeoDataFrame({"score": [0.9]}, geometry=[shapely.box(400, 300, 420, 320)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pyogrio's, that there is no CRS
        pixels.to_file(tmp_path / "found.geojson")
    result = compute_accuracy(tmp_path / "found.geojson", pixels[["geometry"]])
    assert result.table.loc["all", "tp"] == 1
    assert result.features.crs is None


def test_an_aoi_with_nothing_inside_is_told():
    with pytest.warns(UserWarning, match="neither detections nor labels lie inside the aoi"):
        compute_accuracy(FOUND, TRUTH, aoi=shapely.box(0, 0, 1, 1))


def test_detections_of_which_only_some_have_a_class_are_refused():
    some = FOUND.assign(label=["a", None, "b", "a"])
    with pytest.raises(LabelsError, match="1 detections have no class, and others have one"):
        compute_accuracy(some, TRUTH)
    assert compute_accuracy(some, TRUTH, by_class=False).table.loc["all", ["tp", "fp"]].sum() == 4


def test_points_in_a_plane_are_buffered_in_its_units():
    truth = gpd.GeoDataFrame(geometry=[shapely.MultiPoint([(5, 5), (50, 50)])])
    found = gpd.GeoDataFrame(geometry=shapely.box([0, 45], [0, 45], [10, 55], [10, 55]))
    assert compute_accuracy(found, truth, point_radius_m=5).table.loc["all", "tp"] == 2


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        (shapely.Point(EAST, NORTH), "holds points; give point_radius_m"),
        (
            shapely.LineString([(EAST, NORTH), (EAST + 9, NORTH)]),
            "1 features of type LineString; polygons are expected",
        ),
    ],
)
def test_labels_without_an_area_are_refused(geometry, message):
    with pytest.raises(LabelsError, match=message):
        compute_accuracy(FOUND, gpd.GeoDataFrame(geometry=[geometry], crs=UTM))


def test_detections_must_be_polygons():
    with pytest.raises(LabelsError, match="4 features of type Point; polygons are expected"):
        compute_accuracy(FOUND.set_geometry(FOUND.centroid), TRUTH)


def test_parts_count_each_and_nothing_counts_not():
    truth = gpd.GeoDataFrame(
        geometry=[shapely.MultiPolygon(list(TRUTH.geometry[:3])), None, shapely.Polygon()], crs=UTM
    )
    found = pd.concat([FOUND, FOUND.iloc[:1].set_geometry([None])])
    row = compute_accuracy(found, truth).table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"]) == (2, 2, 1)


def test_copies_among_the_labels_count_once():
    copies = pd.concat([TRUTH, TRUTH.iloc[[0, 0, 2]]])
    with pytest.warns(UserWarning, match="the frame of labels: left out 3 duplicates of 7 objects") as caught:
        result = compute_accuracy(TRUTH.assign(score=0.9), copies)
    assert caught[0].filename == __file__
    row = result.table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"], row["recall"], row["ap"]) == (4, 0, 0, 1, 1)
    detections = pd.concat([FOUND, FOUND.iloc[:1]])  # each of which counts, as every detection does
    assert compute_accuracy(detections, TRUTH).table.loc["all", "fp"] == 4


def test_an_outline_with_two_classes_is_two_objects_where_classes_count():
    both = pd.concat([TRUTH.iloc[:1], TRUTH.iloc[:1].assign(label="b")])
    row = compute_accuracy(FOUND.iloc[:1], both).table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"]) == (1, 0, 1)
    with pytest.warns(UserWarning, match="left out 1 duplicate of 2 objects"):
        row = compute_accuracy(FOUND.iloc[:1], both, by_class=False).table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"]) == (1, 0, 0)


def test_a_ring_with_two_corners_swapped_is_one_object_with_the_area_meant():
    corners = list(TRUTH.geometry[0].exterior.coords)
    tie = TRUTH.iloc[:1].set_geometry([shapely.Polygon([corners[0], corners[2], corners[1], corners[3]])])
    for shape in ("box", "polygon"):
        row = compute_accuracy(FOUND.iloc[:1], tie, shape=shape, match_iou=0.99).table.loc["all"]
        assert (row["tp"], row["fp"], row["fn"]) == (1, 0, 0)
        swapped = tie.assign(score=0.9)
        assert compute_accuracy(swapped, TRUTH.iloc[:1], shape=shape, match_iou=0.99).table.loc["all", "tp"] == 1


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_what_has_no_finite_coordinates_is_left_out_and_told(value):
    with np.errstate(invalid="ignore"):
        nowhere = shapely.from_wkt(f"POLYGON (({EAST} {NORTH}, {value} {NORTH}, {EAST} {NORTH + 9}, {EAST} {NORTH}))")
        bad = gpd.GeoDataFrame({"label": ["a"], "score": [0.9]}, geometry=[nowhere], crs=UTM)
    before = compute_accuracy(FOUND, TRUTH).table
    with pytest.warns(UserWarning, match="the frame of labels: left out 1 object without finite coordinates"):
        assert_frame_equal(compute_accuracy(FOUND, pd.concat([TRUTH, bad])).table, before)
    with pytest.warns(UserWarning, match="the frame of detections: left out 1 object without finite coordinates"):
        assert_frame_equal(compute_accuracy(pd.concat([FOUND, bad]), TRUTH, shape="polygon").table, before)
    around = gpd.GeoDataFrame(geometry=[shapely.box(EAST, NORTH, EAST + 999, NORTH + 99), nowhere], crs=UTM)
    with pytest.warns(UserWarning, match="the frame of the aoi: left out 1 without finite coordinates"):
        assert_frame_equal(compute_accuracy(FOUND, TRUTH, aoi=around).table, before)


def test_a_layer_of_the_labels_is_chosen(tmp_path):
    path = tmp_path / "town.gpkg"
    TRUTH.iloc[:1].to_file(path, layer="2019")
    TRUTH.to_file(path, layer="2024")
    with pytest.warns(UserWarning, match=r"town\.gpkg has several layers: 2019, 2024; 2019 is read"):
        assert compute_accuracy(FOUND, path).table.loc["all", "fn"] == 0
    for chosen in (
        {"labels": path, "layer": "2024"},
        {"labels": path, "layer": 1},
        {"labels": f"{path}|layername=2024"},
    ):
        assert_frame_equal(compute_accuracy(FOUND, **chosen).table, compute_accuracy(FOUND, TRUTH).table)
    found = compute_accuracy(f"{path}|layername=2024", TRUTH)
    assert found.table.loc["all", "tp"] == 4


def test_two_columns_of_one_name_are_refused():
    both = FOUND.assign(kind="a").rename(columns={"kind": "score"})
    with pytest.raises(LabelsError, match="the frame of detections has two columns named 'score'"):
        compute_accuracy(both, TRUTH)


def test_no_detections_find_nothing():
    table = compute_accuracy(FOUND.iloc[:0], TRUTH).table
    assert list(table.index) == ["a", "b", "all"]
    assert (table[["precision", "recall", "f1", "ap", "tp", "fp"]] == 0).all(axis=None)
    bare = compute_accuracy(gpd.GeoDataFrame({"label": [], "score": []}, geometry=[]), TRUTH)
    assert bare.table.loc["all", "fn"] == 4
    assert bare.features.crs == UTM


def test_without_truth_every_detection_is_false():
    result = compute_accuracy(FOUND, TRUTH, aoi=shapely.box(EAST + 6, NORTH, EAST + 9, NORTH + 9))
    row = result.table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"], row["precision"]) == (0, 1, 0, 0)
    assert math.isnan(row["ap"])
    assert math.isnan(row["recall"])
    assert math.isnan(result.best_score)


def test_nothing_on_both_sides_is_an_answer_too():
    result = compute_accuracy(FOUND.iloc[:0], TRUTH.iloc[:0].drop(columns="label"))
    assert list(result.table.index) == ["object", "all"]
    assert result.table[["precision", "recall", "f1", "ap"]].isna().all(axis=None)
    assert len(result.features) == 0


@pytest.mark.parametrize("kind", ["geometry", "geometries", "series", "corners", "frame", "file"])
def test_only_what_has_its_centroid_in_the_aoi_counts(kind, tmp_path):
    town = shapely.box(EAST - 50, NORTH - 50, EAST + 104.9, NORTH + 50)  # the centroids of the b lie at 105
    frame = gpd.GeoDataFrame(geometry=[town], crs=UTM).to_crs(4326)
    frame.to_file(tmp_path / "aoi.gpkg")
    aoi = {
        "geometry": town,
        "geometries": [town, town.buffer(-1)],
        "series": frame.geometry,
        "corners": town.bounds,
        "frame": frame,
        "file": tmp_path / "aoi.gpkg",
    }[kind]
    row = compute_accuracy(FOUND, TRUTH, aoi=aoi).table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"]) == (1, 1, 0)


def test_an_aoi_of_points_is_refused():
    with pytest.raises(LabelsError, match="must hold polygons"):
        compute_accuracy(FOUND, TRUTH, aoi=shapely.Point(EAST, NORTH))


def test_an_aoi_without_crs_is_refused():
    with pytest.raises(NotGeoreferenced, match="the frame of the aoi and the detections"):
        compute_accuracy(FOUND, TRUTH, aoi=gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]))


def test_polygons_compare_themselves_when_asked():
    # Triangles that are the halves of one square: the same envelope, nothing shared.
    low, high = [(0, 0), (10, 0), (0, 10)], [(10, 10), (10, 0), (0, 10)]
    found, truth = (gpd.GeoDataFrame(geometry=[shapely.Polygon(ring)]) for ring in (low, high))
    with pytest.warns(UserWarning, match='shape="polygon" is fairer'):
        assert compute_accuracy(found, truth).table.loc["all", "tp"] == 1
    assert compute_accuracy(found, truth, shape="polygon").table.loc["all", "tp"] == 0
    assert compute_accuracy(found, found, shape="polygon", match_iou=1).table.loc["all", "tp"] == 1


def test_polygons_that_cross_themselves_are_mended():
    bow = gpd.GeoDataFrame(geometry=[shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])])
    assert compute_accuracy(bow, bow, shape="polygon").table.loc["all", "tp"] == 1


def test_rotated_detections_are_warned_of_once_upright_ones_not():
    turned = FOUND.set_geometry(FOUND.rotate(20))
    with pytest.warns(UserWarning, match="not upright rectangles") as caught:
        compute_accuracy(turned, TRUTH)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compute_accuracy(FOUND.to_crs(4326), TRUTH)  # half a degree off north: upright enough
        compute_accuracy(turned, TRUTH, shape="polygon")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"match_iou": 0}, "match_iou must be above 0"),
        ({"match_iou": 50}, "got match_iou=50"),
        ({"shape": "circle"}, "shape must be 'box' or 'polygon'; got 'circle'"),
        ({"point_radius_m": 0}, "point_radius_m must be above 0"),
        ({"point_radius_m": math.nan}, "point_radius_m must be above 0"),
        ({"point_radius_m": "1"}, "point_radius_m must be above 0 .* got '1'"),
    ],
)
def test_values_that_are_not_possible_are_refused(keywords, message):
    with pytest.raises(ArgumentError, match=message):
        compute_accuracy(FOUND, TRUTH, **keywords)


@pytest.mark.parametrize(
    ("found", "keywords", "message"),
    [
        ("gone.gpkg", {}, "There is no file gone.gpkg"),
        (FOUND.assign(score=["a", "b", "c", "d"]), {}, "4 detections whose score is missing or not a number"),
        (FOUND, {"label_field": "kind"}, "no column 'kind'"),
    ],
)
def test_features_of_no_use_are_refused(found, keywords, message):
    with pytest.raises(LabelsError, match=message):
        compute_accuracy(found, TRUTH, **keywords)


def test_labels_beyond_the_crs_are_refused_unless_an_aoi_leaves_them_out():
    far = gpd.GeoDataFrame(geometry=[shapely.box(27, 1000, 28, 1001)], crs=4326)  # no latitude
    truth = pd.concat([TRUTH.to_crs(4326), far])
    with pytest.raises(LabelsError, match="1 features that lie where the detections' CRS does not reach"):
        compute_accuracy(FOUND, truth)
    aoi = shapely.box(EAST - 99, NORTH - 99, EAST + 999, NORTH + 99)
    row = compute_accuracy(FOUND, truth, aoi=aoi).table.loc["all"]
    assert (row["tp"], row["fp"], row["fn"]) == (1, 3, 3)


def test_a_crs_that_leads_nowhere_is_refused():
    site = 'LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]'
    with pytest.raises(LabelsError, match=r"the frame of labels cannot be brought from site into .* EPSG:32645"):
        compute_accuracy(FOUND, TRUTH.set_crs(site, allow_override=True))


def test_features_and_table_are_saved(tmp_path):
    result = compute_accuracy(FOUND, TRUTH)
    again = gpd.read_file(result.save(tmp_path / "accuracy.gpkg"))
    for column in ("outcome", "id"):
        assert list(again[column]) == list(result.features[column])
    assert list(again["partner"].fillna(-1)) == [0, -1, -1, -1, -1, -1, -1]
    assert again.crs == UTM
    table = pd.read_csv(result.save(str(tmp_path / "accuracy.csv")), index_col="class")
    assert_frame_equal(table, result.table, check_names=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accuracy.csv", "accuracy.gpkg"]


def test_the_page_holds_table_figure_and_confusion_in_one_file(tmp_path):
    truth = TRUTH.assign(label=["a", "<b>", "<b>", "<b>"])
    page = compute_accuracy(FOUND, truth, by_class=False).save(tmp_path / "accuracy.html").read_text(encoding="utf-8")
    rows = [[html.unescape(cell) for cell in re.findall(r"<t[hd]>(.*?)</t[hd]>", row)] for row in page.split("<tr")]
    # Precision 1 up to recall 1 / 4 (26 of 101), then 1 / 2 up to recall 1 / 2 (25): AP (26 + 12.5) / 101.
    assert ["all", "0.500", "0.500", "0.500", "0.381", "2", "2", "2"] in rows
    assert ["<b>", "0", "1", "0", "2"] in rows
    assert "IoU of 0.5 or more" in page
    assert "the detections that score 0.600 or more" in page
    png = base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page)[1])
    assert png.startswith(b"\x89PNG")
    assert not re.search(r"https?://|<script|<link", page)  # it needs nothing else
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy.html"]


def test_the_page_of_nothing_says_so(tmp_path):
    page = (
        compute_accuracy(FOUND.iloc[:0], TRUTH.assign(label="a")).save(tmp_path / "a.html").read_text(encoding="utf-8")
    )
    assert "No detection is right" in page
    assert "<h2>Classes" not in page


def test_other_formats_and_missing_folders_are_refused(tmp_path):
    result = compute_accuracy(FOUND, TRUTH)
    with pytest.raises(OutputError, match=r"\.gpkg .*, \.html .* or \.csv \(the table\); got accuracy\.xlsx"):
        result.save(tmp_path / "accuracy.xlsx")
    with pytest.raises(OutputError, match="no folder"):
        result.save(tmp_path / "gone" / "accuracy.csv")


def test_the_figure_marks_the_best_score():
    figure = compute_accuracy(FOUND, TRUTH).plot()
    texts = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert "best F1: 0.40 from 0.90" in texts  # 2 * 1 / (1 + 4)


def test_real_footprints_are_found_in_degrees(real_data):
    footprints = gpd.read_file(real_data / "scenes/banepa/buildings_4326.geojson")
    ground = footprints.to_crs(UTM)
    envelopes = gpd.GeoDataFrame(geometry=ground.envelope).assign(label="building")
    assert compute_accuracy(envelopes, real_data / "scenes/banepa/buildings_4326.geojson").table.loc["all", "f1"] == 1


def test_classes_that_look_alike_are_told():
    truth = TRUTH.assign(label=["A", *TRUTH["label"][1:]])
    with pytest.warns(UserWarning, match="'A' and 'a' count as several classes; .* same name"):
        compute_accuracy(FOUND, truth)


def test_features_elsewhere_or_of_other_classes_are_told():
    with pytest.warns(UserWarning, match=r"detections and labels lie apart, at .* so none can match"):
        compute_accuracy(FOUND, TRUTH.set_geometry(TRUTH.translate(90_000, 0)))
    with pytest.warns(UserWarning, match=r"no class of the detections \(A\) is one of the labels' \(a, b\)"):
        compute_accuracy(FOUND.assign(label="A"), TRUTH)


def test_classes_and_scores_in_other_columns_are_told():
    with pytest.warns(UserWarning, match="'A' and 'a' count as several classes; .* the same name on both sides"):
        compute_accuracy(FOUND.assign(label=["A", *FOUND["label"][1:]]), TRUTH)
    with pytest.warns(UserWarning, match="has no column 'score', .* rename the column 'Confidence'"):
        compute_accuracy(FOUND.rename(columns={"score": "Confidence"}), TRUTH)
    with pytest.warns(UserWarning, match="frame of labels has no column 'label'; label_field= .* another: class"):
        compute_accuracy(FOUND, TRUTH.rename(columns={"label": "class"}))


def test_outcomes_are_no_detections():
    with pytest.raises(LabelsError, match=r'holds outcomes, and 3 of them .* leave out those whose outcome is "FN"'):
        compute_accuracy(compute_accuracy(FOUND, TRUTH).features, TRUTH)


def test_warnings_point_to_the_line_that_called():
    with pytest.warns(UserWarning, match="lie apart") as told:
        compute_accuracy(FOUND, TRUTH.set_geometry(TRUTH.translate(90_000, 0)))
    assert told[0].filename == __file__

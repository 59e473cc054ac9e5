from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodetect.boxes import Boxes, from_xywh, iou
from geodetect.errors import ArgumentError
from geodetect.metrics import average_precision, best_score, match_detections, precision_recall
from tests import oracles
from tests.oracles_coco import coco_evaluation
from tests.strategies import boxes

N_CLASSES = 3
match_ious = st.sampled_from([0.1, 0.5, 0.75, 1.0])


@st.composite
def outcomes(draw, min_size=0):
    """Scores that all differ, whether each is a hit, and how many true boxes there are."""
    hit = np.array(draw(st.lists(st.booleans(), min_size=min_size, max_size=30)), bool)
    scores = np.array(draw(st.permutations(range(len(hit)))), float) / 32
    return scores, hit, int(hit.sum()) + draw(st.integers(0, 10))


def chips(n_chips: int, seed: int) -> list[tuple[Boxes, Boxes]]:
    """(detections, truth) of chips: boxes of whole pixels, some beside the truth, scores that all differ."""
    rng = np.random.default_rng(seed)
    scores = iter(rng.permutation(100 * n_chips) / (100 * n_chips))
    made = []
    for _ in range(n_chips):
        n_truth, n_more = rng.integers(0, 12), rng.integers(0, 6)
        xywh = np.concatenate([rng.integers(0, 100, (n_truth, 2)), rng.integers(8, 60, (n_truth, 2))], axis=1) * 1.0
        truth = Boxes(from_xywh(xywh), rng.integers(0, N_CLASSES, n_truth))
        near = truth.xyxy + rng.integers(-3, 4, truth.xyxy.shape)
        stray = np.concatenate([rng.integers(0, 60, (n_more, 2)), rng.integers(70, 150, (n_more, 2))], axis=1)
        labels = np.concatenate([truth.labels, rng.integers(0, N_CLASSES, n_more)])
        xyxy = np.concatenate([near, stray])
        made.append((Boxes(xyxy, labels, np.array([next(scores) for _ in labels])), truth))
    return made


@pytest.mark.parametrize("match_iou", [0.5, 0.75, 0.95])
@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_pycocotools(seed, match_iou):
    made = chips(12, seed)
    evaluation = coco_evaluation(made, N_CLASSES, match_ious=[match_iou])
    precision = evaluation.eval["precision"][0, :, :, 0, 0]
    for label in range(N_CLASSES):
        hit = [match_detections(found, truth, match_iou)[0][found.labels == label] >= 0 for found, truth in made]
        scores = np.concatenate([found.scores[found.labels == label] for found, _ in made])
        n_truth = sum(int((truth.labels == label).sum()) for _, truth in made)
        assert average_precision(scores, np.concatenate(hit), n_truth) == pytest.approx(precision[:, label].mean())


@pytest.mark.parametrize("match_iou", [0.5, 0.9])
def test_matches_are_those_of_pycocotools(match_iou):
    made = chips(12, seed=7)
    evaluation = coco_evaluation(made, N_CLASSES, match_ious=[match_iou])
    for entry in evaluation.evalImgs[: N_CLASSES * len(made)]:  # those of all sizes
        if entry is None:
            continue
        found, truth = (side[side.labels == entry["category_id"]] for side in made[entry["image_id"]])
        partner, _ = match_detections(found, truth, match_iou)
        # Its detections come best first; its partner 0 is none, and ids count from 1 through all chips.
        np.testing.assert_array_equal(partner[np.argsort(-found.scores)] >= 0, entry["dtMatches"][0] > 0)


@given(boxes(), boxes(scored=False), match_ious, st.booleans())
def test_matches_are_those_of_the_slow_loop(found, truth, match_iou, by_class):
    partner, shared = match_detections(found, truth, match_iou, by_class=by_class)
    expected = oracles.match(found, truth, match_iou, by_class=by_class)
    order = found.rank()
    # Detections alike in everything may change places.
    np.testing.assert_array_equal(partner[order], np.array(expected, int)[oracles.ranked(found)])
    hit = partner >= 0
    matrix = iou(found.xyxy, truth.xyxy)
    np.testing.assert_array_equal(shared[hit], matrix[hit, partner[hit]])
    assert (shared[~hit] == 0).all()


@given(boxes(), boxes(scored=False), match_ious)
def test_no_true_box_is_found_twice_nor_by_too_little(found, truth, match_iou):
    partner, shared = match_detections(found, truth, match_iou)
    taken = partner[partner >= 0]
    assert len(set(taken)) == len(taken)
    assert (found.labels[partner >= 0] == truth.labels[taken]).all()
    assert (shared[partner >= 0] >= match_iou - 1e-9).all()


@given(boxes(scored=False))
def test_truth_as_detections_is_all_found(truth):
    solid = truth[(truth.sizes > 0).all(axis=1)]
    partner, shared = match_detections(Boxes(solid.xyxy, solid.labels, np.full(len(solid), 0.5)), solid, 1.0)
    assert sorted(partner) == list(range(len(solid)))
    np.testing.assert_allclose(shared, 1)


def test_the_better_detection_takes_the_object_worked_by_hand():
    # Both cover the one object by half or more; the closer one scores less and comes too late.
    truth = Boxes(np.array([[0, 0, 10, 10]]), np.array([0]))
    found = Boxes(np.array([[0, 0, 10, 9], [0, 0, 10, 6]]), np.array([0, 0]), np.array([0.6, 0.8]))
    partner, shared = match_detections(found, truth, 0.5)
    assert list(partner) == [-1, 0]
    assert list(shared) == pytest.approx([0, 0.6])


def test_nothing_matches_nothing():
    partner, shared = match_detections(Boxes.empty(scored=True), Boxes.empty(), 0.5)
    assert (len(partner), len(shared)) == (0, 0)
    assert list(match_detections(chips(1, 0)[0][0][:2], Boxes.empty(), 0.5)[0]) == [-1, -1]


@pytest.mark.parametrize("match_iou", [0.0, -1.0, 1.01, 50.0, math.nan])
def test_a_threshold_that_means_nothing_is_refused(match_iou):
    with pytest.raises(ArgumentError, match=f"above 0 and at most 1; got match_iou={match_iou}"):
        match_detections(Boxes.empty(scored=True), Boxes.empty(), match_iou)


@given(outcomes())
def test_average_precision_is_that_of_the_slow_loop(outcome):
    np.testing.assert_allclose(average_precision(*outcome), oracles.average_precision(*outcome), atol=1e-12)


@given(outcomes(), st.randoms(use_true_random=False))
def test_average_precision_never_hangs_on_the_order(outcome, random):
    scores, hit, n_truth = outcome
    order = np.array(random.sample(range(len(hit)), len(hit)), int)
    np.testing.assert_equal(average_precision(scores[order], hit[order], n_truth), average_precision(*outcome))


@given(outcomes())
def test_a_false_positive_above_all_never_raises_average_precision(outcome):
    scores, hit, n_truth = outcome
    worse = average_precision(np.append(scores, 2.0), np.append(hit, False), n_truth)
    assert math.isnan(worse) or worse <= average_precision(*outcome)


@given(outcomes())
def test_average_precision_of_hits_alone_is_the_share_of_recalls_reached(outcome):
    scores, hit, n_truth = outcome
    clean = average_precision(scores[hit], hit[hit], n_truth)
    reached = (np.linspace(0, 1, 101) <= hit.sum() / n_truth).mean() if hit.any() else 0.0
    assert math.isnan(clean) if n_truth == 0 else clean == pytest.approx(reached)


@pytest.mark.parametrize(
    ("hit", "n_truth", "expected"),
    [
        ([True, True], 2, 1.0),
        ([False, True], 1, 0.5),  # precision 1/2 at every recall
        ([True, False, True], 2, (51 + 50 * 2 / 3) / 101),  # 1 at the 51 recalls up to 0.5, then 2 of 3
        ([True], 2, 51 / 101),  # recalls above 0.5 are never reached
        ([], 3, 0.0),
        ([], 0, math.nan),
        ([False], 0, math.nan),
    ],
)
def test_average_precision_worked_by_hand(hit, n_truth, expected):
    scores = np.linspace(0.9, 0.1, len(hit))
    assert average_precision(scores, np.array(hit, bool), n_truth) == pytest.approx(expected, nan_ok=True)


@given(outcomes(min_size=1))
def test_the_curve_counts_what_scores_as_much_or_more(outcome):
    scores, hit, n_truth = outcome
    scores = np.round(scores, 1)  # ties count together
    for score, precision, recall, f1 in zip(*precision_recall(scores, hit, n_truth), strict=True):
        chosen = scores >= score
        n_hit = hit[chosen].sum()
        assert precision == pytest.approx(n_hit / chosen.sum())
        assert recall == pytest.approx(n_hit / n_truth if n_truth else math.nan, nan_ok=True)
        assert f1 == pytest.approx(2 * n_hit / (chosen.sum() + n_truth))


@given(outcomes(min_size=1))
def test_the_best_score_has_the_best_f1(outcome):
    score, _, _, f1 = precision_recall(*outcome)
    best = best_score(*outcome)
    assert math.isnan(best) if not outcome[1].any() else f1[score == best] == f1.max()


def test_the_curve_worked_by_hand():
    # 0.9: 1 of 1, 1 of 2 found, F1 2/3. 0.5: 1 of 3. 0.2: 2 of 4, both found, F1 4/6, no better than at 0.9.
    scores, hit = np.array([0.5, 0.9, 0.2, 0.5]), np.array([False, True, True, False])
    score, precision, recall, f1 = precision_recall(scores, hit, 2)
    assert list(score) == [0.9, 0.5, 0.2]
    assert list(precision) == pytest.approx([1, 1 / 3, 1 / 2])
    assert list(recall) == pytest.approx([1 / 2, 1 / 2, 1])
    assert list(f1) == pytest.approx([2 / 3, 2 / 5, 2 / 3])
    assert best_score(scores, hit, 2) == 0.9


def test_the_curve_of_nothing_is_empty():
    nothing = np.zeros(0), np.zeros(0, bool)
    assert [len(part) for part in precision_recall(*nothing, 3)] == [0, 0, 0, 0]
    assert math.isnan(best_score(*nothing, 3))
    assert math.isnan(best_score(np.array([0.5]), np.array([False]), 0))

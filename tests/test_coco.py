from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError
from geodetect.learner.hits import Hits
from geodetect.metrics.coco import coco_scores
from tests import oracles_coco
from tests.strategies import boxes

N_CLASSES = 3
NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR"]


def whole(found: Boxes) -> Boxes:
    """The boxes at whole pixels: pycocotools adds and subtracts in another order, which rounds otherwise."""
    return Boxes(np.round(found.xyxy), found.labels, found.scores)


def scored(found: Boxes, scores: np.ndarray) -> Boxes:
    return Boxes(found.xyxy, found.labels, scores)


@st.composite
def chips(draw: st.DrawFn) -> list[tuple[Boxes, Boxes]]:
    """(detections, truth) of chips: some beside the truth, many of equal score; chips with neither among them."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        truth = whole(draw(boxes(max_size=12, scored=False)))
        stray = whole(draw(boxes(max_size=6)))
        off = draw(st.lists(st.integers(-3, 3), min_size=4 * len(truth), max_size=4 * len(truth)))
        near = truth.xyxy + np.array(off, float).reshape(-1, 4)
        near[:, 2:] = np.maximum(near[:, :2], near[:, 2:])
        levels = draw(st.lists(st.sampled_from([0.2, 0.5, 0.7, 0.9]), min_size=len(truth), max_size=len(truth)))
        made.append((Boxes.concat([Boxes(near, truth.labels, levels), stray], scored=True), truth))
    return made


def distinct(made: list[tuple[Boxes, Boxes]]) -> list[tuple[Boxes, Boxes]]:
    """The chips with scores that all differ."""
    scores = iter(np.random.default_rng(0).permutation(1_000) / 1_000)
    return [(scored(found, [next(scores) for _ in range(len(found))]), truth) for found, truth in made]


def scores_of(made: list[tuple[Boxes, Boxes]], n_classes: int = N_CLASSES, **keywords) -> dict[str, np.ndarray]:
    return coco_scores([found for found, _ in made], [truth for _, truth in made], n_classes, **keywords)


def crowd(n_chips: int, n_boxes: int, seed: int) -> list[tuple[Boxes, Boxes]]:
    """Chips so full that detections compete for objects of all sizes, two to each on the whole."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n_chips):
        corner = rng.integers(0, 300, (n_boxes, 2))
        truth = Boxes(np.c_[corner, corner + rng.integers(25, 150, (n_boxes, 2))], rng.integers(0, N_CLASSES, n_boxes))
        twice = Boxes.concat([truth, truth])
        near = twice.xyxy + rng.integers(-4, 5, (2 * n_boxes, 4)) * np.repeat([[1], [3]], n_boxes, axis=0)
        made.append((Boxes(near, twice.labels, rng.integers(0, 90, 2 * n_boxes) / 90), truth))
    return made


@settings(max_examples=30, deadline=None)
@given(chips(), st.sampled_from([None, 1, 3, 100]))
def test_scores_are_those_of_pycocotools(made, max_boxes):
    ours, theirs = scores_of(made, max_boxes=max_boxes), oracles_coco.coco_scores(made, N_CLASSES, max_boxes)
    assert list(ours) == NAMES
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("max_boxes", [None, 100, 20])
def test_crowded_chips_score_as_with_pycocotools(max_boxes):
    made = crowd(4, 150, seed=1)
    ours, theirs = scores_of(made, max_boxes=max_boxes), oracles_coco.coco_scores(made, N_CLASSES, max_boxes)
    for name, expected in theirs.items():
        assert (expected > 0).any()
        np.testing.assert_allclose(ours[name], expected, rtol=0, atol=1e-9, err_msg=name)


def test_more_than_a_hundred_boxes_count():
    # 150 objects, all found: a cap of 100 lets at most two thirds be recalled, and AP end at that recall.
    x = np.arange(150) * 20.0
    truth = Boxes(np.c_[x, 0 * x, x + 10, 0 * x + 10], np.zeros(150))
    made = [(scored(truth, np.linspace(1, 0.5, 150)), truth)]
    assert scores_of(made, 1)["AP"] == 1
    assert scores_of(made, 1, max_boxes=100)["AR"] == pytest.approx(100 / 150)
    assert scores_of(made, 1, max_boxes=100)["AP"] == pytest.approx(67 / 101)  # recalls 0, 0.01 ... 0.66


@pytest.mark.parametrize("seed", range(3))
def test_ignored_objects_and_their_detections_do_not_count_as_in_pycocotools(seed):
    rng = np.random.default_rng(seed)
    chips = distinct(crowd(3, 60, seed))
    made = [(found, replace(truth, ignored=rng.random(len(truth)) < 0.3)) for found, truth in chips]
    got, due = scores_of(made), oracles_coco.coco_scores(made, N_CLASSES, None)
    for name in NAMES:
        np.testing.assert_allclose(got[name], due[name], atol=1e-12)
    without = [(found, truth[truth.counted]) for found, truth in made]
    assert (scores_of(made)["AP50"] > scores_of(without)["AP50"]).all()
    evaluation = oracles_coco.coco_evaluation(made, N_CLASSES, match_ious=[0.5])
    precision = evaluation.eval["precision"][0, :, :, 0, 0].mean(axis=0)
    hits = Hits.of([found for found, _ in made], [truth for _, truth in made], N_CLASSES)
    np.testing.assert_allclose(hits.average_precision(), precision, atol=1e-12)


@given(chips())
@settings(max_examples=30, deadline=None)
def test_truth_as_detections_scores_1(made):
    solid = [truth[(truth.sizes > 0).all(axis=1)] for _, truth in made]
    scores = scores_of([(scored(truth, np.full(len(truth), 0.5)), truth) for truth in solid])
    present = np.isin(np.arange(N_CLASSES), np.concatenate([truth.labels for truth in solid]))
    for name in ("AP", "AP50", "AP75", "AR"):
        np.testing.assert_array_equal(scores[name], np.where(present, 1, np.nan))


@given(chips(), st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_nothing_hangs_on_the_order_of_chips_and_detections(made, random):
    made = distinct(made)
    again = [(found[np.array(random.sample(range(len(found)), len(found)), int)], truth) for found, truth in made]
    random.shuffle(again)
    before, after = scores_of(made), scores_of(again)
    for name in NAMES:
        np.testing.assert_allclose(before[name], after[name], rtol=0, atol=1e-12)


@given(chips())
@settings(max_examples=30, deadline=None)
def test_a_false_positive_above_all_never_raises_a_score(made):
    # On an empty chip of its own, so that it takes no object from another.
    for size in (10, 50, 200):
        stray = [(Boxes([[0, 0, size, size]], [label], [2.0]), Boxes.empty()) for label in range(N_CLASSES)]
        before, after = scores_of(made), scores_of([*made, *stray])
        for name in NAMES:
            assert (np.isnan(after[name]) == np.isnan(before[name])).all()
            assert not (after[name] > before[name] + 1e-12).any()


def test_empty_chips_count():
    square = Boxes([[0, 0, 40, 40]], [0])
    hit = scored(square, [0.5]), square
    assert scores_of([hit], 1)["AP"] == 1
    # The wrong one scores more: precision is 1/2 wherever the object is found.
    assert scores_of([hit, (scored(square, [0.9]), Boxes.empty())], 1)["AP"] == 0.5


def test_sizes_worked_by_hand():
    # One object of 32 x 32, both small and medium; one of 100 x 100, which nothing finds.
    truth = Boxes([[0, 0, 32, 32], [200, 200, 300, 300]], [0, 0])
    found = Boxes([[0, 0, 32, 32], [0, 100, 200, 300]], [0, 0], [0.5, 0.9])  # the better one is wrong, and large
    scores = {name: float(value[0]) for name, value in scores_of([(found, truth)], 1).items()}
    # Of all: 1 of 2 found at precision 1/2, so 1/2 at the 51 recalls up to 0.5.
    assert scores["AP"] == pytest.approx(51 / 101 / 2)
    assert (scores["APs"], scores["APm"], scores["APl"], scores["AR"]) == (1, 1, 0, 0.5)


@pytest.mark.parametrize("n_chips", [0, 1, 3])
def test_nothing_scores_nothing(n_chips):
    scores = scores_of([(Boxes.empty(scored=True), Boxes.empty())] * n_chips, 2)
    for name in NAMES:
        assert scores[name].shape == (2,)
        assert scores[name].dtype == np.float64
        assert np.isnan(scores[name]).all()


def test_a_class_that_nothing_finds_scores_0_and_one_without_truth_nothing():
    made = [(Boxes([[0, 0, 9, 9]], [1], [0.5]), Boxes([[0, 0, 9, 9]], [0]))]
    assert scores_of(made, 2)["AP"][0] == 0
    assert math.isnan(scores_of(made, 2)["AP"][1])


@pytest.mark.parametrize(
    ("found", "truth", "keywords", "message"),
    [
        ([], [Boxes.empty()], {}, "detections of 0 chips and true boxes of 1"),
        ([Boxes([[0, 0, 1, 1]], [0])], [Boxes.empty()], {}, "detections need scores"),
        ([Boxes.empty()], [Boxes([[0, 0, 1, 1]], [3])], {}, "from 0 to 2 where n_classes is 3; got labels from 3 to 3"),
        ([], [], {"max_boxes": 0}, "max_boxes must be at least 1, or None for no limit; got 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(found, truth, keywords, message):
    with pytest.raises(ArgumentError, match=message):
        coco_scores(found, truth, N_CLASSES, **keywords)

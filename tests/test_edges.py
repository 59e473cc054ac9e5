"""Objects cut by windows come out once and whole, whatever the windows.

No detector is needed here: a window sees of each true box what lies inside the window.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodetect.boxes import Boxes, iou, nms
from geodetect.grid import Tiling, Window
from geodetect.scene.edges import Parts, join, split
from geodetect.windows import Windows
from tests.fakes import split_window


@st.composite
def plans(draw):
    """Tilings of scenes from a fraction of a window to several windows across."""
    chip_size = draw(st.integers(16, 40))
    shape = draw(st.tuples(st.integers(5, 120), st.integers(5, 120)))
    return Tiling(shape, chip_size, draw(st.integers(0, chip_size - 8)))


@st.composite
def objects(draw, plan, largest):
    """Boxes in the scene, in halves of pixels and at most `largest` on a side, each of a class of its own."""
    n_boxes = draw(st.integers(0, 6))
    xyxy = np.zeros((n_boxes, 4))
    for box in xyxy:
        for axis, length in enumerate(plan.shape[::-1]):
            size = draw(st.integers(1, 2 * min(largest, length)))
            box[axis] = draw(st.integers(0, 2 * length - size)) / 2
            box[axis + 2] = box[axis] + size / 2
    return Boxes(xyxy, np.arange(n_boxes), np.full(n_boxes, 0.9))


def seen(truth, window):
    """What a perfect detector reports of the boxes in a window, in scene pixels."""
    found = truth.shift(-window.x, -window.y).clip(window.width, window.height)
    return found[(found.sizes > 0).all(axis=1)].shift(window.x, window.y)


def sewn(plan, see, nms_iou=0.5):
    """The boxes of the scene when `see(window)` is what each window reports."""
    found = [see(window) for window in plan]
    whole, parts = zip(
        *(split_window(some, window, plan, nms_iou) for some, window in zip(found, plan, strict=True)), strict=True
    )
    whole, parts = Boxes.concat(whole, scored=True), Parts.concat(parts)
    every, of = Boxes.concat(found, scored=True), np.repeat(np.arange(len(plan)), [len(some) for some in found])
    at_once = split(every, of, Windows.of([plan]).frames(list(plan)), nms_iou)
    assert np.array_equal(every[at_once[0]].xyxy, whole.xyxy)
    assert np.array_equal(at_once[1].boxes.xyxy, parts.boxes.xyxy)
    assert np.array_equal(at_once[1].cut, parts.cut)
    whole = whole[nms(whole, nms_iou)]
    return Boxes.concat([whole, join(parts, [whole[::2], whole[1::2]], nms_iou)])


def rows(boxes):
    return sorted(map(tuple, np.column_stack([boxes.labels, boxes.xyxy, boxes.scores])))


@settings(max_examples=40)  # of several objects each
@given(st.data())
def test_objects_of_any_size_come_out_once_and_whole(data):
    plan = data.draw(plans())
    truth = data.draw(objects(plan, largest=max(plan.shape)))
    assert rows(sewn(plan, lambda window: seen(truth, window))) == rows(truth)


@given(st.data())
def test_objects_well_below_the_overlap_leave_no_parts(data):
    plan = data.draw(plans().filter(lambda plan: plan.overlap > 8))
    truth = data.draw(objects(plan, largest=plan.overlap - 6))  # 6: near one edge, clear of the other
    split_up = [split_window(seen(truth, window), window, plan, 0.5) for window in plan]
    assert not any(len(parts) for _, parts in split_up)
    assert {row for whole, _ in split_up for row in rows(whole)} == set(rows(truth))


@settings(max_examples=40)
@given(st.data())
def test_objects_come_out_once_when_sides_are_placed_a_little_differently_in_each_window(data):
    plan = data.draw(plans().filter(lambda plan: plan.overlap > 8))
    truth = data.draw(objects(plan, largest=max(plan.shape)))
    truth = truth[(truth.sizes >= 12).all(axis=1)]
    noise = np.random.default_rng(data.draw(st.integers(0, 1000)))

    def see(window):
        found = seen(truth, window)
        return Boxes(found.xyxy + noise.uniform(-0.5, 0.5, found.xyxy.shape), found.labels, found.scores)

    found = sewn(plan, lambda window: seen(see(window), window))
    assert sorted(found.labels) == list(truth.labels)
    assert np.abs(found.xyxy[np.argsort(found.labels)] - truth.xyxy).max(initial=0) <= 0.5


def test_neighbours_that_only_touch_end_to_end_stay_apart():
    # Two roads of one class in line, 50 and 60 long, in windows of 32: both come in parts.
    truth = Boxes([[5, 10, 55, 14], [55.5, 10, 115.5, 14]], [0, 0], [0.8, 0.7])
    assert rows(sewn(Tiling((32, 128), 32, 8), lambda window: seen(truth, window))) == rows(truth)


def test_parallel_roads_stay_apart():
    truth = Boxes([[5, 10, 105, 14], [5, 15, 105, 19], [5, 20, 105, 24]], [0, 0, 0], [0.8, 0.7, 0.6])
    assert rows(sewn(Tiling((32, 128), 32, 8), lambda window: seen(truth, window))) == rows(truth)


def test_a_joined_box_has_the_best_score_of_its_parts():
    plan = Tiling((32, 56), 32, 8)  # two windows, 24 apart

    def see(window):
        return seen(Boxes([[4, 4, 50, 12]], [3], [0.6 if window.x == 0 else 0.9]), window)

    assert rows(sewn(plan, see)) == [(3, 4, 4, 50, 12, 0.9)]


def test_a_box_belongs_to_the_window_that_has_it_further_inside():
    plan = Tiling((32, 64), 32, 16)  # windows at x 0, 16, 32; the overlaps of the middle one end at 32 and begin at 32
    lefts = [17, 21, 22, 30, 37, 38, 43]
    found = Boxes([[x, 4, x + 4, 8] for x in lefts], range(len(lefts)), [0.9] * len(lefts))
    kept = [set(split_window(seen(found, window), window, plan, 0.6)[0].labels.tolist()) for window in plan]
    assert kept == [{0, 1, 2}, {2, 3, 4, 5}, {5, 6}]


@given(st.data())
def test_of_two_boxes_of_one_object_seen_in_two_windows_one_is_kept(data):
    plan = Tiling((64, 96), 64, 32)
    nms_iou = data.draw(st.sampled_from([0.3, 0.5, 0.7, 1.0]))
    sides = st.lists(st.integers(36, 60), min_size=4, max_size=4, unique=True).map(sorted)
    x1, x2, x3, x4 = data.draw(sides)
    boxes = Boxes([[x1, 10, x3, 30], [x2, 10, x4, 30]], [0, 0], [0.9, 0.9])
    kept = [
        len(split_window(boxes[[one]], window, plan, nms_iou)[0])
        for one, window in zip(data.draw(st.permutations([0, 1])), plan, strict=True)
    ]
    assert sum(kept) or iou(boxes[[0]], boxes[[1]])[0, 0] <= min(nms_iou, 0.5)


def test_what_split_does_on_each_kind_of_edge():
    plan = Tiling((32, 80), 32, 8)  # windows at x 0, 24, 48
    found = Boxes(
        [
            [24, 0, 40, 32],  # begins on the left edge: window 0 sees up to 32, not past 40: part
            [25, 4, 28, 8],  # 1 px from the left edge, but ends 4 px before window 0 does: dropped
            [26, 4, 54, 8],  # 2 px from both edges: whole
            [51, 4, 56, 8],  # on the right edge; begins only 3 px into window 2: part
            [52, 4, 56, 8],  # on the right edge, 4 px into window 2: dropped
        ],
        [0, 1, 2, 3, 4],
        [0.9] * 5,
    )
    whole, parts = split_window(found, plan[1], plan, 0.5)
    assert whole.labels.tolist() == [2]
    assert parts.boxes.labels.tolist() == [0, 3]
    assert parts.cut.tolist() == [[True, False, False, False], [False, False, True, False]]


@pytest.mark.parametrize("nms_iou", [0.0, 0.5, 0.9, 1.0])
def test_a_box_in_the_middle_of_the_overlap_is_not_left_by_both_windows(nms_iou):
    plan = Tiling((32, 48), 32, 16)
    middle = Boxes([[20, 4, 28, 8]], [0], [0.9])
    assert all(len(split_window(middle, window, plan, nms_iou)[0]) for window in plan)


def test_parts_are_not_left_for_a_side_on_which_they_are_not_cut():
    plan = Tiling((48, 48), 32, 16)
    part = Boxes([[18, 4, 22, 32]], [0], [0.9])  # in the left half of the overlap, cut below
    assert all(len(split_window(part, window, plan, 0.5)[1]) for window in list(plan)[:2])


def test_the_last_windows_overlap_more_and_that_is_counted():
    plan = Tiling((32, 60), 32, 8)  # windows at 0, 24 and, moved back, 28
    assert [window.x for window in plan] == [0, 24, 28]
    stump = Boxes([[33, 4, 56, 8]], [0], [0.9])  # on window 1's right edge, 23 long, and clear of window 2's left one
    whole, parts = split_window(stump, plan[1], plan, 0.5)
    assert len(whole) == len(parts) == 0


def test_edges_of_the_scene_cut_nothing():
    found = Boxes([[0, 0, 20, 10], [5, 5, 20, 10]], [0, 1], [0.9, 0.8])
    whole, parts = split_window(found, Window(0, 0, 20, 10), Tiling((10, 20), 32, 8), 0.5)
    assert len(whole) == 2
    assert len(parts) == 0


@pytest.mark.parametrize("of_class", [0, 1])
def test_a_part_gives_way_only_to_a_whole_box_of_its_class(of_class):
    parts = Parts(Boxes([[0, 0, 32, 8]], [0], [0.9]), np.array([[False, False, True, False]]))
    whole = Boxes([[8, 0, 48, 8]], [of_class], [0.5])  # covers 24 of the part's 32
    assert len(join(parts, [whole], 0.5)) == of_class


def test_parts_of_one_window_suppress_each_other():
    found = Boxes([[4, 4, 32, 12], [4, 4, 32, 13]], [0, 0], [0.9, 0.8])
    _, parts = split_window(found, Window(0, 0, 32, 32), Tiling((32, 80), 32, 8), 0.5)
    assert rows(parts.boxes) == [(0, 4, 4, 32, 12, 0.9)]


def test_no_boxes_give_no_boxes():
    empty = Boxes.empty(scored=True)
    whole, parts = split_window(empty, Window(0, 0, 32, 32), Tiling((64, 64), 32, 8), 0.5)
    assert len(whole) == len(parts) == len(join(Parts.concat([parts]), [empty], 0.5)) == 0
    assert len(join(Parts.concat([]), [], 0.5)) == 0


def test_a_chain_of_many_windows_is_one_object():
    plan = Tiling((16, 3000), 16, 4)
    truth = Boxes([[3, 2, 2990, 9]], [0], [0.9])
    assert rows(sewn(plan, lambda window: seen(truth, window))) == rows(truth)

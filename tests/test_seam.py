"""The seam gives exactly what `nms` of all boxes gives, and holds no more than it must."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodetect.boxes import Boxes, iou, nms
from geodetect.errors import ArgumentError
from geodetect.scene.seam import Seam

N_ROWS = 40  # height of the scenes; small whole numbers, so that boxes touch and tie often

thresholds = st.sampled_from([0.0, 0.2, 0.5, 1.0])


@st.composite
def crowds(draw, max_size=25):
    """Boxes in a narrow scene, some equal, some empty, with few different scores."""
    row = st.tuples(
        *[st.integers(0, 6), st.integers(0, N_ROWS - 10), st.integers(0, 6), st.integers(0, 10)],
        *[st.integers(0, 1), st.sampled_from([0.2, 0.5, 0.9])],
    )
    rows = np.array(draw(st.lists(row, max_size=max_size)), float).reshape(-1, 6)
    return Boxes(np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]]), rows[:, 4], rows[:, 5])


def as_set(boxes):
    """The boxes without their order; equal ones stay apart."""
    return sorted(map(tuple, np.column_stack([boxes.xyxy, boxes.labels, boxes.scores])))


def together(parts):
    return as_set(Boxes.concat(parts, scored=True))


@given(crowds(), thresholds, st.lists(st.integers(0, N_ROWS), max_size=6), st.randoms())
def test_any_order_that_keeps_the_promises_gives_what_nms_gives(boxes, nms_iou, lines, random):
    seam, returned, above = Seam(nms_iou), [], -np.inf
    for line in [*sorted(lines), np.inf]:
        y1 = boxes.xyxy[:, 1]
        rows = list(np.flatnonzero((y1 >= above) & (y1 < line)))
        random.shuffle(rows)
        half = len(rows) // 2  # a promise may be given late, and never is taken back
        returned.append(seam.feed(boxes[rows[:half]]))
        returned.append(seam.feed(boxes[rows[half:]], line))
        above = line
    returned.append(seam.flush())
    assert together(returned) == as_set(boxes[nms(boxes, nms_iou)])
    assert len(seam.held) == 0


@st.composite
def strips(draw):
    """Tops and bottoms of strips that overlap, each reaching below the one above and covering the scene."""
    tops = [0, *sorted(draw(st.sets(st.integers(1, N_ROWS - 12), max_size=4)))]
    # Every box is at most 10 high, so it lies whole in the last strip that starts above it.
    bottoms = [top + 10 + draw(st.integers(0, 5)) for top in tops[1:]] + [N_ROWS]
    return tops, list(np.maximum.accumulate(bottoms))


@given(crowds(), thresholds, strips(), st.randoms())
def test_any_split_into_strips_and_any_tree_of_merging_gives_what_nms_gives(boxes, nms_iou, plan, random):
    tops, bottoms = plan
    home = np.array([random.choice(_strips_of(box, tops, bottoms)) for box in boxes.xyxy], int)
    returned, seams = [], []
    for k in range(len(tops)):
        seam = Seam(nms_iou, bottoms[k - 1] if k else -np.inf)
        returned.append(seam.feed(boxes[home == k], tops[k + 1] if k + 1 < len(tops) else np.inf))
        seams.append(seam)
    while len(seams) > 1:
        k = random.randrange(len(seams) - 1)
        seams[k] = seams[k].merge(seams.pop(k + 1))
        if random.random() < 0.5:
            returned.append(seams[k].feed(Boxes.empty(scored=True)))
    returned.append(seams[0].flush())
    assert together(returned) == as_set(boxes[nms(boxes, nms_iou)])


def _strips_of(box, tops, bottoms):
    fits = [k for k in range(len(tops)) if box[1] >= tops[k] and box[3] <= bottoms[k]]
    assert fits
    return fits


@given(crowds(), thresholds, st.integers(0, N_ROWS), st.integers(0, N_ROWS))
def test_only_boxes_past_a_line_and_those_that_hang_on_them_are_held(boxes, nms_iou, row_start, row_end):
    boxes = boxes[boxes.xyxy[:, 1] <= row_end]
    seam = Seam(nms_iou, row_start)
    seam.feed(boxes, row_end)
    assert len(seam.held) <= _hanging(boxes, nms_iou, row_start, row_end).sum()


def _hanging(boxes, nms_iou, row_start, row_end):
    """Boxes that a chain of rivals links to one past a line, found slowly."""
    rivals = (iou(boxes.xyxy, boxes.xyxy) > nms_iou) & (boxes.labels[:, None] == boxes.labels)
    hanging = (boxes.xyxy[:, 1] < row_start) | (boxes.xyxy[:, 3] > row_end)
    for _ in range(len(boxes)):
        hanging = hanging | rivals[:, hanging].any(axis=1)
    return hanging


def test_what_the_seam_holds_does_not_grow_with_the_scene():
    seam, n_returned = Seam(0.5), 0
    for row in range(200):
        # Ten boxes a row of windows, each 12 high, rows 10 apart: only the newest row reaches the frontier.
        x = np.arange(10) * 20.0
        y = np.full(10, row * 10.0)
        n_returned += len(
            seam.feed(Boxes(np.column_stack([x, y, x + 12, y + 12]), np.zeros(10), y / 2000), row * 10 + 10)
        )
        assert len(seam.held) <= 10
    assert n_returned + len(seam.flush()) == 2000


def test_a_worse_box_waits_for_a_better_one_that_waits():
    # b ends on the line, but overlaps a (20 of 30 rows) that reaches past it; c suppresses a (10 of 30), and b stays.
    a, b, c = [0, 0, 10, 30], [0, 0, 10, 20], [0, 20, 10, 30]
    seam = Seam(0.3)
    assert len(seam.feed(Boxes([a, b], [0, 0], [0.8, 0.7]), row_end=20)) == 0
    settled = seam.feed(Boxes([c], [0], [0.9]), row_end=30)
    assert settled.xyxy.tolist() == [c, b]


def test_a_box_that_ends_on_the_line_is_settled():
    boxes = Boxes([[0, 5, 4, 10]], [0], [0.9])
    assert len(Seam(0.5, row_start=5).feed(boxes, row_end=10)) == 1
    assert len(Seam(0.5).feed(boxes, row_end=9.99)) == 0
    assert len(Seam(0.5, row_start=5.01).feed(boxes, row_end=10)) == 0


def test_flush_of_a_lower_strip_keeps_what_hangs_on_the_strip_above():
    below = Seam(0.5, row_start=10)
    assert len(below.feed(Boxes([[0, 8, 10, 18], [0, 30, 10, 40]], [0, 0], [0.7, 0.6]), row_end=40)) == 1
    assert len(below.flush()) == 0
    above = Seam(0.5)
    assert len(above.feed(Boxes([[0, 0, 10, 10]], [0], [0.9]), row_end=8)) == 0
    assert above.merge(below) is above
    assert as_set(above.flush()) == [(0, 0, 10, 10, 0, 0.9), (0, 8, 10, 18, 0, 0.7)]


def test_nothing_in_gives_nothing_out():
    seam = Seam(0.5)
    assert len(seam.feed(Boxes.empty(scored=True))) == len(seam.flush()) == 0
    assert seam.flush().scores is not None


def test_a_broken_promise_is_refused():
    seam = Seam(0.5)
    seam.feed(Boxes.empty(scored=True), row_end=10)
    with pytest.raises(ArgumentError, match=r"no box may start above row_end=10, .* got one that starts at 9"):
        seam.feed(Boxes([[0, 9, 4, 20]], [0], [0.5]))


def test_a_part_that_breaks_the_promise_of_the_one_above_is_refused():
    above, below = Seam(0.5), Seam(0.5, row_start=50)
    above.feed(Boxes([[0, 40, 20, 60]], [0], [0.9]))
    below.feed(Boxes([[0, 42, 20, 62]], [0], [0.8]))
    above.flush()  # says that nothing comes from below
    with pytest.raises(ArgumentError, match="no box may start above row_end=inf"):
        above.merge(below)


def test_boxes_without_scores_are_refused():
    with pytest.raises(ArgumentError, match="have none"):
        Seam(0.5).feed(Boxes([[0, 0, 1, 1]], [0]))


@pytest.mark.parametrize("nms_iou", [-0.1, 1.5, np.nan])
def test_an_impossible_overlap_is_refused(nms_iou):
    with pytest.raises(ArgumentError, match="nms_iou must lie between 0 and 1"):
        Seam(nms_iou)


def test_parts_of_different_scenes_are_refused():
    with pytest.raises(ArgumentError, match=r"share one nms_iou; got 0\.5 and 0\.3"):
        Seam(0.5).merge(Seam(0.3))

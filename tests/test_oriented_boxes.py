"""Oriented boxes: their one form, exact overlap, and the same laws of suppression and seams as upright ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geodetect.boxes import Boxes, area, find_overlaps, iou, iou_of_pairs, nms, oriented_envelope
from geodetect.errors import ArgumentError
from geodetect.grid import Tiling
from geodetect.scene.edges import Parts, join
from geodetect.scene.seam import Seam
from tests.fakes import in_all_symmetries, split_window

RIGHT, HALF, EIGHTH = np.pi, np.pi / 2, np.pi / 4
many = pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])

angles = st.one_of(st.sampled_from([0.0, HALF, -HALF, EIGHTH, -EIGHTH, 0.3, RIGHT, 3.0]), st.floats(-7, 7, width=32))


@st.composite
def oriented(draw, max_size=25, *, scored=True):
    """None, one or more turned boxes of two classes: nested, equal, touching, without area, of equal score."""
    corner = st.one_of(st.integers(0, 40).map(float), st.floats(0, 40, width=32))
    side = st.one_of(st.sampled_from([0.0, 4.0, 8.0, 16.0]), st.floats(0, 30, width=32))
    row = st.tuples(corner, corner, side, side, st.integers(0, 1), st.sampled_from([0.2, 0.5, 0.9]), angles)
    rows = draw(st.lists(row, max_size=max_size))
    again = draw(st.lists(st.sampled_from(rows), max_size=3)) if rows else []
    table = np.array(rows + again, float).reshape(-1, 7)
    xyxy = np.concatenate([table[:, :2], table[:, :2] + table[:, 2:4]], axis=1)
    return Boxes(xyxy, table[:, 4], table[:, 5] if scored else None, table[:, 6])


def polygons(boxes):
    return shapely.polygons(boxes.corners)


def polygon_iou(a, b):
    """IoU of the boxes' polygons by GEOS, (N, M)."""
    one, other = polygons(a)[:, None], polygons(b)[None]
    shared = shapely.area(shapely.intersection(one, other))
    union = shapely.area(one) + shapely.area(other) - shared
    return np.divide(shared, union, out=np.zeros_like(union), where=union > 0)


def blur(boxes):
    """How far rounding of corners may move an IoU of each box, (N,): the area of its blurred outline over its own."""
    outline = 2 * boxes.sizes.sum(axis=1) * np.spacing(np.abs(boxes.bounds).max(axis=1, initial=1))
    own = boxes.sizes.prod(axis=1)
    return np.divide(8 * outline, own, out=np.full(len(boxes), np.inf), where=own > 0)


def rows(boxes):
    """What the boxes are, whatever their order."""
    return sorted(map(tuple, np.column_stack([boxes.xyxy, boxes.labels, boxes.scores, boxes.angles]).tolist()))


@given(oriented())
def test_every_box_has_its_longer_side_along_x_and_an_angle_within_half_a_turn(boxes):
    rounding = 4 * np.spacing(np.abs(boxes.xyxy).max(axis=1, initial=0))
    assert (boxes.sizes[:, 0] >= boxes.sizes[:, 1] - rounding).all()
    assert ((boxes.angles >= -HALF) & (boxes.angles < HALF)).all()


@given(st.floats(1, 30), st.floats(1, 30), angles)
def test_the_form_does_not_change_the_rectangle(width, height, angle):
    # The corners of a rectangle that is turned by hand, against those of the box in its one form.
    x, y = np.array([-width, width, width, -width]) / 2, np.array([-height, -height, height, height]) / 2
    by_hand = np.stack([np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y], axis=1) + 50
    box = Boxes([[50 - width / 2, 50 - height / 2, 50 + width / 2, 50 + height / 2]], [0], angles=[angle])
    assert shapely.hausdorff_distance(polygons(box)[0], shapely.Polygon(by_hand)) < 1e-9


def test_angles_turn_from_x_towards_y_which_points_down():
    # 20 x 10 px round (50, 50), turned by 30 degrees: the end of the longer side lies to the right and below.
    box = Boxes([[40, 45, 60, 55]], [0], angles=[np.pi / 6])
    end = box.corners[0, 1:3].mean(axis=0)  # the middle of the side at x2
    np.testing.assert_allclose(end, [50 + 10 * np.cos(np.pi / 6), 50 + 5])
    tall = Boxes([[45, 40, 55, 60]], [0], angles=[np.pi / 6])  # its longer side lies along y
    np.testing.assert_allclose(tall.angles, [np.pi / 6 - HALF])
    np.testing.assert_allclose(tall.xyxy, [[40, 45, 60, 55]])


@given(oriented(scored=False))
def test_bounds_hold_the_corners_and_touch_them(boxes):
    x, y = boxes.corners[..., 0], boxes.corners[..., 1]
    np.testing.assert_array_equal(boxes.bounds.T, [x.min(axis=1), y.min(axis=1), x.max(axis=1), y.max(axis=1)])


@given(oriented(), st.floats(-100, 100), st.floats(-100, 100))
def test_shifting_moves_all_corners_alike(boxes, dx, dy):
    np.testing.assert_allclose(boxes.shift(dx, dy).corners, boxes.corners + np.array([dx, dy]), atol=1e-9)


def test_upright_and_oriented_boxes_together_are_oriented():
    upright, turned = Boxes([[0, 0, 4, 8]], [0], [0.5]), Boxes([[0, 0, 8, 4]], [1], [0.6], [0.2])
    both = Boxes.concat([upright, turned])
    np.testing.assert_allclose(both.angles, [-HALF, 0.2])  # 4 x 8 px upright is 8 x 4 px, turned by a right angle
    np.testing.assert_allclose(both.bounds[0], [0, 0, 4, 8], atol=1e-12)
    assert not upright.oriented
    assert Boxes.empty(oriented=True).oriented
    assert both[:0].oriented


def test_a_missing_angle_is_refused():
    with pytest.raises(ArgumentError, match="2 boxes, 2 labels, 1 angles"):
        Boxes(np.zeros((2, 4)), [0, 0], angles=[0.1])


@given(oriented(max_size=12), oriented(max_size=12))
def test_overlap_is_that_of_the_polygons(a, b):
    allowed = 1e-9 + np.maximum(blur(a)[:, None], blur(b)[None])
    assert (np.abs(iou(a, b) - polygon_iou(a, b)) <= allowed).all()


@many
def test_overlap_is_that_of_the_polygons_for_many_pairs(n):
    draw = np.random.default_rng(1)

    def some():
        centre, size = draw.uniform(0, 40, (n, 2)), draw.uniform(0.5, 30, (n, 2))
        size[draw.random(n) < 0.05, 1] = 0  # lines have no area, and share none
        angle = np.where(draw.random(n) < 0.2, draw.choice([0, HALF, EIGHTH, -HALF], n), draw.uniform(-4, 4, n))
        whole = draw.random(n) < 0.3  # on whole pixels, where sides coincide
        centre[whole], size[whole] = centre[whole].round(), size[whole].round()
        return Boxes(np.hstack([centre - size / 2, centre + size / 2]), np.zeros(n), angles=angle)

    a, b = some(), some()
    same = draw.random(n) < 0.05
    b = Boxes(np.where(same[:, None], a.xyxy, b.xyxy), b.labels, angles=np.where(same, a.angles, b.angles))
    shared = shapely.area(shapely.intersection(polygons(a), polygons(b)))
    union = shapely.area(polygons(a)) + shapely.area(polygons(b)) - shared
    due = np.divide(shared, union, out=np.zeros(n), where=union > 0)
    assert np.abs(iou_of_pairs(a, b) - due).max() < 1e-9


@given(oriented(max_size=12), oriented(max_size=12), st.sampled_from([0.0, 0.1, 0.5, 0.9]))
def test_pairs_are_those_of_the_matrix(a, b, min_iou):
    found = find_overlaps(a, b, min_iou)
    matrix = iou(a, b)
    assert set(zip(found.first.tolist(), found.second.tolist(), strict=True)) == set(
        zip(*(indices.tolist() for indices in np.nonzero(matrix > min_iou)), strict=True)
    )


def greedy(boxes, max_iou, *, by_class=True):
    """Greedy suppression by a plain loop."""
    kept, matrix = [], iou(boxes, boxes)
    for k in boxes.rank():
        rivals = [j for j in kept if not by_class or boxes.labels[j] == boxes.labels[k]]
        if all(matrix[k, j] <= max_iou for j in rivals):
            kept.append(int(k))
    return kept


@given(oriented(), st.sampled_from([0.0, 0.2, 0.5, 1.0]), st.booleans())
def test_suppression_is_greedy(boxes, max_iou, by_class):
    assert nms(boxes, max_iou, by_class=by_class).tolist() == greedy(boxes, max_iou, by_class=by_class)


@given(oriented(), st.sampled_from([0.2, 0.5]), st.lists(st.integers(-20, 60), max_size=5), st.randoms())
def test_the_seam_gives_what_suppression_of_all_gives(boxes, nms_iou, lines, random):
    seam, returned, above = Seam(nms_iou), [], -np.inf
    for line in [*sorted(lines), np.inf]:
        y1 = boxes.bounds[:, 1]
        here = list(np.flatnonzero((y1 >= above) & (y1 < line)))
        random.shuffle(here)
        returned += [seam.feed(boxes[here[::2]]), seam.feed(boxes[here[1::2]], line)]
        above = line
    returned.append(seam.flush())
    assert rows(Boxes.concat(returned)) == rows(boxes[nms(boxes, nms_iou)])


@many
def test_the_seam_is_exact_for_many_boxes(n):
    draw = np.random.default_rng(2)
    centre, size = draw.uniform(0, 10 * np.sqrt(n), (n, 2)), draw.uniform(4, 30, (n, 2))
    xyxy = np.hstack([centre - size / 2, centre + size / 2])
    boxes = Boxes(xyxy, draw.integers(0, 2, n), draw.random(n), draw.uniform(-HALF, HALF, n))
    seam, returned = Seam(0.3), []
    order = np.argsort(boxes.bounds[:, 1])
    for portion in np.array_split(order, 40):
        line = boxes.bounds[portion[-1], 1]
        returned.append(seam.feed(boxes[draw.permutation(portion)], line))
    returned.append(seam.flush())
    assert rows(Boxes.concat(returned)) == rows(boxes[nms(boxes, 0.3)])


@many
def test_the_seam_is_exact_for_many_boxes_in_strips_that_are_merged_in_any_order(n):
    draw = np.random.default_rng(3)
    centre, size = draw.uniform(0, 10 * np.sqrt(n), (n, 2)), draw.uniform(4, 30, (n, 2))
    xyxy = np.hstack([centre - size / 2, centre + size / 2])
    boxes = Boxes(xyxy, draw.integers(0, 2, n), draw.random(n).round(3), draw.uniform(-HALF, HALF, n))
    y1, y2 = boxes.bounds[:, 1], boxes.bounds[:, 3]
    tops = [-np.inf, *(np.sqrt(n) * np.array([1.3, 2.5, 5, 7])), np.inf]
    seams, returned = [], []
    for top, end in itertools.pairwise(tops):
        above, here = y1 < top, draw.permutation(np.flatnonzero((y1 >= top) & (y1 < end)))
        seam = Seam(0.3, y2[above].max(initial=-np.inf))
        first, second = np.array_split(here, 2)
        returned += [seam.feed(boxes[first]), seam.feed(boxes[second], end)]
        seams.append(seam)
    while len(seams) > 1:
        k = draw.integers(len(seams) - 1)
        seams[k] = seams[k].merge(seams.pop(k + 1))
    returned.append(seams[0].flush())
    assert rows(Boxes.concat(returned)) == rows(boxes[nms(boxes, 0.3)])


@settings(max_examples=30)
@given(oriented(max_size=6))
def test_what_is_found_turns_with_the_window(boxes):
    side = 128

    def view(pixels):
        """The boxes of a window, told by where its pixels came from."""
        place = pixels[0, 0].astype(int)
        # The corner pixel of the view and the next along each side say which of the symmetries it is.
        (y0, x0), (y1, x1), (y2, x2) = (divmod(int(place[at]), side) for at in ((0, 0), (0, 1), (1, 0)))
        x_axis, y_axis = np.array([x1 - x0, y1 - y0]), np.array([x2 - x0, y2 - y0])
        origin = np.array([x0, y0]) + 0.5 - 0.5 * x_axis - 0.5 * y_axis
        corners = boxes.corners - origin
        seen = np.stack([(corners * x_axis).sum(axis=2), (corners * y_axis).sum(axis=2)], axis=2)
        along = seen[:, 1] - seen[:, 0]
        half, centre = boxes.sizes / 2, seen.mean(axis=1)
        angle = np.where(boxes.sizes[:, 0] > 0, np.arctan2(along[:, 1], along[:, 0]), boxes.angles)
        return Boxes(np.hstack([centre - half, centre + half]), boxes.labels, boxes.scores, angle)

    pixels = np.arange(side * side, dtype=np.int32).reshape(1, 1, side, side)
    big = boxes[(boxes.sizes > 1).all(axis=1)]
    (found,) = in_all_symmetries(lambda views: [view(views)], pixels, 0.5)
    found = found[(found.sizes > 1).all(axis=1)]
    kept = big[nms(big, 0.5)]
    assert len(found) == len(kept)
    # All eight views agree, so that each box is suppressed by itself, however rounding orders equal ones.
    assert (iou(found, kept).max(axis=0, initial=0) > 1 - 1e-6).all()


@given(st.floats(2, 60), st.floats(1, 20), angles)
def test_the_smallest_rectangle_round_a_rectangle_is_itself(length, width, angle):
    box = Boxes([[50 - length / 2, 50 - width / 2, 50 + length / 2, 50 + width / 2]], [3], angles=[angle])
    around = oriented_envelope(polygons(box), [3])
    np.testing.assert_allclose(iou_of_pairs(around, box), 1, atol=1e-6)
    assert around.labels.tolist() == [3]


def test_objects_that_windows_cut_come_out_once_and_whole():
    """Turned rectangles, some longer than the overlap, seen through windows that cut them."""
    plan = Tiling((400, 400), 128, 48)
    truth = Boxes(
        [[50, 90, 80, 100], [20, 200, 260, 216], [300, 300, 330, 320], [200, 40, 380, 60]],
        [0, 1, 2, 3],
        [0.9, 0.8, 0.7, 0.6],
        [0.6, 0.4, -1.2, -0.05],
    )

    def seen(window):
        """The smallest rectangle round the part of each object that the window shows."""
        frame = shapely.box(*window.xyxy)
        parts = shapely.intersection(polygons(truth), frame)
        shown = shapely.area(parts) > 8
        around = oriented_envelope(parts[shown], truth.labels[shown])
        return Boxes(around.xyxy, around.labels, truth.scores[shown], around.angles)

    whole, parts = zip(*(split_window(seen(window), window, plan, 0.5) for window in plan), strict=True)
    whole = Boxes.concat(whole)
    whole = whole[nms(whole, 0.5)]
    every = Boxes.concat([whole, join(Parts.concat(parts), [whole], 0.5)])
    assert sorted(every.labels.tolist()) == [0, 1, 2, 3]
    found = every[np.argsort(every.labels)]
    assert (iou_of_pairs(found, truth) > 0.9).all(), iou_of_pairs(found, truth)
    assert (np.abs(np.rad2deg(found.angles - truth.angles)) < 3).all()


def test_areas_are_those_of_the_rectangles():
    boxes = Boxes([[0, 0, 8, 4]], [0], angles=[1.0])
    np.testing.assert_allclose(shapely.area(polygons(boxes)), area(boxes.xyxy))


def test_boxes_are_inside_with_an_area_and_their_centre_on_the_rectangle():
    # Centres (0, 0) on a corner, (-0.5, 0) beside it, (20, 30) on the other corner; then no area, and no number.
    rows = [[-10, -2, 10, 2], [-11, -2, 10, 2], [18, 29, 22, 31], [4, 4, 4, 9], [1, 1, np.nan, 9]]
    for angles in (None, np.full(5, 0.3)):
        boxes = Boxes(rows, np.zeros(5), angles=angles)
        assert boxes.are_inside(0, 0, 20, 30).tolist() == [True, False, True, False, False]
    assert Boxes.empty(oriented=True).are_inside(0, 0, 9, 9).shape == (0,)

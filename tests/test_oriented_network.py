"""The network, its coding and its loss for oriented boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodetect.anchors import AnchorSpec
from geodetect.boxes import Boxes, iou_of_pairs, nms
from geodetect.metadata import Architecture
from geodetect.network.anchors import level_sizes, make_anchors
from geodetect.network.coding import select_candidates, suppress
from geodetect.network.losses import Loss
from geodetect.network.matching import match_anchors
from geodetect.network.oriented import decode, encode, hulls, probiou_loss
from geodetect.network.retinanet import Network

SHAPE = (128, 160)
SPEC = AnchorSpec()
ANCHORS = make_anchors(SPEC, SHAPE)
SIZES = level_sizes(SPEC, SHAPE)
DEGREE = math.pi / 180


def rows(boxes: Boxes) -> torch.Tensor:
    """Boxes as the network takes them, (N, 5)."""
    return torch.from_numpy(np.column_stack([boxes.xyxy, boxes.angles])).float()


def boxes_of(values: torch.Tensor, labels=None) -> Boxes:
    """Rows (N, 5) as boxes."""
    values = values.detach().double().numpy()
    return Boxes(values[:, :4], np.zeros(len(values)) if labels is None else labels, angles=values[:, 4])


def rectangle(x, y, longer, shorter, degrees) -> list[float]:
    return [x - longer / 2, y - shorter / 2, x + longer / 2, y + shorter / 2, degrees * DEGREE]


@st.composite
def oriented(draw, count=4):
    number = st.floats(0, 1000, width=32)
    side, angle = st.floats(2, 800, width=32), st.floats(-1.5625, 1.5625, width=32)
    drawn = draw(st.lists(st.tuples(number, number, side, side, angle), min_size=count, max_size=count))
    return torch.tensor(
        [[x - max(s) / 2, y - min(s) / 2, x + max(s) / 2, y + min(s) / 2, a] for x, y, *s, a in drawn],
        dtype=torch.float32,
    )


@st.composite
def anchors(draw, count=4):
    side, corner = st.floats(22, 800, width=32), st.floats(0, 1000, width=32)
    drawn = draw(st.lists(st.tuples(corner, corner, side, side), min_size=count, max_size=count))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in drawn], dtype=torch.float32)


@given(anchors(), oriented())
def test_decode_undoes_encode(anchor, box):
    found = decode(anchor, encode(anchor, box))
    ours, theirs = (shapely.polygons(boxes_of(each).corners) for each in (found, box))  # squares have two forms
    assert shapely.hausdorff_distance(ours, theirs).max() < 0.05  # px; float32


@given(anchors(), st.lists(st.tuples(*[st.floats(-6, 6)] * 6), min_size=4, max_size=4))
def test_whatever_the_network_says_is_a_box_in_canonical_form(anchor, deltas):
    found = decode(anchor, torch.tensor(deltas, dtype=torch.float32)).double()
    sides = found[:, 2:4] - found[:, :2]
    assert (sides[:, 0] >= sides[:, 1] - 0.1).all()  # of up to 50,000 px in float32
    assert (found[:, 4] >= np.float32(-math.pi / 2)).all()
    assert (found[:, 4] < math.pi / 2).all()


def test_numbers_by_hand():
    # anchor 40 x 20 round (20, 10); box 80 x 10 round (30, 15), turned by 45 degrees:
    # dx = 10 / 40, dy = 5 / 20, dl = log(80 / 40), ds = log(10 / 20), cos 90 = 0, sin 90 = 1
    wide = torch.tensor([[0.0, 0, 40, 20]])
    box = torch.tensor([rectangle(30, 15, 80, 10, 45)])
    expected = torch.tensor([[0.25, 0.25, math.log(2), -math.log(2), 0, 1]])
    torch.testing.assert_close(encode(wide, box), expected)
    # anchor 20 x 40 round (10, 20): the longer side of the anchor is its height
    expected = torch.tensor([[1.0, -0.125, math.log(2), -math.log(2), 0, 1]])
    torch.testing.assert_close(encode(torch.tensor([[0.0, 0, 20, 40]]), box), expected)


def test_a_longer_second_side_is_the_box_turned_by_a_right_angle():
    anchor = torch.tensor([[0.0, 0, 40, 40]])
    deltas = torch.tensor([[0, 0, math.log(0.25), math.log(2.0), math.cos(0.5), math.sin(0.5)]])
    found = decode(anchor, deltas)
    torch.testing.assert_close(found, torch.tensor([[-20.0, 15, 60, 25, 0.25 - math.pi / 2]]))


@given(oriented())
def test_hulls_are_the_bounds(box):
    np.testing.assert_allclose(hulls(box.double()).numpy(), boxes_of(box).bounds, atol=1e-6)


def test_the_head_gives_six_numbers_and_the_upright_one_stays_as_it_is():
    for is_oriented, n in ((False, 4), (True, 6)):
        torch.manual_seed(0)
        architecture = Architecture("resnet18", width=32, depth=1, oriented=is_oriented)
        network = Network(architecture, n_classes=2, weights=None).eval()
        with torch.inference_mode():
            logits, deltas = network(torch.zeros(2, 3, *SHAPE))
        assert logits.shape == (2, len(ANCHORS), 2)
        assert deltas.shape == (2, len(ANCHORS), n)


def test_anchors_are_matched_by_the_hull_and_boxes_without_area_are_padding():
    box = torch.tensor([[rectangle(64, 64, 40, 12, 40), rectangle(30, 30, 40, 0, 40), rectangle(90, 90, 9, 9, 0)]])
    labels = torch.tensor([[0, 0, -1]])
    upright = torch.cat([hulls(box), torch.zeros(1, 3, 0)], dim=2)
    got, due = match_anchors(ANCHORS, box, labels), match_anchors(ANCHORS, upright[:, :1], labels[:, :1])
    assert torch.equal(got, due)
    assert (got >= 0).any()


def certain(boxes: Boxes, n_classes: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """What a perfect network says of one image: the anchors of each box have its class and its deltas."""
    truth = rows(boxes)[None]
    target = match_anchors(ANCHORS, truth, torch.from_numpy(boxes.labels)[None])[0]
    positive = (target >= 0).nonzero().squeeze(1)
    logits, deltas = torch.full((1, len(ANCHORS), n_classes), -9.0), torch.zeros(1, len(ANCHORS), 6)
    logits[0, positive, torch.from_numpy(boxes.labels)[target[positive]]] = 9
    deltas[0, positive] = encode(ANCHORS[positive], truth[0, target[positive]])
    return logits, deltas


THREE = Boxes(
    np.array([rectangle(50, 60, 40, 14, 0), rectangle(100, 64, 50, 20, 0), rectangle(53, 90, 30, 24, 0)])[:, :4],
    [0, 1, 0],
    angles=np.array([35, -80, 10]) * DEGREE,
)


def find(logits, deltas, nms_iou=0.5):
    return suppress(select_candidates(logits, deltas, ANCHORS, SHAPE, level_sizes=SIZES), nms_iou)


def test_a_perfect_network_finds_the_boxes_and_has_no_box_loss():
    logits, deltas = certain(THREE)
    (found,) = find(logits, deltas)
    assert found.oriented
    assert len(found) == 3
    order = np.lexsort((found.xyxy[:, 0], found.labels))
    due = THREE[np.lexsort((THREE.xyxy[:, 0], THREE.labels))]
    np.testing.assert_allclose(found[order].corners, due.corners, atol=1e-3)
    for giou, most in ((False, 1e-5), (True, 5e-3)):
        loss = Loss(giou=giou)
        _, box = loss(logits, deltas, ANCHORS, rows(THREE)[None], torch.from_numpy(THREE.labels)[None])
        assert box < most


def test_neighbours_whose_hulls_overlap_are_both_kept():
    """Two cars in a row of parking bays at 45 degrees, 12 px apart: upright boxes would suppress each other."""
    step = 12 * math.sqrt(0.5)
    pair = Boxes(
        np.array([rectangle(60, 60, 40, 10, 0), rectangle(60 - step, 60 + step, 40, 10, 0)])[:, :4],
        [0, 0],
        angles=np.full(2, 45 * DEGREE),
    )
    assert len(nms(Boxes(pair.bounds, pair.labels, np.ones(2)), 0.3)) == 1
    logits, deltas = certain(pair)
    assert len(find(logits, deltas, 0.3)[0]) == 2


def test_suppression_is_that_of_all_boxes_image_by_image():
    generator = np.random.default_rng(1)
    n = 400
    found = np.zeros((3, n, 7), np.float32)
    centres, sides = generator.uniform(0, 128, (3, n, 2)), np.sort(generator.uniform(4, 40, (3, n, 2)))[..., ::-1]
    found[..., :2], found[..., 2:4] = centres - sides / 2, centres + sides / 2
    found[..., 4], found[..., 5] = generator.uniform(-1.57, 1.57, (3, n)), generator.uniform(-0.2, 1, (3, n))
    found[..., 6] = generator.integers(0, 3, (3, n))
    got = suppress(torch.from_numpy(found), 0.4)
    for image, boxes in zip(found.astype(float), got, strict=True):
        image = image[image[:, 5] >= 0]
        every = Boxes(image[:, :4], image[:, 6], image[:, 5], image[:, 4])
        due = every[nms(every, 0.4)]
        assert 0 < len(due) < len(every)
        np.testing.assert_allclose(boxes.corners, due.corners)
        assert (boxes.labels == due.labels).all()


def test_boxes_count_by_their_centre_and_keep_their_shape():
    anchor = int(((ANCHORS[:, 0] + ANCHORS[:, 2] == 0) & (ANCHORS[:, 1] + ANCHORS[:, 3] == 0)).nonzero()[0])
    logits, deltas = torch.full((1, len(ANCHORS), 1), -9.0), torch.zeros(1, len(ANCHORS), 6)
    logits[0, anchor] = 9
    for x, n in ((1.0, 1), (-1.0, 0)):
        box = torch.tensor([rectangle(x, 1, 30, 20, 20)])
        deltas[0, anchor] = encode(ANCHORS[[anchor]], box)[0]
        (found,) = find(logits, deltas)
        assert len(found) == n
        if n:
            np.testing.assert_allclose(found.sizes, [[30, 20]], atol=1e-3)  # though half of it lies outside


def test_nothing_found_is_empty_and_oriented():
    (found,) = find(torch.full((1, len(ANCHORS), 2), -9.0), torch.full((1, len(ANCHORS), 6), math.nan))
    assert len(found) == 0
    assert found.oriented


@pytest.mark.parametrize("giou", [False, True])
def test_nothing_punishes_the_angle_of_a_square(giou):
    square = torch.tensor([[rectangle(64, 64, 30, 30, 0)]])
    labels, losses = torch.zeros(1, 1, dtype=torch.int64), []
    for degrees in (0, 20, 45, 89):
        turned = torch.tensor([rectangle(64, 64, 30, 30, degrees)])
        logits, deltas = torch.zeros(1, len(ANCHORS), 1), encode(ANCHORS, turned.expand(len(ANCHORS), 5))[None]
        losses.append(float(Loss(giou=giou)(logits, deltas, ANCHORS, square, labels)[1]))
    assert max(losses) == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.parametrize("giou", [False, True])
def test_loss_is_finite_without_objects_and_grows_with_the_angle(giou):
    loss, truth = Loss(giou=giou), torch.tensor([[rectangle(64, 64, 60, 20, 10)]])
    none = loss(*certain(THREE), ANCHORS, torch.zeros(1, 0, 5), torch.zeros(1, 0, dtype=torch.int64))
    assert none[1] == 0
    values = []
    for off in (0, 5, 20, 60):
        logits, deltas = certain(Boxes(truth[0, :, :4], [0], angles=[10 * DEGREE]), 1)
        positive = logits[0, :, 0] > 0
        turned = torch.tensor([rectangle(64, 64, 60, 20, 10 + off)]).expand(int(positive.sum()), 5)
        deltas[0, positive] = encode(ANCHORS[positive], turned)
        deltas.requires_grad_()
        value = loss(logits, deltas, ANCHORS, truth, torch.zeros(1, 1, dtype=torch.int64))[1]
        value.backward()
        assert torch.isfinite(deltas.grad).all()
        values.append(float(value.detach()))
    assert values == sorted(values)
    assert values[-1] > values[0]


def test_angles_just_left_and_right_of_the_seam_are_neighbours():
    anchor = torch.tensor([[0.0, 0, 60, 20]])
    up, down = (torch.tensor([rectangle(30, 10, 60, 20, degrees)]) for degrees in (89.5, -89.5))
    assert (encode(anchor, up) - encode(anchor, down)).abs().max() < 0.05
    assert probiou_loss(anchor, encode(anchor, up), down) < 0.05
    assert iou_of_pairs(boxes_of(up), boxes_of(down)) > 0.9


def test_probiou_is_the_papers_formula():
    """Covariances as matrices, and B = d' S^-1 d / 8 + ln(det S / sqrt(det S1 det S2)) / 2 with S the mean."""
    anchor = torch.tensor([[20.0, 20, 60, 50]])
    a, b = rectangle(40, 40, 50, 20, 30), rectangle(45, 38, 40, 24, -10)

    def covariance(box):
        w, h, (c, s) = box[2] - box[0], box[3] - box[1], (math.cos(box[4]), math.sin(box[4]))
        turn = np.array([[c, -s], [s, c]])
        return turn @ np.diag([w * w, h * h]) @ turn.T / 12

    one, two = covariance(a), covariance(b)
    mean, d = (one + two) / 2, np.array([5.0, -2.0])
    bhattacharyya = d @ np.linalg.inv(mean) @ d / 8
    bhattacharyya += np.log(np.linalg.det(mean) / math.sqrt(np.linalg.det(one) * np.linalg.det(two))) / 2
    got = probiou_loss(anchor, encode(anchor, torch.tensor([a])), torch.tensor([b]))
    assert float(got) == pytest.approx(math.sqrt(1 - math.exp(-bhattacharyya)), abs=1e-5)


@pytest.mark.parametrize("giou", [False, True])
def test_gradient_descent_on_the_loss_turns_boxes_onto_the_true_ones(giou):
    truth, labels = rows(THREE)[None], torch.from_numpy(THREE.labels)[None]
    logits, deltas = certain(THREE)[0], torch.zeros(1, len(ANCHORS), 6, requires_grad=True)
    optimizer = torch.optim.Adam([deltas], lr=0.02)
    for step in range(400):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 400)
        optimizer.zero_grad()
        Loss(giou=giou)(logits, deltas, ANCHORS, truth, labels)[1].backward()
        optimizer.step()
    (found,) = find(logits, deltas.detach())
    polygons = shapely.polygons(THREE.corners)
    for corners in found.corners:
        shared = shapely.area(shapely.intersection(shapely.polygons(corners), polygons))
        assert (shared / shapely.area(shapely.union(shapely.polygons(corners), polygons))).max() > 0.95
    assert len(found) == 3

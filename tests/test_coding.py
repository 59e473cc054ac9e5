import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms

from geodetect.anchors import AnchorSpec
from geodetect.boxes import Boxes, nms
from geodetect.network.anchors import level_sizes, make_anchors
from geodetect.network.coding import decode, encode, select_candidates, suppress

SHAPE = (128, 160)
SPEC = AnchorSpec()
ANCHORS = make_anchors(SPEC, SHAPE)
SIZES = level_sizes(SPEC, SHAPE)


def decode_batch(logits, deltas, min_score=0.05, nms_iou=0.5):
    found = select_candidates(logits, deltas, ANCHORS, SHAPE, level_sizes=SIZES, min_score=min_score)
    return suppress(found, nms_iou)


@st.composite
def boxes(draw, low, high, count):
    side = st.floats(low, high, width=32)
    corner = st.floats(0, 1000, width=32)
    rows = draw(st.lists(st.tuples(corner, corner, side, side), min_size=count, max_size=count))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)


@given(boxes(22, 800, 4), boxes(2, 1000, 4))
def test_decode_undoes_encode(anchor, box):
    assert (decode(anchor, encode(anchor, box)) - box).abs().max() <= 1e-3


@given(boxes(22, 800, 4), boxes(2, 1000, 4))
def test_deltas_are_torchvisions(anchor, box):
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(encode(anchor, box), coder.encode_single(box, anchor), rtol=1e-4, atol=1e-5)


@given(st.lists(st.tuples(*[st.floats(-6, 6)] * 4), min_size=1, max_size=9))
def test_boxes_are_torchvisions_however_wild_the_deltas(rows):
    deltas, anchor = torch.tensor(rows, dtype=torch.float32), ANCHORS[: len(rows)]
    expected = BoxCoder((1.0, 1.0, 1.0, 1.0)).decode_single(deltas, anchor)
    torch.testing.assert_close(decode(anchor, deltas), expected, rtol=1e-4, atol=1e-2)


def test_deltas_by_hand():
    # anchor 40 x 20 round (20, 10); box 80 x 10 round (30, 15):
    # dx = 10 / 40, dy = 5 / 20, dw = log(80 / 40), dh = log(10 / 20)
    got = encode(torch.tensor([[0.0, 0, 40, 20]]), torch.tensor([[-10.0, 10, 70, 20]]))
    torch.testing.assert_close(got, torch.tensor([[0.25, 0.25, math.log(2), -math.log(2)]]))


def certain(truth: list[list[Boxes]], n_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a perfect network says: the anchor nearest to each box has its class and its deltas."""
    logits = torch.full((len(truth), len(ANCHORS), n_classes), -20.0)
    deltas = torch.zeros(len(truth), len(ANCHORS), 4)
    for i, found in enumerate(truth):
        for j, (box, label) in enumerate(zip(torch.tensor(found.xyxy).float(), found.labels, strict=True)):
            anchor = (ANCHORS - box).abs().sum(dim=1).argmin()
            logits[i, anchor, label] = 5.0 - j
            deltas[i, anchor] = encode(ANCHORS[anchor], box)
    return logits, deltas


def test_a_perfect_network_gives_the_boxes_back():
    truth = [
        Boxes(np.array([[10, 10, 50, 40], [80, 20, 120, 100.5]]), np.array([1, 0])),
        Boxes.empty(),
        Boxes(np.array([[0, 0, 160, 128]]), np.array([2])),
    ]
    got = decode_batch(*certain(truth, 3))
    for found, expected in zip(got, truth, strict=True):
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-3)
        assert found.labels.tolist() == expected.labels.tolist()
        assert found.scores is not None
    assert got[0].scores == pytest.approx([1 / (1 + math.exp(-5)), 1 / (1 + math.exp(-4))])


@pytest.mark.parametrize(("side", "most"), [(64, 576), (256, 1000), (512, 4000), (1024, 16_000)])
def test_a_larger_window_has_more_candidates(side, most):
    sizes = level_sizes(SPEC, (side, side))
    anchors = make_anchors(SPEC, (side, side))
    logits, deltas = torch.full((1, len(anchors), 1), 3.0), torch.zeros(1, len(anchors), 4)
    (found,) = select_candidates(logits, deltas, anchors, (side, side), level_sizes=sizes)
    assert found.shape == (sum(min(most, size) for size in sizes), 6)
    assert (found[: min(most, sizes[0]), 4] > 0).all()


def slow(logits, deltas, shape, min_score, nms_iou):
    """The paper's decoding, picture by picture and level by level."""
    pictures = []
    for scores, moves in zip(logits.sigmoid(), deltas, strict=True):
        parts, first = [], 0
        for size in SIZES:
            level = scores[first : first + size].flatten()
            best = level.argsort(descending=True)[:1000]
            best = best[level[best] >= min_score]
            place = first + best // scores.shape[1]
            xyxy = decode(ANCHORS[place], moves[place]).double().numpy()
            parts.append(Boxes(xyxy, (best % scores.shape[1]).numpy(), level[best].numpy()).clip(shape[1], shape[0]))
            first += size
        found = Boxes.concat(parts, scored=True)
        found = found[(found.sizes > 0).all(axis=1)]
        pictures.append(found[nms(found, nms_iou)])
    return pictures


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 0.9]), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_batch_equals_slow_loops(seed, min_score, nms_iou):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, len(ANCHORS), 2, generator=generator)
    deltas = torch.randn(2, len(ANCHORS), 4, generator=generator) / 4
    got = decode_batch(logits, deltas, min_score=min_score, nms_iou=nms_iou)
    for found, expected in zip(got, slow(logits, deltas, SHAPE, min_score, nms_iou), strict=True):
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)  # a sigmoid's last bit hangs on its place
        np.testing.assert_allclose(found.xyxy, expected.xyxy, atol=1e-4)
        np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_best_of_many_classes_are_found(dtype):
    logits = torch.randn(2, len(ANCHORS), 30, generator=torch.Generator().manual_seed(0)).to(dtype).float()
    deltas = torch.zeros(2, len(ANCHORS), 4)
    got = decode_batch(logits.to(dtype), deltas, min_score=0.9, nms_iou=1.0)
    for found, expected in zip(got, slow(logits, deltas, SHAPE, 0.9, 1.0), strict=True):
        np.testing.assert_allclose(np.sort(found.scores), np.sort(expected.scores), rtol=1e-6)


def test_classes_do_not_suppress_each_other_nor_do_pictures():
    logits = torch.full((2, len(ANCHORS), 2), -20.0)
    logits[:, 500] = 3.0
    got = decode_batch(logits, torch.zeros(2, len(ANCHORS), 4), nms_iou=0.0)
    assert [found.labels.tolist() for found in got] == [[0, 1], [0, 1]]


def test_more_than_100_boxes_of_a_chip_are_kept():
    logits = torch.full((1, len(ANCHORS), 1), -20.0)
    apart = torch.arange(0, SIZES[0], 9)[:200]
    logits[0, apart] = 3.0
    deltas = torch.zeros(1, len(ANCHORS), 4)
    deltas[..., 2:] = -2.0  # an eighth of the anchor's sides, so that neighbours do not meet
    got = decode_batch(logits, deltas)
    inside = (ANCHORS[apart, 0] + ANCHORS[apart, 2] >= 0).sum()
    assert len(got[0]) == inside == 200


def test_each_class_has_its_own_floor():
    logits = torch.full((1, len(ANCHORS), 2), -20.0)
    logits[0, 500] = 0.0
    floors = torch.tensor([0.4, 0.6])
    got = decode_batch(logits, torch.zeros(1, len(ANCHORS), 4), min_score=floors)
    assert got[0].labels.tolist() == [0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_no_number_is_no_box(bad):
    logits = torch.full((1, len(ANCHORS), 1), 3.0)
    deltas = torch.full((1, len(ANCHORS), 4), bad)
    assert len(decode_batch(logits, deltas)[0]) == 0
    assert len(decode_batch(logits * math.nan, deltas * 0)[0]) == 0


def test_no_pictures_give_no_lists():
    logits, deltas = torch.zeros(0, len(ANCHORS), 1), torch.zeros(0, len(ANCHORS), 4)
    assert decode_batch(logits, deltas) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 300), st.sampled_from([1, 3, 40]), st.floats(0, 1))
def test_pictures_are_the_same_together_and_each_class_alone(seed, n_pictures, n_rows, n_classes, nms_iou):
    rng = np.random.default_rng(seed)
    corner, size = rng.integers(0, 60, (2, n_pictures, n_rows, 2)) / 2
    values = rng.integers(-3, 9, (n_pictures, n_rows)) / 8, rng.integers(0, n_classes, (n_pictures, n_rows))
    found = torch.from_numpy(np.concatenate([corner, corner + size + 1, np.stack(values, axis=-1)], axis=-1)).float()
    for rows, boxes in zip(found, suppress(found, nms_iou), strict=True):
        rows = rows[rows[:, 4] >= 0].double()
        kept = rows[batched_nms(rows[:, :4], rows[:, 4], rows[:, 5].long(), nms_iou)].numpy()
        expected = Boxes(kept[:, :4], kept[:, 5], kept[:, 4])
        expected = expected[expected.rank()]
        assert np.array_equal(boxes.xyxy, expected.xyxy)
        assert np.array_equal(boxes.labels, expected.labels)
        assert np.array_equal(boxes.scores, expected.scores)

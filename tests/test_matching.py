import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from geodetect.anchors import AnchorSpec
from geodetect.network.anchors import make_anchors
from geodetect.network.matching import BACKGROUND, IGNORED, match_anchors

SIDE = 256
ANCHORS = make_anchors(AnchorSpec(), (SIDE, SIDE))


def slow(anchors: torch.Tensor, boxes: torch.Tensor) -> list[int]:
    """Matching of one picture by loops; competitors are settled pair by pair, most overlap first."""
    iou = box_iou(boxes, anchors)
    best, owner = iou.max(dim=0)
    target = [int(o) if b >= 0.5 else BACKGROUND if b < 0.4 else IGNORED for b, o in zip(best, owner, strict=True)]
    kept, losers = set(), []
    for i, row in enumerate(iou):
        mine = [int(a) for a in (row == row.max()).nonzero() if row.max() > 0 and owner[a] == i]
        kept |= set(mine)
        target = [i if a in mine else t for a, t in enumerate(target)]
        if not mine and row.max() > 0:
            losers.append(i)
    pairs = [(-float(iou[i, a]), i, int(a)) for i in losers for a in iou[i].nonzero() if int(a) not in kept]
    for _, i, a in sorted(pairs):
        if i in losers and a not in kept:
            target[a] = i
            kept.add(a)
            losers.remove(i)
    return target


@st.composite
def sparse_boxes(draw):
    """Boxes one in each cell of a coarse grid, none of which overlaps another or shares its best anchor."""
    cells = draw(st.lists(st.sampled_from([(i, j) for i in range(2) for j in range(2)]), min_size=1, unique=True))
    inside = st.floats(20, 100, width=32)
    rows = []
    for i, j in cells:
        x1, x2 = sorted(draw(st.tuples(inside, inside).filter(lambda p: abs(p[0] - p[1]) > 24)))
        y1, y2 = sorted(draw(st.tuples(inside, inside).filter(lambda p: abs(p[0] - p[1]) > 24)))
        rows.append([x1 + 128 * i, y1 + 128 * j, x2 + 128 * i, y2 + 128 * j])
    return torch.tensor(rows)


@st.composite
def crowds(draw):
    """Boxes that compete: many, small, at whole pixels in a small corner, often the same."""
    spot, side = st.integers(0, 24), st.integers(1, 12)
    rows = draw(st.lists(st.tuples(spot, spot, side, side), min_size=1, max_size=8))
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)


def labels(boxes: torch.Tensor) -> torch.Tensor:
    return torch.zeros(boxes.shape[:-1], dtype=torch.long)


@settings(deadline=None)
@given(sparse_boxes())
def test_sparse_boxes_match_as_in_torchvision(boxes):
    expected = Matcher(0.5, 0.4, allow_low_quality_matches=True)(box_iou(boxes, ANCHORS))
    assert torch.equal(match_anchors(ANCHORS, boxes[None], labels(boxes)[None])[0], expected)


SMALL = make_anchors(AnchorSpec(), (32, 32))


@settings(deadline=None)
@given(crowds())
def test_crowds_match_as_slow_loops_do(boxes):
    assert match_anchors(SMALL, boxes[None], labels(boxes)[None])[0].tolist() == slow(SMALL, boxes)


@settings(deadline=None)
@given(crowds())
def test_every_box_has_an_anchor_even_in_a_crowd(boxes):
    target = match_anchors(SMALL, boxes[None], labels(boxes)[None])[0]
    assert set(range(len(boxes))) <= set(target.tolist())


@settings(deadline=None)
@given(st.lists(crowds(), min_size=1, max_size=4), st.integers(0, 3))
def test_a_batch_is_its_pictures_and_padding_changes_nothing(pictures, n_padding):
    n_boxes = max(map(len, pictures)) + n_padding
    boxes = torch.full((len(pictures), n_boxes, 4), 7.0)
    padded = torch.full((len(pictures), n_boxes), -1)
    boxes[..., 2:] = 20  # padding that would overlap, were it not for its label
    for i, picture in enumerate(pictures):
        boxes[i, : len(picture)], padded[i, : len(picture)] = picture, 0
    singly = [match_anchors(SMALL, picture[None], labels(picture)[None])[0] for picture in pictures]
    assert torch.equal(match_anchors(SMALL, boxes, padded), torch.stack(singly))


def test_thresholds_by_hand():
    # anchors 10 x 10; box 10 x 10 moved right by d: IoU (10 - d) / (10 + d): d = 3: 0.54, 4: 0.43, 5: 0.33
    tens = torch.tensor([[d, 0.0, d + 10, 10] for d in (0.0, 3, 4, 5)])
    box = torch.tensor([[[0.0, 0, 10, 10]]])
    assert match_anchors(tens, box, labels(box))[0].tolist() == [0, 0, IGNORED, BACKGROUND]


def test_competitors_by_hand():
    # Both boxes lie inside both anchors, so IoU is their area over the anchor's: 4 or 16 over 100 or 200. Both prefer
    # the small anchor; the larger box overlaps it more (0.16 against 0.04) and the smaller gets the other.
    two = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10]])
    boxes = torch.tensor([[[1.0, 1, 3, 3], [4, 4, 8, 8]]])
    assert match_anchors(two, boxes, labels(boxes))[0].tolist() == [1, 0]
    assert match_anchors(two, boxes.flip(1), labels(boxes))[0].tolist() == [0, 1]


def test_more_competitors_than_anchors_leave_some_without():
    two = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10]])
    boxes = torch.tensor([[1.0, 1, 3, 3]]).repeat(5, 1)[None]
    assert sorted(match_anchors(two, boxes, labels(boxes))[0].tolist()) == [0, 1]


def test_a_box_far_from_every_anchor_gets_none():
    box = torch.tensor([[[5000.0, 5000, 5010, 5010]]])
    assert (match_anchors(ANCHORS, box, labels(box)) == BACKGROUND).all()


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 20], [5, 5, 20, 5], [20, 20, 5, 5], [float("nan")] * 4, [0, 0, float("inf"), 9], [0, 0, 0, 0]]
)
def test_boxes_without_area_are_padding(box):
    boxes = torch.tensor([[box, [10, 10, 40, 40]]], dtype=torch.float32)
    target = match_anchors(ANCHORS, boxes, labels(boxes))
    assert torch.equal(target, match_anchors(ANCHORS, boxes, torch.tensor([[-1, 0]])))
    assert set(target.unique().tolist()) == {BACKGROUND, IGNORED, 1}


@pytest.mark.parametrize("n_boxes", [0, 3])
def test_no_boxes_leave_background(n_boxes):
    target = match_anchors(ANCHORS, torch.zeros(2, n_boxes, 4), torch.full((2, n_boxes), -1))
    assert target.shape == (2, len(ANCHORS))
    assert (target == BACKGROUND).all()

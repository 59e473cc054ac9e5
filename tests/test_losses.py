import math

import pytest
import torch
from torch.nn.functional import smooth_l1_loss
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from geodetect.anchors import AnchorSpec
from geodetect.network.anchors import make_anchors
from geodetect.network.coding import encode
from geodetect.network.losses import Loss, _giou_loss
from geodetect.network.matching import IGNORED, match_anchors

ANCHORS = make_anchors(AnchorSpec(), (64, 96))
BOXES = torch.tensor([[[4.0, 4, 40, 30], [50, 10, 90, 60]], [[8, 8, 60, 60], [0, 0, 0, 0]], [[0, 0, 0, 0]] * 2])
LABELS = torch.tensor([[2, 0], [1, -1], [-1, -1]])


def said(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = len(BOXES), len(ANCHORS)
    logits = torch.randn(*shape, 3, generator=generator).requires_grad_()
    return logits, torch.randn(*shape, 4, generator=generator).requires_grad_()


def slow(logits, deltas, alpha, gamma):
    """The two losses, anchor by anchor."""
    target, focal, box, n_positive = match_anchors(ANCHORS, BOXES, LABELS), 0.0, 0.0, 0
    for i, j in (target != IGNORED).nonzero().tolist():
        truth, goal = int(target[i, j]), torch.zeros(3)
        if truth >= 0:
            n_positive += 1
            goal[LABELS[i, truth]] = 1
            move = encode(ANCHORS[j], BOXES[i, truth])
            box += smooth_l1_loss(deltas[i, j], move, beta=1.0, reduction="sum")
        focal += sigmoid_focal_loss(logits[i, j], goal, alpha, gamma, reduction="sum")
    return focal / n_positive, box / n_positive


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0)])
def test_losses_are_the_sums_over_anchors(alpha, gamma):
    logits, deltas = (x.detach() for x in said())
    focal, box = Loss(3.0, alpha, gamma)(logits, deltas, ANCHORS, BOXES, LABELS)
    expected = slow(logits, deltas, alpha, gamma)
    torch.testing.assert_close(focal, expected[0], rtol=1e-4, atol=0)
    torch.testing.assert_close(box, 3 * expected[1], rtol=1e-4, atol=0)


def test_focal_loss_by_hand():
    # One anchor 10 x 10 on its box, one far away, both at p = 1/2: positives weigh alpha, negatives 1 - alpha.
    # (0.25 + 0.75) * (1 - 1/2)^2 * -log(1/2) = 0.25 * log 2; one positive anchor
    two = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    logits, deltas = torch.zeros(1, 2, 1), torch.zeros(1, 2, 4)
    focal, box = Loss()(logits, deltas, two, two[None, :1], torch.zeros(1, 1, dtype=torch.long))
    assert focal.item() == pytest.approx(0.25 * math.log(2))
    assert box.item() == 0
    surer, _ = Loss()(torch.tensor([[[2.0], [0.0]]]), deltas, two, two[None, :1], torch.zeros(1, 1, dtype=torch.long))
    p = 1 / (1 + math.exp(-2))
    assert surer.item() == pytest.approx(0.25 * (1 - p) ** 2 * -math.log(p) + 0.75 * 0.25 * math.log(2))


def test_box_loss_by_hand():
    # dx is 1 too far: smooth L1 with beta 1 is 1/2 there; dw is 3 too far: 3 - 1/2
    one = torch.tensor([[0.0, 0, 10, 10]])
    deltas = torch.tensor([[[1.0, 0, 3, 0]]])
    _, box = Loss()(torch.zeros(1, 1, 1), deltas, one, one[None], torch.zeros(1, 1, dtype=torch.long))
    assert box.item() == pytest.approx(0.5 + 2.5)


@pytest.mark.parametrize("n_boxes", [0, 2])
def test_chips_without_boxes_teach_only_the_classes(n_boxes):
    logits, deltas = said()
    focal, box = Loss()(logits, deltas, ANCHORS, torch.zeros(3, n_boxes, 4), torch.full((3, n_boxes), -1))
    (focal + box).backward()
    assert focal.isfinite()
    assert focal > 0
    assert box == 0
    assert (logits.grad != 0).any()
    assert (deltas.grad == 0).all()


def test_ignored_anchors_teach_nothing():
    logits, deltas = said()
    sum(Loss()(logits, deltas, ANCHORS, BOXES, LABELS)).backward()
    target = match_anchors(ANCHORS, BOXES, LABELS)
    assert (target == IGNORED).any()
    assert (logits.grad[target == IGNORED] == 0).all()
    assert (logits.grad[target != IGNORED] != 0).all()
    assert (deltas.grad[target < 0] == 0).all()


def test_losses_of_bf16_are_float32():
    logits, deltas = (x.detach() for x in said())
    expected = Loss()(logits.bfloat16().float(), deltas.bfloat16().float(), ANCHORS, BOXES, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        got = Loss()(logits.bfloat16(), deltas.bfloat16(), ANCHORS, BOXES, LABELS)
    assert [x.dtype for x in got] == [torch.float32] * 2
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)


def test_generalised_iou_by_hand():
    # The anchor 10 x 10 stays where it is, its box is the right half of it and as much beyond: they share 50 of 150, in
    # a rectangle of 150, so the generalised IoU is 1/3 and the loss 2/3.
    anchor, box = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([[[5.0, 0, 15, 10]]])
    logits, deltas, label = torch.zeros(1, 1, 1), torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long)
    _, off = Loss(3.0, giou=True)(logits, deltas, anchor, box, label)
    assert off.item() == pytest.approx(2)
    _, gone = Loss(giou=True)(logits, encode(anchor, box[0])[None], anchor, box, label)
    assert gone.item() == pytest.approx(0, abs=1e-6)


def test_generalised_iou_of_empty_chips_has_a_gradient():
    logits, deltas = said()
    sum(Loss(giou=True)(logits, deltas, ANCHORS, BOXES, torch.full_like(LABELS, -1))).backward()
    assert logits.grad.isfinite().all()
    assert (deltas.grad == 0).all()


def test_giou_is_that_of_torchvision():
    low, size = 50 * torch.rand(2, 2, 1000, 2, generator=torch.Generator().manual_seed(1))
    boxes, true = torch.cat([low, low + size], dim=2)
    boxes[0], boxes[1, 2:] = true[0], boxes[1, :2]  # the same, and one without an area
    boxes.requires_grad_()
    both = _giou_loss(boxes, true), generalized_box_iou_loss(boxes, true)
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), boxes)[0] for loss in both))

"""The same answers as torchvision's `retinanet_resnet50_fpn` gives with the same weights.

At sides that are multiples of 128: elsewhere torchvision spaces the anchors of coarse levels by rounded strides.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

from geodetect.anchors import AnchorSpec
from geodetect.boxes import iou
from geodetect.network.anchors import make_anchors
from geodetect.network.losses import Loss
from geodetect.network.matching import match_anchors
from geodetect.network.pretrained import fill
from geodetect.network.retinanet import Network
from geodetect.normalization import IMAGENET
from tests.fakes import make_detector

N_CLASSES, SHAPE = 3, (128, 256)


@pytest.fixture(scope="module")
def theirs() -> RetinaNet:
    """Torchvision's detector as it comes, but for its cap on boxes, with weights that have something to say."""
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=N_CLASSES,
        min_size=SHAPE[0],
        max_size=SHAPE[1],
        detections_per_img=10**6,
    )
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.backbone(torch.randn(2, 3, *SHAPE))  # in training mode, so that means and variances are of something
        for norm in norms:
            nn.init.normal_(norm.bias, std=0.2)
        model.eval()
        said = model.head(list(model.backbone(torch.randn(2, 3, *SHAPE)).values()))
        # Scores of 1 to the last digit are ties, which rounding would decide; so logits end at 3 above the bias.
        prior = model.head.classification_head.cls_logits.bias[0]
        model.head.classification_head.cls_logits.weight *= 3 / (said["cls_logits"] - prior).abs().max()
        model.head.classification_head.cls_logits.bias.fill_(-2.0)
        model.head.regression_head.bbox_reg.weight *= 1.5 / said["bbox_regression"].abs().max()
    return model


@pytest.fixture(scope="module")
def ours(theirs: RetinaNet) -> Network:
    network = Network("resnet50", n_classes=N_CLASSES, weights=None).eval()
    assert fill(network, theirs.state_dict(), "theirs") == []
    return network


@pytest.mark.parametrize("shape", [SHAPE, (256, 128)])
def test_logits_and_deltas(theirs: RetinaNet, ours: Network, shape: tuple[int, int]) -> None:
    pictures = torch.randn(2, 3, *shape)
    with torch.inference_mode():
        expected = theirs.head(list(theirs.backbone(pictures).values()))
        logits, deltas = ours(pictures)
    assert expected["cls_logits"].std() > 0.1
    torch.testing.assert_close(logits, expected["cls_logits"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(deltas, expected["bbox_regression"], rtol=1e-5, atol=1e-5)


def test_boxes_and_scores(theirs: RetinaNet, ours: Network) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, *SHAPE)).astype(np.uint8)
    names = ["one", "two", "three"]
    detector = make_detector(
        ours, names, bands=(1, 2, 3), normalization=IMAGENET, chip_size=128, overlap=0, precision="float32"
    )
    with torch.inference_mode():
        expected = theirs(list(torch.from_numpy(pixels) / 255))
    for found, said in zip(detector.detect(pixels), expected, strict=True):
        corners, labels, scores = (said[name].double().numpy() for name in ("boxes", "labels", "scores"))
        # What lies outside torchvision keeps, as a box of no area; slivers at the edge are mostly rounding.
        solid = (corners[:, 2:] - corners[:, :2] > 1).all(axis=1)
        corners, labels, scores = corners[solid], labels[solid], scores[solid]
        found = found[(found.sizes > 1).all(axis=1)]
        assert min(len(found), len(corners)) > 200  # the paper stops at 100
        overlap = np.where(labels[:, None] == found.labels, iou(corners, found.xyxy), -1)
        same = overlap > 0.99
        # Of so many a few hang on an overlap or a score within rounding of a threshold, and fall on either side.
        assert same.any(axis=1).mean() > 0.995
        assert same.any(axis=0).mean() > 0.995
        both = same.any(axis=1)
        np.testing.assert_allclose(found.scores[overlap.argmax(axis=1)[both]], scores[both], atol=1e-4)


def test_losses_of_a_picture(theirs: RetinaNet) -> None:
    theirs.head.regression_head._loss_type = "smooth_l1"  # as in the paper's source; torchvision's default is L1
    chip = make_anchors(AnchorSpec(), SHAPE)
    boxes, labels = torch.tensor([[4.0, 4, 44, 30], [90, 10, 240, 120], [60, 70, 75, 90]]), torch.tensor([2, 0, 1])
    logits, deltas = torch.randn(1, len(chip), N_CLASSES), torch.randn(1, len(chip), 4)
    expected = theirs.compute_loss(
        [{"boxes": boxes, "labels": labels}], {"cls_logits": logits, "bbox_regression": deltas}, [chip]
    )
    focal, box = Loss()(logits, deltas, chip, boxes[None], labels[None])
    torch.testing.assert_close(focal, expected["classification"], rtol=1e-5, atol=0)
    torch.testing.assert_close(box, expected["bbox_regression"], rtol=1e-5, atol=0)


SMALL = make_anchors(AnchorSpec(), (64, 64))
SPOT, SIDE = st.integers(0, 48), st.integers(2, 40)


@given(st.lists(st.tuples(SPOT, SPOT, SIDE, SIDE), min_size=1, max_size=8))
def test_matching_differs_only_where_labels_compete(rows: list[tuple[int, int, int, int]]) -> None:
    boxes = torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32)
    overlap = box_iou(boxes, SMALL)
    expected = Matcher(0.5, 0.4, allow_low_quality_matches=True)(overlap)
    found = match_anchors(SMALL, boxes[None], torch.zeros(1, len(boxes), dtype=torch.long))[0]
    best = overlap == overlap.amax(dim=1, keepdim=True)
    owned = best & (overlap.argmax(dim=0) == torch.arange(len(boxes))[:, None])
    contested = (best & ~owned).any(dim=0)  # the best of one box, but another overlaps it more
    without_any = (~owned.any(dim=1)).nonzero()[:, 0]
    uncontested = ~contested & ~torch.isin(found, without_any)
    assert torch.equal(found[uncontested], expected[uncontested])

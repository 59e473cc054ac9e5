"""Which objects anchors reach, against all anchors of the network; and anchors fitted to objects."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import box_iou

from geodetect.anchors import AnchorSpec
from geodetect.chips.anchor_fit import best_iou, suggest_anchors
from geodetect.network.anchors import make_anchors
from tests import strategies


@given(
    strategies.boxes(scored=False),
    st.sampled_from([(64, 64), (33, 100), (130, 17)]),
    st.sampled_from([(3, 7), (2, 7)]),
    st.sampled_from([4.0, 1.5]),
)
def test_the_best_overlap_is_that_of_all_anchors(boxes, shape, levels, anchor_size):
    spec = AnchorSpec(scales=(1.0, 1.3), ratios=(0.5, 1.0, 3.0), anchor_size=anchor_size, levels=levels)
    real = boxes.xyxy[(boxes.sizes > 0).all(axis=1)]
    every = box_iou(torch.from_numpy(real), make_anchors(spec, shape).double())
    found = best_iou(real, shape, spec)
    np.testing.assert_allclose(found, every.amax(dim=1), atol=1e-9)


def squares(side: float, n: int = 400) -> list[np.ndarray]:
    corners = np.random.default_rng(0).uniform(0, 256 - side, (n, 2))
    return [np.c_[corners, corners + side]]


@pytest.mark.parametrize("side", [9, 20, 60])
def test_a_suggestion_is_no_worse_than_the_default_and_says_by_how_much(side):
    found = suggest_anchors(squares(side), (256, 256))
    default, fitted = (
        (best_iou(squares(side)[0], (256, 256), spec) >= 0.5).mean()
        for spec in (None, AnchorSpec(found.scales, found.ratios, found.anchor_size))
    )
    assert (found.recall_before, found.recall_after) == (default, fitted)
    assert fitted >= default


def test_objects_under_16_px_need_the_finer_level():
    # Anchors of P3 lie 8 px apart, so that a square of 6 px is up to 4 px off in x and in y: at best (2 x 2) / 68.
    usual, finer = (suggest_anchors(squares(6), (256, 256), levels) for levels in ((3, 7), (2, 7)))
    assert usual.recall_after < 0.5
    assert finer.recall_after > usual.recall_after + 0.2


def test_without_boxes_the_default_is_suggested():
    found = suggest_anchors([], (64, 64))
    assert (found.anchor_size, found.ratios, found.recall_after) == (4.0, (0.5, 1.0, 2.0), 1.0)

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from geodetect.anchors import AnchorSpec
from geodetect.errors import ArgumentError
from geodetect.network.anchors import level_sizes, make_anchors

SPECS = [
    AnchorSpec(),
    AnchorSpec(scales=(1.0,), ratios=(1.0,)),
    AnchorSpec(scales=(0.5, 1.3), ratios=(0.33, 1.0, 3.0), anchor_size=3),
]


def torchvision_anchors(spec: AnchorSpec, shape: tuple[int, int]) -> torch.Tensor:
    strides = [8, 16, 32, 64, 128]
    sizes = tuple(tuple(int(spec.anchor_size * s * scale) for scale in spec.scales) for s in strides)
    generator = AnchorGenerator(sizes, (spec.ratios,) * len(strides))
    maps = [torch.zeros(1, 1, math.ceil(shape[0] / s), math.ceil(shape[1] / s)) for s in strides]
    return generator(ImageList(torch.zeros(1, 3, *shape), [shape]), maps)[0]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (512, 128)])
def test_anchors_are_torchvisions(spec, shape):
    torch.testing.assert_close(make_anchors(spec, shape), torchvision_anchors(spec, shape), rtol=0, atol=0)


def test_first_anchors_by_hand():
    # P3, stride 8: base 32; sides 32, int(40.3) = 40, int(50.8) = 50.
    # ratio 1/2: width 32 * sqrt 2 = 45.25, half 22.6 -> 23; height 32 / sqrt 2 = 22.63, half 11.3 -> 11.
    #            40: 56.57 -> 28, 28.28 -> 14; 50: 70.71 -> 35, 35.36 -> 18
    # ratio 1: 16, 20, 25; ratio 2 is ratio 1/2 with width and height exchanged.
    wide = [(23, 11), (28, 14), (35, 18)]
    halves = [*wide, (16, 16), (20, 20), (25, 25), *((h, w) for w, h in wide)]
    expected = torch.tensor([[-w, -h, w, h] for w, h in halves], dtype=torch.float32)
    got = make_anchors(AnchorSpec(), (16, 24))
    assert torch.equal(got[:9], expected)
    assert torch.equal(got[9:18], expected + torch.tensor([8.0, 0, 8, 0]))  # the cell to the right
    assert torch.equal(got[27:36], expected + torch.tensor([0.0, 8, 0, 8]))  # three cells a row: the one below


def test_last_anchors_by_hand():
    # P7, stride 128: base 512; sides 512, int(645.08) = 645, int(812.7) = 812; ratio 2, the last three:
    # 512: width 362.04, half 181; height 724.08, half 362
    # 645: 456.08, 228; 912.17, 456;  812: 574.17, 287; 1148.3, 574
    halves = [(181, 362), (228, 456), (287, 574)]
    expected = torch.tensor([[-w, -h, w, h] for w, h in halves], dtype=torch.float32)
    assert torch.equal(make_anchors(AnchorSpec(), (128, 128))[-3:], expected)


def test_a_512_px_chip_has_49104_anchors():
    # (64^2 + 32^2 + 16^2 + 8^2 + 4^2) cells of 9
    assert level_sizes(AnchorSpec(), (512, 512)) == [36864, 9216, 2304, 576, 144]
    assert len(make_anchors(AnchorSpec(), (512, 512))) == 49104


@pytest.mark.parametrize("shape", [(1, 1), (100, 75), (129, 128), (400, 33)])
def test_any_picture_has_whole_cells_one_stride_apart(shape):
    spec = AnchorSpec(scales=(1.0,), ratios=(1.0,))
    levels = make_anchors(spec, shape).split(level_sizes(spec, shape))
    for level, stride in zip(levels, spec.strides, strict=True):
        centres = (level[:, :2] + level[:, 2:]) / 2
        expected = [(x, y) for y in range(0, shape[0], stride) for x in range(0, shape[1], stride)]
        assert centres.tolist() == [list(map(float, c)) for c in expected]


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numbers_of_numpy_are_stored_as_pythons(kind):
    spec = AnchorSpec(np.array([1, 2], kind), [kind(1)], kind(4), np.array([3, 7], kind))
    assert spec == AnchorSpec((1.0, 2.0), (1.0,), 4.0)
    assert json.loads(json.dumps(asdict(spec)))["scales"] == [1, 2]


def test_lists_make_the_same_spec():
    assert AnchorSpec(scales=[1.0], ratios=[1.0, 2.0], levels=[3, 7]) == AnchorSpec((1.0,), (1.0, 2.0))


@pytest.mark.parametrize(
    "values",
    [{"scales": ()}, {"ratios": ()}, {"scales": (0.0,)}, {"ratios": (-1.0,)}, {"anchor_size": math.nan}],
)
def test_impossible_shapes_are_refused(values):
    with pytest.raises(ArgumentError, match="above 0"):
        AnchorSpec(**values)


@pytest.mark.parametrize("levels", [(2, 6), (3,), (7, 3), (1, 7), ()])
def test_other_pyramids_are_refused(levels):
    with pytest.raises(ArgumentError, match=r"levels must be \(3, 7\), or \(2, 7\) for objects under 16 px; got \("):
        AnchorSpec(levels=levels)


def test_a_finer_level_comes_first_with_anchors_half_as_large():
    finer, usual = AnchorSpec(levels=(2, 7)), AnchorSpec()
    sizes = level_sizes(finer, (128, 128))
    assert sizes == [9216, *level_sizes(usual, (128, 128))]
    assert torch.equal(make_anchors(finer, (128, 128))[9216:], make_anchors(usual, (128, 128)))
    # P2, stride 4: base 16, ratio 1: half 8
    assert make_anchors(finer, (128, 128))[3].tolist() == [-8, -8, 8, 8]


def test_anchors_that_round_to_nothing_are_refused():
    with pytest.raises(ArgumentError, match="make anchor_size larger"):
        AnchorSpec(anchor_size=0.1)

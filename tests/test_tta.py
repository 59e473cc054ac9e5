from __future__ import annotations

import numpy as np
import pytest
from geopandas.testing import assert_geodataframe_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from geodetect import detect_objects
from geodetect.boxes import Boxes
from geodetect.grid import Tiling
from geodetect.scene.plan import Plan, Selection
from geodetect.scene.runner import runner_for
from geodetect.windows import Windows
from tests import oracles
from tests.fakes import PaintDetector, in_all_symmetries, painted

SIDE = 64
SQUARES = Boxes([[2, 3, 12, 9], [20, 40, 26, 60], [50, 10, 62, 14]], [0, 1, 0])
CHIP = painted((SIDE, SIDE), SQUARES)


def rows(boxes: Boxes) -> list[tuple[float, ...]]:
    """What the boxes are, whatever their order."""
    return sorted(map(tuple, np.c_[boxes.xyxy, boxes.labels, boxes.scores].tolist()))


def left_half(pixels: np.ndarray) -> list[Boxes]:
    """A detector that is blind on the right, and surer the further to the left."""
    found = PaintDetector().detect(pixels)
    near = [boxes[boxes.centres[:, 0] < SIDE / 2] for boxes in found]
    return [Boxes(boxes.xyxy, boxes.labels, 0.9 - boxes.centres[:, 0] / SIDE / 2) for boxes in near]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3), st.booleans())
def test_what_is_found_turns_with_the_window(turns, mirrored):
    def turned(pixels: np.ndarray) -> np.ndarray:
        return np.rot90(pixels[..., ::-1] if mirrored else pixels, turns, axes=(-2, -1))

    here, there = (in_all_symmetries(left_half, view[None], 0.5)[0] for view in (CHIP, turned(CHIP)))
    # Where a box went is seen from its own pixels.
    place = turned(np.arange(SIDE * SIDE).reshape(SIDE, SIDE))
    moved = [np.argwhere(np.isin(place, inside(box))) for box in here.xyxy.astype(int)]
    xyxy = [[*pixels.min(axis=0)[::-1], *(pixels.max(axis=0)[::-1] + 1)] for pixels in moved]
    assert len(here) == len(SQUARES)
    assert rows(Boxes(xyxy, here.labels, here.scores)) == rows(there)


def inside(box: np.ndarray) -> np.ndarray:
    """Numbers of the pixels in a box."""
    return np.arange(SIDE * SIDE).reshape(SIDE, SIDE)[box[1] : box[3], box[0] : box[2]]


def test_the_best_view_of_an_object_stays():
    (found,) = in_all_symmetries(left_half, CHIP[None], 0.5)
    x, y = found.centres.T
    # The nearest that any symmetry brings each square to the left edge.
    nearest = np.minimum.reduce([x, SIDE - x, y, SIDE - y])
    np.testing.assert_allclose(found.scores, 0.9 - nearest / SIDE / 2)


def test_nothing_found_is_nothing_and_windows_do_not_mix():
    blank = np.zeros_like(CHIP)
    found = in_all_symmetries(PaintDetector().detect, np.stack([blank, CHIP, blank]), 0.5)
    assert [len(boxes) for boxes in found] == [0, len(SQUARES), 0]
    assert all(boxes.scores is not None for boxes in found)


def test_only_the_best_of_many_views_is_kept_as_by_nms():
    seen = iter(range(8))

    def unsteady(pixels: np.ndarray) -> list[Boxes]:
        k = next(seen)
        return [Boxes([[27 + k / 4, 27, 37 + k / 4, 37]], [0], [0.5 + k / 100])]

    (found,) = in_all_symmetries(unsteady, CHIP[None], 0.5)
    assert len(found) == 1 == len(oracles.nms(found, 0.5))
    assert found.scores == pytest.approx([0.57])


def test_a_detector_that_sees_all_views_alike_finds_the_same(scene):
    plain, symmetric = (detect_objects(scene.path, PaintDetector(), tta=tta, progress=False) for tta in (False, True))
    assert_geodataframe_equal(plain, symmetric)


def test_all_views_are_launched_before_one_is_collected():
    log = []

    class InTwo(PaintDetector):
        def launch(self, pixels):
            log.append("launch")
            return super().detect(pixels)

        def collect(self, launched):
            log.append("collect")
            return launched

    plan = Plan(Windows.of([Tiling((SIDE, SIDE), SIDE)]), Selection(np.full(2, 0.5), 0.5), tta=True)
    runner = runner_for(InTwo(), plan)
    (found,) = runner.collect(runner.launch(CHIP[None]))
    assert len(found) == len(SQUARES)
    assert log == ["launch"] * 8 + ["collect"] * 8

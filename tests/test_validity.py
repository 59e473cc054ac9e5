"""The one rule for labels and detections: at least half of a box is valid, whatever window it is seen through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodetect.boxes import Boxes
from geodetect.grid import Grid, Window
from geodetect.raster import mostly_valid, mostly_valid_in
from tests import strategies
from tests.fakes import FakeReader
from tests.oracles_raster import mostly_valid_slowly

masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((40, 48)) < share, st.integers(0, 99), st.floats(0, 1)
)


def _boxes(rows: list[list[float]]) -> Boxes:
    return Boxes(rows, [0] * len(rows))


@given(strategies.boxes(scored=False), masks)
def test_pixels_are_counted_as_a_loop_counts_them(boxes: Boxes, valid: np.ndarray) -> None:
    assert mostly_valid(boxes, valid).tolist() == mostly_valid_slowly(boxes.xyxy, valid)


@given(strategies.boxes(scored=False), masks, st.integers(0, 3), st.integers(0, 3))
def test_a_window_that_holds_a_box_does_not_matter(boxes: Boxes, valid: np.ndarray, x: int, y: int) -> None:
    inside = boxes[(boxes.xyxy[:, :2] >= 3).all(axis=1) & (boxes.xyxy[:, 2:] <= (48, 40)).all(axis=1)]
    assert mostly_valid(inside.shift(-x, -y), valid[y:, x:]).tolist() == mostly_valid(inside, valid).tolist()


def test_half_is_enough_by_hand() -> None:
    valid = np.zeros((10, 10), bool)
    valid[:, :5] = True
    # 2 of 4 columns, 1 of 4, 2 of 4 seen in part, a sliver on a valid pixel, slivers in the last column and corner
    boxes = _boxes(
        [[3, 0, 7, 4], [4, 0, 8, 4], [3.4, 0, 7.4, 4], [4.1, 2, 4.2, 2.1], [9.9, 0, 10, 9], [10, 10, 10, 10]]
    )
    assert mostly_valid(boxes, valid).tolist() == [True, False, True, True, False, False]
    assert mostly_valid(boxes, np.ones((10, 10), bool)).all()
    assert mostly_valid(Boxes.empty(), valid).tolist() == []


class Counting(FakeReader):
    """A reader that knows how much of it was read."""

    n_read = n_reads = 0

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        self.n_read += window.width * window.height
        self.n_reads += 1
        return super().read(window)


@given(strategies.boxes(scored=False), masks)
def test_a_raster_that_is_read_gives_the_same(boxes: Boxes, valid: np.ndarray) -> None:
    reader = FakeReader(np.ones((1, *valid.shape), np.uint8), valid=valid)
    assert mostly_valid_in(reader, boxes).tolist() == mostly_valid(boxes, valid).tolist()


@pytest.mark.parametrize(("share", "kept"), [(0.45, False), (0.55, True)])
def test_of_a_box_larger_than_any_window_a_sample_is_read(share: float, kept: bool) -> None:
    side = 6000
    valid = np.zeros((side, side), bool)
    valid[: round(side * share)] = True
    reader = Counting(np.zeros((1, side, side), np.uint8), Grid((side, side)), valid)
    assert mostly_valid_in(reader, _boxes([[0, 0, side, side]])).tolist() == [kept]
    assert (reader.n_reads, reader.n_read) == (256, 1024 * 1024)
    assert mostly_valid_in(reader, _boxes([[0, 0, 1000, 1000]])).tolist() == [True]
    assert reader.n_read == 1024 * 1024 + 1000 * 1000  # all of it


def test_where_all_is_valid_nothing_is_read() -> None:
    reader = Counting(np.zeros((1, 50, 50), np.uint8))
    assert mostly_valid_in(reader, _boxes([[0, 0, 9, 9]])).tolist() == [True]
    assert reader.n_reads == 0

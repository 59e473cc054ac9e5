"""Reading ahead changes when pixels are read, never which, nor in what order they come."""

import re
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geodetect.boxes import Boxes
from geodetect.errors import RasterError
from geodetect.grid import Grid, Tiling, Window
from geodetect.scene.prefetch import batches
from tests.fakes import FakeReader, painted
from tests.strategies import tilings


class CountingReader(FakeReader):
    """Notes the windows it was asked for, and how many at once."""

    def __init__(self, *args, delay_s=0.0, **keywords):
        super().__init__(*args, **keywords)
        self.asked, self.most_at_once, self._at_once = [], 0, 0
        self._delay_s, self._lock = delay_s, threading.Lock()

    def read(self, window):
        with self._lock:
            self.asked.append(window)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            time.sleep(self._delay_s)
            return super().read(window)
        finally:
            with self._lock:
                self._at_once -= 1


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("geodetect-read")]


@settings(max_examples=30, deadline=None)  # threads wait for each other
@given(tilings(largest=100).filter(lambda tiling: len(tiling) < 60), st.integers(1, 7), st.integers(1, 3), st.data())
def test_the_valid_windows_of_each_group_come_once_in_order_with_their_pixels(tiling, batch_size, n_threads, data):
    hole = np.array(data.draw(st.lists(st.booleans(), min_size=16, max_size=16)), bool).reshape(4, 4)
    rows, columns = (np.arange(length) * 4 // length for length in tiling.shape)
    reader = FakeReader(painted(tiling.shape, Boxes.empty()), valid=~hole[rows][:, columns])
    options = {"chip_size": tiling.chip_size, "batch_size": batch_size, "n_threads": n_threads}
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(tiling)), max_size=4))), len(tiling)]
    groups = [tiling[start:stop] for start, stop in pairwise(cuts)]
    got = list(batches(reader, groups, **options))
    for number, group in enumerate(groups):
        expected = [window for window in group if reader.read(window)[1].any()]
        of_group = [batch.windows for batch in got if batch.group == number]
        assert of_group == [expected[i : i + batch_size] for i in range(0, len(expected), batch_size)]
    assert [batch.group for batch in got] == sorted(batch.group for batch in got)
    for batch in got:
        for window, square, valid in zip(batch.windows, batch.pixels, batch.valid, strict=True):
            pixels, mask = reader.read(window)
            assert np.array_equal(square[:, : window.height, : window.width], pixels)
            assert square.sum() == pixels.sum()  # nothing but zeros around
            assert square.dtype == pixels.dtype
            assert mask.all() if valid is None else np.array_equal(valid, mask)


def test_a_small_scene_is_padded_right_and_below():
    reader = FakeReader(np.full((1, 2, 3), 7, np.uint8))
    (batch,) = batches(reader, [Tiling((2, 3), 4)], chip_size=4, batch_size=8)
    assert batch.pixels.tolist() == [[[[7, 7, 7, 0], [7, 7, 7, 0], [0, 0, 0, 0], [0, 0, 0, 0]]]]
    assert batch.valid == [None]


def test_windows_without_a_valid_pixel_are_counted_as_passed():
    valid = np.zeros((4, 20), bool)
    valid[:, 10] = True  # in the third of five windows
    reader = FakeReader(np.ones((1, 4, 20), np.uint8), valid=valid)
    (batch,) = batches(reader, [Tiling((4, 20), 4)], chip_size=4, batch_size=1)
    assert [window.x for window in batch.windows] == [8]
    assert batch.n_passed == 3


def test_a_scene_without_a_valid_pixel_gives_no_batch():
    reader = FakeReader(np.ones((1, 8, 8), np.uint8), valid=np.zeros((8, 8), bool))
    assert list(batches(reader, [Tiling((8, 8), 4)], chip_size=4, batch_size=2)) == []


def test_no_windows_give_no_batch():
    for groups in ([], [[]], [[], []]):
        assert list(batches(FakeReader(np.ones((1, 8, 8))), groups, chip_size=4, batch_size=2)) == []


def test_no_more_than_two_batches_are_read_ahead():
    reader = CountingReader(np.ones((1, 4, 400), np.uint8))
    coming = batches(reader, [Tiling((4, 400), 4)], chip_size=4, batch_size=5, n_threads=3)
    next(coming)
    time.sleep(0.1)
    assert len(reader.asked) <= 15
    assert reader.most_at_once <= 3
    coming.close()


def test_windows_are_read_side_by_side():
    reader = CountingReader(np.ones((1, 4, 64), np.uint8), delay_s=0.02)
    list(batches(reader, [Tiling((4, 64), 4)], chip_size=4, batch_size=4, n_threads=4))
    assert reader.most_at_once > 1


def test_what_fails_in_a_thread_is_raised_as_it_is_after_the_batches_before_it():
    reader = FakeReader(np.ones((1, 4, 40), np.uint8), Grid((4, 40), name="town.tif"), broken=(22, 1))
    coming = batches(reader, [Tiling((4, 40), 4)], chip_size=4, batch_size=2)
    assert [window.x for _ in range(2) for window in next(coming).windows] == [0, 4, 8, 12]
    with pytest.raises(RasterError, match=r"town\.tif cannot be read at pixel x 22, y 1"):
        next(coming)
    assert reading_threads() == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_stopping_early_leaves_no_thread_and_reads_no_further(stop):
    reader = CountingReader(np.ones((1, 4, 4000), np.uint8), delay_s=0.001)

    def consume():
        coming = batches(reader, [Tiling((4, 4000), 4)], chip_size=4, batch_size=4)
        try:
            for _ in coming:
                raise stop
        finally:
            coming.close()

    with pytest.raises(stop):
        consume()
    assert reading_threads() == []
    assert len(reader.asked) < 20


def test_only_whole_windows_are_asked_for():
    reader = CountingReader(np.ones((1, 10, 10), np.uint8))
    list(batches(reader, [Tiling((10, 10), 4, 1)], chip_size=4, batch_size=3, n_threads=1))
    assert reader.asked == list(Tiling((10, 10), 4, 1))
    assert reader.asked[-1] == Window(6, 6, 4, 4)


def test_windows_are_read_into_the_arrays_that_were_asked_for():
    made = []

    def empty(shape, dtype):
        made.append(np.full(shape, 99, dtype))
        return made[-1]

    reader = FakeReader(np.ones((2, 6, 40), np.uint8))
    options = {"chip_size": 8, "batch_size": 4, "empty": empty}
    got = list(batches(reader, [Tiling((6, 40), 8)], **options))
    assert [array.shape for array in made] == [(4, 2, 8, 8), (1, 2, 8, 8)]
    assert all(np.shares_memory(batch.pixels, array) for batch, array in zip(got, made, strict=True))
    assert all((batch.pixels[:, :, 6:] == 0).all() for batch in got)


@pytest.mark.slow
def test_the_benchmark_of_the_pipeline_runs():
    script = Path(__file__).parent / "benchmarks" / "pipeline.py"
    done = subprocess.run([sys.executable, script, "--tiny"], check=True, capture_output=True, text=True)
    assert len(re.findall(r"main thread -?\d+\.\d+ ms a window", done.stdout)) == 6
    assert len(re.findall(r"suppression of 64 windows", done.stdout)) == 3

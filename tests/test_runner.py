"""How a model is asked changes when it works, never what it says."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geodetect.boxes import Boxes
from geodetect.errors import ModelError
from geodetect.grid import Tiling, Window
from geodetect.scene.plan import Plan, Selection
from geodetect.scene.prefetch import Batch
from geodetect.scene.runner import Runner, run_batches
from geodetect.windows import Windows
from tests.fakes import PaintDetector


def plan(batch_size=8):
    return Plan(Windows.of([Tiling((64, 64), 64)]), Selection(np.full(2, 0.3), 0.4), batch_size)


def numbered(*numbers):
    """Windows (B, 1, 4, 4), each full of its number."""
    return np.broadcast_to(np.array(numbers, np.uint8).reshape(-1, 1, 1, 1), (len(numbers), 1, 4, 4))


def labelled(pixels):
    """One box for each window, its right side at the window's number."""
    return [Boxes([[0, 0, float(chip[0, 0, 0]), 1]], [0], [0.5]) for chip in pixels]


def numbers_of(found):
    return [int(boxes.xyxy[0, 2]) for boxes in found]


class Small(PaintDetector):
    """Has memory for a few windows only."""

    def __init__(self, room, error=MemoryError):
        super().__init__()
        self.__dict__.update(room=room, error=error, shown=[])

    def detect(self, pixels):
        if len(pixels) > self.room:
            raise self.error("no room")
        self.shown.append(len(pixels))
        return labelled(pixels)


class InTwo(PaintDetector):
    """Notes what is launched and what is collected."""

    def __init__(self):
        super().__init__()
        self.__dict__.update(log=[])

    def launch(self, pixels, *, min_score, nms_iou):
        self.log.append(("launch", int(pixels[0, 0, 0, 0]), min_score, nms_iou))
        return pixels

    def collect(self, launched):
        self.log.append(("collect", int(launched[0, 0, 0, 0])))
        return labelled(launched)


def batch(*numbers):
    windows = [Window(0, 0, 4, 4)] * len(numbers)
    return Batch(windows, numbered(*numbers), [None] * len(numbers), 0, 0)


@given(st.integers(1, 20), st.integers(1, 9), st.integers(1, 30))
def test_too_little_memory_halves_the_batch_and_changes_no_answer(room, batch_size, n_windows):
    model = Small(room)
    asked = Runner(model, plan(batch_size))
    for _ in range(2):
        assert numbers_of(asked.collect(asked.launch(numbered(*range(n_windows))))) == list(range(n_windows))
    assert asked.batch_size <= batch_size
    assert max(model.shown) <= room
    assert all(b <= a for a, b in pairwise([batch_size, asked.batch_size]))
    if room >= batch_size:
        assert asked.batch_size == batch_size


def without_room(told):
    """What torch raises where the processor's memory is short."""
    return torch.empty(1 << 50)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, without_room])
def test_eight_windows_are_four_and_four_where_there_is_room_for_five(error):
    model = Small(5, error)
    asked = Runner(model, plan())
    assert numbers_of(asked.collect(asked.launch(numbered(*range(8))))) == list(range(8))
    assert model.shown == [4, 4]
    assert asked.batch_size == 4


def test_a_window_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="not enough memory to show the model one window of 4 px; make chip_size"):
        Runner(Small(0), plan()).launch(numbered(1, 2))


def test_other_errors_of_a_model_are_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="no room"):
        Runner(Small(0, RuntimeError), plan()).launch(numbered(1, 2))


def test_the_next_batches_are_launched_before_one_is_collected():
    model = InTwo()
    asked = Runner(model, plan())
    found = [(numbers_of(boxes), one.pixels[0, 0, 0, 0]) for one, boxes in run_batches(map(batch, range(4)), asked)]
    assert found == [([i], i) for i in range(4)]
    done = [entry[:2] for entry in model.log]
    assert done.index(("launch", 2)) < done.index(("collect", 0)) < done.index(("launch", 3))


def test_a_model_in_two_is_told_its_thresholds():
    model = InTwo()
    Runner(model, plan()).launch(numbered(7))
    assert model.log == [("launch", 7, 0.3, 0.4)]


def test_no_batches_give_no_answers():
    assert list(run_batches([], Runner(InTwo(), plan()))) == []


def asked(answer):
    """The boxes that a window of 64 px has from a model that gives this answer for it."""

    class Gives(PaintDetector):
        def detect(self, pixels):
            return [answer() for _ in pixels]

    batch = Batch([Window(0, 0, 64, 64)], np.zeros((1, 3, 64, 64)), [None], 0, 1)
    return next(iter(run_batches([batch], Runner(Gives(), plan()), "town.tif")))[1][0]


def test_a_stop_iteration_says_where_the_model_was():
    def stops():
        raise StopIteration

    with pytest.raises(ModelError, match=r"StopIteration .* x 0 to 64, y 0 to 64 of town\.tif"):
        asked(stops)


def test_infinite_boxes_are_dropped_with_one_warning():
    with pytest.warns(UserWarning, match=r"boxes .* \[0.0, 0.0, inf, inf\]") as told:
        found = asked(lambda: Boxes([[0, 0, np.inf, np.inf], [np.inf, 0, np.inf, 9], [1, 2, 3, 4]], [0] * 3, [0.5] * 3))
    assert found.xyxy.tolist() == [[1, 2, 3, 4]]
    assert len(told) == 1


def test_scores_may_be_rounded_beyond_1_and_no_further():
    assert asked(lambda: Boxes([[1, 2, 3, 4]], [0], [np.nextafter(np.float32(1), 2)])).scores.tolist() == [1]
    with pytest.raises(ModelError, match="between 0 and 1"):
        asked(lambda: Boxes([[1, 2, 3, 4]], [0], [1.001]))

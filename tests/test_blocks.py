"""Blocks that threads share: decoded once, whoever asks; windows that are parts of the whole."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geodetect.grid import Tiling, Window
from geodetect.raster.blocks import Blocks
from tests.strategies import windows


class Counted:
    """Decodes an array that is held in memory, and remembers of which windows it was asked."""

    def __init__(self, shape: tuple[int, int] = (700, 900)) -> None:
        self.pixels = np.arange(2 * shape[0] * shape[1]).reshape(2, *shape)
        self.valid = self.pixels[0] % 7 > 0
        self.asked: list[Window] = []
        self.broken: Window | None = None

    def __call__(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        self.asked.append(window)
        if window == self.broken:
            raise ValueError("torn")
        time.sleep(0.001)
        x1, y1, x2, y2 = window.xyxy
        return self.pixels[:, y1:y2, x1:x2], self.valid[y1:y2, x1:x2]


@given(st.data(), st.sampled_from([(1, 900), (16, 900), (256, 256), (64, 128), (700, 900), (1, 1)]))
def test_a_window_is_a_part_of_the_whole(data: st.DataObject, block: tuple[int, int]) -> None:
    decode = Counted()
    blocks = Blocks(decode, (700, 900), block)
    for window in data.draw(st.lists(windows((700, 900)), min_size=1, max_size=3)):
        x1, y1, x2, y2 = window.xyxy
        pixels, valid = blocks.read(window)
        assert np.array_equal(pixels, decode.pixels[:, y1:y2, x1:x2])
        assert np.array_equal(valid, decode.valid[y1:y2, x1:x2])
        pixels[:] = 0  # they are the caller's own
    assert len(set(decode.asked)) == len(decode.asked)


@pytest.mark.parametrize("block", [(1, 900), (64, 64), (256, 256)])
def test_threads_decode_each_block_once(block: tuple[int, int]) -> None:
    decode = Counted()
    blocks = Blocks(decode, (700, 900), block)
    tiling = Tiling((700, 900), 128, 32)
    with ThreadPoolExecutor(6) as pool:
        read = list(pool.map(blocks.read, tiling))
    for window, (pixels, _) in zip(tiling, read, strict=True):
        x1, y1, x2, y2 = window.xyxy
        assert np.array_equal(pixels, decode.pixels[:, y1:y2, x1:x2])
    assert len(set(decode.asked)) == len(decode.asked)
    assert sum(window.width * window.height for window in decode.asked) == 700 * 900


def test_an_error_reaches_all_who_wait_and_the_next_may_try_again() -> None:
    decode = Counted()
    blocks = Blocks(decode, (700, 900), (256, 256))
    decode.broken = Window(256, 256, 256, 256)
    errors: list[str] = []

    def read() -> None:
        try:
            blocks.read(Window(300, 300, 10, 10))
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=read) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == ["torn"] * 5
    assert blocks.read(Window(0, 0, 256, 256))[1].shape == (256, 256)
    decode.broken = None
    assert np.array_equal(blocks.read(Window(300, 300, 10, 10))[0], decode.pixels[:, 300:310, 300:310])


def test_no_more_is_remembered_than_fits() -> None:
    asked: list[Window] = []

    def decode(window: Window) -> tuple[np.ndarray, np.ndarray]:
        asked.append(window)
        shape = window.height, window.width
        return np.broadcast_to(np.uint8(0), (3000, *shape)), np.ones(shape, bool)  # 200 MB on paper

    blocks = Blocks(decode, (256, 1024), (256, 256))
    for x in (0, 0, 256, 256, 512, 256, 0):  # two fit: what a window met, and as much again
        blocks.read(Window(x, 0, 1, 1))
    assert [window.x for window in asked] == [0, 256, 512, 0]


def test_what_is_forgotten_is_decoded_anew() -> None:
    decode = Counted()
    blocks = Blocks(decode, (700, 900), (256, 256))
    for _ in range(2):
        blocks.read(Window(0, 0, 10, 10))
        blocks.forget()
    assert len(decode.asked) == 2

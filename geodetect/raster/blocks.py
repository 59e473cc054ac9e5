"""Decoded blocks that all threads share: no block of a file is decoded twice while it is remembered.

Shapes: C bands, H W pixels.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from geodetect.grid import Window

Pixels = tuple[Shaped[np.ndarray, "C H W"], Bool[np.ndarray, "H W"]]

_REMEMBERED_BYTES = 256_000_000  # a row of windows of 512 px over an RGB raster 100,000 px wide
_LEAST_SIDE = 128  # px; smaller blocks, and strips, are taken together: each costs Python as much as many pixels
_LARGEST_PIXELS = 1 << 25  # larger ones are not remembered; GDAL keeps them


class Blocks:
    """A raster in blocks; a window is put together from those that it meets.

    Windows overlap, and those side by side share strips: each thread that decoded for itself would undo what
    the others gain. A block is decoded by the thread that asks first. A thread begins with
    blocks that nobody works on, and waits for those of others only when it has nothing else to do.

    Args:
        decode: pixels and validity of a window of the raster, called in several threads.
        shape: (height, width) of the raster.
        block: (height, width) of the blocks that its file is made of.
    """

    def __init__(self, decode: Callable[[Window], Pixels], shape: tuple[int, int], block: tuple[int, int]) -> None:
        self._decode, self._shape, self._block = decode, shape, block
        self._size = _grown(block, shape)
        self._reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return Blocks, (self._decode, self._shape, self._block)  # in another process nothing is decoded yet

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[int, int], Future[Pixels]] = OrderedDict()
        self._n_bytes, self._room = 0, _REMEMBERED_BYTES
        self._process = os.getpid()

    def forget(self) -> None:
        """Frees what is remembered."""
        self._reset()

    def read(self, window: Window) -> Pixels:
        """The pixels of a window, in arrays of its own; what `decode` raises is raised."""
        if self._process != os.getpid():  # a fork may have copied a lock that was held
            self._reset()
        if self._size[0] * self._size[1] > _LARGEST_PIXELS:
            return self._decode(window)
        keys = self._keys(window)
        asked = [(key, self._asked(key)) for key in keys]
        parts = [(self._window(key), self._held(key, future)) for key, future in asked]
        # The window beside this one needs the same strips, however wide the raster.
        self._room = max(self._room, 2 * sum(_bytes_of(part) for _, part in parts))
        return _joined(window, parts)

    def _keys(self, window: Window) -> list[tuple[int, int]]:
        """Row and column of each block that a window meets."""
        height, width = self._size
        x1, y1, x2, y2 = window.xyxy
        rows, columns = range(y1 // height, -(-y2 // height)), range(x1 // width, -(-x2 // width))
        return [(row, column) for row in rows for column in columns]

    def _window(self, key: tuple[int, int]) -> Window:
        """The pixels of a block, which ends where the raster does."""
        (height, width), (row, column) = self._size, key
        y, x = row * height, column * width
        return Window(x, y, min(width, self._shape[1] - x), min(height, self._shape[0] - y))

    def _asked(self, key: tuple[int, int]) -> Future[Pixels]:
        """A block that is known or will be; decoded here and now if nobody has begun."""
        with self._lock:
            future = self._known.get(key)
            if future is not None:
                self._known.move_to_end(key)
                return future
            future = self._known[key] = Future()
        try:
            future.set_result(self._decode(self._window(key)))
        finally:
            if not future.done():  # whatever went wrong is raised here; who waits tries for himself
                with self._lock:
                    self._known.pop(key, None)
                future.cancel()
        self._remember(key, future)
        return future

    def _held(self, key: tuple[int, int], future: Future[Pixels]) -> Pixels:
        """What a block holds, when whoever decodes it has done so."""
        try:
            return future.result()
        except CancelledError:
            return self._held(key, self._asked(key))

    def _remember(self, key: tuple[int, int], future: Future[Pixels]) -> None:
        """Counts a block that has been decoded, and lets go of those that were asked for longest ago."""
        with self._lock:
            if self._known.get(key) is future:
                self._n_bytes += _bytes_of(future.result())
            while self._n_bytes > self._room:
                _, oldest = self._known.popitem(last=False)
                self._n_bytes -= _bytes_of(oldest.result()) if oldest.done() else 0


def _bytes_of(block: Pixels) -> int:
    return sum(array.nbytes for array in block)


def _grown(block: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
    """The block, or several together that are large enough to be worth a call."""
    grown = []
    for side, whole in zip(block, shape, strict=True):
        n_together = -(-_LEAST_SIDE // side)
        grown.append(min(side * n_together, whole))
    return grown[0], grown[1]


def _joined(window: Window, parts: list[tuple[Window, Pixels]]) -> Pixels:
    """What the blocks hold of a window, in new arrays."""
    first, _ = parts[0][1]
    holding = [(place, block, held) for place, (block, held) in parts if held.any()]
    new = np.empty if len(holding) == len(parts) else np.zeros  # pages of zeros cost nothing until they are written to
    pixels = new((len(first), window.height, window.width), first.dtype)
    valid = new((window.height, window.width), bool)
    x1, y1, x2, y2 = window.xyxy
    for place, block, held in holding:
        left, right = max(x1, place.x), min(x2, place.x + place.width)
        top, bottom = max(y1, place.y), min(y2, place.y + place.height)
        target = np.s_[top - y1 : bottom - y1, left - x1 : right - x1]
        source = np.s_[top - place.y : bottom - place.y, left - place.x : right - place.x]
        pixels[(..., *target)] = block[(..., *source)]
        valid[target] = held[source]
    return pixels, valid

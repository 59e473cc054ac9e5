"""A cache of decoded blocks that all threads share: no block is decoded twice while it is cached.

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

_CACHED_BYTES = 256_000_000  # a row of windows of 512 px over an RGB raster 100,000 px wide
_LEAST_SIDE = 128  # px; smaller blocks, and strips, are decoded together: a call costs as much as many pixels
_LARGEST_PIXELS = 1 << 25  # larger blocks are not cached here; GDAL caches them


class Blocks:
    """A raster in blocks; windows are assembled from the blocks that they intersect.

    Windows overlap, and those side by side share strips. A block is decoded by the thread that needs it first. Each
    thread decodes the blocks that no other works on before it waits for those of other threads.

    Args:
        decode: returns pixels and validity of a window of the raster; called in several threads.
        shape: (height, width) of the raster.
        block: (height, width) of the file's blocks.
    """

    def __init__(self, decode: Callable[[Window], Pixels], shape: tuple[int, int], block: tuple[int, int]) -> None:
        self._decode, self._shape, self._block = decode, shape, block
        # Several small blocks together, so that each is worth a call.
        height, width = (min(n * -(-_LEAST_SIDE // n), whole) for n, whole in zip(block, shape, strict=True))
        self._size = height, width
        self._reset()

    def __reduce__(self) -> tuple[Any, ...]:
        return Blocks, (self._decode, self._shape, self._block)  # the cache stays here

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._cached: OrderedDict[tuple[int, int], Future[Pixels]] = OrderedDict()
        self._n_bytes, self._room = 0, _CACHED_BYTES
        self._process = os.getpid()

    def forget(self) -> None:
        """Free the cache."""
        self._reset()

    def read(self, window: Window) -> Pixels:
        """Return the pixels of a window in new arrays; errors of `decode` are raised."""
        if self._process != os.getpid():  # a fork may have copied a lock that was held
            self._reset()
        if self._size[0] * self._size[1] > _LARGEST_PIXELS:
            return self._decode(window)
        futures = [(key, self._request(key)) for key in self._keys(window)]
        parts = [(self._window(key), *self._wait(key, future)) for key, future in futures]
        # The next window needs the same strips, however wide the raster.
        self._room = max(self._room, 2 * sum(_count_bytes(part[1:]) for part in parts))
        first, some = parts[0][1], [part for part in parts if part[2].any()]
        new = np.empty if len(some) == len(parts) else np.zeros  # zeros cost no memory until they are written to
        pixels = new((len(first), window.height, window.width), first.dtype)
        valid = new((window.height, window.width), bool)
        x1, y1, x2, y2 = window.xyxy
        for place, block, is_valid in some:
            left, right = max(x1, place.x), min(x2, place.x + place.width)
            top, bottom = max(y1, place.y), min(y2, place.y + place.height)
            target = np.s_[top - y1 : bottom - y1, left - x1 : right - x1]
            source = np.s_[top - place.y : bottom - place.y, left - place.x : right - place.x]
            pixels[(..., *target)] = block[(..., *source)]
            valid[target] = is_valid[source]
        return pixels, valid

    def _keys(self, window: Window) -> list[tuple[int, int]]:
        """Return row and column of each block that a window intersects."""
        height, width = self._size
        x1, y1, x2, y2 = window.xyxy
        rows, columns = range(y1 // height, -(-y2 // height)), range(x1 // width, -(-x2 // width))
        return [(row, column) for row in rows for column in columns]

    def _window(self, key: tuple[int, int]) -> Window:
        """Return the window of a block, which ends where the raster does."""
        (height, width), (row, column) = self._size, key
        y, x = row * height, column * width
        return Window(x, y, min(width, self._shape[1] - x), min(height, self._shape[0] - y))

    def _request(self, key: tuple[int, int]) -> Future[Pixels]:
        """Return a block that is cached or being decoded; if it is neither, decode it."""
        with self._lock:
            future = self._cached.get(key)
            if future is not None:
                self._cached.move_to_end(key)
                return future
            future = self._cached[key] = Future()
        try:
            future.set_result(self._decode(self._window(key)))
        finally:
            if not future.done():  # the error is raised here; waiting threads try themselves
                with self._lock:
                    self._cached.pop(key, None)
                future.cancel()
        self._evict(key, future)
        return future

    def _wait(self, key: tuple[int, int], future: Future[Pixels]) -> Pixels:
        """Return a block when the thread that decodes it has finished."""
        try:
            return future.result()
        except CancelledError:
            return self._wait(key, self._request(key))

    def _evict(self, key: tuple[int, int], future: Future[Pixels]) -> None:
        """Count a decoded block, and drop the least recently used ones if they take too much memory."""
        with self._lock:
            if self._cached.get(key) is future:
                self._n_bytes += _count_bytes(future.result())
            while self._n_bytes > self._room:
                _, oldest = self._cached.popitem(last=False)
                self._n_bytes -= _count_bytes(oldest.result()) if oldest.done() else 0


def _count_bytes(block: Pixels) -> int:
    return sum(array.nbytes for array in block)

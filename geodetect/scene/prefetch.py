"""Windows read ahead of the detector by a few threads, in batches.

Shapes: B batch, C channels, H W pixels of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from geodetect.grid import Window
from geodetect.raster import Reader

Empty: TypeAlias = Callable[[tuple[int, ...], np.dtype[Any]], np.ndarray]

_N_THREADS = 4  # decompression takes a core or two, the network the rest; more threads only queue for the disk


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of equal size in memory.

    Args:
        windows: their positions in the scene.
        pixels: (B, C, chip_size, chip_size), 0 where invalid and in the padding right of and below smaller windows.
        valid: (H, W) mask of the valid pixels of each window; None where all are.
        group: index of the group that all of them belong to.
        n_passed: total number of windows processed so far, including those without a valid pixel.
    """

    windows: list[Window]
    pixels: np.ndarray
    valid: list[np.ndarray | None]
    group: int
    n_passed: int


class _Place(NamedTuple):
    """Destination of a window's pixels: a square in the array of a batch."""

    window: Window
    group: int
    squares: np.ndarray
    number: int


def batches(
    reader: Reader,
    groups: Iterable[Sequence[Window]],
    *,
    chip_size: int,
    batch_size: int,
    n_threads: int = _N_THREADS,
    empty: Empty = np.empty,
) -> Generator[Batch, None, None]:
    """Yield the windows that hold a valid pixel in order, in batches; the last batch of a group may be smaller.

    No batch holds windows of two groups, so what is computed together depends on the group alone, not on where a
    run began. At most two batches are read ahead, also across groups. An error in a thread is raised here unchanged
    when its window is due. Threads end when the iterator is closed or raises.

    Args:
        reader: source of the pixels; must be thread-safe.
        groups: windows to read; consumed lazily.
        chip_size: side of the squares in a batch, in pixels; no window may be larger.
        batch_size: windows per batch.
        n_threads: number of windows read concurrently.
        empty: returns a new array, of a shape and a dtype, for the pixels of a batch.
    """

    def places() -> Iterator[_Place]:
        """Yield the place of each window in the batch that it is read into; batches are allocated lazily."""
        for group, windows in enumerate(groups):
            for start in range(0, len(windows), batch_size):
                some = windows[start : start + batch_size]
                squares = empty((len(some), reader.n_bands, chip_size, chip_size), reader.dtype)
                yield from (_Place(window, group, squares, number) for number, window in enumerate(some))

    ready: list[tuple[Window, np.ndarray | None]] = []
    squares, n_passed, group = np.zeros(0), 0, 0
    with closing(_read_ahead(reader, places(), n_threads=n_threads, n_ahead=2 * batch_size)) as coming:
        for place, valid in coming:
            if ready and place.group != group:
                yield _batch(ready, squares, group, n_passed)
                ready = []
            n_passed, group = n_passed + 1, place.group
            if valid is None or valid.any():
                # After an empty window, others move up: squares before their own have been read and are free.
                squares = squares if ready else place.squares
                if place.squares is not squares or place.number != len(ready):
                    squares[len(ready)] = place.squares[place.number]
                ready.append((place.window, valid))
            if len(ready) == batch_size:
                yield _batch(ready, squares, group, n_passed)
                ready = []
    if ready:
        yield _batch(ready, squares, group, n_passed)


def _batch(ready: list[tuple[Window, np.ndarray | None]], squares: np.ndarray, group: int, n_passed: int) -> Batch:
    windows, masks = zip(*ready, strict=True)
    return Batch(list(windows), squares[: len(ready)], list(masks), group, n_passed)


def _read_ahead(
    reader: Reader, places: Iterator[_Place], *, n_threads: int, n_ahead: int
) -> Generator[tuple[_Place, np.ndarray | None], None, None]:
    """Yield each place in order when it was read; up to `n_ahead` are being read or waiting at any time."""
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="geodetect-read")
    waiting: deque[tuple[_Place, Future[np.ndarray | None]]] = deque()
    try:
        waiting.extend((place, pool.submit(_read, reader, place)) for place in islice(places, n_ahead))
        while waiting:
            place, future = waiting.popleft()
            valid = future.result()
            waiting.extend((following, pool.submit(_read, reader, following)) for following in islice(places, 1))
            yield place, valid
    finally:
        pool.shutdown(cancel_futures=True)


def _read(reader: Reader, place: _Place) -> np.ndarray | None:
    """Read a window into the upper left corner of its square; return which pixels are valid, None for all."""
    pixels, valid = reader.read(place.window)
    if not valid.any():
        return valid  # and the square is not used
    square, (height, width) = place.squares[place.number], valid.shape
    square[:, :height, :width] = pixels
    square[:, height:], square[:, :height, width:] = 0, 0
    return None if valid.all() else valid

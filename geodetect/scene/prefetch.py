"""Windows read ahead of the detector by a few threads, in batches.

Shapes: B batch, C channels, H W pixels of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from geodetect.grid import Window
from geodetect.raster import Reader

_N_THREADS = 4  # decompression takes a core or two, the network the rest; more threads only queue for the disk


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of equal size in memory.

    Args:
        windows: their positions in the scene.
        pixels: (B, C, chip_size, chip_size), 0 where invalid and in the padding right of and below smaller windows.
        valid: (H, W) mask of the valid pixels of each window.
        group: index of the group that all of them belong to.
        n_passed: total number of windows processed so far, including those without a valid pixel.
    """

    windows: list[Window]
    pixels: np.ndarray
    valid: list[np.ndarray]
    group: int
    n_passed: int


def batches(
    reader: Reader, groups: Iterable[Sequence[Window]], *, chip_size: int, batch_size: int, n_threads: int = _N_THREADS
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
    """
    windows = ((number, window) for number, group in enumerate(groups) for window in group)
    ready: list[_Read] = []
    n_passed, group = 0, 0
    with closing(_read_ahead(reader, windows, n_threads=n_threads, n_ahead=2 * batch_size)) as coming:
        for number, read in coming:
            if ready and number != group:
                yield _stack(ready, chip_size, group, n_passed)
                ready = []
            n_passed, group = n_passed + 1, number
            if read[2].any():
                ready.append(read)
            if len(ready) == batch_size:
                yield _stack(ready, chip_size, group, n_passed)
                ready = []
    if ready:
        yield _stack(ready, chip_size, group, n_passed)


_Read = tuple[Window, np.ndarray, np.ndarray]  # window, pixels, mask


def _read_ahead(
    reader: Reader, windows: Iterable[tuple[int, Window]], *, n_threads: int, n_ahead: int
) -> Generator[tuple[int, _Read], None, None]:
    """Yield each window with its group in order; up to `n_ahead` are being read or waiting at any time."""
    coming = iter(windows)
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="geodetect-read")
    waiting: deque[tuple[int, Window, Future[tuple[np.ndarray, np.ndarray]]]] = deque()
    try:
        waiting.extend((group, window, pool.submit(reader.read, window)) for group, window in islice(coming, n_ahead))
        while waiting:
            group, window, future = waiting.popleft()
            pixels, valid = future.result()
            waiting.extend((number, next_, pool.submit(reader.read, next_)) for number, next_ in islice(coming, 1))
            yield group, (window, pixels, valid)
    finally:
        pool.shutdown(cancel_futures=True)


def _stack(ready: list[_Read], chip_size: int, group: int, n_passed: int) -> Batch:
    """Stack all windows into one batch, each in the upper left corner of its square."""
    n_bands, dtype = ready[0][1].shape[0], ready[0][1].dtype
    stack = np.zeros((len(ready), n_bands, chip_size, chip_size), dtype)
    for square, (_, pixels, _) in zip(stack, ready, strict=True):
        square[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return Batch([window for window, _, _ in ready], stack, [valid for _, _, valid in ready], group, n_passed)

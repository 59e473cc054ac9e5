"""Windows read ahead of the detector, in a few threads, and handed over in batches.

Shapes: B batch, C channels, H W pixels of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from geodetect.grid import Window
from geodetect.raster import Reader

_N_THREADS = 4  # decompression keeps a core or two busy, a network the rest; more only queue at the disk


@dataclass(frozen=True, eq=False)
class Batch:
    """B windows of equal size in memory.

    Args:
        windows: where they lie in the scene.
        pixels: (B, C, chip_size, chip_size), 0 where invalid and, right and below, where a window is smaller.
        valid: for each window its (H, W) mask, True where the raster says something.
        n_passed: windows dealt with so far in the scene, those without a valid pixel among them.
    """

    windows: list[Window]
    pixels: np.ndarray
    valid: list[np.ndarray]
    n_passed: int


def batches(
    reader: Reader, windows: Iterable[Window], *, chip_size: int, batch_size: int, n_threads: int = _N_THREADS
) -> Generator[Batch, None, None]:
    """The windows that hold a valid pixel, in their order, `batch_size` at a time; the last batch may be smaller.

    At most two batches are read ahead. What goes wrong in a thread is raised here as it is, when its
    window's turn has come. Closing the iterator, or an error, leaves no thread behind.

    Args:
        reader: where the pixels come from; read by several threads at once.
        windows: what to read; asked for only as far as is read ahead.
        chip_size: side of the squares in a batch, in pixels; no window may be larger.
        batch_size: how many windows a batch holds.
        n_threads: how many windows are read at once.
    """
    ready: list[tuple[Window, np.ndarray, np.ndarray]] = []
    n_passed = 0
    with closing(_read_ahead(reader, windows, n_threads=n_threads, n_ahead=2 * batch_size)) as coming:
        for window, pixels, valid in coming:
            n_passed += 1
            if valid.any():
                ready.append((window, pixels, valid))
            if len(ready) == batch_size:
                yield _stacked(ready, chip_size, n_passed)
                ready = []
    if ready:
        yield _stacked(ready, chip_size, n_passed)


def _read_ahead(
    reader: Reader, windows: Iterable[Window], *, n_threads: int, n_ahead: int
) -> Generator[tuple[Window, np.ndarray, np.ndarray], None, None]:
    """Each window with its pixels and its mask, in order; `n_ahead` are being read, or wait, at any time."""
    coming = iter(windows)
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="geodetect-read")
    waiting: deque[tuple[Window, Future[tuple[np.ndarray, np.ndarray]]]] = deque()
    try:
        waiting.extend((window, pool.submit(reader.read, window)) for window in islice(coming, n_ahead))
        while waiting:
            window, future = waiting.popleft()
            pixels, valid = future.result()
            waiting.extend((following, pool.submit(reader.read, following)) for following in islice(coming, 1))
            yield window, pixels, valid
    finally:
        pool.shutdown(cancel_futures=True)


def _stacked(ready: list[tuple[Window, np.ndarray, np.ndarray]], chip_size: int, n_passed: int) -> Batch:
    """One array of all windows, each in the upper left corner of its square."""
    n_bands, dtype = ready[0][1].shape[0], ready[0][1].dtype
    stack = np.zeros((len(ready), n_bands, chip_size, chip_size), dtype)
    for square, (_, pixels, _) in zip(stack, ready, strict=True):
        square[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return Batch([window for window, _, _ in ready], stack, [valid for _, _, valid in ready], n_passed)

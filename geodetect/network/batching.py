"""How many pictures a network is given at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# What a layer leaves for the next lies in the processor's cache up to about this: a ResNet50 in float32 was fastest
# with one window of 512 px (227 ms; 270 ms each with two, 245 ms with four), and small pictures with a few together.
_CACHE_BYTES = 32 * 2**20
_VALUES_PER_PIXEL = 16  # of the largest map of a ResNet: 64 channels at stride 2, or 256 at stride 4
_MOST_ON_CPU = 8  # beyond this nothing is gained even with small pictures
_SIZES = (2, 4, 8, 16, 32, 64)
_GAIN = 1.05  # what doubling the batch must bring to be worth its memory


def most_on_cpu(side: int, dtype: torch.dtype) -> int:
    """The number of square pictures whose largest map stays in a processor's cache; 1 to 8.

    Args:
        side: of a picture, in pixels.
        dtype: in which the network computes.
    """
    n_bytes = _VALUES_PER_PIXEL * side**2 * dtype.itemsize
    return max(1, min(_MOST_ON_CPU, (_CACHE_BYTES - 1) // n_bytes))


def fastest(run: Callable[[int], object], sizes: tuple[int, ...] = _SIZES) -> int:
    """The size from which on larger batches are hardly faster for each picture, or do not fit into memory.

    Args:
        run: works on so many pictures, and waits until they are done.
        sizes: to try, ascending.
    """
    best, rate = sizes[0], 0.0
    for size in sizes:
        try:
            run(size)  # gets ready for this size
            start = time.perf_counter()
            run(size)
        except torch.OutOfMemoryError:
            break
        achieved = size / (time.perf_counter() - start)
        if achieved < _GAIN * rate:
            break
        best, rate = size, achieved
    return best

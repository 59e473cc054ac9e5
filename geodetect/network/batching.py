"""How many pictures a network is given at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# glibc gives every block of 32 MiB and more back to the system when it is freed
# (https://man7.org/linux/man-pages/man3/mallopt.3.html, M_MMAP_THRESHOLD), to be zeroed again for the next layer:
# a convolution whose answer passed this took four times as long.
_BLOCK = 32 * 2**20
_VALUES_PER_PIXEL = 16  # of the largest map of a ResNet: 64 channels at stride 2, or 256 at stride 4
_MOST_ON_CPU = 8  # beyond this nothing is gained even with small pictures
_SIZES = (2, 4, 8, 16, 32, 64)
_GAIN = 1.05  # what doubling the batch must bring to be worth its memory


def most_on_cpu(side: int, dtype: torch.dtype) -> int:
    """The number of square pictures whose largest map still lies in one block of memory that is kept; 1 to 8.

    Args:
        side: of a picture, in pixels.
        dtype: in which the network computes.
    """
    n_bytes = _VALUES_PER_PIXEL * side**2 * dtype.itemsize
    return max(1, min(_MOST_ON_CPU, (_BLOCK - 1) // n_bytes))


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

"""Batch sizes for inference."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from geodetect.memory import is_out_of_memory

# Activations stay in the processor's cache up to about this size: a ResNet50 in float32 was fastest with one window of
# 512 px (227 ms; 270 ms each with two, 245 ms with four), and small images with a few together.
_CACHE_BYTES = 32 * 2**20
_VALUES_PER_PIXEL = 16  # of the largest map of a ResNet: 64 channels at stride 2, or 256 at stride 4
_MOST_ON_CPU = 8  # beyond this even small images gain nothing
_SIZES = (2, 4, 8, 16, 32, 64)
_GAIN = 1.05  # speed-up at which doubling the batch is worth its memory


def choose_on_cpu(side: int, dtype: torch.dtype) -> int:
    """Return the number of images of `side` x `side` pixels whose largest map fits into a processor's cache, 1 to 8."""
    n_bytes = _VALUES_PER_PIXEL * side**2 * dtype.itemsize
    return max(1, min(_MOST_ON_CPU, (_CACHE_BYTES - 1) // n_bytes))


def choose_by_trial(run: Callable[[int], object], sizes: tuple[int, ...] = _SIZES) -> int:
    """Return the size beyond which larger batches are hardly faster per image, or do not fit into memory.

    `run` processes a batch of a size, and returns when it is done; sizes are ascending.
    """
    best, rate = sizes[0], 0.0
    for size in sizes:
        try:
            run(size)  # warm-up
            start = time.perf_counter()
            run(size)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            break
        achieved = size / (time.perf_counter() - start)
        if achieved < _GAIN * rate:
            break
        best, rate = size, achieved
    return best

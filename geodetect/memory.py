"""Errors that say that memory is short, and freed memory that is kept for the next array.

A network's maps, and batches of windows, are blocks of many MiB that come and go in turn. glibc gives such blocks
back as soon as they are free, and the system zeroes them page by page when they are asked for again: without this a
float32 network spent a third of its time so (see the benchmarks).
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# https://man7.org/linux/man-pages/man3/mallopt.3.html; the numbers are those of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_USUAL_MMAP_MAX = 65_536  # "The default value for M_MMAP_MAX is 65,536"
# Where glibc's own thresholds end up once blocks of that size were freed: "DEFAULT_MMAP_THRESHOLD_MAX ... is
# 4*1024*1024*sizeof(long) on 64-bit systems", and "M_TRIM_THRESHOLD is adjusted to twice that".
_USUAL_MMAP_THRESHOLD = 32 << 20


def is_short(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, that of the processor or of a GPU.

    Torch's own are known by their names, since other models run without torch.
    """
    named = type(error).__name__ == "OutOfMemoryError"
    return named or isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed in here for what is allocated next; at the end it goes back to the system.

    For the whole process, while one `with` block lasts; the first of several that ends, ends it for all. Nothing
    happens where memory is not glibc's.
    """
    libc = _glibc()
    if libc is None:
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP_THRESHOLD)
        libc.malloc_trim(0)


def _glibc() -> Any:
    """The C library of this process, if it is glibc."""
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None

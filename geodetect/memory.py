"""Available memory, out-of-memory errors, freed memory that is kept for the next array, and garbage collection.

Feature maps and batches of windows are blocks of many MiB that are allocated and freed in turn. glibc returns such
blocks to the system at once, which zeroes their pages when they are allocated again: a float32 network spent a third
of its time on that (see the benchmarks).
"""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from geodetect.errors import ArgumentError

# Where Linux states the limit of a container, in versions 2 and 1 of its control groups:
# https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_BEYOND_WORDS = 10**18  # bytes; larger sizes are not written out

# https://man7.org/linux/man-pages/man3/mallopt.3.html; the numbers are those of malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NEVER = 2**31 - 1
_USUAL_MMAP_MAX = 65_536  # "The default value for M_MMAP_MAX is 65,536"
# Where glibc's own thresholds end up once blocks of that size were freed: "DEFAULT_MMAP_THRESHOLD_MAX ... is
# 4*1024*1024*sizeof(long) on 64-bit systems", and "M_TRIM_THRESHOLD is adjusted to twice that".
_USUAL_MMAP_THRESHOLD = 32 << 20


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on the processor or on a GPU.

    Torch's errors are recognised by name, since other models run without torch; those of the processor and of MPS
    are plain RuntimeErrors.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(sign in str(error) for sign in ("DefaultCPUAllocator", "MPS backend out of memory"))


@contextmanager
def reuse_freed() -> Iterator[None]:
    """Keep memory freed in the block for later allocations, and return it to the system at the end.

    This holds for the whole process; of several blocks the first to end ends it for all. Without glibc it does nothing.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
        libc.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL_MMAP_THRESHOLD)
        libc.malloc_trim(0)


@contextmanager
def freeze_collector() -> Iterator[None]:
    """Leave all objects that exist now out of garbage collections in the block.

    Python's collector counts geometries, of which detection makes many, and visits all objects each time that their
    number has grown by a quarter: with torch imported, 0.2 s for every 100,000 boxes.
    """
    if gc.get_freeze_count():  # by a block around this one, or by the program
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def check_fits(n_bytes: int, what: str, advice: str) -> None:
    """Raise if something needs more memory than this process can have.

    Args:
        n_bytes: smallest size that will be in memory at once.
        what: the thing that needs it, as the start of a sentence.
        advice: what to do, as the end of the sentence.

    Raises:
        ArgumentError: if there is not enough memory.
    """
    if n_bytes > (there := available_bytes()):
        raise ArgumentError(f"{what} would take {_size(n_bytes)} of memory, and there is {_size(there)}; {advice}")


def available_bytes() -> int:
    """Return the bytes that this process may use: the machine's memory, or the limit of its container or its own."""
    sizes = [sys.maxsize]
    if hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):
            sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    elif hasattr(ctypes, "windll"):
        status = _MemoryStatus(ctypes.sizeof(_MemoryStatus))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        sizes.append(int(status.total))
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            sizes.append(int(Path(path).read_text()))
    with suppress(ImportError):  # on Windows
        import resource

        sizes.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    return min(size for size in sizes if size > 0)


class _MemoryStatus(ctypes.Structure):
    """https://learn.microsoft.com/en-us/windows/win32/api/sysinfoapi/ns-sysinfoapi-memorystatusex."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("others", 6 * ctypes.c_ulonglong),
    )


def _size(n_bytes: int) -> str:
    """Return a size as text."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes < _BEYOND_WORDS else f"more than {_BEYOND_WORDS // 10**9:,} GB"

"""How much memory there is, errors that say it is short, and freed memory that is kept for the next array.

A network's maps, and batches of windows, are blocks of many MiB that come and go in turn. glibc gives such blocks
back as soon as they are free, and the system zeroes them page by page when they are asked for again: without this a
float32 network spent a third of its time so (see the benchmarks).
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from geodetect.errors import ArgumentError

# Where Linux says what a container may take, in versions 2 and 1 of its control groups:
# https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_BEYOND_WORDS = 10**18  # bytes; more is not told in digits

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


def check_fits(n_bytes: int, what: str, advice: str) -> None:
    """Refuse what needs more memory than this process can have.

    Args:
        n_bytes: least size of what will be in memory at once.
        what: what needs it, as the start of a sentence.
        advice: what to do, as its end.

    Raises:
        ArgumentError: if there is less memory.
    """
    if n_bytes > (there := available()):
        raise ArgumentError(f"{what} would take {_size(n_bytes)} of memory, and there is {_size(there)}; {advice}")


def available() -> int:
    """Bytes that this process may have: the machine's memory, or less where a container or a limit leaves it less."""
    sizes = [_of_machine(), *map(_of_limit, _LIMITS)]
    with suppress(ImportError):  # on Windows
        import resource

        sizes.append(resource.getrlimit(resource.RLIMIT_AS)[0])
    return min(size for size in [*sizes, sys.maxsize] if size > 0)


def _of_machine() -> int:
    """Size of the machine's memory in bytes; 0 where it does not tell."""
    if hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if hasattr(ctypes, "windll"):
        status = _MemoryStatus(ctypes.sizeof(_MemoryStatus))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.total)
    return 0


class _MemoryStatus(ctypes.Structure):
    """https://learn.microsoft.com/en-us/windows/win32/api/sysinfoapi/ns-sysinfoapi-memorystatusex."""

    _fields_ = (
        ("length", ctypes.c_ulong),
        ("load", ctypes.c_ulong),
        ("total", ctypes.c_ulonglong),
        ("others", 6 * ctypes.c_ulonglong),
    )


def _of_limit(path: str) -> int:
    """The number in a file; 0 where there is none."""
    with suppress(OSError, ValueError):
        return int(Path(path).read_text())
    return 0


def _size(n_bytes: int) -> str:
    """A size in words."""
    return f"{n_bytes / 1e9:,.1f} GB" if n_bytes < _BEYOND_WORDS else f"more than {_BEYOND_WORDS // 10**9:,} GB"

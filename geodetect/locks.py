"""Locks, so that two runs never write to one place at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from geodetect.errors import OutputError


@contextmanager
def hold(place: Path) -> Iterator[None]:
    """Lock a file or folder for this run, with a hidden lock file beside it that is removed at the end.

    The operating system holds the lock, so the lock file that a killed run leaves behind blocks no other run.

    Raises:
        OutputError: if another run, in this process or another, holds the lock, or the lock file cannot be created.
    """
    marker = place.with_name(f".{place.name}.lock")
    lock = FileLock(marker, timeout=0)
    try:
        with suppress(NotImplementedError):  # file system without locks
            lock.acquire()
    except Timeout:
        raise OutputError(
            f"another run is writing {place.name}; wait until it has ended, or choose another place"
        ) from None
    except OSError as error:
        raise OutputError(f"{place} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # Windows cannot remove an open file; releasing the lock removes it there
            marker.unlink()
        lock.release()

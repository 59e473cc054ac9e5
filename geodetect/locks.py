"""One run at a time: two that write to one place would take away each other's work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from geodetect.errors import OutputError


@contextmanager
def held(place: Path) -> Iterator[None]:
    """Keep a file or folder for this run, by a hidden file beside it that goes with the run.

    The lock is the system's, so that of a run that was killed holds nobody up, whatever is left of its file.

    Raises:
        OutputError: if another run holds it, in this process or another, or the file cannot be made.
    """
    marker = place.with_name(f".{place.name}.lock")
    lock = FileLock(marker, timeout=0)
    try:
        with suppress(NotImplementedError):  # a disk without locks
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
        with suppress(OSError):  # Windows removes no open file; there the release does it
            marker.unlink()
        lock.release()

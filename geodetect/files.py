"""Files that appear under their name once they are complete."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from geodetect.errors import OutputError

_ABANDONED_S = 3600  # a temporary file that was not written to for so long was left by a killed process


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a temporary path, and move what is written there to `path` once it is complete and on the disk.

    A symbolic link is followed: the file that it leads to is replaced, not the link.

    Raises:
        OutputError: for an OSError or UnicodeError inside. A file that was at `path` before is then unchanged.
    """
    target = through_links(path)
    # Short, for names near the file system's limit; with a number, for several processes that write to one name; and
    # with the suffix, which PyTorch asks for.
    beginning = f".{target.stem[:40]}."
    part = target.with_name(f"{beginning}{os.getpid()}.part{target.suffix}")
    try:
        _remove_abandoned(target.parent, f"{escape(beginning)}*.part{escape(target.suffix)}")
        yield part
        _flush(part)
        os.replace(part, target)
    except (OSError, UnicodeError) as error:  # a text may hold what UTF-8 cannot
        before = f"; the file that was at {path.name} before is unchanged" if path.is_file() else ""
        raise OutputError(
            f"{path} cannot be written: {str(error).splitlines()[0]}{before}; choose another place"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    with suppress(OSError):  # the new name, too, is to survive a power failure; Windows opens no folders
        _flush(target.parent)


def through_links(path: Path) -> Path:
    """Return the file that a symbolic link leads to, whether it exists or not; any other path as it is."""
    return path.resolve() if path.is_symlink() else path


def _remove_abandoned(folder: Path, pattern: str) -> None:
    for part in folder.glob(pattern):
        with suppress(OSError):  # it may be another process' that has just finished it
            if time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def _flush(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes what it may write to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files written atomically: they appear under their name once they are complete."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from geodetect.errors import OutputError

_ABANDONED_S = 3600  # age of temporary files that a killed process must have left


@contextmanager
def replace_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename the file written there to `path` after it was flushed to disk.

    If `path` is a symbolic link, its target is replaced, not the link.

    Raises:
        OutputError: for an OSError or UnicodeError in the block. An earlier file at `path` is left unchanged.
    """
    target = follow_link(path)
    # Short, as names may be near the file system's limit; with the process' number, as several may write to one name;
    # with the suffix, which PyTorch requires.
    beginning = f".{target.stem[:40]}."
    part = target.with_name(f"{beginning}{os.getpid()}.part{target.suffix}")
    try:
        for abandoned in target.parent.glob(f"{escape(beginning)}*.part{escape(target.suffix)}"):
            with suppress(OSError):  # another process may just have renamed it
                if time.time() - abandoned.stat().st_mtime > _ABANDONED_S:
                    abandoned.unlink()
        yield part
        _flush(part)
        os.replace(part, target)
    except (OSError, UnicodeError) as error:  # lone surrogates in a text
        before = f"; the file that was at {path.name} before is unchanged" if path.is_file() else ""
        raise OutputError(
            f"{path} cannot be written: {str(error).splitlines()[0]}{before}; choose another place"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    with suppress(OSError):  # so that the new name survives a power failure; Windows cannot open folders
        _flush(target.parent)


def follow_link(path: Path) -> Path:
    """Return the target of a symbolic link, whether it exists or not; any other path unchanged."""
    return path.resolve() if path.is_symlink() else path


def _flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    # Windows only flushes files opened for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

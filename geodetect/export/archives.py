"""One text out of a zip file that somebody else may have made."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

from geodetect.errors import ModelError

_LARGEST_BYTES = 16_000_000  # of a text; a small archive may hold one that fills the memory


def read_member(path: Path, ending: str, what: str) -> bytes:
    """The content of the one member of a zip file whose name ends so; nothing is unpacked to the disk.

    Args:
        path: the zip file.
        ending: of the member's name.
        what: the file is, for messages.

    Raises:
        ModelError: if the file is missing or damaged, a member's name leads out of the archive, or there is not
            exactly one such member.
    """
    if not path.is_file():
        raise ModelError(f"there is no file {path}; expected {what}")
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                _refuse_unsafe(name, path)
            found = [each for each in archive.infolist() if each.filename.endswith(ending)]
            if len(found) != 1:
                raise ModelError(f"{path} is not {what}: it holds {len(found)} files *{ending}, where 1 is expected")
            if found[0].file_size > _LARGEST_BYTES:
                raise ModelError(f"{path} is not {what}: its {found[0].filename} is larger than 16 MB")
            return archive.read(found[0])
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        # RuntimeError and NotImplementedError: an encrypted member, or one packed by an unknown method
        raise ModelError(f"{path} is not {what}, or not the whole of it ({error}); copy or export it again") from error


def _refuse_unsafe(name: str, path: Path) -> None:
    """Nothing, when a member's name stays inside the archive on every system."""
    windows = PureWindowsPath(name)
    if PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ModelError(f"{path} holds a member named {name!r}, which leads out of the archive; do not use this file")

"""Local files under names that pyogrio takes as they stand.

It reads more into a path than the file system does: what stands before a `!` is an archive, what follows a `;` is left
out, and line breaks are dropped, so that `!old/roofs.gpkg` would be `old/roofs.gpkg`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARSED = set("!;?\r\n\t")


def literal_source(path: str) -> str:
    """How pyogrio opens the file of this path, and no other; a path where nothing is stays as it is."""
    if not os.path.exists(path):
        return path
    absolute = _absolute(path)
    if not _PARSED & set(absolute):
        return absolute
    # https://gdal.org/user/virtual_file_systems.html#vsisubfile-portions-of-files
    return f"{'/vsizip/' if absolute.endswith('.zip') else ''}/vsisubfile/0,{absolute}"


@contextmanager
def literal_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, by a link elsewhere where pyogrio would misread its own path."""
    absolute = _absolute(folder)
    if not _PARSED & set(absolute):
        yield Path(absolute)
        return
    with tempfile.TemporaryDirectory(prefix="geodetect-") as elsewhere:
        link = Path(elsewhere) / "link"
        link.symlink_to(absolute, target_is_directory=True)
        yield link


def _absolute(path: str | Path) -> str:
    """The path from the root on; of two slashes in front, which would begin the name of a server, one is left."""
    return re.sub("^//+", "/", os.path.abspath(path))

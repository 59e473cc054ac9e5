"""Local files under names that pyogrio takes literally.

It parses paths: what comes before a `!` is an archive, what follows a `;` is ignored, and line breaks are dropped, so
that `!old/roofs.gpkg` would be `old/roofs.gpkg`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PARSED = set("!;?\r\n\t")


def escape_path(path: str) -> str:
    """Return the name under which pyogrio opens the file of a path, and no other; the path itself if there is none."""
    if not os.path.exists(path):
        return path
    absolute = _absolute(path)
    if not _PARSED & set(absolute):
        return absolute
    # https://gdal.org/user/virtual_file_systems.html#vsisubfile-portions-of-files
    return f"{'/vsizip/' if absolute.endswith('.zip') else ''}/vsisubfile/0,{absolute}"


@contextmanager
def escape_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write into, through a link elsewhere if pyogrio would misread its path."""
    absolute = _absolute(folder)
    if not _PARSED & set(absolute):
        yield Path(absolute)
        return
    with tempfile.TemporaryDirectory(prefix="geodetect-") as elsewhere:
        link = Path(elsewhere) / "link"
        link.symlink_to(absolute, target_is_directory=True)
        yield link


def _absolute(path: str | Path) -> str:
    """Return the path from the root on, with one slash in front: two would begin the name of a server."""
    return re.sub("^//+", "/", os.path.abspath(path))

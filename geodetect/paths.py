"""Paths as people write them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

_Name = TypeVar("_Name", bound=str | Path)


def expanded(path: _Name) -> _Name:
    """Replace a leading `~` or `~user` by that user's home folder; URLs and all other names stay as they are."""
    return type(path)(os.path.expanduser(str(path)))

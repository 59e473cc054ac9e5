"""What every folder format says of one picture, whatever its spelling."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture file with its boxes.

    Args:
        path: the file.
        xyxy: (N, 4) corners in the picture's pixels.
        names: (N,) the class of each box.
        shape: (height, width) in pixels as the labels give it; None when they do not.
    """

    path: Path
    xyxy: np.ndarray
    names: np.ndarray
    shape: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Folder:
    """All pictures of a folder of labels.

    Args:
        pictures: those whose file is there.
        classes: the classes in the format's own order, with or without a box.
        report: what was left out and why; empty when nothing was.
    """

    pictures: list[Picture]
    classes: list[str]
    report: str = ""

"""What every folder format says of its pictures, whatever its spelling; read and written alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pyproj import CRS


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture file with its boxes.

    Args:
        path: the file.
        xyxy: (N, 4) corners in the picture's pixels, or in shares of its sides where `relative`.
        names: (N,) the class of each box.
        shape: (height, width) in pixels as the labels give it; None when they do not.
        relative: whether the corners are shares, 0 to 1, as YOLO's are.
        labelled: whether there were labels for it; without, it counts as a picture of nothing.
    """

    path: Path
    xyxy: np.ndarray
    names: np.ndarray
    shape: tuple[int, int] | None = None
    relative: bool = False
    labelled: bool = True

    @classmethod
    def bare(cls, path: Path) -> Picture:
        """A picture that no labels speak of."""
        return cls(path, np.zeros((0, 4)), np.zeros(0, object), labelled=False)

    def in_pixels(self, shape: tuple[int, int]) -> Float[np.ndarray, "N 4"]:
        """The corners in the pixels of the file.

        Args:
            shape: (height, width) of the file.
        """
        return self.xyxy * np.tile(np.array(shape[::-1], float), 2) if self.relative else self.xyxy


@dataclass(frozen=True, eq=False)
class Folder:
    """All pictures of a folder of labels.

    Args:
        pictures: those whose file is there.
        classes: the classes in the format's own order, with or without a box.
        report: what was left out and why; empty when nothing was.
        crs: where the pictures lie that do not say so themselves; None for nowhere.
        cell: width and height of a pixel in units of the CRS; None where that is not known.
        n_bands: of the pictures; None where that is not known.
        values: (value, class) for each number that the format has for a class.
    """

    pictures: list[Picture]
    classes: list[str]
    report: str = ""
    crs: CRS | None = None
    cell: tuple[float, float] | None = None
    n_bands: int | None = None
    values: tuple[tuple[str, str], ...] = ()


def counted(n: int, what: str) -> str:
    """What there are `n` of, for a report; empty where there are none."""
    return f"{what}: {n:,}" if n else ""


def sentence(*notes: str) -> str:
    """The notes that say something, in one line."""
    return "; ".join(note for note in notes if note)

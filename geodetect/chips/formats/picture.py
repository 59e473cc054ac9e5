"""What every folder format says of its pictures, whatever its spelling; read and written alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pyproj import CRS

from geodetect.errors import LabelsError

TRAIN, VALID, TEST, UNLISTED = "train", "valid", "test", "unlisted"  # parts of a data set
_NO_CHARACTERS = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")  # of the first plane, which is all that XML minds


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture file with its boxes.

    Args:
        path: the file.
        xyxy: (N, 4) corners in the picture's pixels, or in shares of its sides where `relative`.
        names: (N,) the class of each box.
        shape: (height, width) in pixels as the labels give it; None when they do not.
        relative: whether the corners are shares, 0 to 1, as YOLO's are.
        label: the file that speaks of it; None for a picture without labels, which counts as one of nothing.
        part: `TRAIN`, `VALID` or `TEST` where the data set says so, `UNLISTED` where it lists others; None for neither.
    """

    path: Path
    xyxy: np.ndarray
    names: np.ndarray
    shape: tuple[int, int] | None = None
    relative: bool = False
    label: Path | None = None
    part: str | None = None

    @classmethod
    def bare(cls, path: Path) -> Picture:
        """A picture that no labels speak of."""
        return cls(path, np.zeros((0, 4)), np.zeros(0, object))

    @property
    def labelled(self) -> bool:
        """Whether there are labels for it."""
        return self.label is not None

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


def one_each(pictures: Iterable[Picture], settled: Callable[[Path], bool] = lambda _: False) -> dict[Path, Picture]:
    """One picture for each file, the first with boxes, where several files of labels list it.

    Args:
        pictures: in the order of the files of labels.
        settled: which of these count whatever later ones say.

    Raises:
        LabelsError: if two that count differ in their boxes.
    """
    found: dict[Path, Picture] = {}
    for each in pictures:
        first = found.setdefault(each.path, each)
        if not len(first.names):
            found[each.path] = each
        elif len(each.names) and first.label is not None and not settled(first.label) and _told(first) != _told(each):
            raise LabelsError(
                f"{first.label} and {each.label} both list {each.path.name}, with other boxes; keep the one that is "
                "right, or join them"
            )
    return found


def _told(picture: Picture) -> set[tuple[str, tuple[float, ...]]]:
    """Classes and boxes of a picture, in no order."""
    return set(zip(picture.names, map(tuple, picture.xyxy.round(2).tolist()), strict=True))


def is_plain(name: str) -> bool:
    """Whether a class name is one line of characters that files of every format can hold.

    Control characters, line and paragraph separators, halves of a surrogate pair and code points that are no characters
    are refused by XML (https://www.w3.org/TR/xml/#charsets) or UTF-8, or end a line.
    """
    kinds = {unicodedata.category(letter) for letter in name}
    return kinds.isdisjoint(("Cc", "Cs", "Zl", "Zp")) and not _NO_CHARACTERS.search(name)


def counted(n: int, what: str) -> str:
    """What there are `n` of, for a report; empty where there are none."""
    return f"{what}: {n:,}" if n else ""


def sentence(*notes: str) -> str:
    """The notes that say something, in one line."""
    return "; ".join(note for note in notes if note)

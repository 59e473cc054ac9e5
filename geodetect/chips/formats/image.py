"""Labelled images: what every format of chip folders reads and writes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from pyproj import CRS

TRAIN, VALID, TEST, UNLISTED = "train", "valid", "test", "unlisted"  # parts of a data set
_NONCHARACTERS = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")  # of the first plane; XML allows the others


class Box(NamedTuple):
    """A class and four numbers: left, top, right and bottom in pixels, or as shares of the image's sides."""

    name: str
    xyxy: Sequence[float]


@dataclass(frozen=True, eq=False)
class Image:
    """An image file with its boxes.

    Args:
        path: the file.
        xyxy: (N, 4) corners in the image's pixels, or in shares of its sides if `relative`.
        names: (N,) the class of each box.
        shape: (height, width) in pixels that the labels give; None if they do not.
        relative: whether the corners are shares, 0 to 1, as in YOLO.
        label: the label file; None for an image without labels, which counts as one without objects.
        part: `TRAIN`, `VALID` or `TEST` if the data set says so, `UNLISTED` if it lists only others; None otherwise.
    """

    path: Path
    xyxy: np.ndarray
    names: np.ndarray
    shape: tuple[int, int] | None = None
    relative: bool = False
    label: Path | None = None
    part: str | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        boxes: Iterable[Box] = (),
        label: Path | None = None,
        *,
        shape: tuple[int, int] | None = None,
        relative: bool = False,
    ) -> Image:
        """Make an image of its boxes one by one; arguments as in the class."""
        boxes = list(boxes)
        xyxy = np.array([box.xyxy for box in boxes], float).reshape(-1, 4)
        return cls(path, xyxy, np.array([box.name for box in boxes], dtype=object), shape, relative, label)

    @property
    def labelled(self) -> bool:
        """Whether there are labels for it."""
        return self.label is not None

    def in_pixels(self, shape: tuple[int, int]) -> Float[np.ndarray, "N 4"]:
        """Return the corners in the pixels of the file.

        Args:
            shape: (height, width) of the file.
        """
        return self.xyxy * np.tile(np.array(shape[::-1], float), 2) if self.relative else self.xyxy


@dataclass(frozen=True, eq=False)
class Folder:
    """All images of a folder with labels.

    Args:
        images: those whose file exists.
        classes: the classes in the format's own order, with or without a box.
        report: what was left out and why; empty if nothing was.
        crs: the CRS of images that do not name theirs; None if unknown.
        cell: width and height of a pixel in units of the CRS; None if unknown.
        n_bands: of the images; None if unknown.
        values: (value, class) for each number that the format has for a class.
    """

    images: list[Image]
    classes: list[str]
    report: str = ""
    crs: CRS | None = None
    cell: tuple[float, float] | None = None
    n_bands: int | None = None
    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, images: list[Image], report: str, values: Iterable[tuple[str, str]] = ()) -> Folder:
        """Collect images; classes that `values` does not name come after the others, by name."""
        values = tuple(values)
        named = dict.fromkeys(name for _, name in values)
        others = sorted({name for image in images for name in image.names} - named.keys())
        return cls(images, [*named, *others], report, values=values)

    @classmethod
    def join(cls, parts: Sequence[Folder]) -> Folder:
        """Join folders of one data set; the first CRS counts."""
        return cls(
            [image for part in parts for image in part.images],
            list(dict.fromkeys(name for part in parts for name in part.classes)),
            join_notes(*(part.report for part in parts)),
            next((part.crs for part in parts if part.crs is not None), None),
            values=tuple(pair for part in parts for pair in part.values),
        )


def is_plain(name: str) -> bool:
    """Return whether a class name is one line of characters that files of every format can hold.

    Control characters, line and paragraph separators, lone surrogates and noncharacters are refused by XML
    (https://www.w3.org/TR/xml/#charsets) or UTF-8, or end a line.
    """
    kinds = {unicodedata.category(letter) for letter in name}
    return kinds.isdisjoint(("Cc", "Cs", "Zl", "Zp")) and not _NONCHARACTERS.search(name)


def count(n: int, what: str) -> str:
    """Return a note for a report, such as `boxes without an area: 3`; empty if there are none."""
    return f"{what}: {n:,}" if n else ""


def join_notes(*notes: str) -> str:
    """Return the notes that are not empty, in one line."""
    return "; ".join(note for note in notes if note)

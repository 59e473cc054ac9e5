"""Labelled images: what every format of chip folders reads and writes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import shapely
from jaxtyping import Float
from pyproj import CRS

from geodetect.chips.formats.masks import outline_mask
from geodetect.errors import LabelsError
from geodetect.vector.geometry import make_valid

TRAIN, VALID, TEST, UNLISTED = "train", "valid", "test", "unlisted"  # parts of a data set
_NONCHARACTERS = re.compile("[\ufdd0-\ufdef\ufffe\uffff]")  # of the first plane; XML allows the others
_PAIR = 2  # numbers of a point
_FEWEST = 3  # points of a ring with an area

# Of one object: rings, in each of which x and y alternate, or a mask of COCO.
Outline: TypeAlias = Sequence[Any] | Mapping[str, Any]


class Box(NamedTuple):
    """A class and four numbers: left, top, right and bottom in pixels, or as shares of the image's sides.

    Its outline, in the same units, where the format has one, and whether scores ignore it.
    """

    name: str
    xyxy: Sequence[float]
    outline: Outline | None = None
    ignored: bool = False

    @classmethod
    def around(cls, name: str, ring: Sequence[float]) -> Box:
        """Return the bounds of an outline of one ring, with it."""
        return cls(name, [min(ring[::2]), min(ring[1::2]), max(ring[::2]), max(ring[1::2])], [ring])


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
        outlines: (N,) of each object, None for one that only has a box; None if all do.
        ignored: (N,) whether scores ignore an object; None if they count all.
    """

    path: Path
    xyxy: np.ndarray
    names: np.ndarray
    shape: tuple[int, int] | None = None
    relative: bool = False
    label: Path | None = None
    part: str | None = None
    outlines: Sequence[Outline | None] | None = None
    ignored: np.ndarray | None = None

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
        names = np.array([box.name for box in boxes], dtype=object)
        outlines = [box.outline for box in boxes] if any(box.outline is not None for box in boxes) else None
        ignored = np.array([box.ignored for box in boxes]) if any(box.ignored for box in boxes) else None
        return cls(path, xyxy, names, shape, relative, label, outlines=outlines, ignored=ignored)

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

    def polygons(self, shape: tuple[int, int]) -> np.ndarray:
        """Return the outlines as valid polygons in the pixels of the file; None for those without an area.

        Args:
            shape: (height, width) of the file.

        Raises:
            LabelsError: if the numbers of an outline are no pairs.
        """
        size = np.array(shape[::-1] if self.relative else (1, 1), float)
        polygons = np.full(len(self.names), None)
        for i, outline in enumerate(self.outlines or ()):
            if outline is None:
                continue
            try:
                polygons[i] = _as_polygon(outline, size)
            except (KeyError, TypeError, ValueError) as error:
                raise LabelsError(
                    f"an outline of {self.names[i]} in {self.path.name} is not made of pairs of numbers, x and y, and "
                    f"no mask: {error}; correct it in {self.label}"
                ) from error
        return make_valid(polygons)

    @property
    def corners(self) -> Float[np.ndarray, "N 8"]:
        """X and y of the four corners of each box: of its outline where it has one, which must have as many."""
        if self.outlines is None:
            return np.asarray(self.xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]])
        return np.array([ring for outline in self.outlines for ring in outline or ()], float).reshape(-1, 8)


def _as_polygon(outline: Outline, size: np.ndarray) -> shapely.Geometry | None:
    """Return the polygon of an outline times `size`, of several parts if it has several rings; None for no ring.

    Raises:
        KeyError: if the size or the counts of a mask are missing.
        ValueError: if it is not made of pairs of finite numbers, or the counts are not those of a mask.
    """
    if isinstance(outline, Mapping):
        outline = [outline_mask(outline)]
    # Some write a single ring without the list around it, or as pairs.
    rings = [outline] if np.size(outline[0]) <= _PAIR else outline
    points = [np.asarray(ring, float).reshape(-1, _PAIR) * size for ring in rings]
    if not all(np.isfinite(each).all() for each in points):
        raise ValueError("it holds a number that is not finite")
    parts = [shapely.Polygon(each) for each in points if len(each) >= _FEWEST]
    return shapely.MultiPolygon(parts) if len(parts) > 1 else next(iter(parts), None)


@dataclass(frozen=True, eq=False)
class Folder:
    """All images of a folder with labels.

    Args:
        images: those whose file exists.
        classes: the classes in the format's own order, with or without a box.
        report: what was dropped and why; empty if nothing was.
        crs: the CRS of images that do not name theirs; None if unknown.
        cell: width and height of a pixel in units of the CRS; None if unknown.
        n_bands: of the images; None if unknown.
        values: (value, class) for each number that the format has for a class.
        upright_note: additional report if outlines are not used.
    """

    images: list[Image]
    classes: list[str]
    report: str = ""
    crs: CRS | None = None
    cell: tuple[float, float] | None = None
    n_bands: int | None = None
    values: tuple[tuple[str, str], ...] = ()
    upright_note: str = ""

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

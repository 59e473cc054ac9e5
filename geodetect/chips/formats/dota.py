"""DOTA: a text for each image, a line `x1 y1 x2 y2 x3 y3 x4 y4 class difficulty` for each object, in pixels.

The layout is described at https://captain-whu.github.io/DOTA/dataset.html; lines `imagesource:` and `gsd:` may come
first. Difficulty is taken as in the data set's development kit (https://github.com/CAPTAIN-WHU/DOTA_devkit): difficult
objects (1) are labels like others, and those that its splitter has cut so that too little is left (2) are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path

from geodetect.chips.formats.image import Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing, Reference
from geodetect.chips.formats.text import Line, is_number, parse_number, read_lines
from geodetect.errors import LabelsError

LABELS = "labelTxt"
_CORNERS = 8  # numbers of the corners
_ALL_NUMBERS = 10  # in a line with a number as class, which needs a difficulty: 9 may lack one of the corners'
_HEADER = re.compile(r"(imagesource|gsd)\s*:", re.IGNORECASE)
_FAR = 2.0  # coordinates beyond it are pixels, not shares
_CUT = "2"  # difficulty


def recognises(listing: Listing) -> bool:
    """Return whether some text of the folder holds lines of four corners and a class."""
    return any(_is_label(_read_lines(path)) for path in listing.sample(".txt"))


def _read_lines(path: Path) -> list[Line]:
    """Return the lines of objects."""
    return [line for line in read_lines(path) if not _HEADER.match(line.text)]


def _is_label(lines: Sequence[Line]) -> bool:
    if not lines:
        return False
    words = lines[0].text.split()
    corners = [parse_number(word) for word in words[: _count_numbers(words)][:_CORNERS]]
    if _count_numbers(words) < len(words):
        return len(corners) == _CORNERS
    # As many numbers between 0 and 1 are those of YOLO: a class, four corners, and perhaps a score.
    return len(words) == _ALL_NUMBERS and max(map(abs, corners)) > _FAR


def _count_numbers(words: Sequence[str]) -> int:
    """Return how many words are numbers before the first that is none."""
    return sum(1 for _ in takewhile(is_number, words))


def read(listing: Listing) -> Folder:
    """Read the images that have a text of the same name, and those beside them without one as empty ones.

    Raises:
        LabelsError: if a line is not made of four corners and a class.
    """
    lines = {path: _read_lines(path) for path in listing.with_suffix(".txt")}
    labels = listing.choose_texts(lines, _is_label)
    found = listing.match([Reference(label.stem, label) for label in labels])
    lost: Counter[str] = Counter()
    images = [Image.of(path, _read_boxes(label, lines[label], lost), label) for path, label in found.labels.items()]
    report = join_notes(found.report, *(count(n, what) for what, n in lost.items()))
    return Folder.of(images + found.bare, report)


def _read_boxes(label: Path, lines: Sequence[Line], lost: Counter[str]) -> Iterator[Box]:
    """Read the objects of a text with their outlines.

    Raises:
        LabelsError: if a line is not made of four corners and a class.
    """
    for row, line in lines:
        words = line.split()
        n_numbers = _count_numbers(words)
        right = n_numbers == _CORNERS < len(words) or n_numbers == len(words) == _ALL_NUMBERS
        if not right:
            raise LabelsError(
                f"line {row} of {label} is not DOTA: expected {_CORNERS} numbers, the x and y of four corners, then a "
                f"class and a difficulty; got {n_numbers} numbers first in {line[:80]!r}"
            )
        name, difficulty = words[_CORNERS:], "0"
        if len(name) > 1 and name[-1].isdigit():
            *name, difficulty = name
        lost["difficult objects, labels like others"] += difficulty == "1"
        if difficulty == _CUT:
            lost["objects of difficulty 2, which DOTA's splitter has cut, left out"] += 1
        else:
            yield Box.around(" ".join(name), [parse_number(word) for word in words[:_CORNERS]])


def can_name(name: str) -> bool:
    """Return whether a class is a single word; blanks separate columns."""
    return len(name.split()) == 1


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield a text for each image, corners in hundredths of a pixel and no object difficult."""
    for each in folder.images:
        corners = (" ".join(f"{value:.2f}" for value in box) for box in each.corners.tolist())
        lines = (f"{box} {name} 0\n" for name, box in zip(each.names, corners, strict=True))
        yield f"{LABELS}/{each.path.stem}.txt", "".join(lines)

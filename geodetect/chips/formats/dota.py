"""DOTA: a text for each image, a line `x1 y1 x2 y2 x3 y3 x4 y4 class difficulty` for each object, in pixels.

The layout is described at https://captain-whu.github.io/DOTA/dataset.html; lines `imagesource:` and `gsd:` may come
first. Difficulty is taken as in the data set's development kit (https://github.com/CAPTAIN-WHU/DOTA_devkit): difficult
objects (1) are trained on and ignored in scores, and those that its splitter has cut so that too little is left (2) are
left out.

The data set comes with several folders of labels for the same images: of oriented and of horizontal boxes, and of its
versions. Horizontal boxes are not read where there are oriented ones.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from geodetect.chips.formats.image import Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing, Reference
from geodetect.chips.formats.names import key
from geodetect.chips.formats.text import Line, is_number, parse_number, read_lines
from geodetect.errors import LabelsError

LABELS = "labelTxt"
_CORNERS = 8  # numbers of the corners
_ALL_NUMBERS = 10  # in a line with a number as class, which needs a difficulty: 9 may lack one of the corners'
_HEADER = re.compile(r"(imagesource|gsd)\s*:", re.IGNORECASE)
_FAR = 2.0  # coordinates beyond it are pixels, not shares
_DIFFICULT, _CUT = 1, 2  # difficulties
_HORIZONTAL = re.compile("reclabel|hbb", re.IGNORECASE)  # in the names of DOTA's folders of horizontal boxes


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
    """Return the number of leading words that are numbers."""
    return sum(1 for _ in takewhile(is_number, words))


def read(listing: Listing) -> Folder:
    """Read the images that have a text of the same name, and those beside them without one as empty ones.

    Raises:
        LabelsError: if a line is not made of four corners and a class, or two texts differ about an image.
    """
    lines = {path: _read_lines(path) for path in listing.with_suffix(".txt")}
    labels = listing.choose_texts(lines, _is_label)
    full = {key(label.stem) for label in labels if lines[label]}
    labels = [label for label in labels if lines[label] or key(label.stem) not in full]  # others hold headers alone
    horizontal = {label for label in labels if any(map(_HORIZONTAL.search, listing.parts(label)))}
    oriented = {key(label.stem) for label in labels if label not in horizontal}
    labels = [label for label in labels if label not in horizontal or key(label.stem) not in oriented]
    found = listing.match([Reference(label.stem, label) for label in labels])
    _check_versions(found.labels, set(labels) - set(found.labels.values()), listing, lines)
    lost: Counter[str] = Counter()
    images = [Image.of(path, _read_boxes(label, lines[label], lost), label) for path, label in found.labels.items()]
    report = join_notes(found.report, *(count(n, what) for what, n in lost.items()))
    n_outlines = sum(len(image.names) for image in images)
    upright_note = count(n_outlines, "objects with four corners, whose bounds are taken")
    return replace(Folder.of(images + found.bare, report), upright_note=upright_note)


def _check_versions(
    used: Mapping[Path, Path], unused: Collection[Path], listing: Listing, lines: Mapping[Path, Sequence[Line]]
) -> None:
    """Raise if a text is of an image that has another one, with other lines.

    Raises:
        LabelsError: if there is one.
    """
    for label in sorted(unused):
        if listing.is_near(Reference(label.stem, label)):
            rivals = [used[image] for image in listing.find(label.stem) if image in used]
            texts = [[line.text for line in lines[path]] for path in (label, *rivals)]
            if rivals and texts[0] not in texts[1:]:
                raise LabelsError(
                    f"{rivals[0]} and {label} are both of {label.stem} and differ, as versions of DOTA do; "
                    "move one of the two folders elsewhere"
                )


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
        name, difficulty = words[_CORNERS:], 0.0
        if len(name) > 1 and is_number(name[-1]):
            difficulty = parse_number(name.pop())
        lost["difficult objects, which scores ignore"] += difficulty == _DIFFICULT
        if difficulty == _CUT:
            lost["objects of difficulty 2, which DOTA's splitter has cut, left out"] += 1
        else:
            box = Box.around(" ".join(name), [parse_number(word) for word in words[:_CORNERS]])
            yield box._replace(ignored=difficulty == _DIFFICULT)


def can_name(name: str) -> bool:
    """Return whether a class is a single word; blanks separate columns."""
    return len(name.split()) == 1


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield a text for each image, corners in hundredths of a pixel and no object difficult."""
    for each in folder.images:
        corners = (" ".join(f"{value:.2f}" for value in box) for box in each.corners.tolist())
        lines = (f"{box} {name} 0\n" for name, box in zip(each.names, corners, strict=True))
        yield f"{LABELS}/{each.path.stem}.txt", "".join(lines)

"""KITTI: a text for each picture, an object in each line; columns 5 to 8 are left, top, right and bottom.

The columns are described in the development kit of https://www.cvlibs.net/datasets/kitti/eval_object.php:
type, truncated, occluded, alpha, the box, then seven more for the object in space and perhaps a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.chips.formats.text import lines, number
from geodetect.errors import LabelsError

LABELS = "labels"
_NUMBERS = 14  # after the type; one more, the score, follows in files of detections
_BOX = slice(3, 7)  # among them
_IGNORED = "DontCare"  # "regions in which objects have not been labelled", says the kit
_FAR = 2.0  # beyond it coordinates are pixels, not shares
_OCCLUDED = ("-1", "0", "1", "2", "3")
_LARGEST_ANGLE, _UNKNOWN_ANGLE = 3.1416, -10.0
_UNKNOWN = "0.00 0 0.00 {} 0 0 0 0 0 0 0"


def recognises(listing: Listing) -> bool:
    """Whether some text of the folder holds lines of KITTI's columns."""
    return any(_looks_right(lines(path)) for path in listing.sample(".txt"))


def _looks_right(told: list[tuple[int, str]]) -> bool:
    values = _values(told[0][1]) if told else None
    if values is None or len(values[1]) not in (_NUMBERS, _NUMBERS + 1):
        return False
    # As many numbers round 0 to 1 after the number of a class are an outline in YOLO's shares.
    return not _is_number(values[0]) or max(values[1][_BOX]) > _FAR


def _values(line: str) -> tuple[str, list[float]] | None:
    """The type of an object, which may hold blanks and numbers, and the numbers after it; None where they are too few.

    "Zone 7" and 14 numbers can be "Zone" and 15, the last a score; what makes sense as KITTI's columns decides.
    """
    words = line.split()
    # The type may be a number.
    n_numbers = next((n for n, word in enumerate(reversed(words[1:])) if not _is_number(word)), len(words) - 1)
    if n_numbers < _BOX.stop:
        return None
    counts = [n for n in (_NUMBERS, _NUMBERS + 1) if n <= n_numbers] or [n_numbers]
    n_numbers = next((n for n in counts if _makes_sense(words[-n:])), counts[-1])
    return " ".join(words[:-n_numbers]), [number(word) for word in words[-n_numbers:]]


def _makes_sense(words: Sequence[str]) -> bool:
    """Whether numbers begin with the columns truncated, occluded, alpha and the box, as the kit describes them."""
    truncated, _, alpha, x1, y1, x2, y2 = (number(word) for word in words[: _BOX.stop])
    shares = 0 <= truncated <= 1 or truncated == -1  # -1 and -10 are what is not known
    angles = abs(alpha) <= _LARGEST_ANGLE or alpha == _UNKNOWN_ANGLE
    return shares and words[1] in _OCCLUDED and angles and x1 <= x2 and y1 <= y2


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(number(word))
    except ValueError:
        return False


def read(listing: Listing) -> Folder:
    """The pictures that have a text of the same name, and as empty ones those beside them without one.

    Raises:
        LabelsError: if a line has too few columns.
    """
    texts = {path: lines(path) for path in listing.ending(".txt")}
    labels = [path for path, told in texts.items() if _looks_right(told) or listing.called(path.stem)]
    found = listing.matched([(label.stem, label) for label in labels], "texts", "a text")
    every = [picture(label, texts[label], file) for label, file in zip(labels, found.files, strict=True) if file]
    ignored = sum(int((each.names == _IGNORED).sum()) for each in every)
    report = sentence(found.report, counted(ignored, f"boxes called {_IGNORED}, left out"))
    pictures = [_cared_for(each) for each in every]
    return Folder(pictures + found.bare, sorted({name for each in pictures for name in each.names}), report)


def _cared_for(picture: Picture) -> Picture:
    kept = picture.names != _IGNORED
    return replace(picture, xyxy=picture.xyxy[kept], names=picture.names[kept])


def picture(label: Path, told: list[tuple[int, str]], path: Path) -> Picture:
    """What the lines of the text `label` say of the picture `path`.

    Raises:
        LabelsError: if a line has too few columns; the message gives its number.
    """
    names: list[str] = []
    boxes: list[list[float]] = []
    for row, line in told:
        values = _values(line)
        if values is None:
            raise LabelsError(
                f"line {row} of {label} is not KITTI: expected a class and {_NUMBERS} numbers, of which the "
                f"4th to 7th are left, top, right and bottom; got {line[:80]!r}"
            )
        names.append(values[0])
        boxes.append(values[1][_BOX])
    return Picture(path, np.array(boxes, float).reshape(-1, 4), np.array(names, dtype=object), label=label)


def can_name(name: str) -> bool:
    """All single words but the one that stands for what was not labelled; readers tell columns by blanks."""
    return name != _IGNORED and len(name.split()) == 1


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """A text for each picture, corners in hundredths of a pixel."""
    for each in folder.pictures:
        yield f"{LABELS}/{each.path.stem}.txt", text(each, each.names)


def text(picture: Picture, names: np.ndarray) -> str:
    """The objects of one picture; what KITTI says of them in space is 0.

    Args:
        picture: its boxes in pixels.
        names: (N,) what each box is called.
    """
    boxes = [" ".join(f"{value:.2f}" for value in box) for box in picture.xyxy.tolist()]
    return "".join(f"{name} {_UNKNOWN.format(box)}\n" for name, box in zip(names, boxes, strict=True))

"""KITTI: a text for each picture, an object in each line; columns 5 to 8 are left, top, right and bottom.

The columns are described in the development kit of https://www.cvlibs.net/datasets/kitti/eval_object.php:
type, truncated, occluded, alpha, the box, then seven more for the object in space and perhaps a score.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geodetect.chips.formats.listing import Listing, lines
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.errors import LabelsError

LABELS = "labels"
_COLUMNS = 15
_BOX = slice(3, 7)  # among the numbers after the type
_IGNORED = "DontCare"  # "regions in which objects have not been labelled", says the kit
_FAR = 2.0  # beyond it coordinates are pixels, not shares
_UNKNOWN = "0.00 0 0.00 {} 0 0 0 0 0 0 0"


def recognises(listing: Listing) -> bool:
    """Whether some text of the folder holds lines of KITTI's columns."""
    return any(_looks_right(lines(path)) for path in listing.sample(".txt"))


def _looks_right(told: list[tuple[int, str]]) -> bool:
    values = _values(told[0][1]) if told else None
    if values is None or len(values[1]) not in (_COLUMNS - 1, _COLUMNS):
        return False
    # As many numbers round 0 to 1 after the number of a class are an outline in YOLO's shares.
    return not _is_number(values[0]) or max(values[1][_BOX]) > _FAR


def _values(line: str) -> tuple[str, list[float]] | None:
    """The type of an object, which may hold blanks, and the numbers after it; None where there are too few."""
    words = line.split()
    first = next((i for i in range(1, len(words)) if all(map(_is_number, words[i:]))), len(words))
    numbers = [float(word) for word in words[first:]]
    return (" ".join(words[:first]), numbers) if len(numbers) >= _BOX.stop else None


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def read(listing: Listing) -> Folder:
    """The pictures that have a text of the same name, and as empty ones those beside them without one.

    Raises:
        LabelsError: if a line has too few columns.
    """
    texts = {path: lines(path) for path in listing.ending(".txt")}
    labels = [path for path, told in texts.items() if _looks_right(told) or listing.has_picture(path.stem)]
    found = listing.match([(label.stem, label) for label in labels])
    pictures = [picture(label, texts[label], file) for label, file in zip(labels, found, strict=True) if file]
    bare = listing.unlabelled(each.path for each in pictures)
    ignored = sum(int((each.names == _IGNORED).sum()) for each in pictures)
    report = sentence(
        counted(found.count(None), "texts whose picture is not there"),
        counted(len(bare), "pictures without a text, taken as empty"),
        counted(ignored, f"boxes called {_IGNORED}, left out"),
    )
    kept = [_cared_for(each) for each in pictures]
    return Folder(kept + bare, sorted({name for each in kept for name in each.names}), report)


def _cared_for(picture: Picture) -> Picture:
    kept = picture.names != _IGNORED
    return Picture(picture.path, picture.xyxy[kept], picture.names[kept])


def picture(label: Path, told: list[tuple[int, str]], path: Path) -> Picture:
    """What the lines of the text `label` say of the picture `path`.

    Raises:
        LabelsError: if a line has too few columns; the message gives its number.
    """
    names: list[str] = []
    boxes: list[list[float]] = []
    for number, line in told:
        values = _values(line)
        if values is None:
            raise LabelsError(
                f"line {number} of {label} is not KITTI: expected a class and {_COLUMNS - 1} numbers, of which the "
                f"4th to 7th are left, top, right and bottom; got {line[:80]!r}"
            )
        names.append(values[0])
        boxes.append(values[1][_BOX])
    return Picture(path, np.array(boxes, float).reshape(-1, 4), np.array(names, dtype=object))


def can_name(name: str) -> bool:
    """All but the one name that stands for what was not labelled."""
    return name != _IGNORED


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """A text for each picture, corners in hundredths of a pixel; blanks in a class become underscores."""
    for each in folder.pictures:
        yield f"{LABELS}/{each.path.stem}.txt", text(each, each.names)


def text(picture: Picture, names: np.ndarray) -> str:
    """The objects of one picture; what KITTI says of them in space is 0.

    Args:
        picture: its boxes in pixels.
        names: (N,) what each box is called.
    """
    classes = ["_".join(str(name).split()) for name in names]
    boxes = [" ".join(f"{value:.2f}" for value in box) for box in picture.xyxy.tolist()]
    return "".join(f"{name} {_UNKNOWN.format(box)}\n" for name, box in zip(classes, boxes, strict=True))

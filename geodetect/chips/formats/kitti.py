"""KITTI: a text for each image, an object in each line; columns 5 to 8 are left, top, right and bottom.

The columns are described in the development kit of https://www.cvlibs.net/datasets/kitti/eval_object.php:
type, truncated, occluded, alpha, the box, then seven more for the object in space and perhaps a score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from geodetect.chips.formats.image import Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing, Reference
from geodetect.chips.formats.text import Line, is_number, parse_number, read_lines
from geodetect.errors import LabelsError

LABELS = "labels"
_NUMBERS = 14  # after the type; one more, the score, follows in files of detections
_BOX = slice(3, 7)  # among them
_IGNORED = "DontCare"  # "regions in which objects have not been labelled", says the kit
_FAR = 2.0  # coordinates beyond it are pixels, not shares
_OCCLUDED = ("-1", "0", "1", "2", "3")
_LARGEST_ANGLE, _UNKNOWN_ANGLE = 3.1416, -10.0
_UNKNOWN = "0.00 0 0.00 {} 0 0 0 0 0 0 0"


class _Object(NamedTuple):
    """Type of an object, and the numbers that follow."""

    name: str
    numbers: list[float]


def recognises(listing: Listing) -> bool:
    """Return whether some text of the folder holds lines of KITTI's columns."""
    return any(_is_label(read_lines(path)) for path in listing.sample(".txt"))


def _is_label(lines: Sequence[Line]) -> bool:
    first = _parse(lines[0].text) if lines else None
    if first is None or len(first.numbers) not in (_NUMBERS, _NUMBERS + 1):
        return False
    # As many numbers between 0 and 1 after the number of a class are an outline in YOLO's shares.
    return not all(map(is_number, first.name.split())) or max(first.numbers[_BOX]) > _FAR


def _parse(line: str) -> _Object | None:
    """Parse the object of a line, whose type may hold spaces and numbers; return None if numbers are missing.

    "Zone 7" and 14 numbers can be "Zone" and 15, the last a score: the reading that fits KITTI's columns counts.
    """
    words = line.split()
    # The type may be a number.
    n_numbers = next((n for n, word in enumerate(reversed(words[1:])) if not is_number(word)), len(words) - 1)
    if n_numbers < _BOX.stop:
        return None
    counts = [n for n in (_NUMBERS, _NUMBERS + 1) if n <= n_numbers] or [n_numbers]
    n_numbers = next((n for n in counts if _fits_columns(words[-n:])), counts[-1])
    return _Object(" ".join(words[:-n_numbers]), [parse_number(word) for word in words[-n_numbers:]])


def _fits_columns(words: Sequence[str]) -> bool:
    """Return whether numbers begin with truncated, occluded, alpha and box, as the development kit describes."""
    truncated, _, alpha, x1, y1, x2, y2 = (parse_number(word) for word in words[: _BOX.stop])
    shares = 0 <= truncated <= 1 or truncated == -1  # -1 and -10 mean unknown
    angles = abs(alpha) <= _LARGEST_ANGLE or alpha == _UNKNOWN_ANGLE
    return shares and words[1] in _OCCLUDED and angles and x1 <= x2 and y1 <= y2


def read(listing: Listing) -> Folder:
    """Read the images that have a text of the same name, and those beside them without one as empty ones.

    Raises:
        LabelsError: if a line has too few columns.
    """
    lines = {path: read_lines(path) for path in listing.with_suffix(".txt")}
    labels = listing.choose_texts(lines, _is_label)
    found = listing.match([Reference(label.stem, label) for label in labels])
    boxes = {path: read_boxes(label, lines[label]) for path, label in found.labels.items()}
    n_ignored = sum(box.name == _IGNORED for each in boxes.values() for box in each)
    images = [
        Image.of(path, [box for box in boxes[path] if box.name != _IGNORED], label)
        for path, label in found.labels.items()
    ]
    report = join_notes(found.report, count(n_ignored, f"boxes called {_IGNORED}, left out"))
    return Folder.of(images + found.bare, report)


def read_boxes(label: Path, lines: Sequence[Line]) -> list[Box]:
    """Read the boxes of a text.

    Raises:
        LabelsError: if a line has too few columns.
    """
    boxes = []
    for row, line in lines:
        found = _parse(line)
        if found is None:
            raise LabelsError(
                f"line {row} of {label} is not KITTI: expected a class and {_NUMBERS} numbers, of which the "
                f"4th to 7th are left, top, right and bottom; got {line[:80]!r}"
            )
        boxes.append(Box(found.name, found.numbers[_BOX]))
    return boxes


def can_name(name: str) -> bool:
    """Return whether a class is a single word other than `DontCare`; blanks separate columns."""
    return name != _IGNORED and len(name.split()) == 1


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield a text for each image, corners in hundredths of a pixel and columns about space 0."""
    for each in folder.images:
        boxes = (" ".join(f"{value:.2f}" for value in box) for box in each.xyxy.tolist())
        lines = (f"{name} {_UNKNOWN.format(box)}\n" for name, box in zip(each.names, boxes, strict=True))
        yield f"{LABELS}/{each.path.stem}.txt", "".join(lines)

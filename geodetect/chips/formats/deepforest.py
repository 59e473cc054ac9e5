"""DeepForest's CSV: a row for each box with the picture, its corners and its class, told by the names of columns.

The layout is described at https://deepforest.readthedocs.io/en/latest/user_guide/01_Reading_data.html; Roboflow
("Tensorflow Object Detection") and VoTT write the same under other names. A picture of nothing has a row of zeros, or
of blanks.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import posix
from geodetect.chips.formats.picture import Folder, Picture, counted, one_each, sentence
from geodetect.chips.formats.text import lines, number, text_of
from geodetect.errors import LabelsError

LABELS = "labels.csv"
IMAGES = "images"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_PICTURE = ("image_path", "img_path", "image", "filename", "file_name")
_CLASS = ("label", "class")
_DELIMITERS = ",;\t"  # where the decimal comma is usual, spreadsheets write semicolons


class _Row(NamedTuple):
    """A box, or none, and the size of its picture, where it is told."""

    corners: list[float] | None
    name: str
    shape: tuple[int, int] | None


def recognises(listing: Listing) -> bool:
    """Whether some CSV of the folder has columns for a picture and four corners."""
    return any(is_list_of_boxes(path) for path in listing.sample(".csv"))


def is_list_of_boxes(path: Path) -> bool:
    """Whether a file has columns for a picture and four corners."""
    told = lines(path)[:1]
    columns = _columns(told[0][1]) if told else []
    return set(_SIDES) <= set(columns) and any(name in columns for name in _PICTURE)


def _columns(header: str) -> list[str]:
    return [name.strip(' "').lower() for name in header.split(_delimiter(header))]


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=header.count)


def read(listing: Listing) -> Folder:
    """The pictures that the folder's CSV files list and that are there.

    Raises:
        LabelsError: if there is no such CSV, corners are no numbers, or two files differ about a picture.
    """
    paths = [path for path in listing.ending(".csv") if is_list_of_boxes(path)]
    if not paths:
        raise LabelsError(f"{listing.root} holds no CSV with columns image_path, {', '.join(_SIDES)} and label")
    found: list[Picture] = []
    absent = 0
    for path in paths:
        rows = _rows(path)
        files = listing.match([(name, path) for name in rows])
        found += [_picture(each, file, path) for each, file in zip(rows.values(), files, strict=True) if file]
        absent += files.count(None)
    pictures = one_each(found)
    listed = {path.parent for path in pictures}
    unlisted = sum(path.parent in listed and path not in pictures for path in listing.pictures)
    report = sentence(
        counted(absent, "pictures listed that are not there"),
        counted(unlisted, "pictures beside them that are not listed, left out"),
    )
    return Folder(list(pictures.values()), sorted({n for each in pictures.values() for n in each.names}), report)


def pictures_of(path: Path) -> list[Picture]:
    """The pictures that a CSV lists, by the names that it has for them, whether they are there or not.

    Raises:
        LabelsError: if a row is no box.
    """
    return [_picture(rows, Path(posix(name)), path) for name, rows in _rows(path).items()]


def _rows(path: Path) -> dict[str, list[_Row]]:
    """The rows of each picture by the name that the file has for it.

    Raises:
        LabelsError: if a row is no box.
    """
    text = text_of(path).lstrip()
    table = csv.reader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]))
    found: dict[str, list[_Row]] = defaultdict(list)
    try:
        columns = [name.strip().lower() for name in next(table)]
        for values in table:
            row = dict(zip(columns, (value.strip() for value in values), strict=False))
            if name := _first(row, _PICTURE):
                found[name].append(_row(row, f"line {table.line_num} of {path}"))
    except csv.Error as error:
        raise LabelsError(f"line {table.line_num} of {path} cannot be read as CSV: {error}") from error
    return found


def _row(row: dict[str, str], place: str) -> _Row:
    try:
        corners = [number(row[side]) for side in _SIDES] if any(row.get(side) for side in _SIDES) else None
        sides = [int(number(row[side])) for side in ("height", "width") if row.get(side)]
    except (KeyError, ValueError) as error:
        raise LabelsError(f"{place} is no box: expected numbers for {', '.join(_SIDES)}; got {error}") from error
    shape = (sides[0], sides[1]) if len(sides) == 2 and all(sides) else None  # noqa: PLR2004
    return _Row(corners if corners and any(corners) else None, _first(row, _CLASS) or "object", shape)


def _first(row: dict[str, str], names: Sequence[str]) -> str:
    """The value of the first of these columns that there is."""
    return next((row[name] for name in names if name in row), "")


def _picture(rows: Sequence[_Row], path: Path, label: Path) -> Picture:
    boxes = [row for row in rows if row.corners is not None]
    xyxy = np.array([row.corners for row in boxes], float).reshape(-1, 4)
    return Picture(path, xyxy, np.array([row.name for row in boxes], dtype=object), rows[0].shape, label=label)


def can_name(name: str) -> bool:
    """A CSV holds every name that is one line."""
    return True


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """`labels.csv`; its pictures are relative to it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([_PICTURE[0], *_SIDES, _CLASS[0]])
    for picture in folder.pictures:
        name = f"{IMAGES}/{picture.path.name}"
        for corners, label in zip(picture.xyxy.tolist(), picture.names, strict=True):
            table.writerow([name, *corners, label])
        if not len(picture.names):
            table.writerow([name, 0, 0, 0, 0, folder.classes[0]])
    yield LABELS, text.getvalue()

"""YOLO: a text for each picture, a line `class x y width height` for each box, in shares of its sides.

The layout is described at https://docs.ultralytics.com/datasets/detect/: classes count from 0 and
their names stand in a YAML; Darknet before it kept them in a list, one in a line. Lines with
the corners of an outline instead of a box give its bounds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from geodetect.chips.formats.listing import Listing, lines
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.errors import LabelsError

LABELS = "labels"
NAMES = "data.yaml"
_BOX = 4  # numbers of a box
_OUTLINE = 6  # and the fewest of an outline
_LISTS = ("classes.txt", "labels.txt", "names.txt")
_FAR = 2.0  # shares beyond this are pixels


def recognises(listing: Listing) -> bool:
    """Whether some text of the folder holds lines in shares."""
    return any(_looks_right(lines(path)) for path in listing.sample(".txt"))


def _looks_right(told: list[tuple[int, str]]) -> bool:
    return bool(told) and _numbers(told[0][1]) is not None


def _numbers(line: str) -> list[float] | None:
    """A class and at least the four numbers of a box, all shares; None where the line holds anything else."""
    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        return None
    right = len(values) > _BOX and values[0].is_integer() and all(abs(value) <= _FAR for value in values[1 : 1 + _BOX])
    return values if right else None


def read(listing: Listing) -> Folder:
    """The pictures that have a text of the same name, and as empty ones those beside them without one.

    Raises:
        LabelsError: if a line cannot be read, or the file of names.
    """
    names_file = _names_file(listing)
    names, is_pose = _names(names_file)
    texts = {path: lines(path) for path in listing.ending(".txt") if path != names_file}
    labels = [path for path, told in texts.items() if _looks_right(told) or listing.has_picture(path.stem)]
    found = listing.match([(label.stem, label) for label in labels])
    lost: Counter[str] = Counter()
    pictures = [
        _picture(label, texts[label], file, names, is_pose=is_pose, lost=lost)
        for label, file in zip(labels, found, strict=True)
        if file is not None
    ]
    bare = listing.unlabelled(each.path for each in pictures)
    seen = {name for each in pictures for name in each.names}
    report = sentence(
        "" if names else "no file names the classes, so they are called by their numbers",
        counted(found.count(None), "texts whose picture is not there"),
        counted(len(bare), "pictures without a text, taken as empty"),
        *(counted(n, what) for what, n in lost.items()),
    )
    others = sorted(seen - set(names.values()), key=lambda name: (len(name), name))
    values = tuple((str(number), name) for number, name in names.items())
    return Folder(pictures + bare, [*dict.fromkeys(names.values()), *others], report, values=values)


def _names_file(listing: Listing) -> Path | None:
    """The YAML with `names`, else Darknet's list; None without any."""
    for path in listing.ending(".yaml", ".yml"):
        if b"names" in path.read_bytes():
            return path
    lists = [path for path in listing.files if path.suffix == ".names" or path.name in _LISTS]
    return next((path for path in lists if not _looks_right(lines(path))), None)


def _names(path: Path | None) -> tuple[dict[int, str], bool]:
    """The classes by their numbers, and whether lines hold key points after the box."""
    if path is None:
        return {}, False
    if path.suffix not in (".yaml", ".yml"):
        return {i: name for i, (_, name) in enumerate(lines(path))}, False
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
        names = content["names"]
        pairs: Any = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(number): str(name) for number, name in pairs}, "kpt_shape" in content
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise LabelsError(
            f"{path} does not name classes: expected `names` with a list, or a name for each number; got {error!r}"
        ) from error


def _picture(
    label: Path,
    told: list[tuple[int, str]],
    path: Path,
    names: dict[int, str],
    *,
    is_pose: bool,
    lost: Counter[str],
) -> Picture:
    """What the lines of the text `label` say of the picture `path`, in shares of its sides.

    Raises:
        LabelsError: if a line is not made of such numbers; the message gives its own.
    """
    classes: list[str] = []
    boxes: list[np.ndarray] = []
    for number, line in told:
        values = _numbers(line)
        if values is None:
            raise LabelsError(
                f"line {number} of {label} is not YOLO: expected the number of a class and x, y, width and height "
                f"as shares of the picture; got {line[:80]!r}"
            )
        is_outline = not is_pose and len(values) > _OUTLINE and len(values) % 2 == 1
        lost["lines with corners instead of a box, whose bounds are taken"] += is_outline
        boxes.append(_bounds(values[1:]) if is_outline else _corners(values[1 : 1 + _BOX]))
        classes.append(names.get(int(values[0]), str(int(values[0]))))
        lost["boxes of classes without a name, called by their number"] += bool(names) and int(values[0]) not in names
    return Picture(path, np.array(boxes).reshape(-1, 4), np.array(classes, dtype=object), relative=True)


def _bounds(outline: list[float]) -> np.ndarray:
    xy = np.array(outline).reshape(-1, 2)
    return np.concatenate([xy.min(axis=0), xy.max(axis=0)])


def _corners(box: list[float]) -> np.ndarray:
    """Corners of a box given by its centre, width and height."""
    x, y, width, height = box
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def can_name(name: str) -> bool:
    """YAML in the manner of JSON holds every name."""
    return True


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """`data.yaml` and a text for each picture, in millionths of its sides."""
    # A JSON string is a YAML string too, whatever it holds.
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(folder.classes))
    yield NAMES, f"path: .\ntrain: images\nval: images\nnames:\n{names}"
    number = {name: i for i, name in enumerate(folder.classes)}
    for picture in folder.pictures:
        assert picture.shape is not None
        height, width = picture.shape
        corners = picture.xyxy / (width, height, width, height)
        centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        rows = zip(picture.names, np.concatenate([centres, sides], axis=1).tolist(), strict=True)
        told = (f"{number[name]} {' '.join(f'{share:.6f}' for share in box)}\n" for name, box in rows)
        yield f"{LABELS}/{picture.path.stem}.txt", "".join(told)

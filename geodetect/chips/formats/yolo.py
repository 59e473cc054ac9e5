"""YOLO: a text for each picture, a line `class x y width height` for each box, in shares of its sides.

The layout is described at https://docs.ultralytics.com/datasets/detect/: classes count from 0 and
their names stand in a YAML; Darknet before it kept them in a list, one in a line. Lines with
the corners of an outline instead of a box give its bounds.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.picture import TRAIN, VALID, Folder, Picture, counted, sentence
from geodetect.chips.formats.text import content_of, lines, number, text_of
from geodetect.errors import LabelsError

IMAGES, LABELS, NAMES = "images", "labels", "data.yaml"
_BOX = 4  # numbers of a box
_OUTLINE = 6  # and the fewest of an outline
_YAML = (".yaml", ".yml")
_NAMES = re.compile(rb"""^["']?names["']?\s*:""", re.MULTILINE)
_LISTS = ("classes.txt", "labels.txt", "names.txt")
_SHOWN = 200  # characters of what a library says
_KEYS = ("train", "val")  # what Ultralytics calls the parts
_FAR = 2.0  # shares beyond this are pixels


def recognises(listing: Listing) -> bool:
    """Whether some text of the folder holds lines in shares."""
    return any(_looks_right(lines(path)) for path in listing.sample(".txt"))


def _looks_right(told: list[tuple[int, str]]) -> bool:
    return bool(told) and _numbers(told[0][1]) is not None


def _numbers(line: str) -> list[float] | None:
    """A class and at least the four numbers of a box, all shares; None where the line holds anything else."""
    try:
        values = [number(word) for word in line.split()]
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
    labels = [path for path, told in texts.items() if _looks_right(told) or listing.called(path.stem)]
    found = listing.matched([(label.stem, label) for label in labels], "texts", "a text")
    lost: Counter[str] = Counter()
    pictures = [
        _picture(label, texts[label], file, names, is_pose=is_pose, lost=lost)
        for label, file in zip(labels, found.files, strict=True)
        if file is not None
    ]
    seen = {name for each in pictures for name in each.names}
    report = sentence(
        "" if names else "no file names the classes, so they are called by their numbers",
        found.report,
        *(counted(n, what) for what, n in lost.items()),
    )
    others = sorted(seen - set(names.values()), key=lambda name: (len(name), name))
    values = tuple((str(number), name) for number, name in names.items())
    return Folder(pictures + found.bare, [*dict.fromkeys(names.values()), *others], report, values=values)


def _names_file(listing: Listing) -> Path | None:
    """The YAML with `names`, else Darknet's list; None without any. It may lie one folder up, beside the parts."""
    above = listing.root.absolute().parent
    beside = sorted(above.iterdir()) if os.access(above, os.R_OK | os.X_OK) else []
    for files, lists in ((listing.files, _LISTS), ([path for path in beside if path.is_file()], _LISTS[:1])):
        for path in files:
            if path.suffix.lower() in _YAML and _NAMES.search(content_of(path)):
                return path
        for path in files:
            if (path.suffix.lower() == ".names" or path.name.lower() in lists) and not _looks_right(lines(path)):
                return path
    return None


def _names(path: Path | None) -> tuple[dict[int, str], bool]:
    """The classes by their numbers, and whether lines hold key points after the box."""
    if path is None:
        return {}, False
    if path.suffix.lower() not in _YAML:
        return {i: name for i, (_, name) in enumerate(lines(path))}, False
    try:
        content = yaml.load(text_of(path), yaml.BaseLoader)  # texts as they stand: "no" is a name, and no truth value
        names = content["names"]
        numbered = dict(enumerate(names)) if isinstance(names, list) else dict(names)
        return {int(i): str(name) for i, name in numbered.items()}, "kpt_shape" in content
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise LabelsError(
            f"{path} does not name classes: expected `names` with a list, or a name for each number; "
            f"got {' '.join(str(error).split())[:_SHOWN]}"
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
    for row, line in told:
        values = _numbers(line)
        if values is None:
            raise LabelsError(
                f"line {row} of {label} is not YOLO: expected the number of a class and x, y, width and height "
                f"as shares of the picture; got {line[:80]!r}"
            )
        is_outline = not is_pose and len(values) > _OUTLINE and len(values) % 2 == 1
        lost["lines with corners instead of a box, whose bounds are taken"] += is_outline
        boxes.append(_bounds(values[1:]) if is_outline else _corners(values[1 : 1 + _BOX]))
        classes.append(names.get(int(values[0]), str(int(values[0]))))
        lost["boxes of classes without a name, called by their number"] += bool(names) and int(values[0]) not in names
    xyxy = np.array(boxes).reshape(-1, 4)
    return Picture(path, xyxy, np.array(classes, dtype=object), relative=True, label=label)


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
    """`data.yaml`, lists of both parts where there are two, and a text for each picture, in millionths of its sides.

    Without `path` in it Ultralytics opens `data.yaml` from any folder: paths are then relative to the file itself.
    """
    listed = {part: [each for each in folder.pictures if each.part == part] for part in (TRAIN, VALID)}
    train, valid = (f"{key}.txt" for key in _KEYS) if all(listed.values()) else (IMAGES, IMAGES)
    # A JSON string is a YAML string too, whatever it holds.
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(folder.classes))
    yield NAMES, f"train: {train}\nval: {valid}\nnames:\n{names}"
    if all(listed.values()):
        for key, pictures in zip(_KEYS, listed.values(), strict=True):
            yield f"{key}.txt", "".join(f"./{IMAGES}/{each.path.name}\n" for each in pictures)
    numbers = {name: i for i, name in enumerate(folder.classes)}
    for picture in folder.pictures:
        assert picture.shape is not None
        height, width = picture.shape
        corners = picture.xyxy / (width, height, width, height)
        centres, sides = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        rows = zip(picture.names, np.concatenate([centres, sides], axis=1).tolist(), strict=True)
        told = (f"{numbers[name]} {' '.join(f'{share:.6f}' for share in box)}\n" for name, box in rows)
        yield f"{LABELS}/{picture.path.stem}.txt", "".join(told)

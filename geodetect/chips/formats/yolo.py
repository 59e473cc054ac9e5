"""YOLO: a text for each image, a line `class x y width height` for each box, as fractions of the image size.

YOLO-OBB: lines `class x1 y1 x2 y2 x3 y3 x4 y4` (https://docs.ultralytics.com/datasets/obb/).

The layout is described at https://docs.ultralytics.com/datasets/detect/: classes count from 0 and a YAML holds
their names; Darknet before it kept them in a list, one a line. Lines with the corners of an outline instead of a box
have its bounds as box.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from jaxtyping import Float

from geodetect.chips.formats.image import TRAIN, VALID, Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing, Reference
from geodetect.chips.formats.text import Line, parse_number, read_bytes, read_lines, read_text
from geodetect.errors import LabelsError

IMAGES, LABELS, NAMES = "images", "labels", "data.yaml"
_BOX = 4  # numbers of a box
_OUTLINE = 6  # and the fewest of an outline
_CORNERS = 8  # numbers of four corners
_SCORED_CORNERS = 10  # numbers of a line: a class, four corners, and a score as in files of detections
_YAML = (".yaml", ".yml")
_NAMES = re.compile(rb"""^["']?names["']?\s*:""", re.MULTILINE)
_LISTS = ("classes.txt", "labels.txt", "names.txt")
_SHOWN = 200  # characters of a library's message
_KEYS = ("train", "val")  # Ultralytics' names of the parts
_FAR = 2.0  # shares beyond this are pixels


class _Classes(NamedTuple):
    """Class names by number.

    Args:
        path: the file that holds them; None without one.
        names: by number.
        key_points: whether lines hold key points after the box.
    """

    path: Path | None
    names: dict[int, str]
    key_points: bool = False

    @classmethod
    def find(cls, listing: Listing) -> _Classes:
        """Read the YAML with `names`, else Darknet's list. It may lie one folder up, beside the parts."""
        above = listing.root.absolute().parent
        beside = sorted(above.iterdir()) if os.access(above, os.R_OK | os.X_OK) else []
        for files, lists in ((listing.files, _LISTS), ([path for path in beside if path.is_file()], _LISTS[:1])):
            for path in files:
                if path.suffix.lower() in _YAML and _NAMES.search(read_bytes(path)):
                    return cls.read(path)
            for path in files:
                if path.suffix.lower() == ".names" or path.name.lower() in lists:
                    lines = read_lines(path)
                    if not _is_label(lines):
                        return cls(path, {i: line.text for i, line in enumerate(lines)})
        return cls(None, {})

    @classmethod
    def read(cls, path: Path) -> _Classes:
        """Read a YAML with `names`.

        Raises:
            LabelsError: if it is not valid.
        """
        try:
            content = yaml.load(read_text(path), yaml.BaseLoader)  # strings as they stand: "no" is a name, not False
            names = content["names"]
            numbered = dict(enumerate(names)) if isinstance(names, list) else dict(names)
            return cls(path, {int(i): str(name) for i, name in numbered.items()}, "kpt_shape" in content)
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise LabelsError(
                f"{path} does not name classes: expected `names` with a list, or a name for each number; "
                f"got {' '.join(str(error).split())[:_SHOWN]}"
            ) from error


def recognises(listing: Listing) -> bool:
    """Return whether some text of the folder holds lines in shares, not all of them with four corners."""
    return bool(_sample(listing)) and not recognises_corners(listing)


def recognises_corners(listing: Listing) -> bool:
    """Return whether all lines of the folder's texts have four corners in shares."""
    lines = [line.text.split() for text in _sample(listing) for line in text]
    return bool(lines) and all(map(_has_corners, lines)) and not _Classes.find(listing).key_points


def _sample(listing: Listing) -> list[list[Line]]:
    return [lines for path in listing.sample(".txt") if _is_label(lines := read_lines(path))]


def _has_corners(words: Sequence[str]) -> bool:
    return len(words) in (1 + _CORNERS, _SCORED_CORNERS)


def _is_label(lines: Sequence[Line]) -> bool:
    return bool(lines) and _parse(lines[0].text) is not None


def _parse(line: str) -> list[float] | None:
    """Parse a class and the four fractions of a box, perhaps with more; return None for any other line."""
    try:
        values = [parse_number(word) for word in line.split()]
    except ValueError:
        return None
    right = len(values) > _BOX and values[0].is_integer() and all(abs(value) <= _FAR for value in values[1 : 1 + _BOX])
    return values if right else None


def read_corners(listing: Listing) -> Folder:
    """Read as `read` does, each line with four corners.

    Raises:
        LabelsError: if a line cannot be read or is made of anything else, or the file of names.
    """
    return read(listing, corners=True)


def read(listing: Listing, *, corners: bool = False) -> Folder:
    """Read the images that have a text of the same name, and those beside them without one as empty ones.

    Args:
        listing: the files of the folder.
        corners: whether every line must have four corners.

    Raises:
        LabelsError: if a line cannot be read, or the file of names.
    """
    classes = _Classes.find(listing)
    lines = {path: read_lines(path) for path in listing.with_suffix(".txt") if path != classes.path}
    labels = listing.choose_texts(lines, _is_label)
    found = listing.match([Reference(label.stem, label) for label in labels])
    lost: Counter[str] = Counter()
    if corners:
        _check_corners({label: lines[label] for label in found.labels.values()})
    images = [
        Image.of(path, _read_boxes(label, lines[label], classes, lost), label, relative=True)
        for path, label in found.labels.items()
    ]
    report = join_notes(
        "" if classes.names else "no file names the classes, so they are called by their numbers",
        found.report,
        *(count(n, what) for what, n in lost.items()),
    )
    unnamed = {name for image in images for name in image.names} - set(classes.names.values())
    values = [(str(number), name) for number, name in classes.names.items()]
    values += [(number, number) for number in sorted(unnamed, key=lambda number: (len(number), number))]
    n_outlines = sum(outline is not None for image in images for outline in image.outlines or ())
    upright_note = count(n_outlines, "lines with corners instead of a box, whose bounds are taken")
    return replace(Folder.of(images + found.bare, report, values), upright_note=upright_note)


def _read_boxes(label: Path, lines: Sequence[Line], classes: _Classes, lost: Counter[str]) -> Iterator[Box]:
    """Read the boxes of a text, in shares of the image's sides.

    Raises:
        LabelsError: if a line is not made of such numbers.
    """
    for row, line in lines:
        values = _parse(line)
        if values is None:
            raise LabelsError(
                f"line {row} of {label} is not YOLO: expected the number of a class and x, y, width and height "
                f"as shares of the image; got {line[:80]!r}"
            )
        number = int(values[0])
        lost["boxes of classes without a name, called by their number"] += bool(classes.names) and (
            number not in classes.names
        )
        name = classes.names.get(number, str(number))
        is_outline = len(values) == _SCORED_CORNERS or (len(values) > _OUTLINE and len(values) % 2 == 1)
        if is_outline and not classes.key_points:
            yield Box.around(name, values[1:-1] if len(values) == _SCORED_CORNERS else values[1:])
        else:
            x, y, width, height = values[1 : 1 + _BOX]
            yield Box(name, [x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def _check_corners(texts: Mapping[Path, Sequence[Line]]) -> None:
    """Raise for a line that does not have four corners.

    Raises:
        LabelsError: if there is one.
    """
    for label, lines in texts.items():
        for row, line in lines:
            words = line.split()
            if not _has_corners(words):
                raise LabelsError(
                    f"line {row} of {label} is not YOLO-OBB: expected the number of a class, then {_CORNERS} numbers, "
                    f"the x and y of four corners as shares of the image; got {len(words) - 1} in {line[:80]!r}"
                )


def render_corners(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield as `render` does, with the four corners of each box."""
    return render(folder, corners=True)


def render(folder: Folder, *, corners: bool = False) -> Iterator[tuple[str, str]]:
    """Yield `data.yaml`, lists of both parts if there are two, and a text for each image, with six decimals.

    Without `path` in it Ultralytics opens `data.yaml` from any folder: paths are then relative to the file itself.
    """
    listed = {part: [each for each in folder.images if each.part == part] for part in (TRAIN, VALID)}
    train, valid = (f"{key}.txt" for key in _KEYS) if all(listed.values()) else (IMAGES, IMAGES)
    # Every JSON string is a YAML string too.
    names = "".join(f"  {i}: {json.dumps(name, ensure_ascii=False)}\n" for i, name in enumerate(folder.classes))
    yield NAMES, f"train: {train}\nval: {valid}\nnames:\n{names}"
    if all(listed.values()):
        for key, images in zip(_KEYS, listed.values(), strict=True):
            yield f"{key}.txt", "".join(f"./{IMAGES}/{each.path.name}\n" for each in images)
    numbers = {name: i for i, name in enumerate(folder.classes)}
    for image in folder.images:
        assert image.shape is not None
        height, width = image.shape
        if corners:
            shares = _shrink(image.corners / np.tile((width, height), 4))
        else:
            xyxy = image.xyxy / (width, height, width, height)
            shares = np.concatenate([(xyxy[:, :2] + xyxy[:, 2:]) / 2, xyxy[:, 2:] - xyxy[:, :2]], axis=1)
        rows = zip(image.names, shares.tolist(), strict=True)
        lines = (f"{numbers[name]} {' '.join(f'{share:.6f}' for share in each)}\n" for name, each in rows)
        yield f"{LABELS}/{image.path.stem}.txt", "".join(lines)


def _shrink(shares: Float[np.ndarray, "N 8"]) -> Float[np.ndarray, "N 8"]:
    """Return rectangles whose bounds are no larger than the image, shrunk about their centres if they were.

    Ultralytics leaves out every image with a larger one. A road across an image has a rectangle that reaches beyond it.
    """
    corners = shares.reshape(-1, 4, 2)
    centres = corners.mean(axis=1, keepdims=True)
    factor = 1 / np.maximum(np.ptp(corners, axis=1).max(axis=1), 1)[:, None, None]
    return np.asarray((centres + factor * (corners - centres)).reshape(-1, 8))

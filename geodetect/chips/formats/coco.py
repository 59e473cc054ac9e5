"""COCO: one JSON with images, annotations and categories; boxes are x, y, width, height.

The layout is described at https://cocodataset.org/#format-data. Category ids are taken as
they come (0 is a class too), file names may hold sub-folders, and a folder may hold several
such files. Crowds are boxes like others: many tools call every object one that has a mask.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geodetect.boxes import from_xywh, to_xywh
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import word
from geodetect.chips.formats.picture import Folder, Picture, counted, one_each, sentence
from geodetect.chips.formats.text import content_of, text_of
from geodetect.errors import LabelsError

LABELS = "labels.json"
INSTANCES = "annotations/instances_default.json"  # what CVAT and datumaro look for
_PARTS = ("images", "annotations", "categories")


class _Named(NamedTuple):
    """A box, x, y, width and height, and its class."""

    bbox: list[float]
    name: str


def recognises(listing: Listing) -> bool:
    """Whether some JSON of the folder has COCO's three lists."""
    return any(_looks_right(path) for path in listing.sample(".json"))


def _looks_right(path: Path) -> bool:
    try:
        content = content_of(path)
    except LabelsError:
        return False
    return all(f'"{part}"'.encode() in content for part in _PARTS)


def read(listing: Listing) -> Folder:
    """The pictures that the folder's COCO files list and that are there.

    Raises:
        LabelsError: if there is no COCO file, an entry lacks what it needs, or two files differ about a picture.
    """
    paths = [path for path in listing.ending(".json") if _looks_right(path)]
    if not paths:
        raise LabelsError(f"{listing.root} holds no COCO labels: expected a JSON file with {', '.join(_PARTS)}")
    paths.sort(key=lambda path: (not _of_instances(path), not word(path.stem), path.name != LABELS, path))
    parts = [part for path in paths if (part := _read_file(path, listing)) is not None]
    boxed = [part for part in parts if any(len(picture.names) for picture in part.pictures)]
    chosen = boxed or parts
    pictures = one_each((picture for part in chosen for picture in part.pictures), settled=_of_instances)
    listed = {path.parent for path in pictures}
    unlisted = sum(path.parent in listed and path not in pictures for path in listing.pictures)
    report = sentence(
        *(part.report for part in chosen),
        counted(unlisted, "pictures beside them that are not listed, left out"),
    )
    classes = dict.fromkeys(name for part in chosen for name in part.classes)
    values = tuple(pair for part in chosen for pair in part.values)
    return Folder([pictures[path] for path in sorted(pictures)], list(classes), report, values=values)


def _of_instances(path: Path) -> bool:
    """Whether a file is called as COCO calls that of objects, beside which others are of the same pictures."""
    return path.name.lower().startswith("instances")


def _read_file(path: Path, listing: Listing) -> Folder | None:
    """One COCO file; None where the JSON is something else after all."""
    try:
        content = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{path} is no complete JSON file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in _PARTS):
        return None
    try:
        return _folder(content, path, listing)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LabelsError(
            f"{path} is not complete COCO: each image needs id and file_name, each annotation image_id, "
            f"category_id and bbox of four numbers, each category id and name; stopped at {error!r}"
        ) from error


def _folder(content: dict[str, Any], path: Path, listing: Listing) -> Folder:
    categories = sorted(content["categories"], key=lambda each: (str(type(each["id"])), each["id"]))
    names = {str(category["id"]): _text(category["name"]) for category in categories}
    boxes: dict[Any, list[_Named]] = defaultdict(list)
    boxless = 0
    for annotation in content["annotations"]:
        bbox = _bbox(annotation)
        if bbox is None:
            boxless += 1
        else:
            boxes[str(annotation["image_id"])].append(_Named(bbox, names[str(annotation["category_id"])]))
    images: dict[str, dict[str, Any]] = {}
    listed: dict[str, list[_Named]] = defaultdict(list)  # of one picture that is listed twice, all boxes
    for image in content["images"]:
        images.setdefault(_text(image["file_name"]), image)
        listed[_text(image["file_name"])] += boxes[str(image["id"])]
    files = listing.match([(name, path) for name in images])
    there = [
        _picture(image, listed[name], file, path)
        for (name, image), file in zip(images.items(), files, strict=True)
        if file is not None
    ]
    absent, known = len(images) - len(there), {str(image["id"]) for image in content["images"]}
    stray = sum(len(found) for image_id, found in boxes.items() if image_id not in known)
    report = sentence(
        f"{absent:,} of {len(images):,} pictures listed in {path.name} are not there" if absent else "",
        counted(boxless, f"annotations of {path.name} without a box"),
        counted(stray, f"boxes of {path.name} that belong to no picture"),
    )
    return Folder(there, list(dict.fromkeys(names.values())), report, values=tuple(names.items()))


def _text(value: Any) -> str:
    """A name, which some write as a number.

    Raises:
        TypeError: if it is neither.
    """
    if not isinstance(value, str | int | float):
        raise TypeError(f"a name is a text; got {value!r}")
    return str(value)


def _bbox(annotation: dict[str, Any]) -> list[float] | None:
    """x, y, width and height of an object, from its outline where it has no box; None without either."""
    if annotation.get("bbox"):
        return list(annotation["bbox"])
    outline = annotation.get("segmentation")
    if not isinstance(outline, list) or not outline:
        return None
    xy = np.concatenate([np.array(ring, float).reshape(-1, 2) for ring in outline])
    return [*xy.min(axis=0), *np.ptp(xy, axis=0)]


def _picture(image: dict[str, Any], boxes: list[_Named], path: Path, label: Path) -> Picture:
    xywh = np.array([each.bbox for each in boxes], float).reshape(-1, 4)
    height, width = image.get("height"), image.get("width")
    shape = (int(height), int(width)) if height and width else None
    return Picture(path, from_xywh(xywh), np.array([each.name for each in boxes], dtype=object), shape, label=label)


def can_name(name: str) -> bool:
    """JSON holds every name."""
    return True


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """`labels.json`, and the same where CVAT and datumaro look for it.

    Ids count from 1, file names are relative to `images`, outlines are those of the boxes.
    """
    ids = {name: i for i, name in enumerate(folder.classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(folder.pictures, start=1):
        height, width = picture.shape or (None, None)
        images.append({"id": image_id, "file_name": picture.path.name, "width": width, "height": height})
        for (x, y, w, h), name in zip(to_xywh(picture.xyxy).tolist(), picture.names, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": ids[name],
                    "bbox": [x, y, w, h],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    content = json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1)
    yield LABELS, content
    yield INSTANCES, content

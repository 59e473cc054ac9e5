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
from typing import Any

import numpy as np

from geodetect.boxes import from_xywh, to_xywh
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.errors import LabelsError

LABELS = "labels.json"
IMAGES = "images"
_PARTS = ("images", "annotations", "categories")


def recognises(listing: Listing) -> bool:
    """Whether some JSON of the folder has COCO's three lists."""
    return any(_looks_right(path) for path in listing.sample(".json"))


def _looks_right(path: Path) -> bool:
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return all(f'"{part}"'.encode() in content for part in _PARTS)


def read(listing: Listing) -> Folder:
    """The pictures that the folder's COCO files list and that are there.

    Raises:
        LabelsError: if there is no COCO file, or an entry lacks what it needs.
    """
    paths = [path for path in listing.ending(".json") if _looks_right(path)]
    if not paths:
        raise LabelsError(f"{listing.root} holds no COCO labels: expected a JSON file with {', '.join(_PARTS)}")
    paths.sort(key=lambda path: (path.name != LABELS, not path.name.startswith("instances"), path))
    parts = [part for path in paths if (part := _read_file(path, listing)) is not None]
    boxed = [part for part in parts if any(len(picture.names) for picture in part.pictures)]
    chosen = boxed or parts
    pictures = {picture.path: picture for part in reversed(chosen) for picture in reversed(part.pictures)}
    again = sum(len(part.pictures) for part in chosen) - len(pictures)
    listed = {path.parent for path in pictures}
    unlisted = sum(path.parent in listed and path not in pictures for path in listing.pictures)
    report = sentence(
        *(part.report for part in chosen),
        counted(again, "pictures that several files list, of which the first counts"),
        counted(unlisted, "pictures beside them that are not listed, left out"),
    )
    classes = dict.fromkeys(name for part in chosen for name in part.classes)
    values = tuple(pair for part in chosen for pair in part.values)
    return Folder([pictures[path] for path in sorted(pictures)], list(classes), report, values=values)


def _read_file(path: Path, listing: Listing) -> Folder | None:
    """One COCO file; None where the JSON is something else after all."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise LabelsError(f"{path} is no complete JSON file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in _PARTS):
        return None
    try:
        return _folder(content, path, listing)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LabelsError(
            f"{path} is not complete COCO: each image needs id and file_name, each annotation image_id, "
            f"category_id and bbox of four numbers, each category id and name; stopped at {error!r}"
        ) from error


def _folder(content: dict[str, Any], path: Path, listing: Listing) -> Folder:
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    boxes: dict[Any, list[tuple[list[float], str]]] = defaultdict(list)
    boxless = 0
    for annotation in content["annotations"]:
        bbox = _bbox(annotation)
        if bbox is None:
            boxless += 1
        else:
            boxes[annotation["image_id"]].append((bbox, names[annotation["category_id"]]))
    images = content["images"]
    files = listing.match([(str(image["file_name"]), path) for image in images])
    there = [
        _picture(image, boxes[image["id"]], file) for image, file in zip(images, files, strict=True) if file is not None
    ]
    absent, known = len(images) - len(there), {image["id"] for image in images}
    stray = sum(len(found) for key, found in boxes.items() if key not in known)
    report = sentence(
        f"{absent:,} of {len(images):,} pictures listed in {path.name} are not there" if absent else "",
        counted(boxless, f"annotations of {path.name} without a box"),
        counted(stray, f"boxes of {path.name} that belong to no picture"),
    )
    classes = [names[key] for key in sorted(names, key=lambda key: (str(type(key)), key))]
    values = tuple((str(key), name) for key, name in names.items())
    return Folder(there, list(dict.fromkeys(classes)), report, values=values)


def _bbox(annotation: dict[str, Any]) -> list[float] | None:
    """x, y, width and height of an object, from its outline where it has no box; None without either."""
    if annotation.get("bbox"):
        return list(annotation["bbox"])
    outline = annotation.get("segmentation")
    if not isinstance(outline, list) or not outline:
        return None
    xy = np.concatenate([np.array(ring, float).reshape(-1, 2) for ring in outline])
    return [*xy.min(axis=0), *np.ptp(xy, axis=0)]


def _picture(image: dict[str, Any], boxes: list[tuple[list[float], str]], path: Path) -> Picture:
    xywh = np.array([box for box, _ in boxes], float).reshape(-1, 4)
    height, width = image.get("height"), image.get("width")
    shape = (int(height), int(width)) if height and width else None
    return Picture(path, from_xywh(xywh), np.array([name for _, name in boxes], dtype=object), shape)


def can_name(name: str) -> bool:
    """JSON holds every name."""
    return True


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """`labels.json` with its text; ids count from 1, file names are relative to `images`."""
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
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for name, i in ids.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    yield LABELS, json.dumps(content, indent=1)

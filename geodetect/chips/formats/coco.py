"""COCO: one JSON with images, annotations and categories; boxes are x, y, width, height.

The layout is described at https://cocodataset.org/#format-data. Category ids are taken as
they come (0 is a class too), and file names may hold sub-folders.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geodetect.boxes import from_xywh, to_xywh
from geodetect.chips.formats.picture import Folder, Picture
from geodetect.errors import LabelsError

LABELS = "labels.json"
IMAGES = "images"
_PARTS = ("images", "annotations", "categories")


def find(folder: Path) -> Path | None:
    """The folder's COCO file: `labels.json`, else the first JSON in it or one below that has COCO's three lists."""
    candidates = [folder / LABELS, *sorted(folder.glob("*.json")), *sorted(folder.glob("*/*.json"))]
    return next((path for path in candidates if path.is_file() and _looks_right(path)), None)


def _looks_right(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return False
    return isinstance(content, dict) and all(isinstance(content.get(part), list) for part in _PARTS)


def read(folder: Path) -> Folder:
    """The pictures that the folder's COCO file lists and that are there.

    Raises:
        LabelsError: if there is no COCO file, an entry lacks what it needs, or no picture is there.
    """
    path = find(folder)
    if path is None:
        raise LabelsError(f"{folder} holds no COCO labels: expected a JSON file with the lists {', '.join(_PARTS)}")
    content = json.loads(path.read_text(encoding="utf-8-sig"))
    try:
        return _folder(content, path)
    except (KeyError, TypeError, ValueError) as error:
        raise LabelsError(
            f"{path} is not complete COCO: each image needs id and file_name, each annotation image_id, "
            f"category_id and bbox of four numbers, each category id and name; stopped at {error!r}"
        ) from error


def _folder(content: dict[str, Any], path: Path) -> Folder:
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    boxes: dict[Any, list[tuple[list[float], str]]] = defaultdict(list)
    for annotation in content["annotations"]:
        boxes[annotation["image_id"]].append((annotation["bbox"], names[annotation["category_id"]]))
    pictures = [_picture(image, boxes[image["id"]], path.parent) for image in content["images"]]
    there = [picture for picture in pictures if picture.path.is_file()]
    if not there:
        raise LabelsError(
            f"{path} lists {len(pictures)} picture(s), and none of them is in {path.parent} or {path.parent / IMAGES}"
        )
    absent = len(pictures) - len(there)
    report = f"{absent} of {len(pictures)} pictures listed in {path.name} are not there" if absent else ""
    classes = [names[key] for key in sorted(names, key=lambda key: (str(type(key)), key))]
    return Folder(there, list(dict.fromkeys(classes)), report)


def _picture(image: dict[str, Any], boxes: list[tuple[list[float], str]], root: Path) -> Picture:
    xywh = np.array([box for box, _ in boxes], float).reshape(-1, 4)
    height, width = image.get("height"), image.get("width")
    shape = (int(height), int(width)) if height and width else None
    names = np.array([name for _, name in boxes], dtype=object)
    return Picture(_locate(root, str(image["file_name"])), from_xywh(xywh), names, shape)


def _locate(root: Path, file_name: str) -> Path:
    """Where a listed picture lies: beside the JSON, in `images`, or in either's parent folder."""
    name = file_name.replace("\\", "/")
    places = [root / name, root / IMAGES / name, root.parent / name, root.parent / IMAGES / name]
    return next((place for place in places if place.is_file()), places[0])


def text(pictures: Iterable[Picture], classes: Sequence[str]) -> str:
    """The COCO file of these pictures; ids count from 1, file names are relative to `images`."""
    ids = {name: i for i, name in enumerate(classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, picture in enumerate(pictures, start=1):
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
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=1)

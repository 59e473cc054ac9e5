"""COCO: one JSON with images, annotations and categories; boxes are x, y, width, height.

The layout is described at https://cocodataset.org/#format-data. Category ids are taken as they are (0 is a class too),
file names may contain sub-folders, and a folder may hold several such files. Crowds are boxes like others: many tools
mark every object with a mask as one.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geodetect.boxes import from_xywh, to_xywh
from geodetect.chips.formats.image import Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.masks import outline_mask
from geodetect.chips.formats.names import parse_part
from geodetect.chips.formats.text import read_bytes, read_text
from geodetect.errors import LabelsError

LABELS = "labels.json"
INSTANCES = "annotations/instances_default.json"  # what CVAT and datumaro search
_PARTS = ("images", "annotations", "categories")


def recognises(listing: Listing) -> bool:
    """Return whether some JSON of the folder has COCO's three lists."""
    return any(_is_label(path) for path in listing.sample(".json"))


def _is_label(path: Path) -> bool:
    try:
        content = read_bytes(path)
    except LabelsError:
        return False
    return all(f'"{part}"'.encode() in content for part in _PARTS)


def read(listing: Listing) -> Folder:
    """Read the images that the folder's COCO files list and that exist.

    Raises:
        LabelsError: if there is no COCO file, an entry is incomplete, or two files differ about an image.
    """
    paths = [path for path in listing.with_suffix(".json") if _is_label(path)]
    if not paths:
        raise LabelsError(f"{listing.root} holds no COCO labels: expected a JSON file with {', '.join(_PARTS)}")
    paths.sort(key=lambda path: (not _holds_instances(path), not parse_part(path.stem), path.name != LABELS, path))
    parts = [part for path in paths if (part := _read_file(path, listing)) is not None]
    boxed = [part for part in parts if any(len(image.names) for image in part.images)]
    found = Folder.join(boxed or parts)
    images, note = listing.merge(found.images, settled=_holds_instances)
    images.sort(key=lambda image: image.path)
    return replace(found, images=images, report=join_notes(found.report, note))


def _holds_instances(path: Path) -> bool:
    """Whether a file has COCO's name for objects; others beside it are of the same images."""
    return path.name.lower().startswith("instances")


def _read_file(path: Path, listing: Listing) -> Folder | None:
    """Read a COCO file; None if the JSON is something else after all."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise LabelsError(f"{path} is no complete JSON file: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(part), list) for part in _PARTS):
        return None
    try:
        return _read_content(content, path, listing)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise LabelsError(
            f"{path} is not complete COCO: each image needs id and file_name, each annotation image_id, "
            f"category_id and bbox of four numbers, each category id and name; stopped at {error!r}"
        ) from error


def _read_content(content: dict[str, Any], path: Path, listing: Listing) -> Folder:
    categories = sorted(content["categories"], key=lambda each: (str(type(each["id"])), each["id"]))
    names = {str(category["id"]): _as_name(category["name"]) for category in categories}
    boxes: dict[str, list[Box]] = defaultdict(list)  # still x, y, width and height
    boxless = 0
    for annotation in content["annotations"]:
        bbox, outline = annotation.get("bbox"), annotation.get("segmentation")
        if not bbox and outline and isinstance(outline, dict):
            outline = [outline_mask(outline)]
        if isinstance(outline, list) and outline and not np.size(outline[0]):
            outline = None
        if not bbox and outline:
            xy = np.concatenate([np.array(ring, float).reshape(-1, 2) for ring in outline])
            bbox = [*xy.min(axis=0), *np.ptp(xy, axis=0)]
        if bbox:
            box = Box(names[str(annotation["category_id"])], list(bbox), outline or None)
            boxes[str(annotation["image_id"])].append(box)
        else:
            boxless += 1
    entries: dict[str, dict[str, Any]] = {}
    listed: dict[str, list[Box]] = defaultdict(list)  # of an image that is listed twice, all boxes
    for entry in content["images"]:
        entries.setdefault(_as_name(entry["file_name"]), entry)
        listed[_as_name(entry["file_name"])] += boxes[str(entry["id"])]
    images = []
    for name, file in listing.locate(entries, path).items():
        height, width = entries[name].get("height"), entries[name].get("width")
        image = Image.of(file, listed[name], path, shape=(int(height), int(width)) if height and width else None)
        images.append(replace(image, xyxy=from_xywh(image.xyxy)))
    n_absent, known = len(entries) - len(images), {str(entry["id"]) for entry in content["images"]}
    report = join_notes(
        f"{n_absent:,} of {len(entries):,} images listed in {path.name} do not exist" if n_absent else "",
        count(boxless, f"annotations of {path.name} without a box"),
        count(sum(len(boxes[each]) for each in boxes.keys() - known), f"boxes of {path.name} without an image"),
    )
    return Folder.of(images, report, names.items())


def _as_name(value: Any) -> str:
    """Return a name as text, which some write as a number.

    Raises:
        TypeError: if it is neither.
    """
    if not isinstance(value, str | int | float):
        raise TypeError(f"a name is a text; got {value!r}")
    return str(value)


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield `labels.json`, and the same where CVAT and datumaro search it.

    Ids count from 1, file names are relative to `images`, outlines are those of the boxes.
    """
    ids = {name: i for i, name in enumerate(folder.classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(folder.images, start=1):
        height, width = image.shape or (None, None)
        images.append({"id": image_id, "file_name": image.path.name, "width": width, "height": height})
        for (x, y, w, h), name in zip(to_xywh(image.xyxy).tolist(), image.names, strict=True):
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

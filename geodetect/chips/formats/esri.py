"""Folders of ArcGIS' tool "Export Training Data For Deep Learning", with boxes in VOC's or KITTI's format.

`map.txt` pairs images and labels; labels hold class values, whose names are in `esri_model_definition.emd` or
`esri_accumulated_stats.json`. All of these files, and all their entries, are optional. Coordinates are pixels, edges
counted from 0, cut at the chip's edge.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError

from geodetect.boxes import area
from geodetect.chips.formats import kitti, voc
from geodetect.chips.formats.image import Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing, Reference
from geodetect.chips.formats.names import SUFFIXES
from geodetect.chips.formats.text import read_lines, read_text
from geodetect.errors import LabelsError

IMAGES, LABELS = "images", "labels"
_EMD, _STATS, _MAP, _SUMMARY = "esri_model_definition.emd", "esri_accumulated_stats.json", "map.txt", "stats.txt"
# A row of the map, with any folders above: an image, then, perhaps among other files, its label.
_ROW = re.compile(rf"(?:^|/)({IMAGES}/[^/]+?\.\w+)(?:\s(?:.*?[\s/])?({LABELS}/[^/]+?\.\w+))?(?:\s|$)")
_MODES = {"PASCAL_VOC_rectangles": ".xml", "KITTI_rectangles": ".txt"}


def recognises(listing: Listing) -> bool:
    """Return whether the folder holds one of the files that the tool writes beside images and labels."""
    return bool(_find_roots(listing))


def _find_roots(listing: Listing) -> list[Path]:
    """Return the folders of exports: the named one, or some below it."""
    return sorted({path.parent for path in listing.files if path.name.lower() in (_EMD, _STATS) or _read_map(path)})


def _read_map(path: Path) -> dict[str, str | None]:
    """Return the labels by image as `map.txt` pairs them, in lower case; empty for any other file."""
    lines = read_lines(path) if path.name.lower() == _MAP else []
    rows = [_ROW.search(line.text.replace("\\", "/").lower()) for line in lines]
    return {row[1]: row[2] for row in rows if row} if rows and rows[0] else {}


def read(listing: Listing) -> Folder:
    """Read the images of all exports in a folder.

    Raises:
        LabelsError: if an export holds no boxes, or a label cannot be read.
    """
    return Folder.join([_read_export(Listing.of(root)) for root in _find_roots(listing) or [listing.root]])


def _read_export(listing: Listing) -> Folder:
    emd, stats = _read_json(listing, _EMD), _read_json(listing, _STATS)
    suffix = _label_suffix(listing, str(stats.get("MetaDataMode") or emd.get("MetaDataMode") or ""))
    names = _class_names(emd.get("Classes")) or _class_names(stats.get("Classes"))
    labels, note = _pair_labels(listing, suffix)
    lost: Counter[str] = Counter()
    images = []
    for path, label in labels.items():
        if label is None:
            image = Image.of(path)
        elif label.suffix.lower() == ".xml":
            image = voc.read_image(path, label, voc.parse(label), lost)
        else:
            image = Image.of(path, kitti.read_boxes(label, read_lines(label)), label)
        found = [names.get(_as_value(name), name) for name in image.names]  # a name remains as it is
        images.append(replace(image, names=np.array(found, dtype=object)))
    unnamed = sorted({name for image in images for name in image.names} - set(names.values()))
    report = join_notes(
        note,
        f"no name is given for the classes {', '.join(unnamed)}" if unnamed else "",
        *(count(n, what) for what, n in lost.items()),
    )
    return replace(Folder.of(images, report, names.items()), crs=_crs(stats) or _crs(emd))


def _read_json(listing: Listing, name: str) -> dict[str, Any]:
    """Read a JSON file, which is optional; empty if it is missing or not JSON."""
    path = next((path for path in listing.files if path.name.lower() == name and path.parent == listing.root), None)
    try:
        content = json.loads(read_text(path)) if path is not None else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _label_suffix(listing: Listing, mode: str) -> str:
    """Return the suffix of label files.

    Raises:
        LabelsError: if the export was made for something other than boxes.
    """
    if mode in _MODES:
        return _MODES[mode]
    kinds = listing.with_suffix(*SUFFIXES, *_MODES.values())
    suffixes = {path.suffix.lower() for path in _in_folder(LABELS, kinds, listing)}
    if mode or not suffixes or suffixes & SUFFIXES:
        raise LabelsError(
            f"{listing.root} was exported as {mode or 'something without boxes'}, and boxes are needed; export it "
            f"again with the metadata format {' or '.join(_MODES)}"
        )
    return ".xml" if ".xml" in suffixes else ".txt"


def _class_names(classes: Any) -> dict[str, str]:
    """Return the classes' names by their values, with either spelling of the keys."""
    names = {}
    entries = classes if isinstance(classes, list) else []
    for each in (each for each in entries if isinstance(each, dict)):
        value, name = (each.get(key, each.get(f"Class{key}")) for key in ("Value", "Name"))
        if value is not None:
            names[_as_value(str(value))] = str(value if name is None else name)
    return names


def _as_value(text: str) -> str:
    """Return a class value as text, integers without a fraction: "1.0" and " 1" are "1"."""
    try:
        value = float(text)
    except ValueError:
        return text.strip()
    return str(int(value)) if value.is_integer() else text.strip()


def _pair_labels(listing: Listing, suffix: str) -> tuple[dict[Path, Path | None], str]:
    """Return the label of each image, by `map.txt`, or by name without one; and a note of what has no partner."""
    rows = next((rows for path in listing.files if path.parent == listing.root and (rows := _read_map(path))), None)
    texts = _in_folder(LABELS, listing.with_suffix(suffix), listing)
    found = listing.match([Reference(path.stem, path) for path in texts])
    if rows is None:
        return {**found.labels, **dict.fromkeys(each.path for each in found.bare)}, found.report
    files = {path.relative_to(listing.root).as_posix().lower(): path for path in listing.files}
    listed = {files[image]: label for image, label in rows.items() if image in files}
    labels = {image: files.get(label or "") or found.labels.get(image) for image, label in listed.items()}
    n_unlisted = len(set(_in_folder(IMAGES, listing.images, listing)) - set(labels))
    note = join_notes(
        count(len(rows) - len(labels), f"images listed in {_MAP} that do not exist"),
        count(n_unlisted, f"images not listed in {_MAP}, left out"),
        count(list(labels.values()).count(None), "images without a label file, taken as empty"),
    )
    return labels, note


def _in_folder(folder: str, paths: Iterable[Path], listing: Listing) -> list[Path]:
    """Return the paths that lie in a folder of this name, in any case."""
    return [path for path in paths if folder in (part.lower() for part in listing.parts(path))]


def _crs(metadata: dict[str, Any]) -> CRS | None:
    """Return the CRS of the smallest cell, where newer exports keep it."""
    cell = metadata.get("MinCellSize")
    reference = cell.get("spatialReference") if isinstance(cell, dict) else None
    reference = reference if isinstance(reference, dict) else {}
    for authority, key in (("EPSG", "latestWkid"), ("ESRI", "wkid"), ("EPSG", "wkid")):
        with suppress(KeyError, CRSError):
            return CRS.from_authority(authority, str(reference[key]))
    with suppress(KeyError, CRSError):
        return CRS.from_wkt(reference["wkt"])
    return None


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield what the tool writes for `PASCAL_VOC_rectangles`; class values count from 1, areas are in map units."""
    values = {name: i for i, name in enumerate(folder.classes, start=1)}
    for image in folder.images:
        found = np.array([values[name] for name in image.names], dtype=object)
        yield f"{LABELS}/{image.path.stem}.xml", voc.render_image(image, found, folder.n_bands or 3)
    yield _MAP, "".join(f"{IMAGES}\\{each.path.name} {LABELS}\\{each.path.stem}.xml \n" for each in folder.images)
    stats = _statistics(folder)
    yield _SUMMARY, _render_stats(folder, stats)
    yield _STATS, json.dumps(stats, indent=1)
    template = {  # of a model definition, which training completes
        "ImageHeight": stats["TileSizeY"],
        "ImageWidth": stats["TileSizeX"],
        "ExtractBands": list(range(stats["NumBands"])),
        "MetaDataMode": stats["MetaDataMode"],
        "ImageSpaceUsed": "MAP_SPACE" if folder.cell else "PIXEL_SPACE",
        "CropTileMode": "FixedSize",
        **_cell(folder),
        "Classes": [{"Value": i, "Name": name, "Color": [-1, -1, -1]} for name, i in values.items()],
    }
    yield _EMD, json.dumps(template, indent=1)


def _statistics(folder: Folder) -> dict[str, Any]:
    """Return the numbers and sizes of features, in the layout of `esri_accumulated_stats.json`."""
    cell = float(np.prod(folder.cell or (1.0, 1.0)))
    areas = {name: [area(image.xyxy[image.names == name]) * cell for image in folder.images] for name in folder.classes}
    height, width = folder.images[0].shape or (0, 0)
    per_image = np.array([len(image.names) for image in folder.images], float)
    return {
        "Version": 1,
        "NumBands": folder.n_bands or 3,
        "TileSizeX": width,
        "TileSizeY": height,
        "NumClasses": len(folder.classes),
        "NumTiles": len(folder.images),
        "OutputFeatures": True,
        "MetaDataMode": next(iter(_MODES)),
        "Classes": [{"ClassValue": i, "ClassName": name} for i, name in enumerate(folder.classes, start=1)],
        "FeatureStats": {
            "NumClasses": len(folder.classes),
            "NumImagesTotal": len(folder.images),
            "NumFeaturesTotal": int(per_image.sum()),
            "NumImagesPerClass": [sum(len(found) > 0 for found in each) for each in areas.values()],
            "NumFeaturesPerClass": [sum(map(len, each)) for each in areas.values()],
            **{f"NumFeaturesPerImage{key}": value for key, value in _moments(per_image).items()},
            "FeatureAreaPerClass": [_moments(np.concatenate(each)) for each in areas.values()],
        },
        **_cell(folder),
    }


def _moments(values: np.ndarray) -> dict[str, float]:
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    mean = float(values.mean()) if len(values) else 0.0
    return {"Min": float(low), "Max": float(high), "Mean": mean, "Sum": float(values.sum()), "Count": len(values)}


def _cell(folder: Folder) -> dict[str, Any]:
    """Return the size of a pixel and its CRS as an EPSG code; empty if unknown."""
    code = folder.crs.to_epsg() if folder.crs is not None else None
    if folder.cell is None or code is None:
        return {}
    size = {"x": folder.cell[0], "y": folder.cell[1], "spatialReference": {"wkid": code, "latestWkid": code}}
    return {"MinCellSize": size, "MaxCellSize": size}


def _render_stats(folder: Folder, stats: dict[str, Any]) -> str:
    """Return the same as text, in the layout of `stats.txt`."""
    found = stats["FeatureStats"]
    size = f"{stats['NumBands']}*{stats['TileSizeY']}*{stats['TileSizeX']}"
    low, mean, high = (found[f"NumFeaturesPerImage{key}"] for key in ("Min", "Mean", "Max"))
    head = [
        f"images = {stats['NumTiles']} *{size}",
        f"features = {found['NumFeaturesTotal']}",
        f"features per image = [min = {low:.0f}, mean = {mean:.2f}, max = {high:.0f}]",
        f"classes = {stats['NumClasses']}",
        "cls name\tcls value\timages\tfeatures\tmin size\tmean size\tmax size",
    ]
    columns = (found["NumImagesPerClass"], found["NumFeaturesPerClass"], found["FeatureAreaPerClass"])
    rows = [
        f"{name}\t{i}\t{n_images}\t{n_features}\t{size['Min']:.2f}\t{size['Mean']:.2f}\t{size['Max']:.2f}"
        for i, (name, n_images, n_features, size) in enumerate(zip(folder.classes, *columns, strict=True), start=1)
    ]
    return "\n".join([*head, *rows, ""])

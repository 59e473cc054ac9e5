"""Folders of ArcGIS' tool "Export Training Data For Deep Learning", with boxes in VOC's or KITTI's spelling.

`map.txt` pairs pictures and labels; labels call classes by values, whose names stand in
`esri_model_definition.emd` or `esri_accumulated_stats.json`. Every one of these files may be absent, and
every entry. Coordinates are pixels, edges counted from 0, cut at the chip's edge.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pyproj import CRS
from pyproj.exceptions import CRSError

from geodetect.boxes import area
from geodetect.chips.formats import kitti, voc
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import PICTURES
from geodetect.chips.formats.picture import Folder, Picture, counted, sentence
from geodetect.chips.formats.text import lines, text_of
from geodetect.errors import LabelsError

IMAGES, LABELS = "images", "labels"
_EMD, _STATS, _MAP, _TOLD = "esri_model_definition.emd", "esri_accumulated_stats.json", "map.txt", "stats.txt"
# A row of the map, with whichever folders above: a picture, and after it, perhaps among other files, its label.
_ROW = re.compile(rf"(?:^|/)({IMAGES}/[^/]+?\.\w+)(?:\s(?:.*?[\s/])?({LABELS}/[^/]+?\.\w+))?(?:\s|$)")
_MODES = {"PASCAL_VOC_rectangles": ".xml", "KITTI_rectangles": ".txt"}


def recognises(listing: Listing) -> bool:
    """Whether the folder holds one of the files that the tool writes beside pictures and labels."""
    return bool(_roots(listing))


def _roots(listing: Listing) -> list[Path]:
    """The folders of exports: the one that was named, or some below it."""
    return sorted({path.parent for path in listing.files if path.name.lower() in (_EMD, _STATS) or _rows(path)})


def _rows(path: Path) -> dict[str, str | None]:
    """The labels by the pictures that a file called like the tool's list pairs, in small letters; none of another."""
    told = lines(path) if path.name.lower() == _MAP else []
    rows = [_ROW.search(line.replace("\\", "/").lower()) for _, line in told]
    return {row[1]: row[2] for row in rows if row} if rows and rows[0] else {}


def read(listing: Listing) -> Folder:
    """The pictures of all exports in a folder.

    Raises:
        LabelsError: if an export holds no boxes, or a label cannot be read.
    """
    parts = [_read_export(Listing.of(root)) for root in _roots(listing) or [listing.root]]
    return Folder(
        [picture for part in parts for picture in part.pictures],
        list(dict.fromkeys(name for part in parts for name in part.classes)),
        sentence(*(part.report for part in parts)),
        next((part.crs for part in parts if part.crs is not None), None),
        values=tuple(pair for part in parts for pair in part.values),
    )


def _read_export(listing: Listing) -> Folder:
    emd, stats = _metadata(listing, _EMD), _metadata(listing, _STATS)
    suffix = _label_suffix(listing, str(stats.get("MetaDataMode") or emd.get("MetaDataMode") or ""))
    names = _class_names(emd.get("Classes")) or _class_names(stats.get("Classes"))
    paired = _paired(listing, suffix)
    lost: Counter[str] = Counter()
    pictures = [_named(_picture(image, label, lost), names) for image, label in paired.labels.items()]
    seen = {name for picture in pictures for name in picture.names}
    unnamed = sorted(seen - set(names.values()))
    report = sentence(
        paired.report,
        f"no name is given for the classes {', '.join(unnamed)}" if unnamed else "",
        *(counted(n, what) for what, n in lost.items()),
    )
    classes = list(dict.fromkeys([*names.values(), *unnamed]))
    return Folder(pictures, classes, report, _crs(stats) or _crs(emd), values=tuple(names.items()))


def _metadata(listing: Listing, name: str) -> dict[str, Any]:
    """The content of a JSON file; nothing where it is absent or something else: all of it can be done without."""
    path = next((path for path in listing.files if path.name.lower() == name and path.parent == listing.root), None)
    try:
        content = json.loads(text_of(path)) if path is not None else {}
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _label_suffix(listing: Listing, mode: str) -> str:
    """The suffix of label files.

    Raises:
        LabelsError: if the export was made for something other than boxes.
    """
    if mode in _MODES:
        return _MODES[mode]
    kinds = listing.ending(*PICTURES, *_MODES.values())
    suffixes = {path.suffix.lower() for path in _inside(LABELS, kinds, listing)}
    if mode or not suffixes or suffixes & PICTURES:
        raise LabelsError(
            f"{listing.root} was exported as {mode or 'something without boxes'}, and boxes are needed; export it "
            f"again with the metadata format {' or '.join(_MODES)}"
        )
    return ".xml" if ".xml" in suffixes else ".txt"


def _class_names(classes: Any) -> dict[str, str]:
    """The classes' names by their values, under whichever keys they stand."""
    names = {}
    entries = classes if isinstance(classes, list) else []
    for each in (each for each in entries if isinstance(each, dict)):
        value, name = (each.get(key, each.get(f"Class{key}")) for key in ("Value", "Name"))
        if value is not None:
            names[_as_value(str(value))] = str(value if name is None else name)
    return names


def _as_value(text: str) -> str:
    """A class value as text, whole numbers without a fraction: "1.0" and " 1" are "1"."""
    try:
        value = float(text)
    except ValueError:
        return text.strip()
    return str(int(value)) if value.is_integer() else text.strip()


class _Paired(NamedTuple):
    """The label of each picture, None for none, and what has no partner."""

    labels: dict[Path, Path | None]
    report: str


def _paired(listing: Listing, suffix: str) -> _Paired:
    """Pictures with their labels, as the map has them, or by their names where there is none."""
    rows = next((rows for path in listing.files if path.parent == listing.root and (rows := _rows(path))), None)
    texts = _inside(LABELS, listing.ending(suffix), listing)
    found = listing.matched([(path.stem, path) for path in texts], "label files", "a label file")
    by_name = {image: label for image, label in zip(found.files, texts, strict=True) if image is not None}
    if rows is None:
        return _Paired(by_name | {each.path: None for each in found.bare}, found.report)
    files = {path.relative_to(listing.root).as_posix().lower(): path for path in listing.files}
    listed = {files[image]: label for image, label in rows.items() if image in files}
    labels = {image: files.get(label or "") or by_name.get(image) for image, label in listed.items()}
    unlisted = set(_inside(IMAGES, listing.pictures, listing)) - set(labels)
    report = sentence(
        counted(len(rows) - len(labels), f"pictures listed in {_MAP} that are not there"),
        counted(len(unlisted), f"pictures not listed in {_MAP}, left out"),
        counted(list(labels.values()).count(None), "pictures without a label file, taken as empty"),
    )
    return _Paired(labels, report)


def _inside(folder: str, paths: Iterable[Path], listing: Listing) -> list[Path]:
    """Those of some paths that lie in a folder of this name, whatever its case."""
    return [path for path in paths if folder in (part.lower() for part in listing.parts(path))]


def _picture(image: Path, label: Path | None, lost: Counter[str]) -> Picture:
    if label is None:
        return Picture.bare(image)
    if label.suffix.lower() == ".xml":
        return voc.picture(voc.parse(label), label, image, lost)
    return kitti.picture(label, lines(label), image)


def _named(picture: Picture, names: dict[str, str]) -> Picture:
    """The picture with names in place of class values; a name stays what it is."""
    found = [names.get(_as_value(name), name) for name in picture.names]
    return replace(picture, names=np.array(found, dtype=object))


def _crs(metadata: dict[str, Any]) -> CRS | None:
    """The CRS of the smallest cell, which is where newer exports say what their pictures may not."""
    cell = metadata.get("MinCellSize")
    reference = cell.get("spatialReference") if isinstance(cell, dict) else None
    reference = reference if isinstance(reference, dict) else {}
    tries: list[Callable[[], CRS]] = [
        lambda: CRS.from_epsg(reference["latestWkid"]),
        lambda: CRS.from_authority("ESRI", str(reference["wkid"])),
        lambda: CRS.from_epsg(reference["wkid"]),
        lambda: CRS.from_wkt(reference["wkt"]),
    ]
    for make in tries:
        try:
            return make()
        except (KeyError, CRSError):
            continue
    return None


def can_name(name: str) -> bool:
    """JSON holds every name; labels hold values alone."""
    return True


def files(folder: Folder) -> Iterator[tuple[str, str]]:
    """What the tool writes for `PASCAL_VOC_rectangles`; class values count from 1, areas are in map units."""
    values = {name: i for i, name in enumerate(folder.classes, start=1)}
    for picture in folder.pictures:
        found = np.array([values[name] for name in picture.names], dtype=object)
        yield f"{LABELS}/{picture.path.stem}.xml", voc.annotation(picture, found, folder.n_bands or 3)
    rows = (f"{IMAGES}\\{p.path.name} {LABELS}\\{p.path.stem}.xml \n" for p in folder.pictures)
    yield _MAP, "".join(rows)
    stats = _statistics(folder)
    yield _TOLD, _told(folder, stats)
    yield _STATS, json.dumps(stats, indent=1)
    yield _EMD, json.dumps(_definition(folder, stats), indent=1)


def _statistics(folder: Folder) -> dict[str, Any]:
    """How many features of which size there are, as `esri_accumulated_stats.json` has it."""
    cell = float(np.prod(folder.cell or (1.0, 1.0)))
    areas = {
        name: [area(picture.xyxy[picture.names == name]) * cell for picture in folder.pictures]
        for name in folder.classes
    }
    height, width = folder.pictures[0].shape or (0, 0)
    per_image = np.array([len(picture.names) for picture in folder.pictures], float)
    return {
        "Version": 1,
        "NumBands": folder.n_bands or 3,
        "TileSizeX": width,
        "TileSizeY": height,
        "NumClasses": len(folder.classes),
        "NumTiles": len(folder.pictures),
        "OutputFeatures": True,
        "MetaDataMode": next(iter(_MODES)),
        "Classes": [{"ClassValue": i, "ClassName": name} for i, name in enumerate(folder.classes, start=1)],
        "FeatureStats": {
            "NumClasses": len(folder.classes),
            "NumImagesTotal": len(folder.pictures),
            "NumFeaturesTotal": int(per_image.sum()),
            "NumImagesPerClass": [sum(len(found) > 0 for found in each) for each in areas.values()],
            "NumFeaturesPerClass": [sum(map(len, each)) for each in areas.values()],
            **{f"NumFeaturesPerImage{key}": value for key, value in _summary(per_image).items()},
            "FeatureAreaPerClass": [_summary(np.concatenate(each)) for each in areas.values()],
        },
        **_cell(folder),
    }


def _summary(values: np.ndarray) -> dict[str, float]:
    low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
    mean = float(values.mean()) if len(values) else 0.0
    return {"Min": float(low), "Max": float(high), "Mean": mean, "Sum": float(values.sum()), "Count": len(values)}


def _cell(folder: Folder) -> dict[str, Any]:
    """The size of a pixel and its CRS by EPSG's number; nothing where they are not known."""
    code = folder.crs.to_epsg() if folder.crs is not None else None
    if folder.cell is None or code is None:
        return {}
    size = {"x": folder.cell[0], "y": folder.cell[1], "spatialReference": {"wkid": code, "latestWkid": code}}
    return {"MinCellSize": size, "MaxCellSize": size}


def _told(folder: Folder, stats: dict[str, Any]) -> str:
    """The same for people, as `stats.txt` has it."""
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


def _definition(folder: Folder, stats: dict[str, Any]) -> dict[str, Any]:
    """The template of a model definition that training fills in."""
    return {
        "ImageHeight": stats["TileSizeY"],
        "ImageWidth": stats["TileSizeX"],
        "ExtractBands": list(range(stats["NumBands"])),
        "MetaDataMode": stats["MetaDataMode"],
        "ImageSpaceUsed": "MAP_SPACE" if folder.cell else "PIXEL_SPACE",
        "CropTileMode": "FixedSize",
        **_cell(folder),
        "Classes": [
            {"Value": i, "Name": name, "Color": [-1, -1, -1]} for i, name in enumerate(folder.classes, start=1)
        ],
    }

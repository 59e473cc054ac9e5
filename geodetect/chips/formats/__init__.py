"""Folders of chips with labels, one module per format; each reads and renders a `Folder` of `Image`s."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from geodetect.chips.formats import coco, deepforest, dota, esri, kitti, voc, yolo
from geodetect.chips.formats.image import Folder, Image, join_notes
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import SUFFIXES
from geodetect.chips.formats.parts import assign_parts
from geodetect.chips.formats.text import read_bytes
from geodetect.errors import ArgumentError, LabelsError


@dataclass(frozen=True)
class Format:
    """A format of chip folders.

    Args:
        recognises: whether a folder holds labels of this format.
        read: reads the labels of a folder.
        render: yields the label files of a folder: paths relative to it, and their texts.
        can_name: whether a class of this name, in one line, is read back as it was written.
        oriented: whether it is written with oriented boxes.
        parts: whether it stores which part of the data set each chip belongs to.
    """

    recognises: Callable[[Listing], bool]
    read: Callable[[Listing], Folder]
    render: Callable[[Folder], Iterator[tuple[str, str]]]
    can_name: Callable[[str], bool] = lambda _: True
    oriented: bool = False
    parts: bool = False


# In the order of recognition: an export of ArcGIS holds labels of other formats too.
FORMATS: Mapping[str, Format] = {
    "esri": Format(esri.recognises, esri.read, esri.render),
    "coco": Format(coco.recognises, coco.read, coco.render),
    "voc": Format(voc.recognises, voc.read, voc.render),
    "kitti": Format(kitti.recognises, kitti.read, kitti.render, kitti.can_name),
    "dota": Format(dota.recognises, dota.read, dota.render, dota.can_name, oriented=True),
    "yolo": Format(yolo.recognises, yolo.read, yolo.render, parts=True),
    "yolo_obb": Format(yolo.recognises_corners, yolo.read_corners, yolo.render_corners, oriented=True, parts=True),
    "deepforest": Format(deepforest.recognises, deepforest.read, deepforest.render),
}
IMAGES = "images"

__all__ = ["FORMATS", "IMAGES", "Folder", "Image", "read_folder"]


class _Foreign(NamedTuple):
    """A format that is not read: the suffix of its files, texts that all occur in one, and how to convert them."""

    name: str
    suffix: str
    marks: tuple[bytes, ...]
    advice: str


_FOREIGN = (
    _Foreign("CVAT", ".xml", (b"<annotations", b"<version"), 'export the task or project again as "COCO 1.0"'),
    _Foreign("labelme", ".json", (b'"shapes"', b'"imagePath"'), "convert them to COCO with the package labelme2coco"),
    _Foreign("LabelMe", ".xml", (b"<annotation", b"<polygon"), "convert them to COCO with datumaro"),
    _Foreign("VIA", ".json", (b'"regions"', b'"shape_attributes"'), "export them again as COCO (Annotation menu)"),
    _Foreign("VIA", ".csv", (b"region_shape_attributes",), "export them again as COCO (Annotation menu)"),
    _Foreign("VoTT", ".json", (b'"regions"', b'"assets"'), "export them again as Pascal VOC"),
    _Foreign("Label Studio", ".json", (b'"rectanglelabels"',), "export them again as COCO"),
    _Foreign("CreateML", ".json", (b'"annotations"', b'"coordinates"'), "export them again as COCO"),
    _Foreign("Supervisely", ".json", (b'"objects"', b'"classTitle"'), "export them again as COCO"),
    _Foreign("Open Images", ".csv", (b"ImageID", b"XMin"), "convert them to COCO with datumaro"),
    _Foreign("TensorFlow (TFRecord)", ".tfrecord", (), "convert them to COCO with datumaro"),
)


def read_folder(folder: Path, dataset_type: str | None = None, *, oriented: bool = False) -> Folder:
    """Read the labels in a folder, or beside a folder that only holds images.

    Args:
        folder: with images and labels, in sub-folders too; or the images of a layout that keeps labels apart, as
            `images/val`.
        dataset_type: the format; None recognises it.
        oriented: whether outlines are used; otherwise the report says where boxes are only their bounds.

    Raises:
        ArgumentError: if there is no such format.
        LabelsError: if no format is recognised, labels cannot be read, or there is no image.
    """
    if dataset_type is not None and dataset_type not in list(FORMATS):
        raise ArgumentError(f"dataset_type must be one of {', '.join(sorted(FORMATS))}, or None; got {dataset_type!r}")
    listing = Listing.of(folder)
    kinds = _recognise(listing)
    beside = Listing.beside(folder) if not kinds and listing.images else None
    if beside is not None and (found := _recognise(beside)):
        listing, kinds = beside, found
    if not (kinds or dataset_type):
        foreign = (
            f"{path} holds labels of {each.name}, which are not read: {each.advice}, and use that folder"
            for each in _FOREIGN
            for path in listing.sample(each.suffix)
            if all(mark in read_bytes(path) for mark in each.marks)
        )
        unknown = f"{folder} holds no labels of a known format ({', '.join(sorted(FORMATS))}); {_describe(listing)}"
        raise LabelsError(next(foreign, unknown))
    kind = dataset_type or kinds[0]
    read = assign_parts(FORMATS[kind].read(listing), listing)
    if not read.images:
        raise LabelsError(f"{folder} holds no image with {kind} labels: {read.report or _describe(listing)}")
    # ArcGIS writes labels of other formats, which hold only a part of what it knows.
    others = [f"dataset_type={each!r}" for each in kinds if dataset_type is None and kind not in (each, "esri")]
    also = f"read as {kind}; there is {' and '.join(others)} too" if others else ""
    return replace(read, report=join_notes(also, read.report, "" if oriented else read.upright_note))


def _recognise(listing: Listing) -> list[str]:
    """Return the formats of the labels in a folder, the likeliest first."""
    return [name for name, each in FORMATS.items() if each.recognises(listing)]


def _describe(listing: Listing) -> str:
    """Count the files of a folder by kind, the most frequent first."""
    if not listing.files:
        return "it is empty"
    suffixes = (path.suffix.lower() for path in listing.files)
    kinds = Counter("images" if each in SUFFIXES else f"{each or 'other'} files" for each in suffixes)
    return f"it holds {', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common(4))}"

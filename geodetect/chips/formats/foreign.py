"""Formats of other programs that are not read, told by what stands in their files, and how to get COCO from them."""

from __future__ import annotations

from typing import NamedTuple

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.text import content_of


class _Foreign(NamedTuple):
    """A format, how its files end, texts that all stand in one of them, and the way to another format."""

    name: str
    suffix: str
    marks: tuple[bytes, ...]
    way_out: str


_FORMATS = (
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


def refusal(listing: Listing) -> str:
    """What labels a folder holds that are not read, and what to do; empty where none are known."""
    for each in _FORMATS:
        for path in listing.sample(each.suffix):
            content = content_of(path)
            if all(mark in content for mark in each.marks):
                return f"{path} holds labels of {each.name}, which are not read: {each.way_out}, and use that folder"
    return ""

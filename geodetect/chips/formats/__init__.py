"""Folders of chips with labels, one module per format; each gives and takes a `Folder` of `Picture`s.

A format is a module that conforms to `Format`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from geodetect.chips.formats import coco, deepforest, esri, kitti, voc, yolo
from geodetect.chips.formats.foreign import refusal
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import PICTURES
from geodetect.chips.formats.parts import with_parts
from geodetect.chips.formats.picture import Folder, Picture, sentence
from geodetect.errors import ArgumentError, LabelsError


class Format(Protocol):
    """What a format can do."""

    def recognises(self, listing: Listing) -> bool:
        """Whether a folder holds labels of this format."""
        ...

    def read(self, listing: Listing) -> Folder:
        """What the labels in a folder say."""
        ...

    def can_name(self, name: str) -> bool:
        """Whether a class of this name, in one line, is read back as it was written."""
        ...

    def files(self, folder: Folder) -> Iterator[tuple[str, str]]:
        """The files that say it: paths relative to the folder, and their texts."""
        ...


# In the order of recognition: an export of ArcGIS holds labels in the manner of others too.
FORMATS: Mapping[str, Format] = {
    "esri": esri,
    "coco": coco,
    "voc": voc,
    "kitti": kitti,
    "yolo": yolo,
    "deepforest": deepforest,
}
IMAGES = "images"

__all__ = ["FORMATS", "IMAGES", "Folder", "Picture", "read_folder"]


def read_folder(folder: Path, dataset_type: str | None = None) -> Folder:
    """What the labels in a folder, or beside a folder of pictures alone, say, in whichever format.

    Args:
        folder: with pictures and labels, in sub-folders too; or the pictures of a layout that keeps labels apart, as
            `images/val`.
        dataset_type: the format; None recognises it.

    Raises:
        ArgumentError: if there is no such format.
        LabelsError: if no format is recognised, labels cannot be read, or no picture is there.
    """
    if dataset_type is not None and dataset_type not in list(FORMATS):
        raise ArgumentError(f"dataset_type must be one of {', '.join(sorted(FORMATS))}, or None; got {dataset_type!r}")
    listing = Listing.of(folder)
    kinds = _kinds(listing)
    if not kinds and listing.pictures and (beside := Listing.beside(folder)) is not None and (found := _kinds(beside)):
        listing, kinds = beside, found
    if not (kinds or dataset_type):
        raise LabelsError(
            refusal(listing)
            or f"{folder} holds no labels of a known format ({', '.join(sorted(FORMATS))}); {_content(listing)}"
        )
    kind = dataset_type or kinds[0]
    read = with_parts(FORMATS[kind].read(listing), listing)
    if not read.pictures:
        why = read.report or _content(listing)
        raise LabelsError(f"{folder} holds no picture with {kind} labels: {why}")
    # What ArcGIS writes is in the manner of others, and only a part of what it says.
    others = [f"dataset_type={each!r}" for each in kinds if dataset_type is None and kind not in (each, "esri")]
    also = f"read as {kind}; there is {' and '.join(others)} too" if others else ""
    return replace(read, report=sentence(also, read.report))


def _kinds(listing: Listing) -> list[str]:
    """The formats of the labels in a folder, the likeliest first."""
    return [name for name in FORMATS if FORMATS[name].recognises(listing)]


def _content(listing: Listing) -> str:
    """What a folder holds instead, most of it first."""
    if not listing.files:
        return "it is empty"
    suffixes = (path.suffix.lower() for path in listing.files)
    kinds = Counter("pictures" if each in PICTURES else f"{each or 'other'} files" for each in suffixes)
    return f"it holds {', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common(4))}"

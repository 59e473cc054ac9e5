"""Folders of chips with labels, one module per format; each gives and takes a `Folder` of `Picture`s.

A format is a module that conforms to `Format`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from geodetect.chips.formats import coco, esri, kitti, voc, yolo
from geodetect.chips.formats.listing import PICTURES, Listing
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
        """Whether a class of this name that is written is read back."""
        ...

    def files(self, folder: Folder) -> Iterator[tuple[str, str]]:
        """The files that say it: paths relative to the folder, and their texts."""
        ...


# In the order of recognition: an export of ArcGIS holds labels in the manner of others too.
FORMATS: Mapping[str, Format] = {"esri": esri, "coco": coco, "voc": voc, "kitti": kitti, "yolo": yolo}
IMAGES = "images"

__all__ = ["FORMATS", "IMAGES", "Folder", "Picture", "read_folder"]


def read_folder(folder: Path, dataset_type: str | None = None) -> Folder:
    """What the labels in a folder say, in whichever format.

    Args:
        folder: with pictures and labels, in sub-folders too.
        dataset_type: the format; None recognises it.

    Raises:
        ArgumentError: if there is no such format.
        LabelsError: if no format is recognised, labels cannot be read, or no picture is there.
    """
    if dataset_type is not None and dataset_type not in list(FORMATS):
        raise ArgumentError(f"dataset_type must be one of {', '.join(sorted(FORMATS))}, or None; got {dataset_type!r}")
    listing = Listing.of(folder)
    kinds = [dataset_type] if dataset_type else [name for name in FORMATS if FORMATS[name].recognises(listing)]
    if not kinds:
        raise LabelsError(
            f"{folder} holds no labels of a known format ({', '.join(sorted(FORMATS))}); {_content(listing)}"
        )
    found = FORMATS[kinds[0]].read(listing)
    if not found.pictures:
        why = found.report or _content(listing)
        raise LabelsError(f"{folder} holds no picture with {kinds[0]} labels: {why}")
    # What ArcGIS writes is in the manner of others, and only a part of what it says.
    others = [f"dataset_type={kind!r}" for kind in kinds[1:] if kinds[0] != "esri"]
    also = f"read as {kinds[0]}; there is {' and '.join(others)} too" if others else ""
    return replace(found, report=sentence(also, found.report))


def _content(listing: Listing) -> str:
    """What a folder holds instead, most of it first."""
    if not listing.files:
        return "it is empty"
    suffixes = (path.suffix.lower() for path in listing.files)
    kinds = Counter("pictures" if each in PICTURES else f"{each or 'other'} files" for each in suffixes)
    return f"it holds {', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common(4))}"

"""What the names of files and folders mean: an image, a copy of one, a part of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from geodetect.chips.formats.image import TEST, TRAIN, VALID

SUFFIXES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp", ".jp2", ".img", ".mrf", ".vrt", ".webp"})
OF_MANY = (".json", ".csv")  # files that hold the labels of many images
IMAGES = ("image", "img", "jpegimages", "picture", "photo")  # how folders of images begin
LABELS = ("label", "annotation", "xml", "json", "txt")
# What people and programs add to the name of an image that they copy, shrink or draw on.
_COPY = re.compile(
    r"(?:[ _.-]*(?:\(\d+\)|copy|kopie|copie|copia|thumb|thumbnail|preview|small|overlay|mask))+$"
    r"|^(?:thumb|thumbnail|preview|copy of|kopie von|copie de)[ _.-]+",
    re.IGNORECASE,
)
_PARTS = {
    **dict.fromkeys(("train", "training", "trainset", "trainval"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation", "valset", "validset", "dev", "eval", "evaluation"), VALID),
    **dict.fromkeys(("test", "testing", "testset"), TEST),
}
# Words in names of folders and files that only say what they hold.
_PLAIN = frozenset(
    "image images img imgs jpegimages picture pictures photo photos chip chips tile tiles label labels annotation "
    "annotations ann anns box boxes instances person keypoints info data dataset set split obj coco yolo voc".split()
)


def posix(name: str) -> PurePosixPath:
    """Return a path as any system writes it, in one Unicode form; macOS decomposes letters ("e" and an accent)."""
    return PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))


def key(name: str) -> str:
    """Return a name without folders and image suffixes, case-folded and in one Unicode form.

    Windows ignores case, and some programs append a suffix to names that already have one.
    """
    path = posix(name)
    while path.suffix.lower() in SUFFIXES:
        path = path.with_suffix("")
    return path.name.casefold()


def strip_copy(stem: str) -> str:
    """Return the stem without what marks a copy or a preview, such as `a` for `a (1)` and `a_thumb`."""
    return _COPY.sub("", stem)


def distinctive(folders: Iterable[str]) -> set[str]:
    """Return the folder names that say more than "images" or "labels"."""
    return {name for name in folders if not name.lower().startswith((*IMAGES, *LABELS))}


class PartName(NamedTuple):
    """A part of a data set, and the other words of a name."""

    part: str
    rest: tuple[str, ...]


def parse_part(name: str) -> PartName | None:
    """Return the part that a name contains, and its other words; None if it contains none, or several."""
    words = [re.sub(r"(19|20)\d\d$", "", word) for word in re.findall(r"[^\W_]+", name.lower())]
    parts = [_PARTS[word] for word in words if word in _PARTS]
    rest = tuple(word for word in words if word and word not in _PLAIN and word not in _PARTS)
    return PartName(parts[0], rest) if len(parts) == 1 else None


def part_of(name: str) -> str | None:
    """Return the part that a name such as `train2017` stands for; None for `test_site_3`, which may be a place."""
    found = parse_part(name)
    return None if found is None or found.rest else found.part

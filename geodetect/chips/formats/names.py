"""What names of files and folders say: which picture, which copy of it, which part of a data set."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import NamedTuple

from geodetect.chips.formats.picture import TEST, TRAIN, VALID

PICTURES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp", ".jp2", ".img", ".mrf", ".vrt", ".webp"})
OF_MANY = (".json", ".csv")  # files that hold the labels of many pictures
IMAGES = ("image", "img", "jpegimages", "picture", "photo")  # how folders of pictures begin
LABELS = ("label", "annotation", "xml", "json", "txt")
# What people and programs add to the name of a picture that they copy, shrink or draw on.
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
# What names of folders and files say besides, without meaning anything but what they hold.
_PLAIN = frozenset(
    "image images img imgs jpegimages picture pictures photo photos chip chips tile tiles label labels annotation "
    "annotations ann anns box boxes instances person keypoints info data dataset set split obj coco yolo voc".split()
)


def posix(name: str) -> PurePosixPath:
    """A path as any system writes it, in one Unicode form; macOS takes letters apart ("e" and an accent)."""
    return PurePosixPath(unicodedata.normalize("NFC", name.strip().replace("\\", "/")))


def key(name: str) -> str:
    """What the names of one picture have in common: no folders, no suffixes of pictures, one case and Unicode form.

    Windows tells no capitals, and some programs append suffixes to names that have one.
    """
    path = posix(name)
    while path.suffix.lower() in PICTURES:
        path = path.with_suffix("")
    return path.name.casefold()


def original(stem: str) -> str:
    """The name of what a picture is a copy or a preview of; its own name where it does not say so."""
    return _COPY.sub("", stem)


def telling(folders: Iterable[str]) -> set[str]:
    """Those whose names tell more than that they hold pictures or labels."""
    return {name for name in folders if not name.lower().startswith((*IMAGES, *LABELS))}


class Word(NamedTuple):
    """A part of a data set, and what else a name says."""

    part: str
    rest: tuple[str, ...]


def word(name: str) -> Word | None:
    """The part that a name may stand for; None where it names none, or several."""
    tokens = [re.sub(r"(19|20)\d\d$", "", token) for token in re.findall(r"[^\W_]+", name.lower())]
    parts = [_PARTS[token] for token in tokens if token in _PARTS]
    rest = tuple(token for token in tokens if token and token not in _PLAIN and token not in _PARTS)
    return Word(parts[0], rest) if len(parts) == 1 else None


def part_of(name: str) -> str | None:
    """The part that a name stands for by itself, as `train2017` does; None for `test_site_3`, which may mean a site."""
    found = word(name)
    return None if found is None or found.rest else found.part

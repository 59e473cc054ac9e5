"""The files of a folder, listed once, and which image each label belongs to."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from geodetect.chips.formats.image import Image, count, join_notes
from geodetect.chips.formats.names import (
    IMAGES,
    LABELS,
    OF_MANY,
    SUFFIXES,
    distinctive,
    key,
    part_of,
    posix,
    strip_copy,
)
from geodetect.chips.formats.text import Line
from geodetect.errors import GeodetectError, LabelsError
from geodetect.raster import RasterReader

_SAMPLE = 100  # files that are read to recognise a format
_DEEPEST = 4  # levels of folders below the named one; deeper ones belong to something else
_ABOVE = 2  # levels above a folder of images in which its labels are searched
# What a label file of a single image contains, by suffix, in any format.
_OBJECTS = {".xml": b"<object", ".txt": b" ", ".json": b'"'}
_MASKS = ("mask", "segmentation", "scribble", "panoptic")  # names of folders whose images are labels themselves


class Reference(NamedTuple):
    """An image to find: its name or stem, perhaps with folders, and the label file that names it."""

    name: str
    label: Path


class Match(NamedTuple):
    """Label files matched to images.

    Args:
        labels: label file by image; label files without an image are missing.
        bare: images without a label.
        report: counts of what could not be matched.
    """

    labels: dict[Path, Path]
    bare: list[Image]
    report: str


@dataclass(frozen=True, eq=False)
class Listing:
    """The files in a folder and those below it, without hidden ones.

    Args:
        root: the folder.
        files: all of them, sorted.
        named: the folder that the user named: the root, or one below it that only holds images.
    """

    root: Path
    files: tuple[Path, ...]
    named: Path

    @classmethod
    def of(cls, root: Path) -> Listing:
        """List a folder."""
        return cls(root, tuple(sorted(_walk(root))), root)

    @classmethod
    def beside(cls, folder: Path) -> Listing | None:
        """List the images of a folder and the labels beside it; None if there is no folder of labels.

        The labels of `images/val` are searched in `labels/val`, those of `val2017` in JSON files in `annotations`.
        """
        folder = Path(os.path.abspath(folder))
        for base in folder.parents[:_ABOVE]:
            first, *deeper = folder.relative_to(base).parts
            of_images = first.lower().startswith(IMAGES)
            beside = sorted(base.iterdir()) if os.access(base, os.R_OK | os.X_OK) else []
            begin = LABELS if of_images else "annotation"
            places = [each for each in beside if each.name.lower().startswith(begin) and each.is_dir()]
            if places:
                mirrored = [below if (below := place.joinpath(*deeper)).is_dir() else place for place in places]
                found = {path for place in mirrored for path in _walk(place) if of_images or path.suffix == ".json"}
                found.update(_walk(folder), (each for each in beside if each.is_file() and each.name[0] != "."))
                return cls(base, tuple(sorted(found)), folder)
        return None

    def is_inside(self, path: Path) -> bool:
        """Return whether a file lies in the folder that the user named."""
        return self.named == self.root or path.is_relative_to(self.named)

    @cached_property
    def folders(self) -> frozenset[Path]:
        """The folders of files below the one that the user named."""
        above = {self.named, *self.named.parents}
        found = {path.parent for path in self.files if self.is_inside(path)}
        return frozenset(each for folder in found for each in (folder, *folder.parents)) - above

    def with_suffix(self, *suffixes: str) -> list[Path]:
        """Return the files with one of these suffixes in any case; GDAL's `.aux.xml` are ignored."""
        return [p for p in self.files if p.suffix.lower() in suffixes and not p.name.lower().endswith(".aux.xml")]

    def sample(self, suffix: str) -> list[Path]:
        """Return the first files with this suffix that are not empty, enough to recognise a format."""
        full = (path for path in self.with_suffix(suffix) if path.is_file() and path.stat().st_size)
        return list(islice(full, _SAMPLE))

    @cached_property
    def images(self) -> tuple[Path, ...]:
        """The images, without those in folders of masks."""
        return tuple(
            path
            for path in self.with_suffix(*SUFFIXES)
            if self.is_inside(path) and not any(part.lower().startswith(_MASKS) for part in self.parts(path))
        )

    def parts(self, path: Path) -> tuple[str, ...]:
        """Return the folders between the root and a file."""
        return path.relative_to(self.root).parts[:-1]

    @cached_property
    def _by_key(self) -> dict[str, list[Path]]:
        return _group((path.name, path) for path in self.images)

    @cached_property
    def _labels_by_key(self) -> dict[str, list[Path]]:
        return _group((path.stem, path) for path in self.with_suffix(*_OBJECTS))

    def find(self, name: str) -> Sequence[Path]:
        """Return the images of this name in any folder, with this or another suffix."""
        return self._by_key.get(key(name), ())

    def choose_texts(
        self, texts: Mapping[Path, Sequence[Line]], is_label: Callable[[Sequence[Line]], bool]
    ) -> list[Path]:
        """Return the texts that are labels of a format, or are called like an image.

        A text of another format is ignored if the image has one of this format too.
        """
        sure = {path for path, lines in texts.items() if is_label(lines)}
        named = {key(path.stem) for path in sure}
        return [
            path
            for path, lines in texts.items()
            if path in sure or (self.find(path.stem) and not (lines and key(path.stem) in named))
        ]

    def is_near(self, wanted: Reference) -> bool:
        """Return whether an image of this name lies in folders like those of the label."""
        return any(not self._is_elsewhere(wanted, path) for path in self.find(wanted.name))

    def locate(self, names: Iterable[str], label: Path) -> dict[str, Path]:
        """Return the images that one label file names; those that do not exist are missing."""
        return {wanted.name: path for wanted, path in self._match([Reference(name, label) for name in names]).items()}

    def match(self, wanted: Sequence[Reference]) -> Match:
        """Match label files to images, and find the unlabelled images beside them.

        Only folders that hold labelled images are searched. An image that may have a label is not counted as
        unlabelled: a copy or preview of a labelled one (`a.jpg` or `a (1).png` beside `a.png`), one that shares its
        name with a label of another format, or with a label whose own image is missing.
        """
        files = self._match(wanted)
        known = set(files.values())
        folders = {path.parent for path in known}
        by_key = defaultdict(list)
        for each in wanted:
            by_key[key(each.name)].append(each)
        alone = [path for path in self.images if path.parent in folders and path not in known]
        doubtful = {
            path
            for path in alone
            for called in (key(path.name), key(strip_copy(path.stem)))
            for each in by_key[called]
            if each not in files or not self._is_elsewhere(each, path)
        }
        doubtful.update(path for path in alone if self._has_label(path))
        bare = [Image.of(path) for path in alone if path not in doubtful]
        n_elsewhere = len(self.images) - len(known) - len(alone)
        report = join_notes(
            count(len(wanted) - len(files), "label files without their image"),
            count(len(doubtful), "images of the same name as a label file or another image, left out"),
            count(len(bare), "images without a label file, taken as empty"),
            count(n_elsewhere, "images in folders without a label file, left out") if known else "",
        )
        return Match({path: each.label for each, path in files.items()}, bare, report)

    def merge(
        self, images: Iterable[Image], settled: Callable[[Path], bool] = lambda _: False
    ) -> tuple[list[Image], str]:
        """Return one image for each file, the first with boxes if several label files list it, and a note.

        Args:
            images: in the order of the label files.
            settled: label files that take precedence over later ones.

        Raises:
            LabelsError: if two that count differ in their boxes.
        """
        found: dict[Path, Image] = {}
        for each in images:
            first = found.setdefault(each.path, each)
            if not len(first.names):
                found[each.path] = each
            elif len(each.names) and first.label is not None and not settled(first.label):
                old, new = (
                    set(zip(image.names, map(tuple, image.xyxy.round(2).tolist()), strict=True))
                    for image in (first, each)
                )
                if old != new:
                    raise LabelsError(
                        f"{first.label} and {each.label} both list {each.path.name}, with other boxes; keep the one "
                        "that is right, or join them"
                    )
        listed = {path.parent for path in found}
        n_unlisted = sum(path.parent in listed and path not in found for path in self.images)
        return list(found.values()), count(n_unlisted, "images beside them that are not listed, left out")

    def _match(self, wanted: Sequence[Reference]) -> dict[Reference, Path]:
        """Return the image of each label, in the order of the labels; each image is used once.

        Of several with the right name the one whose folders are most like those of the label is taken:
        `images/train/7.jpg` for `labels/train/7.txt`; of images beside each other the larger one. One in folders of
        other names (`images/val/7.jpg`) is taken only if no label has an image in folders like its own.
        """
        ranked = sorted(
            (self._is_elsewhere(each, path), self._rank(each, path), i, path)
            for i, each in enumerate(wanted)
            for path in self.find(each.name)
            if not self._is_of_other_part(path, each.label)
        )
        found: dict[int, Path] = {}
        taken: set[Path] = set()
        for elsewhere, _, i, path in ranked:
            if elsewhere and not ranked[0][0]:
                break
            if i not in found and path not in taken:
                found[i] = path
                taken.add(path)
        return {each: found[i] for i, each in enumerate(wanted) if i in found}

    def _has_label(self, path: Path) -> bool:
        """Whether a file with the image's name holds labels of any format."""
        labels = self._labels_by_key.get(key(path.name), ())
        near = (label for label in labels if not self._is_elsewhere(Reference(label.stem, label), path))
        return any(_OBJECTS[label.suffix.lower()] in label.read_bytes() for label in near)

    def _is_of_other_part(self, path: Path, label: Path) -> bool:
        """Whether its folder and the label file name different parts: `val2017` and `instances_train2017`."""
        part = part_of(label.stem) if label.suffix.lower() in OF_MANY else None
        own = {part_of(folder) for folder in self.parts(path)} - {None}
        return part is not None and bool(own) and part not in own

    def _is_elsewhere(self, wanted: Reference, path: Path) -> bool:
        """Whether an image lies in folders that neither the label nor its own folders name."""
        parts, own = distinctive(self.parts(path)), self._folders(wanted)
        # `annotations/instances_train.json` means images in `images/train`.
        return not (parts <= distinctive(own | set(wanted.label.stem.split("_"))) or distinctive(own) <= parts)

    def _folders(self, wanted: Reference) -> set[str]:
        return {*self.parts(wanted.label), *posix(wanted.name).parts[:-1]}

    def _rank(self, wanted: Reference, path: Path) -> tuple[int, ...]:
        """Sort key, smallest for the image that is meant: its name, common folders, depth; then the larger image."""
        named, parts = posix(wanted.name), self.parts(path)
        near = self._folders(wanted) | set(wanted.label.stem.split("_"))
        # A label that is called like its image lacks the suffix: `a.tif.txt` is of `a.tif.png`, or else of `a.tif`.
        names = [path.stem, path.name] if named.name == wanted.label.stem else [path.name, path.stem]
        other = names.index(named.name) if named.name in names else len(names)
        like_label = key(wanted.label.stem) == key(path.name)
        folders = len(distinctive(parts) - near) - len(near.intersection(parts))
        rank = (not like_label, other, folders, len(parts))
        if len(self.find(path.name)) == 1:
            return rank
        n_bytes = path.stat().st_size
        try:
            with RasterReader(path) as reader:
                return *rank, -math.prod(reader.own_shape), -n_bytes
        except GeodetectError:
            return *rank, 0, -n_bytes


def _group(named: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for name, path in named:
        found[key(name)].append(path)
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """List the files in a folder and below, without hidden ones and links to their own parent folders."""
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        visible = [name for name in folders if not name.startswith(".")]
        if len(here.relative_to(folder).parts) >= _DEEPEST:
            visible = []
        folders[:] = [
            name
            for name in visible
            if not ((here / name).is_symlink() and here.resolve().is_relative_to((here / name).resolve()))
        ]
        yield from (here / name for name in names if not name.startswith("."))

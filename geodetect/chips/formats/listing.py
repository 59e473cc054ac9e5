"""The files of a folder, walked once, and which picture a label means."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from geodetect.chips.formats.names import IMAGES, LABELS, OF_MANY, PICTURES, key, original, part_of, posix, telling
from geodetect.chips.formats.picture import Picture, counted, sentence
from geodetect.errors import GeodetectError
from geodetect.raster import RasterReader

_SAMPLE = 100  # files that are looked into to recognise a format
_DEEPEST = 4  # folders below the one that was named; deeper ones belong to something else
_ABOVE = 2  # folders above pictures in which their labels are looked for
# What stands in a file of labels for a single picture, in whichever format.
_OBJECTS = {".xml": b"<object", ".txt": b" ", ".json": b'"'}
_MASKS = ("mask", "segmentation", "scribble", "panoptic")  # names of folders whose pictures are labels themselves


class Matched(NamedTuple):
    """Labels matched to pictures.

    Args:
        files: the picture of each label; None where it is missing.
        bare: unlabelled pictures.
        report: counts of what could not be matched.
    """

    files: list[Path | None]
    bare: list[Picture]
    report: str


@dataclass(frozen=True, eq=False)
class Listing:
    """The files in a folder and those below it, hidden ones left out.

    Args:
        root: the folder.
        files: all of them, sorted.
        named: the folder that the user named; the root, or one of pictures alone below it.
    """

    root: Path
    files: tuple[Path, ...]
    named: Path

    @classmethod
    def of(cls, root: Path) -> Listing:
        """What a folder holds now."""
        return cls(root, tuple(sorted(_below(root))), root)

    @classmethod
    def beside(cls, folder: Path) -> Listing | None:
        """The pictures of a folder and the labels beside it; None if there is no folder of labels.

        The labels of `images/val` are searched in `labels/val`, those of `val2017` in JSON files in `annotations`.
        """
        folder = Path(os.path.abspath(folder))
        for base in folder.parents[:_ABOVE]:
            first, *deeper = folder.relative_to(base).parts
            of_images = first.lower().startswith(IMAGES)
            beside = sorted(base.iterdir()) if os.access(base, os.R_OK | os.X_OK) else []
            places = [each for each in beside if each.name.lower().startswith(LABELS if of_images else "annotation")]
            labels = [_mirrored(place, deeper) for place in places if place.is_dir()]
            if labels:
                found = {path for place in labels for path in _below(place) if of_images or path.suffix == ".json"}
                found.update(_below(folder), (each for each in beside if each.is_file() and each.name[0] != "."))
                return cls(base, tuple(sorted(found)), folder)
        return None

    def is_inside(self, path: Path) -> bool:
        """Whether a file lies in the folder that the user named."""
        return self.named == self.root or path.is_relative_to(self.named)

    @cached_property
    def folders(self) -> frozenset[Path]:
        """The folders of files below the one that the user named."""
        above = {self.named, *self.named.parents}
        found = {path.parent for path in self.files if self.is_inside(path)}
        return frozenset(each for folder in found for each in (folder, *folder.parents)) - above

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, whatever the case; GDAL's notes beside pictures are none."""
        return [p for p in self.files if p.suffix.lower() in suffixes and not p.name.lower().endswith(".aux.xml")]

    def sample(self, suffix: str) -> list[Path]:
        """The first files with this suffix that hold anything, enough to recognise a format by."""
        return list(islice((path for path in self.ending(suffix) if path.is_file() and path.stat().st_size), _SAMPLE))

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """The pictures, without those in folders of masks."""
        return tuple(path for path in self.ending(*PICTURES) if self.is_inside(path) and not self._is_mask(path))

    def _is_mask(self, path: Path) -> bool:
        return any(part.lower().startswith(_MASKS) for part in self.parts(path))

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders between the root and a file."""
        return path.relative_to(self.root).parts[:-1]

    @cached_property
    def _by_key(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.pictures:
            found[key(path.name)].append(path)
        return found

    def called(self, name: str) -> Sequence[Path]:
        """The pictures called so, in whatever folder, with this or another suffix."""
        return self._by_key.get(key(name), ())

    def near(self, name: str, label: Path) -> bool:
        """Whether a picture called so lies in folders like those of a label."""
        return any(not self._unlikeness(name, label, path)[0] for path in self.called(name))

    def match(self, wanted: Sequence[tuple[str, Path]]) -> list[Path | None]:
        """The picture that each label means, or None; no picture is given twice.

        Of several with the right name the one whose folders are most like those of the label is
        taken: `images/train/7.jpg` for `labels/train/7.txt`; of pictures beside each other the larger one. One in
        folders of other names (`images/val/7.jpg`) is taken only where no label has a picture in folders like its own.

        Args:
            wanted: name or stem of a picture, in folders perhaps, and the file of labels that names it.
        """
        ranked = sorted(
            (self._unlikeness(name, label, path), self._smallness(path), i, path)
            for i, (name, label) in enumerate(wanted)
            for path in self.called(name)
            if not self._is_of_other_part(path, label)
        )
        found: list[Path | None] = [None] * len(wanted)
        taken: set[Path] = set()
        for (strange, *_), _, i, path in ranked:
            if strange and not ranked[0][0][0]:
                break
            if found[i] is None and path not in taken:
                found[i] = path
                taken.add(path)
        return found

    @cached_property
    def _texts(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.ending(*_OBJECTS):
            found[key(path.stem)].append(path)
        return found

    def _has_text(self, path: Path) -> bool:
        """Whether a file with the picture's name holds labels of any format."""
        texts = self._texts.get(key(path.name), ())
        near = (text for text in texts if not self._unlikeness(text.stem, text, path)[0])
        return any(_OBJECTS[text.suffix.lower()] in text.read_bytes() for text in near)

    def _smallness(self, path: Path) -> tuple[int, int]:
        """Sort key that puts the largest of several pictures with one name first; constant for unique names."""
        if len(self.called(path.name)) == 1:
            return 0, 0
        try:
            with RasterReader(path) as reader:
                return -math.prod(reader.own_shape), -path.stat().st_size
        except GeodetectError:
            return 0, -path.stat().st_size

    def _is_of_other_part(self, path: Path, label: Path) -> bool:
        """Whether its folder and the file of labels name different parts: `val2017` and `instances_train2017`."""
        part = part_of(label.stem) if label.suffix.lower() in OF_MANY else None
        own = {part_of(folder) for folder in self.parts(path)} - {None}
        return part is not None and bool(own) and part not in own

    def _unlikeness(self, name: str, label: Path, path: Path) -> tuple[bool, bool, int, int, int]:
        """Smallest for the picture that is meant: folders and names that differ, fewer folders in common, deeper."""
        named, parts = posix(name), self.parts(path)
        own = {*self.parts(label), *named.parts[:-1]}
        # `annotations/instances_train.json` means pictures in `images/train`.
        near = own | set(label.stem.split("_"))
        strange = not (telling(parts) <= telling(near) or telling(own) <= telling(parts))
        # A label that is called like its picture lacks the suffix: `a.tif.txt` is of `a.tif.png`, or else of `a.tif`.
        names = [path.stem, path.name] if named.name == label.stem else [path.name, path.stem]
        other = names.index(named.name) if named.name in names else len(names)
        like_label = key(label.stem) == key(path.name)
        return strange, not like_label, other, len(telling(parts) - near) - len(near.intersection(parts)), len(parts)

    def matched(self, wanted: Sequence[tuple[str, Path]], labels: str, a_label: str) -> Matched:
        """Match labels to pictures, and find the unlabelled pictures beside them.

        Only folders that hold labelled pictures are searched. A picture that may have a label is not counted as
        unlabelled: a copy or preview of a labelled one (`a.jpg` or `a (1).png` beside `a.png`), one that shares its
        name with a label of another format, or with a label whose own picture is missing.

        Args:
            wanted: as in `match`.
            labels: what a report calls several labels.
            a_label: what it calls one.
        """
        files = self.match(wanted)
        known = {path for path in files if path is not None}
        folders = {path.parent for path in known}
        labelled = defaultdict(list)
        for (name, label), path in zip(wanted, files, strict=True):
            labelled[key(name)].append((name, label, path))
        alone = [path for path in self.pictures if path.parent in folders and path not in known]
        doubtful = {
            path
            for path in alone
            for called in (key(path.name), key(original(path.stem)))
            for name, label, taken in labelled[called]
            if taken is None or not self._unlikeness(name, label, path)[0]
        }
        doubtful.update(path for path in alone if self._has_text(path))
        bare = [Picture.bare(path) for path in alone if path not in doubtful]
        n_elsewhere = len(self.pictures) - len(known) - len(alone)
        report = sentence(
            counted(files.count(None), f"{labels} whose picture is not there"),
            counted(len(doubtful), f"pictures of the same name as {a_label} or another picture, left out"),
            counted(len(bare), f"pictures without {a_label}, taken as empty"),
            counted(n_elsewhere, f"pictures in folders without any {a_label.split()[-1]}, left out") if known else "",
        )
        return Matched(files, bare, report)


def _below(folder: Path) -> Iterable[Path]:
    """The files in a folder and below, hidden ones left out."""
    for place, folders, names in os.walk(folder, followlinks=True):
        depth = len(Path(place).relative_to(folder).parts)
        visible = [name for name in folders if not name.startswith(".")] if depth < _DEEPEST else []
        folders[:] = [name for name in visible if not _leads_back(Path(place, name))]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _leads_back(folder: Path) -> bool:
    """Whether a link points to one of its own parent folders."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _mirrored(place: Path, deeper: Sequence[str]) -> Path:
    """The folder of labels whose place is like that of the pictures: `labels/val` for `images/val`."""
    mirrored = place.joinpath(*deeper)
    return mirrored if mirrored.is_dir() else place

"""The files of a folder, walked once, and which picture a label means."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path, PurePosixPath

from geodetect.chips.formats.picture import Picture
from geodetect.errors import LabelsError

PICTURES = frozenset({".tif", ".tiff", ".jpg", ".jpeg", ".png", ".bmp", ".jp2", ".img", ".mrf", ".vrt", ".webp"})
_SAMPLE = 100  # files that are looked into to recognise a format
_DEEPEST = 4  # folders below the one that was named; deeper ones belong to something else
_PLAIN = ("image", "img", "jpegimages", "picture", "photo", "label", "annotation", "xml", "txt", "json")
_MASKS = ("mask", "segmentation", "scribble", "panoptic")  # names of folders whose pictures are labels themselves


@dataclass(frozen=True, eq=False)
class Listing:
    """The files in a folder and those below it, hidden ones left out.

    Args:
        root: the folder.
        files: all of them, sorted.
    """

    root: Path
    files: tuple[Path, ...]

    @classmethod
    def of(cls, root: Path) -> Listing:
        """What a folder holds now."""
        found: list[Path] = []
        for place, folders, names in os.walk(root):
            depth = len(Path(place).relative_to(root).parts)
            folders[:] = [name for name in folders if not name.startswith(".")] if depth < _DEEPEST else []
            found += [Path(place, name) for name in names if not name.startswith(".")]
        return cls(root, tuple(sorted(found)))

    def ending(self, *suffixes: str) -> list[Path]:
        """The files with one of these suffixes, whatever the case; GDAL's notes beside pictures are none."""
        return [p for p in self.files if p.suffix.lower() in suffixes and not p.name.lower().endswith(".aux.xml")]

    def sample(self, suffix: str) -> list[Path]:
        """The first files with this suffix that hold anything, enough to recognise a format by."""
        return list(islice((path for path in self.ending(suffix) if path.stat().st_size), _SAMPLE))

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """The pictures, without those in folders of masks."""
        return tuple(path for path in self.ending(*PICTURES) if not self._is_mask(path))

    def _is_mask(self, path: Path) -> bool:
        return any(part.lower().startswith(_MASKS) for part in self.parts(path))

    def parts(self, path: Path) -> tuple[str, ...]:
        """The folders between the root and a file."""
        return path.relative_to(self.root).parts[:-1]

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.pictures:
            found[path.stem].append(path)
        return found

    def has_picture(self, name: str) -> bool:
        """Whether some picture is called so, with this or another suffix."""
        return _stem(name) in self._by_stem

    def match(self, wanted: Sequence[tuple[str, Path]]) -> list[Path | None]:
        """The picture that each label means, or None; no picture is given twice.

        Of several with the right name the one whose folders are most like those of the label is
        taken: `images/train/7.jpg` for `labels/train/7.txt`. One in folders of other names (`images/val/7.jpg`) is
        taken only where no label has a picture in folders like its own.

        Args:
            wanted: name or stem of a picture, in folders perhaps, and the file of labels that names it.
        """
        ranked = sorted(
            (self._unlikeness(name, label, path), i, path)
            for i, (name, label) in enumerate(wanted)
            for path in self._by_stem.get(_stem(name), ())
        )
        found: list[Path | None] = [None] * len(wanted)
        taken: set[Path] = set()
        for (strange, *_), i, path in ranked:
            if strange and not ranked[0][0][0]:
                break
            if found[i] is None and path not in taken:
                found[i] = path
                taken.add(path)
        return found

    def _unlikeness(self, name: str, label: Path, path: Path) -> tuple[bool, bool, int, int]:
        """Smallest for the picture that is meant: folders of other names, other name, fewer in common, deeper."""
        named, parts = _posix(name), self.parts(path)
        own = {*self.parts(label), *named.parts[:-1]}
        # `annotations/instances_train.json` means pictures in `images/train`.
        near = own | set(label.stem.split("_"))
        strange = not (_telling(parts) <= _telling(near) or _telling(own) <= _telling(parts))
        return strange, path.name != named.name, -len(near.intersection(parts)), len(parts)

    def unlabelled(self, labelled: Iterable[Path]) -> list[Picture]:
        """The pictures without labels, in those folders that hold pictures with."""
        known = set(labelled)
        folders = {path.parent for path in known}
        return [Picture.bare(path) for path in self.pictures if path.parent in folders and path not in known]


def _telling(folders: Iterable[str]) -> set[str]:
    """Those whose names tell more than that they hold pictures or labels."""
    return {name for name in folders if not name.lower().startswith(_PLAIN)}


def _posix(name: str) -> PurePosixPath:
    return PurePosixPath(name.strip().replace("\\", "/"))


def _stem(name: str) -> str:
    """The name of a picture without folders and without a picture's suffix."""
    path = _posix(name)
    return path.stem if path.suffix.lower() in PICTURES else path.name


def lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text that hold anything, with their numbers from 1.

    Raises:
        LabelsError: if it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LabelsError(f"{path} cannot be read: {error.strerror}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")  # what Windows writes otherwise
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]

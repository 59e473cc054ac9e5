"""The split that a data set comes with: by lists, or by the names of folders and files.

Lists are those of Pascal VOC (`ImageSets/Main/train.txt`), of Ultralytics (`train:` in `data.yaml`: folders, images,
texts of paths), of Darknet (`obj.data`), and texts called `train.txt`, `val.txt` and so on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from geodetect.chips.formats.image import TEST, TRAIN, UNLISTED, VALID, Folder, Image
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import OF_MANY, SUFFIXES, parse_part, part_of
from geodetect.chips.formats.text import read_lines, read_text
from geodetect.errors import LabelsError

_SETS = {"imagesets", "main"}


def assign_parts(found: Folder, listing: Listing) -> Folder:
    """Set `part` on each image of a folder; None for images that no list or name assigns.

    An image that the lists of its folder omit is `UNLISTED`. Lists count only if they name more than one part.
    """
    entries: dict[Path, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))  # by folder and part
    for path in filter(listing.is_inside, listing.files):
        suffix, scope = path.suffix.lower(), path.parent
        if suffix in (".yaml", ".yml", ".data"):
            for part, entry in _read_keys(path):
                entries[scope][part].append(entry)
        elif suffix == ".txt" and (named := part_of(path.stem)) and not listing.find(path.name):
            while scope.name.lower() in _SETS and scope != listing.named:
                scope = scope.parent
            entries[scope][named] += [line.text for line in read_lines(path)]
    listed: dict[Path, str] = {}
    for scope, by_part in entries.items():
        parts = {part: _resolve(some, scope, listing) for part, some in by_part.items()}
        train, valid, test = (parts.get(part, set()) for part in (TRAIN, VALID, TEST))
        if not train - valid:  # both name one folder
            train, valid = train | valid, set()
        if sum(map(bool, (train, valid, test - train - valid))) > 1:
            inside = [path for path in listing.images if path.is_relative_to(scope)]
            listed |= dict.fromkeys(inside, UNLISTED) | dict.fromkeys(test, TEST)
            listed |= dict.fromkeys(train, TRAIN) | dict.fromkeys(valid, VALID)
    names = _Names(listing)
    images = [replace(each, part=listed.get(each.path) or names.part(each)) for each in found.images]
    return replace(found, images=images)


class _Names:
    """Parts by the names of folders, and of files that hold the labels of many images.

    `train2017` and `val_images` name a part by themselves, `test_site_3` only beside a `train_site_3`.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        beside: dict[Path, set[str]] = defaultdict(set)
        for folder in listing.folders:
            beside[folder.parent].add(folder.name)
        for path in listing.with_suffix(*OF_MANY):
            beside[path.parent].add(path.stem)
        self._parts: dict[Path, dict[str, str]] = {}
        for place, names in beside.items():
            found = {name: part for name in names if (part := parse_part(name))}
            parts_of = defaultdict(set)
            for each in found.values():
                parts_of[each.rest].add(each.part)
            parts = {name: each.part for name, each in found.items() if not each.rest or len(parts_of[each.rest]) > 1}
            self._parts[place] = parts
        self._split = {place for place, parts in self._parts.items() if len(set(parts.values())) > 1}
        self._by_folder: dict[Path, str | None] = {}

    def part(self, image: Image) -> str | None:
        """Return the part by the label file, the image's folders (innermost first), or the label's folders.

        `UNLISTED` for an image outside the folders of the parts; None if nothing is split.
        """
        label = image.label or image.path
        named = self._of(label.with_suffix("")) if label.suffix.lower() in OF_MANY else None
        found = named or self._of_folder(image.path.parent) or self._of_folder(label.parent)
        return found or (None if self._split.isdisjoint(image.path.parents) else UNLISTED)

    def _of(self, path: Path) -> str | None:
        return self._parts.get(path.parent, {}).get(path.name)

    def _of_folder(self, folder: Path) -> str | None:
        if folder not in self._by_folder:
            inside = folder in self._listing.folders
            self._by_folder[folder] = (self._of(folder) or self._of_folder(folder.parent)) if inside else None
        return self._by_folder[folder]


def _read_keys(path: Path) -> Iterator[tuple[str, str]]:
    """Yield parts and their entries from the keys of a `data.yaml` or from Darknet's lines `train = ...`."""
    content: Any = None
    if path.suffix.lower() == ".data":
        content = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", read_text(path), re.MULTILINE))
    else:
        try:
            content = yaml.safe_load(read_text(path))
        except (yaml.YAMLError, LabelsError):
            return  # of another program; a broken file of class names is refused where those are read
    for name, value in content.items() if isinstance(content, Mapping) else ():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str) and (part := part_of(str(name))):
                yield part, entry


def _resolve(entries: Collection[str], scope: Path, listing: Listing) -> set[Path]:
    """Return the images that a list names by folder, by a text of further entries, by path or by stem.

    Leading `..`, which Roboflow writes by mistake, are ignored.
    """
    found: set[Path] = set()
    for entry in entries:
        parts = [part for part in entry.strip("\"' ").replace("\\", "/").split("/") if part not in ("", ".", "..")]
        if parts and parts[-1].lower().endswith(".txt"):
            texts = [path for path in listing.with_suffix(".txt") if path.name.lower() == parts[-1].lower()]
            more = [line.text for path in _nearest(parts, texts) for line in read_lines(path)]
            found |= _resolve([line for line in more if not line.lower().endswith(".txt")], scope, listing)
        elif parts and (called := [path for path in listing.find(parts[-1]) if path.is_relative_to(scope)]):
            found.update(_nearest(parts, called))
        elif not parts or not parts[-1].lower().endswith(tuple(SUFFIXES)):
            folders = _nearest(parts, listing.folders) if parts else [scope]
            found.update(path for each in folders for path in listing.images if path.is_relative_to(each))
    return found


def _nearest(parts: Sequence[str], paths: Collection[Path]) -> list[Path]:
    """Return the paths that share the longest tail with an entry, if all of them lie in one folder; else none.

    Lists may have been written on another machine, so the beginning of a path is not reliable. The name of an image
    counts as equal.
    """
    tails: dict[Path, int] = {}
    for path in paths:
        own = path.parts if path.suffix.lower() not in SUFFIXES else (*path.parts[:-1], parts[-1])
        pairs = enumerate(zip(reversed(parts), reversed(own), strict=False))
        tails[path] = next((i for i, (a, b) in pairs if a.casefold() != b.casefold()), min(len(parts), len(own)))
    longest = max(tails.values(), default=0)
    nearest = [path for path, length in tails.items() if length == longest]
    return nearest if longest and len({path.parent for path in nearest}) == 1 else []

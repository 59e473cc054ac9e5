"""The split that a data set comes with: by lists, or by the names of folders and files.

Lists are those of Pascal VOC (`ImageSets/Main/train.txt`), of Ultralytics (`train:` in `data.yaml`: folders, pictures,
texts of paths), of Darknet (`obj.data`), and texts called `train.txt`, `val.txt` and so on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import OF_MANY, PICTURES, part_of, word
from geodetect.chips.formats.picture import TEST, TRAIN, UNLISTED, VALID, Folder, Picture
from geodetect.chips.formats.text import lines, text_of
from geodetect.errors import LabelsError

_SETS = {"imagesets", "main"}


def with_parts(found: Folder, listing: Listing) -> Folder:
    """The folder with `part` set on each picture; None for pictures that no list or name assigns."""
    listed, named = _listed(listing), _Names(listing)
    pictures = [replace(each, part=listed.get(each.path) or named.part(each)) for each in found.pictures]
    return replace(found, pictures=pictures)


def _telling(names: Iterable[str]) -> dict[str, str]:
    """The parts that names in one folder stand for; names that stand for none are left out.

    `train2017` and `val_images` stand for one by themselves, `test_site_3` only beside a `train_site_3`.
    """
    words = {name: found for name in names if (found := word(name))}
    parts = defaultdict(set)
    for each in words.values():
        parts[each.rest].add(each.part)
    return {name: each.part for name, each in words.items() if not each.rest or len(parts[each.rest]) > 1}


class _Names:
    """Parts by the names of folders, and of files that hold the labels of many pictures."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        beside: dict[Path, set[str]] = defaultdict(set)
        for folder in listing.folders:
            beside[folder.parent].add(folder.name)
        for path in listing.ending(*OF_MANY):
            beside[path.parent].add(path.stem)
        self._parts = {place: _telling(names) for place, names in beside.items()}
        self._split = {place for place, parts in self._parts.items() if len(set(parts.values())) > 1}
        self._by_folder: dict[Path, str | None] = {}

    def part(self, picture: Picture) -> str | None:
        """The part by the file of labels, the picture's folders (innermost first), or the label's folders.

        `UNLISTED` for a picture outside the folders of the parts; None where nothing is split.
        """
        label = picture.label or picture.path
        named = self._of(label.with_suffix("")) if label.suffix.lower() in OF_MANY else None
        found = named or self._of_folder(picture.path.parent) or self._of_folder(label.parent)
        return found or (None if self._split.isdisjoint(picture.path.parents) else UNLISTED)

    def _of(self, path: Path) -> str | None:
        return self._parts.get(path.parent, {}).get(path.name)

    def _of_folder(self, folder: Path) -> str | None:
        if folder not in self._by_folder:
            inside = folder in self._listing.folders
            self._by_folder[folder] = (self._of(folder) or self._of_folder(folder.parent)) if inside else None
        return self._by_folder[folder]


def _listed(listing: Listing) -> dict[Path, str]:
    """The part of each picture by lists, `UNLISTED` if the lists of its folder omit it; empty without a split."""
    found: dict[Path, str] = {}
    for scope, lists in _lists(listing).items():
        parts = {part: _named_pictures(entries, scope, listing) for part, entries in lists.items()}
        train, valid, test = (parts.get(part, set()) for part in (TRAIN, VALID, TEST))
        if not train - valid:  # one folder is both
            train, valid = train | valid, set()
        if sum(map(bool, (train, valid, test - train - valid))) > 1:
            inside = [path for path in listing.pictures if path.is_relative_to(scope)]
            found |= dict.fromkeys(inside, UNLISTED) | dict.fromkeys(test, TEST)
            found |= dict.fromkeys(train, TRAIN) | dict.fromkeys(valid, VALID)
    return found


def _lists(listing: Listing) -> dict[Path, dict[str, list[str]]]:
    """The entries of all lists, by the folder they apply to and by part."""
    found: dict[Path, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in filter(listing.is_inside, listing.files):
        suffix, scope = path.suffix.lower(), path.parent
        if suffix in (".yaml", ".yml", ".data"):
            for key, entry in _entries(path):
                found[scope][key].append(entry)
        elif suffix == ".txt" and (part := part_of(path.stem)) and not listing.called(path.name):
            while scope.name.lower() in _SETS and scope != listing.named:
                scope = scope.parent
            found[scope][part] += [line for _, line in lines(path)]
    return found


def _entries(path: Path) -> Iterator[tuple[str, str]]:
    """Parts and their entries, from the keys of a `data.yaml` or Darknet's lines `train = ...`."""
    content: Any = None
    if path.suffix.lower() == ".data":
        content = dict(re.findall(r"^\s*(\w+)\s*=\s*(.+?)\s*$", text_of(path), re.MULTILINE))
    else:
        try:
            content = yaml.safe_load(text_of(path))
        except (yaml.YAMLError, LabelsError):
            return  # of another program; that of the class names is refused where they are read
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str) and (part := part_of(str(name))):
                yield part, entry


def _named_pictures(entries: Collection[str], scope: Path, listing: Listing) -> set[Path]:
    """The pictures that a list names by folder, by a text of further entries, by path or by stem."""
    found: set[Path] = set()
    for entry in entries:
        parts = _parts(entry)
        if parts and parts[-1].lower().endswith(".txt"):
            texts = [path for path in listing.ending(".txt") if path.name.lower() == parts[-1].lower()]
            more = [line for path in _nearest(parts, texts) for _, line in lines(path)]
            found |= _named_pictures([line for line in more if not line.lower().endswith(".txt")], scope, listing)
        elif parts and (called := [path for path in listing.called(parts[-1]) if path.is_relative_to(scope)]):
            found.update(_nearest(parts, called))
        elif not parts or not parts[-1].lower().endswith(tuple(PICTURES)):
            folders = _nearest(parts, listing.folders) if parts else [scope]
            found.update(path for each in folders for path in listing.pictures if path.is_relative_to(each))
    return found


def _parts(entry: str) -> list[str]:
    """The components of a path of any system; leading `..`, which Roboflow writes by mistake, are ignored."""
    return [part for part in entry.strip("\"' ").replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _nearest(parts: Sequence[str], paths: Collection[Path]) -> list[Path]:
    """The paths that share the longest tail with an entry, if all of them lie in one folder; else none.

    Lists may have been written on another machine, so the beginning of a path is not reliable.
    """
    tails = {path: _common_tail(parts, path) for path in paths}
    longest = max(tails.values(), default=0)
    nearest = [path for path, length in tails.items() if length == longest]
    return nearest if longest and len({path.parent for path in nearest}) == 1 else []


def _common_tail(parts: Sequence[str], path: Path) -> int:
    """Number of trailing components in common; the name of a picture counts as equal."""
    own = path.parts if path.suffix.lower() not in PICTURES else (*path.parts[:-1], parts[-1])
    pairs = zip(reversed(parts), reversed(own), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a.casefold() != b.casefold()), min(len(parts), len(own)))

"""Which part of a data set each picture belongs to, as the data set itself says: by lists, or by names of folders.

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
    """The folder with the part that each of its pictures belongs to; None of those that nothing is said of."""
    listed, named = _listed(listing), _Names(listing)
    pictures = [replace(each, part=listed.get(each.path) or named.part(each)) for each in found.pictures]
    return replace(found, pictures=pictures)


def _telling(names: Iterable[str]) -> dict[str, str]:
    """The part that each of some names beside each other stands for; those that stand for none are left out.

    `train2017` and `val_images` stand for one; `test_site_3` does only where there is a `train_site_3`, too.
    """
    words = {name: found for name in names if (found := word(name))}
    parts = defaultdict(set)
    for each in words.values():
        parts[each.rest].add(each.part)
    return {name: each.part for name, each in words.items() if not each.rest or len(parts[each.rest]) > 1}


class _Names:
    """The parts that folders, and files of labels of many pictures, are named after."""

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
        """What the file of labels is called, or else the picture's folders, the innermost first, or the labels'.

        `UNLISTED` beside folders of several parts, in none of them; None where nothing is split.
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
    """The part of each picture that lists give, `UNLISTED` for those beside them; none where nothing is split."""
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
    """The entries of all lists, by the folder that they speak of and by part."""
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
    """Parts and what belongs to them, by the keys of a `data.yaml` or the lines `train = ...` of Darknet."""
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
    """The pictures that entries of a list name: folders, texts of more entries, paths or stems of pictures."""
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
    """The names that a path of any system is made of; Roboflow's lead one folder up to where the list lies itself."""
    return [part for part in entry.strip("\"' ").replace("\\", "/").split("/") if part not in ("", ".", "..")]


def _nearest(parts: Sequence[str], paths: Collection[Path]) -> list[Path]:
    """Those of some paths, in one folder, that end in the most of the names; none where several folders do.

    Lists are made on other machines, so that their paths begin with what is not there.
    """
    tails = {path: _common_tail(parts, path) for path in paths}
    longest = max(tails.values(), default=0)
    nearest = [path for path, length in tails.items() if length == longest]
    return nearest if longest and len({path.parent for path in nearest}) == 1 else []


def _common_tail(parts: Sequence[str], path: Path) -> int:
    """How many names from the end on two paths have in common; that of a picture is known already."""
    own = path.parts if path.suffix.lower() not in PICTURES else (*path.parts[:-1], parts[-1])
    pairs = zip(reversed(parts), reversed(own), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a.casefold() != b.casefold()), min(len(parts), len(own)))

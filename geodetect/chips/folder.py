"""From a folder of labelled pictures to plans of chips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from geodetect.addresses import expand_user
from geodetect.chips.cut import MIN_SIDE, Cutting
from geodetect.chips.formats import Folder, Picture, read_folder
from geodetect.chips.formats.picture import TEST, TRAIN, UNLISTED, VALID, counted, is_plain, sentence
from geodetect.chips.pictures import PictureCutter
from geodetect.chips.sources import Source
from geodetect.errors import LabelsError
from geodetect.vector.classes import renaming, unmatched, warn_of_identifiers, warn_of_likenesses

_OF_FOLDERS = (".csv", ".json", ".yaml", ".yml", ".xml", ".txt", ".emd")  # files of folders of chips


def from_folder(
    folder: str | Path | Sequence[str | Path],
    cutting: Cutting,
    *,
    dataset_type: str | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
    argument: str = "source",
) -> Source:
    """Chips of a folder of labelled pictures; large pictures are cut, small ones are one chip each.

    A data set that is split keeps its parts: the one to validate on is `held`, the one to test on is left out.

    Args:
        folder: its path.
        cutting: how pictures become chips.
        dataset_type: the format; None recognises it.
        class_mapping: new names by names, or by the numbers that the format has for classes.
        argument: what a message calls the folder; of a `valid_path` that is split only the part to validate on is read.

    Raises:
        LabelsError: if the folder is missing, of no known format, or holds no box to train on.
    """
    folder = _checked(folder, argument)
    content = read_folder(folder, dataset_type)
    rename, unknown = _renamed(content, class_mapping)
    parts = _Parts.of(content.pictures)
    if argument == "valid_path":
        parts = _Parts(parts.valid or parts.train or parts.test, [], [], [])
    if not parts.train:
        raise LabelsError(
            f"{folder} holds pictures to test with alone ({len(parts.test):,}), which are not trained on; name the "
            "folder that they lie in to use them all the same"
        )
    cutter = PictureCutter(parts.train + parts.valid, content.crs, cutting, rename)
    train, valid = cutter.plans(parts.train), cutter.plans(parts.valid)
    report = sentence(content.report, parts.report, cutter.report, unknown)
    if not any(len(plan.boxes) for plan in train):
        raise LabelsError(
            f"no picture of {folder} holds a box that is at least {MIN_SIDE:g} px wide and lies inside it"
            f"{report and f' ({report})'}"
        )
    source = cutter.source(train, f"{len(parts.train):,} pictures of {folder.name}")
    warn_of_identifiers(len(source.classes), sum(len(plan.boxes) for plan in source.plans), str(folder))
    number = np.array([source.classes.index(name) if name in source.classes else -1 for name in cutter.classes])
    return replace(
        source,
        held=cutter.source(valid, f"{len(parts.valid):,} pictures of {folder.name}") if valid else None,
        left_out=[plan.relabelled(number) for plan in cutter.plans(parts.test + parts.unlisted)],
        report=sentence(source.report, report),
    )


def _checked(folder: str | Path | Sequence[str | Path], argument: str) -> Path:
    """The folder's path.

    Raises:
        LabelsError: if it is none.
    """
    hint = " (give labels=...)" if argument == "source" else ""
    expected = f"{'without labels, ' if hint else ''}{argument} must be one folder of labelled chips"
    if not isinstance(folder, str | Path) or folder == "":
        got = f"{len(folder)} paths{hint}" if isinstance(folder, list | tuple) else f"{folder!r:.80}"
        raise LabelsError(f"{expected}; got {got}")
    folder = Path(expand_user(folder))
    if not folder.is_dir():
        if folder.suffix.lower() in _OF_FOLDERS and folder.is_file():
            raise LabelsError(f"{expected}; got the file {folder}; give the folder of labels and pictures")
        raise LabelsError(f"{expected}; got {folder}, which is {f'a file{hint}' if folder.exists() else 'not there'}")
    return folder


def _renamed(content: Folder, class_mapping: Mapping[Any, str | None] | None) -> tuple[dict[str, str | None], str]:
    """What each class of the folder is called from now on, and a note of what the mapping names in vain.

    Raises:
        LabelsError: if a class has no name, or one that files cannot hold.
    """
    new = renaming(class_mapping)
    rename: dict[str, str | None] = {name: name for name in content.classes}
    # A name says more than a number, which may be another class' name.
    rename |= {name: new[value] for value, name in content.values if value in new}
    rename |= {name: new[name] for name in content.classes if name in new}
    names = {name for name in rename.values() if name is not None}
    if any(not name.strip() for name in names):
        raise LabelsError("a class of the folder has an empty name; give it one with class_mapping={its number: name}")
    if odd := sorted(name for name in names if not is_plain(name)):
        raise LabelsError(
            "names of classes must be one line of text without control characters; the folder has "
            f"{', '.join(map(repr, odd))}; save its labels as UTF-8, or rename the classes with "
            "class_mapping={old: new}"
        )
    warn_of_likenesses(names)
    return rename, unmatched(new, [*content.classes, *(value for value, _ in content.values)])


class _Parts(NamedTuple):
    """The pictures of a data set by the parts that it has itself; all are to train on where it has none."""

    train: list[Picture]
    valid: list[Picture]
    test: list[Picture]
    unlisted: list[Picture]

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> _Parts:
        """The parts that pictures say they belong to; those that say nothing, or are of the only part, train."""
        found: dict[str | None, list[Picture]] = defaultdict(list)
        for picture in pictures:
            found[picture.part].append(picture)
        train = found[TRAIN] + found[None] or found.pop(VALID, [])
        return cls(train, found[VALID], found[TEST], found[UNLISTED])

    @property
    def report(self) -> str:
        """How the data set is split, and what is left out for it; empty where it is not split."""
        split = f"its own split is kept: {len(self.train):,} pictures to train, {len(self.valid):,} to validate"
        return sentence(
            split if self.valid else "",
            counted(len(self.test), "pictures of its own part to test on, left out"),
            counted(len(self.unlisted), "pictures in none of its own parts, left out"),
        )

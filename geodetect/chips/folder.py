"""Chips of a folder of labelled images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from geodetect.addresses import expand_user
from geodetect.chips.chip import relabel
from geodetect.chips.cut import MIN_SIDE, Cutting
from geodetect.chips.formats import Folder, Image, read_folder
from geodetect.chips.formats.image import TEST, TRAIN, UNLISTED, VALID, count, is_plain, join_notes
from geodetect.chips.images import ImageCutter
from geodetect.chips.sources import Source
from geodetect.errors import LabelsError
from geodetect.vector.classes import note_unmatched, parse_mapping, warn_of_identifiers, warn_of_similar_names

_LABEL_FILES = (".csv", ".json", ".yaml", ".yml", ".xml", ".txt", ".emd")  # suffixes of what lies in a folder of chips


def from_folder(
    folder: str | Path | Sequence[str | Path],
    cutting: Cutting,
    *,
    dataset_type: str | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
    argument: str = "source",
) -> Source:
    """Plan the chips of a folder of labelled images; large images are cut, small ones are one chip each.

    A data set that defines its own split keeps it: `valid` is the validation part, the test part is not used.

    Args:
        folder: its path.
        cutting: how images become chips.
        dataset_type: the format; None recognises it.
        class_mapping: new names by name, or by class number in the format.
        argument: name of the folder in messages; of a split `valid_path` only the validation part is read.

    Raises:
        LabelsError: if the folder is missing, of no known format, or without a training box.
    """
    folder = _check_folder(folder, argument)
    content = read_folder(folder, dataset_type, oriented=cutting.oriented)
    rename, unknown = _rename_classes(content, class_mapping)
    parts = _OwnParts.of(content.images)
    if argument == "valid_path":
        parts = _OwnParts(parts.valid or parts.train or parts.test, [], [], [])
    if not parts.train:
        raise LabelsError(
            f"{folder} only holds test images ({len(parts.test):,}), which are not used in training; to train on "
            "them anyway, give the folder that contains them"
        )
    if cutting.oriented:
        _check_outlines(content.images, folder)
    cutter = ImageCutter(parts.train + parts.valid, content.crs, cutting, rename)
    train, valid = cutter.plan(parts.train), cutter.plan(parts.valid)
    report = join_notes(content.report, parts.report, cutter.report, unknown)
    if not any(len(plan.boxes) for plan in train):
        raise LabelsError(
            f"no image of {folder} holds a box that is at least {MIN_SIDE:g} px wide and lies inside it"
            f"{report and f' ({report})'}"
        )
    source = cutter.source(train, f"{len(parts.train):,} images of {folder.name}")
    warn_of_identifiers(len(source.classes), sum(len(plan.boxes) for plan in source.plans), str(folder))
    return replace(
        source,
        valid=cutter.source(valid, f"{len(parts.valid):,} images of {folder.name}") if valid else None,
        left_out=relabel(cutter.plan(parts.test + parts.unlisted), cutter.classes, source.classes),
        report=join_notes(source.report, report),
    )


def _check_folder(folder: str | Path | Sequence[str | Path], argument: str) -> Path:
    """Return the folder's path.

    Raises:
        LabelsError: if it is not one existing folder.
    """
    hint = " (give labels=...)" if argument == "source" else ""
    expected = f"{'without labels, ' if hint else ''}{argument} must be one folder of labelled chips"
    if not isinstance(folder, str | Path) or folder == "":
        got = f"{len(folder)} paths{hint}" if isinstance(folder, list | tuple) else f"{folder!r:.80}"
        raise LabelsError(f"{expected}; got {got}")
    folder = Path(expand_user(folder))
    if not folder.is_dir():
        if folder.suffix.lower() in _LABEL_FILES and folder.is_file():
            raise LabelsError(f"{expected}; got the file {folder}; give the folder of labels and images")
        raise LabelsError(
            f"{expected}; got {folder}, which {f'is a file{hint}' if folder.exists() else 'does not exist'}"
        )
    return folder


def _check_outlines(images: Sequence[Image], folder: Path) -> None:
    """Raise unless every object has an outline.

    Raises:
        LabelsError: if one has only an upright box.
    """
    n_bare = [len(each.names) - sum(outline is not None for outline in each.outlines or ()) for each in images]
    if any(n_bare):
        first = next(each.label for each, n in zip(images, n_bare, strict=True) if n)
        raise LabelsError(
            f'boxes="oriented" needs the outline of every object; {sum(n_bare):,} of '
            f"{sum(len(each.names) for each in images):,} objects of {folder} have an upright box or an incomplete "
            f"outline, the first in {first}; give labels of DOTA, YOLO-OBB or COCO with polygons, or choose "
            'boxes="upright"'
        )


def _rename_classes(
    content: Folder, class_mapping: Mapping[Any, str | None] | None
) -> tuple[dict[str, str | None], str]:
    """Return the new name of each class of the folder, and a note of names in the mapping that do not occur.

    Raises:
        LabelsError: if a class has no name, or one that files cannot hold.
    """
    new = parse_mapping(class_mapping)
    rename: dict[str, str | None] = {name: name for name in content.classes}
    # Names take precedence over numbers, which may be another class' name.
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
    warn_of_similar_names(names)
    return rename, note_unmatched(new, [*content.classes, *(value for value, _ in content.values)])


class _OwnParts(NamedTuple):
    """Images of a data set by its own parts; all are for training if it has none."""

    train: list[Image]
    valid: list[Image]
    test: list[Image]
    unlisted: list[Image]

    @classmethod
    def of(cls, images: Sequence[Image]) -> _OwnParts:
        """Group images by part; those of no part, or of the only one, train."""
        found: dict[str | None, list[Image]] = defaultdict(list)
        for image in images:
            found[image.part].append(image)
        train = found[TRAIN] + found[None] or found.pop(VALID, [])
        return cls(train, found[VALID], found[TEST], found[UNLISTED])

    @property
    def report(self) -> str:
        """Summary of the data set's own split; empty without one."""
        split = f"its own split is kept: {len(self.train):,} images to train, {len(self.valid):,} to validate"
        return join_notes(
            split if self.valid else "",
            count(len(self.test), "images of its own test part are not used"),
            count(len(self.unlisted), "images in none of its own parts, left out"),
        )

"""From a folder of labelled pictures to plans of chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from geodetect.boxes import Boxes, area
from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import MIN_SIDE, Cutting, in_no_chip, plan_chips, with_negatives
from geodetect.chips.formats import Folder, Picture, read_folder
from geodetect.chips.formats.picture import counted, sentence
from geodetect.chips.sources import Source, check_alike, sizes_apart, used_classes
from geodetect.errors import LabelsError
from geodetect.grid import Window
from geodetect.raster import RasterReader
from geodetect.vector.classes import renaming, unmatched

_LEAST_SIDE = MIN_SIDE - 0.0101  # px; labels are written in hundredths, each corner up to half of one off


def from_folder(
    folder: str | Path | Sequence[str | Path],
    cutting: Cutting,
    *,
    dataset_type: str | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
    argument: str = "source",
) -> Source:
    """Chips of a folder of labelled pictures; large pictures are cut, small ones are one chip each.

    Args:
        folder: its path.
        cutting: how pictures become chips.
        dataset_type: the format; None recognises it.
        class_mapping: new names by names, or by the numbers that the format has for classes.
        argument: what a message calls the folder.

    Raises:
        LabelsError: if the folder is missing, of no known format, or holds no box.
    """
    folder = _checked(folder, argument)
    content = read_folder(folder, dataset_type)
    rename, unknown = _renamed(content, class_mapping)
    classes = list(dict.fromkeys(name for name in rename.values() if name is not None))
    lost: Counter[str] = Counter()
    pairs = [
        (
            picture,
            PictureReader(
                picture.path,
                bands=cutting.bands,
                pixel_size_m=cutting.pixel_size_m,
                crs=content.crs,
                nodata=cutting.nodata,
            ),
        )
        for picture in content.pictures
    ]
    pairs = _alike(pairs, lost)
    readers = [reader for _, reader in pairs]
    side = cutting.side([reader.grid.shape for reader in readers])
    every, fates = _planned(pairs, rename, classes, side, cutting, lost)
    faults = sentence(*(counted(n, what) for what, n in lost.items()), in_no_chip(fates, cutting))
    if not any(len(plan.boxes) for plan in every):
        told = sentence(content.report, faults)
        raise LabelsError(
            f"no picture of {folder} holds a box that is at least {MIN_SIDE:g} px wide and lies inside it"
            f"{told and f' ({told})'}"
        )
    plans, classes, dropped = used_classes(with_negatives(every, cutting), classes)
    n_boxes, n_bare = sum(len(plan.boxes) for plan in plans), len(every) - len(plans)
    report = sentence(
        f"{len(plans):,} chips with {n_boxes:,} boxes from {len(pairs):,} pictures of {folder.name}",
        content.report,
        faults,
        counted(n_bare, f"chips without an object beyond negatives={cutting.negatives:g}, left out"),
        unknown,
        sizes_apart(readers, cutting),
        dropped,
    )
    return Source(plans, classes, side, readers[0].bands, str(readers[0].dtype), report)


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
    folder = Path(folder)
    if not folder.is_dir():
        raise LabelsError(f"{expected}; got {folder}, which is {f'a file{hint}' if folder.exists() else 'not there'}")
    return folder


def _renamed(content: Folder, class_mapping: Mapping[Any, str | None] | None) -> tuple[dict[str, str | None], str]:
    """What each class of the folder is called from now on, and a note of what the mapping names in vain.

    Raises:
        LabelsError: if a class has no name.
    """
    new = renaming(class_mapping)
    rename: dict[str, str | None] = {name: name for name in content.classes}
    # A name says more than a number, which may be another class' name.
    rename |= {name: new[value] for value, name in content.values if value in new}
    rename |= {name: new[name] for name in content.classes if name in new}
    if any(name is not None and not name.strip() for name in rename.values()):
        raise LabelsError("a class of the folder has an empty name; give it one with class_mapping={its number: name}")
    return rename, unmatched(new, [*content.classes, *(value for value, _ in content.values)])


class PictureReader:
    """A raster that is opened for each read, so that a folder of thousands holds no file open.

    Args:
        path: the picture.
        bands: those to read, counted from 1 or by name; None for all.
        pixel_size_m: read at this ground resolution instead of its own.
        crs: of pictures that have a transform and do not name theirs.
        nodata: value that stands for no data besides those that the picture declares.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int | str] | None = None,
        pixel_size_m: float | None = None,
        crs: CRS | None = None,
        nodata: float | None = None,
    ) -> None:
        self.path = Path(path)
        self._bands, self._pixel_size_m, self._crs = bands, pixel_size_m, crs
        with RasterReader(self.path, bands=bands, pixel_size_m=pixel_size_m, crs=crs, nodata=nodata) as reader:
            self._source = reader.source
            self.source_shape, self.grid = reader.own_shape, reader.grid
            self.n_bands, self.bands, self.dtype = reader.n_bands, reader.bands, reader.dtype
            self.all_valid = reader.all_valid

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, H, W) and valid (H, W) of a window of the grid."""
        with RasterReader(self._source, bands=self._bands, pixel_size_m=self._pixel_size_m, crs=self._crs) as reader:
            return reader.read(window)

    def close(self) -> None:
        """Nothing is open between reads."""


_Pair = tuple[Picture, PictureReader]


def _alike(pairs: list[_Pair], lost: Counter[str]) -> list[_Pair]:
    """The pictures that one network can see; those without labels that are of another kind are left out.

    Raises:
        RasterError: if labelled pictures differ in bands or dtype.
    """
    labelled = [reader for picture, reader in pairs if picture.labelled]
    check_alike(labelled, "pictures")
    kinds = {(reader.n_bands, reader.dtype) for reader in labelled}
    kept = [pair for pair in pairs if not kinds or (pair[1].n_bands, pair[1].dtype) in kinds]
    lost["pictures without labels that have other bands than those with, left out"] += len(pairs) - len(kept)
    return kept


def _planned(
    pairs: Sequence[_Pair],
    rename: Mapping[str, str | None],
    classes: Sequence[str],
    side: int,
    cutting: Cutting,
    lost: Counter[str],
) -> tuple[list[ChipPlan], np.ndarray]:
    """The plans of all pictures, with a box or without, and the `Fate` of each box of use."""
    plans: list[ChipPlan] = []
    fates = [np.zeros(0, int)]
    for picture, reader in pairs:
        boxes = _boxes(picture, reader, rename, classes, cutting, lost)
        outlines = shapely.box(*boxes.xyxy.T)
        made, fate = plan_chips(reader, outlines, boxes.labels, cutting, side=side, min_side=_LEAST_SIDE)
        plans += made
        fates.append(fate)
    return plans, np.concatenate(fates)


def _boxes(
    picture: Picture,
    reader: PictureReader,
    rename: Mapping[str, str | None],
    classes: Sequence[str],
    cutting: Cutting,
    lost: Counter[str],
) -> Boxes:
    """A picture's boxes of use, in the pixels that are read, under the classes' new names; `lost` counts the others."""
    if picture.shape not in (None, reader.source_shape):
        lost["pictures of another size than their labels give"] += 1
    names = [rename[name] for name in picture.names]
    labels = np.array([-1 if name is None else classes.index(name) for name in names], int)
    lost["boxes of classes that class_mapping drops"] += int((labels < 0).sum())
    height, width = reader.grid.shape
    scale = np.tile(np.array([width, height]) / np.array(reader.source_shape[::-1]), 2)
    boxes = Boxes(picture.in_pixels(reader.source_shape) * scale, labels)[labels >= 0]
    whole, inside = area(boxes.xyxy), boxes.clip(width, height)
    visible = area(inside.xyxy)
    faults = {
        "boxes without an area": ~(whole > 0),  # coordinates that are no numbers, too
        "boxes outside their picture": visible < np.maximum(cutting.min_visible * whole, np.finfo(float).tiny),
        f"boxes under {MIN_SIDE:g} px": ~(inside.sizes >= _LEAST_SIDE).all(axis=1),
    }
    good = np.ones(len(boxes), bool)
    for fault, has in faults.items():
        lost[fault] += int((good & has).sum())
        good &= ~has
    return boxes[good]

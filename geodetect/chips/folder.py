"""From a folder of labelled pictures to plans of chips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS

from geodetect.boxes import Boxes, area
from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import MIN_SIDE, cut, plan_chips
from geodetect.chips.formats import Picture, read_folder
from geodetect.chips.formats.picture import counted, sentence
from geodetect.chips.sources import Cutting, Source, used_classes
from geodetect.errors import LabelsError, RasterError
from geodetect.grid import Window
from geodetect.raster import RasterReader
from geodetect.vector.classes import as_text


def from_folder(
    folder: str | Path | Sequence[str | Path],
    cutting: Cutting,
    *,
    dataset_type: str | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
) -> Source:
    """Chips of a folder of labelled pictures; large pictures are cut, small ones are one chip each.

    Raises:
        LabelsError: if the folder is missing, of no known format, or holds no box.
    """
    folder = _checked(folder)
    content = read_folder(folder, dataset_type)
    new = {as_text(key): name for key, name in (class_mapping or {}).items()}
    rename = {name: new.get(name, name) for name in content.classes}
    classes = list(dict.fromkeys(name for name in rename.values() if name is not None))
    lost: Counter[str] = Counter()
    pairs = [
        (picture, PictureReader(picture.path, bands=cutting.bands, pixel_size_m=cutting.pixel_size_m, crs=content.crs))
        for picture in content.pictures
    ]
    pairs = _alike(pairs, lost)
    side = cutting.side([reader.grid.shape for _, reader in pairs])
    plans: list[ChipPlan] = []
    for picture, reader in pairs:
        plans += _plan_picture(reader, _boxes(picture, reader, rename, classes, cutting, lost), side, cutting)
    n_boxes = sum(len(plan.boxes) for plan in plans)
    read = f"{len(plans):,} chips with {n_boxes:,} boxes from {len(pairs):,} pictures of {folder.name}"
    left_out = sentence(content.report, *(counted(n, what) for what, n in lost.items()))
    if not n_boxes:
        raise LabelsError(
            f"no picture of {folder} holds a box that is at least {MIN_SIDE:g} px wide and lies inside it"
            f"{left_out and f' ({left_out})'}"
        )
    plans, classes, dropped = used_classes(plans, classes)
    return Source(plans, classes, side, pairs[0][1].bands, sentence(read, left_out, dropped))


def _checked(folder: str | Path | Sequence[str | Path]) -> Path:
    """The folder's path.

    Raises:
        LabelsError: if it is none.
    """
    if not isinstance(folder, str | Path):
        raise LabelsError(
            f"without labels, source must be one folder of labelled chips; got {len(folder)} paths (give labels=...)"
        )
    folder = Path(folder)
    if not folder.is_dir():
        raise LabelsError(
            f"without labels, source must be a folder of labelled chips; got {folder}, which is "
            f"{'a file (give labels=...)' if folder.exists() else 'not there'}"
        )
    return folder


class PictureReader:
    """A raster that is opened for each read, so that a folder of thousands holds no file open.

    Args:
        path: the picture.
        bands: those to read, counted from 1; None for all.
        pixel_size_m: read at this ground resolution instead of its own.
        crs: of pictures that have a transform and do not name theirs.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        bands: Sequence[int] | None = None,
        pixel_size_m: float | None = None,
        crs: CRS | None = None,
    ) -> None:
        self.path = Path(path)
        self._bands, self._pixel_size_m = bands, pixel_size_m
        with RasterReader(path, bands=bands) as reader:
            self.source_shape = reader.grid.shape
            self.grid = reader.grid.resampled(pixel_size_m)
            self.n_bands, self.bands, self.dtype = reader.n_bands, reader.bands, reader.dtype
            self.all_valid = reader.all_valid
        if self.grid.transform is not None and self.grid.crs is None:
            self.grid = replace(self.grid, crs=crs)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, H, W) and valid (H, W) of a window of the grid."""
        with RasterReader(self.path, bands=self._bands, pixel_size_m=self._pixel_size_m) as reader:
            return reader.read(window)


_Pair = tuple[Picture, PictureReader]


def _alike(pairs: list[_Pair], lost: Counter[str]) -> list[_Pair]:
    """The pictures that one network can see; those without labels that are of another kind are left out.

    Raises:
        RasterError: if labelled pictures differ in bands or dtype.
    """
    kinds = {(reader.n_bands, str(reader.dtype)): reader for picture, reader in pairs if picture.labelled}
    if len(kinds) > 1:
        told = ", ".join(f"{n} of {dtype} in {reader.grid.name}" for (n, dtype), reader in kinds.items())
        raise RasterError(
            f"all pictures must have bands of the same number and type; got {told}; choose some with bands=, or "
            "convert them first"
        )
    kept = [pair for pair in pairs if not kinds or (pair[1].n_bands, str(pair[1].dtype)) in kinds]
    lost["pictures without labels that have other bands than those with, left out"] += len(pairs) - len(kept)
    return kept


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
    height, width = reader.grid.shape
    scale = np.tile(np.array([width, height]) / np.array(reader.source_shape[::-1]), 2)
    boxes = Boxes(picture.in_pixels(reader.source_shape) * scale, labels)[labels >= 0]
    whole, inside = area(boxes.xyxy), boxes.clip(width, height)
    visible = area(inside.xyxy)
    faults = {
        "boxes without an area": ~(whole > 0),  # coordinates that are no numbers, too
        "boxes outside their picture": visible < np.maximum(cutting.min_visible * whole, np.finfo(float).tiny),
        f"boxes under {MIN_SIDE:g} px": ~(inside.sizes >= MIN_SIDE).all(axis=1),
    }
    good = np.ones(len(boxes), bool)
    for fault, has in faults.items():
        lost[fault] += int((good & has).sum())
        good &= ~has
    return boxes[good]


def _plan_picture(reader: PictureReader, boxes: Boxes, side: int, cutting: Cutting) -> list[ChipPlan]:
    """The chips of one picture: itself, also without a box, when it is no larger than a chip."""
    height, width = reader.grid.shape
    outlines = shapely.box(*boxes.xyxy.T)
    if max(height, width) <= side or not len(boxes):
        whole = Window(0, 0, min(width, side), min(height, side))
        return [ChipPlan(reader, whole, cut(outlines, boxes.labels, [whole], min_visible=cutting.min_visible)[0])]
    return plan_chips(
        reader,
        outlines,
        boxes.labels,
        chip_size=side,
        overlap=cutting.overlap,
        min_visible=cutting.min_visible,
        negatives=cutting.negatives,
        seed=cutting.seed,
    )

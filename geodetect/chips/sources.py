"""From what the user has to plans of chips: one raster with labels, or a folder of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from geodetect.boxes import Boxes, area
from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import MIN_SIDE, cut, plan_chips
from geodetect.chips.formats import coco
from geodetect.chips.formats.picture import Folder, Picture
from geodetect.errors import ArgumentError, LabelsError, RasterError
from geodetect.grid import Window
from geodetect.raster import RasterReader
from geodetect.vector.labels import read_area, read_labels

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_LARGEST_WHOLE = 1024  # px; pictures up to this size are chips as they are
_USUAL_CHIP = 512


@dataclass(frozen=True)
class Cutting:
    """How rasters become chips; the names are those of `prepare_data`."""

    chip_size: int | None = None
    overlap: int = 0
    pixel_size_m: float | None = None
    bands: Sequence[int] | None = None
    min_visible: float = 0.3
    negatives: float = 1.0
    seed: int = 42

    def side(self, shapes: Sequence[tuple[int, int]]) -> int:
        """The chip size asked for, else the pictures' own when they are alike and small, else 512."""
        if self.chip_size is not None:
            return self.chip_size
        largest = max(max(shape) for shape in shapes)
        return largest if len(set(shapes)) == 1 and largest <= _LARGEST_WHOLE else _USUAL_CHIP


@dataclass(frozen=True, eq=False)
class Source:
    """Chips that were planned, with what all of them share.

    Args:
        plans: chips, unread.
        classes: names that the boxes' labels index; each has a box.
        chip_size: side of the largest chip in pixels.
        bands: those read, counted from 1.
        report: what was read and left out, a sentence each.
    """

    plans: list[ChipPlan]
    classes: list[str]
    chip_size: int
    bands: tuple[int, ...]
    report: str


def from_raster(
    raster: str | Path,
    labels: str | Path | GeoDataFrame,
    cutting: Cutting,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
    aoi: str | Path | GeoDataFrame | shapely.Geometry | None = None,
) -> Source:
    """Chips of one raster, labelled from a vector file in any CRS; parameters as in `prepare_data`."""
    reader = RasterReader(raster, bands=cutting.bands, pixel_size_m=cutting.pixel_size_m)
    side = cutting.side([reader.grid.shape])
    found = read_labels(
        labels, reader.grid, label_field=label_field, point_radius_m=point_radius_m, class_mapping=class_mapping
    )
    names, indices = np.unique(found.names.astype(str), return_inverse=True)
    plans = plan_chips(
        reader,
        found.polygons,
        indices,
        chip_size=side,
        overlap=cutting.overlap,
        min_visible=cutting.min_visible,
        negatives=cutting.negatives,
        area=None if aoi is None else read_area(aoi, reader.grid),
        seed=cutting.seed,
    )
    if not any(len(plan.boxes) for plan in plans):
        raise LabelsError(
            f"no chip of {reader.name} holds a label that is visible by at least {cutting.min_visible:.0%} and "
            f"{MIN_SIDE:g} px wide; the labels may be too small at this pixel size, or lie outside the aoi"
        )
    plans, classes, dropped = _used_classes(plans, names.tolist())
    return Source(plans, classes, side, reader.bands, "; ".join(filter(None, [found.report, dropped])))


def from_folder(
    folder: str | Path,
    cutting: Cutting,
    *,
    dataset_type: str | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
) -> Source:
    """Chips of a folder of labelled pictures; large pictures are cut, small ones are one chip each.

    Raises:
        LabelsError: if the folder is missing, of no known format, or holds no box.
    """
    folder = Path(folder)
    content = _read_folder(folder, dataset_type)
    rename = {name: (class_mapping or {}).get(name, name) for name in content.classes}
    classes = list(dict.fromkeys(name for name in rename.values() if name is not None))
    readers = [
        PictureReader(picture.path, bands=cutting.bands, pixel_size_m=cutting.pixel_size_m)
        for picture in content.pictures
    ]
    _check_bands(readers)
    side = cutting.side([reader.grid.shape for reader in readers])
    plans: list[ChipPlan] = []
    for reader, picture in zip(readers, content.pictures, strict=True):
        plans += _plan_picture(reader, _renamed(picture, reader, rename, classes), side, cutting)
    n_boxes = sum(len(plan.boxes) for plan in plans)
    if not n_boxes:
        raise LabelsError(
            f"no picture of {folder} holds a box that is at least {MIN_SIDE:g} px wide and lies inside it"
        )
    plans, classes, dropped = _used_classes(plans, classes)
    read = f"{len(plans)} chips with {n_boxes} boxes from {len(readers)} pictures of {folder.name}"
    report = "; ".join(filter(None, [read, content.report, dropped]))
    return Source(plans, classes, side, readers[0].bands, report)


def _renamed(
    picture: Picture, reader: PictureReader, rename: Mapping[str, str | None], classes: Sequence[str]
) -> Boxes:
    """A picture's boxes with an area, in the pixels that are read, under the classes' new names."""
    scale = np.tile(np.array(reader.grid.shape[::-1]) / np.array(reader.source_shape[::-1]), 2)
    names = [rename[name] for name in picture.names]
    labels = np.array([-1 if name is None else classes.index(name) for name in names], int)
    kept = (labels >= 0) & (area(picture.xyxy) > 0)
    return Boxes(picture.xyxy[kept] * scale, labels[kept])


def _read_folder(folder: Path, dataset_type: str | None) -> Folder:
    if not folder.is_dir():
        raise LabelsError(
            f"without labels, source must be a folder of labelled chips; got {folder}, which is "
            f"{'a file (give labels=...)' if folder.exists() else 'not there'}"
        )
    if dataset_type not in ("coco", None):
        raise ArgumentError(f'dataset_type must be "coco", the one format that is read; got {dataset_type!r}')
    return coco.read(folder)


def _check_bands(readers: Sequence[PictureReader]) -> None:
    counts = {reader.n_bands: reader.grid.name for reader in readers}
    if len(counts) > 1:
        told = ", ".join(f"{n} in {name}" for n, name in counts.items())
        raise RasterError(f"all pictures must have the same number of bands; got {told}; choose some with bands=")


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


def _used_classes(plans: list[ChipPlan], classes: list[str]) -> tuple[list[ChipPlan], list[str], str]:
    """The plans with labels that index only the classes that have a box, those classes, and what was left out."""
    used = np.unique(np.concatenate([plan.boxes.labels for plan in plans]))
    number = np.full(len(classes), -1)
    number[used] = np.arange(len(used))
    moved = [ChipPlan(p.reader, p.window, Boxes(p.boxes.xyxy, number[p.boxes.labels])) for p in plans]
    absent = [name for i, name in enumerate(classes) if i not in used]
    return moved, [classes[i] for i in used], f"no box of {', '.join(absent)}, left out" if absent else ""


class PictureReader:
    """A raster that is opened for each read, so that a folder of thousands holds no file open."""

    def __init__(
        self, path: str | Path, *, bands: Sequence[int] | None = None, pixel_size_m: float | None = None
    ) -> None:
        self.path, self._bands, self._pixel_size_m = path, bands, pixel_size_m
        with RasterReader(path, bands=bands) as reader:
            self.source_shape = reader.grid.shape
            self.grid = reader.grid.resampled(pixel_size_m)
            self.n_bands, self.bands = reader.n_bands, reader.bands

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (C, H, W) and valid (H, W) of a window of the grid."""
        with RasterReader(self.path, bands=self._bands, pixel_size_m=self._pixel_size_m) as reader:
            return reader.read(window)

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
from geodetect.chips.cut import cut, plan_chips
from geodetect.chips.formats import coco
from geodetect.chips.formats.picture import Folder
from geodetect.errors import ArgumentError, LabelsError, RasterError
from geodetect.grid import Window
from geodetect.raster import RasterReader
from geodetect.vector.labels import read_area, read_labels

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_LARGEST_WHOLE = 1024  # px; pictures up to this size are chips as they are
_USUAL_CHIP = 512
_READERS = {"coco": coco}


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
    plans, outside = [], 0
    for reader, picture in zip(readers, content.pictures, strict=True):
        scale = np.array(reader.grid.shape[::-1] * 2) / np.array(reader.source_shape[::-1] * 2)
        xyxy, names = picture.xyxy * scale, np.array([rename[name] for name in picture.names], dtype=object)
        kept = (names != None) & (area(xyxy) > 0)  # noqa: E711 (element by element)
        labels = np.array([classes.index(name) for name in names[kept]], int)
        made = _plan_picture(reader, xyxy[kept], labels, side, cutting)
        outside += max(0, int(kept.sum()) - sum(len(plan.boxes) for plan in made)) if len(made) == 1 else 0
        plans += made
    if not any(len(plan.boxes) for plan in plans):
        raise LabelsError(f"no picture of {folder} holds a box with an area above 0 that lies inside it")
    plans, classes, dropped = _used_classes(plans, classes)
    lost = f"{outside} boxes lie outside their pictures or are too small" if outside else ""
    read = f"{len(readers)} pictures read from {folder.name}"
    return Source(
        plans, classes, side, readers[0].bands, "; ".join(filter(None, [read, content.report, lost, dropped]))
    )


def _read_folder(folder: Path, dataset_type: str | None) -> Folder:
    if not folder.is_dir():
        raise LabelsError(
            f"without labels, source must be a folder of labelled chips; got {folder}, which is "
            f"{'a file (give labels=...)' if folder.exists() else 'not there'}"
        )
    if dataset_type is not None and dataset_type not in _READERS:
        raise ArgumentError(f"dataset_type must be one of {', '.join(_READERS)}; got {dataset_type!r}")
    return (_READERS[dataset_type] if dataset_type else coco).read(folder)


def _check_bands(readers: Sequence[PictureReader]) -> None:
    counts = {reader.n_bands: reader.grid.name for reader in readers}
    if len(counts) > 1:
        told = ", ".join(f"{n} in {name}" for n, name in counts.items())
        raise RasterError(f"all pictures must have the same number of bands; got {told}; choose some with bands=")


def _plan_picture(
    reader: PictureReader, xyxy: np.ndarray, labels: np.ndarray, side: int, cutting: Cutting
) -> list[ChipPlan]:
    """The chips of one picture: itself when it is no larger than a chip, also without a box."""
    height, width = reader.grid.shape
    if max(height, width) > side and len(xyxy):
        return plan_chips(
            reader,
            shapely.box(*xyxy.T),
            labels,
            chip_size=side,
            overlap=cutting.overlap,
            min_visible=cutting.min_visible,
            negatives=cutting.negatives,
            seed=cutting.seed,
        )
    windows = [Window(0, 0, min(width, side), min(height, side))]
    boxes = cut(shapely.box(*xyxy.T), labels, windows, min_visible=cutting.min_visible)
    return [ChipPlan(reader, window, found) for window, found in zip(windows, boxes, strict=True)]


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

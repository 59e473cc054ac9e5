"""From a raster with labels to plans of chips, and what all sources of chips share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import MIN_SIDE, plan_chips
from geodetect.errors import LabelsError, RasterError
from geodetect.raster import RasterReader, Rasters, scenes_of
from geodetect.vector.labels import read_area, read_labels_on
from geodetect.vector.opening import Vectors

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
    raster: Rasters,
    labels: Vectors,
    cutting: Cutting,
    *,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
    aoi: str | Path | GeoDataFrame | shapely.Geometry | None = None,
) -> Source:
    """Chips of rasters, labelled from vector files in any CRS; parameters as in `prepare_data`.

    Files that touch each other are one scene, and an object across them one label; scenes apart have a grid each.
    """
    readers = [
        RasterReader(scene, bands=cutting.bands, pixel_size_m=cutting.pixel_size_m) for scene in scenes_of(raster)
    ]
    _check_bands(readers)
    side = cutting.side([reader.grid.shape for reader in readers])
    found = read_labels_on(
        labels,
        [reader.grid for reader in readers],
        label_field=label_field,
        point_radius_m=point_radius_m,
        class_mapping=class_mapping,
    )
    classes = sorted({name for labelled in found for name in labelled.names})
    plans: list[ChipPlan] = []
    for reader, labelled, inside in zip(readers, found, _areas(readers, aoi), strict=True):
        if inside is not None and inside.is_empty:
            continue
        plans += plan_chips(
            reader,
            labelled.polygons,
            np.searchsorted(classes, labelled.names),
            chip_size=side,
            overlap=cutting.overlap,
            min_visible=cutting.min_visible,
            negatives=cutting.negatives,
            area=inside,
            seed=cutting.seed,
        )
        if len(readers) > 1:
            reader.close()  # thousands of files are not open at once
    if not any(len(plan.boxes) for plan in plans):
        raise LabelsError(
            f"no chip of {readers[0].name} holds a label that is visible by at least {cutting.min_visible:.0%} and "
            f"{MIN_SIDE:g} px wide; the labels may be too small at this pixel size, or lie outside the aoi"
        )
    plans, classes, dropped = used_classes(plans, classes)
    return Source(plans, classes, side, readers[0].bands, "; ".join(filter(None, [found[0].report, dropped])))


def _areas(
    readers: Sequence[RasterReader], aoi: str | Path | GeoDataFrame | shapely.Geometry | None
) -> list[shapely.Geometry | None]:
    """The area of interest in each raster's pixels, empty where it does not meet it; None for everywhere.

    Raises:
        LabelsError: if it meets none of them.
    """
    if aoi is None or len(readers) == 1:
        return [None if aoi is None else read_area(aoi, reader.grid) for reader in readers]
    areas, problem = [], None
    for reader in readers:
        try:
            areas.append(read_area(aoi, reader.grid))
        except LabelsError as error:
            areas.append(shapely.Polygon())
            problem = error
    if problem is not None and all(area.is_empty for area in areas):
        raise problem
    return areas


def _check_bands(readers: Sequence[RasterReader]) -> None:
    counts = {reader.n_bands: reader.name for reader in readers}
    if len(counts) > 1:
        told = ", ".join(f"{n} in {name}" for n, name in counts.items())
        raise RasterError(f"all rasters must have the same number of bands; got {told}; choose some with bands=")


def used_classes(plans: list[ChipPlan], classes: list[str]) -> tuple[list[ChipPlan], list[str], str]:
    """The plans with labels that index only the classes that have a box, those classes, and what was left out."""
    used = np.unique(np.concatenate([plan.boxes.labels for plan in plans]))
    number = np.full(len(classes), -1)
    number[used] = np.arange(len(used))
    moved = [ChipPlan(p.reader, p.window, Boxes(p.boxes.xyxy, number[p.boxes.labels])) for p in plans]
    absent = [name for i, name in enumerate(classes) if i not in used]
    return moved, [classes[i] for i in used], f"no box of {', '.join(absent)}, left out" if absent else ""

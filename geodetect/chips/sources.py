"""Chips of a raster with labels, and what all sources of chips share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import shapely

from geodetect.chips.chip import ChipPlan, relabel
from geodetect.chips.cut import MIN_SIDE, Cutting, Fate, PixelLabels, draw_negatives, plan_chips
from geodetect.chips.formats.deepforest import on_map
from geodetect.chips.formats.image import join_notes
from geodetect.errors import LabelsError, NotGeoreferenced, RasterError, warn
from geodetect.raster import RasterReader, Rasters, Reader, ReaderPool, describe_orientation, open_scenes
from geodetect.vector.areas import read_areas
from geodetect.vector.features import describe_lost
from geodetect.vector.labels import GridLabels, Labels
from geodetect.vector.opening import Area

_MOST_OPEN = 8  # scenes that stay open, each with up to 256 MB of decoded blocks
_MOST_NAMED = 10  # classes in a report
_ONE_SIZE = 1.05  # factor; pixel sizes that differ by less count as equal, as those of degrees vary with latitude


@dataclass(frozen=True, eq=False)
class Source:
    """Planned chips, with what all of them share.

    Args:
        plans: chips, unread.
        classes: names that the boxes' labels index; each has a box.
        chip_size: side of the largest chip in pixels.
        bands: the bands that are read, counted from 1.
        dtype: of the pixels.
        report: what was read and dropped, in one line.
        complete: whether nothing was left out that the user may miss.
        valid: the source's own validation part; None without one.
        left_out: chips of neither part, with labels that index `classes`.
    """

    plans: list[ChipPlan]
    classes: list[str]
    chip_size: int
    bands: tuple[int, ...]
    dtype: str
    report: str
    complete: bool = True
    valid: Source | None = None
    left_out: Sequence[ChipPlan] = ()


def from_raster(raster: Rasters, labels: Labels, cutting: Cutting, aoi: Area | None = None) -> Source:
    """Plan the chips of rasters with labels from vector files in any CRS; parameters as in `prepare_data`.

    Files that touch are one scene, and an object across them one label; separate scenes have a grid each.
    """
    pool = ReaderPool(_MOST_OPEN)
    readers = [
        RasterReader(scene, bands=cutting.bands, pixel_size_m=cutting.pixel_size_m, pool=pool)
        for scene in open_scenes(raster, cutting.bands, cutting.nodata)
    ]
    check_alike(readers, "rasters")
    for reader in readers:
        if reader.grid.crs is None and (turned := describe_orientation(reader.orientation)):
            warn(f"labels are taken to be in the pixels of {reader.name}{turned}")
    side = cutting.choose_side([reader.grid.shape for reader in readers])
    grids = [reader.grid for reader in readers]
    found = replace(labels, source=on_map(labels.source, raster)).on(grids)
    objects = found[0].objects
    report, complete = objects.report, objects.complete  # of the labels alone, before chips leave out some of them
    classes = sorted({name for name in objects.names if name is not None})
    areas = [None] * len(readers) if aoi is None else read_areas(aoi, grids)
    every, fates = _plan_scenes(readers, found, areas, classes, replace(cutting, chip_size=side))
    lost = cutting.report_lost(fates)
    for fate, reason in cutting.reasons.items():
        objects.leave_out(fates == fate, reason)
    if not any(len(plan.boxes) for plan in every):
        raise LabelsError(
            f"no chip of {readers[0].name} holds a label that is visible by at least {cutting.min_visible:.0%} and "
            f"{MIN_SIDE:g} px wide ({lost}); the labels may be too small, or too large for chips of {side} px, at this "
            "pixel size, or lie outside the aoi"
        )
    plans, used, dropped = drop_unused(
        draw_negatives(every, cutting), classes, {name: describe_lost(objects.lost_of(name)) for name in classes}
    )
    return Source(
        plans,
        used,
        side,
        readers[0].bands,
        str(readers[0].dtype),
        join_notes(report, lost, note_pixel_sizes(readers, cutting), dropped),
        complete and not dropped and not np.isin(fates, (Fate.CUT, Fate.BLANK)).any(),
    )


def _plan_scenes(
    readers: Sequence[RasterReader],
    found: Sequence[GridLabels],
    areas: Sequence[shapely.Geometry | None],
    classes: Sequence[str],
    cutting: Cutting,
) -> tuple[list[ChipPlan], np.ndarray]:
    """Plan the chips of all scenes, and return the `Fate` of each object; -1 if it meets none of them."""
    number = {name: i for i, name in enumerate(classes)}
    plans: list[ChipPlan] = []
    fates = np.full(len(found[0].objects.names), -1)
    for reader, labelled, inside in zip(readers, found, areas, strict=True):
        here = np.full(len(labelled.numbers), Fate.OUTSIDE)
        if inside is None or not inside.is_empty:
            labels = np.array([number[name] for name in labelled.names], int)
            polygons = labelled.polygons
            if cutting.oriented:  # the smallest rectangle around a circle may lie at any angle
                polygons = np.where(labelled.of_points, shapely.envelope(polygons), polygons)
            made, here = plan_chips(reader, PixelLabels(polygons, labels), cutting, area=inside)
            plans += made
        np.maximum.at(fates, labelled.numbers, here)
    return plans, fates


def check_alike(readers: Sequence[Reader], what: str) -> None:
    """Raise if readers differ in number of bands or dtype, as one network takes only one kind of pixels.

    Args:
        readers: of all scenes or images.
        what: their name in the message.

    Raises:
        RasterError: if they differ.
    """
    kinds = {(reader.n_bands, str(reader.dtype)): reader.grid.name for reader in readers}
    if len(kinds) > 1:
        got = ", ".join(f"{n} of {dtype} in {name}" for (n, dtype), name in kinds.items())
        raise RasterError(
            f"all {what} must have bands of the same number and type; got {got}; choose some with bands=, or "
            "convert them first"
        )


def find_pixel_sizes(readers: Iterable[Reader]) -> list[float]:
    """Return the pixel size of each reader in metres; empty if one of them is not georeferenced."""
    try:
        return [reader.grid.pixel_size_m for reader in readers]
    except NotGeoreferenced:
        return []


def note_pixel_sizes(readers: Iterable[Reader], cutting: Cutting) -> str:
    """Return a note if pixels differ in size on the ground; empty if they do not, or the size is unknown."""
    sizes = [] if cutting.pixel_size_m is not None else find_pixel_sizes(readers)
    low, high = min(sizes, default=0), max(sizes, default=0)
    if high <= _ONE_SIZE * low:
        return ""
    return f"pixels of {low:.3g} to {high:.3g} m together, as pixel_size_m is not given"


class UsedClasses(NamedTuple):
    """Plans whose labels index the classes that have a box, those classes, and a note of the others."""

    plans: list[ChipPlan]
    classes: list[str]
    note: str


def drop_unused(plans: list[ChipPlan], classes: list[str], why: Mapping[str, str] | None = None) -> UsedClasses:
    """Drop the classes that have no box.

    Args:
        plans: chips whose labels index `classes`.
        classes: names.
        why: known reasons why objects of a class are in no chip.
    """
    labels = {label for plan in plans for label in plan.boxes.labels.tolist()}
    used = [name for i, name in enumerate(classes) if i in labels]
    absent = [name for i, name in enumerate(classes) if i not in labels]
    named = [f"{name} ({why[name]})" if why and why.get(name) else name for name in absent[:_MOST_NAMED]]
    more = f" and {len(absent) - _MOST_NAMED:,} more classes" if len(absent) > _MOST_NAMED else ""
    note = f"no box of {', '.join(named)}{more}, left out" if absent else ""
    return UsedClasses(relabel(plans, classes, used), used, note)

"""From a raster with labels to plans of chips, and what all sources of chips share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import shapely

from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import MIN_SIDE, Cutting, Fate, in_no_chip, plan_chips, reasons, with_negatives
from geodetect.chips.formats.picture import sentence
from geodetect.chips.placed import on_map
from geodetect.errors import LabelsError, NotGeoreferenced, RasterError, warn
from geodetect.raster import RasterReader, Rasters, Reader, ReaderPool, describe_orientation, open_scenes
from geodetect.vector.labels import Labels, read_area_on, read_labels
from geodetect.vector.objects import listed
from geodetect.vector.opening import Area, Vectors

_MOST_OPEN = 8  # scenes that stay open, each with up to 256 MB of decoded blocks
_TOLD = 10  # classes that a report names
_ONE_SIZE = 1.05  # pixels whose sides differ by less, as degrees do over some latitudes, are of one size


@dataclass(frozen=True, eq=False)
class Source:
    """Chips that were planned, with what all of them share.

    Args:
        plans: chips, unread.
        classes: names that the boxes' labels index; each has a box.
        chip_size: side of the largest chip in pixels.
        bands: those read, counted from 1.
        dtype: of the pixels.
        report: what was read and left out, a sentence each.
        complete: whether nothing was left out that its owner may miss.
        held: what the source itself sets apart to validate on; None where it does not.
        left_out: chips that it keeps out of both, with labels that index `classes`.
    """

    plans: list[ChipPlan]
    classes: list[str]
    chip_size: int
    bands: tuple[int, ...]
    dtype: str
    report: str
    complete: bool = True
    held: Source | None = None
    left_out: Sequence[ChipPlan] = ()


def from_raster(
    raster: Rasters,
    labels: Vectors,
    cutting: Cutting,
    *,
    label_field: str | None = None,
    layer: str | int | None = None,
    point_radius_m: float | None = None,
    class_mapping: Mapping[Any, str | None] | None = None,
    aoi: Area | None = None,
) -> Source:
    """Chips of rasters, labelled from vector files in any CRS; parameters as in `prepare_data`.

    Files that touch each other are one scene, and an object across them one label; scenes apart have a grid each.
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
    side = cutting.side([reader.grid.shape for reader in readers])
    found = read_labels(
        on_map(labels, raster),
        [reader.grid for reader in readers],
        label_field=label_field,
        layer=layer,
        point_radius_m=point_radius_m,
        class_mapping=class_mapping,
    )
    objects = found[0].objects
    report, complete = objects.report, objects.complete  # of the labels alone, before chips leave out some of them
    classes = sorted({name for name in objects.names if name is not None})
    areas = [None] * len(readers) if aoi is None else read_area_on(aoi, [reader.grid for reader in readers])
    every, fates = _planned(readers, found, areas, classes, side, cutting)
    lost = in_no_chip(fates, cutting)
    for fate, reason in reasons(cutting).items():
        objects.leave_out(fates == fate, reason)
    if not any(len(plan.boxes) for plan in every):
        raise LabelsError(
            f"no chip of {readers[0].name} holds a label that is visible by at least {cutting.min_visible:.0%} and "
            f"{MIN_SIDE:g} px wide ({lost}); the labels may be too small, or too large for chips of {side} px, at this "
            "pixel size, or lie outside the aoi"
        )
    plans, used, dropped = used_classes(
        with_negatives(every, cutting), classes, {name: listed(objects.lost_of(name)) for name in classes}
    )
    return Source(
        plans,
        used,
        side,
        readers[0].bands,
        str(readers[0].dtype),
        sentence(report, lost, sizes_apart(readers, cutting), dropped),
        complete and not dropped and not np.isin(fates, (Fate.CUT, Fate.BLANK)).any(),
    )


def _planned(
    readers: Sequence[RasterReader],
    found: Sequence[Labels],
    areas: Sequence[shapely.Geometry | None],
    classes: Sequence[str],
    side: int,
    cutting: Cutting,
) -> tuple[list[ChipPlan], np.ndarray]:
    """The plans of all scenes, with a box or without, and the `Fate` of each object; -1 where it meets none of them."""
    number = {name: i for i, name in enumerate(classes)}
    plans: list[ChipPlan] = []
    fates = np.full(len(found[0].objects.names), -1)
    for reader, labelled, inside in zip(readers, found, areas, strict=True):
        here = np.full(len(labelled.numbers), Fate.OUTSIDE)
        if inside is None or not inside.is_empty:
            labels = np.array([number[name] for name in labelled.names], int)
            made, here = plan_chips(reader, labelled.polygons, labels, cutting, side=side, area=inside)
            plans += made
        np.maximum.at(fates, labelled.numbers, here)
    return plans, fates


def check_alike(readers: Sequence[Reader], what: str) -> None:
    """Refuses pixels that one network cannot see.

    Args:
        readers: of all scenes or pictures.
        what: what a message calls them.

    Raises:
        RasterError: if they differ in number of bands or dtype.
    """
    kinds = {(reader.n_bands, str(reader.dtype)): reader.grid.name for reader in readers}
    if len(kinds) > 1:
        told = ", ".join(f"{n} of {dtype} in {name}" for (n, dtype), name in kinds.items())
        raise RasterError(
            f"all {what} must have bands of the same number and type; got {told}; choose some with bands=, or "
            "convert them first"
        )


def sizes_apart(readers: Sequence[Reader], cutting: Cutting) -> str:
    """A note where pixels are not of one size on the ground; empty where they are, or nobody knows."""
    if cutting.pixel_size_m is not None:
        return ""
    try:
        sizes = [reader.grid.pixel_size_m for reader in readers]
    except NotGeoreferenced:
        return ""
    low, high = min(sizes), max(sizes)
    return (
        f"pixels of {low:.3g} to {high:.3g} m together, as pixel_size_m is not given" if high > _ONE_SIZE * low else ""
    )


class Used(NamedTuple):
    """Plans whose labels index the classes that have a box, those classes, and a note of the others."""

    plans: list[ChipPlan]
    classes: list[str]
    note: str


def used_classes(plans: list[ChipPlan], classes: list[str], why: Mapping[str, str] | None = None) -> Used:
    """Return the plans without the classes that have no box.

    Args:
        plans: chips whose labels index `classes`.
        classes: names.
        why: reasons why objects of a class are in no chip, where they are known.
    """
    used = np.unique(np.concatenate([plan.boxes.labels for plan in plans]))
    number = np.full(len(classes), -1)
    number[used] = np.arange(len(used))
    moved = [plan.relabelled(number) for plan in plans]
    absent = [name for i, name in enumerate(classes) if i not in used]
    told = [f"{name} ({why[name]})" if why and why.get(name) else name for name in absent[:_TOLD]]
    more = f" and {len(absent) - _TOLD:,} more classes" if len(absent) > _TOLD else ""
    note = f"no box of {', '.join(told)}{more}, left out" if absent else ""
    return Used(moved, [classes[i] for i in used], note)

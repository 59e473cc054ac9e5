"""`prepare_data`: training and validation chips from a raster with labels, or from a folder."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.chips.chip import ChipPlan, Chips, relabel
from geodetect.chips.cut import Cutting
from geodetect.chips.data import DetectionData
from geodetect.chips.folder import from_folder
from geodetect.chips.formats.image import count, join_notes
from geodetect.chips.images import ImageReader
from geodetect.chips.sources import Source, find_pixel_sizes, from_raster
from geodetect.chips.split import Parts, split_chips
from geodetect.errors import ArgumentError, LabelsError, check_whole, warn
from geodetect.facts import join_values
from geodetect.normalization import Normalization, Sample
from geodetect.raster import Rasters
from geodetect.vector.labels import Labels
from geodetect.vector.opening import Area, Vectors

_WORKER_BYTES = 200_000_000  # of a process with torch and the chips it has read
_SMALLEST_BATCH, _LARGEST_BATCH = 2, 8
_FEWEST_BATCHES = 20  # an epoch
_SAMPLE = 64  # chips from which mean and deviation are computed
_TURNED = 0.01  # relative; boxes turned, or longer than wide, by less may be so by rounding


def prepare_data(
    source: Rasters,
    labels: Vectors | None = None,
    *,
    class_mapping: Mapping[Any, str | None] | None = None,
    chip_size: int | None = None,
    overlap: int | None = None,
    pixel_size_m: float | None = None,
    bands: Sequence[int | str] | None = None,
    label_field: str | None = None,
    layer: str | int | None = None,
    point_radius_m: float | None = None,
    aoi: Area | None = None,
    min_visible: float = 0.3,
    negatives: float = 1.0,
    dataset_type: str | None = None,
    valid_path: str | Path | None = None,
    val_split_pct: float = 0.2,
    split: str = "blocks",
    batch_size: int | None = None,
    transforms: bool = True,
    num_workers: int | None = None,
    sampler: str | None = None,
    seed: int = 42,
    nodata: float | None = None,
    boxes: str = "upright",
) -> DetectionData:
    """Prepare training and validation chips from a raster with labels or from a folder of labelled chips.

    Nothing is written into the user's folders; rasters are read window by window.

    Args:
        source: a raster: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern, or a STAC item. Files that
            touch are one scene; where they overlap, the later one counts. Without `labels`, a folder of chips in the
            layout of COCO, Pascal VOC, YOLO, DOTA, KITTI, DeepForest or an export of ArcGIS; if its labels lie
            beside the images, as in Ultralytics' layout, the folder of images (`images/train`) is enough.
        labels: when `source` is a raster: a vector file, several in a list, a folder or a pattern, or a GeoDataFrame,
            in any CRS.
        class_mapping: `{value: name}` renames classes; a value mapped to None is dropped. In a folder the value is a
            class' name, or its number in the format.
        chip_size: side of a chip in pixels; None: the size of the images if they are alike and at most 1,024 px,
            else 512.
        overlap: of neighbouring chips, in pixels; None is 0.
        pixel_size_m: read at this ground resolution instead of the raster's own. Objects of up to some 30 px are often
            found better at a smaller one, even below the raster's own.
        bands: the bands to read, counted from 1, or by name, such as "red", as the raster or the STAC item has it; None
            is all.
        label_field: column that holds the class; None: a column `label`, else one class named after the file. Files in
            a list have a class each; those of a folder or pattern, whose names are places, the class "object".
        layer: which layer of the labels' file, by name or number from 0 (`file.gpkg|layername=NAME` is the same); None:
            the first that holds features, with a warning if there are more.
        point_radius_m: points become discs of this radius in metres.
        aoi: area of interest, outside which nothing is used: a vector file or frame in any CRS, or a geometry or
            (x1, y1, x2, y2) in the raster's.
        min_visible: smallest share of a label's area that must be visible in a chip, 0 to 1.
        negatives: chips without an object, as a share of those with one; 0 or more. They are drawn from all rasters
            or images alike.
        dataset_type: the folder's format, "coco", "voc", "yolo", "yolo_obb", "dota", "kitti", "esri" or "deepforest";
            None recognises it.
        valid_path: a second folder for validation, in any layout of `source`; `split` and `val_split_pct` are then
            ignored. They are also ignored if the folder defines its own split, by subfolders or by lists: its training
            and validation parts are used as they are, and its test part is in `left_out`.
        val_split_pct: share of the chips used for validation, above 0 and below 1.
        split: "blocks" holds out blocks of ground, "random" single chips, even if they share ground.
        batch_size: chips in a batch; None is 8, or fewer (at least 2) if an epoch would have fewer than 20 batches.
        transforms: change training batches at random (symmetries, zoom, light).
        num_workers: processes that read chips; None chooses. Where they are spawned (Windows, macOS, Python 3.14)
            a script needs `if __name__ == "__main__":`.
        sampler: "balanced" oversamples chips with rare classes in training; None uses each chip once per epoch.
        seed: of everything random here and in training.
        nodata: value that stands for no data, in addition to those that the rasters or images declare.
        boxes: "upright", or "oriented" for rotated boxes aligned with their objects: the smallest rectangle around
            the visible part of each polygon, and a square around a point. A folder must hold outlines then: DOTA
            (whose difficult objects are trained on and ignored in scores), YOLO-OBB, or COCO with outlines. A detector
            of such data finds oriented boxes.

    Raises:
        GeodetectError: if a file or a parameter is not usable; the message says which and why.
    """
    _check_arguments(split, batch_size, num_workers, sampler)
    if boxes not in ("upright", "oriented"):
        raise ArgumentError(f'boxes must be "upright" or "oriented"; got {boxes!r}')
    oriented = boxes == "oriented"
    cutting = Cutting(
        chip_size, overlap or 0, pixel_size_m, bands, min_visible, negatives, seed, nodata, oriented=oriented
    )
    if labels is not None:
        if valid_path is None:
            _refuse({"dataset_type": dataset_type}, "a raster with labels, which is no folder of chips")
        given = Labels(labels, label_field, layer, point_radius_m, class_mapping)
        found = from_raster(source, given, cutting, aoi)
    else:
        of_labels = {"aoi": aoi, "label_field": label_field, "layer": layer, "point_radius_m": point_radius_m}
        _refuse(of_labels, "a folder of labelled chips, only to labels=")
        found = from_folder(source, cutting, dataset_type=dataset_type, class_mapping=class_mapping)
    if oriented:
        _warn_if_upright(found.plans)
    valid, spared, report = found.valid, list(found.left_out), found.report
    _check_batch(batch_size or 1, found.chip_size, len(found.bands))
    if valid_path is not None:
        if valid is not None:
            spared += _renumber(valid, found)
            report = join_notes(report, "its own validation part is not used, as valid_path replaces it")
        valid = from_folder(
            valid_path,
            replace(cutting, chip_size=found.chip_size),
            dataset_type=dataset_type,
            class_mapping=class_mapping,
            argument="valid_path",
        )
    parts = split_chips(found.plans, val_split_pct, split, seed) if valid is None else _hold_out(found, valid)
    seen = {label for plan in parts.train for label in plan.boxes.labels}
    unseen = join_values(name for label, name in enumerate(found.classes) if label not in seen)
    validates = any(len(plan.boxes) for plan in parts.valid)
    report = join_notes(
        report,
        parts.report,
        f"no training chip holds a box of {unseen}" if unseen else "",
        "" if validates else "no validation chip holds a box, so scores mean nothing",
    )
    sizes = find_pixel_sizes(plan.reader for plan in parts.train)
    return DetectionData(
        classes=found.classes,
        train=Chips(parts.train),
        valid=Chips(parts.valid),
        left_out=Chips(parts.left_out + spared),
        chip_size=found.chip_size,
        pixel_size_m=float(np.median(sizes)) if sizes else None,
        bands=found.bands,
        normalization=_fit_normalization(parts.train, seed),
        dtype=found.dtype,
        batch_size=batch_size or choose_batch_size(len(parts.train)),
        transforms=transforms,
        num_workers=num_workers,
        seed=seed,
        sampler=sampler,
        report=report,
        oriented=oriented,
    )


def choose_batch_size(n_chips: int) -> int:
    """Return the largest batch of 2 to 8 chips with which an epoch has at least 20 batches, if any has."""
    return max(_SMALLEST_BATCH, min(_LARGEST_BATCH, n_chips // _FEWEST_BATCHES))


def _check_arguments(split: str, batch_size: int | None, num_workers: int | None, sampler: str | None) -> None:
    if split not in ("blocks", "random"):
        raise ArgumentError(f'split must be "blocks" or "random"; got {split!r}')
    if batch_size is not None:
        check_whole("batch_size", batch_size)
        _check_batch(batch_size, 1, 1)  # before any work; repeated when chip size and bands are known
    if num_workers is not None:
        check_whole("num_workers", num_workers, 0)
    memory.check_fits(_WORKER_BYTES * (num_workers or 0), f"num_workers={num_workers}", "make num_workers smaller")
    if sampler not in ("balanced", None):
        raise ArgumentError(f'sampler must be "balanced" or None; got {sampler!r}')


def _warn_if_upright(plans: Sequence[ChipPlan]) -> None:
    """Warn if no box is turned, as where labels are the bounds of their objects. Squares, as of points, may lie so."""
    boxes = Boxes.concat([plan.boxes if plan.objects is None else plan.objects for plan in plans])
    assert boxes.angles is not None
    oblong = boxes.sizes[:, 0] > boxes.sizes[:, 1] * (1 + _TURNED)
    if 2 * oblong.sum() > len(boxes) and (np.abs(np.sin(2 * boxes.angles[oblong])) < _TURNED).all():
        warn(
            f"all {len(boxes):,} boxes lie along the rows and columns of pixels, so that no angle can be learnt; give "
            'labels that are outlines of the objects, or choose boxes="upright"'
        )


def _check_batch(batch_size: int, chip_size: int, n_bands: int) -> None:
    """Raise for batches that do not fit into memory in float32, as a network takes them."""
    what = f"a batch of {batch_size:,} chips of {chip_size:,} px"
    memory.check_fits(4 * batch_size * n_bands * chip_size**2, what, "make batch_size or chip_size smaller")


def _refuse(values: Mapping[str, object], source: str) -> None:
    """Raise for parameters that would be ignored."""
    given = [name for name, value in values.items() if value is not None]
    if given:
        raise ArgumentError(f"{' and '.join(given)} cannot be applied to {source}; leave out what has no meaning here")


def _renumber(valid: Source, found: Source) -> list[ChipPlan]:
    """Return the chips of a second source with labels that index the first one's classes; boxes of others are dropped.

    Raises:
        ArgumentError: if its images are of another kind.
        LabelsError: if it has none of the classes.
    """
    if (len(valid.bands), valid.dtype) != (len(found.bands), found.dtype):
        raise ArgumentError(
            f"validation images must have the {len(found.bands)} bands of the training images, of "
            f"{found.dtype}; got {len(valid.bands)} of {valid.dtype}; choose some with bands=, or convert them first"
        )
    if valid.classes and not set(valid.classes) & set(found.classes):
        raise LabelsError(
            f"validation and training images must have a class in common; training has {join_values(found.classes)}, "
            f"validation {join_values(valid.classes)}; class_mapping renames classes"
        )
    return relabel(valid.plans, valid.classes, found.classes)


def _hold_out(found: Source, valid: Source) -> Parts:
    """Train on one source and validate on the other; chips that are in both are counted in the report."""

    def place(plan: ChipPlan) -> tuple[str, tuple[int, int, int, int]]:
        path = plan.reader.path.resolve() if isinstance(plan.reader, ImageReader) else plan.reader.grid.name
        return str(path), plan.window.xyxy

    seen = {place(plan) for plan in found.plans}
    strange = join_values(sorted(set(valid.classes) - set(found.classes)))
    report = join_notes(
        f"to validate: {valid.report}",
        count(sum(place(plan) in seen for plan in valid.plans), "chips in both parts, so scores are too good"),
        f"boxes of {strange} are in no training chip, and not used in validation" if strange else "",
    )
    return Parts(found.plans, _renumber(valid, found), [], report)


def _fit_normalization(plans: Sequence[ChipPlan], seed: int) -> Normalization:
    """Compute mean and standard deviation of each band over a sample of the chips, without undeclared no data."""
    chosen = np.random.default_rng(seed).permutation(len(plans))[:_SAMPLE]

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (plan.reader.read(plan.window) for plan in (plans[i] for i in chosen))

    sample = Sample()
    normalization = Normalization.fit(sample.through(windows()))
    if undeclared := sample.describe_fills("the training pixels"):
        warnings.warn(f"{undeclared} (the mean and deviation of the bands are without it)", UserWarning, stacklevel=3)
        normalization = Normalization.fit(windows(), sample.fills())
    return replace(normalization, value_range=sample.value_range())

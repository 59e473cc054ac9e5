"""The front door to training: chips from a raster with labels, or from a folder, in two parts."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geodetect import memory
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.chips.cut import Cutting
from geodetect.chips.data import DetectionData
from geodetect.chips.folder import from_folder
from geodetect.chips.formats.picture import counted, sentence
from geodetect.chips.pictures import PictureReader
from geodetect.chips.sources import Source, from_raster
from geodetect.chips.split import Parts, parted
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, check_whole
from geodetect.facts import listed
from geodetect.raster import Rasters
from geodetect.stretch import Sample, Stretch
from geodetect.vector.opening import Area, Vectors

_WORKER_BYTES = 200_000_000  # of a process with torch and what it has read
_SAMPLE = 64  # chips that the stretch is measured on


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
    batch_size: int = 8,
    transforms: bool = True,
    num_workers: int | None = None,
    sampler: str | None = None,
    seed: int = 42,
    nodata: float | None = None,
) -> DetectionData:
    """Chips to train and to validate on, from a raster with labels or from a folder of labelled chips.

    Nothing is written into the user's folders; a raster is read window by window.

    Args:
        source: a raster: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern, where files that touch are
            one scene (the later file counts where they overlap), or a STAC item; without `labels`, a folder of chips
            in the layout of COCO, Pascal VOC, YOLO, KITTI, DeepForest or an export of ArcGIS; where its labels lie
            beside the pictures, as Ultralytics has them, the folder of the pictures (`images/train`) will do.
        labels: when `source` is a raster: a vector file, several in a list, a folder or a pattern, or a GeoDataFrame,
            in any CRS.
        class_mapping: `{value: name}` renames classes; a value mapped to None is dropped. In a folder the value is a
            class' name, or the number that the format has for it.
        chip_size: side of a chip in pixels; None: the pictures' size when they are alike and at most
            1,024 px, else 512.
        overlap: how much neighbouring chips share in pixels; None is 0.
        pixel_size_m: read at this ground resolution instead of the raster's own.
        bands: the bands to read, counted from 1, or by name, such as "red", as the raster or the STAC item has it; None
            is all.
        label_field: column that holds the class; None: a column `label`, else one class named after the file; each
            for itself of files in a list, and "object" for all of a folder or pattern, whose names say where, not what.
        layer: which layer of the labels' file, by name or number from 0 (`file.gpkg|layername=NAME` is the same); None:
            the first that holds features, with a warning if there are more.
        point_radius_m: makes points into discs of this radius in metres.
        aoi: only ground inside is used: a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the
            raster's.
        min_visible: smallest share of a label's area in a chip that is still a label there, 0 to 1.
        negatives: chips without an object, as a share of those with one; 0 or more. They are drawn from all rasters
            or pictures alike.
        dataset_type: the folder's format, "coco", "voc", "yolo", "kitti", "esri" or "deepforest"; None recognises it.
        valid_path: a second folder to validate on, in any layout of `source`; `split` and `val_split_pct` are
            not used then. Neither are they where a folder has parts of its own, by names of folders or by lists: its
            part to train on is trained on, and what is to test with is in `left_out`.
        val_split_pct: share of the chips that validates, above 0 and below 1.
        split: "blocks" holds out blocks of ground, "random" single chips, whatever ground they share.
        batch_size: chips in a batch.
        transforms: change training batches at random (symmetries, zoom, light).
        num_workers: processes that read chips; None chooses. Where they are started anew (Windows, macOS, Python 3.14)
            a script needs `if __name__ == "__main__":`.
        sampler: "balanced" shows chips with rare classes more often in training; None shows each chip once an epoch.
        seed: of everything random here and in training.
        nodata: value that stands for no data, besides those that the rasters or pictures declare themselves, which
            stay so.

    Raises:
        GeodetectError: if a file or a parameter is not usable; the message says which and why.
    """
    _check(split, batch_size, num_workers, sampler)
    cutting = Cutting(chip_size, overlap or 0, pixel_size_m, bands, min_visible, negatives, seed, nodata)
    if labels is not None:
        if valid_path is None:
            _refuse({"dataset_type": dataset_type}, "a raster with labels, which is no folder of chips")
        found = from_raster(
            source,
            labels,
            cutting,
            label_field=label_field,
            layer=layer,
            point_radius_m=point_radius_m,
            class_mapping=class_mapping,
            aoi=aoi,
        )
    else:
        of_labels = {"aoi": aoi, "label_field": label_field, "layer": layer, "point_radius_m": point_radius_m}
        _refuse(of_labels, "a folder of labelled chips, only to labels=")
        found = from_folder(source, cutting, dataset_type=dataset_type, class_mapping=class_mapping)
    held, spared, report = found.held, list(found.left_out), found.report
    _check_batch(batch_size, found.chip_size, len(found.bands))
    if valid_path is not None:
        if held is not None:
            spared += _renumbered(held, found)
            report = sentence(report, "its own part to validate on is left out, as valid_path takes its place")
        held = from_folder(
            valid_path,
            replace(cutting, chip_size=found.chip_size),
            dataset_type=dataset_type,
            class_mapping=class_mapping,
            argument="valid_path",
        )
    if held is not None:
        parts = Parts(found.plans, _renumbered(held, found), [], _beside(held, found))
    else:
        parts = parted(found.plans, val_split_pct, split, seed)
    report = sentence(report, parts.report)
    train, valid, left_out = Chips(parts.train), Chips(parts.valid), Chips(parts.left_out + spared)
    seen = {label for plan in train.plans for label in plan.boxes.labels}
    unseen = listed(name for label, name in enumerate(found.classes) if label not in seen)
    report = sentence(report, f"no chip to train on holds a box of {unseen}" if unseen else "")
    if not any(len(plan.boxes) for plan in valid.plans):
        report = sentence(report, "no chip to validate on holds a box, so that scores say nothing")
    return DetectionData(
        classes=found.classes,
        train=train,
        valid=valid,
        left_out=left_out,
        chip_size=found.chip_size,
        pixel_size_m=_pixel_size(train),
        bands=found.bands,
        stretch=_measured(train, seed),
        dtype=found.dtype,
        batch_size=batch_size,
        transforms=transforms,
        num_workers=num_workers,
        seed=seed,
        sampler=sampler,
        report=report,
    )


def _check(split: str, batch_size: int, num_workers: int | None, sampler: str | None) -> None:
    if split not in ("blocks", "random"):
        raise ArgumentError(f'split must be "blocks" or "random"; got {split!r}')
    check_whole("batch_size", batch_size)
    _check_batch(batch_size, 1, 1)  # before any work; more is known later
    if num_workers is not None:
        check_whole("num_workers", num_workers, 0)
    memory.check_fits(_WORKER_BYTES * (num_workers or 0), f"num_workers={num_workers}", "make num_workers smaller")
    if sampler not in ("balanced", None):
        raise ArgumentError(f'sampler must be "balanced" or None; got {sampler!r}')


def _check_batch(batch_size: int, chip_size: int, n_bands: int) -> None:
    """Refuse batches that do not fit into memory as a network takes them, in float32."""
    what = f"a batch of {batch_size:,} chips of {chip_size:,} px"
    memory.check_fits(4 * batch_size * n_bands * chip_size**2, what, "make batch_size or chip_size smaller")


def _refuse(values: Mapping[str, object], source: str) -> None:
    """Refuses parameters that would be ignored."""
    given = [name for name, value in values.items() if value is not None]
    if given:
        raise ArgumentError(f"{' and '.join(given)} cannot be applied to {source}; leave out what has no meaning here")


def _renumbered(held: Source, found: Source) -> list[ChipPlan]:
    """The chips of a second source with labels that index the first one's classes; boxes of other classes go.

    Raises:
        ArgumentError: if its pictures are of another kind.
        LabelsError: if it has none of the classes.
    """
    if (len(held.bands), held.dtype) != (len(found.bands), found.dtype):
        raise ArgumentError(
            f"pictures to validate on must have the {len(found.bands)} bands of those to train on, of "
            f"{found.dtype}; got {len(held.bands)} of {held.dtype}; choose some with bands=, or convert them first"
        )
    if held.classes and not set(held.classes) & set(found.classes):
        raise LabelsError(
            f"what validates must have a class in common with the chips to train on, {listed(found.classes)}; "
            f"got {listed(held.classes)}; class_mapping renames classes"
        )
    number = np.array([found.classes.index(name) if name in found.classes else -1 for name in held.classes])
    return [plan.relabelled(number) for plan in held.plans]


def _beside(held: Source, found: Source) -> str:
    """What was read for validation, and how much of it is trained on as well."""
    seen = {_place(plan) for plan in found.plans}
    both = sum(_place(plan) in seen for plan in held.plans)
    strange = listed(sorted(set(held.classes) - set(found.classes)))
    return sentence(
        f"to validate: {held.report}",
        counted(both, "chips in both parts, so that validation flatters"),
        f"boxes of {strange} are not in the chips to train on, left out of validation" if strange else "",
    )


def _place(plan: ChipPlan) -> tuple[str, tuple[int, int, int, int]]:
    path = plan.reader.path.resolve() if isinstance(plan.reader, PictureReader) else plan.reader.grid.name
    return str(path), plan.window.xyxy


def _pixel_size(chips: Chips) -> float | None:
    try:
        return float(np.median([plan.reader.grid.pixel_size_m for plan in chips.plans]))
    except NotGeoreferenced:
        return None


def _measured(chips: Chips, seed: int) -> Stretch:
    """Mean and standard deviation of each band over a sample of the chips, without values that seem to be no data."""
    chosen = np.random.default_rng(seed).permutation(len(chips))[:_SAMPLE]

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (plan.reader.read(plan.window) for plan in (chips.plans[i] for i in chosen))

    sample = Sample()
    stretch = Stretch.fit(sample.through(windows()))
    if undeclared := sample.describe_fills("the pixels to train on"):
        warnings.warn(f"{undeclared} (the mean and deviation of the bands are without it)", UserWarning, stacklevel=3)
        stretch = Stretch.fit(windows(), sample.fills())
    return replace(stretch, numbers=sample.numbers())

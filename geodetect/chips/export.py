"""Chips cut to disk, in a layout that other tools read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from rich.progress import track

from geodetect.chips.chip import ChipPlan
from geodetect.chips.formats import coco
from geodetect.chips.formats.picture import Picture
from geodetect.chips.sources import Cutting, Source, from_raster
from geodetect.errors import ArgumentError, OutputError
from geodetect.raster import write_chip

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_UNFINISHED = ".unfinished.json"  # the settings of a run that has not ended; lets it start again where it was


def export_training_data(
    raster: str | Path,
    labels: str | Path | GeoDataFrame,
    out_dir: str | Path,
    *,
    metadata_format: str = "coco",
    chip_size: int = 512,
    overlap: int = 0,
    chip_format: str = "tif",
    pixel_size_m: float | None = None,
    bands: Sequence[int] | None = None,
    label_field: str | None = None,
    point_radius_m: float | None = None,
    aoi: str | Path | GeoDataFrame | shapely.Geometry | None = None,
    min_visible: float = 0.3,
    negatives: float = 0.0,
    seed: int = 42,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """The folder `out_dir`, holding chips of the raster in `images` and their boxes in `labels.json`.

    A run that was stopped and is given the same parameters goes on where it was; each chip
    appears under its name when it is complete.

    Args:
        raster: the raster to cut.
        labels: a vector file or GeoDataFrame in any CRS.
        out_dir: a folder that is empty or not there yet.
        metadata_format: layout of the labels; "coco".
        chip_size: side of a chip in pixels.
        overlap: how much neighbouring chips share, in pixels.
        chip_format: "tif": GeoTIFFs that keep CRS and transform.
        pixel_size_m: cut at this ground resolution instead of the raster's own.
        bands: the bands to keep, counted from 1; None is all.
        label_field: column that holds the class; None: a column `label`, else one class named after the file.
        point_radius_m: makes points into discs of this radius in metres.
        aoi: only ground inside is used.
        min_visible: smallest share of a label's area in a chip that is still a label there, 0 to 1.
        negatives: chips without an object, as a share of those with one; 0 or more.
        seed: which chips without an object are kept.
        overwrite: empty `out_dir` first, whatever it holds.
        progress: show a progress bar.

    Raises:
        OutputError: if `out_dir` holds something else, or cannot be written.
        GeodetectError: if the raster, the labels or a parameter is not usable.
    """
    for name, value, known in (("metadata_format", metadata_format, "coco"), ("chip_format", chip_format, "tif")):
        if value != known:
            raise ArgumentError(f'{name} must be "{known}"; got {value!r}')
    out_dir = Path(out_dir)
    cutting = Cutting(chip_size, overlap, pixel_size_m, bands, min_visible, negatives, seed)
    settings = json.dumps([str(raster), str(labels), str(cutting), label_field, point_radius_m, str(aoi)])
    _check_empty(out_dir, settings, overwrite=overwrite)
    source = from_raster(
        raster,
        labels,
        cutting,
        label_field=label_field,
        point_radius_m=point_radius_m,
        aoi=aoi,
    )
    _start(out_dir, settings, overwrite=overwrite)
    return _write(source, out_dir, progress=progress)


def _check_empty(out_dir: Path, settings: str, *, overwrite: bool) -> None:
    if out_dir.exists() and not out_dir.is_dir():
        raise OutputError(f"out_dir must be a folder; {out_dir} is a file")
    if not out_dir.parent.is_dir():
        raise OutputError(f"the folder {out_dir.parent} does not exist; make it first, or choose another out_dir")
    if overwrite or not out_dir.exists() or not any(out_dir.iterdir()):
        return
    marker = out_dir / _UNFINISHED
    if not marker.is_file():
        raise OutputError(f"{out_dir} is not empty; choose another folder, or overwrite=True to empty it")
    if marker.read_text(encoding="utf-8") != settings:
        raise OutputError(
            f"{out_dir} holds a run with other parameters that was stopped; give the same ones to go on with it, "
            "or overwrite=True to start anew"
        )


def _start(out_dir: Path, settings: str, *, overwrite: bool) -> None:
    try:
        if overwrite and out_dir.exists():
            shutil.rmtree(out_dir)
        (out_dir / coco.IMAGES).mkdir(parents=True, exist_ok=True)
        (out_dir / _UNFINISHED).write_text(settings, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out_dir} cannot be written: {error.strerror}; choose another out_dir") from error


def _write(source: Source, out_dir: Path, *, progress: bool) -> Path:
    pictures = [
        _picture(plan, source.classes, out_dir)
        for plan in track(source.plans, "Cutting chips", disable=not progress, transient=True)
    ]
    partial = out_dir / f".{coco.LABELS}"
    partial.write_text(coco.text(pictures, source.classes), encoding="utf-8")
    partial.replace(out_dir / coco.LABELS)
    (out_dir / _UNFINISHED).unlink()
    return out_dir


def _picture(plan: ChipPlan, classes: Sequence[str], out_dir: Path) -> Picture:
    """The chip on disk, written unless an earlier run did, and its entry in the labels."""
    path = out_dir / coco.IMAGES / f"{plan.window.y:06d}_{plan.window.x:06d}.tif"
    pixels, valid = plan.reader.read(plan.window)
    if not path.exists():
        write_chip(path, pixels, plan.grid, valid)
    names = np.array(classes, dtype=object)[plan.boxes.labels]
    return Picture(path, plan.boxes.xyxy, names, (plan.window.height, plan.window.width))

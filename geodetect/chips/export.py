"""Chips cut to disk, in a layout that other tools read."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS
from rich.progress import track

from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import Cutting
from geodetect.chips.formats import FORMATS, IMAGES, Folder, Picture
from geodetect.chips.sources import Source, from_raster
from geodetect.errors import ArgumentError, OutputError
from geodetect.raster import CHIP_FORMATS, Rasters, check_chip_format, write_chip
from geodetect.vector.opening import Vectors
from geodetect.vector.writers import write_features

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

MAP = "chips.geojson"
_ON_MAP = 1000  # chips whose outlines are held at once
_UNFINISHED = ".unfinished.json"  # the settings of a run that has not ended; lets it start again where it was


def export_training_data(
    raster: Rasters,
    labels: Vectors,
    out_dir: str | Path,
    *,
    metadata_format: str = "coco",
    chip_size: int = 512,
    overlap: int | None = 0,
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
    """The folder `out_dir`, holding chips of the raster in `images`, their boxes, and a map of both.

    A run that was stopped and is given the same parameters goes on where it was; each chip
    appears under its name when it is complete. The map, `chips.geojson`, shows where the chips lie and
    what was labelled in each. Labels that no chip holds, though they lie on the raster, are told of in a warning.

    Args:
        raster: the raster to cut: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern (one scene).
        labels: a vector file, several in a list, a folder or a pattern, or a GeoDataFrame, in any CRS.
        out_dir: a folder that is empty or not there yet.
        metadata_format: layout of the labels: "coco", "voc", "yolo", "kitti", or "esri", which is ArcGIS' own
            with boxes as Pascal VOC.
        chip_size: side of a chip in pixels.
        overlap: how much neighbouring chips share, in pixels; None is 0.
        chip_format: "tif" for GeoTIFFs; "png" (1 or 3 bands of 8 or 16 bits) and "jpg" (of 8 bits) say where they lie
            in a world file and an `.aux.xml`, and do not keep which pixels are invalid.
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
    for name, value, known in (
        ("metadata_format", metadata_format, FORMATS),
        ("chip_format", chip_format, CHIP_FORMATS),
    ):
        if value not in list(known):
            raise ArgumentError(f"{name} must be one of {', '.join(sorted(known))}; got {value!r}")
    out_dir = Path(out_dir)
    cutting = Cutting(chip_size, overlap or 0, pixel_size_m, bands, min_visible, negatives, seed)
    asked = [raster, labels, cutting, label_field, point_radius_m, aoi, metadata_format, chip_format]
    settings = json.dumps([str(each) for each in asked])
    _check_empty(out_dir, settings, overwrite=overwrite)
    source = from_raster(
        raster,
        labels,
        cutting,
        label_field=label_field,
        point_radius_m=point_radius_m,
        aoi=aoi,
    )
    pixels, _ = source.plans[0].reader.read(source.plans[0].window)
    check_chip_format(chip_format, pixels)
    if not source.complete:
        warnings.warn(source.report, stacklevel=2)
    with _started(out_dir, settings, overwrite=overwrite):
        pictures = _write_chips(source, out_dir, chip_format, progress=progress)
        _write_labels(out_dir, metadata_format, _described(source, pictures, len(pixels)))
        write_features(_map(source, pictures), out_dir / MAP)
    return out_dir


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


@contextmanager
def _started(out_dir: Path, settings: str, *, overwrite: bool) -> Iterator[None]:
    """The folder made ready, and marked as unfinished until all is written."""
    marker = out_dir / _UNFINISHED
    try:
        if overwrite and out_dir.exists():
            shutil.rmtree(out_dir)
        (out_dir / IMAGES).mkdir(parents=True, exist_ok=True)
        for left in (out_dir / IMAGES).glob(".*/"):  # half a chip of a run that was killed
            shutil.rmtree(left)
        marker.write_text(settings, encoding="utf-8")
        yield
        marker.unlink()
    except OSError as error:
        raise OutputError(f"{out_dir} cannot be written: {error.strerror or error}; choose another out_dir") from error


def _write_chips(source: Source, out_dir: Path, chip_format: str, *, progress: bool) -> list[Picture]:
    """The chips on disk, cut by as many threads as there are cores, and what labels will say of them."""

    def written(number: int) -> Picture:
        return _picture(source, number, out_dir, chip_format)

    # Without a transform all threads would take turns at one handle of the raster.
    located = source.plans[0].grid.transform is not None
    pool = ThreadPoolExecutor(os.cpu_count() if located else 1)
    numbers = range(len(source.plans))
    try:
        made = pool.map(written, numbers)
        return list(track(made, "Cutting chips", total=len(numbers), disable=not progress, transient=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _picture(source: Source, number: int, out_dir: Path, chip_format: str) -> Picture:
    """The chip with this number on disk, written unless an earlier run did, and what labels will say of it."""
    plan = source.plans[number]
    path = out_dir / IMAGES / f"{number:09d}.{chip_format}"
    if not path.exists():
        pixels, valid = plan.reader.read(plan.window)
        write_chip(path, pixels, plan.grid, valid)
    names = np.array(source.classes, dtype=object)[plan.boxes.labels]
    return Picture(path, plan.boxes.xyxy, names, (plan.window.height, plan.window.width))


def _described(source: Source, pictures: list[Picture], n_bands: int) -> Folder:
    """All that labels can say of the chips."""
    grid = source.plans[0].grid
    cell = None
    if grid.transform is not None:
        transform = grid.transform
        cell = float(np.hypot(transform.a, transform.d)), float(np.hypot(transform.b, transform.e))
    return Folder(pictures, source.classes, crs=grid.crs, cell=cell, n_bands=n_bands)


def _write_labels(out_dir: Path, metadata_format: str, folder: Folder) -> None:
    """The files that say what is in the chips, each complete under its name or not there."""
    for name, text in FORMATS[metadata_format].files(folder):
        path = out_dir / name
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _map(source: Source, pictures: list[Picture]) -> Iterator[GeoDataFrame]:
    """Outlines of all chips and boxes, some at a time: `kind` is chip or label, `chip` the file, `label` the class."""
    crs = source.plans[0].grid.crs
    for first in range(0, len(pictures), _ON_MAP):
        some = pictures[first : first + _ON_MAP]
        placed = [_placed(plan, crs) for plan in source.plans[first : first + _ON_MAP]]
        columns = {
            "kind": [kind for picture in some for kind in ["chip", *["label"] * len(picture.names)]],
            "chip": [picture.path.name for picture in some for _ in range(1 + len(picture.names))],
            "label": [name for picture in some for name in [None, *picture.names]],
        }
        yield gpd.GeoDataFrame(columns, geometry=np.concatenate(placed), crs=crs)


def _placed(plan: ChipPlan, crs: CRS | None) -> np.ndarray:
    """The outline of a chip and those of its boxes, in coordinates of the map's CRS."""
    outlines = np.concatenate([[[0, 0, plan.window.width, plan.window.height]], plan.boxes.xyxy])
    placed = np.asarray(shapely.transform(shapely.box(*outlines.T), plan.grid.in_plane().to_map), dtype=object)
    if crs is None or plan.grid.crs is None or plan.grid.crs == crs:
        return placed
    return np.asarray(gpd.GeoSeries(placed, crs=plan.grid.crs).to_crs(crs), dtype=object)

"""Chips cut to disk, in a layout that other tools read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geodetect.addresses import identity
from geodetect.chips.chip import ChipPlan
from geodetect.chips.cut import Cutting
from geodetect.chips.formats import FORMATS, IMAGES, Folder, Picture
from geodetect.chips.formats.picture import TRAIN, UNLISTED, VALID, is_plain, sentence
from geodetect.chips.outdir import check_spared, checked, is_complete, started
from geodetect.chips.sources import Source, from_raster
from geodetect.chips.split import parted
from geodetect.errors import ArgumentError, LabelsError, warn
from geodetect.progress import Bar
from geodetect.raster import CHIP_FORMATS, MaskedReader, Rasters, check_chip_format, files_of, write_chip
from geodetect.vector.features import Target
from geodetect.vector.labels import Labels
from geodetect.vector.opening import Area, Vectors
from geodetect.vector.writers import write_features

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_MAP = "chips"
_WGS84 = CRS.from_epsg(4326)
_VALID_SHARE = 0.2  # of chips in the part to validate on, where a format has parts; `prepare_data`'s own
_WITH_PARTS = ("yolo",)  # formats that tell which part a chip is in
_ON_MAP = 1000  # chips whose outlines are held at once


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
    bands: Sequence[int | str] | None = None,
    label_field: str | None = None,
    layer: str | int | None = None,
    point_radius_m: float | None = None,
    aoi: Area | None = None,
    min_visible: float = 0.3,
    negatives: float = 0.0,
    seed: int = 42,
    overwrite: bool = False,
    nodata: float | None = None,
    progress: bool = True,
) -> Path:
    """Cut rasters into chips in a folder, with the boxes of their labels and a map of both.

    A run that was stopped and comes to the same plan again goes on where it was; one that was complete says so and
    returns at once. Each chip appears under its name when it is complete, and `export.json` when everything is. The
    map, `chips.geojson`, shows where the chips lie and what was labelled in each; where the raster's CRS knows no way
    to WGS 84 it is `chips.gpkg`. A warning counts the labels that lie on the raster and are in no chip.

    Args:
        raster: the raster to cut: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern, or a STAC item.
            Files that touch are one scene; where they overlap, the later one counts.
        labels: a vector file, several in a list, a folder or a pattern, or a GeoDataFrame, in any CRS.
        out_dir: a folder that is empty or not there yet.
        metadata_format: layout of the labels: "coco"; "voc"; "yolo", with lists of the chips to train and to validate
            on, split as in `prepare_data`, or at random, with a warning, where blocks of ground cannot part them;
            "kitti"; "esri", which is ArcGIS' own with boxes as Pascal VOC; or "deepforest", a CSV.
        chip_size: side of a chip in pixels.
        overlap: how much neighbouring chips share, in pixels; None is 0.
        chip_format: "tif" for GeoTIFFs; "png" (1 or 3 bands of 8 or 16 bits) and "jpg" (of 8 bits) say where they lie
            in a world file and an `.aux.xml`, and do not keep which pixels are invalid.
        pixel_size_m: cut at this ground resolution instead of the raster's own.
        bands: the bands to keep, counted from 1, or by name, such as "red", as the raster or the STAC item has it; None
            is all.
        label_field: column that holds the class; None: a column `label`, else one class named after the file.
        layer: which layer of the labels' file, by name or number from 0 (`file.gpkg|layername=NAME` is the same); None:
            the first that holds features, with a warning if there are more.
        point_radius_m: makes points into discs of this radius in metres.
        aoi: only ground inside is used: a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the
            raster's.
        min_visible: smallest share of a label's area in a chip that is still a label there, 0 to 1.
        negatives: chips without an object, as a share of those with one; 0 or more.
        seed: which chips without an object are kept.
        overwrite: empty `out_dir` first, whatever it holds but the raster, the labels and the aoi.
        nodata: value that stands for no data, besides those that the raster declares itself, which stay so.
        progress: show a progress bar.

    Raises:
        OutputError: if `out_dir` holds something else, must not be emptied, or cannot be written.
        GeodetectError: if the raster, the labels or a parameter is not usable.
    """
    for name, value, known in (
        ("metadata_format", metadata_format, FORMATS),
        ("chip_format", chip_format, CHIP_FORMATS),
    ):
        if value not in list(known):
            raise ArgumentError(f"{name} must be one of {', '.join(sorted(known))}; got {value!r}")
    cutting = Cutting(chip_size, overlap or 0, pixel_size_m, bands, min_visible, negatives, seed, nodata)
    out_dir = checked(out_dir, overwrite=overwrite)
    if overwrite:
        check_spared(out_dir, raster, labels, aoi)
    source = from_raster(raster, Labels(labels, label_field, layer, point_radius_m), cutting, aoi)
    check_chip_format(chip_format, len(source.bands), source.dtype)
    _check_names(source.classes, metadata_format)
    plan = _plan(source, files_of(raster)[0], [cutting, metadata_format, chip_format])
    paths = [out_dir / IMAGES / f"{number:09d}.{chip_format}" for number in range(len(source.plans))]
    if not overwrite and is_complete(out_dir, plan, paths):
        warn(f"{out_dir} is complete already; overwrite=True cuts it anew")
        return out_dir
    place = _map_place(source)
    if not source.complete or place is None:
        warn(sentence(source.report, "" if place else "no map, as no CRS holds all chips"))
    parts = _parts(source.plans, seed) if metadata_format in _WITH_PARTS else [None] * len(paths)
    with started(out_dir, plan, overwrite=overwrite) as workplace:
        pictures = _write_chips(source, paths, progress=progress)
        _write_labels(out_dir, workplace, metadata_format, _described(source, pictures, parts))
        if place is not None:
            name, crs = place
            write_features(_map(source, pictures, crs), out_dir / name, workplace=workplace)
    return out_dir


def _check_names(classes: Sequence[str], metadata_format: str) -> None:
    """Refuse classes that a format cannot hold.

    Raises:
        ArgumentError: if there are any.
    """
    unfit = [name for name in classes if not (is_plain(name) and FORMATS[metadata_format].can_name(name))]
    if unfit:
        raise ArgumentError(
            f"{metadata_format} cannot hold classes called {', '.join(map(repr, unfit))}; "
            "rename them in the labels, or choose another metadata_format"
        )


def _plan(source: Source, files: Sequence[str], settings: Sequence[object]) -> str:
    """A text that is the same only where the same chips would be written of the same files."""
    told = hashlib.sha256(repr([*settings, source.classes, source.bands]).encode())
    for file in files:
        found = Path(file).stat() if Path(file).exists() else None  # of a URL no more is known
        told.update(repr([identity(file), found and (found.st_size, found.st_mtime_ns)]).encode())
    reader = None
    for plan in source.plans:
        if plan.reader is not reader:
            reader = plan.reader
            told.update(repr(reader.grid).encode())
            told.update(shapely.to_wkb(reader.area) if isinstance(reader, MaskedReader) else b"")
        told.update(repr(plan.window).encode() + plan.boxes.xyxy.tobytes() + plan.boxes.labels.tobytes())
    return json.dumps({"plan": told.hexdigest()})


def _write_chips(source: Source, paths: Sequence[Path], *, progress: bool) -> list[Picture]:
    """The chips on disk, cut by as many threads as there are cores, and what labels will say of them."""

    def written(path: Path, plan: ChipPlan) -> Picture:
        return _picture(path, plan, source.classes)

    # Without a transform all threads would take turns at one handle of the raster.
    located = source.plans[0].grid.transform is not None
    pool = ThreadPoolExecutor(os.cpu_count() if located else 1)
    pictures = []
    try:
        with Bar("chips", len(paths), shown=progress) as bar:
            for picture in pool.map(written, paths, source.plans):
                pictures.append(picture)
                bar.advance()
        return pictures
    finally:
        pool.shutdown(cancel_futures=True)


def _picture(path: Path, plan: ChipPlan, classes: Sequence[str]) -> Picture:
    """A chip on disk, written unless an earlier run did, and what labels will say of it."""
    if not path.exists():
        pixels, valid = plan.reader.read(plan.window)
        write_chip(path, pixels, plan.grid, valid)
    names = np.array(classes, dtype=object)[plan.boxes.labels]
    return Picture(path, plan.boxes.xyxy, names, (plan.window.height, plan.window.width))


def _described(source: Source, pictures: list[Picture], parts: Sequence[str | None]) -> Folder:
    """All that labels can say of the chips."""
    grid = source.plans[0].grid
    cell = None
    if grid.transform is not None:
        transform = grid.transform
        cell = float(np.hypot(transform.a, transform.d)), float(np.hypot(transform.b, transform.e))
    pictures = [replace(picture, part=part) for picture, part in zip(pictures, parts, strict=True)]
    return Folder(pictures, source.classes, crs=grid.crs, cell=cell, n_bands=len(source.bands))


def _parts(plans: Sequence[ChipPlan], seed: int) -> list[str | None]:
    """Which part each chip is in, as `prepare_data` would split them, with a warning where blocks cannot part them."""
    part_of: dict[int, str | None] = dict.fromkeys(map(id, plans), UNLISTED)
    for split in ("blocks", "random"):
        try:
            train, valid, *_ = parted(plans, _VALID_SHARE, split, seed)
        except (ArgumentError, LabelsError):
            continue
        if split == "random":
            warn(
                f"no block of ground parts the {len(plans)} chips, so that those to validate on are drawn at random "
                "and show ground that is trained on; make chip_size or overlap smaller, or give more ground"
            )
        part_of |= dict.fromkeys(map(id, train), TRAIN) | dict.fromkeys(map(id, valid), VALID)
        return [part_of[id(plan)] for plan in plans]
    warn(
        f"{len(plans)} chip(s) cannot be split, so that data.yaml names the same for training and validation; make "
        "chip_size smaller, or give more ground"
    )
    return [None] * len(plans)


def _write_labels(out_dir: Path, workplace: Path, metadata_format: str, folder: Folder) -> None:
    """The files that say what is in the chips, each complete under its name or not there."""
    for name, text in FORMATS[metadata_format].files(folder):
        path = out_dir / name
        path.parent.mkdir(exist_ok=True)
        partial = workplace / path.name
        partial.write_text(text, encoding="utf-8", newline="")
        partial.replace(path)


def _map_place(source: Source) -> tuple[str, CRS | None] | None:
    """What the map is called, and the CRS that its outlines are given in; None where no CRS holds all chips.

    GeoJSON where every chip has a place in WGS 84, which that standard asks for, else GeoPackage.
    """
    by_reader: dict[int, list[ChipPlan]] = {}
    for plan in source.plans:
        by_reader.setdefault(id(plan.reader), []).append(plan)
    systems = list(dict.fromkeys(plans[0].grid.crs for plans in by_reader.values()))
    common = systems[0] if len(systems) == 1 else _WGS84
    if common is None or all(map(_in_wgs84, by_reader.values())):
        return f"{_MAP}.geojson", common
    return (f"{_MAP}.gpkg", common) if len(systems) == 1 else None


def _in_wgs84(plans: Sequence[ChipPlan]) -> bool:
    """Whether all these chips of one raster have a place in WGS 84."""
    corners = np.concatenate([plan.grid.corners for plan in plans])
    try:
        moved = Transformer.from_crs(plans[0].grid.crs, _WGS84, always_xy=True).transform(*corners.T)
    except ProjError:  # another planet, or a building site
        return False
    return bool(np.isfinite(moved).all())


def _map(source: Source, pictures: list[Picture], crs: CRS | None) -> Iterator[GeoDataFrame]:
    """Outlines of all chips and boxes, some at a time: `kind` is chip or label, `chip` the file, `label` the class."""
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
    return Target(crs, _MAP).bring(placed, plan.grid.crs, plan.grid.name)

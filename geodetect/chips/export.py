"""`export_training_data`: chips on disk, in a layout that other tools read."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from geodetect.chips.formats import FORMATS, IMAGES, Folder, Image
from geodetect.chips.formats.image import TRAIN, UNLISTED, VALID, is_plain, join_notes
from geodetect.chips.outdir import OutDir
from geodetect.chips.sources import Source, from_raster
from geodetect.chips.split import split_chips
from geodetect.errors import ArgumentError, LabelsError, warn
from geodetect.progress import Bar
from geodetect.raster import CHIP_FORMATS, MaskedReader, Rasters, check_chip_format, list_files, write_chip
from geodetect.vector.features import Target
from geodetect.vector.labels import Labels
from geodetect.vector.opening import Area, Vectors
from geodetect.vector.writers import write_features

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_MAP = "chips"
_WGS84 = CRS.from_epsg(4326)
_VALID_SHARE = 0.2  # of the chips for validation, in formats with parts; the default of `prepare_data`
_MOST_OUTLINES = 1000  # chips whose outlines are in memory at once


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

    A run that was stopped continues when it is started again with the same inputs; one that is complete warns and
    returns. Each chip appears under its name when it is complete, and `export.json` when everything is. The map,
    `chips.geojson`, shows the outlines of chips and labels; if the raster's CRS cannot be transformed to WGS 84 it is
    `chips.gpkg`. A warning counts the labels on the raster that are in no chip.

    Args:
        raster: the raster to cut: a path, a URL, a list of them, a folder of GeoTIFFs or a pattern, or a STAC item.
            Files that touch are one scene; where they overlap, the later one counts.
        labels: a vector file, several in a list, a folder or a pattern, or a GeoDataFrame, in any CRS.
        out_dir: a folder that is empty or does not exist.
        metadata_format: layout of the labels: "coco"; "voc"; "yolo", with lists of the chips to train and to validate
            on, split as in `prepare_data`, or at random, with a warning, if blocks of ground cannot part them;
            "kitti"; "esri", which is ArcGIS' own with boxes as Pascal VOC; "deepforest", a CSV; "dota", or "yolo_obb"
            with lists as "yolo": both hold oriented boxes.
        chip_size: side of a chip in pixels.
        overlap: of neighbouring chips, in pixels; None is 0.
        chip_format: "tif" for GeoTIFFs; "png" (1 or 3 bands of 8 or 16 bits) or "jpg" (of 8 bits), which are
            georeferenced by a world file and an `.aux.xml`, and do not store which pixels are invalid.
        pixel_size_m: cut at this ground resolution instead of the raster's own.
        bands: the bands to keep, counted from 1, or by name, such as "red", as the raster or the STAC item has it; None
            is all.
        label_field: column that holds the class; None: a column `label`, else one class named after the file.
        layer: which layer of the labels' file, by name or number from 0 (`file.gpkg|layername=NAME` is the same); None:
            the first that holds features, with a warning if there are more.
        point_radius_m: points become discs of this radius in metres.
        aoi: only ground inside is used: a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the
            raster's.
        min_visible: smallest share of a label's area that must be visible in a chip, 0 to 1.
        negatives: chips without an object, as a share of those with one; 0 or more.
        seed: of the choice of chips without an object.
        overwrite: empty `out_dir` first; refused if it holds the raster, the labels or the aoi.
        nodata: value that stands for no data, in addition to those that the raster declares.
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
    layout = FORMATS[metadata_format]
    cutting = Cutting(
        chip_size, overlap or 0, pixel_size_m, bands, min_visible, negatives, seed, nodata, oriented=layout.oriented
    )
    out = OutDir(out_dir, overwrite=overwrite)
    out.check_spared(raster, labels, aoi)
    source = from_raster(raster, Labels(labels, label_field, layer, point_radius_m), cutting, aoi)
    check_chip_format(chip_format, len(source.bands), source.dtype)
    unfit = [name for name in source.classes if not (is_plain(name) and layout.can_name(name))]
    if unfit:
        raise ArgumentError(
            f"{metadata_format} cannot hold classes called {', '.join(map(repr, unfit))}; "
            "rename them in the labels, or choose another metadata_format"
        )
    plan = _fingerprint(source, list_files(raster)[0], [cutting, metadata_format, chip_format])
    paths = [out.path / IMAGES / f"{number:09d}.{chip_format}" for number in range(len(source.plans))]
    if out.is_complete(plan, paths):
        warn(f"{out.path} is complete already; overwrite=True cuts it anew")
        return out.path
    place = _choose_map(source)
    if not source.complete or place is None:
        warn(join_notes(source.report, "" if place else "no map, as no CRS holds all chips"))
    parts = _assign_parts(source.plans, seed) if layout.parts else [None] * len(paths)
    with out.open(plan):
        folder = _write_chips(source, paths, parts, progress=progress)
        for name, text in layout.render(folder):
            out.write(name, text)
        if place is not None:
            name, crs = place
            write_features(_outline_chips(source, folder.images, crs), out.path / name, workplace=out.workplace)
    return out.path


def _fingerprint(source: Source, files: Sequence[str], settings: Sequence[object]) -> str:
    """Return a text that is the same only if the same chips would be cut from the same files."""
    digest = hashlib.sha256(repr([*settings, source.classes, source.bands]).encode())
    for file in files:
        found = Path(file).stat() if Path(file).exists() else None  # nothing is known of a URL
        digest.update(repr([identity(file), found and (found.st_size, found.st_mtime_ns)]).encode())
    reader = None
    for plan in source.plans:
        if plan.reader is not reader:
            reader = plan.reader
            digest.update(repr(reader.grid).encode())
            digest.update(shapely.to_wkb(reader.area) if isinstance(reader, MaskedReader) else b"")
        digest.update(repr(plan.window).encode() + plan.boxes.xyxy.tobytes() + plan.boxes.labels.tobytes())
        digest.update(b"" if plan.boxes.angles is None else plan.boxes.angles.tobytes())
    return json.dumps({"plan": digest.hexdigest()})


def _write_chips(source: Source, paths: Sequence[Path], parts: Sequence[str | None], *, progress: bool) -> Folder:
    """Write the chips that an earlier run has not, with as many threads as there are cores."""
    classes = np.array(source.classes, dtype=object)

    def write(path: Path, plan: ChipPlan, part: str | None) -> Image:
        """Write one chip unless its file exists, and return its entry for the labels."""
        if not path.exists():
            pixels, valid = plan.reader.read(plan.window)
            write_chip(path, pixels, plan.grid, valid)
        boxes = plan.boxes
        outlines = [[corners.ravel()] for corners in boxes.corners] if boxes.oriented else None
        return Image(path, boxes.bounds, classes[boxes.labels], plan.grid.shape, part=part, outlines=outlines)

    grid = source.plans[0].grid
    # Without a transform all threads would take turns at one handle of the raster.
    pool = ThreadPoolExecutor(1 if grid.transform is None else os.cpu_count())
    images = []
    try:
        with Bar("chips", len(paths), shown=progress) as bar:
            for image in pool.map(write, paths, source.plans, parts):
                images.append(image)
                bar.advance()
    finally:
        pool.shutdown(cancel_futures=True)
    to_map = grid.transform
    cell = None if to_map is None else (float(np.hypot(to_map.a, to_map.d)), float(np.hypot(to_map.b, to_map.e)))
    return Folder(images, source.classes, crs=grid.crs, cell=cell, n_bands=len(source.bands))


def _assign_parts(plans: Sequence[ChipPlan], seed: int) -> list[str | None]:
    """Return the part of each chip, as `prepare_data` would split them; warn if blocks cannot part them."""
    part_of: dict[int, str | None] = dict.fromkeys(map(id, plans), UNLISTED)
    for split in ("blocks", "random"):
        try:
            train, valid, *_ = split_chips(plans, _VALID_SHARE, split, seed)
        except (ArgumentError, LabelsError):
            continue
        if split == "random":
            warn(
                f"no block of ground parts the {len(plans)} chips, so validation chips are drawn at random and "
                "may show ground that is trained on; make chip_size or overlap smaller, or give more ground"
            )
        part_of |= dict.fromkeys(map(id, train), TRAIN) | dict.fromkeys(map(id, valid), VALID)
        return [part_of[id(plan)] for plan in plans]
    warn(
        f"{len(plans)} chip(s) cannot be split, so data.yaml names the same for training and validation; make "
        "chip_size smaller, or give more ground"
    )
    return [None] * len(plans)


def _choose_map(source: Source) -> tuple[str, CRS | None] | None:
    """Return the name of the map and the CRS of its outlines; None if no CRS holds all chips.

    GeoJSON if every chip has a place in WGS 84, which its standard requires, else GeoPackage.
    """
    by_reader: dict[int, list[ChipPlan]] = {}
    for plan in source.plans:
        by_reader.setdefault(id(plan.reader), []).append(plan)
    systems = list(dict.fromkeys(plans[0].grid.crs for plans in by_reader.values()))
    common = systems[0] if len(systems) == 1 else _WGS84
    try:
        for plans in by_reader.values() if common is not None else ():
            corners = np.concatenate([plan.grid.corners for plan in plans])
            moved = Transformer.from_crs(plans[0].grid.crs, _WGS84, always_xy=True).transform(*corners.T)
            if not np.isfinite(moved).all():
                raise ProjError("outside WGS 84")
    except ProjError:  # of another planet, or a local CRS
        return (f"{_MAP}.gpkg", common) if len(systems) == 1 else None
    return f"{_MAP}.geojson", common


def _outline_chips(source: Source, images: Sequence[Image], crs: CRS | None) -> Iterator[GeoDataFrame]:
    """Yield outlines of chips and boxes: `kind` is chip or label, `chip` the file, `label` the class."""
    for first in range(0, len(images), _MOST_OUTLINES):
        some = images[first : first + _MOST_OUTLINES]
        outlines: list[np.ndarray] = []
        for plan in source.plans[first : first + _MOST_OUTLINES]:
            boxes, chip = plan.boxes, shapely.box(0, 0, plan.window.width, plan.window.height)
            inside = shapely.polygons(boxes.corners) if boxes.oriented else shapely.box(*boxes.xyxy.T)
            shapes = shapely.transform(np.append([chip], inside), plan.grid.in_plane().to_map)
            shapes = np.asarray(shapes, dtype=object)
            outlines.append(Target(crs, _MAP).bring(shapes, plan.grid.crs, plan.grid.name))
        columns = {
            "kind": [kind for image in some for kind in ["chip", *["label"] * len(image.names)]],
            "chip": [image.path.name for image in some for _ in range(1 + len(image.names))],
            "label": [name for image in some for name in [None, *image.names]],
        }
        yield gpd.GeoDataFrame(columns, geometry=np.concatenate(outlines), crs=crs)

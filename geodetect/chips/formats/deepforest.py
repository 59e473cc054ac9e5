"""DeepForest's CSV: a row for each box with its image, corners and class, in columns of various names.

The layout is described at https://deepforest.readthedocs.io/en/latest/user_guide/01_Reading_data.html; Roboflow
("Tensorflow Object Detection") and VoTT write the same under other names. An image without objects has a row of zeros
or blanks.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geodetect.addresses import expand_user, name_of
from geodetect.chips.formats.image import Box, Folder, Image, count, join_notes
from geodetect.chips.formats.listing import Listing
from geodetect.chips.formats.names import key, posix
from geodetect.chips.formats.text import parse_number, read_lines, read_text
from geodetect.errors import LabelsError, warn
from geodetect.facts import join_values
from geodetect.raster import RasterReader, Rasters, list_files
from geodetect.vector.opening import Vectors

LABELS = "labels.csv"
IMAGES = "images"
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_IMAGE = ("image_path", "img_path", "image", "filename", "file_name")
_CLASS = ("label", "class")
_DELIMITERS = ",;\t"  # spreadsheets write semicolons where the decimal comma is usual


def recognises(listing: Listing) -> bool:
    """Return whether some CSV of the folder has columns for an image and four corners."""
    return any(_is_label(path) for path in listing.sample(".csv"))


def _is_label(path: Path) -> bool:
    lines = read_lines(path)[:1]
    header = lines[0].text if lines else ""
    columns = {name.strip(' "').lower() for name in header.split(_delimiter(header))}
    return set(_SIDES) <= columns and not columns.isdisjoint(_IMAGE)


def _delimiter(header: str) -> str:
    return max(_DELIMITERS, key=header.count)


def read(listing: Listing) -> Folder:
    """Read the images that the folder's CSV files list and that exist.

    Raises:
        LabelsError: if there is no such CSV, corners are no numbers, or two files differ about an image.
    """
    paths = [path for path in listing.with_suffix(".csv") if _is_label(path)]
    if not paths:
        raise LabelsError(f"{listing.root} holds no CSV with columns image_path, {', '.join(_SIDES)} and label")
    found: list[Image] = []
    n_absent = 0
    for path in paths:
        images = _read_csv(path)
        files = listing.locate(images, path)
        found += [replace(images[name], path=file) for name, file in files.items()]
        n_absent += len(images) - len(files)
    kept, note = listing.merge(found)
    return Folder.of(kept, join_notes(count(n_absent, "images listed that do not exist"), note))


def _read_csv(path: Path) -> dict[str, Image]:
    """Read the images that a CSV lists, by their names in it, whether they exist or not.

    Raises:
        LabelsError: if a row is no box.
    """
    text = read_text(path).lstrip()
    table = csv.reader(io.StringIO(text), delimiter=_delimiter(text.partition("\n")[0]))
    boxes: dict[str, list[Box]] = defaultdict(list)
    shapes: dict[str, tuple[int, int] | None] = {}
    try:
        columns = [name.strip().lower() for name in next(table)]
        for values in table:
            row = dict(zip(columns, (value.strip() for value in values), strict=False))
            if name := _first_value(row, _IMAGE):
                corners = [parse_number(row[side]) for side in _SIDES] if any(map(row.get, _SIDES)) else []
                sides = [int(parse_number(row[side])) for side in ("height", "width") if row.get(side)]
                shapes.setdefault(name, (sides[0], sides[1]) if len(sides) == 2 and all(sides) else None)  # noqa: PLR2004
                if any(corners):
                    boxes[name].append(Box(_first_value(row, _CLASS) or "object", corners))
    except (KeyError, ValueError) as error:
        raise LabelsError(
            f"line {table.line_num} of {path} is no box: expected numbers for {', '.join(_SIDES)}; got {error}"
        ) from error
    except csv.Error as error:
        raise LabelsError(f"line {table.line_num} of {path} cannot be read as CSV: {error}") from error
    return {name: Image.of(Path(posix(name)), boxes[name], path, shape=shape) for name, shape in shapes.items()}


def _first_value(row: dict[str, str], names: Sequence[str]) -> str:
    """Return the value of the first of these columns that exists."""
    return next((row[name] for name in names if name in row), "")


def on_map(labels: Vectors, raster: Rasters) -> Vectors:
    """Return the boxes of DeepForest's CSV as polygons on the map; any other labels as they are.

    Args:
        labels: of the raster. A box belongs to the file of the same name, in any folder and with any suffix.
        raster: its grid is that of the boxes' pixels.

    Raises:
        LabelsError: if no file of the raster is listed.
    """
    path = Path(expand_user(labels)) if isinstance(labels, str | Path) else Path()
    if not (path.suffix.lower() == ".csv" and path.is_file() and _is_label(path)):
        return labels
    files, name = list_files(raster)
    by_key = {key(name_of(file)): file for file in files}
    images = _read_csv(path).values()
    there = [image for image in images if key(image.path.name) in by_key]
    absent = join_values(image.path.name for image in images if image not in there)
    if not there:
        raise LabelsError(f"{path.name} lists boxes of {absent or 'no image'}; got {name}, give the raster it lists")
    if absent:
        warn(f"{path.name} also lists boxes of {absent}, which are ignored; give those rasters too to use them")
    frames: list[gpd.GeoDataFrame] = []
    for image in there:
        with RasterReader(by_key[key(image.path.name)]) as reader:
            grid = reader.grid
        scale = np.divide(grid.shape, image.shape or grid.shape)[::-1]
        boxes = shapely.transform(shapely.box(*(image.xyxy * np.tile(scale, 2)).T), grid.in_plane().to_map)
        frame = gpd.GeoDataFrame({"label": image.names}, geometry=boxes, crs=grid.crs)
        frames.append(frame.to_crs(frames[0].crs) if frames and frames[0].crs is not None else frame)
    return pd.concat(frames, ignore_index=True)


def render(folder: Folder) -> Iterator[tuple[str, str]]:
    """Yield `labels.csv`; its images are relative to it."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([_IMAGE[0], *_SIDES, _CLASS[0]])
    for image in folder.images:
        name = f"{IMAGES}/{image.path.name}"
        for corners, label in zip(image.xyxy.tolist(), image.names, strict=True):
            table.writerow([name, *corners, label])
        if not len(image.names):
            table.writerow([name, 0, 0, 0, 0, folder.classes[0]])
    yield LABELS, text.getvalue()

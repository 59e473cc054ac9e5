"""One way into every vector file: a frame with geometry, or one sentence that says why not."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import geopandas as gpd
import pandas as pd
import pyogrio
import shapely
from geopandas import GeoDataFrame

from geodetect.addresses import expanded, is_url, matches, name_of
from geodetect.errors import LabelsError, first_line, harmless
from geodetect.vector.literal import literal_source
from geodetect.vector.outputs import SEARCHED

_PARQUET = {".parquet", ".geoparquet", ".pq"}
# What GDAL, GEOS, PROJ and Arrow raise on bad files; pyogrio's and PROJ's own are RuntimeErrors.
_UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, OverflowError, shapely.errors.ShapelyError)
_VECTOR = {".geojson", ".json", ".gpkg", ".shp", ".fgb", ".kml", ".gml", *_PARQUET}  # what is taken from a folder
_FOLDERS = {".gdb", *_PARQUET}  # that are one source, and not a folder of files
_CSV_OPTIONS = {
    "GEOM_POSSIBLE_NAMES": "geometry,wkt,geom,the_geom",
    "X_POSSIBLE_NAMES": "x,lon,long,longitude,easting",
    "Y_POSSIBLE_NAMES": "y,lat,latitude,northing",
    "KEEP_GEOM_COLUMNS": "NO",
    "AUTODETECT_TYPE": "YES",
}


@dataclass(frozen=True, eq=False)
class Features:
    """Features as they were found.

    Args:
        frame: their geometry and columns, in whatever CRS.
        name: what messages call them.
        stem: the file's name without its suffix; None for a frame.
        note: what of the file was not read; empty when all was.
        files: where several files were read together, each of them, in the order of the frame's rows.
    """

    frame: GeoDataFrame
    name: str
    stem: str | None = None
    note: str = ""
    files: tuple[Features, ...] = ()


Vectors: TypeAlias = str | Path | GeoDataFrame | Sequence[str | Path]
"""Features: a vector file, a frame, or several files as a list, a folder of them or a pattern."""


def open_features(source: Vectors, what: str = "labels") -> Features:
    """The features of a file or frame, unchanged; those of several files together, in the CRS of the first.

    Args:
        source: any vector file that GDAL reads, GeoParquet, CSV with WKT or coordinates, a frame, or several files.
        what: what messages call a frame.

    Raises:
        LabelsError: if there is no such file, or no geometry in it.
    """
    if isinstance(source, GeoDataFrame):
        return _checked(source, f"the frame of {what}")
    files = files_of(source, what)
    if len(files) == 1:
        return _opened(files[0])
    found = [_opened(file) for file in files]
    if isinstance(source, str | Path):  # a folder or a pattern: files of one kind, whose names say where, not what
        return _together([replace(each, stem=None) for each in found], name_of(source))
    return _together(found, f"{found[0].name} and {len(found) - 1} more")


def files_of(source: str | Path | Sequence[str | Path], what: str = "labels") -> list[str]:
    """The files named, those of a folder, or those that a pattern fits.

    Args:
        source: a vector file, a folder, a pattern, or several files.
        what: what messages call them.

    Raises:
        LabelsError: if there are none.
    """
    if isinstance(source, str | Path):
        if source == "":
            raise LabelsError(f"{what} are expected as a vector file; got an empty name")
        source = expanded(source)
        path = Path(source)
        inside = path.iterdir() if path.is_dir() and path.suffix.lower() not in _FOLDERS else []
        found = sorted(str(file) for file in inside if file.suffix.lower() in _VECTOR)
        return found or ([] if os.path.exists(path) else matches(source)) or [source]
    if not (isinstance(source, Sequence) and source and all(isinstance(file, str | Path) for file in source)):
        raise LabelsError(
            f"{what} are expected as a vector file, several in a list, or a GeoDataFrame; got {type(source).__name__}"
        )
    return [expanded(file) for file in source]


def _opened(source: str) -> Features:
    """The features of one file."""
    path = Path(name_of(source))
    if not os.path.exists(source) and not is_url(source):
        raise LabelsError(f"There is no file {source}; check the name and the folder")
    try:
        with warnings.catch_warnings():
            # pyogrio warns of odd fields, rings and measures that it mends or leaves out; we count what is lost.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="pyogrio")
            warnings.filterwarnings("ignore", category=UserWarning, module="pyogrio")
            frame, note = _read(source, path.suffix.lower())
    except _UNREADABLE as error:
        # GDAL's advice is on drivers, which nobody chose here.
        reason = first_line(error).split("; It might help")[0].rstrip(".")
        raise LabelsError(f"{path.name} cannot be read as a vector file: {reason}") from harmless(error)
    return _checked(frame, path.name, path.stem, note)


def _together(features: list[Features], name: str) -> Features:
    """The features of several files as one frame.

    Raises:
        LabelsError: if only some have a CRS.
    """
    crs = features[0].frame.crs
    for each in features:
        if (each.frame.crs is None) != (crs is None):
            raise LabelsError(
                f"{features[0].name} and {each.name} are to be read together, and only one of them has a coordinate "
                "reference system; assign one to both (ogr2ogr -a_srs)"
            )
    moved = [each.frame if crs is None else each.frame.to_crs(crs) for each in features]
    frames = [GeoDataFrame(frame.drop(columns=frame.geometry.name), geometry=frame.geometry.array) for frame in moved]
    notes = dict.fromkeys(each.note for each in features if each.note)
    return Features(pd.concat(frames, ignore_index=True), name, None, "; ".join(notes), tuple(features))


def _checked(frame: GeoDataFrame, name: str, stem: str | None = None, note: str = "") -> Features:
    """The features, if the frame has geometry at all."""
    if not isinstance(frame, GeoDataFrame) or frame.active_geometry_name is None:
        raise LabelsError(f"{name} has no geometry; polygons or points are expected")
    return Features(frame, name, stem, note)


def _read(path: str, suffix: str) -> tuple[GeoDataFrame, str]:
    """The first layer with geometry, and a note when there are more."""
    if suffix in _PARQUET:
        return gpd.read_parquet(os.path.abspath(path) if os.path.exists(path) else path), ""
    path = literal_source(path)
    options = _CSV_OPTIONS if suffix == ".csv" else {}
    layers = pyogrio.list_layers(path)
    if not len(layers):
        raise ValueError("it holds no layers")
    # CSV is said to be without geometry until it is opened with the options that find it.
    placed = [str(name) for name, kind in layers if kind is not None] or [str(layers[0][0])]
    if len(placed) > 1:  # the ground that was searched lies beside what was found there
        placed = [name for name in placed if name != SEARCHED]
    note = f"read layer {placed[0]} of {', '.join(placed)}" if len(placed) > 1 else ""
    return gpd.read_file(path, engine="pyogrio", layer=placed[0], **options), note

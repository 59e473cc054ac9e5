"""Reading of vector files in any format, and of frames."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile, ZipFile

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj.exceptions import ProjError

from geodetect.addresses import glob_files, is_url, name_of
from geodetect.errors import ArgumentError, LabelsError, first_line, harmless, warn
from geodetect.vector.features import Features
from geodetect.vector.layers import VectorFile
from geodetect.vector.literal import escape_path

_PARQUET = {".parquet", ".geoparquet", ".pq"}
# What GDAL, GEOS, PROJ and Arrow raise on bad files; pyogrio's and PROJ's own are RuntimeErrors.
_UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, OverflowError, shapely.errors.ShapelyError)
_VECTOR = {".geojson", ".json", ".gpkg", ".shp", ".fgb", ".kml", ".gml", *_PARQUET}  # taken from a folder
_FOLDERS = {".gdb", *_PARQUET}  # that are one source, and not a folder of files
_CSV_OPTIONS = {
    "GEOM_POSSIBLE_NAMES": "geometry,wkt,geom,the_geom",
    "X_POSSIBLE_NAMES": "x,lon,long,longitude,easting",
    "Y_POSSIBLE_NAMES": "y,lat,latitude,northing",
    "KEEP_GEOM_COLUMNS": "NO",
    "AUTODETECT_TYPE": "YES",
}
_NAMED = 3  # features that a warning names
_SIDES = {"xmin", "ymin", "xmax", "ymax"}  # columns of boxes in pixels, as DeepForest has them


Vectors: TypeAlias = str | Path | GeoDataFrame | GeoSeries | Sequence[str | Path]
"""Features: a vector file, a frame, or several files as a list, a folder of them or a pattern.

A file may name its layer as QGIS does: `roofs.gpkg|layername=2024`.
"""

Area: TypeAlias = Vectors | shapely.Geometry | Sequence[float]
"""An area of interest: features, or a geometry or (x1, y1, x2, y2) in the CRS of the raster."""


def open_features(source: Vectors, what: str = "labels", layer: str | int | None = None) -> Features:
    """Read the features of a file or frame, unchanged; those of several files together, in the CRS of the first.

    Args:
        source: any vector file that GDAL reads, GeoParquet, CSV with WKT or coordinates, a frame, or several files.
        what: what messages call them.
        layer: name, or number from 0, of the layer to read of each file; None: as the file's name gives it, else the
            first with features, with a warning if there are more.

    Raises:
        LabelsError: if there is no such file or layer, or no geometry in it.
        ArgumentError: if `layer` is given for a frame, or impossible.
    """
    if isinstance(source, GeoDataFrame | GeoSeries):
        if layer is not None:
            raise ArgumentError(f"layer={layer!r} cannot be applied to a frame of {what}; it is for files")
        frame = source if isinstance(source, GeoDataFrame) else GeoDataFrame(geometry=source)
        return _check(Features(frame, f"the frame of {what}"))
    found = [_open(file) for file in _find_files(source, what, layer)]
    if len(found) == 1:
        return found[0]
    if isinstance(source, str | Path):  # a folder or a pattern: files of one kind, whose names say where, not what
        return _join([replace(each, stem=None) for each in found], name_of(source))
    return _join(found, f"{found[0].name} and {len(found) - 1} more")


def list_paths(source: Area | None) -> list[str]:
    """Return the files that features are read from; none for frames, geometries and numbers."""
    several = source if isinstance(source, list | tuple) else [source]
    return [file.path for each in several if isinstance(each, str | Path) for file in _find_files(each)]


def _find_files(source: Any, what: str = "labels", layer: str | int | None = None) -> list[VectorFile]:
    """Return the files named, those of a folder, or those that match a pattern.

    Args:
        source: a vector file, a folder, a pattern, or several files.
        what: what messages call them.
        layer: the layer to read of each.

    Raises:
        LabelsError: if it names no files.
        ArgumentError: if the layer is impossible.
    """
    if isinstance(source, str | Path):
        if str(source) == "":
            raise LabelsError(f"{what} must be a vector file; got an empty name")
        named = VectorFile.parse(source, layer)
        path = Path(named.path)
        # A folder may also be a file geodatabase, or anything else that GDAL takes for one source.
        inside = path.iterdir() if path.is_dir() and path.suffix.lower() not in _FOLDERS else []
        found = sorted(str(file) for file in inside if file.suffix.lower() in _VECTOR)
        found = found or ([] if os.path.exists(path) else glob_files(named.path)) or [named.path]
        return [replace(named, path=each) for each in found]
    if not (isinstance(source, Sequence) and source and all(isinstance(file, str | Path) for file in source)):
        raise LabelsError(
            f"{what} must be a vector file, several in a list, or a GeoDataFrame; got {type(source).__name__}"
        )
    return [VectorFile.parse(file, layer) for file in source]


def _open(file: VectorFile) -> Features:
    path = Path(name_of(file.path))
    if not os.path.exists(file.path) and not is_url(file.path):
        raise LabelsError(f"There is no file {file.path}; check the name and the folder")
    try:
        # Coordinates that are no numbers are counted later, so shapely's warnings of them are not needed.
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            # pyogrio warns of odd fields, rings and measures that it mends or leaves out; we count the losses.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="pyogrio")
            warnings.filterwarnings("ignore", category=UserWarning, module="pyogrio")
            frame, note = _read(file, path)
    except UnicodeDecodeError as error:
        raise LabelsError(f"{path.name} is not in UTF-8 ({error}); save it anew as UTF-8") from harmless(error)
    except _UNREADABLE as error:
        # GDAL's advice is on drivers, which users do not choose here.
        reason = first_line(error).split("; It might help")[0].rstrip(".")
        inside = _list_zip(file.path, _VECTOR)
        advice = f"; give one of the files in it, such as /vsizip/{file.path}/{inside[0]}" if inside else ""
        raise LabelsError(f"{path.name} cannot be read as a vector file: {reason}{advice}") from harmless(error)
    return _check(Features(frame, path.name, path.stem, note))


def _read(file: VectorFile, path: Path) -> tuple[GeoDataFrame, str]:
    """Read a file that messages call `path`; return its features and a note of layers that were not read."""
    suffix = path.suffix.lower()
    if suffix in _PARQUET:
        if file.layer is not None or file.where is not None:
            raise LabelsError(f"{path.name} has no layers, as no Parquet file has; leave the layer out")
        return gpd.read_parquet(os.path.abspath(file.path) if os.path.exists(file.path) else file.path), ""
    options: dict[str, Any] = dict(_CSV_OPTIONS) if suffix == ".csv" else {}
    number, note = file.find_layer()
    options |= {"engine": "pyogrio", "layer": number, "where": file.where}
    source = escape_path(file.path)
    if suffix == ".kmz" and len(inside := _list_zip(source, {".kml"})) == 1:
        source = f"/vsizip/{source}/{inside[0]}"  # GDAL drops its columns when it opens the archive
    try:
        frame = gpd.read_file(source, **options)
        if suffix == ".shp" and not Path(file.path).with_suffix(".cpg").exists() and _is_misread(frame):
            frame = gpd.read_file(source, encoding="UTF-8", **options)
        return frame, note
    except shapely.errors.GEOSException as error:
        frame = gpd.read_file(source, on_invalid="ignore", **options)
        gone = np.flatnonzero(frame.geometry.isna()) + 1
        numbers = f"{', '.join(map(str, gone[:_NAMED]))}{', ...' if len(gone) > _NAMED else ''}"
        warn(
            f"{path.name}: left out {len(gone):,} of {len(frame):,} features without a geometry that can be read "
            f"({first_line(error)}), counting from 1: {numbers}; repair or delete them"
        )
        return frame, note


def _is_misread(frame: GeoDataFrame) -> bool:
    """Return whether texts in UTF-8 were taken for Latin-1, as happens to a shapefile that has lost its .cpg."""
    texts = {text for column in frame.select_dtypes(["object", "string"]) for text in frame[column].dropna().unique()}
    foreign = [text for text in texts if isinstance(text, str) and not text.isascii()]
    try:
        return bool([text.encode("latin-1").decode() for text in foreign])
    except UnicodeError:
        return False


def _list_zip(path: str, suffixes: Collection[str]) -> list[str]:
    """Return the files with these suffixes in a zip archive; none for any other file."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, BadZipFile):
        return []
    return [n for n in names if Path(n).suffix.lower() in suffixes and not n.startswith("__MACOSX")]


def _join(features: list[Features], name: str) -> Features:
    """Join the features of several files in one frame.

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
    try:
        with np.errstate(invalid="ignore"):
            moved = [each.frame if crs is None else each.frame.to_crs(crs) for each in features]
    except ProjError as error:
        raise LabelsError(f"{name} cannot be brought into one coordinate reference system: {error}") from error
    frames = [GeoDataFrame(frame.drop(columns=frame.geometry.name), geometry=frame.geometry.array) for frame in moved]
    notes = dict.fromkeys(each.note for each in features if each.note)
    return Features(pd.concat(frames, ignore_index=True), name, None, "; ".join(notes), tuple(features))


def _check(features: Features) -> Features:
    """Return features whose frame has geometry and no two columns of one name.

    Raises:
        LabelsError: if it has not.
    """
    frame, name = features.frame, features.name
    if not isinstance(frame, GeoDataFrame) or frame.active_geometry_name is None:
        in_pixels = _SIDES <= {str(column).lower() for column in frame.columns}
        boxes = "; its boxes are in pixels, which only prepare_data and export_training_data bring to the map"
        raise LabelsError(f"{name} has no geometry; polygons or points are expected{boxes if in_pixels else ''}")
    again = frame.columns[frame.columns.duplicated()]
    if frame.columns.nlevels > 1 or len(again):
        which = f"two columns named {again[0]!r}" if len(again) else "columns in several levels"
        raise LabelsError(f"{name} has {which}; give every column a name of its own")
    return features

"""Features out, in every format, complete under their name or not there at all."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from geopandas import GeoDataFrame
from pyproj import CRS
from pyproj.exceptions import ProjError

from geodetect.errors import OutputError
from geodetect.paths import expanded
from geodetect.vector.qgis import add_style

_WGS84 = CRS.from_epsg(4326)
_DEGREES = {".geojson", ".kml"}  # formats whose standards know no other CRS
_DRIVERS: dict[str, tuple[str, dict[str, str]]] = {
    ".gpkg": ("GPKG", {}),
    # 7 decimals are a centimetre: https://datatracker.ietf.org/doc/html/rfc7946#section-11.2
    ".geojson": ("GeoJSON", {"COORDINATE_PRECISION": "7"}),
    # GDAL would go on beyond 2 GB, to where other programs cannot read on.
    ".shp": ("ESRI Shapefile", {"ENCODING": "UTF-8", "2GB_LIMIT": "YES"}),
    ".fgb": ("FlatGeobuf", {}),
    ".kml": ("KML", {}),
}
_SHAPEFILE_PARTS = (".cpg", ".prj", ".qix", ".sbn", ".sbx", ".fix", ".qpj", ".shp.xml")  # what others may have left
_KML_NAME = "Name"  # GDAL makes the name of a KML placemark of the column of this name
_SUFFIXES = (*_DRIVERS, ".parquet", ".csv")
_FAILURES = (RuntimeError, ValueError, OSError, sqlite3.Error, pa.ArrowException, shapely.errors.ShapelyError)
_TYPES = {"i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "b": pa.bool_()}  # all else is written as text


def check_output(path: str | Path) -> Path:
    """The path, if features can be written there; meant to be asked before hours of work.

    Raises:
        OutputError: if the suffix is unknown, or the folder is missing or closed to us.
    """
    path = expanded(Path(path))
    if path.suffix.lower() not in _SUFFIXES:
        raise OutputError(f"{path.name} should end in one of {' '.join(_SUFFIXES)}; got {path.suffix or 'no suffix'!r}")
    return check_place(path)


def check_place(path: Path) -> Path:
    """The path, if a file of any format can be written there.

    Raises:
        OutputError: if it is a folder, or its own is missing or closed to us.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} into; make it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to; choose another or change its permissions")
    return path


def write_features(
    features: GeoDataFrame | Iterable[GeoDataFrame],
    path: str | Path,
    *,
    workplace: Path | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """The features in a file, in the format of its suffix.

    GeoJSON and KML are in WGS 84, all others in the features' CRS. Without a CRS nothing is said of one.

    Args:
        features: a frame; or frames of polygons with the same columns and CRS, which are never held all at once.
        path: `.gpkg .geojson .shp .fgb .parquet .kml .csv`; an existing file is replaced.
        workplace: a folder on the same disk for what is not complete; None: a hidden one beside the file.
        about: facts to tell with the features, as JSON holds them, where the format has a place: GeoPackage
            (metadata of the layer) and GeoParquet (of the file), both under the name `geodetect`.

    Returns:
        `path`.

    Raises:
        OutputError: if it cannot be written, or the format cannot hold the features; then nothing is left behind.
    """
    path = check_output(path)
    frames = iter([features] if isinstance(features, GeoDataFrame) else features)
    first = next(frames, None)
    first = nothing(None) if first is None else first
    if first.crs is None and path.suffix.lower() == ".kml":
        raise OutputError(
            f"KML is in WGS 84 by definition, and these features have no CRS; write {path.stem}.gpkg instead"
        )
    try:
        with tempfile.TemporaryDirectory(dir=workplace or path.parent, prefix=".") as folder:
            part = Path(folder) / path.name
            _write(first, chain([first], frames), part, {"geodetect": json.dumps(about)} if about else {})
            _publish(part, path)
    except _FAILURES as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise OutputError(f"{path} cannot be written: {reason}") from error
    return path


def nothing(crs: Any) -> GeoDataFrame:
    """No features: a frame without rows, with the columns `label` and `score`."""
    columns = {"label": np.zeros(0, dtype=str), "score": np.zeros(0)}
    return gpd.GeoDataFrame(columns, geometry=np.zeros(0, dtype=object), crs=crs)


def _write(first: GeoDataFrame, frames: Iterable[GeoDataFrame], part: Path, about: dict[str, str]) -> None:
    """The frames in one file, whose format its suffix says."""
    suffix = part.suffix.lower()
    crs = first.crs and (_WGS84 if suffix in _DEGREES else first.crs)
    kind = _geometry_type(first)
    schema = _schema(first, name_field=suffix == ".kml")
    tables = (_table(frame, schema, crs, kind) for frame in frames)
    if suffix == ".csv":
        _write_csv(tables, schema, part)
    elif suffix == ".parquet":
        _write_parquet(tables, schema.with_metadata(about), part, crs, kind)
    else:
        _write_layer(tables, schema.with_metadata(about), part, crs, kind)


def _geometry_type(frame: GeoDataFrame) -> str:
    """The one type that all geometries can be written as; polygons where there are none."""
    kinds = set(frame.geom_type.dropna()) or {"Polygon"}
    if len(kinds) == 1:
        return str(kinds.pop())
    return "MultiPolygon" if kinds == {"Polygon", "MultiPolygon"} else "Unknown"


def _schema(frame: GeoDataFrame, *, name_field: bool) -> pa.Schema:
    """The columns of a frame, its geometry last; with `name_field` the label once more, as KML's name."""
    columns = [str(name) for name in frame.columns if name != frame.active_geometry_name]
    columns.sort(key=lambda name: {"label": 0, "score": 1}.get(name, 2))  # others keep their order
    fields = [(name, _TYPES.get(frame[name].dtype.kind, pa.string())) for name in columns]
    named = [(_KML_NAME, pa.string())] if name_field and "label" in columns and _KML_NAME not in columns else []
    wkb = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
    return pa.schema([*named, *fields, wkb])


def _table(frame: GeoDataFrame, schema: pa.Schema, crs: CRS | None, kind: str) -> pa.Table:
    """A frame in the CRS and types of the file."""
    geometry = shapely.force_2d(np.asarray(_in_crs(frame, crs).geometry.array, dtype=object))
    if kind == "MultiPolygon":
        single = shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON
        geometry[single] = shapely.multipolygons(geometry[single][:, None])
    named = frame if _KML_NAME in frame.columns or "label" not in frame.columns else frame.assign(Name=frame["label"])
    arrays = [_column(named[field.name], field.type) for field in list(schema)[:-1]]
    return pa.table([*arrays, pa.array(shapely.to_wkb(geometry), pa.binary())], schema=schema)


def _in_crs(frame: GeoDataFrame, crs: CRS | None) -> GeoDataFrame:
    """The frame in this CRS.

    Raises:
        OutputError: if some of it cannot be expressed there.
    """
    if crs is None or frame.crs == crs:
        return frame
    try:
        moved = frame.to_crs(crs)
    except ProjError as error:
        raise OutputError(f"the features cannot be brought from {frame.crs.name} into {crs.name}: {error}") from error
    if not np.isfinite(moved.total_bounds).all() and len(moved):
        raise OutputError(
            f"some features have no place in {crs.name}, which this format asks for; write a .gpkg instead"
        )
    return moved


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    """A column of a frame as the file holds it; missing values stay missing."""
    missing = values.isna().to_numpy()
    if kind == pa.string():
        return pa.array([None if gone else str(value) for value, gone in zip(values, missing, strict=True)], kind)
    return pa.array(values.to_numpy(), kind, mask=missing)


def _write_layer(tables: Iterator[pa.Table], schema: pa.Schema, part: Path, crs: CRS | None, kind: str) -> None:
    """One layer, through GDAL, in a stream."""
    driver, options = _DRIVERS[part.suffix.lower()]
    if driver == "GeoJSON" and crs is not None:
        options = options | {"RFC7946": "YES"}  # right-hand rings, and no `crs` member
    raised: list[BaseException] = []
    batches = pa.RecordBatchReader.from_batches(schema, _batches(tables, raised))
    with warnings.catch_warnings(), _as_raised(raised):
        # "'crs' was not provided": the features have none, and the file says as much.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        pyogrio.write_arrow(
            batches,
            part,
            driver=driver,
            geometry_name="geometry",
            geometry_type=kind,
            crs=crs and crs.to_wkt(),
            layer_options=options,
            layer_metadata=_texts(schema) if driver == "GPKG" else None,
        )
    if driver == "KML":
        _check_kml(part)
    if driver == "GPKG":
        add_style(part)


def _texts(schema: pa.Schema) -> dict[str, str] | None:
    """The metadata of a schema, as GDAL takes them."""
    return {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()} or None


def _check_kml(part: Path) -> None:
    """Refuses a file that breaks off: alone of GDAL's drivers, KML's does not notice a full disk.

    Raises:
        OSError: if the end is missing.
    """
    with part.open("rb") as file:
        file.seek(-min(64, part.stat().st_size), os.SEEK_END)
        if b"</kml>" not in file.read():
            raise OSError("it broke off before its end; the disk may be full")


def _batches(tables: Iterator[pa.Table], raised: list[BaseException]) -> Iterator[pa.RecordBatch]:
    """The tables in Arrow's smaller units; what goes wrong on the way is put into `raised`."""
    try:
        for table in tables:
            yield from table.to_batches()
    except BaseException as error:
        raised.append(error)
        raise


@contextmanager
def _as_raised(raised: list[BaseException]) -> Iterator[None]:
    """Raises what was put into `raised`: of an error in a stream GDAL says only that there was one."""
    try:
        yield
    except RuntimeError as error:
        if raised:
            raise raised[0] from error
        raise


def _write_csv(tables: Iterator[pa.Table], schema: pa.Schema, part: Path) -> None:
    """Text with the geometry as WKT, in as many digits as it has."""
    with part.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(schema.names) + "\n")
        for table in tables:
            frame = table.to_pandas()
            frame["geometry"] = shapely.to_wkt(shapely.from_wkb(frame["geometry"]), rounding_precision=-1)
            frame.to_csv(file, header=False, index=False)


def _write_parquet(tables: Iterator[pa.Table], schema: pa.Schema, part: Path, crs: CRS | None, kind: str) -> None:
    """GeoParquet 1.0: https://geoparquet.org/releases/v1.0.0/."""
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [] if kind == "Unknown" else [kind]}
    # "If the field is not provided, the default value is OGC:CRS84"; null says that it is unknown.
    column["crs"] = crs and crs.to_json_dict()
    about = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = schema.with_metadata({**(schema.metadata or {}), b"geo": json.dumps(about).encode()})
    with pq.ParquetWriter(part, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))


def _publish(part: Path, path: Path) -> None:
    """All that was written beside `part` under its own name, in place of an older file of that name.

    The main file comes last: where it is, all of it is.
    """
    written = {file.name for file in part.parent.iterdir()}
    for name in sorted(written - {part.name}):
        os.replace(part.with_name(name), path.with_name(name))
    os.replace(part, path)
    if path.suffix.lower() == ".shp":
        for suffix in _SHAPEFILE_PARTS:
            stale = path.with_suffix(suffix)
            if stale.name not in written:
                stale.unlink(missing_ok=True)

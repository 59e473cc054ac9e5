"""Features out, in every format, complete under their name or not there at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import tempfile
import warnings
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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

from geodetect.errors import OutputError, first_line
from geodetect.files import through_links
from geodetect.vector.degrees import cut_at_180
from geodetect.vector.literal import literal_folder
from geodetect.vector.outputs import SEARCHED, check_output, layer_name, publish
from geodetect.vector.qgis import add_style

WGS84 = CRS.from_epsg(4326)
DEGREES = {".geojson", ".kml"}  # formats whose standards know no other CRS
_DRIVERS: dict[str, tuple[str, dict[str, str]]] = {
    ".gpkg": ("GPKG", {}),
    # 7 decimals are a centimetre: https://datatracker.ietf.org/doc/html/rfc7946#section-11.2
    ".geojson": ("GeoJSON", {"COORDINATE_PRECISION": "7"}),
    # GDAL would go on beyond 2 GB, to where other programs cannot read on.
    ".shp": ("ESRI Shapefile", {"ENCODING": "UTF-8", "2GB_LIMIT": "YES"}),
    ".fgb": ("FlatGeobuf", {}),
    ".kml": ("KML", {}),
}
_KML_NAME = "Name"  # GDAL makes the name of a KML placemark of the column of this name
_FAILURES = (RuntimeError, ValueError, OSError, sqlite3.Error, pa.ArrowException, shapely.errors.ShapelyError)
_TYPES = {"i": pa.int64(), "u": pa.int64(), "f": pa.float64(), "b": pa.bool_()}  # all else is written as text
_NO_UNICODE = re.compile("[\ud800-\udfff]")
# Nor XML, or a text that ends with NUL, holds these: https://www.w3.org/TR/xml/#charsets
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")
_LITTLE_BYTES = 1 << 20  # of a disk that counts as full: GDAL takes away what it had begun
_DBF_TEXT_BYTES, _DBF_NAME_BYTES = 254, 10


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of a file, as the file holds it.

    Args:
        path: what messages call the file; its suffix says the format.
        schema: its columns, the geometry last.
        crs: that of its geometry; None for none.
        kind: the one type of its geometry, `Unknown` where there are several.
        about: facts to tell with it, as JSON holds them.
    """

    path: Path
    schema: pa.Schema
    crs: CRS | None
    kind: str
    about: Mapping[str, Any]

    @classmethod
    def of(cls, first: GeoDataFrame, path: Path, about: Mapping[str, Any]) -> _Layer:
        """The layer of frames like the first."""
        in_degrees = path.suffix.lower() in DEGREES
        # A box across the antimeridian becomes two where the standard asks for degrees.
        kind = "Unknown" if in_degrees else _geometry_type(first)
        schema = _schema(first, name_field=path.suffix.lower() == ".kml")
        return cls(path, schema, first.crs and (WGS84 if in_degrees else first.crs), kind, about)

    def table(self, frame: GeoDataFrame) -> pa.Table:
        """A frame in the CRS and types of the layer."""
        geometry = shapely.force_2d(np.asarray(_in_crs(frame, self.crs).geometry.array, dtype=object))
        if self.crs is not None and self.path.suffix.lower() in DEGREES:
            geometry = cut_at_180(geometry, reprojected=frame.crs != self.crs)
        if self.kind == "MultiPolygon":
            single = shapely.get_type_id(geometry) == shapely.GeometryType.POLYGON
            geometry[single] = shapely.multipolygons(geometry[single][:, None])
        named = _KML_NAME in frame.columns or "label" not in frame.columns
        frame = frame if named else frame.assign(**{_KML_NAME: frame["label"]})
        arrays = [self._column(frame[field.name], field.type) for field in list(self.schema)[:-1]]
        return pa.table([*arrays, pa.array(shapely.to_wkb(geometry), pa.binary())], schema=self.schema)

    def _column(self, values: Any, kind: pa.DataType) -> pa.Array:
        """A column of a frame as the file holds it; missing values stay missing."""
        missing = values.isna().to_numpy()
        if kind != pa.string():
            return pa.array(values.to_numpy(), kind, mask=missing)
        texts = [None if gone else str(value) for value, gone in zip(values, missing, strict=True)]
        check_texts(filter(None, set(texts)), self.path)
        return pa.array(texts, kind)


def check_texts(texts: Iterable[str], path: Path | None) -> None:
    """Refuse texts that would not come back from a file as they are.

    Args:
        texts: such as the classes of a model.
        path: the file, whose suffix says the format; None for a frame, which holds all that Unicode is.

    Raises:
        OutputError: if there is one.
    """
    name, unfit = ("a frame", _NO_UNICODE) if path is None else (path.name, _UNFIT)
    for text in texts:
        if unfit.search(text):
            raise OutputError(f"{name} cannot hold the text {text!r:.80}, which has control characters; rename it")
        if path is not None and path.suffix.lower() == ".shp" and len(text.encode()) > _DBF_TEXT_BYTES:
            raise OutputError(
                f"a text of {len(text.encode()):,} bytes ({text[:40]!r}...) is too long for a shapefile, which holds "
                f"{_DBF_TEXT_BYTES}; write {path.stem}.gpkg instead"
            )


def _check_columns(frame: GeoDataFrame, path: Path) -> None:
    """Refuse names of columns that would not come back as they are, or that libraries take for one another.

    Raises:
        OutputError: if there are any.
    """
    names = [str(name) for name in frame.columns]
    check_texts(names, path)
    twins = [name for name, n in Counter(map(str.casefold, names)).items() if n > 1]
    if twins:
        raise OutputError(f"{path.name} cannot hold several columns named {twins[0]!r}, in capitals or not; rename one")
    cut = [name for name in names if not name.isascii() and len(name.encode()) > _DBF_NAME_BYTES]
    if cut and path.suffix.lower() == ".shp":
        raise OutputError(
            f"the column {cut[0]!r} takes {len(cut[0].encode())} bytes, and a shapefile cuts names to "
            f"{_DBF_NAME_BYTES}; rename it, or write {path.stem}.gpkg instead"
        )


def write_features(
    features: GeoDataFrame | Iterable[GeoDataFrame],
    path: str | Path,
    *,
    workplace: Path | None = None,
    about: Mapping[str, Any] | None = None,
    searched: shapely.Geometry | None = None,
) -> Path:
    """The features in a file, in the format of its suffix.

    GeoJSON and KML are in WGS 84, all others in the features' CRS. Without a CRS nothing is said of one.

    Args:
        features: a frame; or frames of polygons with the same columns and CRS, which are never held all at once.
        path: `.gpkg .geojson .shp .fgb .parquet .kml .csv`; an existing file is replaced, and where it is a symbolic
            link, the file that it leads to.
        workplace: a folder on the same disk for what is not complete; None: a hidden one beside the file.
        about: facts to tell with the features, under the name `geodetect`: in the metadata of a GeoPackage's layer, of
            GeoParquet and of FlatGeobuf, and as a member of GeoJSON. The other formats have no place for them.
        searched: the ground where the features were looked for, in their CRS: WKT among the facts, and a layer of a
            GeoPackage.

    Returns:
        `path`.

    Raises:
        OutputError: if it cannot be written, or the format cannot hold the features; then nothing is left behind.
    """
    path = check_output(path)
    suffix, target = path.suffix.lower(), through_links(path)
    frames = iter([features] if isinstance(features, GeoDataFrame) else features)
    first = next(frames, None)
    first = nothing(None) if first is None else first
    if first.crs is None and suffix == ".kml":
        raise OutputError(
            f"KML is in WGS 84 by definition, and these features have no CRS; write {path.stem}.gpkg instead"
        )
    _check_columns(first, path)
    layer = _Layer.of(first, path, {**(about or {}), **({} if searched is None else {SEARCHED: searched.wkt})})
    try:
        with _workplace(workplace or target.parent) as folder, _naming_a_full_disk(folder):
            part = folder / f"part{suffix}"
            _write(layer, map(layer.table, chain([first], frames)), part)
            if suffix == ".gpkg":
                _add_searched(part, searched, first.crs)
                add_style(part)
            publish(part, target)
    except _FAILURES as error:
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error
    return path


@contextmanager
def _workplace(beside: Path) -> Iterator[Path]:
    """A hidden folder in another, under a name that GDAL takes literally; it goes with its content."""
    with tempfile.TemporaryDirectory(dir=beside, prefix=".") as folder, literal_folder(Path(folder)) as plain:
        yield plain


@contextmanager
def _naming_a_full_disk(folder: Path) -> Iterator[None]:
    """Say that a full disk is the reason: GDAL's drivers do not, and SQLite's misses its own tables then.

    Raises:
        OSError: instead of what failed for it.
    """
    try:
        yield
    except _FAILURES:
        if shutil.disk_usage(folder).free < _LITTLE_BYTES:
            raise OSError("the disk is full") from None
        raise


def nothing(crs: Any) -> GeoDataFrame:
    """No features: a frame without rows, with the columns `label` and `score`."""
    columns = {"label": np.zeros(0, dtype=str), "score": np.zeros(0)}
    return gpd.GeoDataFrame(columns, geometry=np.zeros(0, dtype=object), crs=crs)


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


def _write(layer: _Layer, tables: Iterator[pa.Table], part: Path) -> None:
    """The tables in one file, whose format its suffix says."""
    about = {"geodetect": json.dumps(layer.about)} if layer.about else {}
    if part.suffix == ".csv":
        _write_csv(layer, tables, part)
    elif part.suffix == ".parquet":
        _write_parquet(layer, tables, part, about)
    else:
        _write_layer(layer, tables, part, about)


def _write_layer(layer: _Layer, tables: Iterator[pa.Table], part: Path, about: dict[str, str]) -> None:
    """One layer, through GDAL, in a stream."""
    driver, options = _DRIVERS[part.suffix]
    if driver == "GeoJSON":
        # Right-hand rings, and no `crs` member.
        options = options | ({} if layer.crs is None else {"RFC7946": "YES"}) | _foreign_members(layer.about)
    raised: list[BaseException] = []
    batches = pa.RecordBatchReader.from_batches(layer.schema, _batches(tables, raised))
    with warnings.catch_warnings(), _as_raised(raised):
        # "'crs' was not provided": the features have none, and the file says as much.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        # KML makes an identifier of the name.
        warnings.filterwarnings("ignore", message="Layer name .* adjusted", category=RuntimeWarning)
        pyogrio.write_arrow(
            batches,
            part,
            layer=layer_name(layer.path),
            driver=driver,
            geometry_name="geometry",
            geometry_type=layer.kind,
            crs=layer.crs and layer.crs.to_wkt(),
            layer_options=options,
            layer_metadata=about if driver in ("GPKG", "FlatGeobuf") and about else None,
        )
    if driver == "KML":
        _check_kml(part)


def _foreign_members(about: Mapping[str, Any]) -> dict[str, str]:
    """Options by which GDAL adds facts to a GeoJSON collection: https://gdal.org/drivers/vector/geojson.html."""
    if not about:
        return {}
    members = json.dumps({"type": "FeatureCollection", "geodetect": about})
    return {"NATIVE_DATA": members, "NATIVE_MEDIA_TYPE": "application/vnd.geo+json"}


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
    except RuntimeError:
        if raised:
            raise raised[0] from None
        raise


def _add_searched(part: Path, searched: shapely.Geometry | None, crs: CRS | None) -> None:
    """Add the layer of the ground that was searched, if it is known, to a GeoPackage."""
    if searched is None:
        return
    polygons = shapely.get_parts(searched)
    ground = gpd.GeoDataFrame(geometry=[shapely.multipolygons(polygons)] if len(polygons) else [], crs=crs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        pyogrio.write_dataframe(ground, part, layer=SEARCHED, geometry_type="MultiPolygon", append=True)


def _write_csv(layer: _Layer, tables: Iterator[pa.Table], part: Path) -> None:
    """Text with the geometry as WKT, in as many digits as it has, in a column of the name that GDAL knows it by.

    It begins with a byte order mark if it is not all ASCII: Excel reads it in the encoding of the system without one.
    """
    ascii_alone = True
    with part.open("w", encoding="utf-8", newline="") as file:
        for number, table in enumerate(tables):
            frame = table.to_pandas()
            frame["geometry"] = shapely.to_wkt(shapely.from_wkb(frame["geometry"]), rounding_precision=-1)
            text = frame.rename(columns={"geometry": "WKT"}).to_csv(header=number == 0, index=False)
            ascii_alone = ascii_alone and text.isascii()
            file.write(text)
    if not ascii_alone:
        unmarked = part.rename(part.with_name("unmarked.csv"))
        with unmarked.open("rb") as source, part.open("wb") as target:
            target.write(BOM_UTF8)
            shutil.copyfileobj(source, target)
        unmarked.unlink()


def _write_parquet(layer: _Layer, tables: Iterator[pa.Table], part: Path, about: dict[str, str]) -> None:
    """GeoParquet 1.0: https://geoparquet.org/releases/v1.0.0/."""
    column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [] if layer.kind == "Unknown" else [layer.kind]}
    # "If the field is not provided, the default value is OGC:CRS84"; null says that it is unknown.
    column["crs"] = layer.crs and layer.crs.to_json_dict()
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = layer.schema.with_metadata({**about, "geo": json.dumps(geo)})
    with pq.ParquetWriter(part, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema))

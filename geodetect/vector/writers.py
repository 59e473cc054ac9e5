"""Writing of features in every format; a file appears under its name once it is complete."""

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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from geopandas import GeoDataFrame
from pyproj import CRS
from pyproj.exceptions import ProjError

from geodetect.errors import OutputError, first_line
from geodetect.files import follow_link
from geodetect.vector.geometry import cut_at_180
from geodetect.vector.literal import escape_folder
from geodetect.vector.outputs import SEARCHED, check_output, name_layer, publish
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
_LITTLE_BYTES = 1 << 20  # free on a disk that counts as full: GDAL removes what it had begun
_DBF_TEXT_BYTES, _DBF_NAME_BYTES = 254, 10


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer of a file, as the file holds it.

    Args:
        path: what messages call the file; its suffix says the format.
        schema: its columns, the geometry last.
        crs: of its geometry; None without one.
        kind: the one type of its geometry, `Unknown` where there are several.
        about: facts to store with it, as JSON.
    """

    path: Path
    schema: pa.Schema
    crs: CRS | None
    kind: str
    about: Mapping[str, Any]

    @classmethod
    def of(cls, first: GeoDataFrame, path: Path, about: Mapping[str, Any]) -> _Layer:
        """Return the layer of frames like the first.

        Raises:
            OutputError: if the file would not return a column's name as it is, or libraries take two for one another.
        """
        suffix, names = path.suffix.lower(), [str(name) for name in first.columns]
        check_texts(names, path)
        twins = [name for name, n in Counter(map(str.casefold, names)).items() if n > 1]
        if twins:
            raise OutputError(
                f"{path.name} cannot hold several columns named {twins[0]!r}, in capitals or not; rename one"
            )
        cut = [name for name in names if not name.isascii() and len(name.encode()) > _DBF_NAME_BYTES]
        if cut and suffix == ".shp":
            raise OutputError(
                f"the column {cut[0]!r} takes {len(cut[0].encode())} bytes, and a shapefile cuts names to "
                f"{_DBF_NAME_BYTES}; rename it, or write {path.stem}.gpkg instead"
            )
        kinds = set(first.geom_type.dropna()) or {"Polygon"}
        if suffix in DEGREES:  # a box across the antimeridian becomes two there
            kind = "Unknown"
        elif len(kinds) == 1:
            kind = str(kinds.pop())
        else:
            kind = "MultiPolygon" if kinds == {"Polygon", "MultiPolygon"} else "Unknown"
        columns = [str(name) for name in first.columns if name != first.active_geometry_name]
        columns.sort(key=lambda name: {"label": 0, "score": 1}.get(name, 2))  # others keep their order
        fields = [(name, _TYPES.get(first[name].dtype.kind, pa.string())) for name in columns]
        if suffix == ".kml" and "label" in columns and _KML_NAME not in columns:
            fields.insert(0, (_KML_NAME, pa.string()))
        wkb = pa.field("geometry", pa.binary(), metadata={"ARROW:extension:name": "geoarrow.wkb"})
        crs = first.crs and (WGS84 if suffix in DEGREES else first.crs)
        return cls(path, pa.schema([*fields, wkb]), crs, kind, about)

    def table(self, frame: GeoDataFrame) -> pa.Table:
        """Return a frame in the CRS and types of the layer.

        Raises:
            OutputError: if some of it has no place in the CRS.
        """
        moved = frame
        if self.crs is not None and frame.crs != self.crs:
            try:
                moved = frame.to_crs(self.crs)
            except ProjError as error:
                raise OutputError(
                    f"the features cannot be brought from {frame.crs.name} into {self.crs.name}: {error}"
                ) from error
            if len(moved) and not np.isfinite(moved.total_bounds).all():
                raise OutputError(
                    f"some features have no place in {self.crs.name}, which this format asks for; write a .gpkg instead"
                )
        geometry = shapely.force_2d(np.asarray(moved.geometry.array, dtype=object))
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
        """Return a column of a frame as the file holds it; missing values stay missing."""
        missing = values.isna().to_numpy()
        if kind != pa.string():
            return pa.array(values.to_numpy(), kind, mask=missing)
        texts = [None if gone else str(value) for value, gone in zip(values, missing, strict=True)]
        check_texts(filter(None, set(texts)), self.path)
        return pa.array(texts, kind)

    def write(self, frames: Iterable[GeoDataFrame], part: Path) -> None:
        """Write frames to a file, one after another."""
        write = {".csv": self._write_csv, ".parquet": self._write_parquet}.get(part.suffix, self._write_gdal)
        write(map(self.table, frames), part)

    def add_searched(self, part: Path, searched: shapely.Geometry) -> None:
        """Add the layer of the ground that was searched to a GeoPackage."""
        polygons = shapely.get_parts(searched)
        ground = GeoDataFrame(geometry=[shapely.multipolygons(polygons)] if len(polygons) else [], crs=self.crs)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
            pyogrio.write_dataframe(ground, part, layer=SEARCHED, geometry_type="MultiPolygon", append=True)

    def _write_gdal(self, tables: Iterator[pa.Table], part: Path) -> None:
        """Write one layer as a stream through GDAL."""
        driver, options = _DRIVERS[part.suffix]
        about = {"geodetect": json.dumps(self.about)} if self.about else None
        if driver == "GeoJSON":
            # Right-hand rings, and no `crs` member.
            options = options | ({} if self.crs is None else {"RFC7946": "YES"})
            if self.about:  # https://gdal.org/drivers/vector/geojson.html
                members = json.dumps({"type": "FeatureCollection", "geodetect": self.about})
                options |= {"NATIVE_DATA": members, "NATIVE_MEDIA_TYPE": "application/vnd.geo+json"}
        raised: list[BaseException] = []  # GDAL says only that there was an error in a stream

        def batches() -> Iterator[pa.RecordBatch]:
            """Yield the tables in batches, and keep the error that ends them."""
            try:
                for table in tables:
                    yield from table.to_batches()
            except BaseException as error:  # Ctrl-C too, which GDAL would hide as well
                raised.append(error)
                raise

        with warnings.catch_warnings():
            # "'crs' was not provided": the features have none, and neither has the file.
            warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
            # KML makes an identifier of the name.
            warnings.filterwarnings("ignore", message="Layer name .* adjusted", category=RuntimeWarning)
            try:
                pyogrio.write_arrow(
                    pa.RecordBatchReader.from_batches(self.schema, batches()),
                    part,
                    layer=name_layer(self.path),
                    driver=driver,
                    geometry_name="geometry",
                    geometry_type=self.kind,
                    crs=self.crs and self.crs.to_wkt(),
                    layer_options=options,
                    layer_metadata=about if driver in ("GPKG", "FlatGeobuf") else None,
                )
            except RuntimeError:
                if raised:
                    raise raised[0] from None
                raise
        if driver == "KML":  # alone of GDAL's drivers, it does not notice a full disk
            with part.open("rb") as file:
                file.seek(-min(64, part.stat().st_size), os.SEEK_END)
                if b"</kml>" not in file.read():
                    raise OSError("it broke off before its end; the disk may be full")

    def _write_csv(self, tables: Iterator[pa.Table], part: Path) -> None:
        """Write text with the geometry as WKT, in as many digits as it has, in the column where GDAL looks for it.

        It begins with a byte order mark unless all of it is ASCII: without one Excel reads it in the system's encoding.
        """
        is_ascii = True
        with part.open("w", encoding="utf-8", newline="") as file:
            for number, table in enumerate(tables):
                frame = table.to_pandas()
                frame["geometry"] = shapely.to_wkt(shapely.from_wkb(frame["geometry"]), rounding_precision=-1)
                text = frame.rename(columns={"geometry": "WKT"}).to_csv(header=number == 0, index=False)
                is_ascii = is_ascii and text.isascii()
                file.write(text)
        if not is_ascii:
            unmarked = part.rename(part.with_name("unmarked.csv"))
            with unmarked.open("rb") as source, part.open("wb") as target:
                target.write(BOM_UTF8)
                shutil.copyfileobj(source, target)
            unmarked.unlink()

    def _write_parquet(self, tables: Iterator[pa.Table], part: Path) -> None:
        """Write GeoParquet 1.0: https://geoparquet.org/releases/v1.0.0/."""
        column: dict[str, Any] = {"encoding": "WKB", "geometry_types": [] if self.kind == "Unknown" else [self.kind]}
        # "If the field is not provided, the default value is OGC:CRS84"; null says that it is unknown.
        column["crs"] = self.crs and self.crs.to_json_dict()
        geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
        about = {"geodetect": json.dumps(self.about)} if self.about else {}
        schema = self.schema.with_metadata({**about, "geo": json.dumps(geo)})
        with pq.ParquetWriter(part, schema) as writer:
            for table in tables:
                writer.write_table(table.cast(schema))


def check_texts(texts: Iterable[str], path: Path | None) -> None:
    """Raise if a string would not survive being written to the file and read back.

    Args:
        texts: such as class names.
        path: the file, whose suffix says the format; None for a frame, which holds any valid Unicode.

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


def write_features(
    features: GeoDataFrame | Iterable[GeoDataFrame],
    path: str | Path,
    *,
    workplace: Path | None = None,
    about: Mapping[str, Any] | None = None,
    searched: shapely.Geometry | None = None,
) -> Path:
    """Write features to a file, in the format of its suffix.

    GeoJSON and KML are in WGS 84, all others in the features' CRS, if they have one.

    Args:
        features: a frame; or frames of polygons with the same columns and CRS, which are never held all at once.
        path: `.gpkg .geojson .shp .fgb .parquet .kml .csv`; an existing file is replaced, and where it is a symbolic
            link, the file that it leads to.
        workplace: a folder on the same disk for incomplete files; None: a hidden one beside the file.
        about: facts to store with the features, under the name `geodetect`: in the metadata of a GeoPackage's layer,
            of GeoParquet and of FlatGeobuf, and as a member of GeoJSON. The other formats have no place for them.
        searched: the ground that was searched for the features, in their CRS: WKT among the facts, and a layer of a
            GeoPackage.

    Returns:
        `path`.

    Raises:
        OutputError: if it cannot be written, or the format cannot hold the features; then nothing is left behind.
    """
    path = check_output(path)
    suffix, target = path.suffix.lower(), follow_link(path)
    frames = iter([features] if isinstance(features, GeoDataFrame) else features)
    first = next(frames, None)
    if first is None:
        columns = {"label": np.zeros(0, dtype=str), "score": np.zeros(0)}
        first = GeoDataFrame(columns, geometry=np.zeros(0, dtype=object))
    if first.crs is None and suffix == ".kml":
        raise OutputError(
            f"KML is in WGS 84 by definition, and these features have no CRS; write {path.stem}.gpkg instead"
        )
    layer = _Layer.of(first, path, {**(about or {}), **({} if searched is None else {SEARCHED: searched.wkt})})
    try:
        with _make_workplace(workplace or target.parent) as folder:
            part = folder / f"part{suffix}"
            layer.write(chain([first], frames), part)
            if suffix == ".gpkg":
                if searched is not None:
                    layer.add_searched(part, searched)
                add_style(part)
            publish(part, target)
    except _FAILURES as error:
        raise OutputError(f"{path} cannot be written: {first_line(error)}") from error
    return path


@contextmanager
def _make_workplace(beside: Path) -> Iterator[Path]:
    """Make a hidden folder in another, under a name that GDAL takes literally; remove it with its content.

    Raises:
        OSError: in place of another failure if the disk is full: GDAL's drivers do not say so, and SQLite's misses its
            own tables then.
    """
    with tempfile.TemporaryDirectory(dir=beside, prefix=".") as folder, escape_folder(Path(folder)) as plain:
        try:
            yield plain
        except _FAILURES:
            if shutil.disk_usage(plain).free < _LITTLE_BYTES:
                raise OSError("the disk is full") from None
            raise

"""One way into every vector file: a frame with geometry, or one sentence that says why not."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import pyogrio
import shapely
from geopandas import GeoDataFrame

from geodetect.errors import LabelsError

_PARQUET = {".parquet", ".geoparquet", ".pq"}
# What GDAL, GEOS, PROJ and Arrow raise on bad files; pyogrio's and PROJ's own are RuntimeErrors.
_UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, OverflowError, shapely.errors.ShapelyError)
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
    """

    frame: GeoDataFrame
    name: str
    stem: str | None = None
    note: str = ""


def open_features(source: str | Path | GeoDataFrame, what: str = "labels") -> Features:
    """The features of a file or frame, unchanged.

    Args:
        source: any vector file that GDAL reads, GeoParquet, CSV with WKT or coordinates, or a frame.
        what: what messages call a frame.

    Raises:
        LabelsError: if there is no such file, or no geometry in it.
    """
    if isinstance(source, GeoDataFrame):
        return _checked(source, f"the frame of {what}")
    if not isinstance(source, str | Path):
        raise LabelsError(f"{what} are expected as a vector file or a GeoDataFrame; got {type(source).__name__}")
    path = Path(source)
    if not path.exists() and "://" not in str(source) and not str(source).startswith("/vsi"):
        raise LabelsError(f"There is no file {source}; check the name and the folder")
    try:
        with warnings.catch_warnings():
            # pyogrio warns of odd fields, rings and measures that it mends or leaves out; we count what is lost.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module="pyogrio")
            warnings.filterwarnings("ignore", category=UserWarning, module="pyogrio")
            frame, note = _read(str(source), path.suffix.lower())
    except _UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = reason.split("; It might help")[0].rstrip(".")  # advice on GDAL's drivers, which nobody chose here
        raise LabelsError(f"{path.name} cannot be read as a vector file: {reason}") from error
    return _checked(frame, path.name, path.stem, note)


def _checked(frame: GeoDataFrame, name: str, stem: str | None = None, note: str = "") -> Features:
    """The features, if the frame has geometry at all."""
    if not isinstance(frame, GeoDataFrame) or frame.active_geometry_name is None:
        raise LabelsError(f"{name} has no geometry; polygons or points are expected")
    return Features(frame, name, stem, note)


def _read(path: str, suffix: str) -> tuple[GeoDataFrame, str]:
    """The first layer with geometry, and a note when there are more."""
    if suffix in _PARQUET:
        return gpd.read_parquet(path), ""
    options = _CSV_OPTIONS if suffix == ".csv" else {}
    layers = pyogrio.list_layers(path)
    if not len(layers):
        raise ValueError("it holds no layers")
    # CSV is said to be without geometry until it is opened with the options that find it.
    placed = [str(name) for name, kind in layers if kind is not None] or [str(layers[0][0])]
    note = f"read layer {placed[0]} of {', '.join(placed)}" if len(placed) > 1 else ""
    return gpd.read_file(path, engine="pyogrio", layer=placed[0], **options), note

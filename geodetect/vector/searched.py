"""The ground that was searched, as `write_features` and `detect_objects` record it in files and frames."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import shapely
from geopandas import GeoDataFrame, GeoSeries
from pyproj import CRS
from pyproj.exceptions import ProjError

from geodetect.addresses import name_of
from geodetect.vector.literal import escape_path
from geodetect.vector.opening import Vectors, list_paths
from geodetect.vector.outputs import SEARCHED

_HEAD = 1 << 16  # characters of a GeoJSON file that are read at once
_MEMBER, _FEATURES = '"geodetect":', '"features"'
_UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, pa.ArrowException, shapely.errors.ShapelyError, ProjError)


def read_searched_ground(detections: Vectors) -> GeoSeries | None:
    """Return the ground that was searched for detections, as one geometry in its own CRS; None if it is not recorded.

    Args:
        detections: a frame that `detect_objects` returned, or a part of it; a file that it wrote; or several files,
            all of which must record it.
    """
    if isinstance(detections, GeoDataFrame):
        return _parse_facts(detections.attrs)
    grounds = [_read_ground(path) for path in list_paths(detections)]
    if len(grounds) == 1:
        return grounds[0]
    known = [ground for ground in grounds if ground is not None]
    if not known or len(known) < len(grounds) or len({ground.crs for ground in known}) > 1:
        return None
    return GeoSeries([pd.concat(known).union_all()], crs=known[0].crs)


def _read_ground(path: str) -> GeoSeries | None:
    """Return the ground that one file records; None for an unreadable file, which the reading of features reports."""
    suffix, source = Path(name_of(path)).suffix.lower(), escape_path(path)
    try:
        if suffix in (".geojson", ".json"):
            return _parse_facts(_read_member(path))
        if suffix == ".gpkg":
            if SEARCHED not in pyogrio.list_layers(source)[:, 0]:
                return None
            ground = gpd.read_file(source, layer=SEARCHED, engine="pyogrio").geometry
            return GeoSeries([ground.union_all()], crs=ground.crs)
        if suffix == ".parquet":
            with open(path, "rb") as file:
                text = (pq.read_schema(file).metadata or {}).get(b"geodetect")
        else:
            text = (pyogrio.read_info(source).get("layer_metadata") or {}).get("geodetect")
        return _parse_facts(json.loads(text) if text else {})
    except _UNREADABLE:
        return None


def _read_member(path: str) -> Mapping[str, Any]:
    """Read our member of a GeoJSON file, which comes before its features; those are not read."""
    text = ""
    with open(path, encoding="utf-8") as file:
        while more := file.read(_HEAD):
            text += more
            _, found, rest = text.partition(_MEMBER)
            if not found and _FEATURES in text:
                break
            with suppress(ValueError):  # it goes on beyond what was read
                facts: Mapping[str, Any] = json.JSONDecoder().raw_decode(rest.lstrip())[0]
                return facts
    return {}


def _parse_facts(facts: Mapping[str, Any]) -> GeoSeries | None:
    """Return the ground among facts, in the CRS of the raster."""
    if not isinstance(facts.get(SEARCHED), str):
        return None
    crs = facts.get("crs")
    return GeoSeries(shapely.from_wkt([facts[SEARCHED]]), crs=None if crs is None else CRS.from_user_input(crs))

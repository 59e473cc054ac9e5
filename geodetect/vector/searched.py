"""The ground that detections say was searched, wherever `write_features` and `detect_objects` have put it."""

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
from geodetect.vector.literal import literal_source
from geodetect.vector.opening import Vectors, vector_paths
from geodetect.vector.outputs import SEARCHED

_HEAD = 1 << 16  # characters of a GeoJSON file that are looked through at once
_MEMBER, _FEATURES = '"geodetect":', '"features"'
_UNREADABLE = (RuntimeError, ValueError, TypeError, OSError, pa.ArrowException, shapely.errors.ShapelyError, ProjError)


def searched_ground(detections: Vectors) -> GeoSeries | None:
    """The ground where detections were looked for, as one geometry in its own CRS; None where they do not say.

    Args:
        detections: a frame that `detect_objects` gave, or what is left of it; a file that it wrote; or several files,
            of which all have to say.
    """
    if isinstance(detections, GeoDataFrame):
        return _of_facts(detections.attrs)
    grounds = [_of_file(path) for path in vector_paths(detections)]
    if len(grounds) == 1:
        return grounds[0]
    known = [ground for ground in grounds if ground is not None]
    if not known or len(known) < len(grounds) or len({ground.crs for ground in known}) > 1:
        return None
    return GeoSeries([pd.concat(known).union_all()], crs=known[0].crs)


def _of_file(path: str) -> GeoSeries | None:
    """What one file says of it; None for what cannot be read, which is told where the features are."""
    suffix = Path(name_of(path)).suffix.lower()
    try:
        if suffix == ".gpkg":
            return _of_layer(literal_source(path))
        return _of_facts(_facts(path, suffix))
    except _UNREADABLE:
        return None


def _of_layer(path: str) -> GeoSeries | None:
    """The layer of a GeoPackage that holds it."""
    if SEARCHED not in pyogrio.list_layers(path)[:, 0]:
        return None
    ground = gpd.read_file(path, layer=SEARCHED, engine="pyogrio").geometry
    return GeoSeries([ground.union_all()], crs=ground.crs)


def _facts(path: str, suffix: str) -> Mapping[str, Any]:
    """What geodetect has told with the features of a file; nothing where it has not written it."""
    if suffix in (".geojson", ".json"):
        return _member(path)
    if suffix == ".parquet":
        with open(path, "rb") as file:
            told = (pq.read_schema(file).metadata or {}).get(b"geodetect")
    else:
        told = (pyogrio.read_info(literal_source(path)).get("layer_metadata") or {}).get("geodetect")
    facts: Mapping[str, Any] = json.loads(told) if told else {}
    return facts


def _member(path: str) -> Mapping[str, Any]:
    """The foreign member of a GeoJSON file, which stands before its features; those are not read."""
    text = ""
    with open(path, encoding="utf-8") as file:
        while more := file.read(_HEAD):
            text += more
            _, found, told = text.partition(_MEMBER)
            if not found and _FEATURES in text:
                break
            with suppress(ValueError):  # there is more of it to read
                facts: Mapping[str, Any] = json.JSONDecoder().raw_decode(told.lstrip())[0]
                return facts
    return {}


def _of_facts(facts: Mapping[str, Any]) -> GeoSeries | None:
    """The ground among facts, which are in the CRS of the raster."""
    if not isinstance(facts.get(SEARCHED), str):
        return None
    crs = facts.get("crs")
    return GeoSeries(shapely.from_wkt([facts[SEARCHED]]), crs=None if crs is None else CRS.from_user_input(crs))

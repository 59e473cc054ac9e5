"""Detections and truth as they lie on the map, for comparing one with the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from geopandas import GeoDataFrame

from geodetect.vector.opening import open_features


def read_features(source: str | Path | GeoDataFrame, crs: Any = None) -> GeoDataFrame:
    """The features of a vector file or frame, with all their columns, in their own CRS.

    Args:
        source: any vector file that `read_labels` takes, or a frame, which is not changed.
        crs: what they are in when they do not say, as CSV never does; None leaves it open.

    Raises:
        LabelsError: if there is no such file, or no geometry in it.
    """
    frame = open_features(source, "features").frame
    return frame.set_crs(crs) if frame.crs is None and crs is not None else frame

"""Boxes in pixels of a raster, as a CSV lists them, brought to where that raster lies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from geodetect.addresses import expand_user, name_of
from geodetect.chips.formats import deepforest
from geodetect.chips.formats.names import key
from geodetect.chips.formats.picture import Picture
from geodetect.errors import LabelsError, warn
from geodetect.facts import listed
from geodetect.raster import RasterReader, Rasters, files_of
from geodetect.vector.opening import Vectors


def on_map(labels: Vectors, raster: Rasters) -> Vectors:
    """Return the boxes of DeepForest's CSV as polygons on the map; any other labels as they are.

    Args:
        labels: of the raster. Which of its files a box is on is told by the file's name, whatever the folder or suffix.
        raster: its grid is what the pixels of the boxes are in.

    Raises:
        LabelsError: if no file of the raster is listed.
    """
    path = Path(expand_user(labels)) if isinstance(labels, str | Path) else Path()
    if not (path.suffix.lower() == ".csv" and path.is_file() and deepforest.is_list_of_boxes(path)):
        return labels
    files, name = files_of(raster)
    by_key = {key(name_of(file)): file for file in files}
    pictures = deepforest.pictures_of(path)
    there = [picture for picture in pictures if key(picture.path.name) in by_key]
    absent = listed(picture.path.name for picture in pictures if picture not in there)
    if not there:
        raise LabelsError(f"{path.name} lists boxes of {absent or 'no picture'}; got {name}, give the raster it lists")
    if absent:
        warn(f"{path.name} lists boxes of {absent} too, which are left out; give those rasters as well to use them")
    return _together([_placed(picture, by_key[key(picture.path.name)]) for picture in there])


def _placed(picture: Picture, file: str) -> gpd.GeoDataFrame:
    """The boxes of a picture in the CRS of the raster that it is."""
    with RasterReader(file) as reader:
        grid = reader.grid
    scale = np.divide(grid.shape, picture.shape or grid.shape)[::-1]
    boxes = shapely.transform(shapely.box(*(picture.xyxy * np.tile(scale, 2)).T), grid.in_plane().to_map)
    return gpd.GeoDataFrame({"label": picture.names}, geometry=boxes, crs=grid.crs)


def _together(frames: Sequence[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    crs = frames[0].crs
    return pd.concat([frame if crs is None else frame.to_crs(crs) for frame in frames], ignore_index=True)

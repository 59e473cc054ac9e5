"""`show`: a scene and its features, as a figure.

Shapes: C bands, H W pixels, V corners of an outline.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from jaxtyping import Float
from matplotlib.figure import Figure

from geodetect import memory, plots
from geodetect.colours import OUTCOMES, class_colours
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, is_whole
from geodetect.grid import Grid, Tiling, Window
from geodetect.raster import RasterReader
from geodetect.vector.areas import read_area
from geodetect.vector.features import Features
from geodetect.vector.opening import Area, Vectors, open_features
from geodetect.windows import Windows

_LONGER_SIDE = 1_600  # pixels of the image; a screen shows no more
_SMALL_SHARE = 0.025  # of the longer side of the image; smaller outlines are too small to judge
_DETAIL_SHARE = 0.2  # of the longer side of the image, which is enlarged if objects are small
_POINT_SHARE = 0.006  # of the longer side too: radius of the circle that replaces a point
_JPEG_SIDE = 65_500  # pixels that libjpeg takes at most: https://github.com/libjpeg-turbo/libjpeg-turbo jmorecfg.h
_IMAGE_BYTES = 24  # of a pixel: three values of float64
_WINDOW_VALUES = 1 << 24  # read at once if a raster is thinned out
_NO_CLASS = "no class"
_NO_DATA = 0.93  # the grey of pixels that are not valid
_OUTCOMES = {"TP": "TP, right", "FP": "FP, wrong", "FN": "FN, missed"}


class _Part(NamedTuple):
    """A part of a raster: pixels (C, H, W), which of them are valid (H, W), and their grid."""

    pixels: np.ndarray
    valid: np.ndarray
    grid: Grid

    def to_rgb(self, limits: np.ndarray) -> np.ndarray:
        """Return the pixels as an RGB image, light grey where they are not valid."""
        rgb = plots.to_rgb(self.pixels, limits)
        rgb[~self.valid] = _NO_DATA
        return rgb


def show(
    raster: str | Path,
    features: Vectors | None = None,
    *,
    label_field: str | None = None,
    classes: Sequence[str] | None = None,
    min_score: float | None = None,
    aoi: Area | None = None,
    bands: Sequence[int | str] | None = None,
    title: str = "",
) -> Figure:
    """Draw a scene, at the resolution of a screen, with the outlines of features in the colours of their classes.

    The features of an `Accuracy` are coloured by their outcome instead. If objects are small, the part with
    most of them is enlarged beside the scene, and the scores are written there if they are few.

    Args:
        raster: the scene. Bytes are shown as they are, other types from the 2nd to the 98th percentile of each band.
        features: detections, labels, or the features of an `Accuracy`, in any CRS; points become small circles.
        label_field: column of the features' class; None takes `label` if there is one.
        classes: all class names, in the order that gives them their colours, such as a model's; None: those of
            the features, sorted.
        min_score: features with a lower score are not drawn.
        aoi: only its bounds are shown: a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the
            raster's.
        bands: three bands to show as red, green and blue, or one as grey, counted from 1 or by name; None: the first
            ones.
        title: title of the figure.

    Raises:
        GeodetectError: if a file cannot be read, or the features do not lie on the raster.
    """
    with RasterReader(raster, bands=bands) as reader:
        own = reader.grid
        scene = _read_part(reader, _locate(own, aoi))
    grid, marks = scene.grid, plots.Marks()
    if features is not None:
        marks = _make_marks(open_features(features, "features"), own, grid, label_field, classes)
    if min_score is not None and marks.scores is not None:
        marks = marks.select(np.flatnonzero(~(marks.scores < min_score)).tolist())
    limits = plots.compute_limits([scene.pixels])
    detail = None
    if marks.median_size < _SMALL_SHARE * max(grid.shape):
        corners = plots.find_fullest_part(grid.shape, marks.outlines, _DETAIL_SHARE * max(grid.shape))
        low, high = own.in_plane().to_pixel(grid.to_map(np.array(corners).reshape(2, 2)))
        with reader:
            closer = _read_part(reader, _round_out(own, *low, *high))
        low, high = grid.to_pixel(closer.grid.to_map(np.array([[0, 0], closer.grid.shape[::-1]], float)))
        detail = plots.Detail((*low, *high), closer.to_rgb(limits))
    side_m = _pixel_size_m(grid)
    ground = None if side_m is None else plots.Ground(side_m, grid.north)
    return plots.draw_scene(scene.to_rgb(limits), marks, title=title, ground=ground, detail=detail)


def render(raster: str | Path, *, longer_side: int) -> tuple[Float[np.ndarray, "H W 3"], Grid]:
    """Return a scene as an RGB image, 0 to 1, light grey where pixels are not valid; and the raster's own grid.

    Args:
        raster: the scene.
        longer_side: largest side of the image in pixels, 1 to 65,500; smaller rasters keep their size.

    Raises:
        ArgumentError: if the side is not possible, or the image would not fit into memory.
    """
    if not (is_whole(longer_side) and 1 <= longer_side <= _JPEG_SIDE):
        raise ArgumentError(
            f"the longer side of an image must be a whole number from 1 to {_JPEG_SIDE:,} pixels; got {longer_side!r}"
        )
    reader = RasterReader(raster)
    own = reader.grid
    n_pixels = math.prod(own.shape) / max(1.0, max(own.shape) / longer_side) ** 2
    what = f"an image of {own.name} with a side of {longer_side:,} px"
    memory.check_fits(math.ceil(_IMAGE_BYTES * n_pixels), what, "make that smaller")
    with reader:
        scene = _read_part(reader, _locate(own, None), longer_side)
    rgb = scene.to_rgb(plots.compute_limits([scene.pixels]))
    height, width, _ = rgb.shape
    # Pixels are not merged over more than the shorter side, so a strip may be longer still.
    return rgb[:: max(1, height // longer_side), :: max(1, width // longer_side)], own


def _locate(own: Grid, aoi: Area | None) -> Window:
    """Return the bounds of the area, or all of the raster, in its own pixels."""
    height, width = own.shape
    return Window(0, 0, width, height) if aoi is None else _round_out(own, *read_area(aoi, own).bounds)


def _round_out(grid: Grid, x1: float, y1: float, x2: float, y2: float) -> Window:
    """Return the window of the pixels that a rectangle touches, at least one."""
    height, width = grid.shape
    left, top = min(max(math.floor(x1), 0), width - 1), min(max(math.floor(y1), 0), height - 1)
    right, bottom = min(max(math.ceil(x2), left + 1), width), min(max(math.ceil(y2), top + 1), height)
    return Window(left, top, right - left, bottom - top)


def _read_part(reader: RasterReader, part: Window, longer_side: int = _LONGER_SIDE) -> _Part:
    """Read a part of the raster in at most so many pixels, which are square on the ground if it has a CRS.

    Without a CRS pixels have no size in metres to resample to; then every n-th is read.
    """
    own, coarser = reader.grid, max(1.0, max(part.width, part.height) / longer_side)
    side_m = _pixel_size_m(own)
    if side_m is not None:
        with reader.view(pixel_size_m=side_m * min(coarser, *own.shape)) as coarse:
            across, down = (n / m for n, m in zip(coarse.grid.shape[::-1], own.shape[::-1], strict=True))
            x1, y1, x2, y2 = part.xyxy
            window = _round_out(coarse.grid, x1 * across, y1 * down, x2 * across, y2 * down)
            return _Part(*coarse.read(window), coarse.grid.window(window))
    step = math.ceil(coarser)
    side = step * max(1, math.isqrt(_WINDOW_VALUES // reader.n_bands) // step)
    tiling = Tiling((part.height, part.width), side, 0, part.x, part.y)
    valid = np.zeros((-(-part.height // step), -(-part.width // step)), bool)
    pixels = np.zeros((reader.n_bands, *valid.shape), reader.dtype)
    for window in Windows.of([tiling], reader.footprints):
        x, y = window.x - part.x, window.y - part.y
        taken = np.s_[-y % step :: step, -x % step :: step]  # the last windows are moved back
        values, is_valid = (each[..., *taken] for each in reader.read(window))
        there = np.s_[-(-y // step) :, -(-x // step) :]
        height, width = is_valid.shape
        pixels[:, *there][:, :height, :width] = values
        valid[there][:height, :width] = is_valid
    plane = own.in_plane().window(part)
    transform = plane.known_transform @ Affine.scale(step)
    return _Part(pixels, valid, replace(plane, shape=valid.shape, transform=transform))


def _pixel_size_m(grid: Grid) -> float | None:
    """Return the side of a pixel in metres; None without a CRS."""
    try:
        return grid.pixel_size_m
    except NotGeoreferenced:
        return None


def _make_marks(
    features: Features, own: Grid, grid: Grid, label_field: str | None, classes: Sequence[str] | None
) -> plots.Marks:
    """Return the features in the image.

    Raises:
        LabelsError: if they are neither polygons nor points, or none lies on the raster.
    """
    parts, source = features.to_pixels(own)
    parts = shapely.transform(parts, lambda xy: grid.to_pixel(own.in_plane().to_map(xy)))
    kinds = shapely.get_type_id(parts)
    points = kinds == shapely.GeometryType.POINT
    if not (points | (kinds == shapely.GeometryType.POLYGON)).all():
        raise LabelsError(f"{features.name} holds geometries that are neither polygons nor points; leave them out")
    parts[points] = shapely.buffer(parts[points], _POINT_SHARE * max(grid.shape))
    seen = shapely.intersects(parts, shapely.box(0, 0, *grid.shape[::-1]))
    parts, source = parts[seen], source[seen]
    frame = features.frame
    if label_field is None and "outcome" in frame.columns and set(frame["outcome"]) <= set(_OUTCOMES):
        names = frame["outcome"].map(_OUTCOMES).to_numpy(object)
        colours = {_OUTCOMES[key]: colour for key, colour in OUTCOMES.items()}
    else:
        names = np.array([name or _NO_CLASS for name in features.class_names(label_field)], object)
        colours = class_colours([*(classes or ()), *sorted(set(names))])
    scores = pd.to_numeric(frame["score"], errors="coerce") if "score" in frame.columns else np.full(len(frame), np.nan)
    return plots.Marks(
        [shapely.get_coordinates(ring) for ring in shapely.get_exterior_ring(parts)],
        names[source].tolist(),
        np.asarray(scores, float)[source],
        colours,
        dashed=[_OUTCOMES["FN"]],
    )

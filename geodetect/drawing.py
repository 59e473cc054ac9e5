"""`show`: a scene and what lies on it, as a picture.

Shapes: C bands, H W pixels, V corners of an outline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import shapely
from affine import Affine
from jaxtyping import Float
from matplotlib.figure import Figure

from geodetect import memory, plots
from geodetect.errors import ArgumentError, LabelsError, NotGeoreferenced, is_whole
from geodetect.grid import Grid, Tiling, Window
from geodetect.raster import RasterReader
from geodetect.vector.classes import class_names
from geodetect.vector.labels import read_area
from geodetect.vector.opening import Area, Features, Vectors, open_features
from geodetect.vector.placing import pixel_parts
from geodetect.windows import Windows

_LONGER_SIDE = 1_600  # pixels of the picture; more is not seen on a screen
_SMALL_SHARE = 0.025  # of the longer side of the picture; an outline that is smaller is too small to judge
_DETAIL_SHARE = 0.2  # of the longer side of the picture, which is enlarged where objects are small
_POINT_SHARE = 0.006  # radius of the circle that a point is drawn as, likewise
_JPEG_SIDE = 65_500  # pixels that libjpeg takes at most: https://github.com/libjpeg-turbo/libjpeg-turbo jmorecfg.h
_PICTURE_BYTES = 24  # of a pixel: three numbers of float64
_WINDOW_VALUES = 1 << 24  # read at once of a raster that is thinned out
_NO_CLASS = "no class"
_NO_DATA = 0.93  # the grey of pixels that are not valid
_Pixels: TypeAlias = tuple[np.ndarray, np.ndarray, Grid]  # (C, H, W), which are valid (H, W), where they lie
_OUTCOMES = {"TP": "TP, right", "FP": "FP, wrong", "FN": "FN, missed"}


@dataclass(frozen=True, eq=False)
class _Marks:
    """What is drawn over the scene.

    Args:
        outlines: corners (V, 2) of each object, in pixels of the picture.
        labels: what each is.
        scores: (N,) of each, NaN for none.
        colours: of all labels, in the order of the legend.
    """

    outlines: Sequence[np.ndarray] = ()
    labels: Sequence[str] = ()
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))
    colours: Mapping[str, str] = field(default_factory=dict)

    def scoring(self, min_score: float | None) -> _Marks:
        """Those that score as much or have no score."""
        if min_score is None:
            return self
        kept = np.flatnonzero(~(self.scores < min_score)).tolist()
        return replace(
            self,
            outlines=[self.outlines[k] for k in kept],
            labels=[self.labels[k] for k in kept],
            scores=self.scores[kept],
        )

    def are_small(self, shape: tuple[int, int]) -> bool:
        """Whether most are too small to be judged in a picture of this height and width."""
        sizes = [np.ptp(each, axis=0).max() for each in self.outlines]
        return bool(sizes) and bool(np.median(sizes) < _SMALL_SHARE * max(shape))


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
    """A figure of a scene, no finer than a screen, with the outlines of features in the colours of their classes.

    The features of an `Accuracy` are coloured by their outcome instead. Where objects are small the part with
    most of them is enlarged beside the scene, and the scores are written there if they are few.

    Args:
        raster: the scene. Bytes are shown as they are, other numbers from the 2nd to the 98th percentile of each band.
        features: detections, labels, or the features of an `Accuracy`, in any CRS; points become small circles.
        label_field: column of the features' class; None takes `label` where there is one.
        classes: all class names, in the order that gives them their colours, such as a model's; None: those of
            the features, sorted.
        min_score: features that score less are not drawn.
        aoi: only its bounds are shown: a vector file or frame in any CRS, or a geometry or (x1, y1, x2, y2) in the
            raster's.
        bands: three bands to show as red, green and blue, or one as grey, counted from 1 or by name; None: the first
            ones.
        title: over the picture.

    Raises:
        GeodetectError: if a file cannot be read, or features and raster cannot be brought together.
    """
    with RasterReader(raster, bands=bands) as reader:
        own = reader.grid
        pixels, valid, grid = _read(reader, _part(own, aoi))
    marks = (
        _Marks() if features is None else _marks(open_features(features, "features"), own, grid, label_field, classes)
    )
    marks = marks.scoring(min_score)
    limits = plots.shown_limits([pixels])
    detail = None
    if marks.are_small(grid.shape):
        corners = plots.fullest_part(grid.shape, marks.outlines, _DETAIL_SHARE * max(grid.shape))
        with reader:
            closer, there, where = _read(reader, _within(own, grid, corners))
        low, high = grid.to_pixel(where.to_map(np.array([[0, 0], where.shape[::-1]], float)))
        detail = plots.Detail((*low, *high), _picture(closer, there, limits))
    return plots.scene_figure(
        _picture(pixels, valid, limits),
        marks.outlines,
        marks.labels,
        colours=marks.colours,
        dashed=[_OUTCOMES["FN"]],
        scores=marks.scores,
        title=title,
        ground=_ground(grid),
        detail=detail,
    )


def picture(raster: str | Path, *, longer_side: int) -> tuple[Float[np.ndarray, "H W 3"], Grid]:
    """A scene as a picture, 0 to 1, light grey where there are no pixels; and where the raster's own pixels lie.

    Args:
        raster: the scene.
        longer_side: of the picture in pixels, 1 to 65,500; that of a smaller raster stays.
    """
    if not (is_whole(longer_side) and 1 <= longer_side <= _JPEG_SIDE):
        raise ArgumentError(
            f"the longer side of a picture must be a whole number from 1 to {_JPEG_SIDE:,} pixels; got {longer_side!r}"
        )
    reader = RasterReader(raster)
    own = reader.grid
    n_pixels = math.prod(own.shape) / max(1.0, max(own.shape) / longer_side) ** 2
    what = f"a picture of {own.name} with a side of {longer_side:,} px"
    memory.check_fits(math.ceil(_PICTURE_BYTES * n_pixels), what, "make that smaller")
    with reader:
        pixels, valid, _ = _read(reader, _part(own, None), longer_side)
    rgb = _picture(pixels, valid, plots.shown_limits([pixels]))
    height, width, _ = rgb.shape
    # Pixels are not merged over more than the shorter side, so a strip may be longer still.
    return rgb[:: max(1, height // longer_side), :: max(1, width // longer_side)], own


def _picture(pixels: np.ndarray, valid: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """The pixels as a picture, light grey where there are none."""
    rgb = plots.as_rgb(pixels, limits)
    rgb[~valid] = _NO_DATA
    return rgb


def _part(own: Grid, aoi: Area | None) -> Window:
    """The bounds of the area, or all of the raster, in its own pixels."""
    height, width = own.shape
    if aoi is None:
        return Window(0, 0, width, height)
    return _whole_pixels(own, *read_area(aoi, own).bounds)


def _whole_pixels(grid: Grid, x1: float, y1: float, x2: float, y2: float) -> Window:
    """The pixels of the grid that a rectangle touches, one at least."""
    height, width = grid.shape
    left, top = min(max(math.floor(x1), 0), width - 1), min(max(math.floor(y1), 0), height - 1)
    right, bottom = min(max(math.ceil(x2), left + 1), width), min(max(math.ceil(y2), top + 1), height)
    return Window(left, top, right - left, bottom - top)


def _within(own: Grid, grid: Grid, corners: tuple[float, float, float, float]) -> Window:
    """The raster's own pixels under a part of a coarser picture of it."""
    low, high = own.in_plane().to_pixel(grid.to_map(np.array(corners).reshape(2, 2)))
    return _whole_pixels(own, *low, *high)


def _read(reader: RasterReader, part: Window, longer_side: int = _LONGER_SIDE) -> _Pixels:
    """A part of the raster in no more pixels than asked for, square on the ground where it lies on the ground."""
    own, coarser = reader.grid, max(1.0, max(part.width, part.height) / longer_side)
    side_m = _pixel_size_m(own)
    if side_m is None:
        return _every(reader, part, math.ceil(coarser))
    with reader.view(pixel_size_m=side_m * min(coarser, *own.shape)) as coarse:
        across, down = (n / m for n, m in zip(coarse.grid.shape[::-1], own.shape[::-1], strict=True))
        x1, y1, x2, y2 = part.xyxy
        window = _whole_pixels(coarse.grid, x1 * across, y1 * down, x2 * across, y2 * down)
        return *coarse.read(window), coarse.grid.window(window)


def _pixel_size_m(grid: Grid) -> float | None:
    """Side of a pixel in metres; None where nobody knows."""
    try:
        return grid.pixel_size_m
    except NotGeoreferenced:
        return None


def _every(reader: RasterReader, part: Window, step: int) -> _Pixels:
    """Every `step`th pixel, read where there are files; for rasters whose pixels have no size to resample by."""
    side = step * max(1, math.isqrt(_WINDOW_VALUES // reader.n_bands) // step)
    tiling = Tiling((part.height, part.width), side, 0, part.x, part.y)
    valid = np.zeros((-(-part.height // step), -(-part.width // step)), bool)
    pixels = np.zeros((reader.n_bands, *valid.shape), reader.dtype)
    for window in Windows.of([tiling], reader.footprints):
        x, y = window.x - part.x, window.y - part.y
        taken = np.s_[-y % step :: step, -x % step :: step]  # the last windows are moved back
        got, stands = (each[..., *taken] for each in reader.read(window))
        there = np.s_[-(-y // step) :, -(-x // step) :]
        height, width = stands.shape
        pixels[:, *there][:, :height, :width] = got
        valid[there][:height, :width] = stands
    plane = reader.grid.in_plane().window(part)
    return pixels, valid, replace(plane, shape=valid.shape, transform=plane.known_transform @ Affine.scale(step))


def _ground(grid: Grid) -> plots.Ground | None:
    """Scale and north of a picture; None where it lies nowhere."""
    side_m = _pixel_size_m(grid)
    return None if side_m is None else plots.Ground(side_m, grid.north)


def _marks(features: Features, own: Grid, grid: Grid, label_field: str | None, classes: Sequence[str] | None) -> _Marks:
    """What of the features lies in the picture.

    Raises:
        LabelsError: if they are neither polygons nor points, or none lies on the raster.
    """
    parts, source = pixel_parts(features, grid)
    kinds = shapely.get_type_id(parts)
    points = kinds == shapely.GeometryType.POINT
    if not (points | (kinds == shapely.GeometryType.POLYGON)).all():
        raise LabelsError(f"{features.name} holds other geometries than polygons and points, which are not drawn")
    parts[points] = shapely.buffer(parts[points], _POINT_SHARE * max(grid.shape))
    seen = shapely.intersects(parts, shapely.box(0, 0, *grid.shape[::-1]))
    low, high = grid.to_pixel(own.in_plane().to_map(np.array([[0, 0], own.shape[::-1]], float)))
    if len(parts) and not shapely.intersects(parts, shapely.box(*low, *high)).any():
        raise LabelsError(
            f"none of {features.name} lies on {own.name}; check that both are of one place, and their coordinate "
            "reference systems right"
        )
    parts, source = parts[seen], source[seen]
    frame = features.frame
    if label_field is None and "outcome" in frame.columns and set(frame["outcome"]) <= set(_OUTCOMES):
        names = frame["outcome"].map(_OUTCOMES).to_numpy(object)
        colours = {_OUTCOMES[key]: colour for key, colour in plots.OUTCOMES.items()}
    else:
        names = np.array([name or _NO_CLASS for name in class_names(features, label_field)], object)
        colours = plots.class_colours([*(classes or ()), *sorted(set(names))])
    scores = pd.to_numeric(frame["score"], errors="coerce") if "score" in frame.columns else np.full(len(frame), np.nan)
    return _Marks(
        [shapely.get_coordinates(ring) for ring in shapely.get_exterior_ring(parts)],
        names[source].tolist(),
        np.asarray(scores, float)[source],
        colours,
    )

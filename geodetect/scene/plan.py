"""What is to be done with one scene: the raster as the model wants to see it, and the arguments, checked.

A scene is worked through in strips of rows of windows. A strip depends on nothing but the raster, the model and the
plan, whoever runs it and when: that is what a restart, and a run on many machines, rest on.

Shapes: K classes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from geodetect.errors import ArgumentError, ModelError, NotGeoreferenced, OutputError, is_share, is_whole
from geodetect.grid import Grid, Tiling, Window
from geodetect.raster import RasterReader, Rasters, Reader
from geodetect.scene.models import DetectsPixels, suited_batch_size
from geodetect.vector.datum import warn_of_shift
from geodetect.vector.writers import DEGREES, WGS84

_FULL_BATCHES = 4  # of a strip at least, so that the last one, which may be smaller, costs little


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be done with one scene, checked.

    Args:
        tiling: the windows.
        lowest: (K,) score below which boxes of a class are dropped.
        nms_iou: overlap above which the worse of two boxes of one class goes.
        batch_size: windows at once.
        area: where to look, in scene pixels; None: everywhere.
        tta: whether windows are seen in all symmetries.
    """

    tiling: Tiling
    lowest: np.ndarray
    nms_iou: float
    batch_size: int = 8
    area: shapely.Geometry | None = None
    tta: bool = False

    @property
    def n_strips(self) -> int:
        """Number of strips of the scene."""
        return -(-self.tiling.n_rows // self._rows_per_strip)

    @property
    def _rows_per_strip(self) -> int:
        return -(-_FULL_BATCHES * self.batch_size // self.tiling.n_columns)

    def lines(self, strip: int) -> tuple[float, float]:
        """Where the strip above ends and where the strip below begins, in scene pixels; infinite where none is."""
        first = strip * self._rows_per_strip
        last = min(first + self._rows_per_strip, self.tiling.n_rows)
        above = self._row(first - 1).xyxy[3] if first else -math.inf
        return above, self._row(last).y if last < self.tiling.n_rows else math.inf

    def _row(self, number: int) -> Window:
        return self.tiling[number * self.tiling.n_columns]

    def windows(self, strip: int) -> Sequence[Window]:
        """The windows of a strip that meet the area, row by row."""
        n_windows = self._rows_per_strip * self.tiling.n_columns
        windows = self.tiling[strip * n_windows : (strip + 1) * n_windows]
        if self.area is None:
            return windows
        meets = shapely.intersects(self._prepared, shapely.box(*np.array([window.xyxy for window in windows]).T))
        return [windows[int(i)] for i in np.flatnonzero(meets)]

    def n_windows(self, strips: Iterable[int]) -> int:
        """How many windows these strips have that meet the area."""
        return sum(len(self.windows(strip)) for strip in strips)

    @cached_property
    def _prepared(self) -> shapely.Geometry:
        shapely.prepare(self.area)
        return self.area


def planned(
    reader: Reader,
    detector: DetectsPixels,
    lowest: np.ndarray,
    *,
    nms_iou: float,
    chip_size: int | None = None,
    overlap: int | None = None,
    batch_size: int | None = None,
    area: shapely.Geometry | None = None,
    tta: bool = False,
) -> Plan:
    """The plan for these arguments, those that are None as they suit the model.

    Raises:
        ArgumentError: if a number is not possible.
    """
    if not is_share(nms_iou):
        raise ArgumentError(f"nms_iou must lie between 0 and 1 (intersection over union); got {nms_iou!r}")
    tiling = _tiling(reader.grid, detector, chip_size, overlap)
    batch_size = (
        suited_batch_size(detector, tiling.chip_size) if batch_size is None else _whole_number("batch_size", batch_size)
    )
    return Plan(tiling, lowest, float(nms_iou), batch_size, area, tta)


def opened(
    raster: Rasters,
    detector: DetectsPixels,
    bands: Sequence[int | str] | None,
    pixel_size_m: float | str | None,
    *,
    nodata: float | None = None,
) -> RasterReader:
    """The raster as the model wants to see it: its bands, its pixel size."""
    n_bands = len(detector.bands)
    if bands is None and tuple(detector.bands) != tuple(range(1, n_bands + 1)):
        bands = detector.bands  # a choice of bands was made in training, and holds here
    with RasterReader(raster, bands=bands, nodata=nodata) as native:
        size = _pixel_size(native.grid, detector, pixel_size_m)
    reader = RasterReader(native.source, bands=bands, pixel_size_m=size)
    if reader.n_bands != n_bands:
        reader.close()
        example = (1,) * n_bands if reader.n_bands < n_bands else tuple(range(1, n_bands + 1))
        raise ModelError(
            f"the model takes {n_bands} bands and {reader.name} gives {reader.n_bands}; "
            f"name the {n_bands} to show it, for example bands={example}"
        )
    return reader


def _pixel_size(native: Grid, detector: DetectsPixels, pixel_size_m: float | str | None) -> float | None:
    """The size to resample to; None where the pixels stay as they are."""
    if pixel_size_m != "model":
        if isinstance(pixel_size_m, str):
            raise ArgumentError(f'pixel_size_m must be a number of metres, None or "model"; got {pixel_size_m!r}')
        return pixel_size_m
    if detector.pixel_size_m is None:
        return None
    placed = native.transform is not None and native.crs is not None
    return detector.pixel_size_m if placed else None


def _tiling(grid: Grid, detector: DetectsPixels, chip_size: int | None, overlap: int | None) -> Tiling:
    """The windows asked for, or else those that suit the model."""
    if overlap is None and chip_size in (None, detector.chip_size):
        overlap = detector.overlap
    chip_size = _whole_number("chip_size", detector.chip_size if chip_size is None else chip_size)
    overlap = chip_size // 4 if overlap is None else overlap
    return Tiling(grid.shape, chip_size, _whole_number("overlap", overlap, at_least=0))


def _whole_number(name: str, value: Any, at_least: int = 1) -> int:
    if not (is_whole(value) and value >= at_least):
        raise ArgumentError(f"{name} must be a whole number of at least {at_least}; got {value!r}")
    return int(value)


def check_place(grid: Grid, outputs: Sequence[Path]) -> None:
    """Says what a result is worth where the raster does not say where it lies, or a file shifts it."""
    if grid.crs is not None:
        _check_shift(grid, grid.crs, [output.name for output in outputs if output.suffix.lower() in DEGREES])
        return
    for output in outputs:
        if output.suffix.lower() == ".kml":
            raise OutputError(
                f"KML is in WGS 84 by definition, and {grid.name} has no coordinate reference system; "
                f"write {output.stem}.gpkg instead"
            )
    where = "pixels, x right and y down" if grid.transform is None else "the plane of its transform"
    warnings.warn(
        f"{grid.name} has no coordinate reference system: the result is in {where}, and has none either",
        UserWarning,
        stacklevel=3,
    )


def _check_shift(grid: Grid, crs: CRS, names: Sequence[str]) -> None:
    """Warns where files in WGS 84 shift a result to that datum less accurately than by a pixel."""
    middle = grid.in_plane().to_map(np.array([grid.shape[::-1]]) / 2)
    try:
        limit_m, lonlat = grid.pixel_size_m, Transformer.from_crs(crs, WGS84, always_xy=True).transform(*middle[0])
    except (NotGeoreferenced, ProjError):
        return
    for name in names:
        warn_of_shift(name, crs, WGS84, np.array(lonlat), limit_m=limit_m, limit="a pixel")

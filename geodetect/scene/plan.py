"""The plan of a run over one scene: the raster with the model's bands and pixel size, and the checked arguments.

A scene is processed in strips of rows of windows. The result of a strip depends only on the raster, the model and the
plan, not on where or when it is run: resuming and distributed runs rely on this.

Shapes: K classes, N boxes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely
from jaxtyping import Bool
from pyproj import Transformer
from pyproj.exceptions import ProjError

from geodetect import memory
from geodetect.boxes import Boxes
from geodetect.errors import (
    ArgumentError,
    LabelsError,
    ModelError,
    NotGeoreferenced,
    OutputError,
    check_whole,
    is_share,
    warn,
)
from geodetect.grid import Window
from geodetect.raster import RasterReader, Rasters, Reader, describe_orientation, open_scene
from geodetect.scene.models import DetectsPixels, is_oriented, suited_batch_size
from geodetect.vector.datum import warn_of_shift
from geodetect.vector.writers import DEGREES, WGS84
from geodetect.windows import Windows, check_stride, plan_tilings

_IN_MEMORY = 3  # batches at once: the current one and two that are read ahead
_FULL_BATCHES = 4  # per strip at least, so that the last one, which may be smaller, costs little


@dataclass(frozen=True, eq=False)
class Selection:
    """Which detections are kept.

    Args:
        lowest: (K,) score below which boxes of a class are dropped.
        nms_iou: overlap above which the lower-scored of two boxes of one class is dropped.
        area: area of interest in scene pixels; None: everywhere.

    Raises:
        ArgumentError: if `nms_iou` is not between 0 and 1.
    """

    lowest: np.ndarray
    nms_iou: float
    area: shapely.Geometry | None = None

    def __post_init__(self) -> None:
        if not is_share(self.nms_iou):
            raise ArgumentError(f"nms_iou must lie between 0 and 1 (intersection over union); got {self.nms_iou!r}")
        object.__setattr__(self, "nms_iou", float(self.nms_iou))

    def is_inside(self, boxes: Boxes) -> Bool[np.ndarray, "N"]:
        """Return which boxes have their centre in the area."""
        if self.area is None:
            return np.ones(len(boxes), bool)
        return np.asarray(shapely.intersects_xy(self.area, *boxes.centres.T))


@dataclass(frozen=True)
class Sizes:
    """Requested sizes of windows and batches; those that are None are chosen for the model.

    Args:
        chip_size: side of a window in pixels.
        overlap: minimum overlap of adjacent windows in pixels.
        batch_size: windows per batch.
    """

    chip_size: int | None = None
    overlap: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """The checked plan of a run over one scene.

    Args:
        windows: windows that intersect the scene's footprints and the area.
        selection: of the boxes found.
        batch_size: windows per batch.
        tta: whether windows are run in all eight symmetries.
        oriented: whether the boxes have angles.
    """

    windows: Windows
    selection: Selection
    batch_size: int = 8
    tta: bool = False
    oriented: bool = False

    @property
    def n_strips(self) -> int:
        """Number of strips of the scene."""
        return len(self._starts) - 1

    @cached_property
    def _starts(self) -> np.ndarray:
        """First run of windows of each strip, and at the end the number of runs; strips hold whole rows."""
        ends, n_runs = self.windows.ends, len(self.windows.runs)
        of_rows = np.append(np.flatnonzero(np.diff(self.windows.bounds[:, 1], prepend=-1)), n_runs)
        starts = [0]
        while starts[-1] < n_runs:
            enough = np.searchsorted(ends, ends[starts[-1]] + _FULL_BATCHES * self.batch_size)
            starts.append(int(of_rows[min(np.searchsorted(of_rows, enough), len(of_rows) - 1)]))
        return np.array(starts)

    def lines(self, strip: int) -> tuple[float, float]:
        """Return where boxes of the strips above end and those of the strips below begin; infinite if there are none.

        Upright boxes are clipped to their windows. Oriented ones may extend beyond them where no window adjoins, which
        between other windows of the scene happens only where files lie apart.
        """
        beyond = self.windows.chip_size if self.oriented and len(self.windows.tilings) > 1 else 0
        first, last = self._starts[strip : strip + 2]
        above = self._reached[first - 1] if first else -math.inf
        below = self.windows.bounds[last, 1] if last < len(self._reached) else math.inf
        return float(above + beyond), float(below - beyond)

    @cached_property
    def _reached(self) -> np.ndarray:
        """Lowest row that the windows of each run and those before it reach, in scene pixels."""
        return np.maximum.accumulate(self.windows.bounds[:, 3])

    def of_strip(self, strip: int) -> list[Window]:
        """Return the windows of a strip, row by row."""
        return self.windows.of_runs(*self._starts[strip : strip + 2])

    def n_windows(self, strips: Sequence[int]) -> int:
        """Return the number of windows in these strips."""
        return int(np.diff(self.windows.ends[self._starts])[list(strips)].sum())


def make_plan(
    reader: Reader,
    detector: DetectsPixels,
    selection: Selection,
    sizes: Sizes = Sizes(),
    *,
    tta: bool = False,
) -> Plan:
    """Return the plan of a run; sizes that are None are chosen for the model.

    Raises:
        ArgumentError: if a number is out of range.
    """
    windows = _plan_windows(reader, detector, sizes, selection.area)
    n_bytes = _IN_MEMORY * _window_bytes(reader, windows.chip_size)
    batch_size = sizes.batch_size
    if batch_size is None:
        batch_size = max(1, min(suited_batch_size(detector, windows.chip_size), memory.available_bytes() // n_bytes))
    batch_size = check_whole("batch_size", batch_size)
    what = f"batch_size={batch_size:,} with windows of {windows.chip_size:,} px"
    memory.check_fits(batch_size * n_bytes, what, f"make {'batch_size' if batch_size > 1 else 'chip_size'} smaller")
    return Plan(windows, selection, batch_size, tta, is_oriented(detector))


def open_raster(
    raster: Rasters,
    detector: DetectsPixels,
    bands: Sequence[int | str] | None,
    pixel_size_m: float | str | None,
    *,
    nodata: float | None = None,
    progress: bool = False,
) -> RasterReader:
    """Open the raster with the bands and pixel size of the model."""
    n_bands = len(detector.bands)
    if bands is None and tuple(detector.bands) != tuple(range(1, n_bands + 1)):
        bands = detector.bands  # the bands chosen in training apply here too
    with RasterReader(open_scene(raster, bands, nodata, progress=progress), bands=bands) as native:
        grid = native.grid
        if pixel_size_m == "model":
            pixel_size_m = detector.pixel_size_m if grid.transform is not None and grid.crs is not None else None
        elif isinstance(pixel_size_m, str):
            raise ArgumentError(f'pixel_size_m must be a number of metres, None or "model"; got {pixel_size_m!r}')
    reader = native.view(pixel_size_m=pixel_size_m)
    if reader.n_bands != n_bands:
        reader.close()
        example = (1,) * n_bands if reader.n_bands < n_bands else tuple(range(1, n_bands + 1))
        raise ModelError(
            f"the model takes {n_bands} bands and {reader.name} gives {reader.n_bands}; "
            f"name the {n_bands} to show it, for example bands={example}"
        )
    return reader


def _plan_windows(
    reader: Reader,
    detector: DetectsPixels,
    sizes: Sizes,
    area: shapely.Geometry | None,
) -> Windows:
    """Return the windows that intersect the scene's footprints and the area; sizes default to the model's.

    Raises:
        ArgumentError: if a number is out of range.
        LabelsError: if the area does not intersect the scene.
    """
    chip_size, overlap = sizes.chip_size, sizes.overlap
    if overlap is None and chip_size in (None, detector.chip_size):
        overlap = detector.overlap
    chip_size = check_whole("chip_size", detector.chip_size if chip_size is None else chip_size)
    overlap = check_whole("overlap", chip_size // 4 if overlap is None else overlap, at_least=0)
    memory.check_fits(
        _window_bytes(reader, chip_size), f"a window of {chip_size:,} x {chip_size:,} px", "make chip_size smaller"
    )
    check_stride(chip_size, overlap)
    tilings = plan_tilings(reader.grid.shape, chip_size, overlap, reader.footprints)
    windows = Windows.of(tilings, reader.footprints, None if area is None else np.array([area], object))
    if not len(windows):
        raise LabelsError(f"the aoi meets none of the files of {reader.grid.name}; check that both are of one place")
    return windows


def _window_bytes(reader: Reader, chip_size: int) -> int:
    """Return the size in bytes of the pixels of a window; the model's own memory comes on top."""
    return chip_size**2 * reader.n_bands * reader.dtype.itemsize


def check_place(reader: RasterReader, outputs: Sequence[Path]) -> None:
    """Warn if the raster has no CRS or an output in WGS 84 shifts the result; raise for KML without a CRS."""
    grid = reader.grid
    if grid.crs is not None:
        middle = grid.in_plane().to_map(np.array([grid.shape[::-1]]) / 2)
        try:
            limit_m = grid.pixel_size_m
            lonlat = Transformer.from_crs(grid.crs, WGS84, always_xy=True).transform(*middle[0])
        except (NotGeoreferenced, ProjError):
            return
        for output in (each for each in outputs if each.suffix.lower() in DEGREES):
            warn_of_shift(output.name, grid.crs, WGS84, np.array(lonlat), limit_m=limit_m, limit="a pixel")
        return
    for output in outputs:
        if output.suffix.lower() == ".kml":
            raise OutputError(
                f"KML is in WGS 84 by definition, and {grid.name} has no coordinate reference system; "
                f"write {output.stem}.gpkg instead"
            )
    where = "pixels, x right and y down" if grid.transform is None else "the plane of its transform"
    warn(
        f"{grid.name} has no coordinate reference system: the result is in {where}, and has none either"
        f"{describe_orientation(reader.orientation)}"
    )

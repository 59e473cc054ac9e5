"""`detect_objects`: a raster and a model in, boxes on the map out.

Each window is read (`prefetch`), shown to the detector, and freed of what its edges cut (`edges`); the
windows of a scene are then sewn together row by row (`seam`).

Shapes: B batch, C channels, H W pixels, K classes, N boxes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, ModelError, OutputError
from geodetect.grid import Grid, Tiling, Window
from geodetect.raster import RasterReader, Reader
from geodetect.scene.edges import Parts, join, split
from geodetect.scene.models import DetectsPixels, HoldsDetector, detector_of, lowest_scores, told
from geodetect.scene.prefetch import batches
from geodetect.scene.seam import Seam
from geodetect.vector.labels import read_area
from geodetect.vector.writers import check_output, write_features

_BATCH_SIZE = 8  # keeps a GPU busy at 512 px, and a CPU within 2 GB


def detect_objects(
    raster: str | Path,
    model: DetectsPixels | HoldsDetector | str | Path,
    output: str | Path | None = None,
    *,
    min_score: float | Mapping[str, float] | None = None,
    nms_iou: float = 0.5,
    chip_size: int | None = None,
    overlap: int | None = None,
    pixel_size_m: float | str | None = "model",
    bands: Sequence[int] | None = None,
    batch_size: int | None = None,
    aoi: Any = None,
    device: str | None = None,
    precision: str = "auto",
    progress: bool = True,
) -> gpd.GeoDataFrame | Path:
    """The objects that a model finds in a raster: columns `label`, `score` and `geometry`, best score first.

    Objects that a window's edge cuts are taken from the window that sees them whole; objects longer
    than the overlap are put together from their parts.

    Args:
        raster: a raster file or URL.
        model: a learner, a detector, a file that a learner saved, or any object as in `DetectsPixels`.
        output: a file to write, its format named by its suffix; without one the result is returned.
        min_score: score below which boxes are dropped, for all classes or by class (classes not named
            keep the model's own); None: the score that served best in validation, 0.5 when unknown.
        nms_iou: overlap above which the worse of two boxes of one class is dropped.
        chip_size: side of a window in pixels; None: the model's.
        overlap: how much windows share at least, in pixels; None: the model's, or a quarter of a
            `chip_size` that is not the model's.
        pixel_size_m: resample the raster to pixels of this size; "model": the size the model was
            trained at, where the raster's pixels have one; None: as they are.
        bands: the bands to show the model, counted from 1; None: those it was trained on.
        batch_size: windows the model sees at once; None: 8.
        aoi: where to look, a vector file, a GeoDataFrame, or a shapely geometry in the raster's CRS;
            windows that do not meet it are not read, boxes whose centre lies outside are dropped.
        device: for a model given as a file: where it runs; None: a GPU if there is one.
        precision: for a model given as a file: "auto", "float32" or "bf16".
        progress: show a progress bar.

    Returns:
        boxes as polygons in the raster's CRS, rotated where its grid is; in pixels, y down, with a
        warning, when it has no georeference. With `output` the path of the file instead.

    Raises:
        GeodetectError: before any work, if an argument, the raster, the model or the output is not
            possible; later only for a block of the raster that cannot be read. No file is left.
    """
    if output is not None:
        check_output(output)
    detector = detector_of(model, device, precision)
    with _opened(raster, detector, bands, pixel_size_m) as reader:
        _check_place(reader.grid, output)
        plan = _Plan(
            detect=told(detector, lowest := lowest_scores(min_score, detector), nms_iou),
            tiling=_tiling(reader.grid, detector, chip_size, overlap),
            lowest=lowest,
            seam=Seam(nms_iou),
            batch_size=_whole_number("batch_size", _BATCH_SIZE if batch_size is None else batch_size),
            area=None if aoi is None else read_area(aoi, reader.grid),
        )
        found = _scan(reader, plan, progress=progress)
        features = features_of(found, reader.grid, detector.classes)
    return features if output is None else write_features(features, output)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is to be done with one scene, checked.

    Args:
        detect: pixels of B windows to boxes of each.
        tiling: the windows.
        lowest: (K,) score below which boxes of a class are dropped.
        seam: still empty.
        batch_size: windows at once.
        area: where to look, in scene pixels; None: everywhere.
    """

    detect: Callable[[np.ndarray], list[Boxes]]
    tiling: Tiling
    lowest: np.ndarray
    seam: Seam
    batch_size: int
    area: shapely.Geometry | None


def _opened(
    raster: str | Path, detector: DetectsPixels, bands: Sequence[int] | None, pixel_size_m: float | str | None
) -> RasterReader:
    """The raster as the model wants to see it: its bands, its pixel size."""
    n_bands = len(detector.bands)
    if bands is None and tuple(detector.bands) != tuple(range(1, n_bands + 1)):
        bands = detector.bands  # a choice of bands was made in training, and holds here
    reader = RasterReader(raster, bands=bands, pixel_size_m=_pixel_size(raster, detector, pixel_size_m))
    if reader.n_bands != n_bands:
        reader.close()
        example = (1,) * n_bands if reader.n_bands < n_bands else tuple(range(1, n_bands + 1))
        raise ModelError(
            f"the model takes {n_bands} bands and {reader.name} gives {reader.n_bands}; "
            f"name the {n_bands} to show it, for example bands={example}"
        )
    return reader


def _pixel_size(raster: str | Path, detector: DetectsPixels, pixel_size_m: float | str | None) -> float | None:
    """The size to resample to; None where the pixels stay as they are."""
    if pixel_size_m != "model":
        if isinstance(pixel_size_m, str):
            raise ArgumentError(f'pixel_size_m must be a number of metres, None or "model"; got {pixel_size_m!r}')
        return pixel_size_m
    if detector.pixel_size_m is None:
        return None
    with RasterReader(raster) as native:
        placed = native.grid.transform is not None and native.grid.crs is not None
    return detector.pixel_size_m if placed else None


def _tiling(grid: Grid, detector: DetectsPixels, chip_size: int | None, overlap: int | None) -> Tiling:
    """The windows asked for, or else those that suit the model."""
    if overlap is None and chip_size in (None, detector.chip_size):
        overlap = detector.overlap
    chip_size = _whole_number("chip_size", detector.chip_size if chip_size is None else chip_size)
    overlap = chip_size // 4 if overlap is None else overlap
    return Tiling(grid.shape, chip_size, _whole_number("overlap", overlap, at_least=0))


def _whole_number(name: str, value: Any, at_least: int = 1) -> int:
    if not isinstance(value, Integral) or value < at_least:
        raise ArgumentError(f"{name} must be a whole number of at least {at_least}; got {value!r}")
    return int(value)


def _check_place(grid: Grid, output: str | Path | None) -> None:
    """Says what a result is worth where the raster does not say where it lies."""
    if grid.crs is not None:
        return
    if output is not None and Path(output).suffix.lower() == ".kml":
        raise OutputError(
            f"KML is in WGS 84 by definition, and {grid.name} has no coordinate reference system; "
            f"write {Path(output).stem}.gpkg instead"
        )
    where = "pixels, x right and y down" if grid.transform is None else "the plane of its transform"
    warnings.warn(
        f"{grid.name} has no coordinate reference system: the result is in {where}, and has none either",
        UserWarning,
        stacklevel=3,
    )


def _scan(reader: Reader, plan: _Plan, *, progress: bool) -> Boxes:
    """All objects of the scene, in scene pixels.

    Boxes that were seen whole are settled row by row. Parts are few, and are joined when all are known;
    only then do they have a centre to be judged by.
    """
    parts: list[Parts] = []
    settled: list[Boxes] = []
    tops = [plan.tiling[row * plan.tiling.n_columns].y for row in range(plan.tiling.n_rows)]
    row_end = dict(zip(tops, [*tops[1:], math.inf], strict=True))
    with closing(_by_window(reader, plan, progress)) as seen:  # threads and bar end here, also after an error
        for top, row in groupby(seen, key=lambda item: item[0].y):
            _, whole, cut = zip(*row, strict=True)
            settled.append(plan.seam.feed(Boxes.concat(whole), row_end[top]))
            parts.extend(part for part in cut if len(part))
    whole_boxes = Boxes.concat([*settled, plan.seam.flush()])
    joined = join(Parts.concat(parts), whole_boxes, plan.seam.nms_iou)
    joined = joined[_inside(joined, plan.area) & _on_data(joined, reader)]
    return Boxes.concat([whole_boxes, joined])


def _by_window(reader: Reader, plan: _Plan, progress: bool) -> Generator[tuple[Window, Boxes, Parts], None, None]:
    """Each window that was run, with the boxes it saw whole and the parts, in scene pixels."""
    windows = _windows(plan)
    coming = batches(reader, windows, chip_size=plan.tiling.chip_size, batch_size=plan.batch_size)
    with closing(coming), _progress_bar(shown=progress) as bar:
        task = bar.add_task("windows", total=len(windows))
        for batch in coming:
            for window, valid, found in zip(batch.windows, batch.valid, plan.detect(batch.pixels), strict=True):
                yield window, *_seen(found, window, valid, plan)
            bar.update(task, completed=batch.n_passed)
        bar.update(task, completed=len(windows))


def _windows(plan: _Plan) -> Sequence[Window]:
    """The windows that meet the area."""
    if plan.area is None:
        return plan.tiling
    shapely.prepare(plan.area)
    meets = shapely.intersects(plan.area, shapely.box(*np.array([window.xyxy for window in plan.tiling]).T))
    return [plan.tiling[int(i)] for i in np.flatnonzero(meets)]


def _progress_bar(*, shown: bool) -> Progress:
    """Windows done and time left, on stderr, so that stdout stays the user's."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True, force_jupyter=False), disable=not shown)


def _seen(found: Boxes, window: Window, valid: np.ndarray, plan: _Plan) -> tuple[Boxes, Parts]:
    """What of a window's detections, in window pixels, is of use: whole boxes and parts, in scene pixels."""
    found = found.clip(window.width, window.height)
    assert found.scores is not None
    enough = found.scores >= plan.lowest[found.labels]
    found = found[enough & (found.sizes > 0).all(axis=1)].shift(window.x, window.y)
    whole, parts = split(found, window, plan.tiling, plan.seam.nms_iou)
    x, y = _pixels(whole.shift(-window.x, -window.y), valid.shape)
    return whole[valid[y, x] & _inside(whole, plan.area)], parts


def _pixels(boxes: Boxes, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The pixels, as x and y, that hold the centres of boxes inside a rectangle of `shape`."""
    x, y = np.asarray(boxes.centres, int).T
    return np.minimum(x, shape[1] - 1), np.minimum(y, shape[0] - 1)


def _on_data(boxes: Boxes, reader: Reader) -> np.ndarray:
    """Which boxes have their centre on a valid pixel of the scene, (N,); for boxes that no window saw whole."""
    pixels = zip(*_pixels(boxes, reader.grid.shape), strict=True)
    return np.array([reader.read(Window(int(x), int(y), 1, 1))[1][0, 0] for x, y in pixels], bool)


def _inside(boxes: Boxes, area: shapely.Geometry | None) -> np.ndarray:
    """Which boxes have their centre in the area, (N,)."""
    return np.ones(len(boxes), bool) if area is None else np.asarray(shapely.intersects_xy(area, *boxes.centres.T))


def features_of(boxes: Boxes, grid: Grid, classes: Sequence[str]) -> gpd.GeoDataFrame:
    """Detections as features with `label` and `score`, best score first; in pixels where the grid lies nowhere.

    Args:
        boxes: in the grid's pixels.
        grid: where they lie.
        classes: names that the boxes' labels index.
    """
    boxes = boxes[boxes.ranked()]
    frame = {"label": np.array(classes, dtype=object)[boxes.labels].astype(str), "score": boxes.scores}
    return gpd.GeoDataFrame(frame, geometry=_polygons(boxes, grid.in_plane()), crs=grid.crs)


def _polygons(boxes: Boxes, grid: Grid) -> np.ndarray:
    """The boxes as polygons in map coordinates, their corners counter-clockwise, (N,)."""
    round_down_first = [[0, 1], [0, 3], [2, 3], [2, 1]]  # counter-clockwise where y points up on the map
    mirrored = grid.transform is not None and grid.transform.determinant > 0
    corners = boxes.xyxy[:, round_down_first[::-1] if mirrored else round_down_first]
    return np.asarray(shapely.polygons(grid.to_map(corners).reshape(-1, 4, 2)))

"""Stand-ins that conform to the real protocols: a raster in memory, a detector of painted squares, and what they see.

A painted scene is uint16: band 1 holds each pixel's x, band 2 its y, band 3 a checker of 8 px, and on top lie
squares in the colours of their classes. So every pixel tells where it came from, and every square can be found.
"""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import rasterio.features
import shapely
from affine import Affine
from pyproj import CRS
from rasterio.errors import NotGeoreferencedWarning

from geodetect.boxes import Boxes, oriented_envelope
from geodetect.chips.chip import Chips
from geodetect.errors import RasterError
from geodetect.grid import Grid, Tiling, Window
from geodetect.metadata import Metadata
from geodetect.normalization import Normalization
from geodetect.scene.edges import Parts, split
from geodetect.scene.tta import merge_views, views_of
from geodetect.vector.labels import GridLabels, Labels
from geodetect.windows import Windows

if TYPE_CHECKING:
    from geodetect.detector import Detector
    from geodetect.network.retinanet import Network

COLOURS = {"red": (60_000, 1_000, 1_000), "blue": (1_000, 1_000, 60_000)}
CLASSES = tuple(COLOURS)
UTM = CRS.from_epsg(32645)
SHAPE = (160, 224)

UPRIGHT = Affine(0.5, 0, 353_000, 0, -0.5, 3_057_000)
ROTATED = Affine.translation(353_000, 3_057_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
SOUTH_UP = Affine(0.5, 0, 353_000, 0, 0.5, 3_057_000)
TRANSFORMS = {"upright": UPRIGHT, "rotated": ROTATED, "south_up": SOUTH_UP}

# x1, y1, x2, y2, class: alone, at a corner, across the seams of 64 px windows, small, large; none touch.
SQUARES = np.array(
    [
        [0, 0, 10, 10, 0],
        [30, 20, 42, 32, 0],
        [58, 58, 70, 70, 1],
        [100, 40, 116, 56, 1],
        [120, 90, 132, 102, 0],
        [180, 30, 184, 34, 1],
        [150, 120, 170, 140, 0],
        [212, 148, 224, 160, 1],
        [20, 100, 32, 112, 1],
    ]
)
TRUTH = Boxes(SQUARES[:, :4], SQUARES[:, 4])


def painted(shape: tuple[int, int] = SHAPE, boxes: Boxes = TRUTH) -> np.ndarray:
    """(3, H, W) uint16: x, y and a checker, with `boxes` painted in the colours of their labels."""
    y, x = np.indices(shape)
    pixels = np.stack([x, y, 500 * ((x // 8 + y // 8) % 2)]).astype(np.uint16)
    if boxes.oriented:  # the pixels whose centre lies inside
        for outline, label in zip(shapely.polygons(boxes.corners), boxes.labels, strict=True):
            inside = rasterio.features.geometry_mask([outline], shape, Affine.identity(), invert=True)
            pixels[:, inside] = np.array(COLOURS[CLASSES[label]])[:, None]
        return pixels
    for (x1, y1, x2, y2), label in zip(boxes.xyxy.astype(int), boxes.labels, strict=True):
        pixels[:, y1:y2, x1:x2] = np.array(COLOURS[CLASSES[label]])[:, None, None]
    return pixels


class FakeReader:
    """A raster in memory.

    Args:
        pixels: (C, H, W).
        grid: where they lie; None for nowhere.
        valid: (H, W); None for everywhere.
        broken: a pixel (x, y) that cannot be read.
    """

    def __init__(
        self,
        pixels: np.ndarray,
        grid: Grid | None = None,
        valid: np.ndarray | None = None,
        *,
        broken: tuple[int, int] | None = None,
    ) -> None:
        self.grid = grid or Grid(pixels.shape[1:], name="fake.tif")
        self.n_bands, self.dtype = len(pixels), pixels.dtype
        self.all_valid, self.footprints = valid is None, None
        self._valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
        self._pixels = np.where(self._valid, pixels, pixels.dtype.type(0))
        self._broken = broken

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        x1, y1, x2, y2 = window.xyxy
        height, width = self.grid.shape
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        if self._broken and x1 <= self._broken[0] < x2 and y1 <= self._broken[1] < y2:
            raise RasterError(f"{self.grid.name} cannot be read at pixel x {self._broken[0]}, y {self._broken[1]}")
        return self._pixels[:, y1:y2, x1:x2].copy(), self._valid[y1:y2, x1:x2].copy()

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Counted:
    """A raster that writes a line to a file for each window that is read, in whatever process."""

    reader: Any
    log: str

    @property
    def grid(self) -> Grid:
        return self.reader.grid

    def read(self, window: Window) -> Any:
        with Path(self.log).open("a") as log:
            log.write(f"{window.xyxy}\n")
        return self.reader.read(window)


def counted(chips: Chips, log: str | Path) -> Chips:
    """Chips whose reads are counted in a file."""
    return Chips([replace(plan, reader=Counted(plan.reader, str(log))) for plan in chips.plans])


@dataclass(frozen=True)
class PaintDetector:
    """Finds the squares of a painted scene, exactly, each by its colour; or turned rectangles, to a part of a pixel.

    Args:
        chip_size: side of the windows that it is shown.
        overlap: how much they share.
        pixel_size_m: side of the pixels that it is shown; None for the scene's own.
        min_score: below which it is not believed.
        tolerance: how far a pixel may be from the colour, for resampled scenes.
        score: what it gives every box.
        oriented: whether its boxes have angles.
    """

    chip_size: int = 64
    overlap: int = 24
    pixel_size_m: float | None = None
    min_score: float = 0.5
    tolerance: int = 0
    score: float = 0.9
    classes: tuple[str, ...] = CLASSES
    bands: tuple[int, ...] = (1, 2, 3)
    oriented: bool = False

    @property
    def metadata(self) -> Metadata:
        """What it is made for."""
        names = ("classes", "bands", "chip_size", "overlap", "pixel_size_m", "min_score")
        return Metadata(**{name: getattr(self, name) for name in names})

    def detect(self, pixels: np.ndarray) -> list[Boxes]:
        """The painted squares of each chip of (B, C, H, W), in chip pixels."""
        return [Boxes.concat([self._of(chip, label) for label in range(len(self.classes))]) for chip in pixels]

    def _of(self, chip: np.ndarray, label: int) -> Boxes:
        colour = np.array(COLOURS[self.classes[label]], float)[:, None, None]
        paint = (np.abs(np.asarray(chip, float) - colour) <= self.tolerance).all(axis=0)
        blobs = [
            shapely.geometry.shape(outline) for outline, _ in rasterio.features.shapes(paint.view(np.uint8), mask=paint)
        ]
        if self.oriented:
            found = Boxes.concat([Boxes.empty(oriented=True), *(_turned(blob, paint.shape) for blob in blobs)])
            return Boxes(found.xyxy, found.labels + label, np.full(len(found), self.score), found.angles)
        bounds = [blob.bounds for blob in blobs]
        return Boxes(np.array(bounds, float), np.full(len(bounds), label), np.full(len(bounds), self.score))


def _turned(blob: shapely.Polygon, shape: tuple[int, int]) -> Boxes:
    """The rectangle of which a blob is the pixels; of one that the chip's edge cuts, that round what is seen."""
    if not shapely.contains_properly(shapely.box(0, 0, *shape[::-1]), blob):
        return oriented_envelope(np.array([blob]), [0])
    y, x = np.nonzero(rasterio.features.geometry_mask([blob], shape, Affine.identity(), invert=True))
    return _of_moments(np.stack([x, y], axis=1) + 0.5)


def _of_moments(points: np.ndarray) -> Boxes:
    """The rectangle with the mean and the second moments of these pixels: a side of L has the variance L^2 / 12."""
    # A pixel is no point, and has a variance of 1/12 of its own.
    variances, axes = np.linalg.eigh(np.cov(points.T, bias=True) + np.eye(2) / 12)
    half = np.sqrt(12 * variances[::-1]) / 2
    centre, (x, y) = points.mean(axis=0), axes[:, 1]
    return Boxes([[*(centre - half), *(centre + half)]], [0], angles=[np.arctan2(y, x)])


def standardise(normalization: Normalization, pixels: np.ndarray) -> np.ndarray:
    """Pixels (..., C, H, W) with the mean of each band subtracted, divided by its deviation, as float32."""
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (normalization.mean, normalization.std))
    return np.asarray((pixels.astype(np.float32) - mean) / std)


def trained(network: Any) -> Any:
    """A network of ours that counts as trained, although it gives what it gave before."""
    network.class_head.out.bias.data[0] += 1e-6
    return network


@dataclass(frozen=True, eq=False)
class PaintedScene:
    """A painted scene on disk, and what is true of it."""

    path: Path
    grid: Grid
    boxes: Boxes

    @property
    def truth(self) -> gpd.GeoDataFrame:
        """The squares as polygons in map coordinates, with a column `label`."""
        plane = self.grid.in_plane()
        polygons = shapely.transform(shapely.box(*self.boxes.xyxy.T), plane.to_map)
        names = [CLASSES[label] for label in self.boxes.labels]
        return gpd.GeoDataFrame({"label": names}, geometry=polygons, crs=self.grid.crs)


def write_raster(path: Path, pixels: np.ndarray, grid: Grid | None = None, **profile: object) -> Path:
    """A GeoTIFF of 64 px tiles made by rasterio alone, so that our reader is not checked against our writer."""
    n_bands, height, width = pixels.shape
    grid = grid or Grid((height, width))
    crs = grid.crs and rasterio.crs.CRS.from_wkt(grid.crs.to_wkt())
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    settings = {"count": n_bands, "height": height, "width": width, "dtype": pixels.dtype.name, "crs": crs}
    place = {} if grid.transform is None else {"transform": grid.transform}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # rasterio says so of what it is told to write
        with rasterio.open(path, "w", **({"driver": "GTiff"} | tiles | settings | place | profile)) as target:
            target.write(pixels)
    return path


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """A disk on which no file can grow beyond a size."""
    import resource  # not on Windows

    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit fails then, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)


def outlines(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Polygons of boxes x1, y1, x2, y2."""
    return shapely.box(*np.array(boxes, float).reshape(-1, 4).T)


def labels_on(labels: Any, grid: Grid, **options: Any) -> GridLabels:
    """The labels that meet one raster."""
    return Labels(labels, **options).on([grid])[0]


def make_detector(
    network: Network, classes: Sequence[str], *, device: str | None = None, precision: str = "auto", **facts: Any
) -> Detector:
    """A detector of these classes; `facts` are those of its metadata."""
    from geodetect.detector import Detector  # loads torch, which some tests must not

    return Detector(network, Metadata(classes=classes, **facts), device=device, precision=precision)


def split_window(found: Boxes, window: Window, tiling: Tiling, nms_iou: float) -> tuple[Boxes, Parts]:
    """The whole boxes and the parts of what one window of a tiling reports."""
    frames = Windows.of([tiling]).frames([window])
    whole, parts = split(found, np.zeros(len(found), int), frames, nms_iou)
    return found[whole], parts


def in_all_symmetries(detect: Callable[[np.ndarray], list[Boxes]], pixels: np.ndarray, nms_iou: float) -> list[Boxes]:
    """What a model finds in windows that it is shown in all eight symmetries."""
    return merge_views([detect(view) for view in views_of(pixels)], pixels.shape[-1], nms_iou)

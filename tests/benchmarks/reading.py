"""Chips a second: windows read in threads against plain rasterio in one thread, in turn, in one run.

python tests/benchmarks/reading.py [--side 20000] [--chip-size 512] [--overlap 128] [--rows 8] [--folder /tmp]

The windows are those of inference, row by row, sharing `overlap` pixels, and come in batches of 8 from both. Of each
file the upper `rows` rows of windows are read, each time from an open file that nothing was read from before. The
files are made from smooth noise in a folder that is removed at the end.

python tests/benchmarks/reading.py --empty [--side 20000] ...

Processor time, in seconds, for all windows of a square that holds 1,000 x 1,000 px of data and is empty elsewhere, in
the ways that files have of saying so. rasterio reads the data bands alone, and does not tell which pixels are valid.

python tests/benchmarks/reading.py --chips [--chip-size 512]

Processor time, in milliseconds, to open and read one chip of a folder, as training does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window as FileWindow

from geodetect.chips.images import ImageReader
from geodetect.grid import Tiling, Window
from geodetect.raster import RasterReader
from geodetect.scene.prefetch import batches

TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512}
KINDS: dict[str, dict[str, object]] = {
    "deflate": {"compress": "deflate", "predictor": 2, **TILED},
    "JPEG": {"compress": "jpeg", "photometric": "YCBCR", **TILED},
    "deflate, striped": {"compress": "deflate", "predictor": 2, "blockysize": 1},
}
EMPTY: dict[str, dict[str, object]] = {
    "no data, blocks left out": {"count": 3, "nodata": 0, "sparse_ok": True},
    "no data, blocks stored": {"count": 3, "nodata": 0},
    "no data, float32, blocks left out": {"count": 3, "nodata": -9999, "dtype": "float32", "sparse_ok": True},
    "a mask": {"count": 3},
    "an alpha band": {"count": 4, "photometric": "RGB", "alpha": "YES"},
}
CHIPS: dict[str, tuple[int, dict[str, object]]] = {
    "RGB GeoTIFF, deflate": (3, {"driver": "GTiff", "compress": "deflate", "photometric": "RGB"}),
    "RGBA GeoTIFF, deflate": (4, {"driver": "GTiff", "compress": "deflate", "photometric": "RGB", "alpha": "YES"}),
    "RGBA GeoTIFF": (4, {"driver": "GTiff", "photometric": "RGB", "alpha": "YES"}),
    "RGBA PNG": (4, {"driver": "PNG"}),
    "RGB JPEG": (3, {"driver": "JPEG"}),
}
DATA_SIDE = 1000
ROUNDS = 3
BATCH = 8


def picture(side: int) -> np.ndarray:
    """(3, side, side) smooth noise: it compresses as imagery does, to somewhat over half."""
    random = np.random.default_rng(0)
    y, x = np.indices((side, side), np.float32)
    waves = [90 + 60 * np.sin(x / a) * np.cos(y / b) for a, b in ((37, 23), (61, 41), (29, 53))]
    return np.stack([wave + random.normal(0, 4, wave.shape) for wave in waves]).clip(0, 255).astype(np.uint8)


def write(path: Path, side: int, height: int, kind: dict[str, object]) -> None:
    """A GeoTIFF `side` px wide, filled from a picture of 2,000 px as far down as it is read."""
    part = picture(2000)
    place = {"crs": "EPSG:32645", "transform": Affine(0.3, 0, 353_000, 0, -0.3, 3_057_000)}
    size = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": side, "height": side, "sparse_ok": True}
    with rasterio.open(path, "w", **size, **place, **kind) as target:
        for y in range(0, min(height, side), 512):
            rows = np.tile(np.roll(part, -y, axis=1)[:, :512], (1, 1, -(-side // 2000)))[..., :side]
            rows = rows[:, : min(512, side - y)]
            target.write(rows, window=FileWindow(0, y, side, rows.shape[1]))


def write_empty(path: Path, side: int, kind: dict[str, object]) -> None:
    """A square of deflated tiles with data in its middle alone."""
    place = {"crs": "EPSG:32645", "transform": Affine(0.3, 0, 353_000, 0, -0.3, 3_057_000)}
    settings = {"driver": "GTiff", "width": side, "height": side, "compress": "deflate", **TILED, **place}
    middle = FileWindow((side - DATA_SIDE) // 2, (side - DATA_SIDE) // 2, DATA_SIDE, DATA_SIDE)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(path, "w", **{"dtype": "uint8", **settings, **kind}) as target,
    ):
        if "sparse_ok" not in kind:
            nothing = np.full((target.count, 512, side), kind.get("nodata", 0), target.dtypes[0])
            for y in range(0, side, 512):
                height = min(512, side - y)
                target.write(nothing[:, :height], window=FileWindow(0, y, side, height))
        target.write(picture(DATA_SIDE).astype(target.dtypes[0]), indexes=[1, 2, 3], window=middle)
        opaque = np.full((DATA_SIDE, DATA_SIDE), 255, np.uint8)
        if target.count > 3:
            target.write(opaque, 4, window=middle)
        elif "nodata" not in kind:
            target.write_mask(np.zeros((side, side), bool))
            target.write_mask(opaque, window=middle)


def plain(path: Path, windows: list[Window], chip_size: int) -> int:
    """The sum of some pixels of batches, as a loop over rasterio reads them."""
    total = 0
    with rasterio.open(path) as dataset:
        for start in range(0, len(windows), BATCH):
            places = [FileWindow(w.x, w.y, w.width, w.height) for w in windows[start : start + BATCH]]
            batch = np.stack([dataset.read(window=place) for place in places])
            total += int(batch[:, :, 0, 0].astype(int).sum())
    return total


def threaded(path: Path, windows: list[Window], chip_size: int) -> int:
    """The same sum of the batches that a detector is shown."""
    with RasterReader(path) as reader:
        coming = batches(reader, [windows], chip_size=chip_size, batch_size=BATCH)
        return sum(int(batch.pixels[:, :, 0, 0].astype(int).sum()) for batch in coming)


def threaded_mask(path: Path, windows: list[Window], chip_size: int) -> int:
    """Number of windows with a valid pixel."""
    with RasterReader(path) as reader:
        return sum(len(batch.windows) for batch in batches(reader, [windows], chip_size=chip_size, batch_size=BATCH))


def plain_bands(path: Path, windows: list[Window], chip_size: int) -> int:
    """Number of windows, of which rasterio has read the data."""
    with rasterio.open(path) as dataset:
        for w in windows:
            dataset.read((1, 2, 3), window=FileWindow(w.x, w.y, w.width, w.height))
    return len(windows)


def processor_time(read: Callable[[Path, list[Window], int], int], *arguments: Any) -> float:
    """Seconds of all threads, the best of three rounds."""
    rounds = []
    for _ in range(ROUNDS):
        start = time.process_time()
        read(*arguments)
        rounds.append(time.process_time() - start)
    return min(rounds)


def tell_empty(folder: Path, side: int, tiling: Tiling) -> None:
    """Write a table: a row per way of being empty."""
    sys.stdout.write("| file | rasterio, s | geodetect, s | ratio |\n|---|---|---|---|\n")
    windows = list(tiling)
    for name, kind in EMPTY.items():
        path = folder / f"{name}.tif"
        write_empty(path, side, kind)
        arguments = path, windows, tiling.chip_size
        before, after = (processor_time(read, *arguments) for read in (plain_bands, threaded_mask))
        sys.stdout.write(f"| {name} | {before:.2f} | {after:.2f} | {after / before:.1f} |\n")
        sys.stdout.flush()
        path.unlink()


def tell_chips(folder: Path, side: int) -> None:
    """Write a table: a row per kind of chip; the best of many rounds."""
    sys.stdout.write("| chip | rasterio, ms | geodetect, ms | ratio |\n|---|---|---|---|\n")
    pixels = np.concatenate([picture(side), np.full((1, side, side), 255, np.uint8)])
    pixels[:, : side // 10] = 0
    place = {"crs": "EPSG:32645", "transform": Affine(0.3, 0, 353_000, 0, -0.3, 3_057_000)}
    for name, (n_bands, kind) in CHIPS.items():
        path = folder / name
        size = {"count": n_bands, "height": side, "width": side, "dtype": "uint8"}
        with rasterio.open(path, "w", **size, **place, **kind) as target:
            target.write(pixels[:n_bands])
        ways = [partial(read_whole, path), partial(ImageReader(path).read, Window(0, 0, side, side))]
        best = [np.inf, np.inf]
        for _ in range(100):
            for i, way in enumerate(ways):
                start = time.process_time()
                way()
                best[i] = min(best[i], 1000 * (time.process_time() - start))
        sys.stdout.write(f"| {name} | {best[0]:.2f} | {best[1]:.2f} | {best[1] / best[0]:.2f} |\n")


def read_whole(path: Path) -> np.ndarray:
    """All bands, as rasterio opens and reads them."""
    with rasterio.open(path) as dataset:
        return dataset.read()


def taken(read: Callable[[Path, list[Window], int], int], path: Path, windows: list[Window], chip_size: int) -> float:
    """Seconds."""
    start = time.perf_counter()
    read(path, windows, chip_size)
    return time.perf_counter() - start


def measured(path: Path, windows: list[Window], chip_size: int) -> Iterator[float]:
    """Chips a second: plain, threaded; the best of three rounds in turn."""
    assert plain(path, windows[:40], chip_size) == threaded(path, windows[:40], chip_size)
    rounds = [[taken(read, path, windows, chip_size) for read in (plain, threaded)] for _ in range(ROUNDS)]
    return (len(windows) / min(times) for times in zip(*rounds, strict=True))


def main(argv: list[str]) -> None:
    """Write a table: a row per file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=20_000)
    parser.add_argument("--chip-size", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=128)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--empty", action="store_true")
    parser.add_argument("--chips", action="store_true")
    choices = parser.parse_args(argv)
    if choices.chips:
        with tempfile.TemporaryDirectory(dir=choices.folder) as folder:
            tell_chips(Path(folder), choices.chip_size)
        return
    tiling = Tiling((choices.side, choices.side), choices.chip_size, choices.overlap)
    windows = tiling[: choices.rows * tiling.n_columns]
    if choices.empty:
        with tempfile.TemporaryDirectory(dir=choices.folder) as folder:
            tell_empty(Path(folder), choices.side, tiling)
        return
    sys.stdout.write("| file | plain rasterio, chips/s | geodetect, chips/s | ratio |\n|---|---|---|---|\n")
    with tempfile.TemporaryDirectory(dir=choices.folder) as folder:
        for name, kind in KINDS.items():
            path = Path(folder) / f"{name}.tif"
            write(path, choices.side, windows[-1].y + choices.chip_size, kind)
            before, after = measured(path, windows, choices.chip_size)
            sys.stdout.write(f"| {name} | {before:.0f} | {after:.0f} | {after / before:.2f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

"""Chips a second: windows read in threads against plain rasterio in one thread, in turn, in one run.

python tests/benchmarks/reading.py [--side 20000] [--chip-size 512] [--overlap 128] [--rows 8] [--folder /tmp]

The windows are those of inference, row by row, sharing `overlap` pixels, and come in batches of 8 from both. Of each
file the upper `rows` rows of windows are read, each time from an open file that nothing was read from before. The
files are made from smooth noise in a folder that is removed at the end.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window as FileWindow

from geodetect.grid import Tiling, Window
from geodetect.raster import RasterReader
from geodetect.scene.prefetch import batches

TILED = {"tiled": True, "blockxsize": 512, "blockysize": 512}
KINDS: dict[str, dict[str, object]] = {
    "deflate": {"compress": "deflate", "predictor": 2, **TILED},
    "JPEG": {"compress": "jpeg", "photometric": "YCBCR", **TILED},
    "deflate, striped": {"compress": "deflate", "predictor": 2, "blockysize": 1},
}
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
    choices = parser.parse_args(argv)
    tiling = Tiling((choices.side, choices.side), choices.chip_size, choices.overlap)
    windows = tiling[: choices.rows * tiling.n_columns]
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

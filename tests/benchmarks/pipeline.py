"""Processor time that detection takes for each window besides the network: of the main thread, and of all threads.

    OMP_NUM_THREADS=1 python tests/benchmarks/pipeline.py [--side 8000] [--repeats 3] [--tiny]

The scene is a GeoTIFF of three bands, uncompressed or deflated, in windows of 512 px that share 128. The network costs
nothing: it returns tensors made beforehand, as many candidates for each window as a RetinaNet gives, of which some are
above the score. They show objects of the scene, every fifth of them twice. All else is `detect_objects` as it runs:
reading, suppression, boxes cut by windows, seams, features; what a run takes with one window only is taken off, and
reported apart. Suppression is also measured alone. Each figure is the best of several repeats. `--tiny` takes sizes at
which all of this takes seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from torch import Tensor

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.grid import Tiling
from geodetect.network.coding import suppress

NMS_IOU = 0.5
CHIP_SIZE, OVERLAP = 512, 128
N_ROWS = 11_024  # of candidates of a window: 4,000 of each of two levels, and all that coarser ones have
BATCH_SIZE = 32  # that a GPU might take
KINDS: dict[str, dict[str, object]] = {"uncompressed": {}, "deflate": {"compress": "deflate", "predictor": 2}}
LOADS = ((5, 1), (200, 1), (200, 20))  # boxes of a window, classes
CLOCKS = (time.thread_time, time.process_time)
ONE_WINDOW = (353_000, 3_056_999, 353_001, 3_057_000)  # an area that only one meets
IN_A_BATCH = 64  # windows, where suppression is measured alone


class Free:
    """A detector whose network costs nothing.

    Args:
        candidates: (B, P, 6) of all windows of a scene, in their order.
        n_classes: how many there are.
    """

    chip_size, overlap, bands = CHIP_SIZE, OVERLAP, (1, 2, 3)
    pixel_size_m, min_score = None, 0.5

    def __init__(self, candidates: Tensor, n_classes: int) -> None:
        self.classes = [f"class {number}" for number in range(n_classes)]
        self._candidates, self._n_passed = candidates, 0

    def suited_batch_size(self, chip_size: int) -> int:
        """Return how many windows to run at once."""
        return BATCH_SIZE

    def detect(self, pixels: np.ndarray) -> list[Boxes]:
        """Return the boxes of the next windows."""
        return self.collect(self.launch(pixels))

    def launch(self, pixels: np.ndarray) -> Tensor:
        """Return the candidates of the next windows."""
        start, self._n_passed = self._n_passed, self._n_passed + len(pixels)
        return self._candidates[start : self._n_passed]

    def collect(self, launched: Tensor) -> list[Boxes]:
        """Return what suppression leaves of them."""
        return suppress(launched, NMS_IOU)


def write_scene(path: Path, side: int, profile: dict[str, object]) -> None:
    """Write a raster of squares upon squares with a little noise, which deflate shrinks as it does an aerial image."""
    noise = np.random.default_rng(0)
    pixels = noise.integers(0, 8, (3, side, side), np.uint8)
    for size in (4, 16, 64, 256):
        squares = noise.integers(0, 60, (3, -(-side // size), -(-side // size)), np.uint8)
        pixels += squares.repeat(size, axis=1).repeat(size, axis=2)[:, :side, :side]
    place = {"crs": "EPSG:32645", "transform": rasterio.transform.from_origin(353_000, 3_057_000, 0.3, 0.3)}
    shape = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "tiled": True}
    with rasterio.open(path, "w", **shape, **place, **profile) as target:
        target.write(pixels)


def candidates_of(tiling: Tiling, n_boxes: int, n_classes: int) -> Tensor:
    """Return candidates (B, P, 6) of all windows, `n_boxes` above the score in each on average."""
    noise = np.random.default_rng(1)
    n_objects = round(n_boxes / 1.2 / 1.09 * np.prod(tiling.shape) / CHIP_SIZE**2)  # a window also shows parts
    centres, sides = noise.uniform(0, tiling.shape[::-1], (n_objects, 2)), noise.uniform(8, 40, (n_objects, 2))
    values = np.column_stack([noise.uniform(0.6, 0.99, n_objects), noise.integers(0, n_classes, n_objects)])
    objects = np.hstack([centres - sides / 2, centres + sides / 2, values])
    again = objects[::5] - [0, 0, 0, 0, 0.05, 0]
    objects = np.concatenate([objects, again])
    found = torch.full((len(tiling), N_ROWS, 6), -1.0)
    for rows, window in zip(found, tiling, strict=True):
        x1, y1, x2, y2 = window.xyxy
        seen = objects[(objects[:, 0] < x2) & (objects[:, 1] < y2) & (objects[:, 2] > x1) & (objects[:, 3] > y1)]
        seen[:, :4] += noise.normal(0, 0.5, (len(seen), 4)) - [x1, y1, x1, y1]  # a network sees no two windows alike
        np.clip(seen[:, :4], 0, CHIP_SIZE, out=seen[:, :4])
        seen = seen[(seen[:, 2:4] > seen[:, :2]).all(axis=1)]
        places = np.sort(noise.permutation(N_ROWS)[: len(seen)])
        rows[places] = torch.from_numpy(seen).float()
    real = found[..., 4] > 0
    found[..., 4][real] = found[..., 4][real].logit().bfloat16().float().sigmoid()  # as a GPU computes them
    return found


def detect(scene: Path, found: Tensor, n_classes: int, **only: Any) -> None:
    """Detect what the tensors say, in all windows or some."""
    gd.detect_objects(scene, Free(found, n_classes), nms_iou=NMS_IOU, progress=False, **only)


def best_of(repeats: int, run: Callable[[], object], clocks: Sequence[Callable[[], float]]) -> list[float]:
    """Return what each clock counts while `run` runs, in seconds, the least of several repeats."""
    counted = []
    for _ in range(repeats):
        starts = [clock() for clock in clocks]
        run()
        counted.append([clock() - start for clock, start in zip(clocks, starts, strict=True)])
    return np.min(counted, axis=0).tolist()


def main(argv: list[str]) -> None:
    """Measure and write a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8000, help="of the scene, in pixels")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", action="store_true")
    choices = parser.parse_args(argv)
    side, repeats = (900, 1) if choices.tiny else (choices.side, choices.repeats)
    tiling = Tiling((side, side), CHIP_SIZE, OVERLAP)
    sys.stdout.write(f"{len(tiling)} windows, {torch.get_num_threads()} threads of torch\n")
    with tempfile.TemporaryDirectory() as folder:
        for n_boxes, n_classes in LOADS:
            found = candidates_of(tiling, n_boxes, n_classes)
            for kind, profile in KINDS.items():
                scene = Path(folder) / f"{kind}.tif"
                if not scene.exists():
                    write_scene(scene, side, profile)
                once, every = (
                    np.array(best_of(repeats, lambda: detect(scene, found, n_classes, **only), CLOCKS))  # noqa: B023
                    for only in ({"aoi": ONE_WINDOW}, {})
                )
                main_ms, all_ms = 1000 * (every - once) / (len(tiling) - 1)
                sys.stdout.write(
                    f"{n_boxes} boxes, {n_classes} classes, {kind}: main thread {main_ms:.3f} ms a window and "
                    f"{1000 * once[0]:.0f} ms once, all threads {all_ms:.3f} and {1000 * once[1]:.0f} ms\n"
                )
                sys.stdout.flush()
    for n_boxes, n_classes in LOADS:
        found = candidates_of(Tiling((8 * CHIP_SIZE, 8 * CHIP_SIZE), CHIP_SIZE), n_boxes, n_classes)[:IN_A_BATCH]
        (seconds,) = best_of(5 * repeats, lambda: suppress(found, NMS_IOU), CLOCKS[:1])  # noqa: B023
        sys.stdout.write(
            f"suppression of {len(found)} windows x {n_boxes} boxes, {n_classes} classes: {1000 * seconds:.2f} ms\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

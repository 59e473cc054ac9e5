"""Seconds and memory of detection over a very large scene, most of it empty.

python tests/benchmarks/scenes.py [--side 60000] [--patches 5] [--boxes 0]

Writes a sparse GeoTIFF (three bands, tiles of 512 px) with patches of noise, and runs over it, in a process of its
own, a RetinaNet-ResNet18 with random weights; or, with --boxes, a stand-in that reports so many boxes in every
window that is not empty, to see what their number does to memory. Memory is the process's peak.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from geodetect.boxes import Boxes

PATCH = 2048
CHIP_SIZE, OVERLAP = 512, 64
MIN_SCORE = 0.0105  # random weights leave everything near the prior of 0.01


def sparse_scene(path: Path, side: int, n_patches: int) -> Path:
    """A raster without data but for some patches, of which only these take space on the disk."""
    rng = np.random.default_rng(0)
    profile = {"driver": "GTiff", "width": side, "height": side, "count": 3, "dtype": "uint8", "nodata": 0}
    tiles = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "sparse_ok": True}
    place = {"crs": "EPSG:32645", "transform": Affine(0.3, 0, 350_000, 0, -0.3, 3_060_000), "bigtiff": "YES"}
    with rasterio.open(path, "w", **profile, **tiles, **place) as target:
        for x, y in rng.integers(0, max(side - PATCH, 1), (n_patches, 2)):
            size = min(PATCH, side)
            noise = rng.integers(1, 255, (3, size, size), dtype=np.uint8)
            target.write(noise, window=Window(int(x), int(y), size, size))
    return path


@dataclass(frozen=True)
class Reports:
    """A stand-in that reports so many boxes in each window, which its pixels decide."""

    n_boxes: int
    classes: tuple[str, ...] = ("house", "car")
    bands: tuple[int, ...] = (1, 2, 3)
    chip_size: int = CHIP_SIZE
    overlap: int = OVERLAP
    pixel_size_m: float | None = None
    min_score: float = 0.0

    def detect(self, pixels: np.ndarray) -> list[Boxes]:
        """Random boxes, the same for the same pixels."""
        return [self._of(int(chip.sum(dtype=np.int64))) for chip in pixels]

    def _of(self, seed: int) -> Boxes:
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, CHIP_SIZE - 12, (self.n_boxes, 2))
        xyxy = np.hstack([corners, corners + rng.uniform(4, 12, (self.n_boxes, 2))])
        return Boxes(xyxy, rng.integers(0, 2, self.n_boxes), rng.uniform(0, 1, self.n_boxes))


def network() -> object:
    """A detector with random weights, that reports its best guesses."""
    import torch

    from geodetect.detector import Detector
    from geodetect.network.retinanet import Network
    from geodetect.stretch import Stretch

    torch.manual_seed(0)
    options = {"bands": (1, 2, 3), "stretch": Stretch((127.0,) * 3, (73.0,) * 3)}
    made = Network("resnet18", n_classes=2, weights=None)
    made.class_head.out.bias.data[0] += 1e-6  # it counts as trained, which spares a warning
    return Detector(made, ("house", "car"), chip_size=CHIP_SIZE, overlap=OVERLAP, min_score=MIN_SCORE, **options)


def measured(scene: str, output: str, n_boxes: int) -> None:
    """Runs over the scene, and says in JSON what it took."""
    from geodetect import detect_objects

    model = Reports(n_boxes) if n_boxes else network()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    detect_objects(scene, model, output, progress=False)
    taken = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.stdout.write(json.dumps({"seconds": taken, "before": before / 2**10, "peak": after / 2**10}))


def main(argv: list[str]) -> None:
    """Make the scene, run over it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--patches", type=int, default=5)
    parser.add_argument("--boxes", type=int, default=0)
    parser.add_argument("--only", nargs=2, metavar=("SCENE", "OUTPUT"), help="run over this, in this process")
    choices = parser.parse_args(argv)
    if choices.only:
        measured(*choices.only, choices.boxes)
        return
    import pyogrio

    with tempfile.TemporaryDirectory() as folder:
        scene = sparse_scene(Path(folder) / "scene.tif", choices.side, choices.patches)
        output = Path(folder) / "found.gpkg"
        command = [sys.executable, __file__, "--only", str(scene), str(output), "--boxes", str(choices.boxes)]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        n_found = pyogrio.read_info(output, layer="found")["features"]
        sys.stdout.write(
            f"{choices.side:,} x {choices.side:,} px, {choices.patches} patches: {n_found:,} features in "
            f"{told['seconds']:.0f} s, {told['peak']:,.0f} MiB at most ({told['before']:,.0f} before it began)\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

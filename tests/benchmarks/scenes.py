"""Seconds and memory of detection over a very large scene, most of it empty.

python tests/benchmarks/scenes.py [--side 60000] [--patches 5] [--boxes 0]
python tests/benchmarks/scenes.py --files 31 [--size 256] [--touching] [--boxes 0]

Writes a sparse GeoTIFF (three bands, tiles of 512 px) with patches of noise, and runs over it, in a process of its
own, a RetinaNet-ResNet18 with random weights; or, with --boxes, a stand-in that reports so many boxes in every
window that is not empty, to see what their number does to memory. Memory is the process's peak.

With --files the scene is a folder of so many GeoTIFFs of noise, scattered over 1,100,000 x 1,340,000 px, or, with
--touching, side by side; up to a hundred are also run over one by one, and the seconds of that are summed.
"""

from __future__ import annotations

import argparse
import json
import math
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
ONE_BY_ONE = 100  # files at most
BOX = 1_100_000, 1_340_000  # px, width and height of the ground that files are scattered over
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


def files_of_noise(folder: Path, n_files: int, size: int, *, touching: bool) -> Path:
    """A folder of files, the first two of them in opposite corners of the box, or all of them side by side."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    noise = rng.integers(1, 255, (3, size, size), dtype=np.uint8)
    corners = np.vstack([[[0, 0], np.array(BOX) - size], rng.integers(0, np.array(BOX) - size, (n_files, 2))])
    if touching:
        corners = size * np.column_stack(np.divmod(np.arange(n_files), math.isqrt(n_files)))[:, ::-1]
    tiles = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate"}
    for i, (x, y) in enumerate(corners[:n_files].tolist()):
        place = Affine(0.3, 0, 200_000 + 0.3 * x, 0, -0.3, 3_400_000 - 0.3 * y)
        profile = {"driver": "GTiff", "width": size, "height": size, "count": 3, "dtype": "uint8", **tiles}
        with rasterio.open(folder / f"{i:05d}.tif", "w", crs="EPSG:32645", transform=place, **profile) as target:
            target.write(np.roll(noise, i, axis=2))
    return folder


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
    from geodetect.metadata import Metadata
    from geodetect.network.retinanet import Network
    from geodetect.normalization import Normalization

    torch.manual_seed(0)
    options = {"bands": (1, 2, 3), "normalization": Normalization((127.0,) * 3, (73.0,) * 3)}
    made = Network("resnet18", n_classes=2, weights=None)
    made.class_head.out.bias.data[0] += 1e-6  # it counts as trained, which spares a warning
    options |= {"chip_size": CHIP_SIZE, "overlap": OVERLAP, "min_score": MIN_SCORE}
    return Detector(made, Metadata(classes=("house", "car"), **options))


def measured(scene: str, output: str, n_boxes: int) -> None:
    """Runs over the scene, and says in JSON what it took."""
    from geodetect import detect_objects

    model = Reports(n_boxes) if n_boxes else network()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    detect_objects(scene, model, output, progress=False)
    taken = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    files = sorted(Path(scene).glob("*.tif"))  # none where the scene is a file
    for i, file in enumerate(files if len(files) <= ONE_BY_ONE else []):
        detect_objects(file, model, Path(output).with_name(f"{i}.gpkg"), progress=False)
    alone = time.perf_counter() - start
    told = {"seconds": taken, "before": before / 2**10, "peak": after / 2**10, "alone": alone}
    sys.stdout.write(json.dumps(told))


def main(argv: list[str]) -> None:
    """Make the scene, run over it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=60_000)
    parser.add_argument("--patches", type=int, default=5)
    parser.add_argument("--boxes", type=int, default=0)
    parser.add_argument("--files", type=int, default=0)
    parser.add_argument("--size", type=int, default=256, help="side of a file in pixels")
    parser.add_argument("--touching", action="store_true")
    parser.add_argument("--only", nargs=2, metavar=("SCENE", "OUTPUT"), help="run over this, in this process")
    choices = parser.parse_args(argv)
    if choices.only:
        measured(*choices.only, choices.boxes)
        return
    import pyogrio

    with tempfile.TemporaryDirectory() as folder:
        if choices.files:
            scene = files_of_noise(Path(folder) / "files", choices.files, choices.size, touching=choices.touching)
            what = f"{choices.files:,} files of {choices.size} px, {'touching' if choices.touching else 'scattered'}"
        else:
            scene = sparse_scene(Path(folder) / "scene.tif", choices.side, choices.patches)
            what = f"{choices.side:,} x {choices.side:,} px, {choices.patches} patches"
        output = Path(folder) / "found.gpkg"
        command = [sys.executable, __file__, "--only", str(scene), str(output), "--boxes", str(choices.boxes)]
        told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        n_found = pyogrio.read_info(output, layer="found")["features"]
        alone = f", {told['alone']:.1f} s one by one" if 0 < choices.files <= ONE_BY_ONE else ""
        sys.stdout.write(
            f"{what}: {n_found:,} features in {told['seconds']:.1f} s, {told['peak']:,.0f} MiB at most "
            f"({told['before']:,.0f} before it began){alone}\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Kills training at random moments, goes on with it, and compares the model's file with an undisturbed run's.

python tests/benchmarks/kills_training.py [fit | cli] [--kills 100] [--epochs 4]

A RetinaNet-ResNet18 from random weights on 12 chips of 64 px, by `RetinaNet.fit` with checkpoint, resume and save_as,
or by `geodetect train` with --checkpoint and --resume. Every process is killed by SIGKILL between the start of its
first epoch and its end. After each kill the folder of states is empty or holds a state that can be gone on with, and
the model's file, if it is there, can be loaded. A run that comes to its end has to leave what the undisturbed run
left, bit for bit, and the next begins anew; nothing hidden may be left but what was being written at the kill.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
from affine import Affine

from geodetect.detector import load_detector
from geodetect.detector.file import checksum, read_safetensors
from geodetect.learner import checkpoints

SIDE, CHIP_SIZE, BATCH_SIZE = 256, 64, 2
PLACE = Affine(0.5, 0, 353_000, 0, -0.5, 3_057_000)
BY_PYTHON = """
import sys
import geodetect as gd
raster, labels, model, states, chip_size, batch_size, epochs = sys.argv[1:]
data = gd.prepare_data(raster, labels, chip_size=int(chip_size), batch_size=int(batch_size), num_workers=0)
learner = gd.RetinaNet(data, backbone="resnet18", weights=None, scales="auto", device="cpu")
learner.fit(int(epochs), checkpoint=states, resume=True, save_as=model)
"""


def scene(folder: Path) -> tuple[Path, Path]:
    """A raster of noise with bright squares, and their labels."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60, (3, SIDE, SIDE), dtype=np.uint8)
    corners = np.array([(x, y) for x in range(8, SIDE, 32) for y in range(8, SIDE, 32)]) + rng.integers(0, 12, (64, 2))
    for x, y in corners:
        pixels[:, y : y + 12, x : x + 12] += 180
    raster, labels = folder / "scene.tif", folder / "labels.gpkg"
    profile = {"driver": "GTiff", "count": 3, "width": SIDE, "height": SIDE, "dtype": "uint8"}
    with rasterio.open(raster, "w", **profile, crs="EPSG:32645", transform=PLACE) as target:
        target.write(pixels)
    squares = shapely.transform(shapely.box(*corners.T, *(corners + 12).T), lambda xy: np.c_[PLACE * xy.T])
    gpd.GeoDataFrame({"label": "square"}, geometry=squares, crs="EPSG:32645", index=range(len(squares))).to_file(labels)
    return raster, labels


@dataclass(frozen=True)
class Training:
    """A training that can be started again and again.

    Args:
        command: to which the model's file and the folder of states are added.
        folder: where both lie.
    """

    command: list[str]
    folder: Path

    @property
    def model(self) -> Path:
        """What a training that came to its end leaves."""
        return self.folder / "model.safetensors"

    @property
    def states(self) -> Path:
        """What one that did not leaves."""
        return self.folder / "states"

    def started(self) -> subprocess.Popen[str]:
        """A process, which is in its first epoch when this returns."""
        places = {"MODEL": str(self.model), "STATES": str(self.states)}
        command = [places.get(word, word) for word in self.command]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while "train_loss" not in (line := process.stdout.readline()):
            assert line, "the training ended before it began"
        return process

    def check(self) -> str:
        """Whatever a kill left can be used; returns what that was."""
        unfinished = [path for path in self.folder.rglob(".*") if path.is_file()]
        known = {self.model, self.states, self.states / checkpoints.FILE, *unfinished}
        assert set(self.folder.rglob("*")) <= known, set(self.folder.rglob("*")) - known
        state = checkpoints.read(self.states)
        left = ["no state" if state is None else f"{state.facts['n_done']} epochs"]
        if self.model.exists():
            load_detector(self.model, device="cpu")
            left.append("a model")
        for path in unfinished:
            left.append("an unfinished file")
            path.unlink()
        return ", ".join(left)

    @property
    def checksum(self) -> str:
        """Of all that the model's file holds, which is right; the order in which it holds it is not settled."""
        weights, metadata = read_safetensors(self.model)
        assert checksum(metadata, weights) == metadata["checksum"]
        return metadata["checksum"]

    def clear(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()


def training(by: str, folder: Path, epochs: int) -> Training:
    """A training in a folder of its own."""
    raster, labels = map(str, scene(folder))
    runs = folder / "runs"
    runs.mkdir()
    if by == "fit":
        numbers = [str(CHIP_SIZE), str(BATCH_SIZE), str(epochs)]
        return Training([sys.executable, "-c", BY_PYTHON, raster, labels, "MODEL", "STATES", *numbers], runs)
    options = (
        f"--chip-size {CHIP_SIZE} --batch-size {BATCH_SIZE} --num-workers 0 --backbone resnet18 --weights none".split()
    )
    more = f"--scales auto --device cpu --epochs {epochs} --checkpoint STATES --resume".split()
    command = [sys.executable, "-m", "geodetect", "train", raster, "MODEL", "--labels", labels]
    return Training([*command, *options, *more], runs)


def main(argv: list[str]) -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("by", choices=["fit", "cli"], nargs="?", default="fit")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    choices = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        trained = training(choices.by, Path(name), choices.epochs)
        process = trained.started()
        start = time.perf_counter()
        assert process.wait() == 0
        length = time.perf_counter() - start
        whole = trained.checksum
        sys.stdout.write(f"undisturbed: {length:.1f} s from the first epoch on, checksum {whole[:16]}...\n")
        trained.clear()
        left, n_ended = Counter[str](), 0
        while left.total() < choices.kills:
            process = trained.started()
            try:
                assert process.wait(timeout=rng.uniform(0, 0.7) * length) == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                left[trained.check()] += 1
                continue
            n_ended += 1
            assert trained.checksum == whole
            trained.clear()
        assert trained.started().wait() == 0
        assert trained.checksum == whole
    sys.stdout.write(f"killed {left.total()} times; {n_ended + 1} runs came to their end, with the same file each\n")
    for what, n in sorted(left.items()):
        sys.stdout.write(f"{n} kills left {what}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

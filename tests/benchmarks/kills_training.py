"""Kills training at random moments, goes on with it, and compares the model's file with an undisturbed run's.

python tests/benchmarks/kills_training.py [fit | cli] [--kills 100] [--epochs 4]

A RetinaNet-ResNet18 from random weights on 12 chips of 64 px, by `RetinaNet.fit` with checkpoint, resume and save_as,
or by `geodetect train` with --checkpoint and --resume. Every process is killed by SIGKILL between the start of its
first epoch and its end. After each kill the folder of states is empty or holds a state that can be gone on with, and
the model's file, if it is there, can be loaded. A run that comes to its end has to leave what the undisturbed run
left, bit for bit, and the next begins anew; nothing hidden may be left but what was being written at the kill.
Processes are forked from one that has loaded the libraries, which takes longer than the training.
"""

from __future__ import annotations

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import torch
from affine import Affine

import geodetect as gd
from geodetect import load_detector
from geodetect.cli.main import main as command_line
from geodetect.detector.file import checksum, read_safetensors
from geodetect.learner import checkpoints

SIDE, CHIP_SIZE, BATCH_SIZE = 256, 64, 2
PLACE = Affine(0.5, 0, 353_000, 0, -0.5, 3_057_000)


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
        by: "fit" or "cli".
        raster: what it learns from.
        labels: likewise.
        folder: where its files go.
        epochs: how long it is.
    """

    by: str
    raster: Path
    labels: Path
    folder: Path
    epochs: int

    @property
    def model(self) -> Path:
        """What a training that came to its end leaves."""
        return self.folder / "model.safetensors"

    @property
    def states(self) -> Path:
        """What one that did not leaves."""
        return self.folder / "states"

    def run(self) -> None:
        """Train, or go on."""
        sizes = {"chip_size": CHIP_SIZE, "batch_size": BATCH_SIZE, "num_workers": 0}
        network = {"backbone": "resnet18", "scales": "auto", "device": "cpu"}
        if self.by == "fit":
            data = gd.prepare_data(self.raster, self.labels, **sizes)
            learner = gd.RetinaNet(data, weights=None, **network)
            learner.fit(self.epochs, checkpoint=self.states, resume=True, save_as=self.model)
            return
        choices = sizes | network | {"labels": self.labels, "epochs": self.epochs, "checkpoint": self.states}
        options = [f"--{name.replace('_', '-')}={value}" for name, value in choices.items()]
        command_line(["train", str(self.raster), str(self.model), "--weights=none", "--resume", *options])

    def started(self) -> ForkProcess:
        """A process, which is in its first epoch when this returns."""
        said = self.folder.with_name("said.txt")
        said.unlink(missing_ok=True)

        def work() -> None:
            sys.stdout = said.open("w", encoding="utf-8", buffering=1)
            self.run()

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        while not (said.exists() and "train_loss" in said.read_text(encoding="utf-8")):
            assert process.is_alive(), "the training ended before it began"
            time.sleep(0.005)
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


def main(argv: list[str]) -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("by", choices=["fit", "cli"], nargs="?", default="fit")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=4)
    choices = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    torch.set_num_threads(1)  # forked processes have none of the threads that their parent's torch has started
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = folder / "runs"
        runs.mkdir()
        trained = Training(choices.by, *scene(folder), runs, choices.epochs)
        process = trained.started()
        start = time.perf_counter()
        process.join()
        length = time.perf_counter() - start
        whole = trained.checksum
        sys.stdout.write(f"undisturbed: {length:.1f} s from the first epoch on, checksum {whole[:16]}...\n")
        sys.stdout.flush()
        trained.clear()
        left, n_ended = Counter[str](), 0
        while left.total() < choices.kills or trained.states.exists():
            process = trained.started()
            process.join(rng.uniform(0, 0.7) * length if left.total() < choices.kills else None)
            if process.is_alive():
                process.kill()
                process.join()
                left[trained.check()] += 1
                continue
            assert process.exitcode == 0
            assert trained.checksum == whole
            n_ended += 1
            trained.clear()
    sys.stdout.write(f"killed {left.total()} times; {n_ended} runs came to their end, with the same file each\n")
    for what, n in sorted(left.items()):
        sys.stdout.write(f"{n} kills left {what}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

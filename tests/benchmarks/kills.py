"""Kills detection at random moments, goes on with it, and compares the features with an undisturbed run's.

python tests/benchmarks/kills.py [--kills 20] [--side 1500] [--precision auto] [--stand-in]

A RetinaNet-ResNet18 with random weights over a scene of noise, on the command line; or, with --stand-in, a detector
that reports 300 boxes a window, so that half of the time goes into putting together and writing, and three files
of one run. Every process is killed by SIGKILL at a moment drawn from the length of the undisturbed run, and the next
goes on with --resume. Whatever lies under an output's name at that moment has to be complete. A run that ends before
its moment is compared, and the next begins anew.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from scenes import Reports, network, sparse_scene

from geodetect.scene import detect_objects
from geodetect.vector.opening import open_features

SUFFIXES = (".gpkg", ".parquet", ".shp")  # of the stand-in's files
SECONDS_A_BATCH = 0.02


@dataclass(frozen=True)
class Slow(Reports):
    """A stand-in that takes its time."""

    n_boxes: int = 300

    def detect(self, pixels: np.ndarray) -> list:
        """As many boxes as told, after a while."""
        time.sleep(SECONDS_A_BATCH)
        return super().detect(pixels)


def content(path: Path) -> list[tuple[str, float, bytes]]:
    """Label, score and geometry of every feature, in their order; and the ground of a file that holds it."""
    frame = open_features(path).frame
    rows = list(zip(frame["label"], frame["score"], shapely.to_wkb(frame.geometry), strict=True))
    if path.suffix == ".gpkg":
        rows += [("searched", 0.0, each) for each in shapely.to_wkb(gpd.read_file(path, layer="searched").geometry)]
    return rows


@dataclass
class Trial:
    """Runs that are killed, and what they have to come to.

    Args:
        command: that runs once; the files to write follow it.
        folder: where they lie.
        names: of those files.
        whole: what each holds after an undisturbed run.
    """

    command: list[str]
    folder: Path
    names: list[str]
    whole: dict[str, list] = field(default_factory=dict)

    def started(self) -> subprocess.Popen[bytes]:
        """A run that goes on with what is there."""
        return subprocess.Popen([*self.command, *(str(self.folder / name) for name in self.names)])

    def undisturbed(self) -> float:
        """How long a run takes, once `whole` is known."""
        start = time.perf_counter()
        assert self.started().wait() == 0
        length = time.perf_counter() - start
        self.whole = {name: content(self.folder / name) for name in self.names}
        return length

    def check(self, *, ended: bool) -> None:
        """Raise if a file is not what it has to be, or something is left over where a run has ended."""
        for name in self.names:
            if ended or (self.folder / name).exists():
                assert content(self.folder / name) == self.whole[name], name
        allowed = {
            *self.names,
            "found.dbf",
            "found.shx",
            "found.cpg",
            "found.prj",
            *([] if ended else ["found.journal", ".found.lock"]),
        }
        assert {file.name for file in self.folder.iterdir()} <= allowed

    def cleared(self) -> None:
        """Nothing is left of the last run."""
        for file in self.folder.iterdir():
            file.unlink()


def trial(choices: argparse.Namespace, folder: Path) -> Trial:
    """What is to be run."""
    out = folder / "out"
    out.mkdir()
    scene = str(sparse_scene(folder / "scene.tif", choices.side, 1))
    if choices.stand_in:
        return Trial([sys.executable, __file__, "--child", scene], out, [f"found{suffix}" for suffix in SUFFIXES])
    model = str(network().save(folder / "model.safetensors"))
    options = ["--batch-size", "2", "--chip-size", "256", "--overlap", "64", "--precision", choices.precision]
    command = [sys.executable, "-m", "geodetect", "detect", "--no-progress", "--resume", *options, scene, model]
    return Trial(command, out, ["found.gpkg"])


def main(argv: list[str]) -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    choices = parser.parse_args(argv)
    if choices.child:
        scene, *outputs = choices.child
        detect_objects(scene, Slow(), outputs, batch_size=2, resume=True, progress=False)
        return
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        runs = trial(choices, Path(name))
        length = runs.undisturbed()
        sys.stdout.write(f"undisturbed: {len(runs.whole[runs.names[0]]):,} features in {length:.1f} s\n")
        runs.cleared()
        n_killed, n_ended, n_kept, n_writing = 0, 0, [], 0
        while n_killed < choices.kills:
            process = runs.started()
            try:
                ended = process.wait(timeout=rng.uniform(0, 1.05) * length) == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_killed += 1
                n_kept.append(len(list(runs.folder.glob("found.journal/strip-*.arrow"))))
                n_writing += (runs.folder / "found.journal" / "unfinished").exists()
                runs.check(ended=False)
                continue
            assert ended
            n_ended += 1
            runs.check(ended=True)
            runs.cleared()
        assert runs.started().wait() == 0
        runs.check(ended=True)
        sys.stdout.write(
            f"killed {n_killed} times, {n_writing} while files were written, with so many strips done: {n_kept}\n"
            f"{n_ended + 1} runs came to their end, all with the same features in the same order, nothing left over\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Kills `geodetect detect` at random moments, goes on with it, and compares the features with an undisturbed run's.

python tests/benchmarks/kills.py [--kills 20] [--side 1500] [--precision auto]

A RetinaNet-ResNet18 with random weights over a scene of noise; every process is killed by SIGKILL at a moment drawn
from the length of the undisturbed run, and the next goes on with --resume. A run that ends before its
moment is compared, and the next begins anew.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from scenes import network, sparse_scene


def content(path: Path) -> list[tuple[str, float, bytes]]:
    """Label, score and geometry of every feature, in their order."""
    frame = gpd.read_file(path, layer=path.stem)
    return list(zip(frame["label"], frame["score"], shapely.to_wkb(frame.geometry), strict=True))


def main(argv: list[str]) -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--side", type=int, default=1500)
    parser.add_argument("--precision", default="auto")
    choices = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene = sparse_scene(folder / "scene.tif", choices.side, 1)
        model = network().save(folder / "model.safetensors")
        command = [sys.executable, "-m", "geodetect", "detect", str(scene), str(model), "--no-progress", "--resume"]
        options = ["--batch-size", "2", "--chip-size", "256", "--overlap", "64", "--precision", choices.precision]

        def started(output: Path) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*command, str(output), *options], stdout=subprocess.DEVNULL)

        start = time.perf_counter()
        assert started(folder / "whole.gpkg").wait() == 0
        length = time.perf_counter() - start
        whole = content(folder / "whole.gpkg")
        sys.stdout.write(f"undisturbed: {len(whole):,} features in {length:.1f} s\n")
        output, n_killed, n_ended, n_kept = folder / "found.gpkg", 0, 0, []
        while n_killed < choices.kills:
            process = started(output)
            try:
                ended = process.wait(timeout=rng.uniform(0, 1.05) * length) == 0
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                n_killed += 1
                n_kept.append(len(list(folder.glob("found.journal/strip-*.arrow"))))
                continue
            assert ended
            n_ended += 1
            assert content(output) == whole
            output.unlink()
        assert started(output).wait() == 0
        assert content(output) == whole
        assert not list(folder.glob("*.journal"))
        sys.stdout.write(
            f"killed {n_killed} times, with so many strips done: {n_kept}; {n_ended + 1} runs came to their end, "
            "all with the same features in the same order\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

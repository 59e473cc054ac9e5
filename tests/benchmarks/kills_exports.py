"""Kills `export_training_data` at random moments, goes on with it, and compares the folder with an undisturbed run's.

python tests/benchmarks/kills_exports.py [--kills 200] [--side 3000]

Small exports of the drawn suburb and large ones of a scene of noise, in all formats of labels and chips in turn. Every
process is killed by SIGKILL at a moment drawn from the length of the undisturbed run, every second one after its chips
are cut, and the next goes on. A run that ends before its moment is compared byte by byte, is asked to run again, which
must not change it, and begins anew.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import shapely
from scenes import sparse_scene

import geodetect as gd
from geodetect.chips.formats import FORMATS
from geodetect.raster import RasterReader

SUBURB = Path(__file__).resolve().parents[2] / "sample_data/suburb_train.tif"


class Export(NamedTuple):
    """What is exported, and how."""

    raster: Path
    labels: Path
    metadata_format: str
    chip_format: str
    chip_size: int

    def run(self, out_dir: Path) -> None:
        """Cut the chips."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            choices = {"metadata_format": self.metadata_format, "chip_format": self.chip_format}
            gd.export_training_data(
                self.raster, self.labels, out_dir, **choices, chip_size=self.chip_size, negatives=0.3, progress=False
            )


def random_labels(raster: Path, n_labels: int) -> Path:
    """Boxes of three classes all over a scene, in a file beside it."""
    rng = np.random.default_rng(1)
    with RasterReader(raster) as reader:
        grid = reader.grid
    corners = rng.uniform(0, min(grid.shape) - 40, (n_labels, 2))
    boxes = shapely.box(*np.hstack([corners, corners + rng.uniform(8, 40, (n_labels, 2))]).T)
    names = np.array(["car", "pool", "roof"])[rng.integers(0, 3, n_labels)]
    path = raster.with_suffix(".gpkg")
    gpd.GeoDataFrame({"label": names}, geometry=shapely.transform(boxes, grid.to_map), crs=grid.crs).to_file(path)
    return path


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, and every folder in it, hidden ones too."""
    paths = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in paths}


def killed(export: Export, out_dir: Path, moment_s: float, n_chips: int = 0) -> bool:
    """Whether a run had to be killed, or ended before; the moment counts from when it has cut so many chips."""
    process = multiprocessing.get_context("fork").Process(target=export.run, args=(out_dir,))
    process.start()
    while process.is_alive() and len(list(out_dir.glob(f"images/*.{export.chip_format}"))) < n_chips:
        time.sleep(0.001)
    process.join(moment_s)
    process.kill()
    process.join()
    assert process.exitcode in (0, -9), process.exitcode
    return process.exitcode != 0


def main(argv: list[str]) -> None:
    """Kill, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--side", type=int, default=3000)
    choices = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = sparse_scene(folder / "noise.tif", choices.side, 12)
        sources = [(SUBURB, SUBURB.with_suffix(".geojson"), 256), (noise, random_labels(noise, 2000), 128)]
        kinds = zip(FORMATS, itertools.cycle(("tif", "png", "jpg")))
        exports = [Export(raster, labels, *kind, size) for kind in kinds for raster, labels, size in sources]
        whole, lengths = [], []
        for number, export in enumerate(exports):
            start = time.perf_counter()
            assert not killed(export, folder / f"whole{number}", 600)
            lengths.append(time.perf_counter() - start)
            whole.append(content(folder / f"whole{number}"))
        found: Counter[str] = Counter()
        n_ended = 0

        def compare(number: int) -> None:
            out_dir = folder / f"out{number}"
            assert content(out_dir) == whole[number], exports[number]
            assert not killed(exports[number], out_dir, 600)
            assert content(out_dir) == whole[number], exports[number]
            shutil.rmtree(out_dir)

        for number in itertools.cycle(range(len(exports))):
            out_dir = folder / f"out{number}"
            if found.total() == choices.kills:
                break
            # Every second one is killed while labels and the map are written.
            n_chips = (found.total() % 2) * sum(each.endswith(exports[number].chip_format) for each in whole[number])
            if killed(exports[number], out_dir, rng.uniform(0, 0.1 if n_chips else 1.1) * lengths[number], n_chips):
                parts = {Path(each).parts[0] for each in content(out_dir)}
                found[", ".join(sorted(parts)) or "nothing yet"] += 1
            else:
                compare(number)
                n_ended += 1
        for number, export in enumerate(exports):
            assert not killed(export, folder / f"out{number}", 600)
            compare(number)
            n_ended += 1
        sizes = sorted(len(each) for each in whole)
        sys.stdout.write(
            f"{len(exports)} exports of {sizes[0]} to {sizes[-1]} files in {min(lengths):.1f} to {max(lengths):.1f} s: "
            f"killed {found.total()} times; {n_ended} runs came to their end, every folder equal byte by byte, nothing "
            "hidden left\n"
        )
        for state, n in found.most_common():
            sys.stdout.write(f"{n:4} killed with {state}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

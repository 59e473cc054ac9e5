"""Every odd raster and vector file of the collections: read, or refused in one sentence, and nothing else.

python tests/benchmarks/torture.py [--data ../shared/data] [--jobs 2]

Each file is opened in a child process of its own that may use 3 GB of memory and 20 s. Children are forked from a
process that has loaded the libraries, which takes longer than most files.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from affine import Affine

from geodetect.errors import GeodetectError
from geodetect.grid import Grid, Window
from geodetect.raster import RasterReader
from geodetect.vector.labels import Labels
from geodetect.vector.opening import open_features

MEMORY_BYTES = 3 << 30
SECONDS = 20
LARGEST = 2048  # px; what is read of a raster
RASTERS = "torture_raster/gdal_autotest", "torture_raster/rasterio"
VECTORS = (
    "torture_vector/fiona",
    "torture_vector/gdal_autotest",
    "torture_vector/naip_aircraft_labels",
    "torture_vector/pyogrio",
)
NO_DATA = {"SOURCE.txt", "manifest.csv", "README.md", "LICENSE.txt", "LICENSE"}  # tell of the others


def read_raster(path: Path) -> str:
    """What of the raster was read: all of it, or its corner."""
    with RasterReader(path) as reader:
        height, width = (min(side, LARGEST) for side in reader.grid.shape)
        pixels, valid = reader.read(Window(0, 0, width, height))
        assert pixels.shape == (reader.n_bands, height, width)
        assert valid.shape == (height, width)
    return "read"


def read_vector(path: Path) -> str:
    """The labels of a vector file on a grid that covers them."""
    frame = open_features(path).frame
    x1, y1, x2, y2 = frame.total_bounds
    side = max(x2 - x1, y2 - y1)
    size = side / 1000 if side > 0 else 1.0  # what is empty or a point gets some grid, and then a sentence
    place = Affine(size, 0, x1, 0, -size, y2) if math.isfinite(x1) else Affine.identity()
    grid = Grid((1000, 1000), place, frame.crs)
    labels = Labels(path, point_radius_m=5).on([grid])[0]
    assert len(labels.polygons) == len(labels.names) > 0
    return "read"


def in_child(work: Callable[[Path], str], path: Path, answer: Connection) -> None:
    """Sends how it went, under the limits; a child that says nothing crashed."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    warnings.simplefilter("ignore")
    try:
        answer.send((work(path), ""))
    except GeodetectError as error:
        answer.send(("refused", str(error)))
    except BaseException as error:  # whatever it is, it is what is looked for
        answer.send(("traceback", f"{type(error).__name__}: {error}"))


def outcome(work: Callable[[Path], str], path: Path) -> tuple[Path, str, str]:
    """How one file went, and what was said."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_child, args=(work, path, theirs))
    child.start()
    theirs.close()
    try:
        kind, said = mine.recv() if mine.poll(SECONDS) else ("timeout", f"more than {SECONDS} s")
    except EOFError:
        kind, said = "crash", ""
    if kind == "timeout":
        child.kill()
    child.join()
    if kind == "crash":
        said = f"exit code {child.exitcode}"
    return path, kind, said


def files(data: Path, folders: tuple[str, ...]) -> Iterator[Path]:
    """The files of the collections, those that only describe them left out."""
    for folder in folders:
        yield from sorted(path for path in (data / folder).rglob("*") if path.is_file() and path.name not in NO_DATA)


def main(argv: list[str]) -> int:
    """Write a table of counts, and each file that was neither read nor refused; exit code 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--messages", action="store_true", help="write what was said of each file that was refused")
    choices = parser.parse_args(argv)
    counts: dict[str, Counter[str]] = {}
    bad = 0
    for name, work, folders in (("rasters", read_raster, RASTERS), ("vector files", read_vector, VECTORS)):
        with ThreadPoolExecutor(choices.jobs) as pool:
            for path, kind, said in pool.map(partial(outcome, work), files(choices.data, folders)):
                counts.setdefault(f"{name}, {path.relative_to(choices.data).parts[1]}", Counter())[kind] += 1
                if kind not in ("read", "refused") or (choices.messages and said):
                    sys.stdout.write(f"{kind}: {path.relative_to(choices.data)}: {said}\n")
                bad += kind not in ("read", "refused")
    kinds = ["read", "refused", "traceback", "crash", "timeout"]
    sys.stdout.write(f"| files | {' | '.join(kinds)} |\n|---|{'---|' * len(kinds)}\n")
    for name, count in counts.items():
        sys.stdout.write(f"| {name} | {' | '.join(str(count[kind]) for kind in kinds)} |\n")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

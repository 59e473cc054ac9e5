"""Seconds and memory of `compute_accuracy` on many boxes; the share that a slow but plain matching takes of a few.

python tests/benchmarks/accuracy.py [--boxes 100000] [--compare 3000]
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the oracle lies beside the tests

from geodetect.accuracy import compute_accuracy
from geodetect.boxes import Boxes
from tests import oracles

NAMES = np.array(["house", "shed", "pool"])


def town(n_boxes: int, density: float) -> tuple[Boxes, Boxes]:
    """Detections and objects in metres, about `density` objects over each place; two in three found, to a metre."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 15 * np.sqrt(n_boxes / density), (n_boxes, 2))
    true = np.c_[corners, corners + rng.uniform(8, 22, (n_boxes, 2))]
    labels = rng.integers(0, len(NAMES), n_boxes)
    strays = rng.permutation(n_boxes)[: n_boxes // 3]
    seen = true + rng.uniform(-1, 1, (n_boxes, 4))
    seen[strays] += np.tile(rng.uniform(-500, 500, (len(strays), 2)), 2)
    return Boxes(seen, labels, rng.random(n_boxes)), Boxes(true, labels)


def frame(boxes: Boxes, crs: int) -> gpd.GeoDataFrame:
    """The boxes as features in UTM 45 N, brought to `crs`."""
    columns = {"label": NAMES[boxes.labels]} | ({} if boxes.scores is None else {"score": boxes.scores})
    polygons = shapely.box(*(boxes.xyxy + np.tile([353_000, 3_057_000], 2)).T)
    return gpd.GeoDataFrame(columns, geometry=polygons, crs=32645).to_crs(crs)


def main(argv: list[str]) -> None:
    """Time boxes and polygons, sparse and crowded, the labels in degrees; compare the counts of a few."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=100_000)
    parser.add_argument("--compare", type=int, default=3_000)
    choices = parser.parse_args(argv)
    for name, density in (("sparse", 0.5), ("crowded", 10.0)):
        found, truth = (
            frame(boxes, crs) for boxes, crs in zip(town(choices.boxes, density), (32645, 4326), strict=True)
        )
        for shape in ("box", "polygon"):
            start = time.perf_counter()
            row = compute_accuracy(found, truth, shape=shape).table.loc["all"]
            sys.stdout.write(f"{name}, {shape}: {time.perf_counter() - start:.1f} s; F1 {row['f1']:.3f}\n")
        few = town(choices.compare, density)
        start = time.perf_counter()
        plain = sum(partner >= 0 for partner in oracles.match(*few, 0.5))
        half = time.perf_counter()
        ours = int(compute_accuracy(*(frame(boxes, 32645) for boxes in few)).table.loc["all", "tp"])
        took = time.perf_counter() - half
        sys.stdout.write(
            f"{name}, {choices.compare:,} boxes: {took:.2f} s, loops over all pairs {half - start:.1f} s "
            f"({(half - start) / took:.0f} times as long); {ours:,} and {plain:,} found\n"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    sys.stdout.write(f"{choices.boxes:,} x {choices.boxes:,} boxes; peak memory of all {peak:.2f} GB\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Oriented boxes against upright ones, and their two losses, by IoU of polygons on ground that no training saw.

    python tests/benchmarks/oriented.py [--place suburb] [--steps 500] [--seeds 42] [--kinds upright oriented gaussian]
        [--pixel-size 0.15] [NAME=VALUE ...]

Each kind trains on the same ground in batches of 4, with anchors fitted to its own boxes, and makes a map of the ground
that is scored: the test scene of the drawn suburb, or the east of the part of Banepa that other benchmarks train on
("banepa", real data). A line gives average precision at IoU 0.5 of polygons and the seconds of processor time of the
training, of the map that is scored, and of one at the score that validation chose; run it with one thread. A pixel size
is one to read both grounds at, in metres.
"oriented" is `giou=False`, smooth L1; "gaussian" and "upright" have the default loss, which compares oriented boxes as
Gaussians. NAME=VALUE is a parameter of `RetinaNet`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from places import REAL_DATA, SUBURB, WEST
from recipe import parsed
from shapely import Polygon, box

import geodetect as gd
from geodetect.raster import RasterReader

_BATCH_SIZE = 4


class Ground(NamedTuple):
    """Where to learn and where to score: raster, labels, area of interest, and pixel size in metres."""

    raster: Path
    labels: Path
    aoi: Polygon | None
    pixel_size_m: float | None


def grounds(place: str) -> tuple[Ground, Ground]:
    """The ground to train on, and the ground that is scored."""
    if place == "suburb":
        train, test = (
            Ground(SUBURB / f"suburb_{part}.tif", SUBURB / f"suburb_{part}.geojson", None, None)
            for part in ("train", "test")
        )
        return train, test
    scene = REAL_DATA / "scenes" / "banepa"
    raster = scene / "banepa_utm45n_15cm.tif"
    with RasterReader(raster) as reader:
        x1, y1, x2, y2 = reader.grid.bounds
    # The east third stays closed: only the last figures of the main job look at it.
    open_to = x1 + WEST * (x2 - x1)
    middle = x1 + WEST * (open_to - x1)
    west, east = box(x1, y1, middle, y2), box(middle, y1, open_to, y2)
    return Ground(raster, scene / "buildings_4326.geojson", west, 0.3), Ground(
        raster, scene / "buildings_4326.geojson", east, 0.3
    )


def score(train: Ground, test: Ground, kind: str, seed: int, steps: int, choices: dict[str, Any]) -> str:
    """Train one kind, map the ground that is scored, and say how good the map is."""
    data = gd.prepare_data(
        train.raster,
        train.labels,
        aoi=train.aoi,
        pixel_size_m=train.pixel_size_m,
        chip_size=256,
        overlap=128 if train.aoi is not None else None,
        boxes="upright" if kind == "upright" else "oriented",
        batch_size=_BATCH_SIZE,
        seed=seed,
    )
    model = gd.RetinaNet(data, seed=seed, scales="auto", giou=kind != "oriented", **choices)
    start = time.process_time()
    model.fit(max(1, round(steps * _BATCH_SIZE / len(data.train))), progress=False)
    trained = time.process_time()
    found = model.detect(test.raster, aoi=test.aoi, min_score=0.05, progress=False)
    mapped = time.process_time()
    model.detect(test.raster, aoi=test.aoi, progress=False)
    shown = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the ground that was searched, which is the aoi
        ap = gd.compute_accuracy(found, test.labels, aoi=test.aoi, shape="polygon").table["ap"]
    return f"AP50 {', '.join(f'{name} {value:.3f}' for name, value in ap.items())}; " + (
        f"{trained - start:.0f} s of training, {mapped - trained:.2f} s of the map from score 0.05 on, "
        f"{shown - mapped:.2f} s of one at the score of validation"
    )


def main(argv: list[str]) -> None:
    """Write a line for each kind and seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--place", choices=["suburb", "banepa"], default="suburb")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument(
        "--kinds", nargs="+", choices=["upright", "oriented", "gaussian"], default=["upright", "oriented"]
    )
    parser.add_argument("--pixel-size", type=float)
    parser.add_argument("choices", nargs="*", metavar="NAME=VALUE")
    given = parser.parse_args(argv)
    choices = parsed(given.choices)
    train, test = grounds(given.place)
    if given.pixel_size is not None:
        train, test = (ground._replace(pixel_size_m=given.pixel_size) for ground in (train, test))
    for seed in given.seeds:
        for kind in given.kinds:
            line = score(train, test, kind, seed, given.steps, choices)
            sys.stdout.write(f"{given.place}, {kind}, seed {seed}: {line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

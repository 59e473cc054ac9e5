"""How many objects of a scene seen in windows are those of one window over everything, with a real network.

python tests/benchmarks/seams.py MODEL [--raster sample_data/suburb_test.tif] [--chip-size 256] [--overlap 64]

MODEL is a trained detector, such as the one that `geodetect demo` leaves. With a network a window's content depends a
little on where the window lies (padding, strides), so the law that holds exactly without one is measured as a rate.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import rasterio

from geodetect import detect_objects
from geodetect.boxes import overlapping

SAME_IOU = 0.75


def matched(a: object, b: object) -> np.ndarray:
    """Which features of `a` have one of the same label in `b` that overlaps by more than `SAME_IOU`."""
    i, j, _ = overlapping(a.bounds.to_numpy(), b.bounds.to_numpy(), SAME_IOU)
    alike = a["label"].to_numpy()[i] == b["label"].to_numpy()[j]
    found = np.zeros(len(a), bool)
    found[i[alike]] = True
    return found


def main(argv: list[str]) -> None:
    """Detect both ways and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--raster", default="sample_data/suburb_test.tif")
    parser.add_argument("--chip-size", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=64)
    choices = parser.parse_args(argv)
    with rasterio.open(choices.raster) as raster:
        side = max(raster.width, raster.height)
    tiled = detect_objects(
        choices.raster, choices.model, chip_size=choices.chip_size, overlap=choices.overlap, progress=False
    )
    at_once = detect_objects(choices.raster, choices.model, chip_size=side, overlap=0, progress=False)
    there, back = matched(tiled, at_once), matched(at_once, tiled)
    sys.stdout.write(
        f"in windows of {choices.chip_size} px: {len(tiled)} objects, of which {there.mean():.1%} are among the "
        f"{len(at_once)} of one window, and {back.mean():.1%} of those among them (IoU above {SAME_IOU})\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])

"""How many objects of a scene seen in windows are those of one window over everything, with a real network.

python tests/benchmarks/seams.py MODEL [--raster sample_data/suburb_test.tif] [--chip-size 256] [--overlap 64]

MODEL is a trained detector, such as the one that `geodetect demo` leaves. The raster is cut into squares of twice the
chip size, and each is seen once in one window and once in windows that share pixels. With a network a window's content
depends a little on where the window lies (padding, strides, norms over the window), so the law that holds exactly
without one is measured as a rate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

import geodetect as gd
from geodetect.boxes import find_overlaps
from geodetect.grid import Tiling
from geodetect.raster import RasterReader, write_chip

IOUS = (0.5, 0.75)


def found_twice(a: object, b: object, iou: float) -> int:
    """How many features of `a` have one of the same label in `b` that overlaps by more than `iou`."""
    i, j, _ = find_overlaps(a.bounds.to_numpy(), b.bounds.to_numpy(), iou)
    alike = a["label"].to_numpy()[i] == b["label"].to_numpy()[j]
    return len(np.unique(i[alike]))


def main(argv: list[str]) -> None:
    """Detect both ways, square by square, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--raster", default="sample_data/suburb_test.tif")
    parser.add_argument("--chip-size", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=64)
    choices = parser.parse_args(argv)
    detector = gd.load_detector(choices.model)
    side, pairs = 2 * choices.chip_size, []
    with (
        RasterReader(choices.raster, pixel_size_m=detector.pixel_size_m) as reader,
        tempfile.TemporaryDirectory() as folder,
    ):
        for number, window in enumerate(Tiling(reader.grid.shape, side, 0)):
            pixels, valid = reader.read(window)
            if valid.all() and pixels.shape[1:] == (side, side):
                square = Path(folder) / f"{number}.tif"
                write_chip(square, pixels, reader.grid.window(window), valid)
                whole = gd.detect_objects(square, detector, chip_size=side, overlap=0, progress=False)
                tiled = gd.detect_objects(
                    square, detector, chip_size=choices.chip_size, overlap=choices.overlap, progress=False
                )
                pairs.append((tiled, whole))
    n_tiled, n_whole = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    for iou in IOUS:
        there, back = (sum(found_twice(pair[i], pair[1 - i], iou) for pair in pairs) for i in (0, 1))
        sys.stdout.write(
            f"IoU above {iou}, {len(pairs)} squares of {side} px: of {n_tiled} objects in windows "
            f"{there / n_tiled:.1%} are among the {n_whole} of one window, and {back / n_whole:.1%} of "
            "those among them\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

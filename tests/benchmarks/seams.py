"""How many objects of a scene seen in windows are those of one window over everything, with a real network.

python tests/benchmarks/seams.py MODEL [--raster sample_data/suburb_test.tif] [--chip-size 256] [--overlap 64]

MODEL is a trained detector, such as the one that `geodetect demo` leaves. The raster is cut into squares of twice the
chip size, and each is seen once in one window and once in windows that share pixels. With a network a window's content
depends a little on where the window lies (padding, strides, norms over the window), so the law that holds exactly
without one is measured as a rate; and by the distance of objects from the edges of the window that sees them best, the
rate of those that are there at IoU 0.5 and how far their scores differ.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np

import geodetect as gd
from geodetect.boxes import find_overlaps
from geodetect.grid import Grid, Tiling
from geodetect.raster import RasterReader, write_chip

IOUS = (0.5, 0.75)
DISTANCES = (0, 5, 16, 32, 64, np.inf)  # from the edge of a window, in pixels


class Square(NamedTuple):
    """What was found in one square.

    Args:
        tiled: features of windows that share pixels.
        whole: features of one window.
        grid: of the square.
        windows: those of `tiled`.
    """

    tiled: gpd.GeoDataFrame
    whole: gpd.GeoDataFrame
    grid: Grid
    windows: Tiling


def partners(a: gpd.GeoDataFrame, b: gpd.GeoDataFrame, iou: float) -> np.ndarray:
    """Row in `b` of the feature of the same label that overlaps each of `a` most, above `iou`; -1 without one."""
    i, j, share = find_overlaps(a.bounds.to_numpy(), b.bounds.to_numpy(), iou)
    alike = a["label"].to_numpy()[i] == b["label"].to_numpy()[j]
    i, j, share = i[alike], j[alike], share[alike]
    found = np.full(len(a), -1)
    order = np.argsort(share)
    found[i[order]] = j[order]
    return found


def clearance(features: gpd.GeoDataFrame, square: Square) -> np.ndarray:
    """Distance in pixels of each feature to the nearest interior edge of the window that has it furthest inside."""
    bounds, (height, width) = features.bounds.to_numpy(), square.grid.shape
    corners = [square.grid.to_pixel(corner) for corner in (bounds[:, :2], bounds[:, 2:])]
    xyxy = np.hstack([np.minimum(*corners), np.maximum(*corners)])
    best = np.zeros(len(features))
    for window in square.windows:
        edges = np.array(window.xyxy)
        interior = edges != (0, 0, width, height)
        room = np.where(interior, (xyxy - edges) * (1, 1, -1, -1), np.inf)
        best = np.maximum(best, room.min(axis=1))
    return best


def write_rates(squares: list[Square]) -> None:
    """Write how many objects of each way of seeing are among those of the other."""
    n_tiled, n_whole = (sum(len(square[i]) for square in squares) for i in (0, 1))
    for iou in IOUS:
        there = sum(int((partners(square.tiled, square.whole, iou) >= 0).sum()) for square in squares)
        back = sum(int((partners(square.whole, square.tiled, iou) >= 0).sum()) for square in squares)
        sys.stdout.write(
            f"IoU above {iou}, {len(squares)} squares: of {n_tiled} objects in windows {there / n_tiled:.1%} are "
            f"among the {n_whole} of one window, and {back / n_whole:.1%} of those among them\n"
        )


def write_distances(squares: list[Square]) -> None:
    """Write, for objects of one window, how many are seen in windows and how their scores differ, by distance."""
    distance = np.concatenate([clearance(square.whole, square) for square in squares])
    found = [partners(square.whole, square.tiled, IOUS[0]) for square in squares]
    there = np.concatenate(found) >= 0
    moved = np.full(len(there), np.nan)
    moved[there] = np.abs(
        np.concatenate(
            [
                square.tiled["score"].to_numpy()[of[of >= 0]] - square.whole["score"].to_numpy()[of >= 0]
                for square, of in zip(squares, found, strict=True)
            ]
        )
    )
    for low, high in itertools.pairwise(DISTANCES):
        chosen = (distance >= low) & (distance < high)
        if there[chosen].any():
            middle, most = np.nanquantile(moved[chosen], (0.5, 0.95))
            sys.stdout.write(
                f"{low} to {high} px from an edge: {there[chosen].mean():.1%} of {chosen.sum()} objects, scores "
                f"differ by {middle:.3f}, 95 % of them by less than {most:.3f}\n"
            )


def main(argv: list[str]) -> None:
    """Detect both ways, square by square, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--raster", default="sample_data/suburb_test.tif")
    parser.add_argument("--chip-size", type=int, default=256)
    parser.add_argument("--overlap", type=int, default=64)
    choices = parser.parse_args(argv)
    detector = gd.load_detector(choices.model)
    side, squares = 2 * choices.chip_size, []
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
                windows = Tiling((side, side), choices.chip_size, choices.overlap)
                squares.append(Square(tiled, whole, reader.grid.window(window), windows))
    write_rates(squares)
    write_distances(squares)


if __name__ == "__main__":
    main(sys.argv[1:])

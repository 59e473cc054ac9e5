"""What windows of other sizes and overlaps make of a map, and of its best score, on ground that was held out.

python tests/benchmarks/windows.py FOLDER [--seeds 42 43 44] [--pixel-size 0.15 --chip-size 512] [--longest 64]

FOLDER holds detectors that `banepa.py --save` left, of chips of this size. Maps of the held-out blocks of Banepa's west
are scored; the east is not looked at. The last line of each seed is the best score of single chips. With --longest,
objects longer than this, which windows that share as many pixels may cut, and boxes that mostly lie on one of them are
left out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely

import geodetect as gd
from geodetect.learner.hits import Hits
from geodetect.learner.results import detect_chips
from geodetect.raster import RasterReader

sys.path.append(str(Path(__file__).parent))
from banepa import ground
from places import REAL_DATA, halves

WINDOWS = (
    *((128, 64), (256, 0), (256, 64), (256, 96), (256, 128)),
    *((384, 64), (512, 64), (512, 128), (1024, 64)),
)


def mostly_on(found: gpd.GeoDataFrame, objects: gpd.GeoDataFrame) -> np.ndarray:
    """Which boxes have more than half of their area on one of these objects, (N,)."""
    on = np.zeros(len(found), bool)
    i, j = shapely.STRtree(objects.geometry.to_numpy()).query(found.geometry.to_numpy(), "intersects")
    boxes = found.geometry.to_numpy()[i]
    shared = shapely.area(shapely.intersection(boxes, shapely.make_valid(objects.geometry.to_numpy()[j])))
    on[i[shared > shapely.area(boxes) / 2]] = True
    return on


def main(argv: list[str]) -> None:
    """Map and score for each seed and each kind of window."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--pixel-size", type=float, default=0.3, help="in metres")
    parser.add_argument("--chip-size", type=int, default=256, help="in pixels")
    parser.add_argument("--longest", type=float, default=float("inf"), help="side of objects that count, in pixels")
    choices = parser.parse_args(argv)
    scene = REAL_DATA / "scenes" / "banepa"
    raster, labels = scene / "banepa_utm45n_15cm.tif", scene / "buildings_4326.geojson"
    west, _ = halves(raster)
    with RasterReader(raster) as reader:
        truth = gpd.read_file(labels).to_crs(reader.grid.crs)
    edges = truth.bounds
    sides = np.maximum(edges["maxx"] - edges["minx"], edges["maxy"] - edges["miny"])
    is_long = sides > choices.longest * choices.pixel_size
    for seed in choices.seeds:
        data = ground(raster, labels, west, seed=seed, pixel_size_m=choices.pixel_size, chip_size=choices.chip_size)
        detector = gd.load_detector(choices.folder / f"banepa_{seed}.safetensors").frozen()
        held_out = shapely.union_all([shapely.Polygon(plan.grid.corners) for plan in data.valid.plans])
        for chip_size, overlap in WINDOWS:
            found = gd.detect_objects(
                raster, detector, chip_size=chip_size, overlap=overlap, aoi=held_out, min_score=0.05, progress=False
            )
            found = found[~mostly_on(found, truth[is_long])]
            result = gd.compute_accuracy(found, truth[~is_long], aoi=held_out, by_class=False)
            sys.stdout.write(
                f"seed {seed}, windows of {chip_size} px that share {overlap}: "
                f"AP50 {result.table.loc['all', 'ap']:.3f}, best F1 {result.curve['f1'].max():.3f} "
                f"from score {result.best_score:.3f} on\n"
            )
            sys.stdout.flush()
        found, due = detect_chips(detector, data.valid)
        (score,) = Hits.of(found, due, len(detector.classes)).best_f1().scores
        sys.stdout.write(f"seed {seed}, single chips: best F1 from score {score:.3f} on\n")


if __name__ == "__main__":
    main(sys.argv[1:])

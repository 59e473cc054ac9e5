"""Buildings of a Nepalese town: trained on the west two thirds of a scene, scored on its stitched east third.

    python tests/benchmarks/banepa.py [--data FOLDER] [--seeds 42 43 44] [--epochs N] [--no-head-norm]

Reads the GeoTIFF at 0.3 m with labels in degrees, trains a ResNet18 RetinaNet from random weights, maps the
east third and compares the map with the labels there. Settings were chosen on validation blocks inside the
west; nothing here looks at the east before the map is finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch
from shapely import Polygon, box

import geodetect as gd
from geodetect.raster import RasterReader

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
EPOCHS = 19
WEST = 2 / 3  # of the scene's width


def halves(raster: Path) -> tuple[Polygon, Polygon]:
    """The west two thirds and the east third of a scene, in its CRS."""
    with RasterReader(raster) as reader:
        x1, y1, x2, y2 = reader.grid.bounds
    border = x1 + WEST * (x2 - x1)
    return box(x1, y1, border, y2), box(border, y1, x2, y2)


def train(raster: Path, labels: Path, west: Polygon, *, epochs: int, seed: int, head_norm: bool = True) -> gd.RetinaNet:
    """A detector of buildings that has seen the west alone."""
    data = gd.prepare_data(
        raster,
        labels,
        chip_size=256,
        overlap=192,
        pixel_size_m=0.3,
        aoi=west,
        val_split_pct=0.05,
        batch_size=4,
        seed=seed,
    )
    model = gd.RetinaNet(
        data, backbone="resnet18", weights=None, scales="auto", box_weight=4, head_norm=head_norm, seed=seed
    )
    model.fit(epochs, lr=5e-4, monitor="AP50", progress=False)
    return model


def score(model: gd.RetinaNet, raster: Path, labels: Path, east: Polygon) -> gd.accuracy.Accuracy:
    """The map of the east against its labels."""
    found = gd.detect_objects(raster, model, aoi=east, min_score=0.05, progress=False)
    return gd.compute_accuracy(found, labels, aoi=east, by_class=False)


def main(argv: list[str]) -> None:
    """Train and score once for each seed, and write a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder that holds scenes/banepa")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--head-norm", action=argparse.BooleanOptionalAction, default=True)
    choices = parser.parse_args(argv)
    scene = choices.data / "scenes" / "banepa"
    raster, labels = scene / "banepa_utm45n_15cm.tif", scene / "buildings_4326.geojson"
    west, east = halves(raster)
    for seed in choices.seeds:
        start = time.perf_counter()
        model = train(raster, labels, west, epochs=choices.epochs, seed=seed, head_norm=choices.head_norm)
        trained = time.perf_counter()
        result = score(model, raster, labels, east)
        sys.stdout.write(
            f"seed {seed}: trained {trained - start:.0f} s ({torch.get_num_threads()} threads, "
            f"{choices.epochs} epochs), mapped and scored {time.perf_counter() - trained:.0f} s, "
            f"AP50 {result.table.loc['all', 'ap']:.3f}, best F1 {result.curve['f1'].max():.3f} "
            f"at score {result.best_score:.2f}\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

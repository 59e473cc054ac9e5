"""Validation AP50 of a training recipe, on ground inside the training part; the scored ground stays closed.

python tests/benchmarks/recipe.py banepa|suburb [--box-weight 4] [--lr 1e-3] [--epochs 45] [--no-head-norm] [--seed 42]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import geodetect as gd

sys.path.append(str(Path(__file__).parent))
from banepa import REAL_DATA, halves

SUBURB = Path(__file__).resolve().parents[2] / "sample_data"


def chips(place: str, seed: int) -> gd.chips.DetectionData:
    """Chips of Banepa's west, or of the suburb's training scene, with more held out than for the last run."""
    if place == "suburb":
        raster, labels = SUBURB / "suburb_train.tif", SUBURB / "suburb_train.geojson"
        return gd.prepare_data(raster, labels, chip_size=256, val_split_pct=0.25, batch_size=4, seed=seed)
    scene = REAL_DATA / "scenes" / "banepa"
    raster = scene / "banepa_utm45n_15cm.tif"
    return gd.prepare_data(
        raster,
        scene / "buildings_4326.geojson",
        chip_size=256,
        overlap=128,
        pixel_size_m=0.3,
        aoi=halves(raster)[0],
        batch_size=4,
        seed=seed,
    )


def main(argv: list[str]) -> None:
    """Train once and write AP50 by class of the last weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", choices=["banepa", "suburb"])
    parser.add_argument("--box-weight", type=float, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--head-norm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=42)
    choices = parser.parse_args(argv)
    data = chips(choices.place, choices.seed)
    model = gd.RetinaNet(
        data,
        backbone="resnet18",
        weights=None,
        scales="auto",
        box_weight=choices.box_weight,
        head_norm=choices.head_norm,
        seed=choices.seed,
    )
    start = time.perf_counter()
    model.fit(choices.epochs, lr=choices.lr, checkpoint=False, progress=False)
    taken = time.perf_counter() - start
    scores = ", ".join(f"{name} {score:.3f}" for name, score in model.average_precision_score().items())
    sys.stdout.write(f"{choices.place}: {scores} after {taken:.0f} s, {len(data.train)} chips to train\n")


if __name__ == "__main__":
    main(sys.argv[1:])

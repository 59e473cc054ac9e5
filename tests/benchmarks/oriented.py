"""The two box losses of oriented detectors at the same number of steps, on ground held out.

    python tests/benchmarks/oriented.py 600 [RASTER LABELS] [--seeds 3]

Without a raster the suburb of `sample_data` is used. A line for each loss and seed: AP50 and AP of rotated boxes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import geodetect as gd

SUBURB = Path(__file__).resolve().parents[2] / "sample_data"


def main() -> None:
    """Train with each loss and seed, and print the scores on the validation blocks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("raster", nargs="?", default=SUBURB / "suburb_train.tif")
    parser.add_argument("labels", nargs="?", default=SUBURB / "suburb_train.geojson")
    given = parser.parse_args()
    data = gd.prepare_data(given.raster, given.labels, chip_size=256, boxes="oriented")
    epochs = max(1, round(given.steps / max(1, -(-len(data.train) // data.batch_size))))
    for seed in range(given.seeds):
        for giou in (False, True):
            model = gd.RetinaNet(data, backbone="resnet18", size="small", giou=giou, seed=seed)
            model.fit(epochs, progress=False)
            scores = model.evaluate().loc["all"]
            name = "ProbIoU" if giou else "smooth L1"
            print(f"{name:9} seed {seed} AP50 {scores.AP50:.3f} AP {scores.AP:.3f}", flush=True)


if __name__ == "__main__":
    main()

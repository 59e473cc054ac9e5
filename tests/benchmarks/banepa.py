"""Buildings of a Nepalese town: trained on the west two thirds of a scene, scored on its stitched east third.

    python tests/benchmarks/banepa.py [--data FOLDER] [--seeds 42 43 44] [--epochs N] [--save FOLDER]
        [--backbone efficientnet_lite0 --weights imagenet] [--size small] [--batch-size 4]
        [--pixel-size 0.2 --chip-size 384] [--held north]

Reads the GeoTIFF with labels in degrees, trains a RetinaNet, by default of a ResNet18 from random weights at 0.3 m,
maps the east third, as it is and in all symmetries (`tta`), and compares the maps with the labels there. Settings were
chosen inside the west; nothing here looks at the east before the map is finished. With `--held` it stays closed: the
northern or the southern third of the west is scored, and the rest of the west learnt from.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
import torch
from shapely import Polygon, box

import geodetect as gd

sys.path.append(str(Path(__file__).parent))
from places import REAL_DATA, halves

EPOCHS = 46


def ground(
    raster: Path,
    labels: Path,
    west: Polygon,
    *,
    batch_size: int = 2,
    pixel_size_m: float = 0.3,
    chip_size: int = 256,
    seed: int,
) -> gd.DetectionData:
    """Chips of the west alone, of which neighbours share half."""
    return gd.prepare_data(
        raster,
        labels,
        chip_size=chip_size,
        overlap=chip_size // 2,
        pixel_size_m=pixel_size_m,
        aoi=west,
        val_split_pct=0.1,
        batch_size=batch_size,
        seed=seed,
    )


def hold_out(west: Polygon, name: str) -> tuple[Polygon, Polygon]:
    """The west without one third of it, and that third, "north" or "south"."""
    x1, y1, x2, y2 = west.bounds
    third = (y2 - y1) / 3
    held = box(x1, y2 - third, x2, y2) if name == "north" else box(x1, y1, x2, y1 + third)
    return west.difference(held), held


def train(data: gd.DetectionData, *, epochs: int, seed: int, **choices: str | None) -> gd.RetinaNet:
    """A detector of buildings; the choices are parameters of `RetinaNet`."""
    network = {"backbone": "resnet18", "weights": None} | choices
    model = gd.RetinaNet(data, scales="auto", giou=True, box_weight=2, seed=seed, **network)
    model.fit(epochs, monitor="AP50", progress=False)
    return model


def score(model: gd.RetinaNet, raster: Path, labels: Path, area: Polygon, *, tta: bool = False) -> gd.accuracy.Accuracy:
    """The map of an area against its labels."""
    found = gd.detect_objects(raster, model, aoi=area, min_score=0.05, tta=tta, progress=False)
    return gd.compute_accuracy(found, labels, aoi=area, by_class=False)


def figures(model: gd.RetinaNet, result: gd.accuracy.Accuracy) -> dict[str, float]:
    """AP50, the best F1, and by how much F1 is lower at the score that validation chose."""
    (chosen,) = model.detector.min_score.values()
    best, counted = result.curve["f1"].max(), result.curve[result.curve["score"] >= chosen]
    return {"AP50": result.table.loc["all", "ap"], "best F1": best, "lost F1": best - counted["f1"].iloc[-1]}


def main(argv: list[str]) -> None:
    """Train and score once for each seed, and write a line for each, and their mean and spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REAL_DATA, help="folder that holds scenes/banepa")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--pixel-size", type=float, default=0.3, help="in metres")
    parser.add_argument("--chip-size", type=int, default=256, help="in pixels")
    parser.add_argument("--held", choices=["north", "south"], help="score this part of the west instead of the east")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", choices=["imagenet"], help="of the backbone; random ones by default")
    parser.add_argument("--size", choices=["small"])
    parser.add_argument("--save", type=Path, help="folder for the models")
    parser.add_argument("--models", type=Path, help="folder of such models, to score again instead of training")
    choices = parser.parse_args(argv)
    if choices.save:
        choices.save.mkdir(parents=True, exist_ok=True)
    scene = choices.data / "scenes" / "banepa"
    raster, labels = scene / "banepa_utm45n_15cm.tif", scene / "buildings_4326.geojson"
    learnt, scored = halves(raster) if choices.held is None else hold_out(halves(raster)[0], choices.held)
    rows, network = [], {name: getattr(choices, name) for name in ("backbone", "weights", "size")}
    chips = {"pixel_size_m": choices.pixel_size, "chip_size": choices.chip_size, "batch_size": choices.batch_size}
    for seed in choices.seeds:
        start = time.perf_counter()
        data = ground(raster, labels, learnt, seed=seed, **chips)
        if choices.models:
            model = gd.RetinaNet.from_model(choices.models / f"banepa_{seed}.safetensors", data)
            model.tune()
        else:
            model = train(data, epochs=choices.epochs, seed=seed, **network)
        seconds = time.perf_counter() - start
        plain, turned = (figures(model, score(model, raster, labels, scored, tta=tta)) for tta in (False, True))
        rows.append({"trained s": seconds, **plain, "AP50 tta": turned["AP50"], "best F1 tta": turned["best F1"]})
        if choices.save:
            model.save(choices.save / f"banepa_{seed}.safetensors")
        sys.stdout.write(f"seed {seed}, {choices.epochs} epochs, {torch.get_num_threads()} threads: {told(rows[-1])}\n")
        sys.stdout.flush()
    table = pd.DataFrame(rows)
    if len(rows) > 1:
        sys.stdout.write(f"mean: {told(table.mean())}\nspread: {told(table.std())}\n")


def told(row: dict[str, float] | pd.Series) -> str:
    """Names and values, seconds as whole numbers."""
    return ", ".join(
        f"{name} {value:.0f}" if name.endswith(" s") else f"{name} {value:.3f}" for name, value in row.items()
    )


if __name__ == "__main__":
    main(sys.argv[1:])

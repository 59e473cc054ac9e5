"""Exported models beside the detector that they come from, on real chips, in their real readers, and timed.

    python tests/benchmarks/exports.py same [--data FOLDER]
    python tests/benchmarks/exports.py speed
    python tests/benchmarks/exports.py geodeep MODEL.safetensors PYTHON [--data FOLDER]
    python tests/benchmarks/exports.py stac PYTHON

`same` holds onnxruntime and the `.pt2` program against the detector on 100 chips of real imagery with 3 and 4 bands.
`geodeep` runs the exported file in GeoDeep, `stac` reads the item with stac-model; PYTHON is that of an environment
of its own in which the reader is installed (pip install geodeep stac-model).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import torch

import geodetect as gd
from geodetect.boxes import Boxes, iou
from geodetect.detector import Detector
from geodetect.export import export
from geodetect.export.onnx_detector import OnnxDetector
from geodetect.grid import Window
from geodetect.network.coding import decode_batch
from geodetect.network.retinanet import Network
from geodetect.raster import RasterReader
from geodetect.stretch import Stretch

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
BACKBONES = ("resnet18", "efficientnet_b0", "vgg16_bn")
SIDE, N_CHIPS, BATCH = 256, 100, 10
N_BOXES = 100  # of the fullest chip, about: where a random network's threshold is put
ROUNDS = 5
LOGIT_SPREAD, DELTA_SPREAD = 1.5, 0.3

GEODEEP = """
import sys
import numpy as np
from geodeep import detect
from geodeep.detection import execute_detection
from geodeep.inference import create_session
raster, model, folder, score = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
session, config = create_session(model)
config["det_conf"] = score
found = [execute_detection(chip, session, config) for chip in np.load(folder + "/chips.npy")]
np.savez(folder + "/found.npz", *[np.reshape(each, (-1, 6))[:, :5] for each in found])
open(folder + "/found.geojson", "w").write(detect(raster, model, "geojson", conf_threshold=score))
"""
SCORES = (0.3, 0.5)
STAC = """
import json, sys
import pystac
from stac_model.schema import MLModelExtension, MLModelProperties
item = json.load(open(sys.argv[1]))
MLModelProperties.model_validate(item["properties"])
pystac.Item.from_dict(item)
print("stac-model and pystac read the item")
"""


def chips(data: Path, n_bands: int) -> np.ndarray:
    """Real pixels (N_CHIPS, n_bands, SIDE, SIDE)."""
    if n_bands == 3:
        files = [data / "scenes" / "banepa" / "banepa_utm45n_15cm.tif"]
    else:
        files = sorted((data / "train" / "trees_naip_points").rglob("*.tif"))
    found: list[np.ndarray] = []
    for file in files:
        with RasterReader(file) as reader:
            height, width = reader.grid.shape
            if reader.n_bands != n_bands:
                continue
            for y in range(0, height - SIDE + 1, SIDE):
                for x in range(0, width - SIDE + 1, SIDE):
                    pixels, valid = reader.read(Window(x, y, SIDE, SIDE))
                    if valid.mean() > 0.9 and len(found) < N_CHIPS:
                        found.append(pixels)
    return np.stack(found)


def random_detector(backbone: str, pixels: np.ndarray) -> Detector:
    """A detector of random weights that is sure of something somewhere, with a stretch that fits the pixels."""
    torch.manual_seed(1)
    network = Network(backbone, n_classes=2, n_bands=pixels.shape[1], weights=None)
    stretch = Stretch.fit((chip, np.ones(chip.shape[1:], bool)) for chip in pixels)
    _settle(network, torch.from_numpy(stretch.apply(pixels[:BATCH])))
    bands = tuple(range(1, pixels.shape[1] + 1))
    return Detector(
        network, ["a", "b"], bands=bands, stretch=stretch, chip_size=SIDE, overlap=64, precision="float32", device="cpu"
    )


@torch.no_grad()
def _settle(network: Network, pictures: torch.Tensor) -> None:
    """Give batch norms the moments of these pictures, and answers the spread of a trained network's.

    With the moments they start with, a deep network sees nothing; and logits in the hundreds would turn the rounding
    of any program into another map.
    """
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # the plain mean of all batches
    network.train()(pictures)
    logits, deltas = network.eval()(pictures)
    network.class_head.out.weight.mul_(LOGIT_SPREAD / logits.std())
    network.box_head.out.weight.mul_(DELTA_SPREAD / deltas.std())


def threshold(detector: Detector, pixels: np.ndarray) -> float:
    """A score that no more than about N_BOXES boxes of a chip reach, in the widest gap between two scores near there.

    More would meet the cap of 1,000 candidates of a level, where the detector counts boxes outside the chip too.
    """
    found = [each.scores for each in detector.detect(pixels[::BATCH], min_score=0.0)]
    scores = max(found, key=lambda each: each[min(N_BOXES, len(each) - 1)])[N_BOXES // 2 : N_BOXES]
    widest = max(pairwise(scores), key=lambda pair: pair[0] - pair[1])
    return float(sum(widest) / 2)


def difference(got: list[Boxes], due: list[Boxes]) -> str:
    """How far boxes are from those that are due, in words."""
    worst_iou, worst_score, alone, n_boxes, n_off = 1.0, 0.0, 0, 0, 0
    for mine, other in zip(got, due, strict=True):
        n_boxes += len(other)
        if not (len(mine) and len(other)):
            alone += len(mine) + len(other)
            continue
        overlap = iou(mine.xyxy, other.xyxy) * (mine.labels[:, None] == other.labels)
        partner = overlap.argmax(axis=1)
        paired = overlap.max(axis=1) > 0.5
        alone += int((~paired).sum()) + int((overlap.max(axis=0) <= 0.5).sum())
        n_off += int((overlap.max(axis=1)[paired] <= 0.99).sum())
        worst_iou = min(worst_iou, overlap.max(axis=1)[paired].min(initial=1))
        worst_score = max(worst_score, np.abs(mine.scores - other.scores[partner])[paired].max(initial=0))
    return (
        f"{n_boxes} boxes, lowest IoU {worst_iou:.5f} ({n_off} below 0.99), scores off by {worst_score:.1e} at most, "
        f"{alone} without a partner"
    )


def same(data: Path) -> None:
    """Hold both programs against the detector for each backbone and number of bands."""
    for n_bands in (3, 4):
        pixels = chips(data, n_bands)
        for backbone in BACKBONES:
            detector = random_detector(backbone, pixels)
            floor = threshold(detector, pixels)
            batches = [pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH)]
            due = [boxes for batch in batches for boxes in detector.detect(batch, min_score=floor)]
            with tempfile.TemporaryDirectory() as folder:
                twin = OnnxDetector(export(detector, Path(folder) / "model.onnx"), "cpu")
                program = torch.export.load(export(detector, Path(folder) / "model.pt2")).module()
                found = [boxes for batch in batches for boxes in twin.detect(batch, min_score=floor)]
                ran = [boxes for batch in batches for boxes in run_program(program, detector, batch, floor)]
            say(f"{backbone}, {n_bands} bands, {len(pixels)} chips: onnxruntime: {difference(found, due)}")
            say(f"{backbone}, {n_bands} bands, {len(pixels)} chips: .pt2:        {difference(ran, due)}")


@torch.inference_mode()
def run_program(program: torch.nn.Module, detector: Detector, pixels: np.ndarray, floor: float) -> list[Boxes]:
    """What a `.pt2` program finds: it takes standardised pixels and leaves decoding to its user."""
    logits, deltas = program(torch.from_numpy(detector.stretch.apply(pixels)))
    sizes = detector.network.level_sizes((SIDE, SIDE))
    anchors = detector.network.anchors((SIDE, SIDE))
    return decode_batch(logits, deltas, anchors, (SIDE, SIDE), level_sizes=sizes, min_score=floor)


def speed() -> None:
    """Time whole detections of a batch of noise, the best of several rounds in turn."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3, SIDE, SIDE), np.uint8)
    for backbone in BACKBONES:
        detector = random_detector(backbone, pixels)
        with tempfile.TemporaryDirectory() as folder:
            runners = {"onnxruntime": OnnxDetector(export(detector, Path(folder) / "model.onnx"), "cpu")}
        floor = threshold(detector, pixels)
        times: dict[str, list[float]] = {}
        for _ in range(ROUNDS):
            for precision in ("float32", "auto"):
                detector.precision = precision
                times.setdefault(f"torch {precision}", []).append(timed(detector, pixels, floor))
            times.setdefault("onnxruntime", []).append(timed(runners["onnxruntime"], pixels, floor))
        best = {name: min(each) / len(pixels) * 1000 for name, each in times.items()}
        say(f"{backbone}: " + ", ".join(f"{name} {each:.1f} ms a chip" for name, each in best.items()))


def timed(detector: Detector | OnnxDetector, pixels: np.ndarray, floor: float) -> float:
    """Seconds for one batch."""
    start = time.perf_counter()
    detector.detect(pixels, min_score=floor)
    return time.perf_counter() - start


def geodeep(model: Path, python: str, data: Path) -> None:
    """What GeoDeep finds in Banepa with the exported file, against what we find with the model itself."""
    raster = data / "scenes" / "banepa" / "banepa_utm45n_15cm.tif"
    detector = gd.load_detector(model, device="cpu", precision="float32")
    pixels = chips(data, 3)
    every = gd.detect_objects(raster, detector, min_score=min(SCORES), progress=False)
    for score in SCORES:
        with tempfile.TemporaryDirectory() as folder:
            onnx = export(detector, Path(folder) / "model.onnx")
            np.save(Path(folder) / "chips.npy", pixels)
            subprocess.run([python, "-c", GEODEEP, str(raster), str(onnx), folder, str(score)], check=True)
            theirs = gpd.read_file(Path(folder) / "found.geojson").to_crs(every.crs)
            with np.load(Path(folder) / "found.npz") as found:
                on_chips = [Boxes(rows[:, :4], np.zeros(len(rows)), rows[:, 4]) for rows in found.values()]
        due = [each for chip in pixels for each in detector.detect(chip[None], min_score=score)]
        say(f"score {score}, {len(pixels)} chips, GeoDeep against the detector: {difference(on_chips, due)}")
        ours = every[every["score"] >= score]
        for name, mine, other in (("ours that GeoDeep finds", ours, theirs), ("GeoDeep's that we find", theirs, ours)):
            overlap = iou(mine.bounds.to_numpy(), other.bounds.to_numpy()).max(axis=1, initial=0)
            shares = ", ".join(f"{np.mean(overlap > limit):.1%} at IoU {limit}" for limit in (0.3, 0.5, 0.7))
            say(f"score {score}, scene, {name}: {len(mine)}, of them {shares}, median IoU {np.median(overlap):.3f}")


def stac(python: str) -> None:
    """Let the extension's own package read an item."""
    detector = random_detector("resnet18", np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        item = export(detector, Path(folder) / "model.json", "stac-mlm")
        subprocess.run([python, "-c", STAC, str(item)], check=True)
        say(json.dumps(json.loads(item.read_text())["stac_extensions"]))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: list[str]) -> None:
    """Do what the first word says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=REAL_DATA)
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("same")
    parts.add_parser("speed")
    reader = parts.add_parser("geodeep")
    reader.add_argument("model", type=Path)
    reader.add_argument("python")
    parts.add_parser("stac").add_argument("python")
    choices = parser.parse_args(argv)
    if choices.part == "same":
        same(choices.data)
    elif choices.part == "speed":
        speed()
    elif choices.part == "geodeep":
        geodeep(choices.model, choices.python, choices.data)
    else:
        stac(choices.python)


if __name__ == "__main__":
    main(sys.argv[1:])

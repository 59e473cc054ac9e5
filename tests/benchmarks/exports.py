"""Exported models beside the detector that they come from, on real chips, in their real readers, and timed.

    python tests/benchmarks/exports.py same [--data FOLDER]
    python tests/benchmarks/exports.py speed
    python tests/benchmarks/exports.py readers MODEL.safetensors PYTHON
    python tests/benchmarks/exports.py geodeep MODEL.safetensors PYTHON [--data FOLDER]
    python tests/benchmarks/exports.py stac PYTHON

`same` holds onnxruntime and the `.pt2` program against the detector on 100 chips of real imagery with 3 and 4 bands.
`readers` runs the exported file in GeoDeep and in Ultralytics, and reads it as Deepness does, on chips of the drawn
suburb. `geodeep` runs it in GeoDeep over a scene. `stac` reads the item with stac-model, and holds it against the
schemas of STAC and of its extensions, as the tests of pystac's packages bring them. PYTHON is that of an environment
of its own in which the readers are installed (pip install geodeep ultralytics stac-model pystac-ext-mlm
pystac-ext-file "pystac[validation]").
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import torch
from places import REAL_DATA

import geodetect as gd
from geodetect.boxes import Boxes, iou, nms
from geodetect.detector import Detector
from geodetect.export import export
from geodetect.export.onnx_detector import OnnxDetector, load_session
from geodetect.grid import Window
from geodetect.metadata import Metadata
from geodetect.network.coding import select_candidates, suppress
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from geodetect.raster import RasterReader

SUBURB = Path(__file__).resolve().parents[2] / "sample_data" / "suburb_test.tif"
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
found = [np.reshape(each, (-1, 4 + len(config["class_names"]))) for each in found]
rows = [np.column_stack([each[:, :4], each[:, 4:].argmax(1), each[:, 4:].max(1)]) for each in found]
np.savez(folder + "/found.npz", *rows)
open(folder + "/found.geojson", "w").write(detect(raster, model, "geojson", conf_threshold=score))
"""
ULTRALYTICS = """
import sys
import numpy as np
from ultralytics import YOLO
model, folder, score = sys.argv[1], sys.argv[2], float(sys.argv[3])
pictures = [chip.transpose(1, 2, 0)[..., ::-1].copy() for chip in np.load(folder + "/chips.npy")]
found = YOLO(model).predict(pictures, conf=score, iou=0.5, max_det=10_000, verbose=False)
assert found[0].names == {0: "car", 1: "pool"}, found[0].names
boxes = [each.boxes for each in found]
np.savez(folder + "/found.npz", *[np.column_stack([each.xyxy, each.cls, each.conf]) for each in boxes])
"""
SCORES = (0.3, 0.5)
NMS_IOU = 0.5
STAC = """
import json, sys, tarfile
import jsonschema, yaml
from pathlib import Path
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7
import pystac
from pystac.validation import validate_dict
from stac_model.schema import MLModelProperties
item = json.load(open(sys.argv[1]))
MLModelProperties.model_validate(item["properties"])
validate_dict(item, extensions=[])
print("stac-model reads the item, pystac finds it valid")
schemas = {}
for archive in Path(sys.argv[2]).glob("*.tar.gz"):  # sources: their tests have kept what the network answered
    with tarfile.open(archive) as files:
        kept = [each for each in files if "cassettes" in each.name and each.name.endswith(".yaml")]
        for asked in (ask for each in kept for ask in yaml.safe_load(files.extractfile(each))["interactions"]):
            body = asked["response"]["body"]["string"]
            if asked["request"]["uri"].endswith("schema.json") and asked["response"]["status"]["code"] == 200:
                schemas[asked["request"]["uri"]] = json.loads(body)
checked = [uri for uri in item["stac_extensions"] if uri in schemas]
classes = {"definitions": {"fields": {"properties": {"classification:classes": {"minItems": 1}}}}}  # in no package
schemas["https://stac-extensions.github.io/classification/v1.1.0/schema.json"] = classes
known = Registry().with_resources(
    (uri, Resource.from_contents(schema, default_specification=DRAFT7)) for uri, schema in schemas.items()
)
for uri in checked:
    jsonschema.Draft7Validator(schemas[uri], registry=known).validate(item)
    print("valid:", uri)
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
    """A detector of random weights that is sure of something somewhere, normalised to fit the pixels."""
    torch.manual_seed(1)
    network = Network(backbone, n_classes=2, n_bands=pixels.shape[1], weights=None)
    normalization = Normalization.fit((chip, np.ones(chip.shape[1:], bool)) for chip in pixels)
    _settle(network, torch.from_numpy(_standardise(normalization, pixels[:BATCH])))
    bands = tuple(range(1, pixels.shape[1] + 1))
    metadata = Metadata(classes=["a", "b"], bands=bands, normalization=normalization, chip_size=SIDE, overlap=64)
    return Detector(network, metadata, precision="float32", device="cpu")


@torch.no_grad()
def _standardise(normalization: Normalization, pixels: np.ndarray) -> np.ndarray:
    mean, std = (np.array(each, np.float32)[:, None, None] for each in (normalization.mean, normalization.std))
    return (pixels.astype(np.float32) - mean) / std


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
    logits, deltas = program(torch.from_numpy(_standardise(detector.normalization, pixels)))
    sizes = detector.network.level_sizes((SIDE, SIDE))
    anchors = detector.network.anchors((SIDE, SIDE))
    return suppress(
        select_candidates(logits, deltas, anchors, (SIDE, SIDE), level_sizes=sizes, min_score=floor), NMS_IOU
    )


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


def in_reader(python: str, code: str, files: list[str], pixels: np.ndarray, score: float, folder: Path) -> list[Boxes]:
    """What another program finds on chips, clipped as our boxes are."""
    np.save(folder / "chips.npy", pixels)
    subprocess.run([python, "-c", code, *files, str(folder), str(score)], check=True)
    side = pixels.shape[-1]
    with np.load(folder / "found.npz") as found:
        return [Boxes(rows[:, :4], rows[:, 4], rows[:, 5]).clip(side, side) for rows in found.values()]


def as_deepness(onnx: Path, pixels: np.ndarray, score: float) -> list[Boxes]:
    """The candidates of all pictures of one batch, read by Deepness' rules for YOLO_v9.

    https://github.com/PUTvision/qgis-plugin-deepness
    """
    (found,) = load_session(onnx, "cpu").run(None, {"images": (pixels / np.float32(255)).astype(np.float32)})
    boxes = []
    for columns in found:
        rows = columns.T[columns[4:].max(axis=0) >= score]
        xyxy = np.hstack([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2])
        every = Boxes(xyxy, rows[:, 4:].argmax(axis=1), rows[:, 4:].max(axis=1))
        boxes.append(suppressed(every, by_class=False).clip(pixels.shape[-1], pixels.shape[-1]))
    return boxes


def suppressed(candidates: Boxes, *, by_class: bool) -> Boxes:
    """What other programs keep of candidates, each of which has its best class alone.

    GeoDeep and Deepness add a pixel to each side before, and look at no classes.
    """
    _, first = np.unique(candidates.xyxy.round(3), axis=0, return_index=True)
    single = candidates[np.sort(first)]
    grown = Boxes(single.xyxy + np.array([0, 0, 1, 1]), single.labels, single.scores)
    return single[nms(single if by_class else grown, NMS_IOU, by_class=by_class)]


def readers(model: Path, python: str) -> None:
    """Hold what GeoDeep, Deepness and Ultralytics make of the exported file against the detector."""
    detector = gd.load_detector(model, device="cpu", precision="float32")
    side = detector.chip_size
    with RasterReader(SUBURB) as reader:
        height, width = reader.grid.shape
        starts = [(x, y) for y in range(0, height - side + 1, side) for x in range(0, width - side + 1, side)]
        pixels = np.stack([reader.read(Window(x, y, side, side))[0] for x, y in starts])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx = export(detector, folder / "model.onnx")
        for score in SCORES:
            candidates = detector.detect(pixels, min_score=score, nms_iou=1.0)
            across, within = ([suppressed(each, by_class=choice) for each in candidates] for choice in (False, True))
            found = {
                "GeoDeep": (in_reader(python, GEODEEP, [str(SUBURB), str(onnx)], pixels, score, folder), across),
                "Deepness' rules": (as_deepness(onnx, pixels, score), across),
                "Ultralytics": (in_reader(python, ULTRALYTICS, [str(onnx)], pixels, score, folder), within),
            }
            for program, (boxes, due) in found.items():
                say(f"score {score}, {len(pixels)} chips, {program} against the detector: {difference(boxes, due)}")


def geodeep(model: Path, python: str, data: Path) -> None:
    """What GeoDeep finds in Banepa with the exported file, against what we find with the model itself."""
    raster = data / "scenes" / "banepa" / "banepa_utm45n_15cm.tif"
    detector = gd.load_detector(model, device="cpu", precision="float32")
    pixels = chips(data, 3)
    every = gd.detect_objects(raster, detector, min_score=min(SCORES), progress=False)
    for score in SCORES:
        with tempfile.TemporaryDirectory() as folder:
            onnx = export(detector, Path(folder) / "model.onnx")
            on_chips = in_reader(python, GEODEEP, [str(raster), str(onnx)], pixels, score, Path(folder))
            theirs = gpd.read_file(Path(folder) / "found.geojson").to_crs(every.crs)
        due = [each for chip in pixels for each in detector.detect(chip[None], min_score=score)]
        say(f"score {score}, {len(pixels)} chips, GeoDeep against the detector: {difference(on_chips, due)}")
        ours = every[every["score"] >= score]
        for name, mine, other in (("ours that GeoDeep finds", ours, theirs), ("GeoDeep's that we find", theirs, ours)):
            overlap = iou(mine.bounds.to_numpy(), other.bounds.to_numpy()).max(axis=1, initial=0)
            shares = ", ".join(f"{np.mean(overlap > limit):.1%} at IoU {limit}" for limit in (0.3, 0.5, 0.7))
            say(f"score {score}, scene, {name}: {len(mine)}, of them {shares}, median IoU {np.median(overlap):.3f}")


def stac(python: str) -> None:
    """Let the packages of STAC read an item, and hold it against their schemas."""
    detector = random_detector("resnet18", np.random.default_rng(0).integers(0, 256, (1, 3, SIDE, SIDE), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        item = export(detector, Path(folder) / "model.json", "stac-mlm")
        sources = ["--no-deps", "--no-binary", ":all:", "--dest", folder, "pystac-ext-mlm", "pystac-ext-file"]
        subprocess.run([python, "-m", "pip", "--quiet", "download", *sources], check=True)
        subprocess.run([python, "-c", STAC, str(item), folder], check=True)


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
    for name in ("readers", "geodeep"):
        reader = parts.add_parser(name)
        reader.add_argument("model", type=Path)
        reader.add_argument("python")
    parts.add_parser("stac").add_argument("python")
    choices = parser.parse_args(argv)
    if choices.part == "same":
        same(choices.data)
    elif choices.part == "speed":
        speed()
    elif choices.part == "readers":
        readers(choices.model, choices.python)
    elif choices.part == "geodeep":
        geodeep(choices.model, choices.python, choices.data)
    else:
        stac(choices.python)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Seconds of a whole scene: a plain torchvision loop, SAHI, DeepForest and geodetect, with the same weights.

    python tests/benchmarks/scene_speed.py [--side 3000] [--chip-size 512] [--overlap 64] [--only NAME ...]

Draws a GeoTIFF, makes a RetinaNet-ResNet50 of torchvision with random weights (its batch norms have seen the scene, its
scores are spread so that a few dozen boxes of a window pass), and shows both to each contender in turn, each in a
process of its own. A package that is not installed is left out; `pip install geodetect[benchmarks,int8]` brings them.
Seconds run from the call to the features, without imports and without making the model. "bare" is the network alone, as
geodetect runs it, on the same windows lying ready in memory; "norms" has batch norm by level in the heads, as training
has it by default, and is otherwise the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet, retinanet_resnet50_fpn
from torchvision.ops import batched_nms

import geodetect as gd
from geodetect import memory
from geodetect.detector import Detector
from geodetect.grid import Tiling
from geodetect.metadata import Architecture, Metadata
from geodetect.network import precision as precisions
from geodetect.network.inference import prepare_images
from geodetect.network.retinanet import Network
from geodetect.normalization import IMAGENET
from geodetect.raster import RasterReader

CLASSES = ["a", "b", "c"]
NMS_IOU = 0.5
CPU = torch.device("cpu")
PASSING = 100  # predictions of a window, before suppression
FROM_TORCHVISION = {
    "backbone.fpn.": "pyramid.fpn.",
    "head.classification_head.conv.": "class_head.conv.",
    "head.classification_head.cls_logits.": "class_head.out.",
    "head.regression_head.conv.": "box_head.conv.",
    "head.regression_head.bbox_reg.": "box_head.out.",
}

SMALL = {"width": 96, "depth": 2}  # pyramid and heads of `size="small"`

Features = Callable[[], int]


class Scene:
    """The raster, the windows and the weights that all contenders share.

    Args:
        folder: where the raster and the weights lie, or will.
        side: of the raster, in pixels.
        chip_size: side of a window.
        overlap: of windows.
    """

    def __init__(self, folder: Path, side: int, chip_size: int, overlap: int) -> None:
        self.raster, self._weights = folder / "scene.tif", folder / "weights.pt"
        self.chip_size, self.overlap = chip_size, overlap
        self.tiling = Tiling((side, side), chip_size, overlap)

    def make(self) -> None:
        """Draw the raster and make the weights."""
        self.draw()
        self._make_weights(self.windows()[:4])

    def draw(self) -> None:
        """Draw the raster."""
        noise = np.random.default_rng(0)
        side = self.tiling.shape[0]
        pixels = np.zeros((3, side, side), np.uint8)
        for size in (4, 16, 64, 256):
            squares = noise.integers(0, 64, (3, -(-side // size), -(-side // size)), np.uint8)
            pixels += squares.repeat(size, axis=1).repeat(size, axis=2)[:, :side, :side]
        place = rasterio.transform.from_origin(353_000, 3_057_000, 0.3, 0.3)
        profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32645"}
        tiles = {"tiled": True, "compress": "deflate", "transform": place, "photometric": "rgb"}
        with rasterio.open(self.raster, "w", **profile, **tiles) as target:
            target.write(pixels)

    @torch.no_grad()
    def _make_weights(self, windows: np.ndarray) -> None:
        """Random weights, their batch norms fitted to some windows, and the score that `PASSING` predictions reach."""
        torch.manual_seed(0)
        model = self._plain(0.0)
        pictures = model.transform([torch.from_numpy(window) / 255 for window in windows])[0].tensors
        for layer in model.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):
                layer.momentum = None  # the mean of what they see
        model.train().backbone(pictures)
        maps = list(model.eval().backbone(pictures).values())
        answer = model.head.classification_head
        spread = answer(maps).std()
        answer.cls_logits.weight *= 1.5 / spread
        scores = answer(maps).sigmoid()
        lowest = scores.flatten().topk(PASSING * len(windows)).values[-1].item()
        torch.save({"lowest": lowest, "state": model.state_dict()}, self._weights)

    def _plain(self, lowest: float) -> RetinaNet:
        side = self.chip_size
        sizes = {"min_size": side, "max_size": side, "score_thresh": lowest, "nms_thresh": NMS_IOU}
        options = {"num_classes": len(CLASSES), "detections_per_img": 1000}
        return retinanet_resnet50_fpn(weights=None, weights_backbone=None, **options, **sizes).eval()

    def windows(self) -> np.ndarray:
        """(B, 3, H, W) of all windows."""
        with RasterReader(self.raster) as reader:
            return np.stack([reader.read(window)[0] for window in self.tiling])

    def theirs(self) -> RetinaNet:
        """The model of torchvision."""
        saved = torch.load(self._weights)
        model = self._plain(saved["lowest"])
        model.load_state_dict(saved["state"])
        return model

    def ours(self, precision: str) -> Detector:
        """The same weights as a detector."""
        saved = torch.load(self._weights)
        network = Network("resnet50", n_classes=len(CLASSES), weights=None)
        network.load_state_dict(renamed(saved["state"]))
        return self._detector(network, saved["lowest"], precision)

    @torch.inference_mode()
    def with_norms(self, precision: str, **heads: int) -> Detector:
        """The same backbone with batch norm in heads from random weights, as many of whose predictions pass."""
        torch.manual_seed(0)
        architecture = Architecture("resnet50", head_norm="batch", **heads)
        network = Network(architecture, n_classes=len(CLASSES), weights=None).eval()
        state = renamed(torch.load(self._weights)["state"])
        body = {name: value for name, value in state.items() if name.startswith("backbone.")}
        network.load_state_dict(network.state_dict() | body)
        windows = self.windows()[:4]
        pictures, _ = prepare_images(torch.from_numpy(windows), IMAGENET.mean, IMAGENET.std, CPU)
        scores = network(pictures)[0].sigmoid()
        return self._detector(network, scores.flatten().topk(PASSING * len(windows)).values[-1].item(), precision)

    def _detector(self, network: Network, lowest: float, precision: str) -> Detector:
        metadata = Metadata(
            classes=CLASSES,
            bands=(1, 2, 3),
            normalization=IMAGENET,
            chip_size=self.chip_size,
            overlap=self.overlap,
            min_score=lowest,
        )
        return Detector(network.eval(), metadata, precision=precision)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Torchvision's weights under our names."""
    changes = FROM_TORCHVISION.items()
    return {
        next((new + name.removeprefix(old) for old, new in changes if name.startswith(old)), name): value
        for name, value in state.items()
    }


def plain(scene: Scene, device: torch.device = CPU) -> Features:
    """One window after the other through torchvision's model, and its suppression over all of them."""
    model = scene.theirs().to(device)

    @torch.inference_mode()
    def run() -> int:
        parts = []
        with rasterio.open(scene.raster) as raster:
            for window in scene.tiling:
                x1, y1, x2, y2 = window.xyxy
                pixels = torch.from_numpy(raster.read(window=((y1, y2), (x1, x2)))).to(device) / 255
                (found,) = model([pixels])
                found["boxes"] += torch.tensor([x1, y1, x1, y1], device=device)
                parts.append(found)
        boxes, scores, labels = (torch.cat([part[key] for part in parts]) for key in ("boxes", "scores", "labels"))
        return len(batched_nms(boxes, scores, labels, NMS_IOU))

    return run


def sahi(scene: Scene) -> Features:
    """SAHI's sliced prediction with torchvision's model."""
    from sahi import AutoDetectionModel
    from sahi.predict import get_sliced_prediction

    model = AutoDetectionModel.from_pretrained(
        "torchvision",
        model=scene.theirs(),
        device="cpu",
        confidence_threshold=0.0,  # the model's own threshold holds
        category_mapping={str(i): name for i, name in enumerate(CLASSES)},
    )

    def run() -> int:
        share = scene.overlap / scene.chip_size
        found = get_sliced_prediction(
            str(scene.raster),
            model,
            slice_height=scene.chip_size,
            slice_width=scene.chip_size,
            overlap_height_ratio=share,
            overlap_width_ratio=share,
            perform_standard_pred=False,
            postprocess_type="NMS",
            postprocess_match_metric="IOU",
            postprocess_match_threshold=NMS_IOU,
            verbose=0,
        )
        return len(found.object_prediction_list)

    return run


def deepforest(scene: Scene) -> Features:
    """DeepForest's prediction of a tile with torchvision's model."""
    from deepforest.main import deepforest as DeepForest

    theirs = scene.theirs()
    labels = {name: i for i, name in enumerate(CLASSES)}
    options = {"num_classes": len(CLASSES), "label_dict": labels, "nms_thresh": NMS_IOU, "accelerator": "cpu"}
    model = DeepForest(model=theirs, config_args=options | {"score_thresh": theirs.score_thresh, "workers": 0})
    model.set_labels(labels)

    def run() -> int:
        share = scene.overlap / scene.chip_size
        found = model.predict_tile(
            str(scene.raster), patch_size=scene.chip_size, patch_overlap=share, iou_threshold=NMS_IOU
        )
        return len(found)

    return run


def geodetect(scene: Scene, model: Detector) -> Features:
    """geodetect, from the call to the features."""
    detect_objects = gd.detect_objects  # named here, where it is imported
    return lambda: len(detect_objects(scene.raster, model, progress=False))


def bare(scene: Scene, model: Detector, precision: str) -> Features:
    """The network that geodetect runs, and nothing else, in batches of the same size."""
    detector = model.frozen(precision)
    network, dtype = detector.running, precisions.resolve(precision, detector.device)
    pictures, _ = prepare_images(torch.from_numpy(scene.windows()), IMAGENET.mean, IMAGENET.std, detector.device)
    n_windows = detector.suited_batch_size(scene.chip_size)

    @torch.inference_mode()
    def run() -> int:
        with memory.reuse_freed(), precisions.autocast(dtype, detector.device):
            for batch in pictures.split(n_windows):
                network(batch)
        return 0

    return run


CONTENDERS: dict[str, Callable[[Scene], Features]] = {
    "plain": plain,
    "sahi": sahi,
    "deepforest": deepforest,
    "geodetect float32": lambda scene: geodetect(scene, scene.ours("float32")),
    "bare float32": lambda scene: bare(scene, scene.ours("float32"), "float32"),
    "geodetect auto": lambda scene: geodetect(scene, scene.ours("auto")),
    "geodetect bf16": lambda scene: geodetect(scene, scene.ours("bf16")),
    "bare bf16": lambda scene: bare(scene, scene.ours("bf16"), "bf16"),
    "geodetect norms float32": lambda scene: geodetect(scene, scene.with_norms("float32")),
    "geodetect norms bf16": lambda scene: geodetect(scene, scene.with_norms("bf16")),
    "geodetect int8": lambda scene: geodetect(scene, scene.ours("int8")),
    "geodetect small bf16": lambda scene: geodetect(scene, scene.with_norms("bf16", **SMALL)),
    "bare small bf16": lambda scene: bare(scene, scene.with_norms("bf16", **SMALL), "bf16"),
    "geodetect small int8": lambda scene: geodetect(scene, scene.with_norms("int8", **SMALL)),
}


def contend(name: str, scene: Scene) -> None:
    """Run one contender in this process, and write its figures as JSON."""
    run = CONTENDERS[name](scene)
    start = time.perf_counter()
    n_features = run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
    sys.stdout.write(json.dumps({"seconds": seconds, "peak_mib": peak, "features": n_features}) + "\n")


def measure(name: str, folder: str, arguments: list[str]) -> dict[str, float] | None:
    """The figures of one contender from a process of its own; None if its package is not there."""
    package = "openvino" if name.endswith("int8") else name
    if package in ("sahi", "deepforest", "openvino") and importlib.util.find_spec(package) is None:
        return None
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--folder", folder, "--contend", name]
    # In that folder, since DeepForest leaves logs where it runs.
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main(argv: list[str]) -> None:
    """Let the contenders run in turn, and write a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=3000)
    parser.add_argument("--chip-size", type=int, default=512)
    parser.add_argument("--overlap", type=int, default=64)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--contend", choices=list(CONTENDERS), help=argparse.SUPPRESS)
    choices = parser.parse_args(argv)
    if choices.contend:
        contend(choices.contend, Scene(choices.folder, choices.side, choices.chip_size, choices.overlap))
        return
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder), choices.side, choices.chip_size, choices.overlap)
        scene.make()
        sys.stdout.write(f"{len(scene.tiling)} windows, {torch.get_num_threads()} threads\n")
        sizes = ["--side", choices.side, "--chip-size", choices.chip_size, "--overlap", choices.overlap]
        reference = None
        for name in choices.only:
            found = measure(name, folder, [*map(str, sizes)])
            if found is None:
                sys.stdout.write(f"{name}: not installed\n")
                continue
            reference = reference or found["seconds"]
            sys.stdout.write(
                f"{name}: {found['seconds']:.2f} s, {reference / found['seconds']:.2f} x {choices.only[0]}, "
                f"peak {found['peak_mib']:,.0f} MiB, {found['features']:,} features\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

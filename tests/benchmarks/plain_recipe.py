"""Our default recipe against a plain torchvision one, at equal time, on every place that `places.py` knows.

    python tests/benchmarks/plain_recipe.py [--places banepa ...] [--seconds 240] [--seeds 42 43 44]
        [--backbone resnet18] [--weights imagenet] [--recipes ours small plain yolo]

All train on the same training chips for the same seconds of processor time, so run it with one thread. All but the
last train a RetinaNet from the same weights, random ones unless --weights says imagenet. Ours is `RetinaNet(data,
backbone=..., weights=..., scales="auto").fit(epochs)` and nothing else, with as many epochs as fit into the time; the
small one has `size="small"`, and its backbone is that of ours. The plain one has torchvision's own matching, loss and
float32; AdamW, one cycle to 1e-3 over as many steps as fit into the time, batches of 8, flips and transposes, and
anchors from 16 px. Pixels are standardised alike. "yolo" is YOLO11n of Ultralytics (the extra `readers`), always from
random weights, with its own defaults but for batches of 8, on the chips' first three bands as PNG.
Average precision at IoU 0.5 is that of the chips that none has seen, by the same code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from PIL import Image
from places import PLACES, Place
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.chips.augment import Batch, random_symmetry
from geodetect.chips.cached import CachedChips
from geodetect.chips.chip import Chip
from geodetect.chips.loaders import collate
from geodetect.learner.hits import Hits
from geodetect.learner.results import detect_chips
from geodetect.network import backbones

BATCH, RATE, SMALLEST = 8, 1e-3, 16  # of the plain recipe
TRIAL = 4  # steps that tell how many fit into the time

Example = tuple[Tensor, list[dict[str, Tensor]]]


class Start(NamedTuple):
    """What a training starts from, in the words of `RetinaNet`."""

    backbone: str
    weights: str | None


def ours(place: Place, seconds: float, seed: int, start_from: Start, size: str | None = None) -> list[Boxes]:
    """What our default recipe finds on the chips that are scored."""
    options = {**start_from._asdict(), "scales": "auto", "size": size, "seed": seed}
    trial = gd.RetinaNet(place.data, **options)
    trial.fit(1, progress=False)  # reads the chips, and gets everything ready
    start = time.process_time()
    trial.fit(1, progress=False)
    epochs = max(1, int(seconds / (time.process_time() - start)))
    model = gd.RetinaNet(place.data, **options)
    model.fit(epochs, progress=False)
    return detect_chips(model.detector, place.test)[0]


def plain(place: Place, seconds: float, seed: int, start_from: Start) -> list[Boxes]:
    """What the plain recipe finds on them."""
    torch.manual_seed(seed)
    coming, model = examples(place, seed), network(place, start_from)
    steps = trained(model, coming, TRIAL, TRIAL)
    torch.manual_seed(seed)
    model = network(place, start_from)
    trained(model, coming, max(1, int(seconds / min(steps[1:]))), None)
    return detect(model.eval(), place)


class WithPyramid(nn.Module):
    """A backbone with torchvision's feature pyramid, as torchvision's RetinaNet takes it."""

    out_channels = 256

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(backbone.channels, self.out_channels, LastLevelP6P7(256, 256))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """P3 to P7 of the images."""
        return self.fpn({str(number): x for number, x in enumerate(self.backbone(images))})


def network(place: Place, start_from: Start) -> RetinaNet:
    """Torchvision's RetinaNet for the place's classes and bands, with nine anchors a cell from 16 px on."""
    n_bands, side = len(place.data.bands), place.data.chip_size
    body = WithPyramid(backbones.build(start_from.backbone, n_bands, start_from.weights))
    sizes = tuple(tuple(int(SMALLEST * 2**level * 2 ** (k / 3)) for k in range(3)) for level in range(5))
    return RetinaNet(
        body,
        len(place.data.classes),
        anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        min_size=side,
        max_size=side,
        image_mean=[0.0] * n_bands,  # `standardised` has done it
        image_std=[1.0] * n_bands,
        detections_per_img=1000,
    )


def examples(place: Place, seed: int) -> Iterator[Example]:
    """Batches of chips in random order without end, flipped and transposed."""
    chips, order = CachedChips(place.data.train), np.random.default_rng(seed)
    size, generator = min(BATCH, len(chips)), torch.Generator().manual_seed(seed)
    while True:
        numbers = order.permutation(len(chips))
        for start in range(0, len(chips) - size + 1, size):
            pixels, *truth = collate([chips[i] for i in numbers[start : start + size]], place.data.chip_size)
            images, boxes, labels = random_symmetry(Batch(pixels.float(), *truth), generator)
            real = labels >= 0
            targets = [{"boxes": b[r], "labels": k[r]} for b, k, r in zip(boxes, labels, real, strict=True)]
            yield standardised(images, place), targets


def standardised(images: Tensor, place: Place) -> Tensor:
    """Pixels as both recipes see them."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (place.data.normalization.mean, place.data.normalization.std))
    return (images.float() - mean) / std


def trained(model: RetinaNet, coming: Iterator[Example], n_steps: int, most: int | None) -> list[float]:
    """Seconds of each of the first `most` of so many steps; all of them for None."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=n_steps + 1)
    taken = []
    model.train()
    for images, targets in islice(coming, most or n_steps):
        start = time.process_time()
        sum(model(list(images), targets).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        taken.append(time.process_time() - start)
    return taken


@torch.inference_mode()
def detect(model: RetinaNet, place: Place) -> list[Boxes]:
    """Detections on each chip that is scored."""
    boxes = []
    for chip in place.test:
        images, _, _ = collate([chip], max(chip.pixels.shape[1:]))
        (seen,) = model(list(standardised(images, place)))
        boxes.append(Boxes(seen["boxes"].numpy(), seen["labels"].numpy(), seen["scores"].numpy()))
    return boxes


def yolo(place: Place, seconds: float, seed: int, _: Start) -> list[Boxes]:
    """What YOLO11n finds on them."""
    from ultralytics import YOLO, settings

    settings.update({"sync": False})
    with tempfile.TemporaryDirectory() as folder:
        description = write_yolo(place, Path(folder))
        options: dict[str, Any] = {"imgsz": place.data.chip_size, "device": "cpu", "verbose": False}
        training: dict[str, Any] = options | {"data": description, "batch": BATCH, "seed": seed, "workers": 0}
        training |= {"project": folder, "plots": False, "val": False, "pretrained": False, "amp": False}
        taken = []
        for epochs in (1, 2):
            start = time.process_time()
            YOLO("yolo11n.yaml").train(epochs=epochs, **training)
            taken.append(time.process_time() - start)
        network = YOLO("yolo11n.yaml")
        network.train(epochs=max(1, int(seconds / (taken[1] - taken[0]))), **training)
        boxes = []
        for chip in place.test:
            (seen,) = network.predict(pixels_of(chip)[..., ::-1], conf=0.001, max_det=1000, **options)
            boxes.append(Boxes(seen.boxes.xyxy.numpy(), seen.boxes.cls.long().numpy(), seen.boxes.conf.numpy()))
    return boxes


def write_yolo(place: Place, folder: Path) -> str:
    """Write the training chips as YOLO's folder, and return the path of its description."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number, chip in enumerate(place.data.train):
        Image.fromarray(pixels_of(chip)).save(folder / "images" / f"{number}.png")
        height, width = chip.pixels.shape[1:]
        corners = chip.boxes.xyxy / (width, height, width, height)
        centres, sizes = (corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]
        rows = zip(chip.boxes.labels, centres, sizes, strict=True)
        lines = [f"{label} {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for label, (x, y), (w, h) in rows]
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines))
    description = folder / "data.yaml"
    names = dict(enumerate(place.data.classes))
    description.write_text(yaml.safe_dump({"path": str(folder), "train": "images", "val": "images", "names": names}))
    return str(description)


def pixels_of(chip: Chip) -> np.ndarray:
    """The first three bands of a chip of 8 bits, (H, W, 3)."""
    if chip.pixels.dtype != np.uint8:
        raise SystemExit("the recipe yolo takes chips of 8 bits alone")
    return np.ascontiguousarray(chip.pixels[:3].transpose(1, 2, 0))


RECIPES = {"ours": ours, "small": partial(ours, size="small"), "plain": plain, "yolo": yolo}


def main(argv: list[str]) -> None:
    """Train by each recipe for each place and seed, and write a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--weights", choices=["imagenet"], help="of the backbone; random ones by default")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=["ours", "plain"])
    choices = parser.parse_args(argv)
    start_from = Start(choices.backbone, choices.weights)
    for name in choices.places:
        for seed in choices.seeds:
            place = PLACES[name](seed)
            truth = [chip.boxes for chip in place.test]
            n_objects = sum(len(boxes) for boxes in truth)
            for recipe in choices.recipes:
                start = time.process_time()
                hits = Hits.of(
                    RECIPES[recipe](place, choices.seconds, seed, start_from), truth, len(place.data.classes)
                )
                ap, taken = np.nanmean(hits.average_precision()), time.process_time() - start
                sys.stdout.write(f"{name}, seed {seed}, {n_objects} objects, {recipe}: AP50 {ap:.3f}, {taken:.0f} s\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

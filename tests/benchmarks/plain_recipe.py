"""Our default recipe against a plain torchvision one, at equal time, on every place that `places.py` knows.

    python tests/benchmarks/plain_recipe.py [--places banepa trees ...] [--seconds 240] [--seeds 42 43 44]

Both train a RetinaNet-ResNet18 from random weights on the same training chips for the same time. Ours is
`RetinaNet(data, backbone="resnet18", weights=None, scales="auto").fit(epochs)` and nothing else, with as many epochs as
fit into the time. The plain one has torchvision's own matching, loss and float32; AdamW, one cycle to 1e-3 over as many
steps as fit into the time, batches of 8, flips and transposes, and anchors from 16 px. Pixels are standardised alike.
Average precision at IoU 0.5 is that of the chips that neither has seen, by the same code.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from places import PLACES, Place
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.chips.augment import random_symmetry
from geodetect.chips.loaders import RememberedChips, collate
from geodetect.learner.hits import Hits
from geodetect.learner.results import detect_chips

BACKBONE = "resnet18"
BATCH, RATE, SMALLEST = 8, 1e-3, 16  # of the plain recipe
TRIAL = 4  # steps that tell how many fit into the time

Example = tuple[Tensor, list[dict[str, Tensor]]]


def ours(place: Place, seconds: float, seed: int) -> list[Boxes]:
    """What our default recipe finds on the chips that are scored."""
    options = {"backbone": BACKBONE, "weights": None, "scales": "auto", "seed": seed}
    trial = gd.RetinaNet(place.data, **options)
    trial.fit(1, progress=False)  # reads the chips, and gets everything ready
    start = time.perf_counter()
    trial.fit(1, progress=False)
    epochs = max(1, int(seconds / (time.perf_counter() - start)))
    model = gd.RetinaNet(place.data, **options)
    model.fit(epochs, progress=False)
    return detect_chips(model.detector, place.test)[0]


def plain(place: Place, seconds: float, seed: int) -> list[Boxes]:
    """What the plain recipe finds on them."""
    torch.manual_seed(seed)
    coming, model = examples(place, seed), network(place)
    steps = trained(model, coming, TRIAL, TRIAL)
    torch.manual_seed(seed)
    model = network(place)
    trained(model, coming, max(1, int(seconds / min(steps[1:]))), None)
    return found(model.eval(), place)


def network(place: Place) -> RetinaNet:
    """Torchvision's RetinaNet for the place's classes and bands, with nine anchors a cell from 16 px on."""
    body = resnet_fpn_backbone(
        backbone_name=BACKBONE,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    n_bands, side = len(place.data.bands), place.data.chip_size
    body.body.conv1 = nn.Conv2d(n_bands, 64, 7, stride=2, padding=3, bias=False)
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
    chips, order = RememberedChips(place.data.train), np.random.default_rng(seed)
    size, generator = min(BATCH, len(chips)), torch.Generator().manual_seed(seed)
    while True:
        numbers = order.permutation(len(chips))
        for start in range(0, len(chips) - size + 1, size):
            images, boxes, labels = collate([chips[i] for i in numbers[start : start + size]], place.data.chip_size)
            images, boxes = random_symmetry(images, boxes, generator)
            real = labels >= 0
            targets = [{"boxes": b[r], "labels": k[r]} for b, k, r in zip(boxes, labels, real, strict=True)]
            yield standardised(images, place), targets


def standardised(images: Tensor, place: Place) -> Tensor:
    """Pixels as both recipes see them."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (place.data.stretch.mean, place.data.stretch.std))
    return (images - mean) / std


def trained(model: RetinaNet, coming: Iterator[Example], n_steps: int, most: int | None) -> list[float]:
    """Seconds of each of the first `most` of so many steps; all of them for None."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=n_steps + 1)
    taken = []
    model.train()
    for images, targets in islice(coming, most or n_steps):
        start = time.perf_counter()
        sum(model(list(images), targets).values()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        taken.append(time.perf_counter() - start)
    return taken


@torch.inference_mode()
def found(model: RetinaNet, place: Place) -> list[Boxes]:
    """Detections on each chip that is scored."""
    boxes = []
    for chip in place.test:
        images, _, _ = collate([chip], max(chip.pixels.shape[1:]))
        (seen,) = model(list(standardised(images, place)))
        boxes.append(Boxes(seen["boxes"].numpy(), seen["labels"].numpy(), seen["scores"].numpy()))
    return boxes


def main(argv: list[str]) -> None:
    """Train both for each place and seed, and write a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    choices = parser.parse_args(argv)
    for name in choices.places:
        for seed in choices.seeds:
            place = PLACES[name](seed)
            truth, told = [chip.boxes for chip in place.test], []
            for recipe in (ours, plain):
                start = time.perf_counter()
                hits = Hits.of(recipe(place, choices.seconds, seed), truth, len(place.data.classes))
                scores = hits.average_precision()
                told.append(f"{recipe.__name__} {np.nanmean(scores):.3f} ({time.perf_counter() - start:.0f} s)")
            n_objects = sum(len(boxes) for boxes in truth)
            sys.stdout.write(f"{name}, seed {seed}, {n_objects} objects: AP50 {', '.join(told)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

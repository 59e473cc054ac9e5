"""Flips random bits of a detector's file: each refused, or without any effect.

python tests/benchmarks/bits.py [--flips 2000]

Half of the bits lie in the header, which is a thousandth of the file but says what all else means, half anywhere. What
is not refused has to find the same boxes as before, to the last bit. Each file is also tried with its last bytes
missing, with a run of zeros as a failing disk leaves, and with two of its blocks exchanged.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from geodetect.anchors import AnchorSpec
from geodetect.boxes import Boxes
from geodetect.detector import Detector
from geodetect.errors import ModelError
from geodetect.metadata import Architecture, Metadata
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from geodetect.zoo import load_detector

BLOCK = 4096  # bytes that a disk reads or loses at once
CHIP = np.random.default_rng(0).integers(0, 255, (1, 3, 96, 96)).astype(np.uint8)


def detector() -> Detector:
    """Random weights that are sure of something, so that a changed one changes what is found."""
    torch.manual_seed(0)
    network = Network(
        Architecture("efficientnet_b0", anchors=AnchorSpec(scales=(1.0,))), n_classes=2, weights=None
    ).eval()
    torch.nn.init.normal_(network.class_head.out.weight, std=0.1)
    network.class_head.out.bias.data.add_(0.1)
    options = {
        "bands": (1, 2, 3),
        "normalization": Normalization((127.0,) * 3, (73.0,) * 3),
        "chip_size": 96,
        "overlap": 24,
    }
    summary = {"epochs": 20, "valid_loss": 0.25, "AP50": 0.8}
    metadata = Metadata(classes=("house", "höhle"), pixel_size_m=0.3, min_score=0.01, summary=summary, **options)
    return Detector(network, metadata)


def answers(path: Path) -> tuple[Boxes, dict[str, object]]:
    """All that a detector finds in a chip, and what it says of itself."""
    loaded = load_detector(path, device="cpu", precision="float32")
    (found,) = loaded.detect(CHIP, min_score=0.0)
    return found, loaded.facts


def same(ours: tuple[Boxes, dict[str, object]], theirs: tuple[Boxes, dict[str, object]]) -> bool:
    """Whether two detectors answer alike, to the last bit."""
    arrays = zip(*([boxes.xyxy, boxes.labels, boxes.scores] for boxes, _ in (ours, theirs)), strict=True)
    return all(np.array_equal(a, b) for a, b in arrays) and ours[1] == theirs[1]


def flips(content: bytes, n_flips: int, rng: np.random.Generator) -> Iterator[tuple[str, bytearray]]:
    """The content with one bit flipped, and where that is."""
    header = 8 + int.from_bytes(content[:8], "little")
    for number in range(n_flips):
        place = "header" if number % 2 else "anywhere"
        byte, bit = rng.integers(header if place == "header" else len(content)), rng.integers(8)
        changed = bytearray(content)
        changed[byte] ^= 1 << bit
        yield f"a bit, {place}", changed


def losses(content: bytes, n_losses: int, rng: np.random.Generator) -> Iterator[tuple[str, bytearray]]:
    """The content as failing disks and broken copies leave it, and what was done to it."""
    for _ in range(n_losses):
        first, second = (int(each) * BLOCK for each in rng.choice(len(content) // BLOCK, 2, replace=False))
        yield "cut off", bytearray(content[: int(rng.integers(len(content)))])
        zeros = bytearray(content)
        zeros[first : first + BLOCK] = bytes(BLOCK)
        yield "a block of zeros", zeros
        swapped = bytearray(content)
        swapped[first : first + BLOCK] = content[second : second + BLOCK]
        swapped[second : second + BLOCK] = content[first : first + BLOCK]
        yield "two blocks exchanged", swapped


def main(argv: list[str]) -> int:
    """Damage, load, compare; exit code 1 if something was neither refused nor harmless."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=2000)
    choices = parser.parse_args(argv)
    rng, counts, said = np.random.default_rng(0), Counter[tuple[str, str]](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        path = detector().save(Path(folder) / "model.safetensors")
        content, whole = path.read_bytes(), answers(path)
        sys.stdout.write(f"{len(content):,} bytes, {len(whole[0])} boxes\n")
        start = time.perf_counter()
        damage: tuple[Callable[..., Iterator[tuple[str, bytearray]]], int]
        for damage in ((flips, choices.flips), (losses, choices.flips // 20)):
            for kind, changed in damage[0](content, damage[1], rng):
                path.write_bytes(changed)
                try:
                    outcome = "harmless" if same(answers(path), whole) else "TAKEN FOR WHOLE"
                except ModelError as error:
                    outcome = "refused"
                    said[str(error).replace(str(path), "FILE").partition(" (")[0][:70]] += 1
                counts[kind, outcome] += 1
    sys.stdout.write(f"{time.perf_counter() - start:.0f} s\n")
    for (kind, outcome), n in sorted(counts.items()):
        sys.stdout.write(f"{kind}: {n} {outcome}\n")
    for sentence, n in said.most_common():
        sys.stdout.write(f"{n} x {sentence}\n")
    return int(any(outcome == "TAKEN FOR WHOLE" for _, outcome in counts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

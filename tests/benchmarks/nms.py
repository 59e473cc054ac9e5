"""Seconds of exact non-maximum suppression, and whether torchvision keeps the same boxes.

python tests/benchmarks/nms.py [--boxes 300000] [--compare 20000]
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from torchvision.ops import batched_nms

from geodetect.boxes import Boxes, nms

NMS_IOU = 0.5


def crowd(n_boxes: int, density: float) -> Boxes:
    """Boxes of three classes, about `density` of them over every place that one covers."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 35 * np.sqrt(n_boxes / density), (n_boxes, 2))
    sides = rng.uniform(10, 60, (n_boxes, 2))
    return Boxes(np.c_[corners, corners + sides], rng.integers(0, 3, n_boxes), rng.permutation(n_boxes) / n_boxes)


def main(argv: list[str]) -> None:
    """Time sparse and crowded boxes; compare a smaller number of each with torchvision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=300_000)
    parser.add_argument("--compare", type=int, default=20_000)
    choices = parser.parse_args(argv)
    for name, density in (("sparse", 1.0), ("crowded", 30.0)):
        boxes = crowd(choices.boxes, density)
        start = time.perf_counter()
        kept = len(nms(boxes, NMS_IOU))
        taken = time.perf_counter() - start
        few = crowd(choices.compare, density)
        tensors = (torch.from_numpy(x) for x in (few.xyxy, np.asarray(few.scores), few.labels))
        same = np.array_equal(nms(few, NMS_IOU), batched_nms(*tensors, NMS_IOU).numpy())
        sys.stdout.write(f"{name}: {choices.boxes:,} boxes, {kept:,} kept, {taken:.2f} s; as torchvision: {same}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Seconds and memory of exact non-maximum suppression, and whether torchvision keeps the same boxes.

python tests/benchmarks/nms.py [--boxes 3000000] [--compare 20000]

Each is measured in a process of its own that holds nothing else: memory is its peak, interpreter and boxes included.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

import numpy as np

from geodetect.boxes import Boxes, nms

NMS_IOU = 0.5
DENSITIES = {"sparse": 1.0, "crowded": 30.0}


def crowd(n_boxes: int, density: float) -> Boxes:
    """Boxes of three classes, about `density` of them over every place that one covers."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 35 * np.sqrt(n_boxes / density), (n_boxes, 2))
    sides = rng.uniform(10, 60, (n_boxes, 2))
    return Boxes(np.c_[corners, corners + sides], rng.integers(0, 3, n_boxes), rng.permutation(n_boxes) / n_boxes)


def measured(name: str, n_boxes: int) -> str:
    """How long this process takes, and how much memory it has taken since it began."""
    boxes = crowd(n_boxes, DENSITIES[name])
    start = time.perf_counter()
    kept = len(nms(boxes, NMS_IOU))
    taken = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return f"{name}: {n_boxes:,} boxes, {kept:,} kept, {taken:.2f} s, {peak:,.0f} MiB at most"


def compared(name: str, n_boxes: int) -> bool:
    """Whether torchvision keeps the same boxes."""
    import torch
    from torchvision.ops import batched_nms

    few = crowd(n_boxes, DENSITIES[name])
    tensors = (torch.from_numpy(x) for x in (few.xyxy, np.asarray(few.scores), few.labels))
    return np.array_equal(nms(few, NMS_IOU), batched_nms(*tensors, NMS_IOU).numpy())


def main(argv: list[str]) -> None:
    """Time sparse and crowded boxes; compare a smaller number of each with torchvision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=3_000_000)
    parser.add_argument("--compare", type=int, default=20_000)
    parser.add_argument("--only", choices=DENSITIES, help="measure this one, in this process")
    choices = parser.parse_args(argv)
    if choices.only:
        sys.stdout.write(measured(choices.only, choices.boxes))
        return
    for name in DENSITIES:
        command = [sys.executable, __file__, "--only", name, "--boxes", str(choices.boxes)]
        sys.stdout.write(subprocess.run(command, check=True, capture_output=True, text=True).stdout + "\n")
    for name in DENSITIES:  # afterwards: a process begins with its parent's peak
        sys.stdout.write(f"{name}: {choices.compare:,} as torchvision: {compared(name, choices.compare)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

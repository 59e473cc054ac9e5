"""Seconds and memory of exact non-maximum suppression, and whether torchvision keeps the same boxes.

python tests/benchmarks/nms.py [--boxes 3000000] [--compare 20000]
python tests/benchmarks/nms.py --oriented --boxes 300000

With `--oriented` the same boxes are suppressed upright and turned by random angles, and the times compared. Seconds are
those of the processor, which other work on the machine changes little.

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


def crowd(n_boxes: int, density: float, *, oriented: bool = False) -> Boxes:
    """Boxes of three classes, about `density` of them over every place that one covers; turned anyhow if oriented."""
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 35 * np.sqrt(n_boxes / density), (n_boxes, 2))
    sides = rng.uniform(10, 60, (n_boxes, 2))
    labels, scores = rng.integers(0, 3, n_boxes), rng.permutation(n_boxes) / n_boxes
    angles = rng.uniform(-np.pi / 2, np.pi / 2, n_boxes) if oriented else None
    return Boxes(np.c_[corners, corners + sides], labels, scores, angles)


def measured(name: str, n_boxes: int, *, oriented: bool) -> str:
    """How long this process takes, and how much memory it has taken since it began; the seconds come first."""
    boxes = crowd(n_boxes, DENSITIES[name], oriented=oriented)
    start = time.process_time()
    kept = len(nms(boxes, NMS_IOU))
    taken = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    kind = "oriented" if oriented else "upright"
    return f"{taken:.2f} s, {name}, {kind}: {n_boxes:,} boxes, {kept:,} kept, {peak:,.0f} MiB at most"


def in_own_process(name: str, n_boxes: int, *, oriented: bool) -> float:
    """Measure in a new process, tell what came out, and return the seconds."""
    command = [sys.executable, __file__, "--only", name, "--boxes", str(n_boxes), *["--oriented"] * oriented]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sys.stdout.write(line + "\n")
    return float(line.split()[0])


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
    parser.add_argument("--oriented", action="store_true", help="compare oriented boxes with upright ones")
    choices = parser.parse_args(argv)
    if choices.only:
        sys.stdout.write(measured(choices.only, choices.boxes, oriented=choices.oriented))
        return
    for name in DENSITIES:
        upright = in_own_process(name, choices.boxes, oriented=False)
        if choices.oriented:
            turned = in_own_process(name, choices.boxes, oriented=True)
            sys.stdout.write(f"{name}: oriented boxes take {turned / upright:.1f} times as long\n")
    if choices.oriented:
        return
    for name in DENSITIES:  # afterwards: a process begins with its parent's peak
        sys.stdout.write(f"{name}: {choices.compare:,} as torchvision: {compared(name, choices.compare)}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

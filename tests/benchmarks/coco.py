"""Seconds of COCO's scores over many chips, and the time and scores of pycocotools on a part of them.

python tests/benchmarks/coco.py [--chips 10000] [--boxes 100] [--compare 500]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the oracle lies beside the tests

from geodetect.boxes import Boxes
from geodetect.metrics.coco import coco_scores
from tests import oracles_coco

N_CLASSES = 3


def made(n_chips: int, n_boxes: int) -> list[tuple[Boxes, Boxes]]:
    """(detections, truth) of chips of 512 px: as many of each, two thirds of the detections near an object."""
    rng = np.random.default_rng(0)
    chips = []
    for _ in range(n_chips):
        corners = rng.integers(0, 448, (2 * n_boxes, 2))
        boxes = np.c_[corners, corners + rng.integers(8, 64, (2 * n_boxes, 2))].astype(float)
        labels, near = rng.integers(0, N_CLASSES, 2 * n_boxes), 2 * n_boxes // 3
        boxes[:near] = boxes[n_boxes : n_boxes + near] + rng.integers(-1, 2, (near, 4))
        labels[:near] = labels[n_boxes : n_boxes + near]
        chips.append(
            (Boxes(boxes[:n_boxes], labels[:n_boxes], rng.random(n_boxes)), Boxes(boxes[n_boxes:], labels[n_boxes:]))
        )
    return chips


def ours(chips: list[tuple[Boxes, Boxes]], max_boxes: int | None) -> dict[str, np.ndarray]:
    """Our scores of these chips."""
    return coco_scores([found for found, _ in chips], [truth for _, truth in chips], N_CLASSES, max_boxes=max_boxes)


def main(argv: list[str]) -> None:
    """Time all chips; compare a part of them with pycocotools, both capped at 100 boxes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, default=10_000)
    parser.add_argument("--boxes", type=int, default=100)
    parser.add_argument("--compare", type=int, default=500)
    choices = parser.parse_args(argv)
    chips = made(choices.chips, choices.boxes)
    start = time.perf_counter()
    ours(chips, None)
    whole = time.perf_counter() - start
    few = chips[: choices.compare]
    start = time.perf_counter()
    scores = ours(few, 100)
    half = time.perf_counter()
    expected = oracles_coco.coco_scores(few, N_CLASSES, 100)
    end = time.perf_counter()
    apart = max(float(np.abs(scores[name] - expected[name]).max()) for name in scores)
    sys.stdout.write(
        f"{choices.chips:,} chips of {choices.boxes} detections and {choices.boxes} objects: {whole:.1f} s\n"
        f"{len(few):,} of them: {half - start:.2f} s, pycocotools {end - half:.2f} s "
        f"({(end - half) / (half - start):.0f} times as long); scores differ by at most {apart:.1e}\n"
    )


if __name__ == "__main__":
    main(sys.argv[1:])

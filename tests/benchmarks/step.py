"""Seconds of a training step: float32 against bf16 autocast, in turn, on the same batch and weights.

python tests/benchmarks/step.py [--backbone resnet18] [--side 256] [--batch-size 8]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from geodetect.network.losses import loss
from geodetect.network.precision import autocast
from geodetect.network.retinanet import Network

ROUNDS = 6


def step(network: Network, pictures: torch.Tensor, boxes: torch.Tensor, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a whole step, and of matching and both losses within it."""
    labels = torch.zeros(boxes.shape[:2], dtype=torch.long)
    start = time.perf_counter()
    with autocast(dtype, pictures.device):
        logits, deltas = network(pictures)
    before = time.perf_counter()
    total = sum(loss(logits.float(), deltas.float(), network.anchors(pictures.shape[2:]), boxes, labels))
    after = time.perf_counter()
    total.backward()
    network.zero_grad()
    return time.perf_counter() - start, after - before


def main(argv: list[str]) -> None:
    """Time both precisions in turn and write their medians and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--boxes", type=int, default=40)
    choices = parser.parse_args(argv)
    torch.manual_seed(0)
    network = Network(choices.backbone, n_classes=1, weights=None).train().to(memory_format=torch.channels_last)
    shape = (choices.batch_size, 3, choices.side, choices.side)
    pictures = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    corners = torch.rand(choices.batch_size, choices.boxes, 2) * (choices.side - 40)
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand_like(corners)], dim=-1)
    times: dict[torch.dtype, list[tuple[float, float]]] = {torch.float32: [], torch.bfloat16: []}
    for _ in range(ROUNDS):
        for dtype, taken in times.items():
            taken.append(step(network, pictures, boxes, dtype))
    medians = {dtype: statistics.median(t for t, _ in taken[1:]) for dtype, taken in times.items()}
    for dtype, taken in times.items():
        share = statistics.median(part / whole for whole, part in taken[1:])
        sys.stdout.write(f"{dtype}: {medians[dtype]:.3f} s a step, matching and losses {share:.1%}\n")
    sys.stdout.write(f"bf16 / float32: {medians[torch.bfloat16] / medians[torch.float32]:.2f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

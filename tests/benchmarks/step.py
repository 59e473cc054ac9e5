"""Seconds of a training step against torchvision's own RetinaNet, in turn, on the same chips and weights.

Torchvision steps as it comes: float32, a list of chips, its matching and its loss. Ours are float32 and bf16 autocast,
with freed memory kept, as in `fit`. All are given the same pixels and boxes, start from the same weights, train all of
them and end with the same optimizer. Each takes a few steps in a row, of which the first does not count.

With --heads ours alone are timed, in float32, with pyramids and heads of these widths and depths, and batch norm.

python tests/benchmarks/step.py [--backbone resnet50] [--side 512] [--batch-size 4] [--boxes 200] [--device cpu]
python tests/benchmarks/step.py --heads 256x4 128x2 96x2 64x2 --side 256
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from geodetect import memory
from geodetect.metadata import Architecture
from geodetect.network.losses import Loss
from geodetect.network.precision import autocast
from geodetect.network.pretrained import fill
from geodetect.network.retinanet import Network
from geodetect.normalization import IMAGENET

N_CLASSES = 2
REFERENCE = "torchvision float32"
Batch = tuple[Tensor, Tensor, Tensor]  # pixels 0 to 255 (B, 3, S, S), boxes (B, M, 4), labels (B, M)


def theirs(backbone: str, side: int) -> RetinaNet:
    """Torchvision's RetinaNet for chips of this side, all of it trained."""
    body = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return RetinaNet(body, N_CLASSES, min_size=side, max_size=side)


def step_theirs(network: RetinaNet, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """Seconds of a step of torchvision's."""
    pixels, boxes, labels = batch
    start = now(pixels)
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
    losses = network(list(pixels / 255), targets)
    sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"step": now(pixels) - start}


def step_ours(network: Network, optimizer: torch.optim.Optimizer, dtype: torch.dtype, batch: Batch) -> dict[str, float]:
    """Seconds of a step of ours, and of matching and both losses, forth and back, within it."""
    pixels, boxes, labels = batch
    start = now(pixels)
    mean, std = (torch.tensor(v, device=pixels.device).view(-1, 1, 1) for v in (IMAGENET.mean, IMAGENET.std))
    pictures = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
    with autocast(dtype, pixels.device):
        outputs = network(pictures)
    before = now(pixels)
    said = [output.detach().float().requires_grad_() for output in outputs]
    sum(Loss()(*said, network.anchors(pixels.shape[2:]), boxes, labels)).backward()
    of_loss = now(pixels) - before
    torch.autograd.backward(outputs, [x.grad.to(y.dtype) for x, y in zip(said, outputs, strict=True)])
    optimizer.step()
    optimizer.zero_grad()
    return {"step": now(pixels) - start, "loss": of_loss}


def now(on: Tensor) -> float:
    """Seconds, when the device has done what it was told."""
    if on.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def batch_of(size: int, side: int, n_boxes: int, device: str) -> Batch:
    """Chips of noise with boxes of 10 to 40 px."""
    corners = torch.rand(size, n_boxes, 2) * (side - 40)
    boxes = torch.cat([corners, corners + 10 + 30 * torch.rand_like(corners)], dim=-1)
    pixels = torch.randint(0, 256, (size, 3, side, side)).float()
    return pixels.to(device), boxes.to(device), torch.randint(0, N_CLASSES, (size, n_boxes)).to(device)


def of_sizes(backbone: str, heads: list[str], device: str) -> dict[str, Callable[[Batch], dict[str, float]]]:
    """Steps of ours in float32, with heads of several widths and depths."""
    steps: dict[str, Callable[[Batch], dict[str, float]]] = {}
    for size in heads:
        width, depth = map(int, size.split("x"))
        network = Network(
            Architecture(backbone, head_norm="batch", width=width, depth=depth), n_classes=N_CLASSES, weights=None
        ).to(device, memory_format=torch.channels_last)
        steps[size] = partial(step_ours, network.train(), optimizer(network), torch.float32)
    return steps


def contestants(backbone: str, side: int, device: str) -> dict[str, Callable[[Batch], dict[str, float]]]:
    """What is timed, each with a network and an optimizer of its own."""
    torchvisions = theirs(backbone, side).to(device).train()
    steps: dict[str, Callable[[Batch], dict[str, float]]] = {
        REFERENCE: partial(step_theirs, torchvisions, optimizer(torchvisions))
    }
    for name, dtype in (("float32", torch.float32), ("bf16", torch.bfloat16)):
        network = Network(backbone, n_classes=N_CLASSES, weights=None)
        fill(network, torchvisions.state_dict(), "torchvision's state dict")
        network = network.to(device, memory_format=torch.channels_last).train()
        steps[f"geodetect {name}"] = partial(step_ours, network, optimizer(network), dtype)
    return steps


def optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """What `fit` trains with, at a rate that moves nothing."""
    return torch.optim.AdamW(network.parameters(), lr=1e-9, fused=True)


def main(argv: list[str]) -> None:
    """Time all in turn and write medians, and ratios to torchvision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--boxes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="of each in a round")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--heads", nargs="+", help="sizes of heads to compare instead, such as 256x4 96x2")
    choices = parser.parse_args(argv)
    torch.manual_seed(0)
    batch = batch_of(choices.batch_size, choices.side, choices.boxes, choices.device)
    if choices.heads:
        steps = of_sizes(choices.backbone, choices.heads, choices.device)
    else:
        steps = contestants(choices.backbone, choices.side, choices.device)
    first = next(iter(steps))
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in steps}
    for _ in range(choices.rounds):
        for name, step in steps.items():
            with nullcontext() if name == REFERENCE else memory.reuse_freed():
                taken[name] += [step(batch) for _ in range(choices.steps)][1:]
    medians = {name: statistics.median(t["step"] for t in times) for name, times in taken.items()}
    reference = medians[first]
    sys.stdout.write(f"{choices}, {torch.get_num_threads()} threads\n")
    for name, times in taken.items():
        shares = [t["loss"] / t["step"] for t in times if "loss" in t]
        told = f", matching and losses {statistics.median(shares):.1%}" if shares else ""
        seconds = medians[name] / choices.batch_size
        sys.stdout.write(
            f"{name}: {seconds:.3f} s an image, {reference / medians[name]:.2f} x as fast as {first}{told}\n"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""What there is to know on the first day with a GPU, as one table: detections, steps, epochs, scenes, waits, memory.

    python tests/benchmarks/gpu.py [--device cuda] [--tiny] [--output gpu.md]

At most 8 minutes. Detections of the device are compared with the processor's; a training step with torchvision's own
RetinaNet, plain and with autocast in channels-last order; an epoch with its steps alone; a scene with a plain
loop over its windows and with the network alone. Profiled is the share of a scene's and an epoch's time in which the
device computes. With several GPUs an epoch is also run on all of them. `--tiny` takes sizes at which all of this
takes a minute on a processor, to see that it runs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scene_speed import Scene, plain
from step import Batch, batch_of, contestants, now, optimizer, theirs
from torch.profiler import ProfilerActivity, profile

import geodetect as gd
from geodetect.boxes import Boxes, iou
from geodetect.chips.chip import Chips
from geodetect.network.devices import find_device

SUBURB = Path(__file__).resolve().parents[2] / "sample_data"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        what: what was measured.
        value: figure with its unit.
        reference: what it is compared with.
    """

    what: str
    value: str
    reference: str = ""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Args:
        backbone: of all networks.
        side: of chips and windows in pixels.
        batch_size: of training.
        scene: side of the scene in pixels.
        steps: of training in a row, of which the first two do not count.
        epochs: of the suburb.
        n_chips: of the suburb at most, to train on.
    """

    backbone: str = "resnet50"
    side: int = 512
    batch_size: int = 8
    scene: int = 8000
    steps: int = 12
    epochs: int = 3
    n_chips: int = 1000


TINY = Sizes("resnet18", 64, 2, 120, 3, 1, 4)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes, with all that the device still has to do."""
    on = torch.zeros(1, device=device)
    start = now(on)
    run()
    return now(on) - start


def share_computing(run: Callable[[], object], device: torch.device) -> str:
    """The share of a call's time in which the device computes, as text; none on a processor."""
    if device.type != "cuda":
        return ""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        taken = seconds(run, device)
    computing = sum(event.self_device_time_total for event in seen.key_averages()) / 1e6
    return f", the device computes {computing / taken:.0%} of the time"


def agreement(found: Boxes, reference: Boxes) -> str:
    """How many boxes of the reference were found again, and how far the scores of those differ."""
    if not len(found) or not len(reference):
        return f"{len(found)} and {len(reference)} boxes"
    overlaps = iou(reference.xyxy, found.xyxy) * (reference.labels[:, None] == found.labels)
    best = overlaps.argmax(axis=1)
    best_iou = overlaps.max(axis=1)
    same = best_iou > 0.99
    assert reference.scores is not None
    assert found.scores is not None
    off = np.abs(reference.scores - found.scores[best])[same].max(initial=0)
    near = f"{same.sum()} of {len(reference)} at IoU 0.99, {(best_iou > 0.5).sum()} at 0.5"
    return f"{near}, {len(found)} in all, scores within {off:.1e}"


def detections(scene: Scene, device: torch.device) -> Iterator[Row]:
    """Compare the boxes of a few windows on the device with the processor's."""
    windows = scene.windows()[:8]
    detector = scene.ours("float32")
    (lowest,) = {float(score) for score in detector.metadata.scores(detector.min_score)}
    reference = detector.frozen("float32", "cpu").detect(windows, min_score=lowest)
    for precision in ("float32", "bf16"):
        found = detector.frozen(precision, device).detect(windows, min_score=lowest)
        moved = [
            Boxes.concat(boxes.shift(i * 10 * scene.chip_size, 0) for i, boxes in enumerate(each))
            for each in (found, reference)
        ]
        yield Row(f"boxes in {precision}", agreement(*moved), "float32 on the processor")


def step_autocast(network: Any, optimizer: torch.optim.Optimizer, batch: Batch) -> dict[str, float]:
    """Seconds of a step of torchvision's in bf16 and channels-last order."""
    pixels, boxes, labels = batch
    start = now(pixels)
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
    with torch.autocast(pixels.device.type, torch.bfloat16):
        losses = network(list((pixels / 255).contiguous(memory_format=torch.channels_last)), targets)
    sum(losses.values()).backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"step": now(pixels) - start}


def steps(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Time training steps, each network alone on the device."""
    batch = batch_of(sizes.batch_size, sizes.side, 50, str(device))
    fast = theirs(sizes.backbone, sizes.side).to(device, memory_format=torch.channels_last).train()
    contenders = contestants(sizes.backbone, sizes.side, str(device))
    contenders["torchvision bf16, channels last"] = partial(step_autocast, fast, optimizer(fast))
    reference = None
    for name, step in contenders.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        taken = float(np.median([step(batch)["step"] for _ in range(sizes.steps)][2:]))
        reference = reference or taken
        memory = ""
        if device.type == "cuda":
            memory = f", peak {torch.cuda.max_memory_allocated(device) / 2**20:,.0f} MiB"
        rate = f"{sizes.batch_size / taken:.1f} chips/s{memory}"
        yield Row(f"step, {name}", rate, f"{reference / taken:.2f} x torchvision float32")


def epochs(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Time epochs of `fit` on the drawn suburb, readers and augmentation included."""
    data = gd.prepare_data(
        SUBURB / "suburb_train.tif",
        SUBURB / "suburb_train.geojson",
        chip_size=sizes.side,
        overlap=sizes.side // 2,
        batch_size=sizes.batch_size,
    )
    data = replace(data, train=Chips(data.train.plans[: sizes.n_chips]), valid=Chips(data.valid.plans[: sizes.n_chips]))
    model = gd.RetinaNet(data, backbone=sizes.backbone, weights=None, device=str(device))
    run = partial(model.fit, sizes.epochs, progress=False, checkpoint=False)
    share = share_computing(run, device)
    n_chips = sizes.epochs * len(data.train)
    taken = seconds(run, device)
    yield Row("fit, chips read, augmented and validated", f"{n_chips / taken:.1f} chips/s", share.lstrip(", "))


def scenes(scene: Scene, device: torch.device) -> Iterator[Row]:
    """Time a scene against a plain loop over its windows, and the network alone."""
    n_windows, taken_plain = len(scene.tiling), seconds(plain(scene, device), device)
    yield Row("scene, plain loop of torchvision", f"{n_windows / taken_plain:.1f} windows/s")
    for precision in ("float32", "bf16"):
        detector = scene.ours(precision).frozen(precision, device)
        run = partial(
            gd.detect_objects, scene.raster, detector, precision=precision, device=str(device), progress=False
        )
        run()  # kernels are chosen at first use
        taken, share = seconds(run, device), share_computing(run, device)
        reference = f"{taken_plain / taken:.2f} x the loop{share}"
        yield Row(f"scene, detect_objects {precision}", f"{n_windows / taken:.1f} windows/s", reference)


def limited(scene: Scene, device: torch.device) -> Iterator[Row]:
    """Detect in as much memory as a small card has."""
    if device.type != "cuda":
        return
    _, total = torch.cuda.mem_get_info(device)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2 * 2**30 / total), device)
    try:
        found = gd.detect_objects(scene.raster, scene.ours("auto"), device=str(device), batch_size=64, progress=False)
        yield Row("batches of 64 windows within 2 GiB", f"{len(found):,} features")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def several(sizes: Sizes, device: torch.device) -> Iterator[Row]:
    """Run `geodetect train` on all GPUs of this machine."""
    n_gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if n_gpus < 2:
        return
    for n in (1, n_gpus):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(n), "-m"]
            source = [str(SUBURB / "suburb_train.tif"), f"{folder}/model.safetensors"]
            labels = ["--labels", str(SUBURB / "suburb_train.geojson"), "--chip-size", str(sizes.side)]
            options = ["--epochs", "10", "--weights", "none", "--backbone", sizes.backbone, "--no-progress"]
            start = time.perf_counter()
            subprocess.run(
                [*command, "geodetect", "train", *source, *labels, *options], check=True, capture_output=True
            )
            yield Row(f"geodetect train, ten epochs on {n} GPU(s)", f"{time.perf_counter() - start:.1f} s")


def main(argv: list[str]) -> None:
    """Measure everything in turn, and write one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=None, help="the GPU, or cpu; a GPU where there is one")
    parser.add_argument("--tiny", action="store_true", help="sizes for a processor")
    parser.add_argument("--output", type=Path, help="file for the table, besides the terminal")
    choices = parser.parse_args(argv)
    device, sizes = find_device(choices.device), TINY if choices.tiny else Sizes()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    lines = [f"{device}: {name}, torch {torch.__version__}, {sizes}", "", "| what | value | beside |", "|---|---|---|"]
    sys.stdout.write("\n".join(lines) + "\n")
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings() if choices.tiny else nullcontext():
        if choices.tiny:
            warnings.simplefilter("ignore")
        scene = Scene(Path(folder), sizes.scene, sizes.side, sizes.side // 8)
        scene.make()
        for rows in (
            detections(scene, device),
            steps(sizes, device),
            epochs(sizes, device),
            scenes(scene, device),
            limited(scene, device),
            several(sizes, device),
        ):
            for row in rows:
                lines.append(f"| {row.what} | {row.value} | {row.reference} |")
                sys.stdout.write(lines[-1] + "\n")
                sys.stdout.flush()
    if choices.output is not None:
        choices.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Which filters a fourth band should start with when the backbone's weights know three.

    OMP_NUM_THREADS=1 python tests/benchmarks/bands.py [--place trees] [--seeds 42 43 44] [--steps 240]

RetinaNets with `size="small"` on an EfficientNet-Lite0 with ImageNet weights learn from chips with four bands, all else
as by default, each time with other filters of the fourth band: "mean" of the three (what geodetect takes), "zero",
"red" (those of the first), "scaled" (mean, and all four by 3/4, so that a grey image keeps its result), or "random"
as in a new layer; "three bands" leaves the fourth out, and "16 bits" starts as "mean" does, with the pixels spread over
900 to 10,335 as a sensor of 14 bits might give them. AP50 is that of the last weights on held-out blocks inside the
training part; a seed chooses the blocks, the first weights of the heads and the order of chips.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from places import PLACES
from torch import Tensor, nn

import geodetect as gd
from geodetect.chips import DetectionData
from geodetect.chips.chip import Chips
from geodetect.grid import Window
from geodetect.normalization import Normalization
from geodetect.raster import Reader

_BATCH, _RGB = 4, 3
_FACTOR, _OFFSET = 37, 900  # of the copy with 16 bits
_OTHER_CHIPS = ("three bands", "16 bits")


def random(weight: Tensor) -> Tensor:
    """A filter as a new layer would have it."""
    filters = torch.empty_like(weight)
    nn.init.kaiming_normal_(filters, mode="fan_out", nonlinearity="relu")
    return torch.cat([weight[:, :_RGB], filters[:, _RGB:]], dim=1)


def with_fourth(weight: Tensor, fourth: Tensor) -> Tensor:
    """The filters of three bands, and those of one more."""
    return torch.cat([weight[:, :_RGB], fourth.expand_as(weight[:, :1])], dim=1)


STARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda weight: weight,
    "zero": lambda weight: with_fourth(weight, torch.zeros(())),
    "red": lambda weight: with_fourth(weight, weight[:, :1]),
    "scaled": lambda weight: weight * 0.75,
    "random": random,
}


def first_three(data: DetectionData) -> DetectionData:
    """The same chips without the fourth band."""
    train, valid = (
        Chips([replace(plan, reader=plan.reader.view(bands=(1, 2, 3))) for plan in part.plans])
        for part in (data.train, data.valid)
    )
    normalization = Normalization(data.normalization.mean[:_RGB], data.normalization.std[:_RGB])
    return replace(data, train=train, valid=valid, normalization=normalization, bands=data.bands[:_RGB])


@dataclass(frozen=True)
class SixteenBits:
    """A reader of 8 bits whose pixels come as 16."""

    reader: Reader
    dtype = np.dtype(np.uint16)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def read(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """Pixels, (C, H, W), and which are valid, (H, W)."""
        pixels, valid = self.reader.read(window)
        return pixels.astype(np.uint16) * _FACTOR + _OFFSET, valid


def sixteen_bits(data: DetectionData) -> DetectionData:
    """The same chips in 16 bits, with the normalisation that `prepare_data` would have computed."""
    train, valid = (
        Chips([replace(plan, reader=SixteenBits(plan.reader)) for plan in part.plans])
        for part in (data.train, data.valid)
    )
    mean, std = np.array(data.normalization.mean) * _FACTOR + _OFFSET, np.array(data.normalization.std) * _FACTOR
    normalization = Normalization(tuple(mean.tolist()), tuple(std.tolist()))
    return replace(data, train=train, valid=valid, normalization=normalization, dtype="uint16")


@torch.no_grad()
def trained(place: str, start: str, seed: int, steps: int) -> float:
    """Validation AP50, as a mean over the classes."""
    data = replace(PLACES[place](seed).data, batch_size=_BATCH)
    if start in _OTHER_CHIPS:
        data = first_three(data) if start == "three bands" else sixteen_bits(data)
    backbone = {"backbone": "efficientnet_lite0", "weights": "imagenet", "size": "small", "scales": "auto"}
    model = gd.RetinaNet(data, seed=seed, **backbone)
    if start in STARTS:
        first = next(layer for layer in model.detector.network.modules() if isinstance(layer, nn.Conv2d))
        assert first.in_channels == _RGB + 1
        first.weight.copy_(STARTS[start](first.weight))
    with torch.enable_grad():
        model.fit(max(1, round(steps * _BATCH / len(data.train))), progress=False, checkpoint=False)
    return float(np.nanmean(list(model.average_precision_score().values())))


def main(argv: list[str]) -> None:
    """Train from each start with each seed, and write a line for each start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=list(PLACES), default="trees")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--starts", nargs="+", default=[*STARTS, *_OTHER_CHIPS], choices=[*STARTS, *_OTHER_CHIPS])
    choices = parser.parse_args(argv)
    for start in choices.starts:
        begun = time.process_time()
        scores = [trained(choices.place, start, seed, choices.steps) for seed in choices.seeds]
        each = " ".join(f"{score:.3f}" for score in scores)
        taken = time.process_time() - begun
        sys.stdout.write(f"{start}: AP50 {statistics.mean(scores):.3f} ({each}), {taken:.0f} s of processor time\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

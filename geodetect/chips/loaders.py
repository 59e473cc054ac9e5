"""Batches for training: padded boxes, changes at random, one standardisation for all.

A batch is (images (B, C, S, S) float32 standardised, boxes (B, M, 4) float32 in pixels,
labels (B, M) int64 with -1 for padding). fastai takes the first as input and the others
as target. Padding keeps the targets regular: fastai weighs the validation loss by batch
length, and would take a ragged target for one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.torch_core import to_detach
from jaxtyping import Float
from torch import Tensor

from geodetect.chips.augment import random_light, random_symmetry, random_zoom
from geodetect.chips.chip import Chip, Chips
from geodetect.errors import ArgumentError
from geodetect.stretch import Stretch

Batch = tuple[Tensor, Tensor, Tensor]

_REMEMBERED_BYTES = 2 << 30  # chips up to this size together are read once and kept


def loaders(
    train: Chips,
    valid: Chips,
    *,
    chip_size: int,
    stretch: Stretch,
    batch_size: int = 8,
    transforms: bool = True,
    num_workers: int | None = None,
    weights: Sequence[float] | None = None,
    seed: int = 42,
    device: str | torch.device = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
) -> DataLoaders:
    """Fastai's pair of loaders over the chips of both parts.

    Args:
        train: chips to learn from, shuffled anew in each epoch.
        valid: chips to validate on, in their order and unchanged.
        chip_size: side of the pictures of a batch; smaller chips are padded with 0 right and below.
        stretch: how pixels are standardised.
        batch_size: chips in a batch.
        transforms: change training batches at random.
        num_workers: processes that read; None: none on a CPU, as many as there are cores (8 at most) with a GPU.
        weights: how often each training chip comes, relative to the others; None: each once an epoch.
        seed: of the changes and of the order.
        device: where batches go.
        rank: the number of this process, of those that share the chips.
        n_ranks: how many there are.

    Raises:
        ArgumentError: if there are fewer chips to learn from than processes.
    """
    device = torch.device(device)
    if len(train) < n_ranks:
        raise ArgumentError(f"each process needs a chip to learn from; got {len(train)} chips for {n_ranks} processes")
    if num_workers is None:
        num_workers = min(8, torch.multiprocessing.cpu_count() // n_ranks) if device.type == "cuda" else 0
    after = BatchTransform(stretch, transforms=transforms, seed=seed)
    plain = BatchTransform(stretch, transforms=False, seed=seed)
    parts = [(train, True, after), (valid, False, plain)]
    made = [
        ChipLoader(
            RememberedChips(part),
            bs=max(1, min(batch_size, len(part) // n_ranks)),
            shuffle=shuffle,
            drop_last=shuffle,
            num_workers=num_workers,
            create_batch=partial(collate, chip_size=chip_size),
            after_batch=transform,
            device=device,
        )
        for part, shuffle, transform in parts
    ]
    for loader in made:
        loader.rank, loader.n_ranks = rank, n_ranks
        loader.reseed(seed, seed)
    made[0].weights = weights
    dls = DataLoaders(*made, device=device)
    dls.n_inp = 1
    return dls


class ChipLoader(DataLoader):  # type: ignore[misc]
    """fastai's loader for one of several processes; it knows the chips of each batch, and starts anew from a seed.

    Of every `n_ranks` batches in a row each process gets one. Where the last batch is dropped, none gets a batch
    that others do not get.
    """

    rank, n_ranks = 0, 1
    weights: Sequence[float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a process that reads chips needs; batches are changed in this one, by a generator that stays here."""
        return {name: value for name, value in vars(self).items() if name != "after_batch"}

    def __len__(self) -> int:
        batches = self.n // self.bs if self.drop_last else -(-self.n // self.bs)
        return batches // self.n_ranks if self.drop_last else len(range(self.rank, batches, self.n_ranks))

    def get_idxs(self) -> list[int]:
        """The chips of this epoch that this process reads, in their order."""
        every = super().get_idxs()
        batches = [every[first : first + self.bs] for first in range(0, len(every), self.bs)]
        self.batches = batches[self.rank :: self.n_ranks][: len(self)]
        return [index for batch in self.batches for index in batch]

    def shuffle_fn(self, numbers: list[int]) -> list[int]:
        """The chips in random order, each once, or as often as its weight says."""
        if self.weights is None:
            return list(super().shuffle_fn(numbers))
        return self.rng.choices(numbers, self.weights, k=len(numbers))

    def reseed(self, order: int, changes: int) -> None:
        """Let the next epoch's order of chips, and its random changes, follow from these two numbers alone."""
        self.rng = random.Random(order)  # fastai draws a seed of its own
        self.after_batch.generator.manual_seed(changes)

    def to_detach(self, batch: Any, cpu: bool = True, gather: bool = True) -> Any:
        """What fastai's metrics take; never gathered from other processes, which may hold another number of batches."""
        return to_detach(batch, cpu, gather=False)


class RememberedChips(Sequence[Chip]):
    """Chips read once and kept, as long as all of them together stay small."""

    def __init__(self, chips: Chips) -> None:
        self.chips = chips
        self._kept: dict[int, Chip] = {}

    def __len__(self) -> int:
        return len(self.chips)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it reads its own chips."""
        return {"chips": self.chips, "_kept": {}}

    def __getitem__(self, index: Any) -> Any:
        """The chip with this number, read on first use."""
        chip = self._kept.get(index)
        if chip is None:
            chip = self.chips[index]
            if chip.pixels.nbytes * len(self) <= _REMEMBERED_BYTES:
                self._kept[index] = chip
        return chip


def collate(chips: Sequence[Chip], chip_size: int) -> Batch:
    """Raw pixels as float32 (B, C, S, S) with boxes and labels, all padded to one size."""
    n_boxes = max(len(chip.boxes) for chip in chips)
    images = np.zeros((len(chips), len(chips[0].pixels), chip_size, chip_size), np.float32)
    boxes = np.zeros((len(chips), n_boxes, 4), np.float32)
    labels = np.full((len(chips), n_boxes), -1, np.int64)
    for i, chip in enumerate(chips):
        _, height, width = chip.pixels.shape
        images[i, :, :height, :width] = chip.pixels
        boxes[i, : len(chip.boxes)] = chip.boxes.xyxy
        labels[i, : len(chip.boxes)] = chip.boxes.labels
    return torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(labels)


class BatchTransform:
    """What happens to a batch on its device: geometry on raw pixels, the stretch, then light.

    Geometry comes first so that what a zoom brings in from outside is raw 0, as nodata is.
    """

    def __init__(self, stretch: Stretch, *, transforms: bool, seed: int) -> None:
        self.mean = torch.tensor(stretch.mean).view(-1, 1, 1)
        self.std = torch.tensor(stretch.std).view(-1, 1, 1)
        self.transforms = transforms
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Batch) -> Batch:
        """The batch as the network is shown it."""
        images, boxes, labels = batch
        if self.transforms:
            images, boxes, labels = random_zoom(images, boxes, labels, self.generator)
            images, boxes = random_symmetry(images, boxes, self.generator)
        images = self.standardise(images)
        if self.transforms:
            images = random_light(images, self.generator)
        return images.contiguous(memory_format=torch.channels_last), boxes, labels

    def standardise(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Pixels minus each band's mean, over its standard deviation; what is not finite counts as the mean."""
        return ((images - self.mean.to(images)) / self.std.to(images)).nan_to_num(nan=0, posinf=0, neginf=0)

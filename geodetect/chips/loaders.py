"""Batches for training: padded boxes, augmentation, standardisation.

A batch is (images (B, C, S, S) float32 standardised, boxes (B, M, 4) float32 in pixels,
labels (B, M) int64 with -1 for padding). Oriented boxes are (B, M, 5), the last number the
angle in radians. fastai takes the first as input and the others as target. Padding keeps
the targets regular: fastai weighs the validation loss by batch length, and would take a
ragged target for one.
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
from torch import Tensor

from geodetect.chips.augment import Batch, random_light, random_symmetry, random_zoom
from geodetect.chips.chip import Chip, Chips
from geodetect.chips.data import DetectionData
from geodetect.errors import ArgumentError
from geodetect.network.inference import normalize
from geodetect.stretch import Stretch

_MOST_CACHED_BYTES = 2 << 30  # chips that are smaller than this together are read once and kept


def make_loaders(
    data: DetectionData,
    stretch: Stretch,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
) -> DataLoaders:
    """Make fastai's pair of loaders: shuffled, augmented training chips, and validation chips as they are.

    Chips smaller than the data's `chip_size` are padded with 0 right and below.

    Args:
        data: chips, and how they are loaded. `num_workers=None` is none on a CPU, with a GPU one a core, 8 at most.
        stretch: standardises the pixels.
        device: of the batches.
        rank: number of this process among those that share the chips.
        n_ranks: number of processes.

    Raises:
        ArgumentError: if there are fewer training chips than processes.
    """
    device = torch.device(device)
    if len(data.train) < n_ranks:
        raise ArgumentError(
            f"each process needs a chip to train on; got {len(data.train)} chips for {n_ranks} processes"
        )
    num_workers = data.num_workers
    if num_workers is None:
        num_workers = min(8, torch.multiprocessing.cpu_count() // n_ranks) if device.type == "cuda" else 0
    made = [
        ChipLoader(
            CachedChips(chips),
            bs=max(1, min(data.batch_size, len(chips) // n_ranks)),
            shuffle=in_training,
            drop_last=in_training,
            num_workers=num_workers,
            create_batch=partial(collate, chip_size=data.chip_size),
            after_batch=BatchTransform(stretch, transforms=in_training and data.transforms, seed=data.seed),
            device=device,
        )
        for chips, in_training in ((data.train, True), (data.valid, False))
    ]
    for loader in made:
        loader.rank, loader.n_ranks = rank, n_ranks
        loader.reseed(data.seed, data.seed)
    made[0].weights = data.weights
    dls = DataLoaders(*made, device=device)
    dls.n_inp = 1
    return dls


class ChipLoader(DataLoader):  # type: ignore[misc]
    """fastai's loader for one of several processes; it knows the chips of each batch, and can be reseeded.

    Of every `n_ranks` successive batches each process gets one. If the last batch is dropped, all processes get as
    many.
    """

    rank, n_ranks = 0, 1
    weights: Sequence[float] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what reading processes do not need: batches are changed in this one, which has the generator."""
        return {name: value for name, value in vars(self).items() if name != "after_batch"}

    def __len__(self) -> int:
        batches = self.n // self.bs if self.drop_last else -(-self.n // self.bs)
        return batches // self.n_ranks if self.drop_last else len(range(self.rank, batches, self.n_ranks))

    def get_idxs(self) -> list[int]:
        """Return the chips of this epoch that this process reads, in their order."""
        every = super().get_idxs()
        batches = [every[first : first + self.bs] for first in range(0, len(every), self.bs)]
        self.batches = batches[self.rank :: self.n_ranks][: len(self)]
        return [index for batch in self.batches for index in batch]

    def shuffle_fn(self, numbers: list[int]) -> list[int]:
        """Return the chips in random order, each once, or drawn by its weight."""
        if self.weights is None:
            return list(super().shuffle_fn(numbers))
        return self.rng.choices(numbers, self.weights, k=len(numbers))

    def reseed(self, order: int, changes: int) -> None:
        """Seed the next epoch's order of chips, and its random changes."""
        self.rng = random.Random(order)  # fastai draws a seed of its own
        self.after_batch.generator.manual_seed(changes)

    def to_detach(self, batch: Any, cpu: bool = True, gather: bool = True) -> Any:
        """Detach for fastai's metrics; nothing is gathered from processes with another number of batches."""
        return to_detach(batch, cpu, gather=False)


class CachedChips(Sequence[Chip]):
    """Chips that are read once and kept, if all of them together are small."""

    def __init__(self, chips: Chips) -> None:
        self.chips = chips
        self._kept: dict[int, Chip] = {}

    def __len__(self) -> int:
        return len(self.chips)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the chips that were read: another process reads its own."""
        return {"chips": self.chips, "_kept": {}}

    def __getitem__(self, index: Any) -> Any:
        """Return a chip, read on first use."""
        chip = self._kept.get(index)
        if chip is None:
            chip = self.chips[index]
            if chip.pixels.nbytes * len(self) <= _MOST_CACHED_BYTES:
                self._kept[index] = chip
        return chip


def collate(chips: Sequence[Chip], chip_size: int) -> tuple[Tensor, ...]:
    """Return raw pixels, boxes and labels of chips, padded to one size; fastai cannot copy named tuples."""
    n_boxes = max(len(chip.boxes) for chip in chips)
    images = np.zeros((len(chips), len(chips[0].pixels), chip_size, chip_size), np.float32)
    oriented = any(chip.boxes.oriented for chip in chips)
    boxes = np.zeros((len(chips), n_boxes, 5 if oriented else 4), np.float32)
    labels = np.full((len(chips), n_boxes), -1, np.int64)
    for i, chip in enumerate(chips):
        _, height, width = chip.pixels.shape
        images[i, :, :height, :width] = chip.pixels
        boxes[i, : len(chip.boxes), :4] = chip.boxes.xyxy
        if chip.boxes.angles is not None:
            boxes[i, : len(chip.boxes), 4] = chip.boxes.angles
        labels[i, : len(chip.boxes)] = chip.boxes.labels
    return torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(labels)


class BatchTransform:
    """Changes of a batch on its device: geometry of raw pixels, standardisation, then light.

    Geometry comes first so that what a zoom brings in from outside is raw 0, as nodata is.
    """

    def __init__(self, stretch: Stretch, *, transforms: bool, seed: int) -> None:
        self.stretch, self.transforms = stretch, transforms
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the batch as the network takes it, as a plain tuple, as in `collate`."""
        changed = Batch(*batch)
        if self.transforms:
            changed = random_symmetry(random_zoom(changed, self.generator), self.generator)
        images = normalize(changed.images, self.stretch.mean, self.stretch.std)
        if self.transforms:
            images = random_light(images, self.generator)
        return images.contiguous(memory_format=torch.channels_last), changed.boxes, changed.labels

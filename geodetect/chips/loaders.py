"""Batches for training: padded boxes, augmentation, standardisation.

A batch is (images (B, C, S, S) float32 standardised, boxes (B, M, 4) float32 in pixels,
labels (B, M) int64 with -1 for padding). Oriented boxes are (B, M, 5), the last number the
angle in radians. fastai takes the first as input and the others as target. Padding keeps
the targets regular: fastai weighs the validation loss by batch length, and would take a
ragged target for one. Until they are on the device, pixels of 8 and 16 bits stay integers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.torch_core import to_detach
from torch import Tensor

from geodetect.chips.augment import Batch, random_light, random_symmetry, random_zoom
from geodetect.chips.cached import CachedChips, travelling
from geodetect.chips.chip import Chip
from geodetect.chips.data import DetectionData
from geodetect.errors import ArgumentError
from geodetect.network.inference import normalize, send, send_pixels
from geodetect.normalization import Normalization

_MOST_CACHED_BYTES = 2 << 30  # chips that are smaller than this together are read once and kept


def make_loaders(
    data: DetectionData,
    normalization: Normalization,
    *,
    device: str | torch.device = "cpu",
    rank: int = 0,
    n_ranks: int = 1,
) -> DataLoaders:
    """Make fastai's pair of loaders: shuffled, augmented training chips, and validation chips as they are.

    Chips smaller than the data's `chip_size` are padded with 0 right and below.

    Args:
        data: chips, and how they are loaded. `num_workers=None` is none on a CPU, with a GPU one a core, 8 at most.
        normalization: standardises the pixels.
        device: of the batches.
        rank: number of this process among those that share the chips.
        n_ranks: number of processes.

    Raises:
        ArgumentError: if there are fewer training chips than processes.
    """
    device = torch.device(device)
    if len(data.train) < n_ranks:
        raise ArgumentError(f"each process needs a training chip; got {len(data.train)} chips for {n_ranks} processes")
    num_workers = data.num_workers
    if num_workers is None:
        num_workers = min(8, torch.multiprocessing.cpu_count() // n_ranks) if device.type == "cuda" else 0
    pixel_bytes = len(data.bands) * np.dtype(data.dtype).itemsize
    made = [
        ChipLoader(
            CachedChips(chips, kept=chips.n_pixels * pixel_bytes <= _MOST_CACHED_BYTES),
            bs=max(1, min(data.batch_size, len(chips) // n_ranks)),
            shuffle=in_training,
            drop_last=in_training,
            num_workers=num_workers,
            create_batch=partial(collate, chip_size=data.chip_size, pin_memory=device.type == "cuda"),
            after_batch=BatchTransform(
                normalization, transforms=in_training and data.transforms, seed=data.seed, device=device
            ),
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

    def __len__(self) -> int:
        batches = self.n // self.bs if self.drop_last else -(-self.n // self.bs)
        return batches // self.n_ranks if self.drop_last else len(range(self.rank, batches, self.n_ranks))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield the batches of an epoch, on the device."""
        self.randomize()
        self.before_iter()
        # A seed that fastai's own iteration draws; without it, layers that draw numbers would draw others than before.
        torch.empty((), dtype=torch.int64).random_()
        chips = self.dataset.read(self.get_idxs(), self.fake_l.num_workers)
        for numbers in self.batches:
            yield self.after_batch(self.create_batch(list(islice(chips, len(numbers)))))
        self.after_iter()

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


def collate(chips: Sequence[Chip], chip_size: int, *, pin_memory: bool = False) -> tuple[Tensor, ...]:
    """Return raw pixels, boxes and labels of chips, padded to one size; fastai cannot copy named tuples.

    Pixels are integers of 8 or 16 bits if those of all chips are, else float32.

    Args:
        chips: with as many bands each.
        chip_size: side of the largest.
        pin_memory: whether the pixels are in pinned memory, from which CUDA copies asynchronously.
    """
    n_boxes = max(len(chip.boxes) for chip in chips)
    dtype = travelling(np.result_type(*(chip.pixels.dtype for chip in chips)))
    shape = len(chips), len(chips[0].pixels), chip_size, chip_size
    images = torch.zeros(shape, dtype=torch.from_numpy(np.empty(0, dtype)).dtype, pin_memory=pin_memory)
    oriented = any(chip.boxes.oriented for chip in chips)
    boxes = np.zeros((len(chips), n_boxes, 5 if oriented else 4), np.float32)
    labels = np.full((len(chips), n_boxes), -1, np.int64)
    for i, (chip, square) in enumerate(zip(chips, images.numpy(), strict=True)):
        _, height, width = chip.pixels.shape
        square[:, :height, :width] = chip.pixels
        boxes[i, : len(chip.boxes), :4] = chip.boxes.xyxy
        if chip.boxes.angles is not None:
            boxes[i, : len(chip.boxes), 4] = chip.boxes.angles
        labels[i, : len(chip.boxes)] = chip.boxes.labels
    return images, torch.from_numpy(boxes), torch.from_numpy(labels)


class BatchTransform:
    """Changes of a batch on its way to a device: geometry of raw pixels, standardisation, then light.

    Geometry comes first so that what a zoom brings in from outside is raw 0, as nodata is.
    """

    def __init__(
        self, normalization: Normalization, *, transforms: bool, seed: int, device: str | torch.device = "cpu"
    ) -> None:
        self.normalization, self.transforms, self.device = normalization, transforms, torch.device(device)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the batch as the network takes it, as a plain tuple, as in `collate`."""
        pixels, boxes, labels = batch
        changed = Batch(send_pixels(pixels, self.device), boxes, labels)
        if self.transforms:
            changed = random_symmetry(random_zoom(changed, self.generator), self.generator)
        images = normalize(changed.images, self.normalization.mean, self.normalization.std)
        if self.transforms:
            images = random_light(images, self.generator)
        images = images.contiguous(memory_format=torch.channels_last)
        return images, send(changed.boxes, self.device), send(changed.labels, self.device)

"""Chips that training reads: once, by this process or by others, and then from memory.

The other processes import this module, and nothing of fastai, which takes seconds.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from geodetect.chips.chip import Chip, Chips

_READ_AHEAD = 4  # chips for each process that reads
_SMALL_BYTES = 2  # of integers that travel as they are


class CachedChips(Sequence[Chip]):
    """Chips that are read once and kept, by this process or by others, which are reused from epoch to epoch.

    Args:
        chips: the chips.
        kept: whether they are kept; otherwise each is read whenever it is needed.
    """

    def __init__(self, chips: Chips, *, kept: bool = True) -> None:
        self.chips = chips
        self._kept: dict[int, Chip] | None = {} if kept else None
        self._due: list[int] = []  # chips that the processes read in this iteration
        self._processes: DataLoader[Any] | None = None
        self._reading = False

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: Any) -> Any:
        """Return a chip, read on first use."""
        kept = {} if self._kept is None else self._kept
        if index not in kept:
            kept[index] = self.chips[index]
        return kept[index]

    def read(self, numbers: Sequence[int], n_processes: int = 0) -> Iterator[Chip]:
        """Yield the chips with these numbers in this order.

        Args:
            numbers: of chips; may repeat.
            n_processes: number of processes that read ahead. With 0, and during another iteration, this one reads.
        """
        if not n_processes or self._reading:
            yield from map(self.__getitem__, numbers)
            return
        kept, self._reading = self._kept, True
        self._due[:] = numbers if kept is None else [n for n in dict.fromkeys(numbers) if n not in kept]
        due = set(self._due)
        try:
            coming = self._read_due(n_processes) if due else iter(())
            for number in numbers:
                if kept is None:
                    yield self._chip(number, next(coming).numpy())
                    continue
                if number in due:
                    due.remove(number)
                    kept[number] = self._chip(number, next(coming).numpy().copy())  # out of shared memory
                yield kept[number]
        finally:
            self._reading = False
        if kept is not None and len(kept) == len(self):
            self.close()

    def _chip(self, number: int, pixels: np.ndarray) -> Chip:
        plan = self.chips.plans[number]
        return Chip(pixels, plan.boxes, plan.grid)

    def _read_due(self, n_processes: int) -> Iterator[Tensor]:
        """Return the pixels of the chips that are due, from processes that are started once."""
        with warnings.catch_warnings():  # of more processes than cores, which wait for disks and networks
            warnings.filterwarnings("ignore", "This DataLoader will create")
            if self._processes is None:
                self._processes = DataLoader(
                    self.chips,  # type: ignore[arg-type]
                    batch_size=None,
                    sampler=self._due,
                    collate_fn=_as_tensor,  # type: ignore[arg-type]  # without a batch size it takes single chips
                    num_workers=min(n_processes, len(self)),
                    prefetch_factor=_READ_AHEAD,
                    persistent_workers=True,
                    generator=torch.Generator(),
                )
            return iter(self._processes)

    def close(self) -> None:
        """End the processes; the next iteration starts new ones."""
        self._processes, self._reading = None, False


def _as_tensor(chip: Chip) -> Tensor:
    """Return the pixels of a chip as they travel between processes."""
    return torch.from_numpy(chip.pixels.astype(travelling(chip.pixels.dtype)))


def travelling(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which pixels travel to the device: integers of 8 and 16 bits as they are, else float32."""
    is_small = dtype.kind in "iu" and dtype.itemsize <= _SMALL_BYTES
    return dtype.newbyteorder("=") if is_small else np.dtype(np.float32)

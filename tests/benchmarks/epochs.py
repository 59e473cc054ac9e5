"""Seconds in which the loader of training reads each epoch of the drawn suburb, without a network.

    python tests/benchmarks/epochs.py [--workers 2] [--method fork] [--epochs 4]

The first epoch starts the processes and reads the files; in later ones the chips are in memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import geodetect as gd
from geodetect.chips.loaders import make_loaders

SUBURB = Path(__file__).resolve().parents[2] / "sample_data"


def main(argv: list[str]) -> None:
    """Read the epochs, and write the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--method", default="fork", choices=torch.multiprocessing.get_all_start_methods())
    parser.add_argument("--epochs", type=int, default=4)
    choices = parser.parse_args(argv)
    torch.multiprocessing.set_start_method(choices.method)
    data = gd.prepare_data(
        SUBURB / "suburb_train.tif",
        SUBURB / "suburb_train.geojson",
        chip_size=256,
        overlap=128,
        batch_size=8,
        num_workers=choices.workers,
        transforms=False,
    )
    loader, taken = make_loaders(data, data.normalization).train, []
    for _ in range(choices.epochs):
        start = time.perf_counter()
        n_chips = sum(len(images) for images, *_ in loader)
        taken.append(time.perf_counter() - start)
    times = " ".join(f"{seconds:.2f}" for seconds in taken)
    sys.stdout.write(f"{n_chips} chips, {choices.workers} processes ({choices.method}), seconds by epoch: {times}\n")


if __name__ == "__main__":
    main(sys.argv[1:])

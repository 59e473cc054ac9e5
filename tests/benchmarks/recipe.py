"""Validation AP50 of training recipes, on ground inside the training parts; what is scored at the end stays closed.

    python tests/benchmarks/recipe.py [--places banepa ...] [--seeds 42 43] [--steps 600] [--chips N]
        [--frozen N] [NAME=VALUE ...]

NAME=VALUE is a parameter of `RetinaNet` or of `fit`, or `batch_size`; all else is as by default, but for a ResNet18
from random weights and anchors fitted to the data; a pair as `lr` is the slice of backbone and heads. All recipes see
as many chips: `steps` are batches of four; with 0 `prepare_data` and `fit` choose the batch and the epochs. A seed
chooses the blocks that are held out, the first weights and the order of chips, and which of them `--chips` leaves.
Of the steps, `--frozen` are taken with a frozen backbone first: `freeze()`, `fit`, `unfreeze()`, `fit`.
AP50 is that of the last weights.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from places import PLACES

import geodetect as gd
from geodetect.chips.chip import Chips
from geodetect.chips.prepare import choose_batch_size

_SMALL_BATCH = 4


def trained(
    place: str, seed: int, steps: int, n_chips: int | None, frozen: int, choices: Mapping[str, Any]
) -> tuple[float, float]:
    """Validation AP50, as a mean over the classes, and seconds of processor time in training."""
    data = PLACES[place](seed).data
    if n_chips is not None:
        kept = np.random.default_rng(seed).permutation(len(data.train))[:n_chips]
        data = replace(data, train=Chips([data.train.plans[i] for i in sorted(kept)]))
    usual = _SMALL_BATCH if steps else choose_batch_size(len(data.train))
    data = replace(data, batch_size=choices.get("batch_size", usual))
    base = {"backbone": "resnet18", "weights": None, "scales": "auto"}
    model = gd.RetinaNet(data, seed=seed, **base | _of(gd.RetinaNet, choices))
    epochs = max(1, round((steps - frozen) * _SMALL_BATCH / len(data.train))) if steps else None
    fitting = {"progress": False, "checkpoint": False} | _of(gd.RetinaNet.fit, choices)
    start = time.process_time()
    if frozen:
        model.freeze()
        model.fit(max(1, round(frozen * _SMALL_BATCH / len(data.train))), **fitting)
        model.unfreeze()
    model.fit(epochs, **fitting)
    taken = time.process_time() - start
    return float(np.nanmean(list(model.average_precision_score().values()))), taken


def _of(function: Any, choices: Mapping[str, Any]) -> dict[str, Any]:
    """The choices that are parameters of this function."""
    return {name: choices[name] for name in inspect.signature(function).parameters if name in choices}


def parsed(pairs: list[str]) -> dict[str, Any]:
    """NAME=VALUE as keywords; what is no literal of Python is a word."""
    choices: dict[str, Any] = {}
    for name, _, value in (pair.partition("=") for pair in pairs):
        try:
            choices[name] = ast.literal_eval(value)
        except ValueError:
            choices[name] = value
    if isinstance(choices.get("lr"), tuple):
        choices["lr"] = slice(*choices["lr"])
    known = {"batch_size", *inspect.signature(gd.RetinaNet).parameters, *inspect.signature(gd.RetinaNet.fit).parameters}
    if unknown := choices.keys() - known:
        raise SystemExit(f"no parameter of RetinaNet or of fit: {', '.join(unknown)}")
    return choices


def main(argv: list[str]) -> None:
    """Train once for each place and seed, and write a line for each place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", nargs="+", choices=list(PLACES), default=list(PLACES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--chips", type=int, help="learn from so many of the chips alone")
    parser.add_argument("--frozen", type=int, default=0, help="of the steps, with a frozen backbone, before the others")
    parser.add_argument("recipe", nargs="*", metavar="NAME=VALUE")
    choices = parser.parse_intermixed_args(argv)
    recipe = parsed(choices.recipe)
    for place in choices.places:
        runs = [trained(place, seed, choices.steps, choices.chips, choices.frozen, recipe) for seed in choices.seeds]
        scores = [score for score, _ in runs]
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        each = " ".join(f"{score:.3f}" for score in scores)
        sys.stdout.write(
            f"{place}: {recipe}: AP50 {statistics.mean(scores):.3f} +- {spread:.3f} ({each}), "
            f"{statistics.mean(taken for _, taken in runs):.0f} s of processor time\n"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

"""What training starts from: the anchors, the network with its first weights, how pixels are standardised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from geodetect.anchors import AnchorSpec
from geodetect.chips import DetectionData
from geodetect.errors import ArgumentError, TrainingError, check_seed, is_number, is_share, warn
from geodetect.facts import listed
from geodetect.learner import results
from geodetect.learner.weights import WORDS, read
from geodetect.metadata import Architecture
from geodetect.network import published
from geodetect.network.retinanet import Network
from geodetect.stretch import Stretch

_IMAGENET, _COCO = "imagenet", "coco"
_COCO_BACKBONE = "resnet50"
_SIZES = {"small": (96, 2)}  # width of pyramid and heads, and convolutions of a head before its last
_MANY_UNREACHED = 0.1  # share of objects that no anchor reaches, above which a warning is due


def check_numbers(*, box_weight: float, focal_alpha: float, focal_gamma: float, seed: int) -> None:
    """Nothing, if the loss can be made of these numbers.

    Raises:
        ArgumentError: if one is out of its range.
    """
    for name, value in {"box_weight": box_weight, "focal_gamma": focal_gamma}.items():
        if not (is_number(value) and value >= 0):
            raise ArgumentError(f"{name} must be a number of at least 0; got {value!r}")
    if not is_share(focal_alpha):
        raise ArgumentError(f"focal_alpha must lie between 0 and 1; got {focal_alpha!r}")
    check_seed(seed)


def check_boxes(data: DetectionData) -> None:
    """Nothing, if there is something to learn.

    Raises:
        ArgumentError: if the data is not what `prepare_data` gives.
        TrainingError: if the data has no class, or no training chip has a box.
    """
    if not isinstance(data, DetectionData):
        raise ArgumentError(f"data must be what prepare_data(...) gives; got {data!r}")
    if not data.classes:
        raise TrainingError("the data has no class to learn; look at its labels and class_mapping")
    if not any(len(plan.boxes) for plan in data.train.plans):
        raise TrainingError("no training chip holds a box, so there is nothing to learn; look at data.describe()")
    names = data.classes
    missing = set(range(len(names))) - {int(k) for plan in data.train.plans for k in plan.boxes.labels}
    if missing:
        warn(
            f"no training chip holds {listed(names[k] for k in sorted(missing))}, which will not be learnt; give more "
            "labels, another seed, or drop the class with class_mapping"
        )


def anchors(
    data: DetectionData,
    *,
    scales: Sequence[float] | str,
    ratios: Sequence[float],
    anchor_size: float,
    levels: Sequence[int],
) -> AnchorSpec:
    """The anchors that these parameters ask for; a warning tells when they leave out many objects.

    Args:
        data: whose training boxes "auto" fits them to.
        scales: factors on the base side; "auto" fits scales, ratios and base.
        ratios: height over width.
        anchor_size: base side as a multiple of the level's stride.
        levels: first and last level of the pyramid.

    Raises:
        ArgumentError: if a value is not possible.
    """
    numbers: dict[str, Any] = {"ratios": ratios, "levels": levels}
    if not isinstance(scales, str):
        numbers["scales"] = scales
    for name, values in numbers.items():
        if isinstance(values, str) or not isinstance(values, Iterable) or not all(is_number(v) for v in values):
            raise ArgumentError(f"{name} must be a list of numbers; got {values!r}")
    if not is_number(anchor_size):
        raise ArgumentError(f"anchor_size must be a number above 0; got {anchor_size!r}")
    if isinstance(scales, str):
        if scales != "auto":
            raise ArgumentError(f'scales must be numbers or "auto"; got {scales!r}')
        spec = AnchorSpec(levels=levels)
        found = data.suggest_anchors(spec.levels)
        return replace(spec, scales=found.scales, ratios=found.ratios, anchor_size=found.anchor_size)
    spec = AnchorSpec(scales, ratios, anchor_size, levels)
    share = results.unreached(data, spec)
    if share > _MANY_UNREACHED:
        finer = ", and levels=(2, 7) adds smaller ones" if spec.levels == AnchorSpec.levels else ""
        warn(
            f"{share:.0%} of the objects overlap no anchor by 0.5 and will be hard to learn; "
            f'scales="auto" fits the anchors to the data{finer}'
        )
    return spec


def network(
    data: DetectionData,
    backbone: str,
    weights: str | Path | None,
    *,
    spec: AnchorSpec,
    size: str | None,
    head_norm: str | bool | None,
    seed: int,
    like: Network | None = None,
) -> Network:
    """A network for the data that holds these weights; what they do not give is random, which a warning tells.

    Args:
        data: whose classes and bands it is for.
        backbone: one that `backbones.build` knows.
        weights: "imagenet", "coco", None, or a file of torchvision's weights.
        spec: shapes of the anchors.
        size: "small"; None is the paper's.
        head_norm: "batch", "group" or False; None is "batch", or False if the weights are of heads without.
        seed: of the random weights.
        like: a network that gives what `size` and `head_norm` leave open.

    Raises:
        GeodetectError: if the weights are unknown, unreadable, or of another network.
    """
    if not isinstance(backbone, str):
        raise ArgumentError(f"backbone must be a name; got {backbone!r}; RetinaNet.backbones() lists them")
    if weights == _COCO and backbone != _COCO_BACKBONE:
        raise ArgumentError(
            f'weights="coco" are of a {_COCO_BACKBONE}; got backbone={backbone!r}; take that, or weights="imagenet"'
        )
    state = None if weights in WORDS else read(Path(str(weights)))
    plain = weights == _COCO or (state is not None and published.has_heads(state))
    if size not in (None, *_SIZES):
        raise ArgumentError(f'size must be None, for the paper\'s, or "small"; got {size!r}')
    if plain and size:
        raise ArgumentError(f"the heads of {weights} are of the paper's size; leave size out, or take other weights")
    if plain and head_norm:
        raise ArgumentError(f"the heads of {weights} have no norms; leave head_norm out, or take other weights")
    if head_norm is None:
        head_norm = like.head_norm if like is not None else None if plain else "batch"
    paper = (Architecture.width, Architecture.depth) if like is None else (like.width, like.depth)
    width, depth = _SIZES[size] if size else paper
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = Network(
            backbone,
            n_classes=len(data.classes),
            n_bands=len(data.bands),
            spec=spec,
            weights=weights if weights == _IMAGENET else None,
            head_norm=head_norm,
            width=width,
            depth=depth,
        )
    source = "torchvision's RetinaNet" if weights == _COCO else str(weights)
    state = published.coco() if weights == _COCO else state
    for sentence in published.fill(made, state, source) if state else ():
        warn(sentence)
    return made


def stretch(data: DetectionData, network: Network) -> Stretch:
    """Return what the backbone's weights were trained with for pixels like theirs, 8-bit RGB; else the data's own."""
    trained_with = network.backbone.stretch
    alike = network.backbone.pretrained and data.dtype == "uint8" and len(data.bands) == trained_with.n_bands
    return replace(trained_with, numbers=data.stretch.numbers) if alike else data.stretch

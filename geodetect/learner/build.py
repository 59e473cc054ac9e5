"""The detector that training starts from: checked parameters, anchors, architecture, first weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from geodetect.anchors import AnchorSpec
from geodetect.chips import DetectionData
from geodetect.chips.anchor_fit import REACHED, best_iou
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, TrainingError, check_flag, check_seed, is_number, is_share, warn
from geodetect.facts import join_values
from geodetect.learner import weights
from geodetect.learner.weights import COCO, IMAGENET, Start
from geodetect.metadata import Architecture, Metadata
from geodetect.network.devices import find_device
from geodetect.network.losses import Loss
from geodetect.network.retinanet import Network

_COCO_BACKBONE = "resnet50"
_SIZES = {"small": (96, 2)}  # width of pyramid and heads, and depth of the heads
_BOX_WEIGHT = 2.0  # of generalised IoU; measured on several places
_MANY_UNREACHED = 0.1  # share of objects that no anchor reaches, above which to warn


def make_loss(
    *, box_weight: float | None = None, focal_alpha: float = 0.25, focal_gamma: float = 2.0, giou: bool = True
) -> Loss:
    """Return the loss with these parameters.

    Raises:
        ArgumentError: if one is out of range.
    """
    if box_weight is None:
        box_weight = _BOX_WEIGHT if giou else 1.0
    for name, value in {"box_weight": box_weight, "focal_gamma": focal_gamma}.items():
        if not (is_number(value) and value >= 0):
            raise ArgumentError(f"{name} must be a number of at least 0; got {value!r}")
    if not is_share(focal_alpha):
        raise ArgumentError(f"focal_alpha must lie between 0 and 1; got {focal_alpha!r}")
    return Loss(float(box_weight), float(focal_alpha), float(focal_gamma), check_flag("giou", giou))


def check_data(data: DetectionData) -> None:
    """Raise if the data holds nothing to learn, and warn of classes without a training box.

    Raises:
        ArgumentError: if the data is not the result of `prepare_data`.
        TrainingError: if the data has no class, or no training chip has a box.
    """
    if not isinstance(data, DetectionData):
        raise ArgumentError(f"data must be the result of prepare_data(...); got {data!r}")
    if not data.classes:
        raise TrainingError("the data has no class to learn; look at its labels and class_mapping")
    present = {int(k) for plan in data.train.plans for k in plan.boxes.labels}
    if not present:
        raise TrainingError("no training chip holds a box, so there is nothing to learn; look at data.describe()")
    missing = [name for k, name in enumerate(data.classes) if k not in present]
    if missing:
        warn(
            f"no training chip holds {join_values(missing)}, which will not be learnt; give more "
            "labels, another seed, or drop the class with class_mapping"
        )


def choose_anchors(
    data: DetectionData,
    *,
    scales: Sequence[float] | str,
    ratios: Sequence[float],
    anchor_size: float,
    levels: Sequence[int],
) -> AnchorSpec:
    """Return the anchors for these parameters of `RetinaNet`; warn if they miss many objects.

    Raises:
        ArgumentError: if a value is not possible.
    """
    is_auto = isinstance(scales, str)
    if is_auto and scales != "auto":
        raise ArgumentError(f'scales must be numbers or "auto"; got {scales!r}')
    numbers: dict[str, Any] = {"ratios": ratios, "levels": levels} | ({} if is_auto else {"scales": scales})
    for name, values in numbers.items():
        if isinstance(values, str) or not isinstance(values, Iterable) or not all(is_number(v) for v in values):
            raise ArgumentError(f"{name} must be a list of numbers; got {values!r}")
    if not is_number(anchor_size):
        raise ArgumentError(f"anchor_size must be a number above 0; got {anchor_size!r}")
    if is_auto:
        spec = AnchorSpec(levels=levels)
        found = data.suggest_anchors(spec.levels)
        return replace(spec, scales=found.scales, ratios=found.ratios, anchor_size=found.anchor_size)
    spec = AnchorSpec(scales, ratios, anchor_size, levels)  # type: ignore[arg-type]
    best = [best_iou(plan.boxes.bounds, (plan.window.height, plan.window.width), spec) for plan in data.train.plans]
    share = float((np.concatenate(best) < REACHED).mean())
    if share > _MANY_UNREACHED:
        finer = ", and levels=(2, 7) adds smaller ones" if spec.levels == AnchorSpec.levels else ""
        warn(
            f"{share:.0%} of the objects overlap no anchor by 0.5 and will be hard to learn; "
            f'scales="auto" fits the anchors to the data{finer}'
        )
    return spec


def choose_architecture(
    backbone: str,
    spec: AnchorSpec,
    start: Start,
    *,
    size: str | None,
    head_norm: str | bool | None,
    oriented: bool = False,
) -> Architecture:
    """Return the architecture for these parameters of `RetinaNet`; values of None are taken from the weights.

    Raises:
        ArgumentError: if a value is not possible, or does not fit the weights.
    """
    if not isinstance(backbone, str):
        raise ArgumentError(f"backbone must be a name; got {backbone!r}; RetinaNet.backbones() lists them")
    if start.name == COCO and backbone != _COCO_BACKBONE:
        raise ArgumentError(
            f'weights="coco" are of a {_COCO_BACKBONE}; got backbone={backbone!r}; take that, or weights="imagenet"'
        )
    if size not in (None, *_SIZES):
        raise ArgumentError(f'size must be None, for the paper\'s, or "small"; got {size!r}')
    theirs = None if start.saved is None else start.saved.network.architecture
    if (size or head_norm) and (start.name == COCO or start.has_torchvision_heads):
        if size:
            raise ArgumentError(f"the heads of {start.name} are of the paper's size; leave size out or change weights")
        raise ArgumentError(f"the heads of {start.name} have no norms; leave head_norm out or change weights")
    if head_norm is None and not start.has_torchvision_heads:
        head_norm = "batch" if theirs is None else theirs.head_norm
    width, depth = _SIZES[size] if size else ((theirs or Architecture).width, (theirs or Architecture).depth)
    norm: Any = head_norm
    return Architecture(backbone, spec, head_norm=norm, width=width, depth=depth, oriented=oriented)


def make_detector(
    data: DetectionData, architecture: Architecture, start: Start, *, seed: int, device: str | torch.device | None
) -> Detector:
    """Return an untrained detector with these weights; warn of each part that stays random.

    Raises:
        GeodetectError: if the weights do not fit, or there is no such device or seed.
    """
    check_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(
            architecture,
            n_classes=len(data.classes),
            n_bands=len(data.bands),
            weights=IMAGENET if start.name == IMAGENET else None,
        )
    notes = start.fill(network)
    own, trained_with = data.normalization, network.backbone.normalization
    if network.backbone.pretrained and data.dtype == "uint8" and len(data.bands) == trained_with.n_bands:
        own = replace(trained_with, value_range=own.value_range)  # pixels are like those of the backbone's training
    metadata = Metadata(
        classes=data.classes,
        bands=data.bands,
        chip_size=data.chip_size,
        overlap=data.chip_size // 4,
        pixel_size_m=data.pixel_size_m,
        normalization=own,
    )
    detector = Detector(network, metadata, device=find_device(device))
    if start.saved is not None:
        notes += weights.fill(detector, start.saved, str(start.name))
    for note in notes:
        warn(note)
    return detector

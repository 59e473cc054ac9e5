"""RetinaNets in the form that DeepForest saves: `config.json` beside the weights of torchvision's RetinaNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from geodetect.detector import Detector
from geodetect.detector.state_dicts import read_state_dict
from geodetect.errors import ArgumentError, ModelError, is_share, is_whole
from geodetect.metadata import DEFAULT_MIN_SCORE, Metadata
from geodetect.network import pretrained
from geodetect.network.devices import find_device
from geodetect.network.retinanet import Network
from geodetect.normalization import BYTES, IMAGENET
from geodetect.zoo.hub import CONFIG, WEIGHTS, list_state_dicts, no_weights, read_config

_BACKBONE, _BANDS = "resnet50", (1, 2, 3)
_CHIP_SIZE = 400  # `patch_size` of DeepForest's configuration
_MIN_SIZE = 800  # `min_size` of torchvision's RetinaNet, which DeepForest leaves as it is
_OVERLAP = 100  # a quarter, as of other detectors; DeepForest's own 5 % would cut most crowns


def read_retinanet(
    folder: Path,
    name: str,
    *,
    classes: Sequence[str] | None = None,
    pixel_size_m: float | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> Detector:
    """Return the detector in a folder, in geodetect's network, which computes the same as torchvision's.

    Windows are 400 px, as by DeepForest's default, and are enlarged to 800 px, as by torchvision's.

    Args:
        folder: with `config.json` and `model.safetensors`, or one state dict instead.
        name: what messages call the detector.
        classes: names of the classes, if `config.json` has no `label_dict`.
        pixel_size_m: side of a pixel on the ground in metres; None where nobody says.
        device: None takes a GPU where there is one.
        precision: "auto", "float32", "bf16" or "float16".

    Raises:
        ModelError: if a file is missing or damaged, or it is another kind of model.
        ArgumentError: if the classes are missing, or do not fit.
    """
    config = read_config(folder, name)
    names, nms_iou = _classes(config, classes, name), config.get("nms_thresh")
    if not (nms_iou is None or is_share(nms_iou)):
        raise ModelError(f"the {CONFIG} of {name} has nms_thresh={nms_iou!r:.80}; expected a number from 0 to 1")
    where = find_device(device)
    state = read_state_dict(_weights(folder, name))
    slots = pretrained.count_slots(state)
    if slots is None:
        raise ModelError(f"{name} holds no whole RetinaNet of torchvision, as DeepForest saves it, but other weights")
    if slots != len(names):
        raise ModelError(f"{name} has scores of {slots} classes, but its {CONFIG} has {len(names)}: {', '.join(names)}")
    network = Network(_BACKBONE, n_classes=len(names), n_bands=len(_BANDS), weights=None)
    if anew := pretrained.fill(network, state, name):
        raise ModelError(f"the weights of {name} do not fit its {CONFIG}: {'; '.join(anew)}")
    try:
        metadata = Metadata(
            classes=names,
            bands=_BANDS,
            chip_size=_CHIP_SIZE,
            overlap=_OVERLAP,
            pixel_size_m=pixel_size_m,
            min_score=config.get("score_thresh", DEFAULT_MIN_SCORE),
            normalization=replace(IMAGENET, value_range=BYTES),
            min_size=_MIN_SIZE,
            summary={"source": name, "nms_iou": nms_iou},
        )
    except ArgumentError as error:
        raise ArgumentError(f"{name} cannot be run so: {error}") from error
    return Detector(network.eval(), metadata, device=where, precision=precision)


def _classes(config: Mapping[str, Any], given: Sequence[str] | None, name: str) -> list[str]:
    """Return the names of the classes in the order of their labels."""
    labels, n_classes = config.get("label_dict") or {}, config["num_classes"]
    if not (is_whole(n_classes) and n_classes > 0 and isinstance(labels, Mapping)):
        raise ModelError(
            f"the {CONFIG} of {name} must hold num_classes, a whole number above 0, and label_dict, a mapping of names "
            f"to labels; got {n_classes!r:.40} and {labels!r:.80}"
        )
    if labels and not all(label in labels.values() for label in range(len(labels))):
        raise ModelError(f"the label_dict of {name} must have the labels 0 to {len(labels) - 1}; got {labels!r:.80}")
    if labels and given is not None:
        raise ArgumentError(f"{name} names its classes {', '.join(labels)}; leave classes out")
    names = list(given or sorted(labels, key=lambda label: labels[label]))
    if not names:
        raise ArgumentError(
            f"{name} does not name its {n_classes} classes; load it with geodetect.load_detector(..., classes=[...]), "
            "their names in order"
        )
    if len(names) != n_classes:
        raise ArgumentError(f"{name} has {n_classes} classes; got {len(names)}: {', '.join(names)}")
    return names


def _weights(folder: Path, name: str) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    names = sorted(path.name for path in folder.iterdir())
    states = list_state_dicts(names)
    if len(states) != 1:
        raise no_weights(name, names)
    return folder / states[0]

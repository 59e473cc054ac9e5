"""Weights from files: what `Detector.save` wrote, and state dicts of torchvision."""

from __future__ import annotations

import warnings
from copy import copy
from dataclasses import replace
from pathlib import Path

# Only the name of what torch raises; nothing is unpickled but by torch's own reader of tensors.
from pickle import UnpicklingError

import torch
from torch import Tensor

from geodetect.chips import DetectionData
from geodetect.detector import Detector
from geodetect.detector.file import is_detector, read_safetensors
from geodetect.errors import ArgumentError, ModelError

WORDS = ("imagenet", "coco", None)  # weights that are not files
_SAFE = ".safetensors"
_DAMAGED = (UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError)
_INSIDE = ("model", "state_dict")  # where training programs keep the state dict, beside the optimizer's
_WRAPPED = ("model.", "module.")  # what a class round the network puts before every name
_CLASS_OUT, _BOX_OUT = "class_head.out.", "box_head.out."  # beginnings of the names in the last layers
_SAME_SIZE = 0.01  # a pixel size that differs by a smaller part is the same


def is_saved_detector(weights: str | Path | None) -> bool:
    """Whether weights are a file that `Detector.save` wrote.

    Raises:
        ArgumentError: if they are neither one of the words nor a file.
        ModelError: if the file is called a safetensors file and is none.
    """
    if weights in WORDS:
        return False
    path = Path(str(weights))
    if not path.is_file():
        raise ArgumentError(
            'weights must be "imagenet", "coco", None, or the file of a saved detector or of torchvision\'s weights; '
            f"there is no file {path}"
        )
    return path.suffix == _SAFE and is_detector(read_safetensors(path)[1])


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, no code of which is ever run.

    Args:
        path: `.safetensors`, or what `torch.save` made of a state dict.

    Raises:
        ModelError: if it is damaged, or holds anything but tensors.
    """
    if path.suffix == _SAFE:
        return _unwrapped(read_safetensors(path)[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about protocols of pickle; what it cannot read it raises
            held = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise ModelError(
            f"{path} is damaged or holds more than tensors, and code in files is never run; "
            "expected what torch.save(model.state_dict(), path) writes"
        ) from error
    if isinstance(held, dict):
        held = next((held[key] for key in _INSIDE if isinstance(held.get(key), dict)), held)
    if not (isinstance(held, dict) and held and all(isinstance(value, Tensor) for value in held.values())):
        raise ModelError(
            f"{path} holds no state dict: expected tensors by name, got {type(held).__name__}; "
            "write it with torch.save(model.state_dict(), path)"
        )
    return _unwrapped(held)


def _unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state without a beginning that all its names share because the network was part of something."""
    for beginning in _WRAPPED:
        if all(str(name).startswith(beginning) for name in state):
            return {str(name).removeprefix(beginning): value for name, value in state.items()}
    return {str(name): value for name, value in state.items()}


def fill(detector: Detector, saved: Detector, source: str) -> list[str]:
    """What starts anew, a sentence for each, although the detector now holds the weights of another, and its stretch.

    Args:
        detector: keeps its random weights where the other one speaks of other classes or anchors.
        saved: another detector with the same backbone.
        source: what messages call the other one.

    Raises:
        ModelError: if its network is of another make; the detector stays as it was.
    """
    anew = {}
    if saved.network.spec != detector.network.spec:
        told = f"{source} has other anchors; the last layers of both heads start anew"
        anew = dict.fromkeys((_CLASS_OUT, _BOX_OUT), told)
    elif saved.classes != detector.classes:
        told = f"{source} finds {', '.join(saved.classes)}, this model {', '.join(detector.classes)}"
        anew = {_CLASS_OUT: f"{told}; the last layer of the class head starts anew"}
    _copy(detector, saved, source, tuple(anew))
    detector.network.set_norm_eps(saved.network.norm_eps)
    stretch = replace(saved.stretch, numbers=detector.stretch.numbers)
    detector.metadata = replace(detector.metadata, stretch=stretch)
    if not anew:
        known = saved.metadata
        detector.metadata = replace(detector.metadata, min_score=known.min_score, summary=known.summary)
    return [*dict.fromkeys(anew.values()), *_other_ground(saved, detector, source)]


def _copy(detector: Detector, saved: Detector, source: str, left_out: tuple[str, ...]) -> None:
    """Copy all weights but those whose names begin with what is left out, or none."""
    own, given = (
        {
            name: value
            for name, value in each.network.state_dict().items()
            if not (left_out and name.startswith(left_out))
        }
        for each in (detector, saved)
    )
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
        raise ModelError(
            f"{source} holds a {saved.network.backbone_name} for {len(saved.bands)} bands of another make than this "
            f"model's {detector.network.backbone_name} for {len(detector.bands)}; open it with RetinaNet.from_model"
        )
    detector.network.load_state_dict(given, strict=False)


def refuse_others(saved: Detector, detector: Detector, source: str) -> None:
    """Nothing, if one detector can take the place of another.

    Raises:
        ModelError: if it finds other classes, or has other anchors.
    """
    if saved.classes != detector.classes:
        raise ModelError(f"{source} finds {', '.join(saved.classes)}, this model {', '.join(detector.classes)}")
    if saved.network.spec != detector.network.spec:
        raise ModelError(f"the anchors of {source} are not those of this model; open it with RetinaNet.from_model")


def adapt(detector: Detector, data: DetectionData, source: str) -> list[str]:
    """In what the data are unlike those that a detector was trained on, now that it is one for chips like theirs.

    Args:
        detector: from a file.
        data: that it is to go on training with.
        source: the file.

    Raises:
        ModelError: if they have other classes, or another number of bands.
    """
    if detector.classes != list(data.classes):
        raise ModelError(
            f"{source} finds {', '.join(detector.classes)}; the data holds {', '.join(data.classes)}; "
            "to learn other classes from its weights: RetinaNet(data, weights=...)"
        )
    if len(detector.bands) != len(data.bands):
        raise ModelError(f"{source} takes {len(detector.bands)} bands; the data has {len(data.bands)}")
    before = copy(detector)
    detector.metadata = replace(
        detector.metadata,
        bands=data.bands,
        pixel_size_m=data.pixel_size_m,
        chip_size=data.chip_size,
        overlap=data.chip_size // 4,
        stretch=replace(detector.stretch, numbers=data.stretch.numbers),
    )
    return _other_ground(before, detector, source)


def _other_ground(saved: Detector, detector: Detector, source: str) -> list[str]:
    """What was trained on other bands, pixel sizes or numbers than the detector is for, in a sentence each."""
    told = []
    if tuple(saved.bands) != tuple(detector.bands):
        told.append(f"{source} was trained on the bands {tuple(saved.bands)}; it goes on with {tuple(detector.bands)}")
    then, now = saved.pixel_size_m, detector.pixel_size_m
    if then and now and abs(then / now - 1) > _SAME_SIZE:
        told.append(f"{source} was trained on pixels of {then:g} m; it goes on with pixels of {now:g} m")
    trained, numbers = saved.stretch.numbers, detector.stretch.numbers
    if numbers is not None and trained is not None and numbers.are_unlike(trained):
        told.append(
            f"{source} was trained on {trained}; it goes on with {numbers}, which its mean and deviation do not fit: "
            "bring the data to those units first"
        )
    return told

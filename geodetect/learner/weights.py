"""Weights that training starts from: files of `Detector.save`, and state dicts of torchvision."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from geodetect.addresses import expand_user, redact
from geodetect.chips import DetectionData
from geodetect.detector import Detector, read_detector
from geodetect.detector.file import is_detector, read_safetensors
from geodetect.detector.state_dicts import read_state_dict
from geodetect.errors import ArgumentError, ModelError
from geodetect.network import pretrained
from geodetect.network.backbones import widen
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from geodetect.zoo.catalog import suggest
from geodetect.zoo.names import is_onnx, is_remote, load_detector

IMAGENET, COCO = "imagenet", "coco"
_SAFE = ".safetensors"
_CLASS_OUT, _BOX_OUT = "class_head.out.", "box_head.out."  # beginnings of the names in the last layers
_RGB = 3
_SAME_SIZE = 0.01  # relative difference up to which pixel sizes count as equal


@dataclass(frozen=True, eq=False)
class Start:
    """Weights that training starts from.

    Args:
        name: "imagenet", "coco", None for random weights, a file, or the name of a published detector.
        saved: the detector that it stands for, if any.
        file: the state dict in the file, if it is one.
    """

    name: str | None
    saved: Detector | None = None
    file: dict[str, Tensor] | None = None

    @classmethod
    def read(cls, weights: str | Path | None) -> Start:
        """Read the file or the published detector, if the weights are one.

        Raises:
            ArgumentError: if they are neither one of the words nor the name of a file.
            ModelError: if the file is damaged or holds neither a detector nor a state dict, or a name means nothing.
        """
        if not isinstance(weights, str | Path | None):
            raise ArgumentError(
                f"weights must be a word, None, or the name of a file; got {type(weights).__name__}; "
                "write a state dict to a file first, with torch.save(state, path)"
            )
        if weights in (IMAGENET, COCO, None):
            return cls(weights)
        path = Path(expand_user(weights))
        if path.is_dir() or is_onnx(weights) or is_remote(weights):
            return cls(str(weights), saved=load_trainable(weights, device="cpu"))
        if not path.is_file():
            raise ArgumentError(
                'weights must be "imagenet", "coco", None, the file of a saved detector or of torchvision\'s weights, '
                f"or the name of a published detector; there is no file {path}{suggest(str(weights))}"
            )
        if path.suffix.lower() == _SAFE and is_detector(read_safetensors(path)[1]):
            return cls(str(path), saved=read_detector(path, device="cpu"))
        return cls(str(path), file=read_state_dict(path))

    @cached_property
    def state(self) -> dict[str, Tensor] | None:
        """State dict, for COCO downloaded; None without one, with a warning if a download fails."""
        return pretrained.load_coco() if self.name == COCO else self.file

    @property
    def has_torchvision_heads(self) -> bool:
        """Whether the weights are of a complete torchvision RetinaNet, whose heads have no norms."""
        return self.state is not None and pretrained.has_heads(self.state)

    def fill(self, network: Network) -> list[str]:
        """Copy torchvision's weights into the network, and return a sentence for each part that stays random."""
        source = "torchvision's RetinaNet" if self.name == COCO else str(self.name)
        return pretrained.fill(network, self.state, source) if self.state else []


def load_trainable(name: str | Path, *, device: str | torch.device | None) -> Detector:
    """Load a detector as `load_detector` does, to train it.

    Raises:
        ModelError: if there is none, or it runs in onnxruntime, which is checked before any download.
    """
    if is_onnx(name):
        raise ModelError(f"{redact(str(name))} runs in onnxruntime and cannot be trained; start from other weights")
    return load_detector(name, device=device)


def fill(detector: Detector, saved: Detector, source: str) -> list[str]:
    """Copy the weights and the normalisation of a saved detector, and return the texts of warnings.

    With other classes or anchors the last layers keep their random weights. A first convolution for three bands is
    widened to more; the extra bands are normalised as in the data. Messages call the saved detector `source`.

    Raises:
        ModelError: if its network has another architecture; the detector stays as it was.
    """
    ours, theirs = detector.network.architecture, saved.network.architecture
    left_out: tuple[str, ...] = ()
    notes = []
    if theirs.anchors != ours.anchors:
        left_out = _CLASS_OUT, _BOX_OUT
        notes.append(f"{source} has other anchors; the last layers of both heads keep random weights")
    elif theirs.oriented and not ours.oriented:
        left_out = (_BOX_OUT,)
        notes.append(f"{source} finds oriented boxes, this model upright ones; its last box layer keeps random weights")
    elif ours.oriented and not theirs.oriented:
        notes.append(f"{source} finds upright boxes; the angle outputs of this model keep random weights")
    if theirs.anchors == ours.anchors and saved.classes != detector.classes:
        left_out = (*left_out, _CLASS_OUT)
        notes.append(
            f"{_unlike_classes(saved, detector, source)}; the last layer of the class head keeps random weights"
        )
    own, given = (
        {name: value for name, value in each.network.state_dict().items() if not name.startswith(left_out)}
        for each in (detector, saved)
    )
    first, n_known, n_bands = pretrained.first_convolution(saved.network), len(saved.bands), len(detector.bands)
    if n_known == _RGB < n_bands:
        given[first] = widen(given[first], n_bands)
    if ours.oriented and not theirs.oriented and _BOX_OUT not in left_out:
        pretrained.add_angle(own, given, _BOX_OUT)
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in given.items()}:
        told = {
            "backbone": (theirs.backbone, ours.backbone),
            "bands": (n_known, n_bands),
            "size and head_norm": (theirs.heads, ours.heads),
            "levels": tuple("P{} to P{}".format(*each.anchors.levels) for each in (theirs, ours)),
        }
        differences = "; ".join(f"{name}: {then}, here {now}" for name, (then, now) in told.items() if then != now)
        raise ModelError(
            f"{source} holds another network than this model's ({differences}); give RetinaNet the same, or open the "
            "file with RetinaNet.from_model"
        )
    detector.network.load_state_dict(given, strict=False)
    detector.network.set_norm_eps(theirs.norm_eps)
    detector.network.backbone.pretrained = True
    normalization = Normalization(
        mean=(*saved.normalization.mean, *detector.normalization.mean[n_known:]),
        std=(*saved.normalization.std, *detector.normalization.std[n_known:]),
        value_range=detector.normalization.value_range,
    )
    metadata = replace(detector.metadata, normalization=normalization)
    if not left_out and theirs.oriented == ours.oriented:
        metadata = replace(metadata, min_score=saved.metadata.min_score, summary=saved.metadata.summary)
    detector.metadata = metadata
    return [*notes, *_compare_data(saved, detector, source)]


def _unlike_classes(saved: Detector, detector: Detector, source: str) -> str:
    return f"{source} finds {', '.join(saved.classes)}, this model {', '.join(detector.classes)}"


def check_alike(saved: Detector, detector: Detector, source: str) -> None:
    """Raise unless a saved detector has the classes, the anchors and the kind of boxes of another.

    Raises:
        ModelError: if it does not.
    """
    if saved.classes != detector.classes:
        raise ModelError(f"{_unlike_classes(saved, detector, source)}; open it with RetinaNet.from_model")
    if saved.network.architecture.anchors != detector.network.architecture.anchors:
        raise ModelError(f"the anchors of {source} are not those of this model; open it with RetinaNet.from_model")
    if saved.oriented != detector.oriented:
        kinds = [("oriented" if each.oriented else "upright") for each in (saved, detector)]
        raise ModelError(
            f"{source} finds {kinds[0]} boxes, this model {kinds[1]} ones; to begin with its weights: "
            "RetinaNet(data, weights=...)"
        )


def adapt(detector: Detector, data: DetectionData, source: str) -> list[str]:
    """Adapt a saved detector to the data's chips, and return a sentence for each change.

    Raises:
        ModelError: if the data has other classes, or another number of bands.
    """
    if detector.classes != list(data.classes):
        raise ModelError(
            f"{source} finds {', '.join(detector.classes)}; the data holds {', '.join(data.classes)}; "
            "to learn other classes from its weights: RetinaNet(data, weights=...)"
        )
    if detector.oriented != data.oriented:
        kinds = [("oriented" if each else "upright") for each in (detector.oriented, data.oriented)]
        raise ModelError(
            f"{source} finds {kinds[0]} boxes; the data has {kinds[1]} ones; give prepare_data boxes={kinds[0]!r}, or "
            "begin with its weights: RetinaNet(data, weights=...)"
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
        min_size=None,
        normalization=replace(detector.normalization, value_range=data.normalization.value_range),
    )
    return _compare_data(before, detector, source)


def _compare_data(saved: Detector, detector: Detector, source: str) -> list[str]:
    """Return a sentence for each difference in bands, pixel size and range of numbers."""
    notes = []
    if tuple(saved.bands) != tuple(detector.bands):
        notes.append(f"{source} was trained on the bands {tuple(saved.bands)}; it goes on with {tuple(detector.bands)}")
    enlarged, then, now = saved.metadata.min_size, saved.pixel_size_m, detector.pixel_size_m
    if enlarged is not None and detector.metadata.min_size is None:
        factor = enlarged / saved.chip_size
        if then is None:
            notes.append(
                f"{source} saw its images enlarged {factor:g} times, and sees yours as they are; give prepare_data a "
                f"pixel_size_m {factor:g} times smaller than the ground it was trained on"
            )
        then = None if then is None else then / factor
    if then and now and abs(then / now - 1) > _SAME_SIZE:
        notes.append(f"{source} was trained on pixels of {then:g} m; it goes on with pixels of {now:g} m")
    trained, own = saved.normalization.value_range, detector.normalization.value_range
    if own is None or trained is None:
        return notes
    known = replace(own, quantiles=own.quantiles[: len(trained.quantiles)])  # other bands have their own scale
    if known.are_unlike(trained):
        notes.append(
            f"{source} was trained on {trained}; it goes on with {own}, which its mean and deviation do not fit; "
            "convert the data to those units first"
        )
    return notes

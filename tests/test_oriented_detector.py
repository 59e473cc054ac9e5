"""Detectors of oriented boxes: their file, training, weights from upright ones, scores and exports."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from geodetect import load_detector
from geodetect.boxes import Boxes, iou
from geodetect.detector import Detector
from geodetect.learner import weights
from geodetect.metadata import Architecture, HasMetadata, Metadata
from geodetect.network.losses import Loss
from geodetect.network.retinanet import Network
from geodetect.stretch import Stretch
from tests.fakes import trained

CLASSES = ("car", "bus")
SIDE = 64
STRETCH = Stretch((100.0,) * 3, (50.0,) * 3)
DEGREE = math.pi / 180
TRUTH = Boxes(
    np.array([[6, 13, 34, 23], [31, 36, 61, 52], [8, 44, 28, 56]], float),
    [0, 1, 0],
    angles=np.array([35, -70, 10]) * DEGREE,
)


def make(*, oriented: bool = True, classes=CLASSES, **changes) -> Detector:
    torch.manual_seed(0)
    architecture = Architecture("resnet18", width=32, depth=1, head_norm="batch", oriented=oriented)
    network = trained(Network(architecture, n_classes=len(classes), weights=None))
    facts = {"bands": (1, 2, 3), "chip_size": SIDE, "overlap": 16, "stretch": STRETCH} | changes
    return Detector(network.eval(), Metadata(classes=classes, **facts), precision="float32")


def chip(boxes: Boxes = TRUTH) -> np.ndarray:
    """(3, S, S) uint8: the boxes painted, each class in a colour of its own."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    pixels = np.full((3, SIDE, SIDE), 90, np.uint8)
    for centre, size, angle, label in zip(boxes.centres, boxes.sizes, boxes.angles, boxes.labels, strict=True):
        dx, dy = x - centre[0], y - centre[1]
        along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        pixels[label, (abs(along) < size[0] / 2) & (abs(across) < size[1] / 2)] = 250
    return pixels


def stored(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_metadata_follow_the_architecture_and_say_it_only_where_it_is_so():
    detector, upright = make(), make(oriented=False)
    assert detector.oriented
    assert not upright.oriented
    assert detector.metadata.to_json()["oriented"] is True
    assert "oriented" not in upright.metadata.to_json()
    assert Metadata.from_json(detector.metadata.to_json()) == detector.metadata
    assert detector.facts["boxes"] == "oriented"
    foreign = replace(upright.metadata, architecture=None, oriented=True)
    assert Metadata.from_json(foreign.to_json()).oriented
    assert not hasattr(HasMetadata, "metadata")


def test_file_has_version_5_and_gives_the_same_boxes(tmp_path):
    detector = make()
    saved = detector.save(tmp_path / "cars.safetensors")
    assert stored(saved)["format_version"] == "5"
    assert stored(make(oriented=False).save(tmp_path / "upright.safetensors"))["format_version"] == "4"
    loaded = load_detector(saved, device="cpu", precision="float32")
    assert loaded.oriented
    (due,), (got,) = (each.detect(chip()[None], min_score=0.0097) for each in (detector, loaded))
    assert len(due) > 10
    np.testing.assert_array_equal(got.corners, due.corners)


def test_a_single_chip_is_learnt_by_heart():
    """Also with the loss on Gaussians; every box is found, by a rotated IoU of 0.7, and nothing else."""
    for giou in (False, True):
        detector = make()
        network = detector.network.train()
        images = torch.from_numpy((chip()[None] - 100.0) / 50).float()
        boxes = torch.from_numpy(np.column_stack([TRUTH.xyxy, TRUTH.angles]))[None].float()
        labels, loss = torch.from_numpy(TRUTH.labels)[None], Loss(giou=giou)
        for layer in network.backbone.modules():
            layer.eval() if isinstance(layer, torch.nn.BatchNorm2d) else None
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        for step in range(150):
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / 150)
            if step == 75:
                network.fix_head_norms()
            optimizer.zero_grad()
            sum(loss(*network(images), network.anchors((SIDE, SIDE)), boxes, labels)).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        network.eval()
        (found,) = detector.detect(chip()[None], min_score=0.3)
        overlap = iou(found, TRUTH)
        assert len(found) == len(TRUTH)
        assert sorted(overlap.argmax(axis=1)) == [0, 1, 2]
        assert overlap.max(axis=1).min() > 0.7
        assert (found.labels == TRUTH.labels[overlap.argmax(axis=1)]).all()


def test_the_frozen_copy_finds_the_same():
    detector = make()
    (due,), (got,) = (each.detect(chip()[None], min_score=0.0097) for each in (detector, detector.frozen("float32")))
    assert len(got) == len(due) > 10
    np.testing.assert_allclose(got.corners, due.corners, atol=1e-2)


def test_weights_of_an_upright_detector_keep_all_but_the_angle():
    upright, ours = make(oriented=False), make()
    angle = ours.network.box_head.out.weight.clone().unflatten(0, (-1, 6))[:, 4:]
    notes = weights.fill(ours, upright, "upright.safetensors")
    assert any("angle" in note for note in notes)
    given, taken = (each.network.box_head.out for each in (upright, ours))
    for name in ("weight", "bias"):
        theirs, own = getattr(given, name).unflatten(0, (-1, 4)), getattr(taken, name).unflatten(0, (-1, 6))
        assert torch.equal(own[:, :4], theirs)
    assert torch.equal(taken.weight.unflatten(0, (-1, 6))[:, 4:], angle)
    assert torch.equal(ours.network.class_head.out.weight, upright.network.class_head.out.weight)


def test_weights_of_an_oriented_detector_leave_the_upright_ones_their_own_box_layer():
    ours, oriented = make(oriented=False), make()
    before = ours.network.box_head.out.weight.clone()
    notes = weights.fill(ours, oriented, "cars.safetensors")
    assert any("oriented" in note for note in notes)
    assert torch.equal(ours.network.box_head.out.weight, before)
    assert torch.equal(ours.network.class_head.out.weight, oriented.network.class_head.out.weight)

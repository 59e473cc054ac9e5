"""Detectors of oriented boxes: their file, training, weights from upright ones, scores and exports."""

from __future__ import annotations

import importlib.util
import json
import math
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
import torch
import torchvision
from click.testing import CliRunner
from matplotlib.collections import PolyCollection
from safetensors import safe_open

from geodetect import load_detector
from geodetect.boxes import Boxes, iou
from geodetect.chips.chip import ChipPlan, Chips
from geodetect.cli.main import main
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, ModelError
from geodetect.export import export
from geodetect.export.onnx_detector import load_session
from geodetect.export.raster_function import GeodetectDetector
from geodetect.export.reading import read_facts
from geodetect.grid import Window
from geodetect.learner import results, weights
from geodetect.learner.callbacks import ChipAP
from geodetect.learner.hits import Hits
from geodetect.learner.mistakes import find_errors
from geodetect.metadata import Architecture, Metadata
from geodetect.metrics import coco_scores
from geodetect.network import pretrained
from geodetect.network.losses import Loss
from geodetect.network.matching import match_anchors
from geodetect.network.oriented import encode
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from geodetect.zoo.onnx import ForeignOnnx
from tests import oracles
from tests.fakes import FakeReader, trained

WITH_ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
needs_onnx = pytest.mark.skipif(not WITH_ONNX, reason="the extra onnx is not installed")
CLASSES = ("car", "bus")
SIDE = 64
NORMALIZATION = Normalization((100.0,) * 3, (50.0,) * 3)
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
    facts = {"bands": (1, 2, 3), "chip_size": SIDE, "overlap": 16, "normalization": NORMALIZATION} | changes
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


@pytest.mark.parametrize("giou", [False, True])
def test_a_single_chip_is_learnt_by_heart(giou):
    detector, n_steps = make(), 100
    network, loss = detector.network.train(), Loss(giou=giou)
    images = torch.from_numpy((chip()[None] - 100.0) / 50).float()
    boxes = torch.from_numpy(np.column_stack([TRUTH.xyxy, TRUTH.angles]))[None].float()
    labels = torch.from_numpy(TRUTH.labels)[None]
    network.backbone.eval().requires_grad_(False)  # what a random one sees is enough for one chip
    optimizer = torch.optim.AdamW(weight for weight in network.parameters() if weight.requires_grad)
    for step in range(n_steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / n_steps)
        if step == n_steps // 2:
            network.fix_head_norms()
        optimizer.zero_grad()
        sum(loss(*network(images), network.anchors((SIDE, SIDE)), boxes, labels)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval()
    (found,) = detector.detect(chip()[None], min_score=0.3)
    found = found[: len(TRUTH)]  # the best ones
    overlap = iou(found, TRUTH)
    assert sorted(overlap.argmax(axis=1)) == [0, 1, 2]
    assert overlap.max(axis=1).min() > 0.8
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


def test_a_model_is_not_loaded_over_one_of_the_other_kind():
    upright, ours = make(oriented=False), make()
    for saved, here in ((upright, ours), (ours, upright)):
        with pytest.raises(ModelError, match=r"oriented.*upright|upright.*oriented"):
            weights.check_alike(saved, here, "a.safetensors")


def test_weights_of_torchvisions_retinanet_are_taken_but_for_the_angle():
    theirs = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=3
    ).state_dict()
    network = Network(Architecture("resnet50", oriented=True), n_classes=2, weights=None)
    angle = network.box_head.out.weight.detach().clone().unflatten(0, (-1, 6))[:, 4:]
    assert pretrained.fill(network, theirs, "torchvision's") == []
    own = network.box_head.out.weight.unflatten(0, (-1, 6))
    assert torch.equal(own[:, :4], theirs["head.regression_head.bbox_reg.weight"].unflatten(0, (-1, 4)))
    assert torch.equal(own[:, 4:], angle)


def quarrel() -> tuple[list[Boxes], list[Boxes]]:
    """Detections and true boxes of five chips; near copies, turned ones, and some of nothing."""
    generator = np.random.default_rng(3)
    found, truth = [], []
    for n in (0, 4, 9, 1, 12):
        centres, sides = generator.uniform(0, 200, (n, 2)), generator.uniform(6, 120, (n, 2))
        angles, labels = generator.uniform(-1.5, 1.5, n), generator.integers(0, 2, n)
        truth.append(Boxes(np.concatenate([centres - sides / 2, centres + sides / 2], 1), labels, angles=angles))
        picked = generator.integers(0, n, 3 * n) if n else np.zeros(0, int)
        m = len(picked)
        centres = centres[picked] + generator.normal(0, 2, (m, 2))
        sides = sides[picked] * generator.uniform(0.8, 1.2, (m, 2))
        xyxy = np.concatenate([centres - sides / 2, centres + sides / 2], 1)
        turned = angles[picked] + generator.normal(0, 0.2, m)
        flipped = np.where(generator.uniform(size=m) < 0.1, 1 - labels[picked], labels[picked])
        found.append(Boxes(xyxy, flipped, generator.uniform(0.05, 1, m), turned))
    return found, truth


def test_average_precision_is_that_of_a_loop_over_polygons():
    found, truth = quarrel()
    got = coco_scores(found, truth, 2)
    due = oracles.oriented_average_precisions(found, truth, 2, np.linspace(0.5, 0.95, 10))
    np.testing.assert_allclose(got["AP50"], due[:, 0], atol=1e-9)
    np.testing.assert_allclose(got["AP75"], due[:, 5], atol=1e-9)
    np.testing.assert_allclose(got["AP"], due.mean(axis=1), atol=1e-9)
    for match_iou, column in ((0.5, 0), (0.7, 4)):
        hits = Hits.of(found, truth, 2, match_iou).average_precision()
        np.testing.assert_allclose(hits, due[:, column], atol=1e-9)
    assert 0.1 < due[:, 0].min() < 1


def test_ap50_of_an_epoch_is_that_of_the_boxes_of_its_chips():
    detector = make()
    network = detector.network.eval()
    boxes = torch.zeros(1, 5, 5)
    boxes[0, :3] = torch.from_numpy(np.column_stack([TRUTH.xyxy, TRUTH.angles]))
    labels = torch.tensor([[0, 1, 0, -1, -1]])
    anchors = network.anchors((SIDE, SIDE))
    target = match_anchors(anchors, boxes, labels)[0]
    positive = target >= 0
    logits, deltas = torch.full((1, len(anchors), 2), -9.0), torch.zeros(1, len(anchors), 6)
    logits[0, positive, labels[0, target[positive]]] = 9
    deltas[0, positive] = encode(anchors[positive], boxes[0, target[positive]])
    ignored = Boxes([[1, 1, 9, 5]], [1], angles=[0.3], ignored=[True])  # nor is it missed
    chips = [SimpleNamespace(boxes=Boxes.concat([TRUTH, ignored])), SimpleNamespace(boxes=None)]
    loader = SimpleNamespace(dataset=SimpleNamespace(chips=SimpleNamespace(plans=chips)), batches=[[1], [0]])
    metric = ChipAP(SIDE, 2)
    metric.accumulate(SimpleNamespace(pred=(logits, deltas), model=network, dl=loader, iter=1))
    assert metric.value == pytest.approx(1.0)


def test_errors_are_those_of_turned_boxes():
    """A detection across a true box, which has the same hull, is false, and the object missed.

    They share 12 x 12 of 2 x 50 x 12 px: IoU 0.14.
    """
    across = Boxes([[7, 26, 57, 38]], [0], [0.9], [45 * DEGREE])
    truth = Boxes([[7, 26, 57, 38]], [0], angles=[-45 * DEGREE])
    false, missed = find_errors(make(min_score=0.5), [across], [truth])
    assert (len(false), len(missed)) == (1, 1)
    assert "IoU 0.14" in false[0].reason
    assert false[0].box.oriented


@needs_onnx
@pytest.mark.slow
def test_onnx_file_is_laid_out_as_ultralytics_does(tmp_path):
    """Columns of centre, sides, the score of each class and, last, the angle; read back by both of our readers."""
    detector = make(pixel_size_m=0.1)
    path = export(detector, tmp_path / "cars.onnx")
    session = load_session(path, "cpu")
    stored = session.get_modelmeta().custom_metadata_map
    assert json.loads(stored["det_type"]) == "YOLO_Ultralytics_obb"
    assert stored["task"] == "obb"
    (columns,) = session.run(None, {"images": chip()[None].astype(np.float32) / 255})
    assert columns.shape[1] == 4 + len(CLASSES) + 1
    (due,) = detector.detect(chip()[None], min_score=0.0097)
    ours = load_detector(path, device="cpu")
    assert ours.oriented
    foreign = ForeignOnnx(path, session)  # as if another program had written it
    assert foreign.oriented
    assert foreign.classes == list(CLASSES)
    for (got,) in (each.detect(chip()[None], min_score=0.0097) for each in (ours, foreign)):
        best = got[: len(due) // 4]
        assert iou(best, due).max(axis=1).min() > 0.99
    facts = CliRunner().invoke(main, ["info", str(path)]).output
    assert "oriented" in facts
    assert "YOLO_Ultralytics_obb" in facts


def test_a_layout_of_the_other_kind_is_refused(tmp_path):
    for detector, layout in ((make(), "YOLO_v9"), (make(oriented=False), "YOLO_Ultralytics_obb")):
        with pytest.raises(ArgumentError, match="YOLO_Ultralytics_obb"):
            export(detector, tmp_path / "cars.onnx", layout)
    assert not list(tmp_path.iterdir())


def test_package_for_arcgis_gives_turned_rings(tmp_path):
    detector = make(min_score=0.0097)
    path = export(detector, tmp_path / "cars.dlpk")
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "unpacked")
    function = GeodetectDetector()
    function.initialize(model=str(tmp_path / "unpacked" / "cars.emd"))
    function.getConfiguration(padding=0, threshold=0.0097, nms_overlap=0.5)
    features = json.loads(function.vectorize(raster_pixels=chip())["output_vectors"])["features"]
    (due,) = detector.detect(chip()[None], min_score=0.0097)
    rings = np.array([each["geometry"]["rings"][0] for each in features])
    assert len(due) > 10
    rings = rings[: len(due) // 4]  # of nearly equal scores rounding may swap two, and suppression then differs
    np.testing.assert_array_equal(rings[:, 0], rings[:, -1])
    signed = (np.diff(rings[..., 0]) * (rings[:, 1:, 1] + rings[:, :-1, 1]) / 2).sum(axis=1)
    assert (signed < 0).all()  # clockwise where y points down
    distance = shapely.hausdorff_distance(shapely.polygons(rings)[:, None], shapely.polygons(due.corners)[None])
    assert distance.min(axis=1).max() < 0.05


def test_program_gives_six_numbers_an_anchor(tmp_path):
    path = export(make(), tmp_path / "cars.pt2")
    logits, deltas = torch.export.load(path).module()(torch.zeros(1, 3, SIDE, SIDE))
    assert (logits.shape[2], deltas.shape[2]) == (2, 6)
    assert read_facts(path)["oriented"] is True


def test_results_are_drawn_turned():
    plans = [ChipPlan(FakeReader(chip()), Window(0, 0, SIDE, SIDE), TRUTH)]
    figure = results.show_results(make(), Chips(plans), 1, 0.0097)
    (drawn,) = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)][:1]
    corners = np.concatenate([path.vertices for path in drawn.get_paths()])
    assert np.abs(corners[:, None] - TRUTH.corners.reshape(1, -1, 2)).sum(axis=2).min(axis=0).max() < 1

"""An exported file gives what the network gives, or is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.export import export
from geodetect.network.anchors import AnchorSpec
from geodetect.network.retinanet import Network
from geodetect.stretch import Stretch

SIDE = 64
SPEC = AnchorSpec(scales=(1.0, 1.5), ratios=(1.0,))


@pytest.fixture(scope="module")
def detector() -> Detector:
    torch.set_num_threads(2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Network("resnet18", n_classes=2, n_bands=2, spec=SPEC, weights=None)
    stretch = Stretch((10.0, 20.0), (2.0, 4.0))
    return Detector(
        network, ["pool", "car"], bands=(4, 1), stretch=stretch, chip_size=SIDE, overlap=16, pixel_size_m=0.3
    )


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    detector.network.train()  # as it is when it is exported in the middle of training
    return export(detector, tmp_path_factory.mktemp("export") / "model.pt2")


def test_the_program_gives_what_the_network_gives_for_any_number_of_pictures(
    detector: Detector, exported: Path
) -> None:
    program = torch.export.load(exported).module()
    network = detector.network.eval()
    for n_pictures in (1, 2, 5):
        pictures = torch.randn(n_pictures, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(n_pictures))
        with torch.inference_mode():
            logits, deltas = program(pictures)
            due = network(pictures)
        torch.testing.assert_close(logits, due[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(deltas, due[1], atol=1e-4, rtol=0)
        n_anchors = len(network.anchors((SIDE, SIDE)))
        assert logits.shape == (n_pictures, n_anchors, 2)
        assert deltas.shape == (n_pictures, n_anchors, 4)


def test_the_file_tells_how_to_feed_the_program(exported: Path) -> None:
    files = {"geodetect.json": ""}
    torch.export.load(exported, extra_files=files)
    told = json.loads(files["geodetect.json"])
    assert told["classes"] == ["pool", "car"]
    assert told["bands"] == [4, 1]
    assert told["stretch"] == {"mean": [10, 20], "std": [2, 4]}
    assert told["anchors"] == {"scales": [1, 1.5], "ratios": [1], "anchor_size": 4, "levels": [3, 7]}
    assert (told["chip_size"], told["overlap"], told["pixel_size_m"]) == (SIDE, 16, 0.3)


def test_nothing_else_is_left_beside_the_file(exported: Path) -> None:
    assert list(exported.parent.iterdir()) == [exported]


def test_a_program_that_gives_no_numbers_is_not_kept(tmp_path: Path) -> None:
    network = Network("resnet18", n_classes=1, n_bands=1, spec=SPEC, weights=None)
    torch.nn.init.constant_(next(network.class_head.parameters()), float("nan"))
    sick = Detector(network, ["pool"], bands=(1,), stretch=Stretch((0.0,), (1.0,)), chip_size=SIDE, overlap=16)
    with pytest.raises(OutputError, match="differs from the network by nan"):
        export(sick, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.onnx", r"a detector is exported as \.pt2; got 'model\.onnx'"),
        ("model", r"a detector is exported as \.pt2; got 'model'"),
        ("nowhere/model.pt2", r"there is no folder .*nowhere to write model\.pt2 in; make it first"),
        ("folder.pt2", r"folder\.pt2 is a folder; give the name of a file"),
    ],
)
def test_impossible_names(detector: Detector, tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(OutputError, match=told):
        export(detector, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt2"]

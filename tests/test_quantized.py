"""Detection in 8-bit integers: near the same, the same each time, or refused in one sentence."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from geodetect import load_detector
from geodetect.cli.main import main
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, MissingPackage, ModelError
from geodetect.grid import Tiling
from geodetect.network import quantized
from geodetect.network.precision import resolve
from geodetect.normalization import Normalization
from geodetect.raster import RasterReader
from geodetect.scene import detect_objects
from geodetect.scene.plan import Selection, make_plan
from geodetect.scene.scan import _read_sample
from geodetect.windows import Windows
from tests.fakes import make_detector, write_raster
from tests.test_inference import learnt

INSTALLED = all(importlib.util.find_spec(package) for package in ("openvino", "nncf"))
needs_openvino = pytest.mark.skipif(not INSTALLED, reason="the extra int8 is not installed")
SIDE = 64
FACTS = {
    "bands": (1, 2, 3),
    "normalization": Normalization((110.0,) * 3, (45.0,) * 3),
    "chip_size": SIDE,
    "overlap": 16,
}


@pytest.fixture(scope="module")
def detector() -> Detector:
    network = learnt("resnet18")
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        torch.nn.init.normal_(network.class_head.out.weight, std=0.3)
        torch.nn.init.normal_(network.box_head.out.weight, std=0.01)
        network.class_head.out.bias.fill_(-2)
    return make_detector(network, ["pool", "car"], precision="float32", **FACTS)


@pytest.fixture(scope="module")
def saved(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector.save(tmp_path_factory.mktemp("saved") / "model.safetensors")


def chips(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 3, SIDE, SIDE), np.uint8)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (3, 200, 230), np.uint8)
    return write_raster(tmp_path_factory.mktemp("scene") / "scene.tif", pixels)


@needs_openvino
@pytest.mark.slow  # quantising takes ten seconds
def test_it_finds_nearly_what_the_network_finds_in_float32(detector, capfd):
    pixels = chips(3)
    fast = detector.frozen("int8")
    assert fast.n_to_calibrate == 16
    logger_class = logging.getLoggerClass()
    fast.calibrate(pixels)
    assert logging.getLoggerClass() is logger_class
    assert not "".join(capfd.readouterr())
    assert (fast.n_to_calibrate, fast.precision, detector.precision) == (0, "int8", "float32")
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for got, due in zip(fast.running(images), detector.network.eval()(images), strict=True):
            assert got.shape == due.shape
            assert np.corrcoef(got.flatten(), due.flatten())[0, 1] > 0.995
            assert (got - due).abs().max() > 0  # it is another computation
    with pytest.raises(ArgumentError, match=r"calibrated on images of .*\(3, 64, 64\); got \(3, 96, 64\)"):
        fast.detect(np.zeros((1, 3, 70, 64), np.uint8))
    with pytest.raises(ArgumentError, match="at least one chip"):
        fast.calibrate(pixels[:0])
    found, due = fast.detect(pixels, min_score=0.2), detector.detect(pixels, min_score=0.2)
    assert all(0.8 < len(mine) / len(other) < 1.25 for mine, other in zip(found, due, strict=True))


@needs_openvino
@pytest.mark.slow  # quantising takes ten seconds
@pytest.mark.filterwarnings("ignore:.*no coordinate reference system")
def test_a_scene_gives_the_same_each_time_and_says_so(saved, scene, tmp_path):
    options = {"precision": "int8", "min_score": 0.3, "progress": False}
    first = detect_objects(scene, saved, **options)
    second = detect_objects(scene, load_detector(saved, precision="int8", device="cpu"), batch_size=1, **options)
    assert first.attrs["precision"] == "int8"
    assert len(first) > 20
    assert first.geometry.geom_equals_exact(second.geometry, 0).all()
    assert (first["score"] == second["score"]).all()
    main(
        ["detect", str(scene), str(saved), str(tmp_path / "found.geojson"), "--precision", "int8", "--no-progress"],
        standalone_mode=False,
    )
    assert (tmp_path / "found.geojson").exists()


@needs_openvino
@pytest.mark.slow  # quantising takes ten seconds
@pytest.mark.filterwarnings("ignore:.*no coordinate reference system")
def test_a_scene_without_data_has_no_objects(saved, tmp_path):
    empty = write_raster(tmp_path / "empty.tif", np.zeros((3, 100, 100), np.uint8), nodata=0)
    assert not len(detect_objects(empty, saved, precision="int8", progress=False))


def test_it_is_refused_where_it_cannot_run(detector, saved, scene, monkeypatch):
    with pytest.raises(ArgumentError, match=r'"int8" is for the CPU; got device .cuda:0.*device="cpu"'):
        resolve("int8", torch.device("cuda", 0))
    uncalibrated = load_detector(saved, precision="int8", device="cpu")
    with pytest.raises(ModelError, match=r"calibrated: run detect_objects.*calibrate\(pixels\)"):
        uncalibrated.detect(chips(1))
    with pytest.raises(ArgumentError, match="leave client out"):
        detect_objects(scene, saved, precision="int8", client=object(), progress=False)
    for package in ("nncf", "openvino"):
        monkeypatch.setattr(quantized, "find_spec", lambda name, missing=package: None if name == missing else name)
        with pytest.raises(MissingPackage, match=rf"needs {package}; install it with: pip install 'geodetect\[int8\]'"):
            detect_objects(scene, saved, precision="int8", progress=False)


def test_windows_to_calibrate_on_lie_all_over_the_data(detector, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 256, (3, 400, 400), np.uint8)
    pixels[:, :, :250] = 0
    path = write_raster(tmp_path / "half.tif", pixels, nodata=0)
    with RasterReader(path) as reader:
        plan = make_plan(reader, detector, Selection(np.array([0.1, 0.1]), 0.5))
        sample = _read_sample(reader, plan, 8)
        again = _read_sample(reader, plan, 8)
    assert sample.shape == (8, 3, SIDE, SIDE)
    assert sample.any(axis=(1, 2, 3)).all()
    assert len({window.tobytes() for window in sample}) == 8
    np.testing.assert_array_equal(sample, again)


def test_a_window_by_its_number():
    windows = Windows.of([Tiling((130, 190), 64, 16), Tiling((64, 64), 64, 16, 400, 10)])
    assert [windows[i] for i in range(len(windows))] == list(windows)

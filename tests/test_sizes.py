"""Numbers that size an array or a loop: those that no machine can serve are refused at once, in one sentence."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geodetect as gd
from geodetect import memory
from geodetect.anchors import AnchorSpec
from geodetect.chips import DetectionData
from geodetect.errors import ArgumentError, GeodetectError, ModelError, is_number
from geodetect.grid import Grid
from tests.fakes import SHAPE, UPRIGHT, UTM, FakeReader, PaintDetector, PaintedScene, make_detector, painted

ENDLESS = 10**30
BEYOND_FLOATS = 10**400


class Unasked(PaintDetector):
    """A detector that nobody gets as far as to ask."""

    def detect(self, pixels: np.ndarray) -> Any:
        raise AssertionError("the work had begun")


def refused(call: Callable[[], object], message: str, kind: type[GeodetectError] = ArgumentError) -> None:
    """Asserts that a call is refused, within seconds and in one line."""
    start = time.process_time()
    with pytest.raises(kind, match=message) as caught:
        call()
    assert time.process_time() - start < 5
    assert "\n" not in str(caught.value)


WINDOWS = [
    ({"chip_size": 10**6}, r"a window of 1,000,000 x 1,000,000 px would take 6,000\.0 GB .* make chip_size smaller"),
    ({"chip_size": ENDLESS}, "more than 1,000,000,000 GB of memory, and there is .* make chip_size smaller"),
    ({"chip_size": BEYOND_FLOATS}, "make chip_size smaller"),
    ({"overlap": ENDLESS}, "overlap must be smaller than chip_size"),
    ({"overlap": 511, "chip_size": 512}, "puts each pixel into 262,144 windows; make overlap at most 496"),
    ({"pixel_size_m": 1e-9}, r"500,000,000 x 500,000,000 px of each .* 0\.5 m, and 112,000,000,000 x 80,000,000,000"),
    (
        {"pixel_size_m": 0.001},
        r"500 x 500 px of each pixel of upright\.tif, which measures 0\.5 m, .* 112,000 x 80,000",
    ),
    ({"pixel_size_m": 1e-300}, r"pixel_size_m=1e-300 makes 5e\+299"),
    ({"pixel_size_m": BEYOND_FLOATS}, "pixel_size_m must be above 0"),
]


@pytest.mark.parametrize(("options", "message"), WINDOWS)
def test_windows_that_fit_into_no_machine(upright: PaintedScene, options: dict[str, Any], message: str) -> None:
    refused(lambda: gd.detect_objects(upright.path, Unasked(), **options), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [(options, message) for options, message in WINDOWS[:-1] if options.keys() != {"overlap"} and len(options) == 1],
)
def test_a_detector_that_wants_them(upright: PaintedScene, options: dict[str, Any], message: str) -> None:
    refused(lambda: gd.detect_objects(upright.path, replace(Unasked(), **options)), message, GeodetectError)


@pytest.mark.parametrize("batch_size", [10**8, ENDLESS, BEYOND_FLOATS])
def test_batches_that_fit_into_no_machine(upright: PaintedScene, batch_size: int) -> None:
    refused(
        lambda: gd.detect_objects(upright.path, Unasked(), batch_size=batch_size),
        rf"batch_size={batch_size:,} with windows of 64 px would take .* GB of memory.*; make batch_size smaller",
    )


def test_a_detector_that_suits_itself_gets_what_fits(upright: PaintedScene) -> None:
    class Greedy(PaintDetector):
        def suited_batch_size(self, chip_size: int) -> int:
            return ENDLESS

    found = gd.detect_objects(upright.path, Greedy(), progress=False)
    window = 64 * 64 * 3 * 2
    assert 0 < found.attrs["batch_size"] * window < memory.available_bytes()
    assert len(found) == len(upright.boxes)


@pytest.mark.filterwarnings("ignore:this model is untrained")
def test_a_file_of_a_detector_that_wants_them(upright: PaintedScene, tmp_path: Path) -> None:
    from geodetect.network.retinanet import Network
    from geodetect.normalization import Normalization

    network = Network("resnet18", n_classes=2, weights=None)
    facts = {"bands": (1, 2, 3), "normalization": Normalization((1e4,) * 3, (2e4,) * 3), "chip_size": 64, "overlap": 16}
    for change, message in (
        ({"chip_size": 10**6}, "a window of 1,000,000 x 1,000,000 px"),
        ({"chip_size": ENDLESS}, "make chip_size smaller"),
        ({"pixel_size_m": 1e-9}, "pixel_size_m=1e-09 makes"),
    ):
        file = make_detector(network, ("red", "blue"), **facts | change).save(tmp_path / "model.safetensors")
        refused(lambda file=file: gd.detect_objects(upright.path, file, device="cpu"), message)


CHIPS = [
    ({"chip_size": 10**6}, r"a chip of 1,000,000 x 1,000,000 px would take 1,000\.0 GB .* make chip_size smaller"),
    ({"chip_size": ENDLESS}, "make chip_size smaller"),
    ({"chip_size": 64, "overlap": 63}, "each pixel into 4,096 windows; make overlap at most 62"),
    ({"chip_size": 64, "overlap": ENDLESS}, "overlap must be smaller than chip_size"),
    ({"pixel_size_m": 0.001}, "500 x 500 px of each pixel"),
    ({"pixel_size_m": 1e-9}, "500,000,000 x 500,000,000 px of each pixel"),
    ({"seed": 2**64}, "seed must be less than 18,446,744,073,709,551,616; got 18446744073709551616"),
    ({"negatives": BEYOND_FLOATS}, "negatives must be a number of at least 0"),
    ({"point_radius_m": 1e9}, r"objects larger than the whole of upright\.tif, which measures 137\.6 m"),
    ({"point_radius_m": BEYOND_FLOATS}, "point_radius_m must be above 0"),
]


@pytest.mark.parametrize(("options", "message"), CHIPS)
def test_chips_that_fit_into_no_machine(
    upright: PaintedScene, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    labels = upright.truth
    if "point_radius_m" in options:
        labels = labels.set_geometry(labels.centroid)
    refused(lambda: gd.prepare_data(upright.path, labels, **options), message)
    refused(lambda: gd.export_training_data(upright.path, labels, tmp_path / "chips", **options), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": ENDLESS}, "a batch of 1,000,0.* make batch_size or chip_size smaller"),
        ({"batch_size": 10**7, "chip_size": 64}, r"10,000,000 chips of 64 px would take 491\.5 GB"),
        ({"chip_size": 90_000}, "90,000.* px would take .* make .*chip_size smaller"),
        ({"num_workers": 10**6}, r"num_workers=1000000 would take 200,000\.0 GB .* make num_workers smaller"),
        ({"num_workers": BEYOND_FLOATS}, "make num_workers smaller"),
    ],
)
def test_batches_to_train_on(upright: PaintedScene, options: dict[str, Any], message: str) -> None:
    refused(lambda: gd.prepare_data(upright.path, upright.truth, split="random", **options), message)


@pytest.fixture(scope="module")
def data(scenes: dict[str, PaintedScene]) -> DetectionData:
    """All chips of the painted scene; as many without an object as there are."""
    scene = scenes["upright"]
    return gd.prepare_data(scene.path, scene.truth, chip_size=64, negatives=1e308, split="random", num_workers=0)


def test_more_chips_without_an_object_than_there_are(data: DetectionData) -> None:
    assert len(data.plans) == 12


@pytest.mark.parametrize("rows", [101, 10**6, ENDLESS, BEYOND_FLOATS, 0, 2.5])
def test_figures_larger_than_any(data: DetectionData, rows: int) -> None:
    refused(lambda: data.show_batch(rows=rows), "rows must be .* at least 1 and at most 100")


def test_a_figure_has_no_more_columns_than_pictures(data: DetectionData) -> None:
    assert len(data.show_batch(rows=100).axes) == sum(len(plan.boxes) > 0 for plan in data.train.plans)


@pytest.mark.parametrize("levels", [(3, 60), (2, 10**9)])
def test_pyramids_that_nobody_builds(data: DetectionData, levels: tuple[int, int]) -> None:
    refused(lambda: data.suggest_anchors(levels), r"levels must be one of \(3, 7\), \(2, 7\)")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"scales": [1.0] * 10**6}, "at most 100 for a cell; got 1,000,000 scales and 3 ratios"),
        ({"anchor_size": 1e300}, "at most 1,000; got"),
        ({"scales": [1e300]}, "at most 1,000; got"),
        ({"ratios": [float("inf")]}, "at most 1,000; got"),
    ],
)
def test_anchors_larger_than_any_chip(shapes: dict[str, Any], message: str) -> None:
    refused(lambda: AnchorSpec(**shapes), message)


def test_training_without_end(data: DetectionData) -> None:
    options = {"backbone": "resnet18", "weights": None, "scales": "auto"}
    model = gd.RetinaNet(data, **options, device="cpu")
    for epochs in (10**9, ENDLESS, BEYOND_FLOATS):
        refused(lambda epochs=epochs: model.fit(epochs), "epochs must be .* at most 100,000")
    for rows in (10**6, 0):
        refused(lambda rows=rows: model.show_results(rows=rows), "rows must be .* at least 1 and at most 100")
        refused(lambda rows=rows: model.show_errors(rows=rows), "rows must be .* at least 1 and at most 100")
    refused(lambda: gd.RetinaNet(data, **options, seed=ENDLESS), "seed must be less than")


def test_plans_of_more_chips_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from geodetect.chips.cut import plan_windows

    wide = FakeReader(np.zeros((1, 4, 4_000), np.uint8), Grid((4, 4_000), UPRIGHT, UTM, "wide.tif"))
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000_000)
    message = r"plans of 1,000 chips of wide\.tif would take 0\.0 GB .* make chip_size larger or overlap smaller"
    refused(lambda: plan_windows(wide, chip_size=4, overlap=0, area=None), message)
    assert len(plan_windows(wide, chip_size=40, overlap=0, area=None)) == 100


def test_a_picture_to_predict_that_is_too_large_for_one_piece(data: DetectionData) -> None:
    from geodetect.learner.results import predict

    class Small:
        classes, min_score = ["red"], 0.5

        def warn_if_untrained(self) -> None:
            pass

        def detect(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    image = painted()
    message = "not enough memory .*224 x 160 px in one piece; give the path of a raster"
    refused(lambda: predict(Small(), image, None, 0.5), message, ModelError)  # type: ignore[arg-type]
    assert image.shape[1:] == SHAPE


@pytest.mark.parametrize("value", [BEYOND_FLOATS, -BEYOND_FLOATS])
def test_a_number_is_one_that_a_float_can_hold(value: int) -> None:
    assert not is_number(value)
    assert is_number(10**300)


def test_memory_is_what_a_limit_leaves() -> None:
    whole = memory.available_bytes()
    assert 2**28 < whole < 2**50
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30));"
        "from geodetect import memory; print(memory.available_bytes())"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout
    assert int(told) == min(whole, 3 << 30)


def test_memory_is_what_a_container_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "limit").write_text("1073741824\n")
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "gone")))
    unlimited = memory.available_bytes()
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "memory.max"), str(tmp_path / "limit")))
    assert memory.available_bytes() == 1 << 30 < unlimited

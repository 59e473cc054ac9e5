"""An exported file gives what the detector gives, or is not there."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from geodetect.anchors import AnchorSpec
from geodetect.boxes import Boxes, iou, nms
from geodetect.cli.main import main
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, GeodetectError, ModelError, OutputError
from geodetect.export import export
from geodetect.export.onnx_detector import OnnxDetector
from geodetect.export.reading import read_facts
from geodetect.grid import Window
from geodetect.metadata import Architecture
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization
from geodetect.raster import RasterReader
from geodetect.scene import detect_objects
from tests.fakes import make_detector, standardise, trained, write_raster

SUBURB = Path(__file__).resolve().parents[1] / "sample_data" / "suburb_test.tif"
SIDE = 100  # no multiple of 32: the graphs have to pad as the detector does
SPEC = AnchorSpec(scales=(1.0, 1.5), ratios=(1.0,))
CLASSES = ["pool", "car"]
ODD_CLASSES = ['it\'s a "b"', "船\N{OCTOPUS}back\\slash"]
BANDS = (4, 1, 2)
NORMALIZATION = Normalization((110.0, 2900.0, 95.0), (40.0, 60.0, 50.0))
WITH_ONNX = importlib.util.find_spec("onnxruntime") is not None and importlib.util.find_spec("onnxscript") is not None
needs_onnx = pytest.mark.skipif(not WITH_ONNX, reason="the extra onnx is not installed")


@torch.no_grad()
def _network(backbone: str = "resnet18", n_bands: int = 3, *, width: int = 96, depth: int = 2, **heads: Any) -> Network:
    """Random weights that are sure of something somewhere."""
    architecture = Architecture(backbone, anchors=SPEC, width=width, depth=depth, **heads)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = Network(architecture, n_classes=2, n_bands=n_bands, weights=None)
        torch.nn.init.normal_(network.class_head.out.weight, std=0.2)
        torch.nn.init.normal_(network.box_head.out.weight, std=0.01)
        return trained(network)


@torch.no_grad()
def _settle(network: Network, pictures: torch.Tensor) -> None:
    """Spread a network's answers like a trained one's; as they are made, deep ones say the same everywhere."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # running moments are those of the one batch
    network.train()(pictures)
    logits, deltas = network.eval()(pictures)
    network.class_head.out.weight.mul_(1.5 / logits.std())
    network.box_head.out.weight.mul_(0.1 / deltas.std())


@pytest.fixture(scope="module")
def detector() -> Detector:
    detector = make_detector(
        _network(),
        CLASSES,
        bands=BANDS,
        normalization=NORMALIZATION,
        chip_size=SIDE,
        overlap=24,
        pixel_size_m=0.3,
        min_score={"pool": 0.2, "car": 0.1},
        precision="float32",
    )
    detector.network.train()  # as it is when it is exported in the middle of training
    return detector


def chips(n: int, side: int = SIDE, n_bands: int = 3) -> np.ndarray:
    """Pixels (n, n_bands, side, side), uint16, round about the means."""
    noise = np.random.default_rng(n).normal(0, 1, (n, n_bands, side, side))
    mean, std = (np.resize(values, n_bands)[:, None, None] for values in (NORMALIZATION.mean, NORMALIZATION.std))
    return np.clip(noise * std + mean, 0, None).astype(np.uint16)


def floor_of(detector: Detector, pixels: np.ndarray) -> float:
    """A score that some hundred candidates reach: between two that are well apart, so that rounding turns none."""
    found = detector.detect(pixels, min_score=0.0, nms_iou=1.0)  # of all pictures, each of which must keep away from it
    scores = np.sort(np.concatenate([boxes.scores for boxes in found]))[::-1][: 200 * len(found)]
    widest = int(np.argmax(scores[50:-1] - scores[51:])) + 50
    return float((scores[widest] + scores[widest + 1]) / 2)


def assert_same(got: Boxes, due: Boxes) -> None:
    """The same boxes: each with its own counterpart of the same class, IoU above 0.99, scores to 1e-3."""
    assert len(got) == len(due)
    if not len(due):  # all boxes that reach the threshold may lie on the other pictures
        return
    overlap = iou(got.xyxy, due.xyxy) * (got.labels[:, None] == due.labels)
    assert (overlap.max(axis=1, initial=0) > 0.99).all()
    assert (overlap.max(axis=0, initial=0) > 0.99).all()
    assert np.abs(got.scores - due.scores[overlap.argmax(axis=1)]).max(initial=0) < 1e-3


@pytest.fixture(scope="module")
def folder(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every format that needs no extra, and the ONNX ones where the extra is there."""
    folder = tmp_path_factory.mktemp("export")
    export(detector, folder / "model.dlpk")
    export(detector, folder / "model.json", "stac-mlm")  # and model.pt2
    if WITH_ONNX:
        export(detector, folder / "model.onnx")
    return folder


def test_nothing_else_is_left_beside_the_files(folder: Path) -> None:
    expected = {"model.dlpk", "model.json", "model.pt2"} | ({"model.onnx"} if WITH_ONNX else set())
    assert {path.name for path in folder.iterdir()} == expected


def test_the_program_gives_what_the_network_gives_for_any_number_of_pictures(detector: Detector, folder: Path) -> None:
    program = torch.export.load(folder / "model.pt2").module()
    network = detector.network.eval()
    for n_pictures in (1, 2, 5):
        pictures = torch.randn(n_pictures, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(n_pictures))
        with torch.inference_mode():
            logits, deltas = program(pictures)
            due = network(pictures)
        torch.testing.assert_close(logits, due[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(deltas, due[1], atol=1e-4, rtol=0)
        n_anchors = len(network.anchors((SIDE, SIDE)))
        assert logits.shape == (n_pictures, n_anchors, 2)
        assert deltas.shape == (n_pictures, n_anchors, 4)


def test_the_program_file_tells_how_to_feed_it(folder: Path) -> None:
    files = {"geodetect.json": ""}
    torch.export.load(folder / "model.pt2", extra_files=files)
    told = json.loads(files["geodetect.json"])
    assert told["classes"] == CLASSES
    assert told["bands"] == list(BANDS)
    assert Normalization.from_json(told["stretch"]) == NORMALIZATION
    assert told["standardization_mean"] == pytest.approx(np.array(NORMALIZATION.mean) / 255)
    assert told["standardization_std"] == pytest.approx(np.array(NORMALIZATION.std) / 255)
    assert told["anchors"] == {"scales": [1, 1.5], "ratios": [1], "anchor_size": 4, "levels": [3, 7]}
    assert (told["chip_size"], told["overlap"], told["pixel_size_m"]) == (SIDE, 24, 0.3)


@needs_onnx
def test_onnxruntime_finds_what_the_detector_finds(detector: Detector, folder: Path) -> None:
    pixels = chips(3)
    floor = floor_of(detector, pixels)
    twin = OnnxDetector(folder / "model.onnx", "cpu")
    due = detector.detect(pixels, min_score=floor)
    assert sum(map(len, due)) > 20
    for got, wanted in zip(twin.detect(pixels, min_score=floor), due, strict=True):
        assert_same(got, wanted)
    (alone,) = twin.detect(pixels[:1], min_score=floor)
    assert_same(alone, due[0])
    assert twin.detect(pixels[:0]) == []
    assert (twin.classes, twin.bands, twin.chip_size) == (CLASSES, BANDS, SIDE)
    assert (twin.overlap, twin.pixel_size_m, twin.min_score) == (24, 0.3, {"pool": 0.2, "car": 0.1})


@needs_onnx
def test_what_is_no_number_counts_as_the_mean_in_onnx_too(detector: Detector, folder: Path) -> None:
    pixels = chips(1).astype(np.float32)
    pixels[0, 0, :20, :20], pixels[0, 1, 50:60], pixels[0, 2, 70:, 70:] = np.nan, np.inf, -np.inf
    floor = floor_of(detector, pixels)
    (got,) = OnnxDetector(folder / "model.onnx", "cpu").detect(pixels, min_score=floor)
    assert_same(got, detector.detect(pixels, min_score=floor)[0])


def onnx_session(path: Path) -> Any:
    """An ONNX file in onnxruntime."""
    import onnxruntime

    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@needs_onnx
def test_other_programs_read_how_to_run_the_onnx_file(folder: Path) -> None:
    session = onnx_session(folder / "model.onnx")
    told = dict(session.get_modelmeta().custom_metadata_map)
    told.pop("geodetect")
    ultralytics = {key: told.pop(key) for key in ("task", "names", "imgsz", "stride", "batch", "channels")}
    assert {key: json.loads(text) for key, text in told.items()} == {
        "model_type": "Detector",
        "det_type": "YOLO_v9",
        "det_conf": 0.1,  # the lowest of the classes' own
        "det_iou_thresh": 0.5,
        "class_names": {"0": "pool", "1": "car"},
        "resolution": 30,  # cm
        "tile_size": SIDE,
        "tiles_size": SIDE,
        "tiles_overlap": 24,  # percent of 100 px
        "standardization_mean": [0, 0, 0],
        "standardization_std": [1, 1, 1],
    }
    assert ultralytics.pop("task") == "detect"  # bare; the others as Python writes them
    assert {key: ast.literal_eval(text) for key, text in ultralytics.items()} == {
        "names": {0: "pool", 1: "car"},
        "imgsz": [SIDE, SIDE],
        "stride": 4,  # of 32, what divides 100
        "batch": 1,
        "channels": 3,
    }
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert (given.type, given.shape) == ("tensor(float)", ["B", 3, SIDE, SIDE])
    assert answer.shape[:2] == [None, 4 + len(CLASSES)]  # Ultralytics looks at `imgsz` only if the first has no name


def answers(path: Path, pixels: np.ndarray) -> np.ndarray:
    """What an ONNX file gives for chips, fed as Deepness, GeoDeep and Ultralytics do."""
    (found,) = onnx_session(path).run(None, {"images": (pixels / 255).astype(np.float32)})
    return found


def best_of_each(boxes: Boxes) -> Boxes:
    """Of boxes in the same place the one with the best score: other programs give a candidate one class."""
    _, first = np.unique(boxes.xyxy.round(3), axis=0, return_index=True)  # the boxes come best first
    return boxes[np.sort(first)]


@pytest.fixture(scope="module")
def suburb() -> tuple[Detector, np.ndarray]:
    """A detector of three bands of bytes, with odd names, and chips of the suburb that its answers are spread over."""
    with RasterReader(SUBURB) as reader:
        places = [(64 * k, 48 * k) for k in range(4)]
        pixels = np.stack([reader.read(Window(x, y, 128, 128))[0] for x, y in places])
    assert pixels.dtype == np.uint8
    normalization = Normalization.fit((chip, np.ones(chip.shape[1:], bool)) for chip in pixels)
    network = _network(width=32, depth=1)
    _settle(network, torch.from_numpy(standardise(normalization, pixels)))
    facts = {"bands": (1, 2, 3), "normalization": normalization, "chip_size": 128, "overlap": 32, "min_score": 0.5}
    detector = make_detector(network, ODD_CLASSES, precision="float32", **facts)
    return detector, pixels


@pytest.fixture(scope="module")
def suburb_onnx(suburb: tuple[Detector, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(suburb[0], tmp_path_factory.mktemp("suburb") / "suburb.onnx")


@needs_onnx
@pytest.mark.filterwarnings("ignore:Specified provider:UserWarning")  # geodeep asks for CUDA everywhere
def test_geodeep_finds_what_the_detector_finds(suburb: tuple[Detector, np.ndarray], suburb_onnx: Path) -> None:
    pytest.importorskip("geodeep", reason="geodeep is not installed")
    from geodeep.detection import execute_detection, extract_bsc
    from geodeep.inference import create_session

    detector, pixels = suburb
    floor = floor_of(detector, pixels)
    session, config = create_session(str(suburb_onnx))
    assert (config["det_conf"], config["det_iou_thresh"], config["tiles_size"]) == (0.5, 0.5, 128)
    config |= {"det_conf": floor, "det_iou_thresh": 1.1}  # all candidates: its suppression adds a pixel to each side
    for chip in pixels:
        rows = execute_detection(chip, session, config)
        _, scores, classes = extract_bsc(rows, config)
        assert {name for _, name in classes} <= set(ODD_CLASSES)
        got = Boxes(rows[:, :4], [ODD_CLASSES.index(name) for _, name in classes], scores).clip(128, 128)
        (due,) = detector.detect(chip[None], min_score=floor, nms_iou=1.0)
        assert len(due)
        assert_same(best_of_each(got), best_of_each(due))


@needs_onnx
def test_ultralytics_finds_what_the_detector_finds(suburb: tuple[Detector, np.ndarray], suburb_onnx: Path) -> None:
    ultralytics = pytest.importorskip("ultralytics", exc_type=ImportError)  # OpenCV needs libraries of the system
    detector, pixels = suburb
    floor = floor_of(detector, pixels)
    # All candidates, as its suppression works on coordinates that are moved apart by class, which rounds them.
    options = {"imgsz": 128, "conf": floor, "iou": 1.0, "max_det": 10_000, "device": "cpu", "verbose": False}
    program = ultralytics.YOLO(suburb_onnx)  # which knows its task from the file
    for chip in pixels:
        (found,) = program.predict(np.ascontiguousarray(chip[::-1].transpose(1, 2, 0)), **options)  # BGR
        assert [found.names[k] for k in range(len(ODD_CLASSES))] == ODD_CLASSES
        boxes = found.boxes
        got = Boxes(boxes.xyxy.numpy(), boxes.cls.numpy().astype(int), boxes.conf.numpy())
        (due,) = detector.detect(chip[None], min_score=floor, nms_iou=1.0)
        assert_same(best_of_each(got), best_of_each(due))


@needs_onnx
def test_every_picture_of_a_batch_reads_as_deepness_reads_it(
    suburb: tuple[Detector, np.ndarray], suburb_onnx: Path
) -> None:
    """A column for each candidate: centre, sides, and the scores, of which the largest counts."""
    detector, pixels = suburb
    floor = floor_of(detector, pixels)
    found = detector.detect(pixels, min_score=floor, nms_iou=1.0)
    for columns, due in zip(answers(suburb_onnx, pixels), found, strict=True):
        rows = columns.T
        rows = rows[rows[:, 4:].max(axis=1) >= floor]
        xyxy = np.hstack([rows[:, :2] - rows[:, 2:4] / 2, rows[:, :2] + rows[:, 2:4] / 2])
        got = Boxes(xyxy, rows[:, 4:].argmax(axis=1), rows[:, 4:].max(axis=1))
        assert_same(best_of_each(got[np.argsort(-got.scores)]), best_of_each(due))


@needs_onnx
def test_onnx_files_run_in_old_runtimes(folder: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    assert (model.ir_version, [each.version for each in model.opset_import]) == (8, [15])  # onnxruntime 1.10


@needs_onnx
@pytest.mark.slow
def test_the_other_layouts_hold_the_same(detector: Detector, folder: Path, tmp_path: Path) -> None:
    columns = answers(folder / "model.onnx", chips(1))
    for layout, det_type in [("YOLO_Ultralytics", "YOLO_Ultralytics"), ("yolo", "YOLO_Ultralytics")]:
        path = export(detector, tmp_path / f"{layout}.onnx", layout)
        assert np.array_equal(answers(path, chips(1)), columns)
        assert det_type in str(read_facts(path))
    rows = answers(export(detector, tmp_path / "rows.onnx", "YOLO_v5_or_v7_default"), chips(1))
    assert np.array_equal(np.delete(rows, 4, axis=2).swapaxes(1, 2), columns)
    assert np.array_equal(rows[..., 4], rows[..., 5:].max(axis=2))


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("det_type", ["YOLO_v5_or_v7_default", "YOLO_Ultralytics"])
def test_files_of_earlier_versions_are_read(detector: Detector, tmp_path: Path, det_type: str) -> None:
    import onnx

    path = export(detector, tmp_path / "model.onnx", det_type)
    model = onnx.load(path)
    kept = [
        each
        for each in model.metadata_props
        if each.key not in ("task", "names", "imgsz", "stride", "batch", "channels")
    ]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "B"
    onnx.save(model, path)
    pixels = chips(2)
    floor = floor_of(detector, pixels)
    found = OnnxDetector(path).detect(pixels, min_score=floor)
    for got, due in zip(found, detector.detect(pixels, min_score=floor), strict=True):
        assert_same(got, due)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("n_bands", [3, 4])
@pytest.mark.parametrize("backbone", ["efficientnet_b0", "vgg16_bn"])
def test_other_backbones_give_the_same_in_every_format(backbone: str, n_bands: int, tmp_path: Path) -> None:
    check_every_format(_network(backbone, n_bands), tmp_path)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("heads", [{"width": 256, "depth": 4}, {"head_norm": "group"}])  # the paper's; of older files
def test_heads_of_other_sizes_and_norms_give_the_same_in_every_format(heads: dict[str, Any], tmp_path: Path) -> None:
    check_every_format(_network(**heads), tmp_path)


def check_every_format(network: Network, tmp_path: Path) -> None:
    n_bands = network.n_bands
    pixels = chips(2, 128, n_bands)
    normalization = Normalization(np.resize(NORMALIZATION.mean, n_bands), np.resize(NORMALIZATION.std, n_bands))
    bands = tuple(range(1, n_bands + 1))
    _settle(network, torch.from_numpy(standardise(normalization, pixels)))
    detector = make_detector(
        network, CLASSES, bands=bands, normalization=normalization, chip_size=128, overlap=16, precision="float32"
    )
    floor = floor_of(detector, pixels)
    twin = OnnxDetector(export(detector, tmp_path / "model.onnx"), "cpu")
    expected = detector.detect(pixels, min_score=floor)
    assert any(len(boxes) for boxes in expected)
    for got, due in zip(twin.detect(pixels, min_score=floor), expected, strict=True):
        assert_same(got, due)
    request = {"scalars": {"padding": 0, "threshold": floor, "batch_size": 1}}
    blocks = [(pixels[0], np.ones((128, 128), np.uint8))]
    (told,) = in_child(export(detector, tmp_path / "model.dlpk"), tmp_path, [(blocks, request)])
    (found,) = told["found"]
    assert_same(boxes_of(found), detector.detect(pixels[:1], min_score=floor)[0])


@needs_onnx
def test_a_scene_gives_the_same_features_through_onnx(detector: Detector, folder: Path, tmp_path: Path) -> None:
    raster = write_raster(tmp_path / "scene.tif", np.concatenate([chips(1, 180, 3)[0], chips(2, 180, 1)[0]]))
    floor = max(floor_of(detector, chips(1)), 0.05)
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        due = detect_objects(raster, detector, min_score=floor, pixel_size_m=None, progress=False)
    with pytest.warns(UserWarning, match="no coordinate reference system"):
        got = detect_objects(raster, folder / "model.onnx", min_score=floor, pixel_size_m=None, progress=False)
    assert len(due) > 20
    assert list(got.columns) == list(due.columns)
    mine, other = (
        Boxes(x.bounds.to_numpy(), [CLASSES.index(name) for name in x["label"]], x["score"]) for x in (got, due)
    )
    assert_same(mine, other)
    with pytest.raises(ArgumentError, match="computes in float32"):
        detect_objects(raster, folder / "model.onnx", precision="bf16")


@needs_onnx
def test_running_an_onnx_file_loads_no_torch() -> None:
    code = "import sys, geodetect.export.onnx_detector; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@needs_onnx
def test_chips_that_the_onnx_file_cannot_take(folder: Path) -> None:
    twin = OnnxDetector(folder / "model.onnx", "cpu")
    with pytest.raises(ModelError, match=r"takes 3 bands \(4, 1, 2\); got pixels of 4"):
        twin.detect(chips(1, n_bands=4))
    with pytest.raises(ModelError, match="takes chips of 100 px, fixed when it was exported; got 128 x 128 px"):
        twin.detect(chips(1, side=128))
    with pytest.raises(ArgumentError, match="onnxruntime has no device 'tpu' here"):
        OnnxDetector(folder / "model.onnx", "tpu")
    (found,) = twin.detect(chips(1, side=60), min_score=0.1)
    assert (found.xyxy <= 60).all()


CHILD = """
import builtins, importlib.util, json, sys
known = builtins.__import__
def without(name, *rest, **named):
    if name.partition(".")[0] in {"geodetect", "torchvision", "safetensors", "fastai", "arcpy", "arcgis"}:
        raise ImportError(f"a package for ArcGIS must not import {name}")
    return known(name, *rest, **named)
builtins.__import__ = without
import numpy as np
folder, requests = sys.argv[1], json.loads(sys.argv[2])
spec = importlib.util.spec_from_file_location("GeodetectDetector", folder + "/GeodetectDetector.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
model, answers = folder + "/model.emd", []
for k, request in enumerate(requests):
    function = module.GeodetectDetector()
    function.initialize(model=open(model).read() if request["as_json"] else model, device=-1)
    told = {"parameters": function.getParameterInfo(), "fields": json.loads(function.getFields())}
    told["configuration"] = function.getConfiguration(**request["scalars"])
    told["geometry"] = function.getGeometryType()
    blocks = np.load(f"{folder}/blocks{k}.npz")
    vectorize = lambda i: function.vectorize(raster_pixels=blocks[f"pixels{i}"], raster_mask=blocks[f"mask{i}"])
    told["found"] = [json.loads(vectorize(i)["output_vectors"]) for i in range(request["n_blocks"])]
    answers.append(told)
print(json.dumps(answers))
"""
Blocks = list[tuple[np.ndarray, np.ndarray]]


def in_child(package: Path, folder: Path, requests: list[tuple[Blocks, dict[str, Any]]]) -> list[Any]:
    """What the raster function of a package answers in a process of its own that has torch and numpy alone."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    asked = []
    for k, (blocks, request) in enumerate(requests):
        arrays = {f"pixels{i}": pixels for i, (pixels, _) in enumerate(blocks)}
        np.savez(folder / f"blocks{k}.npz", **arrays, **{f"mask{i}": mask for i, (_, mask) in enumerate(blocks)})
        asked.append({"as_json": False, "scalars": {}, "n_blocks": len(blocks)} | request)
    command = [sys.executable, "-I", "-c", CHILD, str(folder), json.dumps(asked)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert run.returncode == 0, run.stderr
    answers: list[Any] = json.loads(run.stdout)
    return answers


def boxes_of(features: dict[str, Any]) -> Boxes:
    """The boxes of a feature set."""
    rings = np.array([each["geometry"]["rings"][0] for each in features["features"]], float).reshape(-1, 5, 2)
    told = [each["attributes"] for each in features["features"]]
    assert [each["OID"] for each in told] == list(range(1, len(told) + 1))
    labels = [CLASSES.index(each["Class"]) for each in told]
    xyxy = np.concatenate([rings.min(axis=1), rings.max(axis=1)], axis=1)
    return Boxes(xyxy, labels, np.array([each["Confidence"] for each in told]) / 100)


PADDING, INNER = 20, SIDE - 40


def large_block() -> np.ndarray:
    """Pixels of two by two chips, and the padding round them."""
    return chips(1, 2 * INNER + 2 * PADDING)[0]


@pytest.fixture(scope="module")
def in_arcgis(detector: Detector, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the package answers of a chip, without a mask, masked and half masked; and of a block of several chips."""
    pixels = chips(1)[0]
    floor = floor_of(detector, pixels[None])
    everywhere, nowhere = np.ones((SIDE, SIDE), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    half = everywhere.copy()
    half[:, 50:] = 0
    # As text, as ArcGIS may.
    as_text = {"padding": "0", "threshold": str(floor), "nms_overlap": "0.5", "batch_size": "1"}
    alone = [(pixels, everywhere), (pixels, nowhere), (pixels, half)]
    several = large_block()
    block = [(several, np.ones((1, *several.shape[1:]), np.uint8))]
    numbers = {"padding": PADDING, "threshold": floor, "batch_size": 4}
    requests = [(alone, {"scalars": as_text}), (block, {"scalars": numbers, "as_json": True})]
    return in_child(folder / "model.dlpk", tmp_path_factory.mktemp("arcgis"), requests)


def test_the_package_finds_what_the_detector_finds_where_geodetect_is_not(
    detector: Detector, in_arcgis: list[Any]
) -> None:
    pixels = chips(1)[0]
    floor = floor_of(detector, pixels[None])
    told = in_arcgis[0]
    found, nothing, left = told["found"]
    assert_same(boxes_of(found), detector.detect(pixels[None], min_score=floor)[0])
    assert nothing["features"] == []
    assert nothing["geometryType"] == "esriGeometryPolygon"
    assert len(left["features"]) > 0
    assert (boxes_of(left).centres[:, 0] < 50).all()
    names = [each["name"] for each in told["parameters"]]
    assert names[:3] == ["raster", "model", "device"]
    assert names[3:] == ["padding", "threshold", "nms_overlap", "batch_size", "exclude_pad_detections"]
    assert {each["name"]: each.get("value") for each in told["parameters"]}["threshold"] == 0.1
    assert told["geometry"] == 4
    assert [each["name"] for each in told["fields"]["fields"]] == ["OID", "Class", "Confidence", "Shape"]


def test_a_block_of_several_chips_is_looked_at_chip_by_chip(detector: Detector, in_arcgis: list[Any]) -> None:
    pixels, floor, told = large_block(), floor_of(detector, chips(1)), in_arcgis[1]
    assert told["configuration"] | {"inheritProperties": 0} == {
        "extractBands": [3, 0, 1],  # counted from 0
        "padding": PADDING,
        "tx": 2 * INNER,
        "ty": 2 * INNER,
        "fixedTileSize": 1,
        "inheritProperties": 0,
        "inputMask": True,
    }
    parts = []
    for y in (0, INNER):
        for x in (0, INNER):
            (found,) = detector.detect(pixels[None, :, y : y + SIDE, x : x + SIDE], min_score=floor, nms_iou=1.0)
            kept = ((found.centres >= PADDING) & (found.centres < SIDE - PADDING)).all(axis=1)
            parts.append(found[kept].shift(x - PADDING, y - PADDING))
    every = Boxes.concat(parts)
    assert_same(boxes_of(told["found"][0]), every[nms(every, 0.5)])


def test_the_package_holds_three_files_and_says_what_it_is(folder: Path) -> None:
    with zipfile.ZipFile(folder / "model.dlpk") as archive:
        assert sorted(archive.namelist()) == ["GeodetectDetector.py", "model.emd", "network.safetensors"]
        told = json.loads(archive.read("model.emd"))
    assert told["ModelType"] == "ObjectDetection"
    assert (told["ImageHeight"], told["ImageWidth"], told["ExtractBands"]) == (SIDE, SIDE, [3, 0, 1])
    assert (told["Padding"], told["Threshold"]) == (12, 0.1)
    size = {"x": 0.3, "y": 0.3, "spatialReference": {"wkid": 102100, "latestWkid": 3857}}
    assert (told["MinCellSize"], told["MaxCellSize"]) == (size, size)
    assert told["Classes"] == [
        {"Value": 1, "Name": "pool", "Color": [230, 159, 0]},
        {"Value": 2, "Name": "car", "Color": [86, 180, 233]},
    ]


def test_the_stac_item_describes_the_program(folder: Path) -> None:
    """What the schema of the extension asks for, rule by rule."""
    item = json.loads((folder / "model.json").read_text())
    properties = item["properties"]
    assert (item["type"], item["stac_version"], item["geometry"]) == ("Feature", "1.1.0", None)
    assert "https://stac-extensions.github.io/mlm/v1.4.0/schema.json" in item["stac_extensions"]
    assert {"mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output"} <= properties.keys()
    assert {"mlm:artifact_type", "mlm:compile_method", "mlm:entrypoint"}.isdisjoint(properties)
    (given,) = properties["mlm:input"]
    assert given["bands"] == [each["name"] for each in properties["bands"]] == ["band-4", "band-1", "band-2"]
    assert given["input"] == {
        "shape": [-1, 3, SIDE, SIDE],
        "dim_order": ["batch", "bands", "height", "width"],
        "data_type": "float32",
    }
    assert given["value_scaling"][1] == {"type": "z-score", "mean": 2900, "stddev": 60}
    assert [each["name"] for each in properties["mlm:output"]] == ["logits", "deltas"]
    assert properties["mlm:output"][0]["classification:classes"][1] == {
        "value": 1,
        "name": "car",
        "description": "car",
        "color_hint": "56B4E9",
    }
    assert properties["gsd"] == 0.3
    asset = item["assets"]["model"]
    assert asset["bands"] == properties["bands"]
    assert asset["roles"] == ["mlm:model"]
    assert asset["mlm:artifact_type"] == "torch.export.save"
    assert asset["href"] == "./model.pt2"
    assert asset["file:size"] == (folder / "model.pt2").stat().st_size
    assert asset["file:checksum"].startswith("1220")
    assert len(asset["file:checksum"]) == 4 + 64


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pystac")
def test_pystac_finds_the_stac_item_valid_and_reads_the_model(folder: Path) -> None:
    pystac = pytest.importorskip("pystac", reason="pystac is not installed")
    from pystac.extensions.mlm import MLMExtension
    from pystac.validation import validate_dict

    item = json.loads((folder / "model.json").read_text())
    core = "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"
    assert validate_dict(item, extensions=[]) == [core]  # the schemas of extensions lie on the network
    model = MLMExtension.ext(pystac.Item.from_dict(item))
    assert (model.mlm_name, model.tasks) == ("model", ["object-detection"])
    assert model.input[0].bands == ["band-4", "band-1", "band-2"]
    assert [each.name for each in model.output] == ["logits", "deltas"]
    del item["assets"]["model"]["bands"]
    with pytest.raises(pystac.errors.STACValidationError, match="does not allow"):
        validate_dict(item, extensions=[])


@pytest.mark.parametrize("stem", ["x", "7", "Häuser 2", "a b_", "船"])
def test_any_file_gives_a_name_that_the_extension_allows(detector: Detector, stem: str) -> None:
    import re

    from geodetect.export.stac import _describe

    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", _describe(detector, stem)["mlm:name"])


@pytest.mark.slow
def test_an_item_names_its_program_as_an_address(
    detector: Detector, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export(detector, tmp_path / "Häuser 2.json")
    assert json.loads(path.read_text(encoding="utf-8"))["assets"]["model"]["href"] == "./H%C3%A4user%202.pt2"
    main(["info", str(path)], standalone_mode=False)
    assert "./Häuser 2.pt2 (as described)" in capsys.readouterr().out


@needs_onnx
def test_names_of_classes_survive_both_spellings(suburb_onnx: Path) -> None:
    import onnx

    told = {entry.key: entry.value for entry in onnx.load(suburb_onnx).metadata_props}
    assert list(json.loads(told["class_names"]).values()) == ODD_CLASSES
    assert list(ast.literal_eval(told["names"]).values()) == ODD_CLASSES
    assert (told["stride"], told["channels"]) == ("32", "3")
    assert "resolution" not in told


@needs_onnx
def test_onnx_metadata_of_a_single_band_and_an_odd_chip_size() -> None:
    from geodetect.export.onnx import _describe

    one_band = {"bands": (1,), "normalization": Normalization((0.0,), (1.0,)), "chip_size": 101, "overlap": 16}
    told = _describe(make_detector(_network(n_bands=1, width=32, depth=1), CLASSES, **one_band), [], "YOLO_v9")
    assert (told["stride"], told["channels"]) == ("1", "1")
    assert "resolution" not in told


def test_a_program_that_gives_no_numbers_is_not_kept(tmp_path: Path) -> None:
    slim = Architecture("resnet18", anchors=SPEC, width=32, depth=1)
    network = trained(Network(slim, n_classes=1, n_bands=1, weights=None))
    torch.nn.init.constant_(next(network.class_head.parameters()), float("nan"))
    sick = make_detector(
        network, ["pool"], bands=(1,), normalization=Normalization((0.0,), (1.0,)), chip_size=64, overlap=16
    )
    for name in ["model.dlpk", "model.json"]:
        with pytest.raises(OutputError, match="differs from the network by nan"):
            export(sick, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.pt", r"a detector is exported as \.onnx, \.dlpk, \.pt2, \.json; got 'model\.pt'"),
        ("model", r"a detector is exported as .*; got 'model'"),
        ("nowhere/model.pt2", r"there is no folder .*nowhere to write model\.pt2 in; make it first"),
        ("folder.pt2", r"folder\.pt2 is a folder; give the name of a file"),
    ],
)
def test_impossible_names(detector: Detector, tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(OutputError, match=told):
        export(detector, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.pt2"]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.onnx", "may be 'YOLO_v9' or 'YOLO_Ultralytics' or .*; got layout='coco'"),
        ("a.pt2", "a .pt2 file may be none; got"),
    ],
)
def test_impossible_layouts(detector: Detector, tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        export(detector, tmp_path / name, layout="coco")


@pytest.mark.parametrize("suffix", [".pt2", ".dlpk", *([".onnx"] if WITH_ONNX else [])])
def test_info_tells_of_exported_models(folder: Path, capsys: pytest.CaptureFixture[str], suffix: str) -> None:
    main(["info", str(folder / f"model{suffix}")], standalone_mode=False)
    told = capsys.readouterr().out
    for part in ("pool, car", "4, 1, 2", "0.3 m", "100 px, overlap 24 px", "resnet18", "pool 0.200, car 0.100"):
        assert part in told
    assert Architecture("resnet18", width=96, depth=2).heads in told


def test_info_holds_a_stac_item_against_its_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["info", str(folder / "model.json")], standalone_mode=False)
    assert "./model.pt2 (as described)" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".pt2", ".dlpk", *([".onnx"] if WITH_ONNX else [])])
@pytest.mark.parametrize("content", [b"", b"not a model at all", None])
def test_files_that_are_no_exported_models(folder: Path, tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / f"broken{suffix}"
    whole = (folder / f"model{suffix}").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    with pytest.raises(ModelError, match=r"broken\.\w+ is no"):
        read_facts(path)
    with pytest.raises(ModelError, match=r"there is no"):
        read_facts(tmp_path / f"absent{suffix}")


@pytest.mark.parametrize(
    "name", ["../evil.emd", "/etc/evil.emd", "C:\\evil.emd", "a/../../evil.emd", "\\\\host\\evil.emd"]
)
def test_packages_with_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "evil.dlpk"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), "{}")
    with pytest.raises(ModelError, match=r"evil\.emd.* leads out of the archive; do not use"):
        read_facts(path)


def test_packages_of_others_are_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.dlpk"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.emd", '{"ModelType": "ObjectDetection"}')
    with pytest.raises(ModelError, match="but not one that geodetect wrote"):
        read_facts(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("second.emd", "{}")
    with pytest.raises(ModelError, match=r"holds 2 files \*\.emd, where 1 is expected"):
        read_facts(path)


@needs_onnx
def test_onnx_files_of_others_are_not_taken_for_ours(folder: Path, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(GeodetectError, match="is an ONNX file, but not one that geodetect exported"):
        OnnxDetector(tmp_path / "other.onnx")


def test_damaged_bytes_inside_a_package_are_told(tmp_path: Path) -> None:
    path = tmp_path / "cars.dlpk"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cars.emd", json.dumps({"Geodetect": list(range(5000))}))
    content = bytearray(path.read_bytes())
    content[60:80] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ModelError, match="copy or export it again"):
        read_facts(path)

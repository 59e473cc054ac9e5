"""Published detectors: what a name means, DeepForest's RetinaNets, and `.onnx` files of other programs."""

from __future__ import annotations

import copy
import functools
import gc
import hashlib
import http.server
import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torchvision.models.detection import retinanet_resnet50_fpn

import geodetect as gd
from geodetect.boxes import iou
from geodetect.cli.main import main
from geodetect.detector import Detector
from geodetect.errors import ArgumentError, GeodetectError, ModelError
from geodetect.export import export
from geodetect.metadata import Architecture, Metadata
from geodetect.network.retinanet import Network
from geodetect.normalization import IMAGENET, Normalization
from tests.fakes import PaintedScene, trained

CELL, SIDE = 16, 64  # px: sides of painted squares and of the images of the tests' own networks
COLOURS = ("red", "blue")
IN_ROWS = ("YOLO_v5_or_v7_default", "YOLO_v6")
IN_COLUMNS = ("YOLO_v8", "YOLO_v9", "YOLO_Ultralytics")
AS_WRITTEN = ("names", "args")  # texts of the metadata that are no JSON


# A RetinaNet of torchvision, as DeepForest saves it


@pytest.fixture(scope="module")
def torchvisions() -> Any:
    """A RetinaNet of torchvision with random weights that finds something."""
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=2, score_thresh=0.3, nms_thresh=0.4)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.08)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.bias, mean=-4.6, std=0.1)
    torch.nn.init.normal_(model.head.regression_head.bbox_reg.weight, std=0.02)
    return model.eval()


@pytest.fixture(scope="module")
def folder(torchvisions: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder: weights with a prefix, as older versions have them, and classes out of order."""
    folder = tmp_path_factory.mktemp("crowns")
    save_file(
        {f"model.{name}": value for name, value in torchvisions.state_dict().items()}, folder / "model.safetensors"
    )
    config = {"num_classes": 2, "nms_thresh": 0.4, "score_thresh": 0.3, "label_dict": {"Dead": 1, "Alive": 0}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((400, 400), marks=pytest.mark.slow),
        pytest.param((250, 400), marks=pytest.mark.slow),
        (400, 40),
    ],
)
def test_a_retinanet_finds_what_torchvision_finds(folder: Path, torchvisions: Any, shape: tuple[int, int]) -> None:
    detector = gd.load_detector(folder, device="cpu", precision="float32")
    pixels = np.random.default_rng(1).integers(0, 256, (3, *shape), np.uint8)
    with torch.inference_mode():
        (wanted,) = torchvisions([torch.from_numpy(pixels).float() / 255])
    (found,) = detector.detect(pixels[None], min_score=0.3, nms_iou=0.4)
    wanted = {name: values[:50] for name, values in wanted.items()}  # of random weights, whose later ones are ties
    assert len(wanted["scores"]) > 5
    same = iou(wanted["boxes"].numpy(), found.xyxy)
    best = same.argmax(axis=1)
    assert same.max(axis=1).min() > 0.99
    np.testing.assert_allclose(found.scores[best], wanted["scores"].numpy(), atol=1e-3)
    assert (found.labels[best] == wanted["labels"].numpy()).all()


def test_a_retinanet_is_described_by_its_configuration(folder: Path) -> None:
    detector = gd.load_detector(folder, pixel_size_m=0.1, device="cpu")
    assert detector.classes == ["Alive", "Dead"]
    assert (detector.chip_size, detector.overlap, detector.bands) == (400, 100, (1, 2, 3))
    assert (detector.min_score, detector.pixel_size_m) == (0.3, 0.1)
    assert detector.summary["nms_iou"] == 0.4
    assert gd.load_detector(folder, device="cpu").pixel_size_m is None


def test_a_retinanet_saved_by_us_stays_the_same(folder: Path, tmp_path: Path) -> None:
    detector = gd.load_detector(folder, device="cpu", precision="float32")
    again = gd.load_detector(detector.save(tmp_path / "crowns.safetensors"), device="cpu", precision="float32")
    pixels = np.random.default_rng(2).integers(0, 256, (1, 3, 200, 20), np.uint8)  # enlarged to 1333 x 133
    for ours, theirs in zip(detector.detect(pixels), again.detect(pixels), strict=True):
        assert len(ours)
        np.testing.assert_array_equal(ours.xyxy, theirs.xyxy)
    assert again.metadata == detector.metadata


def test_what_enlarges_its_images_is_not_exported(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="enlarges its images to 800 px"):
        export(gd.load_detector(folder, device="cpu"), tmp_path / "crowns.onnx")
    assert not list(tmp_path.iterdir())


def test_a_whole_raster_is_mapped_by_a_folder(folder: Path, scenes: dict[str, PaintedScene]) -> None:
    with pytest.warns(UserWarning, match="uint16 from 0 to 60000, .* trained on uint8 from 0 to 255"):
        found = gd.detect_objects(scenes["upright"].path, folder, min_score=0.3, device="cpu", progress=False)
    assert set(found["label"]) <= {"Alive", "Dead"}
    assert len(found) > 0


def test_a_state_dict_serves_where_there_is_no_safetensors_file(
    folder: Path, torchvisions: Any, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(torchvisions.state_dict(), tmp_path / "weights.pt")
    one, other = (gd.load_detector(each, device="cpu").network.state_dict() for each in (folder, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)


# The hub, and other addresses


def publish(hub: Path, repository: str, folder: Path) -> str:
    """Put a folder into a cache as the hub's library keeps it, and return the commit."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = hub / f"models--{repository.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    (kept / "snapshots").mkdir()
    (kept / "snapshots" / commit).symlink_to(folder)
    return commit


def offline(hub: Path, script: str) -> list[str]:
    """Run a script whose hub is a cache without a network, and return the lines that it writes."""
    environment = os.environ | {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", f"import geodetect as gd\n{script}"]
    ended = subprocess.run(command, cwd=hub.parent, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a detector of ours."""
    network = Network(Architecture("resnet18", width=32, depth=1), n_classes=2, n_bands=3, weights=None)
    metadata = Metadata(classes=["car", "pool"], bands=(1, 2, 3), chip_size=64, overlap=16, normalization=IMAGENET)
    path = tmp_path_factory.mktemp("ours") / "model.safetensors"
    return Detector(trained(network).eval(), metadata).save(path).parent


@pytest.mark.slow
def test_the_hub_is_asked_by_its_own_library(ours: Path, folder: Path, torchvisions: Any, tmp_path: Path) -> None:
    """Offline, with a cache as the library keeps it, of a detector of ours and of the state dict of another."""
    hub = tmp_path / "hub"
    commit = publish(hub, "owner/crowns", ours)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").symlink_to(folder / "config.json")
    torch.save(torchvisions.state_dict(), tmp_path / "old" / "weights.pt")
    publish(hub, "owner/old", tmp_path / "old")
    *classes, old, learner, other, refusal = offline(  # one program, since importing takes seconds
        hub,
        "page = 'https://huggingface.co/owner/crowns'\n"
        f"for name in ('owner/crowns', 'owner/crowns/', 'hf://owner/crowns', page, 'owner/crowns@{commit}'):\n"
        "    print(gd.load_detector(name, device='cpu').classes)\n"
        "print(gd.load_detector(page + '/tree/main', device='cpu').classes)\n"
        "print(gd.load_detector('owner/old', device='cpu').classes)\n"
        "print(*gd.RetinaNet.from_model('owner/crowns').detector.classes)\n"
        "for name in ('owner/other', 'yolov9_trees.onnx'):\n"
        "    try:\n"
        "        gd.load_detector(name)\n"
        "    except gd.errors.ModelError as error:\n"
        "        print(error)\n",
    )
    assert classes == ["['car', 'pool']"] * 6
    assert old == "['Alive', 'Dead']"
    assert learner == "car pool"
    assert "local file or folder owner/other" in other
    assert "unset HF_HUB_OFFLINE" in other
    assert "local file or folder yolov9_trees.onnx" in refusal


def test_a_folder_may_hold_a_detector_of_ours(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "model.safetensors").symlink_to(ours / "model.safetensors")
    assert gd.load_detector(tmp_path / "ours", device="cpu").classes == ["car", "pool"]
    (tmp_path / "ours" / "config.json").write_text('{"library": "geodetect"}')  # a page of the hub wants one
    assert gd.load_detector(tmp_path / "ours", device="cpu").classes == ["car", "pool"]
    with pytest.raises(ArgumentError, match="holds its own classes"):
        gd.load_detector(tmp_path / "ours", classes=["car"])


class Hub(http.server.SimpleHTTPRequestHandler):
    """A hub of folders OWNER/NAME/FILE, which answers as the real one does, as far as its library asks."""

    protocol_version = "HTTP/1.1"
    sent: ClassVar[list[tuple[str, int]]] = []  # files, and how many of their bytes

    def do_GET(self) -> None:
        owner, name, *rest = self.path.removeprefix("/api/models").partition("?")[0].strip("/").split("/")
        folder = Path(self.directory) / owner / name
        refusal = {"gated": (403, "GatedRepo")}.get(owner) or (None if folder.is_dir() else (404, "RepoNotFound"))
        if refusal is None and "v9" in rest:
            refusal = 404, "RevisionNotFound"
        if refusal is None and self.path.startswith("/api/"):
            tree = [{"type": "file", "path": each.name, "size": 0, "oid": "0"} for each in sorted(folder.iterdir())]
            return self.answer(200, json.dumps(tree).encode())
        file = folder / rest[-1] if rest else folder
        if refusal is None and not file.is_file():
            refusal = 404, "EntryNotFound"
        if refusal is not None:
            return self.answer(refusal[0], b"", {"X-Error-Code": refusal[1], "X-Error-Message": refusal[1]})
        content = file.read_bytes()
        if self.command == "GET":
            first, _, last = self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")
            content = content[int(first) : int(last) + 1 if last else None]
            self.sent.append((f"{owner}/{name}/{file.name}", len(content)))
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, {"ETag": etag, "X-Repo-Commit": 40 * "a"})

    do_HEAD = do_GET

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.mark.slow
def test_a_hub_that_answers_is_asked_over_the_network(folder: Path, ours: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("owner/crowns", "owner/pictures", "owner/only-config", "owner/ours", "owner/vit", "owner/bare"):
        (site / name).mkdir(parents=True)
    for path in folder.iterdir():
        (site / "owner" / "crowns" / path.name).symlink_to(path)
    (site / "owner" / "pictures" / "model.bin").touch()
    (site / "owner" / "only-config" / "config.json").write_text("{}")
    for name in ("vit", "bare"):
        (site / "owner" / name / "model.safetensors").symlink_to(folder / "model.safetensors")
    (site / "owner" / "vit" / "config.json").write_text('{"architectures": ["ViTForImageClassification"]}')
    (site / "owner" / "ours" / "model.safetensors").symlink_to(ours / "model.safetensors")
    (site / "owner" / "ours" / "config.json").write_text('{"library": "geodetect"}')
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import geodetect as gd\n"
        "for name in ('owner/crowns', 'owner/none', 'owner/crowns@v9', 'gated/crowns', 'owner/pictures',\n"
        "             'owner/only-config', 'owner/ours', 'owner/vit', 'owner/bare'):\n"
        "    try:\n"
        "        print(gd.load_detector(name, device='cpu').classes)\n"
        "    except gd.errors.ModelError as error:\n"
        "        print(error)\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    server.shutdown()
    server.server_close()
    assert ended.returncode == 0, ended.stderr
    found, none, revision, gated, pictures, half, own, vit, bare = ended.stdout.splitlines()
    assert found == "['Alive', 'Dead']"
    assert "no such repository" in none
    assert "no revision v9" in revision
    assert "gated" in gated
    assert "model.bin" in pictures
    assert "config.json" in half
    assert own == "['car', 'pool']"
    assert "ViTForImageClassification" in vit
    assert "owner/bare holds no config.json" in bare
    for name in ("vit", "bare"):  # of another program: refused after the first 100 kB, its header
        assert sum(n for file, n in Hub.sent if file == f"owner/{name}/model.safetensors") <= 100_001
    assert sorted(path.name for path in (tmp_path / "hub").rglob("*.incomplete")) == []


@pytest.mark.slow
def test_weights_of_timm_come_from_the_hub_or_its_cache_and_else_are_missed_at_once(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm", reason="the extra timm is not installed")
    published = tmp_path / "site" / "timm" / "resnet10t.c3_in1k"
    published.mkdir(parents=True)
    save_file(timm.create_model("resnet10t").state_dict(), published / "model.safetensors")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Hub, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = (
        "import sys, warnings\n"
        "from geodetect.network.backbones import build\n"
        "with warnings.catch_warnings(record=True) as caught:\n"
        "    print(build('timm:resnet10t').pretrained, *(each.message for each in caught))\n"
    )
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    environment["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_address[1]}"

    def run(**changes: str) -> str:
        command = [sys.executable, "-c", script]
        ended = subprocess.run(command, env=environment | changes, capture_output=True, text=True, check=True)
        assert "Retrying" not in ended.stderr  # which takes a minute
        return ended.stdout.strip()

    assert run() == "True"
    server.shutdown()
    server.server_close()
    assert run() == "True"
    told = run(HF_HUB_CACHE=str(tmp_path / "other"))
    assert told.startswith("False the ImageNet weights of timm:resnet10t could not be downloaded (127.0.0.1: ")
    assert "refused" in told


class Careless(http.server.SimpleHTTPRequestHandler):
    """A server for the files of a folder; of one called `half` it sends the first half."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "half" in self.path else content)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server for the files of the test's folder; the cache of downloads is in it too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = functools.partial(Careless, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # s until it sees that it is to end
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def kept(tmp_path: Path) -> list[str]:
    """Names of the files in the cache of downloads."""
    return sorted(path.name for path in (tmp_path / "cache" / "geodetect").iterdir())


def test_an_onnx_file_is_fetched_once(address: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "squares.onnx", "YOLO_v9")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert gd.load_detector(f"{address}/squares.onnx?token=secret").classes == list(COLOURS)
    path.unlink()
    assert gd.load_detector(f"{address.upper()}/squares.onnx?token=secret").classes == list(COLOURS)
    assert gd.load_detector(f"{address}/squares.onnx?token=secret").classes == list(COLOURS)
    assert gd.load_detector(f"{address}/squares.onnx?token=secret#sha256={digest.upper()}").classes == list(COLOURS)
    assert "secret" not in "".join(capfd.readouterr())
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("other.onnx?token=secret", r"other\.onnx.* could not be downloaded"),
        ("half.onnx", r"half\.onnx could not be downloaded"),
        ("page.onnx", "not an ONNX file .*<!DOCTYPE html>.*not of a page"),
        ("empty.onnx", "not an ONNX file"),
        ("squares.onnx#sha256=" + 64 * "0", f"does not have the checksum {64 * '0'}"),
        ("squares.onnx#sha256=00", "64 hexadecimal digits; got '00'"),
        ("squares.onnx#md5=secret", "sha256= and 64 hexadecimal digits; got 'md5'"),
    ],
)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pooch leaves the socket of half a file
def test_what_cannot_be_used_is_not_kept(name: str, told: str, address: str, tmp_path: Path) -> None:
    save(tmp_path / "squares.onnx", "YOLO_v9")
    (tmp_path / "half.onnx").write_bytes((tmp_path / "squares.onnx").read_bytes())
    (tmp_path / "page.onnx").write_text("<!DOCTYPE html><title>Log in</title>")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "cache" / "geodetect").mkdir(parents=True)
    for _ in range(2):
        with pytest.raises((ModelError, ArgumentError), match=told) as caught:
            gd.load_detector(f"{address}/{name}")
        assert "secret" not in str(caught.value)
        assert kept(tmp_path) == []
    del caught
    if name == "half.onnx":
        gc.collect()  # the socket, here


def test_what_a_killed_download_left_is_removed_a_day_later(address: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "geodetect"
    cache.mkdir(parents=True)
    for name, age_s in (("tmpold", 90_000), ("tmpyoung", 3_600)):
        (cache / name).touch()
        os.utime(cache / name, times=2 * (time.time() - age_s,))
    save(tmp_path / "squares.onnx", "YOLO_v9")
    assert gd.load_detector(f"{address}/squares.onnx").classes == list(COLOURS)
    left, young = kept(tmp_path)
    assert left.endswith("-squares.onnx")
    assert young == "tmpyoung"


def test_a_cache_that_cannot_be_written_is_named(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "squares.onnx", "YOLO_v9")
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(
        ModelError, match=r"squares\.onnx cannot be kept in the cache .*file/geodetect .* XDG_CACHE_HOME"
    ):
        gd.load_detector(f"{address}/squares.onnx")


@pytest.mark.parametrize("name", ["owner/crowns", "https://localhost:1/squares.onnx"])
def test_a_proxy_that_is_no_address_is_refused_without_its_password(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://user:pass#word@proxy.example:8080")
    with pytest.raises(ArgumentError, match=r"HTTPS_PROXY must be .*HOST:PORT.* %23") as caught:
        gd.load_detector(name)
    assert "pass#" not in str(caught.value)


# `.onnx` files of other programs


def save(path: Path, layout: str | None, *, batch: int | str = 1, n_bands: int = 3, **metadata: Any) -> Path:
    """A network that finds squares of 16 px: red ones in the first band, blue ones in the third; on a grid of 16 px."""
    n_cells = (SIDE // CELL) ** 2
    y, x = np.divmod(np.arange(n_cells), SIDE // CELL)
    centres = (np.stack([x, y], axis=1) + 0.5) * CELL
    boxes = np.concatenate([centres, np.full((n_cells, 2), CELL)], axis=1).astype(np.float32)
    if layout == "retinanet":
        boxes = np.concatenate([boxes[:, :2] - CELL / 2, boxes[:, :2] + CELL / 2], axis=1)
    picked = np.zeros((2, n_bands, 1, 1), np.float32)
    picked[0, 0], picked[1, n_bands - 1] = 1, 1
    constants = {"boxes": boxes[None], "picked": picked, "flat": np.array([0, 2, -1]), "one": np.array([1])}
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["means"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["means", "picked"], ["grids"]),
        helper.make_node("Reshape", ["grids", "flat"], ["by_class"]),  # (B, 2, N)
        helper.make_node("Transpose", ["by_class"], ["scores"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["scores"], ["any"], axes=[2], keepdims=1),
        helper.make_node("Mul", ["any", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),  # for every image of the batch
    ]
    constants["zero"] = np.zeros(1, np.float32)
    outputs = {"output": [batch, n_cells, 7]}
    if layout in IN_ROWS:
        nodes.append(helper.make_node("Concat", ["placed", "any", "scores"], ["output"], axis=2))
    elif layout == "retinanet":
        nodes += [
            helper.make_node("Squeeze", ["placed"], ["output"]),
            helper.make_node("Squeeze", ["any"], ["output_scores"]),
            helper.make_node("Squeeze", ["nothing"], ["output_labels"]),
        ]
        outputs = {"output": [n_cells, 4], "output_scores": [n_cells], "output_labels": [n_cells]}
    elif layout in ("YOLO_end2end", "YOLO_end2end_obb"):
        is_oriented = layout == "YOLO_end2end_obb"
        nodes += [
            helper.make_node("ArgMax", ["scores"], ["best"], axis=2, keepdims=1),
            helper.make_node("Cast", ["best"], ["label"], to=TensorProto.FLOAT),
            helper.make_node("Add", ["nothing", "tilt"], ["angle"]),
            helper.make_node("Concat", ["placed", "any", "label", *["angle"][:is_oriented]], ["output"], axis=2),
        ]
        constants["tilt"] = np.array([0.5], np.float32)
        if not is_oriented:
            constants["boxes"] = np.concatenate([boxes[:, :2] - CELL / 2, boxes[:, :2] + CELL / 2], axis=1)[None]
        outputs = {"output": [batch, n_cells, 6 + is_oriented]}
    else:
        nodes += [
            helper.make_node("Concat", ["placed", "scores"], ["rows"], axis=2),
            helper.make_node("Transpose", ["rows"], ["output"], perm=[0, 2, 1]),
        ]
        outputs = {"output": [batch, 6, n_cells]}
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, n_bands, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    known = {"class_names": {str(label): name for label, name in enumerate(COLOURS)}, "det_conf": 0.4}
    if layout == "retinanet":
        known["class_names"] = {"0": "red"}
    told = known | ({} if layout is None else {"det_type": layout}) | metadata
    for key, value in told.items():
        if value is not None:
            entry = model.metadata_props.add()
            entry.key, entry.value = key, value if isinstance(value, str) and key in AS_WRITTEN else json.dumps(value)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def painted(n_bands: int = 3, squares: Sequence[tuple[int, int, int]] = ((0, 16, 0), (48, 32, 1))) -> np.ndarray:
    """An image (n, 64, 64) with squares at x, y of a colour: 0 in the first band, 1 in the last."""
    image = np.zeros((n_bands, SIDE, SIDE), np.uint8)
    for x, y, colour in squares:
        image[colour * (n_bands - 1), y : y + CELL, x : x + CELL] = 255
    return image


@pytest.mark.parametrize("batch", [1, "n", 2])
@pytest.mark.parametrize("layout", [*IN_ROWS, *IN_COLUMNS, "retinanet", "YOLO_end2end"])
def test_every_layout_finds_the_painted_squares(layout: str, batch: int | str, tmp_path: Path) -> None:
    if layout == "retinanet" and batch != 1:
        pytest.skip("has one image at a time")
    detector = gd.load_detector(save(tmp_path / "squares.onnx", layout, batch=batch))
    images = np.stack([painted(), painted(squares=()), painted(squares=[(32, 0, 0)])])
    first, none, last = detector.detect(images, min_score=0.4)
    one_class = layout == "retinanet"
    wanted = {(0.0, 16.0, 16.0, 32.0): 0, (48.0, 32.0, 64.0, 48.0): 0 if one_class else 1}
    assert {tuple(box): label for box, label in zip(first.xyxy.tolist(), first.labels.tolist(), strict=True)} == wanted
    assert first.scores.tolist() == [1, 1]
    assert len(none) == 0
    assert last.xyxy.tolist() == [[32, 0, 48, 16]]
    assert detector.min_score == 0.4
    assert detector.classes == (["red"] if one_class else list(COLOURS))


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("layout", ["YOLO_v5_or_v7_default", "YOLO_v8", "YOLO_v9", "retinanet"])
def test_geodeep_finds_the_same(layout: str, tmp_path: Path) -> None:
    inference, detection = pytest.importorskip("geodeep.inference"), pytest.importorskip("geodeep.detection")
    path = save(tmp_path / "squares.onnx", layout)
    session, config = inference.create_session(str(path))
    theirs, scores, classes = detection.extract_bsc(detection.execute_detection(painted(), session, config), config)
    (ours,) = gd.load_detector(path).detect(painted()[None], min_score=config["det_conf"])
    found = sorted(zip(theirs, scores, (label for label, _ in classes), strict=True))
    assert sorted(zip(ours.xyxy.tolist(), ours.scores.tolist(), ours.labels.tolist(), strict=True)) == found
    assert len(found) == 2


@pytest.mark.filterwarnings("ignore:.*is made for 8-bit pixels")
def test_a_raster_is_mapped_by_a_file_of_another_program(tmp_path: Path, scenes: dict[str, PaintedScene]) -> None:
    path = save(tmp_path / "squares.onnx", "YOLO_v9", resolution=50, tiles_overlap=25)
    found = gd.detect_objects(scenes["upright"].path, path, progress=False)
    assert set(found["label"]) <= set(COLOURS)
    assert gd.load_detector(path).overlap == 16
    assert gd.load_detector(path).pixel_size_m == 0.5


def test_pixels_are_standardised_as_the_file_says(tmp_path: Path) -> None:
    path = save(tmp_path / "n.onnx", "YOLO_v9", standardization_mean=[0.5, 0, 0], standardization_std=[0.25, 1, 1])
    (found,) = gd.load_detector(path).detect(painted(squares=[(0, 0, 0)])[None], min_score=0.5)
    assert found.scores.tolist() == [2]  # (1 - 0.5) / 0.25


def test_pixels_of_16_bits_and_small_images_are_taken(tmp_path: Path) -> None:
    detector = gd.load_detector(save(tmp_path / "squares.onnx", "YOLO_v9", n_bands=5))
    image = painted(5).astype(np.uint16) * 257  # to the largest number of 16 bits
    with pytest.warns(UserWarning, match=r"8-bit .* uint16, and 65,535 counts as white.*gdal_translate"):
        (found,) = detector.detect(
            image[None, :, :40, :], min_score=0.4
        )  # half of the lower square, and half its score
    assert sorted(zip(found.xyxy.tolist(), found.scores.tolist(), strict=True)) == [
        ([0, 16, 16, 32], 1),
        ([48, 32, 64, 40], 0.5),
    ]
    assert detector.bands == (1, 2, 3, 4, 5)
    with pytest.warns(UserWarning, match="float32, and 255 counts as white"):
        (found,) = detector.detect(np.where(image > 0, np.float32(255), np.nan)[None], min_score=0.4)
    assert len(found) == 2


def test_a_users_own_yolo_says_its_classes_as_ultralytics_does(tmp_path: Path) -> None:
    told = {"class_names": None, "det_conf": None, "names": "{0: 'red', 1: 'blue'}", "stride": 32, "task": "detect"}
    detector = gd.load_detector(save(tmp_path / "yolo.onnx", None, **told))
    assert detector.classes == ["red", "blue"]
    (found,) = detector.detect(painted()[None])
    assert len(found) == 2


ULTRALYTICS = {"det_type": None, "class_names": None, "names": "{0: 'a'}", "stride": 32, "task": "obb"}


@pytest.mark.parametrize(
    ("metadata", "keywords", "told"),
    [
        ({"class_names": None}, {}, r"load_detector\(.*classes="),
        ({"class_names": {"0": "red"}}, {}, "2 classes"),
        ({}, {"classes": ["a", "b"]}, "leave classes out"),
        ({"class_names": None}, {"classes": ["a"]}, "2 classes"),
        ({"det_type": None}, {}, r"load_detector\(.*layout="),
        ({"det_type": "YOLO_v99"}, {}, "YOLO_v99"),
        ({}, {"layout": "YOLO_v6"}, "YOLO_v9"),
        ({"model_type": "Segmentor"}, {}, "segmentor"),
        ({"task": "segment"}, {}, "segment"),
        ({"class_names": None}, {"classes": "ab"}, "list of names; got 'ab'"),
        ({"class_names": {"a": "red", "b": "blue"}}, {}, "numbers from 0"),
        ({"class_names": "car"}, {}, "2 classes; got 1 names: car"),
        ({"class_names": ["car", "car"]}, {}, r"squares\.onnx .* own name"),
        ({"resolution": "10 cm"}, {}, "resolution='10 cm'"),
        ({"tiles_overlap": 100}, {}, "tiles_overlap=100 .* 0 to 90"),
        ({"det_conf": 40}, {}, "det_conf=40 .* 0 to 1"),
        ({"det_iou_thresh": 45}, {}, "det_iou_thresh=45 .* 0 to 1"),
        ({"standardization_mean": [0.5, 0.5]}, {}, "standardization_mean.* 3 numbers"),
        ({"standardization_std": [0, 1, 1]}, {}, "standardization_std.*above 0"),
        ({}, {"pixel_size_m": 0}, "pixel_size_m must be metres above 0"),
        ({"det_type": "YOLO_Ultralytics_obb"}, {}, "1 class"),
        (ULTRALYTICS | {"args": "{'nms': True}"}, {}, r"YOLO_end2end_obb: .* n = 7 .* got \[1, 6, 16\]"),
        (ULTRALYTICS | {"task": "detect", "head": "RTDETRDecoder"}, {}, "'rt-detr'"),
        ({}, {"precision": "bf16"}, "float32"),
        ({"class_names": 7}, {}, "got 1 names: 7; .* classes="),
        ({"class_names": {"0": "red", "1000000000": "blue"}}, {}, "numbers from 0.* classes="),
        ({"class_names": {"1": "red", "2": "blue"}}, {}, "numbers from 0.* classes="),
        ({"class_names": [{"id": 0, "name": "red"}, {"id": 1, "name": "blue"}]}, {}, "numbers from 0.* classes="),
        ({"class_names": [None, "blue"]}, {}, "numbers from 0.* classes="),
        ({"class_names": {"0": None, "1": "blue"}}, {}, "numbers from 0.* classes="),
        ({"class_names": None}, {"classes": {0: "a", 1: "b"}}, "list of names"),
        ({"class_names": None}, {"classes": {"a", "b"}}, "list of names"),
        ({"class_names": None}, {"classes": [1, 2]}, "list of names"),
        ({"det_type": None}, {"layout": "YOLO_end2end"}, r"YOLO_end2end: .* got \[1, 6, 16\]"),
        ({"det_type": None, "class_names": ["red"]}, {"layout": "retinanet"}, "three outputs"),
        ({"resolution": True}, {}, "resolution=True .* pixel_size_m="),
        ({"resolution": "10 cm"}, {}, r"load_detector\(.*pixel_size_m="),
        ({"standardization_mean": [float("nan"), 0, 0]}, {}, "standardization_mean.* 3 numbers"),
        ({"standardization_mean": [123.675, 116.28, 103.53]}, {}, "divided by 255 first"),
    ],
)
def test_what_an_onnx_file_lacks_is_named(
    metadata: dict[str, Any], keywords: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "squares.onnx", "YOLO_v9", **metadata)
    with pytest.raises(GeodetectError, match=told):
        gd.load_detector(path, **keywords)


def test_what_a_file_does_not_say_is_a_keyword(tmp_path: Path) -> None:
    path = save(tmp_path / "squares.onnx", None, class_names=None)
    detector = gd.load_detector(path, layout="YOLO_v9", classes=["a", "b"], pixel_size_m=0.2)
    assert (detector.classes, detector.pixel_size_m) == (["a", "b"], 0.2)
    assert len(detector.detect(painted()[None])[0]) == 2


@pytest.mark.parametrize(
    ("metadata", "keywords"),
    [
        ({"class_names": [{"0": "red"}, {"1": "blue"}]}, {}),
        ({"class_names": {"-1": "background", "0": "red", "1": "blue"}}, {}),
        ({}, {"classes": ["red", "blue"]}),
        ({"class_names": {"1": "red", "2": "blue"}}, {"classes": ["red", "blue"]}),
        ({"class_names": ["car", "car"]}, {"classes": ["red", "blue"]}),
        ({"resolution": "10 cm"}, {"pixel_size_m": 0.1}),
        ({"resolution": "", "det_conf": "", "standardization_mean": ""}, {}),
        ({"resolution": float("nan"), "tiles_overlap": None}, {}),
        ({"model_type": "Object Detection"}, {}),
        ({"note": 100_000 * "["}, {}),
    ],
)
def test_metadata_that_serve_are_taken(metadata: dict[str, Any], keywords: dict[str, Any], tmp_path: Path) -> None:
    detector = gd.load_detector(save(tmp_path / "squares.onnx", "YOLO_v9", **metadata), **keywords)
    assert detector.classes == list(COLOURS)
    assert detector.pixel_size_m == keywords.get("pixel_size_m")
    assert detector.overlap == SIDE // 4  # a quarter where nobody says
    assert len(detector.detect(painted()[None])[0]) == 2


@pytest.mark.parametrize(("stated", "overlap"), [(0, 0), (0.25, 16), (0.95, 58), (25, 16), (90, 58)])
def test_the_overlap_is_a_percentage_or_else_a_share(stated: float, overlap: int, tmp_path: Path) -> None:
    assert gd.load_detector(save(tmp_path / "squares.onnx", "YOLO_v9", tiles_overlap=stated)).overlap == overlap


@pytest.mark.parametrize("stated", [64, "64", [64, 64], ["64", "32"]])
def test_the_side_of_images_of_any_size_is_stated(stated: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "squares.onnx", "YOLO_v9", imgsz=stated)
    model = onnx.load(path)
    for number, name in ((2, "height"), (3, "width")):
        model.graph.input[0].type.tensor_type.shape.dim[number].dim_param = name
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "n"
    onnx.save(model, path)
    assert gd.load_detector(path).chip_size == SIDE
    model.metadata_props[-1].value = "1000000"
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"imgsz=1000000 .* 10,000"):
        gd.load_detector(path)


@pytest.mark.parametrize("layout", ["YOLO_end2end", "YOLO_end2end_obb"])
def test_ultralytics_own_suppression_is_recognised(layout: str, tmp_path: Path) -> None:
    """With `nms=True` and in networks without duplicates; an oriented box has its angle last, after score and label."""
    is_oriented = layout == "YOLO_end2end_obb"
    told = {"det_type": None, "class_names": None, "names": "{0: 'red', 1: 'blue'}", "stride": 32}
    told["task"] = "obb" if is_oriented else "detect"
    for number, suppressed in enumerate(({"args": "{'nms': True}"}, {"end2end": True})):
        detector = gd.load_detector(save(tmp_path / f"{number}.onnx", layout, **told, **suppressed))
        assert (detector.summary["layout"], detector.oriented) == (layout, is_oriented)
        (found,) = detector.detect(painted()[None])
        assert sorted(zip(found.labels.tolist(), found.centres.tolist(), strict=True)) == [(0, [8, 24]), (1, [56, 40])]
        if is_oriented:
            np.testing.assert_allclose(found.angles, 0.5)
    with pytest.raises(ModelError, match="label 1, but has only 1"):
        gd.load_detector(save(tmp_path / "one.onnx", layout, **told | {"names": "{0: 'red'}"}, end2end=True)).detect(
            painted()[None]
        )


def constant(path: Path, candidate: Sequence[float], *, layout: str = "YOLO_v9") -> Path:
    """A network that finds the same candidates, as numbers of one, wherever it looks; nothing at all for 16 others."""
    save(path, layout)
    model = onnx.load(path)
    (output,) = model.graph.output
    shape = [each.dim_value for each in output.type.tensor_type.shape.dim]
    values = np.zeros(shape, np.float32)
    axis = 1 if layout in IN_COLUMNS else 2
    np.moveaxis(values, axis, 2)[0, 3] = candidate
    model.graph.node[-1].output[0] = "unused"
    model.graph.node.append(helper.make_node("Identity", ["values"], ["output"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "values"))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("layout", "candidate"),
    [
        ("YOLO_v9", [8, 8, 9, 9, np.nan, 0]),
        ("YOLO_v9", [8, 8, 9, 9, np.inf, 0]),
        ("YOLO_v9", [8, 8, np.inf, 9, 0.9, 0]),
        ("YOLO_v6", [np.nan, 8, 9, 9, 0.9, 0.9, 0]),
        ("YOLO_v5_or_v7_default", [8, 8, 9, 9, np.nan, 0.9, 0]),
        ("YOLO_end2end", [8, 8, 9, 9, np.nan, 0]),
    ],
)
def test_numbers_that_are_not_finite_are_an_error(layout: str, candidate: list[float], tmp_path: Path) -> None:
    detector = gd.load_detector(constant(tmp_path / "half.onnx", candidate, layout=layout))
    with pytest.raises(ModelError, match=r"half\.onnx .* not finite .* float32.* nodata="):
        detector.detect(painted()[None])


def test_boxes_as_shares_of_the_window_are_warned_of_once(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    detector = gd.load_detector(constant(tmp_path / "shares.onnx", [0.2, 0.2, 0.1, 0.1, 0.9, 0]))
    for _ in range(2):
        detector.detect(np.stack([painted(), painted()]))
    (warned,) = recwarn
    assert re.search(r"shares\.onnx .* \[0\.15, 0\.15, 0\.25, 0\.25\]; .*in pixels", str(warned.message))


def test_pixels_of_other_types_are_warned_of_once_for_each(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    detector = gd.load_detector(save(tmp_path / "squares.onnx", "YOLO_v9"))
    for dtype in ("uint8", "uint16", "float32", "uint16", "int16", "float32"):
        detector.detect(painted().astype(dtype)[None])
    about = [str(warned.message) for warned in recwarn]
    assert [re.search("these are (.*), and (.*) counts", each).groups() for each in about] == [
        ("uint16", "65,535"),
        ("float32", "255"),
        ("int16", "32,767"),
    ]


def test_a_box_that_nobody_asked_for_may_be_infinite(tmp_path: Path) -> None:
    detector = gd.load_detector(constant(tmp_path / "wild.onnx", [8, 8, np.inf, 9, 0.01, 0]))
    assert len(detector.detect(painted()[None], min_score=0.5)[0]) == 0


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8])
def test_images_are_given_in_the_type_that_the_network_takes(kind: int, tmp_path: Path) -> None:
    """Bytes are given as they are: such a network divides them itself."""
    path = save(tmp_path / "squares.onnx", "YOLO_v9")
    model = onnx.load(path)
    model.graph.node[0].input[0] = "floats"
    model.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = kind
    onnx.save(model, path)
    (found,) = gd.load_detector(path).detect(painted()[None], min_score=0.4)
    assert found.scores.tolist() == ([255, 255] if kind == TensorProto.UINT8 else [1, 1])
    assert len(found) == 2
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"floats or bytes.*int64"):
        gd.load_detector(path)


def test_weights_in_a_file_beside_the_model_belong_to_it(tmp_path: Path) -> None:
    """As PyTorch's exporter writes them: a copy of the detector holds them, and so does its checksum."""
    path = save(tmp_path / "squares.onnx", "YOLO_v9")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data", size_threshold=100)
    detector = gd.load_detector(path)
    detector.min_score = 0.7
    checksum, parcel = detector.checksum, pickle.dumps(detector)
    content = bytearray((tmp_path / "weights.data").read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.data").write_bytes(content)
    assert gd.load_detector(path).checksum != checksum
    (tmp_path / "weights.data").unlink()
    with pytest.raises(ModelError, match="file of weights beside it"):
        gd.load_detector(path)
    arrived = copy.deepcopy(pickle.loads(parcel))
    assert (arrived.min_score, arrived.classes) == (0.7, list(COLOURS))
    assert len(arrived.detect(painted()[None])[0]) == 2


def test_only_a_network_of_ours_is_exported(tmp_path: Path) -> None:
    path = save(tmp_path / "squares.onnx", "YOLO_v9")
    ended = CliRunner().invoke(main, ["export", str(path), str(tmp_path / "squares.dlpk")])
    assert ended.exit_code == 1
    assert "squares.onnx" in ended.output
    assert "RetinaNet" in ended.output
    assert not (tmp_path / "squares.dlpk").exists()


def test_a_name_that_is_no_unicode_is_refused(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.onnx"
    Path(os.fsdecode(path)).write_bytes(save(tmp_path / "squares.onnx", "YOLO_v9").read_bytes())
    with pytest.raises(ModelError, match="rename"):
        gd.load_detector(os.fsdecode(path))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("houses.safetensors", "no model file"),
        ("models/houses.safetensors", "no model file"),
        ("houses.onnx", "no model file"),
        ("houses", "OWNER/NAME"),
        ("a/b/c", "OWNER/NAME"),
        ("deepforest-tree ", "no model file deepforest-tree .did you mean weecology/deepforest-tree"),
        ("YOLOv9-trees", r"did you mean yolov9_trees\.onnx\?\); expected"),
        ("UAV4GEO/GeoDeep-Models", "several detectors"),
        ("", "OWNER/NAME"),
        (5000 * "a", "OWNER/NAME"),
        (7, "OWNER/NAME"),
        ("hf://houses", "hf://OWNER/NAME"),
        ("http://[::1/houses.onnx", "not a URL"),
        ("https://example.org/houses.pt?key=secret", r"URL of an \.onnx file alone; got https://example.org/houses.pt"),
    ],
)
def test_names_that_mean_nothing_are_refused(name: Any, told: str) -> None:
    with pytest.raises((ModelError, ArgumentError), match=told) as caught:
        gd.load_detector(name)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "test_folders_without.* holds neither a config.json"),
        ("{", "not JSON"),
        ({"architectures": ["ViTForImageClassification"]}, "ViTForImageClassification"),
        ({"architectures": None}, "lacks num_classes"),
        ({"num_classes": 2}, r"load_detector\(.*classes="),
        ({"num_classes": 1, "label_dict": {"Tree": 0}}, "2 classes"),
        ({"num_classes": 3, "label_dict": {"Tree": 0}}, "3 classes"),
        ({"num_classes": "2"}, "a whole number.* '2'"),
        ({"num_classes": -1}, "a whole number above 0.* -1"),
        ({"num_classes": 2, "label_dict": ["Alive", "Dead"]}, "a mapping of names"),
        ({"num_classes": 2, "label_dict": {"Alive": 1, "Dead": 2}}, "labels 0 to 1"),
        ({"num_classes": 2, "label_dict": {"Alive": [0], "Dead": [1]}}, "labels 0 to 1"),
        (100_000 * "[", "not JSON"),
        ({"num_classes": 2, "label_dict": {"Alive": 0, "Dead": 1}, "score_thresh": "high"}, "min_score.*'high'"),
        ({"num_classes": 2, "label_dict": {"Alive": 0, "Dead": 1}, "nms_thresh": 40}, "nms_thresh=40.* 0 to 1"),
    ],
)
def test_folders_without_a_retinanet_are_refused(config: Any, told: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises((ModelError, ArgumentError), match=told):
        gd.load_detector(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_that_an_editor_saved_is_read(encoding: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(folder / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text(encoding="utf-8"), encoding=encoding)
    assert gd.load_detector(tmp_path, device="cpu").classes == ["Alive", "Dead"]


@pytest.mark.parametrize(
    "files",
    [("a.pt", "b.pt"), ("model.safetensors.index.json", "model-00001-of-00002.safetensors"), ("deepforest.pl",)],
)
def test_a_folder_without_one_file_of_weights_is_described(
    files: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"several or sharded .* one model\.safetensors") as caught:
        gd.load_detector(tmp_path)
    assert all(name in str(caught.value) for name in files)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("plain.pt", r"plain\.pt must be \.safetensors or \.onnx; got \.pt; RetinaNet\(weights=\.\.\.\)"),
        ("base.onnx.txt", r"base\.onnx\.txt must be \.safetensors or \.onnx; got \.txt$"),
        ("base.safetensors", "a model of another kind, such as ONNX, must keep its suffix"),
    ],
)
def test_a_suffix_of_another_kind_of_file_is_named(name: str, told: str, ours: Path, tmp_path: Path) -> None:
    onnx_file = save(tmp_path / "base.onnx", "YOLO_v9")
    (tmp_path / name).write_bytes(onnx_file.read_bytes())
    with pytest.raises(ModelError, match=told):
        gd.load_detector(tmp_path / name)
    if name == "plain.pt":
        assert re.search(told, CliRunner().invoke(main, ["info", str(tmp_path / name)]).output.replace("\n", " "))
    (tmp_path / "renamed.bin").write_bytes((ours / "model.safetensors").read_bytes())
    assert gd.load_detector(tmp_path / "renamed.bin", device="cpu").classes == ["car", "pool"]


def test_a_retinanet_that_lacks_a_tensor_is_refused(folder: Path, torchvisions: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    state = torchvisions.state_dict()
    del state["head.classification_head.cls_logits.bias"]
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="no whole RetinaNet"):
        gd.load_detector(tmp_path, device="cpu")


def test_code_in_a_state_dict_is_not_run(folder: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "ran").touch, ())

    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save({"weights": Evil()}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="code in files is never run"):
        gd.load_detector(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_the_published_ones_are_listed_with_their_sources() -> None:
    table = gd.published()
    assert list(table.columns) == ["name", "finds", "pixel_size_m", "licence", "source"]
    assert table["name"].is_unique
    assert table["source"].str.startswith("https://").all()


# Training from them


@pytest.mark.filterwarnings("ignore:.*overlap no anchor", "ignore:.*class head keeps random weights")
def test_training_starts_from_a_published_detector(folder: Path, scenes: dict[str, PaintedScene]) -> None:
    data = gd.prepare_data(scenes["upright"].path, labels=scenes["upright"].truth, chip_size=64)
    data = replace(data, bands=(1, 2, 3), dtype="uint8", normalization=Normalization((127,) * 3, (60,) * 3))
    with pytest.warns(UserWarning, match="enlarged 2 times"):
        model = gd.RetinaNet(data, weights=folder, device="cpu")
    theirs, ours = gd.load_detector(folder, device="cpu").network, model.detector.network
    assert torch.equal(ours.backbone.body[0].weight, theirs.backbone.body[0].weight)
    assert torch.equal(ours.box_head.out.weight, theirs.box_head.out.weight)
    assert model.detector.metadata.min_size is None
    assert model.detector.normalization.mean == gd.load_detector(folder, device="cpu").normalization.mean


@pytest.mark.filterwarnings("ignore:.*overlap no anchor", "ignore:.*enlarged 2 times", "ignore:.*on the bands")
def test_training_starts_from_it_with_other_classes_and_a_fourth_band(
    folder: Path, scenes: dict[str, PaintedScene]
) -> None:
    data = gd.prepare_data(scenes["upright"].path, labels=scenes["upright"].truth, chip_size=64)
    data = replace(
        data, bands=(1, 2, 3, 4), normalization=Normalization((1, 2, 3, 4), (5, 6, 7, 8)), classes=["square"]
    )
    with pytest.warns(UserWarning, match=r"finds Alive, Dead, this model square; the last layer .* random"):
        model = gd.RetinaNet(data, weights=folder, device="cpu")
    theirs, ours = gd.load_detector(folder, device="cpu"), model.detector
    first = ours.network.backbone.body[0].weight
    assert torch.equal(first[:, :3], theirs.network.backbone.body[0].weight)
    torch.testing.assert_close(first[:, 3], first[:, :3].mean(dim=1))
    assert ours.normalization.mean == (*theirs.normalization.mean, 4)
    assert ours.normalization.std == (*theirs.normalization.std, 8)
    assert ours.classes == ["square"]


@pytest.mark.filterwarnings("ignore:.*overlap no anchor")
def test_an_onnx_file_cannot_be_trained(tmp_path: Path, scenes: dict[str, PaintedScene]) -> None:
    data = gd.prepare_data(scenes["upright"].path, labels=scenes["upright"].truth, chip_size=64)
    path = save(tmp_path / "squares.onnx", "YOLO_v9")
    with pytest.raises(ModelError, match="cannot be trained"):
        gd.RetinaNet(data, weights=path)
    with pytest.raises(ModelError, match="cannot be trained"):
        gd.RetinaNet.from_model(path)


# The command line


@pytest.mark.filterwarnings("ignore:.*is made for 8-bit pixels")
def test_the_command_line_describes_and_runs_them(tmp_path: Path, scenes: dict[str, PaintedScene]) -> None:
    path, scene = save(tmp_path / "squares.onnx", "YOLO_v9", resolution=50, det_iou_thresh=0.3), scenes["upright"].path
    told = CliRunner().invoke(main, ["info", str(path)])
    assert told.exit_code == 0, told.output
    assert "red, blue" in told.output
    assert "0.5 m" in told.output
    assert re.search("nms_iou +0.3, its authors.* --nms-iou", told.output)  # which detect does not take by itself
    ran = CliRunner().invoke(main, ["detect", str(scene), str(path), str(tmp_path / "found.gpkg"), "--no-progress"])
    assert ran.exit_code == 0, ran.output
    assert (tmp_path / "found.gpkg").exists()
    listed = CliRunner().invoke(main, ["info", "--published"])
    assert all(name in listed.output for name in gd.published()["name"])
    assert "FILE" in CliRunner().invoke(main, ["info"]).output
    missing = CliRunner().invoke(main, ["info", "data/town.tif"])
    assert missing.exit_code == 1
    assert "data/town.tif" in missing.output

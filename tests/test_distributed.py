"""Two processes train one network as one process would train it with twice the batch."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import geodetect as gd
from geodetect import load_detector
from geodetect.learner.distributed import _sync_norms
from geodetect.network.retinanet import Network
from tests.fakes import PaintedScene

pytestmark = pytest.mark.slow  # each start of two processes that import torch and fastai takes ten seconds

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
MODEL = {"backbone": "resnet18", "weights": None, "scales": "auto"}
CHIPS = {"chip_size": 64, "negatives": 0}
EPOCHS = 2

SCRIPT = f"""
import json, sys
from dataclasses import replace
from pathlib import Path
import torch
from safetensors.torch import save_file
import geodetect as gd
from geodetect.errors import TrainingError
from geodetect.learner import distributed

raster, labels, out = sys.argv[1:]

def train(name, freeze, transforms):
    data = gd.prepare_data(raster, labels, batch_size=2, transforms=transforms, **{CHIPS})
    data = replace(data, train=data.train[:9], valid=data.valid[:3])
    head_norm = "group" if freeze else "batch"  # on CPUs each process has batch norms of its own
    model = gd.RetinaNet(data, freeze=freeze, head_norm=head_norm, device=device, **{MODEL})
    model.learner.dtype = torch.float32
    model.fit({EPOCHS}, lr=1e-3)
    weights = {{key: value.contiguous() for key, value in model.detector.network.state_dict().items()}}
    save_file(weights, Path(out, f"{{name}}{{distributed.rank()}}.safetensors"))
    recorder = model.learner.recorder
    told = {{"losses": [float(loss) for loss in recorder.losses], "values": [list(row) for row in recorder.values]}}
    told["min_score"] = model.detector.min_score
    Path(out, f"{{name}}{{distributed.rank()}}.json").write_text(json.dumps(told), encoding="utf-8")
    return model

with distributed.join("cpu") as device:
    train("frozen", True, False)
    model = train("whole", False, True)
    try:
        model.lr_find(plot=False)
    except TrainingError as error:
        assert "one process alone" in str(error)
    else:
        raise AssertionError("lr_find went on")
"""


@pytest.mark.parametrize("backbone", ["timm:efficientnet_b0", "resnet18"])
def test_norms_over_all_processes_keep_what_timm_adds_to_them(backbone: str) -> None:
    network, images = Network(backbone, n_classes=2, weights=None), torch.randn(2, 3, 64, 64)
    before, names = network(images), list(network.state_dict())
    with _sync_norms(network):
        assert any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in network.modules())
        assert list(network.state_dict()) == names
        assert all(torch.equal(one, other) for one, other in zip(network(images), before, strict=True))
    assert not any(isinstance(layer, torch.nn.SyncBatchNorm) for layer in network.modules())


@pytest.fixture(scope="module")
def labels(scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "squares.geojson"
    scenes["upright"].truth.to_file(path)
    return path


@pytest.fixture(scope="module")
def trained(scenes: dict[str, PaintedScene], labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes that trained together left, and what they said."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [*TORCHRUN, folder / "script.py", scenes["upright"].path, labels, folder]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (folder / "said.txt").write_text(run.stdout, encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["frozen", "whole"])
def test_both_processes_end_with_the_same(trained: Path, name: str) -> None:
    first, second = (load_file(trained / f"{name}{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[key]) for key, value in first.items())
    assert (trained / f"{name}0.json").read_text("utf-8") == (trained / f"{name}1.json").read_text("utf-8")


def test_only_the_first_process_speaks(trained: Path) -> None:
    assert (trained / "said.txt").read_text("utf-8").count("train_loss") == 2  # the heads of two tables


@pytest.mark.filterwarnings("ignore:the backbone has random weights")
def test_they_train_as_one_process_with_twice_the_batch(
    trained: Path, scenes: dict[str, PaintedScene], labels: Path
) -> None:
    data = gd.prepare_data(scenes["upright"].path, labels, batch_size=4, transforms=False, **CHIPS)
    data = replace(data, train=data.train[:9], valid=data.valid[:3])
    model = gd.RetinaNet(data, freeze=True, head_norm="group", **MODEL)
    model.learner.dtype = torch.float32
    model.fit(EPOCHS, lr=1e-3, progress=False)
    told = json.loads((trained / "frozen0.json").read_text("utf-8"))
    assert told["losses"] == pytest.approx([float(loss) for loss in model.learner.recorder.losses], rel=1e-4)
    assert [row[2] for row in told["values"]] == pytest.approx([row[2] for row in model.learner.recorder.values])
    weights = load_file(trained / "frozen0.safetensors")
    for name, value in model.detector.network.state_dict().items():
        # AdamW steps by nearly the whole rate, 1e-3, where a gradient is as small as rounding; that is in few places.
        torch.testing.assert_close(weights[name], value, rtol=1e-2, atol=1e-3)
        assert torch.isclose(weights[name], value, rtol=1e-2, atol=1e-4).float().mean() > 0.999, name


def test_the_command_under_torchrun(scenes: dict[str, PaintedScene], labels: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    choices = "--chip-size 64 --epochs 1 --backbone resnet18 --weights none --scales auto --batch-size 2 --device cpu"
    command = [*TORCHRUN, "-m", "geodetect", "train", scenes["upright"].path, model, "--labels", labels]
    run = subprocess.run([*command, *choices.split()], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Wrote") == run.stdout.count("train_loss") == 1
    assert load_detector(model).summary["epochs"] == 1

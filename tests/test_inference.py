import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from geodetect.metadata import Architecture
from geodetect.network import inference
from geodetect.network.inference import eval_mode, freeze, prepare_images
from geodetect.network.precision import autocast
from geodetect.network.retinanet import Network

FAMILIES = ["resnet18", "resnet50", "vgg11_bn", "efficientnet_b0", "efficientnet_lite0", "timm:mobilenetv3_small_050"]


def learnt(backbone: str) -> Network:
    """A network whose batch norms have seen something, so that folding them has something to do."""
    torch.manual_seed(0)
    network = Network(Architecture(backbone, head_norm="batch", width=64), n_classes=2, weights=None)
    noise = torch.Generator().manual_seed(1)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1, generator=noise)
            layer.running_var.uniform_(0.5, 1.5, generator=noise)
            nn.init.uniform_(layer.weight, 0.5, 1.0, generator=noise)
            nn.init.normal_(layer.bias, std=0.1, generator=noise)
    return network.eval()


def answers(network: Network, pictures: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return torch.cat(network(pictures), dim=2)


@pytest.mark.parametrize("backbone", FAMILIES)
def test_a_frozen_network_without_batch_norms_answers_the_same(backbone):
    network, pictures = learnt(backbone), torch.randn(2, 3, 64, 96)
    fast = freeze(network, torch.float32)
    assert not [layer for layer in fast.modules() if isinstance(layer, nn.BatchNorm2d)]
    expected = answers(network, pictures)
    assert (answers(fast, pictures) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_eps_that_weights_were_trained_with_is_folded_too():
    network, pictures = learnt("resnet18"), torch.randn(1, 3, 64, 64)
    network.set_norm_eps(0.1)
    torch.testing.assert_close(answers(freeze(network, torch.float32), pictures), answers(network, pictures))


class CastsOfMaps(TorchDispatchMode):
    """The shapes of the images and maps, which are no weights, that are copied to another dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if operation is torch.ops.aten._to_copy.default and not isinstance(args[0], nn.Parameter):
            self.shapes += [tuple(result.shape)] if result.dtype != args[0].dtype else []
        return result


@pytest.mark.parametrize("backbone", ["resnet50", "efficientnet_lite0"])
def test_no_map_is_cast_on_either_side_of_a_norm_in_bf16(backbone):
    network = Network(Architecture(backbone, head_norm="batch", width=64), n_classes=2, weights=None)
    network = network.to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    cpu = torch.device("cpu")
    with CastsOfMaps() as of_a_step, autocast(torch.bfloat16, cpu):
        network.train()(images)
    assert [shape[:2] for shape in of_a_step.shapes] == [(2, 3)]  # the images, for the first convolution
    with CastsOfMaps() as of_detection, torch.inference_mode(), autocast(torch.bfloat16, cpu):
        freeze(network, torch.bfloat16)(images)
    assert {shape[:2] for shape in of_detection.shapes} <= {(2, 3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_network_learns_later_does_not_reach_its_frozen_copy(dtype):
    network = learnt("resnet18")
    fast = freeze(network, dtype)
    places = {tensor.data_ptr() for tensor in network.state_dict().values()}
    assert not places & {tensor.data_ptr() for tensor in fast.state_dict().values()}
    assert not any(weight.requires_grad for weight in fast.parameters())


def test_freezing_leaves_the_network_as_it_was():
    network = learnt("resnet18").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fast = freeze(network, torch.bfloat16)
    assert network.training
    assert not fast.training
    assert all(weight.requires_grad for weight in network.parameters())
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("backbone", ["resnet18", "vgg11_bn", "efficientnet_b0", "efficientnet_lite0"])
def test_in_bf16_it_answers_what_autocast_would_but_for_rounding(backbone):
    network, pictures = learnt(backbone), torch.randn(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = (answers(each, pictures) for each in (freeze(network, torch.bfloat16), network))
    assert got.dtype == torch.bfloat16
    exact = answers(network, pictures)
    assert (got - exact).norm() < 1.5 * (expected - exact).norm() + 1e-3 * exact.norm()


def test_a_norm_that_is_more_than_its_name_says_stays():
    class Shifted(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) + 1

    network, pictures = learnt("resnet18"), torch.randn(1, 3, 64, 64)
    network.backbone.body.bn1 = Shifted(64).eval()
    fast = freeze(network, torch.float32)
    assert isinstance(fast.backbone.body.bn1, Shifted)
    torch.testing.assert_close(answers(fast, pictures), answers(network, pictures))


def test_layers_are_afterwards_in_the_modes_they_were_in():
    network = learnt("resnet18").train()
    network.backbone.eval()
    with eval_mode(network):
        assert not any(layer.training for layer in network.modules())
    assert network.class_head.training
    assert not network.backbone.training


def test_pictures_by_hand():
    # (13 - 10) / 2 = 1.5; what is no number is the mean, 0; and 31 columns and rows of the mean
    pixels = torch.tensor([[[[13.0]], [[float("nan")]]]])
    got, shape = prepare_images(pixels, (10.0, 5.0), (2.0, 3.0), torch.device("cpu"))
    expected = torch.zeros(1, 2, 32, 32)
    expected[0, 0, 0, 0] = 1.5
    assert torch.equal(got, expected)
    assert shape == (1, 1)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_copies_to_cuda_have_a_stream_of_their_own_that_work_waits_for(monkeypatch):
    # There may be no GPU: the calls are written down, in the order in which CUDA needs them.
    calls, inside = [], []

    @contextmanager
    def stream(entered):
        inside.append(entered)
        yield
        inside.pop()

    class Tensor(torch.Tensor):
        def pin_memory(self):
            return self

        def to(self, device, *, non_blocking):
            calls.append(("copy", non_blocking, list(inside)))
            return self

        def record_stream(self, other):
            calls.append(("record", other, list(inside)))

    tensor = torch.zeros(1).as_subclass(Tensor)
    computing = SimpleNamespace(wait_stream=lambda other: calls.append(("wait", other, list(inside))))
    monkeypatch.setattr(inference, "_copy_stream", lambda device: "copying")
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    assert inference.send(tensor, torch.device("cuda", 0)) is tensor
    assert calls == [("copy", True, ["copying"]), ("wait", "copying", []), ("record", computing, [])]


@pytest.mark.slow
def test_the_benchmark_of_runtimes_runs():
    script = Path(__file__).parent / "benchmarks" / "runtimes.py"
    command = [sys.executable, script, "--tiny", "--network", "small", "--only", "onnxruntime float32"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| (eager|onnxruntime) .* ms \|", line)]
    assert len(rows) == 3
    assert all(float(row.split("|")[5]) < 1e-5 for row in rows if "float32" in row)

import pytest
import torch

from geodetect.network import precision
from geodetect.network.batching import choose_by_trial, choose_on_cpu
from geodetect.network.precision import choose, is_native, resolve


@pytest.mark.parametrize(
    ("side", "dtype", "expected"),
    [
        # 16 values a pixel: 512 px in float32 are 2^(18 + 4 + 2) = 16 MiB, and two would fill the cache of 32 MiB
        (512, torch.float32, 1),
        (512, torch.bfloat16, 3),
        (256, torch.float32, 7),
        (256, torch.bfloat16, 8),
        (1, torch.float32, 8),
        (4096, torch.bfloat16, 1),
    ],
)
def test_the_largest_maps_fill_less_than_the_cache(side, dtype, expected):
    assert choose_on_cpu(side, dtype) == expected


class Device:
    """Takes the seconds that it is told for a run of each size; a size that it was not told of is too large."""

    def __init__(self, monkeypatch, seconds):
        self.clock, self.ran, self.seconds = 0.0, [], seconds
        monkeypatch.setattr("time.perf_counter", lambda: self.clock)

    def run(self, size):
        if size not in self.seconds:
            raise torch.OutOfMemoryError
        self.ran.append(size)
        self.clock += self.seconds[size]


def test_the_batch_grows_while_that_pays(monkeypatch):
    device = Device(monkeypatch, {2: 1.0, 4: 1.2, 8: 2.0, 16: 3.9, 32: 1.0})  # 2, 3.3, 4, 4.1 and 32 a second
    assert choose_by_trial(device.run) == 8
    assert max(device.ran) == 16


def test_the_batch_grows_while_there_is_memory(monkeypatch):
    device = Device(monkeypatch, {2: 1.0, 4: 1.0, 8: 1.0})
    assert choose_by_trial(device.run) == 8


def test_a_batch_that_does_not_fit_at_all_is_the_smallest():
    def run(size):
        raise torch.OutOfMemoryError

    assert choose_by_trial(run, (3, 6)) == 3


def test_the_faster_precision_is_one_of_two():
    assert choose(torch.device("cpu")) in {"float32", "bf16"}
    assert choose(torch.device("meta")) == "float32"  # not known to have bf16


@pytest.mark.parametrize(
    ("float32", "bf16", "expected"),
    [
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], "bf16"),
        ([2.0, 2.0, 2.0], [1.0, 9.0, 9.0], "bf16"),  # something else was going on in two of three rounds
        ([1.0, 1.0, 1.0], [2.0, 1.5, 2.0], "float32"),
    ],
)
def test_float32_must_win_every_round(monkeypatch, float32, bf16, expected):
    taken = {torch.float32: float32, torch.bfloat16: bf16}
    monkeypatch.setattr(precision, "is_native", lambda dtype, device: True)
    monkeypatch.setattr(precision, "_seconds", lambda dtype, device: taken[dtype])
    assert choose(torch.device("cpu")) == expected


def test_float16_is_tried_where_bf16_is_missing(monkeypatch):
    monkeypatch.setattr(precision, "is_native", lambda dtype, device: dtype == torch.float16)
    for seconds, expected in ((0.5, "float16"), (2.0, "float32")):
        taken = {torch.float32: [1.0] * 3, torch.float16: [seconds] * 3}
        monkeypatch.setattr(precision, "_seconds", lambda dtype, device, taken=taken: taken[dtype])
        assert choose(torch.device("cpu")) == expected
    assert resolve("auto", torch.device("cpu")) == torch.float16


@pytest.mark.parametrize(("major", "native"), [(6, False), (7, True), (8, True)])
def test_gpus_from_volta_on_have_float16(monkeypatch, major, native):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    assert is_native(torch.float16, torch.device("cuda")) is native

"""Devices to compute on; another one than the processor only pretends to be there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geodetect.errors import ArgumentError
from geodetect.network.devices import find_device, has_kernels, share_gpus

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("capability", "architectures", "able"),
    [
        ((7, 5), ["sm_75", "sm_80", "sm_90"], True),
        ((8, 9), ["sm_75", "sm_80", "sm_90"], True),  # a later minor version of sm_80
        ((7, 0), ["sm_75", "sm_80"], False),  # V100 with torch's current builds
        ((12, 0), ["sm_80", "sm_90"], False),  # a card that came after the build
        ((12, 0), ["sm_90", "compute_90"], True),  # PTX is compiled for it by the driver
        ((9, 0), ["sm_90a"], True),
        ((10, 3), ["sm_100f"], True),
        ((8, 0), [], False),
    ],
)
def test_which_gpus_a_build_of_torch_computes_on(
    capability: tuple[int, int], architectures: list[str], able: bool
) -> None:
    assert has_kernels(capability, architectures) is able


def test_a_device_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(ArgumentError, match=r"no device 'cuda:7' here .* use \"cpu\""):
        find_device("cuda:7")
    assert find_device("cpu") == torch.device("cpu")


def test_processes_that_see_the_same_gpus_share_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [share_gpus("cpu", 1), share_gpus("cuda:1", 0)] == ["cpu", "cuda:1"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [share_gpus(None, n) for n in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]
    assert [share_gpus("cuda", 1), share_gpus("cuda:0", 1), share_gpus("cpu", 1)] == ["cuda:1", "cuda:0", "cpu"]


@pytest.mark.slow  # half a minute
def test_all_that_computes_runs_on_a_pretended_device() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-m", "slow or not slow", str(HERE / "on_pretended_device.py")],
        cwd=HERE.parent,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert re.search(r"[1-9]\d* (passed|skipped)", done.stdout)


@pytest.mark.slow
def test_the_benchmark_for_gpus_runs(tmp_path: Path) -> None:
    script, table = HERE / "benchmarks" / "gpu.py", tmp_path / "gpu.md"
    subprocess.run([sys.executable, script, "--tiny", "--device", "cpu", "--output", table], check=True)
    rows = [line for line in table.read_text().splitlines() if line.startswith("| ")]
    assert any("scene, detect_objects bf16" in row for row in rows)
    (boxes,) = (row for row in rows if "boxes in float32" in row)
    assert re.search(r"\| (\d+) of \1 at IoU 0.99", boxes)

"""The precision to compute in: bf16 where the hardware has it, else float16 where it has that, else float32."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from geodetect.errors import ArgumentError

INT8 = "int8"
# What int8 does not compute, torch computes in float32.
_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16, INT8: torch.float32}
_TENSOR_CORES = 7  # major version of the first GPUs of Nvidia that compute faster in float16: V100, then T4
_ROUNDS = 5  # of a trial, after a warm-up


def resolve(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that "auto", "float32", "bf16", "float16" or "int8" stands for in torch on a device.

    "auto" is bf16 where it is native, else float16 where that is, else float32; `choose` also measures.

    Raises:
        ArgumentError: if there is no such precision, or not on this device.
    """
    if precision == "auto":
        halves = (dtype for dtype in (torch.bfloat16, torch.float16) if is_native(dtype, device))
        return next(halves, torch.float32)
    if precision not in _DTYPES:
        raise ArgumentError(f'precision must be "auto", "float32", "bf16", "float16" or "int8"; got {precision!r}')
    if precision == INT8 and device.type != "cpu":
        raise ArgumentError(f'precision="int8" is for the CPU; got device {str(device)!r}: use device="cpu", or "auto"')
    return _DTYPES[precision]


def choose(device: torch.device) -> str:
    """Return what `resolve` makes of "auto" if it is not slower in a short trial on this machine, else "float32".

    The trial is the convolution in which a RetinaNet spends half its time, 256 channels to 256, on a small map:
    hundredths of a second. float32 has to win every round: other work on the machine, which slows single rounds,
    must not decide the precision.
    """
    short = resolve("auto", device)
    if short == torch.float32:
        return "float32"
    rounds = zip(_seconds(torch.float32, device), _seconds(short, device), strict=True)
    is_slower = all(full < half for full, half in rounds)
    return "float32" if is_slower else next(name for name, dtype in _DTYPES.items() if dtype == short)


@torch.inference_mode()
def _seconds(dtype: torch.dtype, device: torch.device) -> list[float]:
    """Return the time of the convolution in this precision, round by round."""
    n_maps = 1 if device.type == "cpu" else 64  # a single one would not keep a GPU busy
    layer = torch.nn.Conv2d(256, 256, 3, padding=1, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    maps = torch.zeros(n_maps, 256, 32, 32, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    taken = []
    for _ in range(1 + _ROUNDS):
        start = time.perf_counter()
        float(layer(maps)[0, 0, 0, 0])  # waits for the device
        taken.append(time.perf_counter() - start)
    return taken[1:]


@contextmanager
def autocast(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Let the network compute in `dtype`; for float32 nothing changes.

    Everything is restored at the end, even if Ctrl-C comes while the context is entered or left: torch's own context
    would stay entered then, all that follows would be computed in `dtype`, and cast weights would never be cast again.
    """
    kind = device.type
    enabled, known, level = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind), _autocast_level()
    try:
        enters = dtype != torch.float32
        with torch.autocast(kind, dtype if enters else torch.bfloat16, enabled=enters):
            yield
    finally:
        while _autocast_level() > level:
            torch.autocast_decrement_nesting()
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, known)


def _autocast_level() -> int:
    """Return how many contexts of torch's autocast are entered."""
    level = torch.autocast_increment_nesting() - 1
    torch.autocast_decrement_nesting()
    return int(level)


def is_native(dtype: torch.dtype, device: torch.device) -> bool:
    """Return whether a device computes in float32, bf16 or float16 without emulation, and float16 faster."""
    if dtype == torch.float32:
        return True
    if device.type == "cuda":
        if dtype == torch.float16:
            return torch.version.hip is not None or torch.cuda.get_device_capability(device)[0] >= _TENSOR_CORES
        with torch.cuda.device(device):  # the question is about the current one
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu" and dtype == torch.bfloat16:
        # torch has no public function for this; without the instructions oneDNN emulates bf16, at half the speed
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(native and native())
    return False

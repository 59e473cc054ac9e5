"""In which precision to compute: bf16 where the hardware has it, else float32."""

from __future__ import annotations

import torch

from geodetect.errors import ArgumentError

_DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


def resolve(precision: str, device: torch.device) -> torch.dtype:
    """The type that "auto", "float32" or "bf16" stands for on a device.

    "auto" is bf16 where it is native and so faster, else float32.

    Raises:
        ArgumentError: if the word is another.
    """
    if precision == "auto":
        return torch.bfloat16 if _bf16_is_native(device) else torch.float32
    if precision not in _DTYPES:
        raise ArgumentError(f'precision must be "auto", "float32" or "bf16"; got {precision!r}')
    return _DTYPES[precision]


def autocast(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """A context in which the network computes in `dtype`; it changes nothing for float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16)


def _bf16_is_native(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # torch has no public question for this; without the instructions oneDNN emulates bf16, at half the speed
        native = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return bool(native and native())
    return False

"""The device to compute on."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from geodetect.errors import ArgumentError, first_line


def find_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device with this name; None takes a GPU, of Nvidia, AMD or Apple, where there is one.

    Raises:
        ArgumentError: if it is not there, or the installed torch cannot compute on it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        known = torch.device(device)
        torch.empty(0, device=known)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch was built without CUDA
        raise ArgumentError(f'there is no device {str(device)!r} here ({first_line(error)}); use "cpu"') from error
    if known.type == "cuda" and torch.version.hip is None:
        capability, architectures = torch.cuda.get_device_capability(known), torch.cuda.get_arch_list()
        if not has_kernels(capability, architectures):
            raise ArgumentError(
                f"torch {torch.__version__} has kernels for {', '.join(architectures)}, but "
                f"{torch.cuda.get_device_name(known)} is sm_{capability[0]}{capability[1]}; "
                f'install a build of torch for it, or use "cpu"'
            )
    return known


def list_gpus() -> tuple[str, ...]:
    """Return the identifiers of the GPUs that this process sees, in its order."""
    if not torch.cuda.is_available():
        return ()
    return tuple(str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count()))


def share_gpus(device: str | None, number: int) -> str | None:
    """Return the GPU of one of several processes that see the same ones; another device than "cuda" or None as it is.

    Args:
        device: as asked for.
        number: of this process among them, from 0; there may be more of them than GPUs.
    """
    if device not in ("cuda", None) or not torch.cuda.is_available():
        return device
    return f"cuda:{number % torch.cuda.device_count()}"


def has_kernels(capability: tuple[int, int], architectures: Iterable[str]) -> bool:
    """Return whether a build of torch computes on a GPU of Nvidia.

    Machine code of `sm_XY` runs on GPUs of the same major version X with at least the minor version Y, and PTX of
    `compute_XY` on all later ones (https://docs.nvidia.com/cuda/cuda-c-programming-guide/, "Binary Compatibility" and
    "PTX Compatibility").

    Args:
        capability: (major, minor) of the GPU.
        architectures: what torch was built for, as `torch.cuda.get_arch_list` names it.
    """
    for name in architectures:
        kind, _, number = name.partition("_")
        number = number.rstrip("af")  # sm_90a and sm_100f have features of one architecture or family
        built = int(number[:-1]), int(number[-1])
        if (kind == "compute" or built[0] == capability[0]) and built <= capability:
            return True
    return False

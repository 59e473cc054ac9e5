"""`.pt2`: the network as a program that PyTorch alone loads and runs, in Python or C++.

Shapes: B pictures, C bands, S the side of a chip, A anchors, K classes.
"""

from __future__ import annotations

import copy
import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from geodetect.detector import Detector
from geodetect.errors import OutputError

_METADATA = "geodetect.json"  # beside the program in the archive, under extra/
_TOLERANCE = 1e-4  # of logits and deltas; one in a hundred thousand of a score
_BATCHES = (1, 3)  # a program that took its example's B for a constant fails on one of them
_EXAMPLE = 2  # pictures; with one, PyTorch takes B for a constant


def export(detector: Detector, path: str | Path) -> Path:
    """The path of a program from pictures, float32 (B, C, S, S), to logits (B, A, K) and deltas (B, A, 4).

    Pictures are standardised: pixels less the mean, over the standard deviation. These, the classes and the
    anchors lie in the archive as `geodetect.json`. The file appears under its name when it has been loaded and
    gave what the network gives.

    Args:
        detector: is not changed.
        path: a `.pt2` file.

    Raises:
        OutputError: if the file cannot be written, or gives something else; no file is left then.
    """
    path = Path(path)
    # Weights that are channels last, as the detector has them, are views, which the archive does not know.
    network = copy.deepcopy(detector.network).to("cpu", torch.float32).to(memory_format=torch.contiguous_format).eval()
    shape = len(detector.bands), detector.chip_size, detector.chip_size
    # PyTorch takes only this suffix; the number keeps two exports to one name apart.
    part = path.with_name(f".{path.stem}.{os.getpid()}.part.pt2")
    try:
        torch.export.save(_program(network, shape), part, extra_files={_METADATA: _metadata(detector)})
        _check(part, network, shape)
        os.replace(part, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: how PyTorch's archive writer says that the disk is full
        raise OutputError(f"{path} cannot be written: {str(error).splitlines()[0]}; choose another place") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def _program(network: nn.Module, shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    """The network as a graph that takes any number of pictures."""
    batch = torch.export.Dim("B", min=1)
    return torch.export.export(network, (torch.zeros(_EXAMPLE, *shape),), dynamic_shapes=({0: batch},))


def _metadata(detector: Detector) -> str:
    """What it takes to feed the program and to understand its answers, as JSON."""
    facts = {
        "classes": detector.classes,
        "bands": detector.bands,
        "stretch": asdict(detector.stretch),
        "anchors": asdict(detector.network.spec),
        "chip_size": detector.chip_size,
        "overlap": detector.overlap,
        "pixel_size_m": detector.pixel_size_m,
        "min_score": detector.min_score,
    }
    return json.dumps(facts)


@torch.inference_mode()
def _check(path: Path, network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Load the program and hold it against the network.

    Raises:
        OutputError: if the two differ by more than the tolerance.
    """
    program = torch.export.load(path).module()
    noise = torch.Generator().manual_seed(0)
    for n_pictures in _BATCHES:
        pictures = torch.randn(n_pictures, *shape, generator=noise)
        off = max(_difference(got, due) for got, due in zip(program(pictures), network(pictures), strict=True))
        if not off <= _TOLERANCE:
            raise OutputError(
                f"the exported program differs from the network by {off:.1g}, where {_TOLERANCE:g} is allowed; "
                "export it with another version of PyTorch"
            )


def _difference(got: Tensor, due: Tensor) -> float:
    return float((got - due).abs().max())

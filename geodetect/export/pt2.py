"""`.pt2`: the network as a program that PyTorch alone loads and runs, in Python or C++.

Shapes: B pictures, C bands, S the side of a chip, A anchors, K classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from geodetect.detector import Detector
from geodetect.export.program import BYTE, clouds, difference, plain, refuse_difference, traced
from geodetect.files import appearing

_METADATA = "geodetect.json"  # beside the program in the archive, under extra/
_TOLERANCE = 1e-4  # of logits and deltas; one in a hundred thousand of a score
_BATCHES = (1, 3)  # a program that took its example's B for a constant fails on one of them


def export(detector: Detector, path: Path) -> None:
    """Write a program from pictures, float32 (B, C, S, S), to logits (B, A, K) and deltas (B, A, 4).

    Pictures are standardised: pixels less the mean, over the standard deviation. These, the classes and the
    anchors lie in the archive as `geodetect.json`. The file appears under its name when it has been loaded and
    gave what the network gives.

    Raises:
        OutputError: if the file cannot be written, or gives something else; no file is left then.
    """
    network = plain(detector.network)
    with appearing(path) as part:
        try:
            torch.export.save(traced(network, detector), part, extra_files={_METADATA: _metadata(detector)})
        except RuntimeError as error:  # how PyTorch's archive writer says that the disk is full
            raise OSError(str(error)) from error
        _check(part, network, detector)


def _metadata(detector: Detector) -> str:
    """The facts, with mean and deviation once more for pixels that were divided by 255 before, as ONNX files say it."""
    standardisation = {
        "standardization_mean": [mean / BYTE for mean in detector.stretch.mean],
        "standardization_std": [std / BYTE for std in detector.stretch.std],
    }
    return json.dumps(detector.metadata.to_json() | standardisation)


@torch.inference_mode()
def _check(path: Path, network: nn.Module, detector: Detector) -> None:
    """Load the program and hold it against the network.

    Raises:
        OutputError: if the two differ by more than the tolerance.
    """
    program = torch.export.load(path).module()
    for n_pictures in _BATCHES:
        pictures = clouds(detector, n_pictures)
        refuse_difference(difference(program(pictures), network(pictures)), _TOLERANCE, "the exported program")

"""`.pt2`: the network as a program that loads and runs in plain PyTorch, from Python or C++.

Shapes: B pictures, C bands, S the side of a chip, A anchors, K classes.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from geodetect.detector import Detector
from geodetect.export.program import BATCHES, BYTE, check_difference, copy_plain, make_noise, max_difference, trace
from geodetect.files import replace_atomically

_METADATA = "geodetect.json"  # beside the program in the archive, under extra/
_TOLERANCE = 1e-4  # of logits and deltas; moves a score by 2.5e-5 at most


def export(detector: Detector, path: Path) -> None:
    """Write a program from pictures, float32 (B, C, S, S), to logits (B, A, K) and deltas (B, A, 4 or 6).

    Pictures are standardised: pixels less the mean, over the standard deviation. Both, the classes and the anchors
    are in the archive as `geodetect.json`, with mean and deviation once more for pixels / 255, as in ONNX files.
    The file appears under its name only after it was loaded and gave the network's results.

    Raises:
        OutputError: if the file cannot be written, or its results differ; no partial file is left behind.
    """
    network = copy_plain(detector.network)
    standardisation = {
        "standardization_mean": [mean / BYTE for mean in detector.normalization.mean],
        "standardization_std": [std / BYTE for std in detector.normalization.std],
    }
    metadata = json.dumps(detector.metadata.to_json() | standardisation)
    with replace_atomically(path) as part:
        try:
            torch.export.save(trace(network, detector), part, extra_files={_METADATA: metadata})
        except RuntimeError as error:  # how PyTorch's archive writer reports a full disk
            raise OSError(str(error)) from error
        program = torch.export.load(part).module()
        for n_pictures in BATCHES:
            pictures = make_noise(detector, n_pictures)
            with torch.inference_mode():
                off = max_difference(program(pictures), network(pictures))
            check_difference(off, _TOLERANCE, "the exported program")

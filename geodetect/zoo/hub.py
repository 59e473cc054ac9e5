"""Files of published detectors from the Hugging Face hub and from URLs, kept in the caches of the libraries used."""

from __future__ import annotations

import importlib
import json
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from geodetect.addresses import redact
from geodetect.errors import ArgumentError, ModelError, first_line, missing
from geodetect.export.onnx_detector import load_session
from geodetect.zoo.catalog import ZOO, suggest

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
ONNX = ".onnx"
_ABANDONED_S = 24 * 3600  # since a download last wrote
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
    if repository == ZOO:
        raise ModelError(f"{ZOO} holds several detectors; give the name of one of its .onnx files alone")
    library = _library(repository)
    fetch = partial(library.hf_hub_download, repository, revision=revision)
    with _explain_errors(repository, revision):
        try:
            folder = Path(fetch(CONFIG)).parent
        except library.errors.LocalEntryNotFoundError as no_answer:
            try:  # a detector of geodetect's may be in the cache
                return Path(fetch(WEIGHTS, local_files_only=True)).parent
            except library.errors.EntryNotFoundError:
                raise no_answer from no_answer.__cause__  # which says why
        except library.errors.EntryNotFoundError as no_config:  # geodetect's own detectors need none
            if not _holds_own(library, repository, revision):
                raise ModelError(
                    f"the repository {repository} holds no {CONFIG}, which a RetinaNet of DeepForest's form has, nor a "
                    f"detector of geodetect's as {WEIGHTS}{_list_files(library, repository, revision)}"
                ) from no_config
            return Path(fetch(WEIGHTS)).parent
        try:
            read_config(folder, repository)
        except ModelError:  # before its weights are fetched
            if not _holds_own(library, repository, revision):
                raise
        _fetch_weights(library, repository, revision, folder)
    return folder


def _fetch_weights(library: Any, repository: str, revision: str | None, folder: Path) -> None:
    """Fetch the weights of a repository, or the one state dict instead, into its folder in the cache."""
    try:
        library.hf_hub_download(repository, WEIGHTS, revision=revision)
    except library.errors.LocalEntryNotFoundError:
        if not list_state_dicts(path.name for path in folder.iterdir()):  # fetched earlier
            raise
    except library.errors.EntryNotFoundError as error:
        names = library.HfApi().list_repo_files(repository, revision=revision)
        states = list_state_dicts(names)
        if len(states) != 1:
            raise no_weights(f"the repository {repository}", names) from error
        library.hf_hub_download(repository, states[0], revision=revision)


def read_config(folder: Path, name: str) -> Mapping[str, Any]:
    """Return the `config.json` of a RetinaNet of DeepForest's form.

    Args:
        folder: with the file.
        name: what messages call the detector.

    Raises:
        ModelError: if there is none, it is damaged, or it belongs to another kind of model.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())  # in any of Unicode's encodings
    except OSError as error:
        raise ModelError(
            f"{name} holds neither a {CONFIG} that can be read nor a {WEIGHTS} that geodetect saved; expected one of "
            "them, or hf://OWNER/NAME for a repository on the Hugging Face hub"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not JSON ({error}); delete it and fetch it again") from error
    if not (isinstance(config, dict) and "num_classes" in config):
        kind = ", ".join(map(str, config.get("architectures") or ())) if isinstance(config, dict) else ""
        raise ModelError(
            f"{name} holds {kind or 'another kind of model'}, no RetinaNet as DeepForest saves it: its {CONFIG} lacks "
            "num_classes"
        )
    return config


def list_state_dicts(names: Iterable[str]) -> list[str]:
    """Return those of a repository's or folder's files that may be state dicts, sorted."""
    return sorted(name for name in names if name.endswith(_STATE_DICTS))


def no_weights(name: str, files: Iterable[str]) -> ModelError:
    """Return the error for a folder or repository with these files, of which none, or several, may be the weights."""
    return ModelError(
        f"{name} holds neither {WEIGHTS} nor one state dict instead (*{', *'.join(_STATE_DICTS)}), but "
        f"{', '.join(files):.300}; several or sharded files of weights, and checkpoints of Lightning, are not read: "
        f"save the weights as one {WEIGHTS}"
    )


def zoo_file(name: str) -> Path:
    """Return the path of a file of GeoDeep's zoo in the hub's cache, fetched if need be.

    Raises:
        ModelError: if it cannot be fetched.
        MissingPackage: without the extra `hub`.
    """
    library = _library(name)
    with _explain_errors(ZOO, None, name):
        return Path(library.hf_hub_download(ZOO, name, repo_type="dataset"))


def download(url: str) -> Path:
    """Return the path of the `.onnx` file at a URL, in a cache of pooch, fetched if it is not there yet.

    It is kept only if onnxruntime can read it, so that an error page or half a file is not found again next time.

    Args:
        url: address, at the end perhaps `#sha256=` and the checksum that the file must have.

    Raises:
        ModelError: if it cannot be fetched, has another checksum, or is no ONNX file.
        ArgumentError: if what follows `#` is no such checksum.
        MissingPackage: without the extras `hub` and `onnx`.
    """
    address, marker, fragment = url.partition("#")
    kind, _, digest = fragment.partition("=")
    if marker and not (kind == "sha256" and re.fullmatch("[0-9a-fA-F]{64}", digest)):
        got = digest if kind == "sha256" else kind
        raise ArgumentError(
            f"what follows # in the URL of a detector must be sha256= and 64 hexadecimal digits; got {got!r:.80}"
        )
    try:
        import pooch
    except ImportError as error:
        raise missing("pooch", "hub", f"The detector at {redact(address)}") from error
    try:
        name = pooch.utils.unique_file_name(address)
    except ValueError as error:
        raise ArgumentError(f"{redact(address)} is not a URL ({error}); check it") from error
    folder = pooch.os_cache("geodetect")
    _remove_abandoned(folder)
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # it writes whole URLs, with the tokens in them
    try:
        # Into a temporary file beside it, which is renamed; the name has a digest of the URL.
        return Path(
            pooch.retrieve(
                address,
                known_hash=digest.lower() or None,
                fname=name if name.endswith(ONNX) else name + ONNX,
                path=folder,
                downloader=_fetch_onnx,
            )
        )
    except OSError as error:  # requests' errors are OSErrors without a number
        _check_proxies()
        if error.errno is not None or isinstance(error, PermissionError):
            raise ModelError(_say_unwritable(redact(address), error, "XDG_CACHE_HOME", folder)) from error
        raise ModelError(
            f"{redact(address)} could not be downloaded ({redact(str(error))}); check the address and the network, or "
            "download the file and give its path"
        ) from None
    except ValueError as error:
        raise ModelError(
            f"what lies at {redact(address)} does not have the checksum {digest}; if the file was replaced by a newer "
            "one on purpose, change the checksum"
        ) from error
    finally:
        logger.setLevel(level)


def _remove_abandoned(folder: Path) -> None:
    """Delete the temporary files of downloads that were killed, as pooch never does; younger ones may still grow."""
    for path in folder.glob("tmp*"):  # files that are complete begin with a digest
        with suppress(OSError):
            if path.stat().st_mtime < time.time() - _ABANDONED_S:
                path.unlink()


def _check_proxies() -> None:
    """Raise if the environment has a proxy that is no address; messages of the libraries would show its password.

    Raises:
        ArgumentError: for the first of them.
    """
    for scheme, proxy in getproxies().items():
        try:
            _ = scheme == "no" or urlsplit(proxy if "://" in proxy else f"//{proxy}").port
        except ValueError:
            raise ArgumentError(
                f"{scheme.upper()}_PROXY must be an address such as http://HOST:PORT, in which special characters of a "
                "password are written as %23; the one in the environment is not, so correct or unset it"
            ) from None


def _say_unwritable(name: str, error: OSError, variable: str, folder: str | Path) -> str:
    """Return the sentence for a cache that cannot be read or written."""
    return (
        f"{name} cannot be kept in the cache {folder} ({error.strerror or type(error).__name__}); set {variable} to a "
        "folder that can be written and has room"
    )


def _fetch_onnx(url: str, file: str, cache: Any) -> None:
    """Fetch a file as pooch does, and raise if onnxruntime cannot read it."""
    import pooch

    pooch.HTTPDownloader()(url, file, cache)
    try:
        load_session(Path(file), "cpu")
    except ModelError:
        begin = Path(file).read_bytes()[:40]
        raise ModelError(
            f"what lies at {redact(url)} is not an ONNX file that onnxruntime can read; it begins with {begin!r}; "
            "give the address of the file itself, not of a page about it"
        ) from None


def _library(wanted: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # of its progress bar, in many notebooks
            importlib.import_module("tqdm.auto")  # which huggingface_hub imports when it downloads
            import huggingface_hub
            import huggingface_hub.errors
    except ImportError as error:
        raise missing("huggingface_hub", "hub", f"The detector {wanted} on the Hugging Face hub") from error
    return huggingface_hub


def _holds_own(library: Any, repository: str, revision: str | None) -> bool:
    """Return whether a repository's weights are a detector of geodetect's, by their header alone, or already here."""
    from geodetect.detector.file import is_detector  # here, as it imports torch

    if isinstance(library.try_to_load_from_cache(repository, WEIGHTS, revision=revision), str):
        return True
    try:
        header = library.HfApi().parse_safetensors_file_metadata(repository, WEIGHTS, revision=revision)
    except (library.errors.EntryNotFoundError, library.errors.SafetensorsParsingError):
        return False
    return is_detector(header.metadata or {})


def _list_files(library: Any, repository: str, revision: str | None) -> str:
    """Return the end of a sentence that says which files a repository holds, if the hub answers."""
    try:
        return f"; it holds {', '.join(library.HfApi().list_repo_files(repository, revision=revision))}"
    except (OSError, *library.errors.HfHubHTTPError.__bases__):
        return ""


@contextmanager
def _explain_errors(repository: str, revision: str | None, file: str | None = None) -> Iterator[None]:
    """Raise errors of the hub's library as one sentence that says what to do.

    Args:
        repository: asked for.
        revision: asked for.
        file: the name that the user gave, if it is that of a file in the repository.
    """
    from huggingface_hub import constants, errors

    at = f" at revision {revision}" if revision else ""
    # The errors of the library and of its HTTP client, and those for proxies that the client cannot use.
    unreachable: Any = (OSError, *errors.HfHubHTTPError.__bases__, ValueError, ImportError)
    if not constants.HF_HUB_OFFLINE:
        _check_proxies()
    try:
        yield
    except errors.GatedRepoError as error:
        raise ModelError(
            f"the repository {repository} is gated; accept its terms on its page, then log in with `hf auth login` or "
            "set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no local file or folder {repository}, and no such repository on the Hugging Face hub"
            f"{suggest(repository)}; if it is private, log in with `hf auth login`"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"the repository {repository} has no revision {revision}; leave it out for the newest"
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{repository} is not the name of a repository on the hub: expected OWNER/NAME") from error
    except unreachable as error:
        if isinstance(error, OSError) and error.errno is not None:
            folder = constants.HF_HUB_CACHE
            raise ModelError(_say_unwritable(file or repository, error, "HF_HUB_CACHE", folder)) from error
        asked = f"for the repository{at}" if file is None else f"for it in {repository}"
        connect = "unset HF_HUB_OFFLINE and connect" if constants.HF_HUB_OFFLINE else "connect"
        raise ModelError(
            f"there is no local file or folder {file or repository}, and the Hugging Face hub could not be asked "
            f"{asked} ({first_line(error)}); {connect} once so that it is kept, or give the path of a copy"
        ) from error

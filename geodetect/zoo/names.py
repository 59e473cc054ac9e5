"""Resolve the name of a detector: a file of any program, a folder, a repository or a URL."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geodetect.addresses import expand_user, redact
from geodetect.errors import ArgumentError, ModelError
from geodetect.zoo import hub
from geodetect.zoo.catalog import ZOO_FILES, entry, suggest
from geodetect.zoo.hub import ONNX

if TYPE_CHECKING:
    import torch

    from geodetect.detector import Detector

_OWN = ".safetensors"
_HUB, _PAGE = "hf://", "https://huggingface.co/"  # what names of repositories may begin with
_WEIGHTS = (".pt", ".pth", ".bin")  # suffixes of state dicts
# "OWNER/NAME" with letters, digits and "-_." in both, as the hub has them, and perhaps a branch, tag or commit
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
_FORMS = (
    "a .safetensors or .onnx file, a folder with model.safetensors, OWNER/NAME of a repository on the Hugging Face "
    "hub, or the URL of an .onnx file"
)


class Found(NamedTuple):
    """A file or folder of a detector on this machine, and the name that it has in the catalog of published ones."""

    path: Path
    name: str


def load_detector(
    name: str | Path,
    *,
    classes: Sequence[str] | None = None,
    pixel_size_m: float | None = None,
    layout: str | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> Detector:
    """Load a detector from a file, a folder, the Hugging Face hub or a URL; no code in its files is ever run.

    The NMS threshold that its authors state is not applied, but kept as `detector.summary["nms_iou"]`; to use it, pass
    it on: `detect_objects(..., nms_iou=detector.summary["nms_iou"])`.

    Args:
        name: one of
            - a `.safetensors` file that `Detector.save` wrote;
            - an `.onnx` file, or the URL of one (perhaps with `#sha256=` and the checksum that it must have), that
              geodetect exported or that holds the metadata of Deepness, GeoDeep or Ultralytics;
            - a folder with a detector that `Detector.save` wrote as `model.safetensors`, or with `config.json` and
              `model.safetensors`, as DeepForest saves its RetinaNets;
            - such a repository on the hub, OWNER/NAME[@REVISION], also written hf://OWNER/NAME or as its address.
            A local path that exists takes precedence.
        classes: names of the classes, in the order of the labels, if the files do not hold usable ones.
        pixel_size_m: side of a pixel on the ground that the detector expects, in metres, if the files do not say; None
            leaves it at what is known of it, else at the scene's own.
        layout: layout of an `.onnx` file's output, as a `det_type` of Deepness, if the file does not say.
        device: None takes a GPU where there is one.
        precision: "auto" (bf16 or float16 where native), "float32", "bf16", "float16", or "int8" for `detect_objects`
            on a CPU; an `.onnx` file computes in float32.

    Returns:
        a `Detector`; for an `.onnx` file an object with the same attributes and `detect`, which runs in onnxruntime.

    Raises:
        ModelError: if there is no such file or repository, it is damaged, or it does not hold a detector.
        ArgumentError: if a value is not possible, or one is missing; the message names the keyword.
        MissingPackage: if the hub, `.onnx` files or the backbone need a package that is not installed.
    """
    if classes is not None and not (
        isinstance(classes, Sequence)
        and not isinstance(classes, str)
        and all(isinstance(each, str) for each in classes)
    ):
        raise ArgumentError(f"classes must be a list of names; got {classes!r:.80}")
    found = locate(name)
    path, suffix = found.path, found.path.suffix.lower()
    if suffix == ONNX:
        if precision not in ("auto", "float32"):
            raise ArgumentError(
                f'an .onnx file computes in float32; got precision={precision!r}, use "auto" or "float32"'
            )
        from geodetect.zoo.onnx import load_onnx

        where = None if device is None else str(device)
        onnx: Any = load_onnx(path, classes=classes, pixel_size_m=pixel_size_m, layout=layout, device=where)
        return onnx  # type: ignore[no-any-return]  # it has the attributes of a Detector
    if layout is not None:
        raise ArgumentError(f"layout is for .onnx files; got layout={layout!r} for {found.name}, leave it out")
    from geodetect.detector import read_detector  # here, as it imports torch
    from geodetect.detector.file import holds_detector

    if path.is_dir() and holds_detector(path / hub.WEIGHTS):
        path /= hub.WEIGHTS
    if not path.is_dir():
        if suffix != _OWN and not holds_detector(path):
            hint = "; RetinaNet(weights=...) starts training from a state dict" if suffix in _WEIGHTS else ""
            raise ModelError(f"the suffix of {found.name} must be {_OWN} or {ONNX}; got {suffix or 'none'}{hint}")
        given: Mapping[str, object] = {"classes": classes, "pixel_size_m": pixel_size_m}
        if stated := [keyword for keyword, value in given.items() if value is not None]:
            raise ArgumentError(f"{found.name} holds its own {' and '.join(stated)}; leave {' and '.join(stated)} out")
        return read_detector(path, device=device, precision=precision)
    from geodetect.zoo.retinanets import read_retinanet

    if pixel_size_m is None and (known := entry(found.name)) is not None:
        pixel_size_m = known.pixel_size_m
    return read_retinanet(
        path, found.name, classes=classes, pixel_size_m=pixel_size_m, device=device, precision=precision
    )


def _exists(path: str | Path) -> bool:
    """Return whether there is a file or folder of this name; the system refuses some, such as very long ones."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def _lower_scheme(name: str) -> str:
    """Return a name with the scheme of a URL, such as HTTPS://, in lower case."""
    scheme, colon, rest = name.partition("://")
    return scheme.lower() + colon + rest if colon else name


def is_remote(name: str | Path) -> bool:
    """Return whether a name can only be that of a published detector, as there is no such file."""
    text = _lower_scheme(str(name).rstrip("/"))
    if _exists(expand_user(text)):
        return False
    local = Path(text).suffix.lower() in (_OWN, ONNX, *_WEIGHTS)
    return text.startswith((_HUB, "http://", "https://")) or (not local and bool(_REPOSITORY.fullmatch(text)))


def is_published(name: str) -> bool:
    """Return whether a name is most likely that of a published detector rather than of some other file."""
    path = Path(expand_user(name))
    if _exists(path):
        return path.suffix.lower() == ONNX or (path / hub.CONFIG).is_file()
    is_repository = _lower_scheme(name).startswith(_HUB) or (is_remote(name) and not path.suffix)
    return _is_onnx_url(name) or name in ZOO_FILES or is_repository


def is_onnx(name: str | Path) -> bool:
    """Return whether a name is that of an `.onnx` file, here or at a URL."""
    return Path(str(name)).suffix.lower() == ONNX or _is_onnx_url(str(name))


def _is_onnx_url(name: str) -> bool:
    """Return whether a name is the URL of an `.onnx` file."""
    return _lower_scheme(name).startswith(("http://", "https://")) and re.split(r"[?#]", name)[0].lower().endswith(ONNX)


def locate(name: str | Path) -> Found:
    """Return the local file or folder that a name stands for, downloaded if need be.

    Raises:
        ModelError: if there is none.
        ArgumentError: if the name has none of the known forms.
        MissingPackage: without the extra `hub`, if something has to be downloaded.
    """
    if not isinstance(name, str | Path) or not str(name):
        raise ArgumentError(f"a detector's name must be {_FORMS}; got {name!r}")
    text = str(name)
    path = Path(expand_user(text))
    if _exists(path):
        return Found(path, text)
    text = _lower_scheme(text.strip().rstrip("/"))
    if text.startswith(_PAGE):  # the page of a revision ends in /tree/REVISION
        repository = text.removeprefix(_PAGE).replace("/tree/", "@", 1)
        text = repository if _REPOSITORY.fullmatch(repository) else text
    if text.startswith(_HUB):
        text = text.removeprefix(_HUB)
        if not _REPOSITORY.fullmatch(text):
            raise ArgumentError(f"a repository of the hub is written hf://OWNER/NAME[@REVISION]; got {name!r}")
    elif text.startswith(("http://", "https://")):
        if not _is_onnx_url(text):
            raise ModelError(
                f"a detector is loaded from the URL of an .onnx file alone; got {redact(text)}, give OWNER/NAME for a "
                "repository of the Hugging Face hub"
            )
        return Found(hub.download(text), redact(text))
    elif text in ZOO_FILES:
        return Found(hub.zoo_file(text), text)
    elif not is_remote(text):
        raise ModelError(f"there is no model file {expand_user(text)!s:.200}{suggest(text)}; expected {_FORMS}")
    repository, _, revision = text.partition("@")
    return Found(hub.snapshot(repository, revision or None), repository)

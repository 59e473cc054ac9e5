"""Detectors for other programs, one file per format; the suffix names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geodetect.addresses import expand_user
from geodetect.errors import ArgumentError, OutputError
from geodetect.export.onnx_detector import LAYOUTS

if TYPE_CHECKING:
    from geodetect.detector import Detector

# The formats, and the layouts that each has besides its usual one.
_LAYOUTS: dict[str, tuple[str, ...]] = {
    ".onnx": tuple(name for name in LAYOUTS if name is not None),
    ".dlpk": (),
    ".pt2": (),
    ".json": ("stac-mlm",),
}

__all__ = ["check_output", "export", "facts_in"]


def export(detector: Detector, path: str | Path, layout: str | None = None) -> Path:
    """The path of a file that holds the detector for use without geodetect.

    Args:
        detector: is not changed.
        path: its suffix names the format: `.onnx` for GeoDeep, Deepness, Ultralytics and onnxruntime, `.dlpk` for
            ArcGIS, `.pt2` for PyTorch, `.json` for a STAC item and a `.pt2` file beside it, which it describes.
        layout: how an `.onnx` file answers, by the `det_type` of Deepness: "YOLO_v9" (the default, which all of them
            read), "YOLO_Ultralytics" or "YOLO_v5_or_v7_default"; "stac-mlm" is the only one of `.json`.

    Raises:
        OutputError: if there is no such format, the file cannot be written, or it would not give what the
            network gives; no file is left then.
        ArgumentError: if the format has no such layout.
        MissingPackage: for `.onnx` without the extra `onnx`.
    """
    check_output(path, layout)
    path = Path(expand_user(path))
    detector.warn_if_untrained()
    _writers(layout)[path.suffix.lower()](detector, path)
    return path


def _writers(layout: str | None) -> dict[str, Callable[[Detector, Path], None]]:
    """What writes each format; imported here, so that running an `.onnx` file loads no PyTorch."""
    from geodetect.export import dlpk, onnx, pt2, stac

    def write_onnx(detector: Detector, path: Path) -> None:
        onnx.export(detector, path, layout)

    return {".onnx": write_onnx, ".dlpk": dlpk.export, ".pt2": pt2.export, ".json": stac.export}


def check_output(path: str | Path, layout: str | None = None) -> None:
    """Nothing, when a detector can be exported to a file of this name.

    Raises:
        OutputError: if the suffix is not one of a format, or there is no folder for the file.
        ArgumentError: if the format has no such layout.
    """
    path = Path(expand_user(path))
    suffix = path.suffix.lower()
    if suffix not in _LAYOUTS:
        raise OutputError(f"a detector is exported as {', '.join(_LAYOUTS)}; got {path.name!r}, change its suffix")
    if layout is not None and layout not in _LAYOUTS[suffix]:
        known = " or ".join(repr(each) for each in _LAYOUTS[suffix]) or "none"
        raise ArgumentError(f"the layout of a {suffix} file may be {known}; got layout={layout!r}")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} in; make it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")


def facts_in(path: Path) -> dict[str, Any] | None:
    """What an exported file says of its model; None for the name of a file of another kind.

    Keys as in `program.facts`, and `format`: what the file is, in words.

    Raises:
        ModelError: if the file is damaged, or not one that geodetect wrote.
        MissingPackage: for `.onnx` without the extra `onnx`.
    """
    from geodetect.export import reading

    return reading.facts_in(path)

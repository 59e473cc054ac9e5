"""Export of detectors for other programs: one module per format, chosen by the suffix."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geodetect.addresses import expand_user
from geodetect.errors import ArgumentError, ModelError, OutputError
from geodetect.export.onnx_detector import LAYOUTS, ORIENTED

if TYPE_CHECKING:
    from geodetect.detector import Detector

# The layouts of each format besides its default.
_LAYOUTS: dict[str, tuple[str, ...]] = {
    ".onnx": tuple(name for name in LAYOUTS if name is not None),
    ".dlpk": (),
    ".pt2": (),
    ".json": ("stac-mlm",),
}

__all__ = ["check_output", "export"]


def export(detector: Detector, path: str | Path, layout: str | None = None) -> Path:
    """Write the detector to a file for use without geodetect, and return its path.

    Args:
        detector: is not changed.
        path: its suffix names the format: `.onnx` for GeoDeep, Deepness, Ultralytics and onnxruntime, `.dlpk` for
            ArcGIS, `.pt2` for PyTorch, `.json` for a STAC item with the `.pt2` file that it describes beside it.
        layout: output layout of an `.onnx` file, by the `det_type` of Deepness: "YOLO_v9" (the default, which all of
            them read), "YOLO_Ultralytics" or "YOLO_v5_or_v7_default"; "YOLO_Ultralytics_obb" for oriented boxes, whose
            only layout it is; `.json` knows only "stac-mlm".

    Raises:
        OutputError: if the suffix is unknown, the file cannot be written, or its results differ from the network's;
            no partial file is left behind.
        ModelError: if the detector is not one of geodetect's, but runs in onnxruntime.
        ArgumentError: if the format has no such layout, or the detector enlarges its images (`Metadata.min_size`).
        MissingPackage: for `.onnx` without the extra `onnx`.
    """
    check_output(path, layout)
    # imported here, so that running an `.onnx` file loads no PyTorch
    from geodetect.detector import Detector
    from geodetect.export import dlpk, onnx, pt2, stac

    if not isinstance(detector, Detector):
        raise ModelError(
            f"only a RetinaNet of geodetect can be exported; {getattr(detector, 'name', detector)!s:.200} is of type "
            f"{type(detector).__name__}, convert it with the program that made it"
        )
    if Path(path).suffix.lower() == ".onnx" and layout is not None and (layout == ORIENTED) != detector.oriented:
        kind, fits = ("oriented", f"is {ORIENTED!r}") if detector.oriented else ("upright", f"is not {ORIENTED!r}")
        raise ArgumentError(f"the layout of a detector of {kind} boxes {fits}; got layout={layout!r}, leave it out")
    path = Path(expand_user(path))
    if detector.metadata.min_size is not None:
        raise ArgumentError(
            f"this detector enlarges its images to {detector.metadata.min_size} px, which exported files cannot; train "
            "on from it with RetinaNet(data, weights=...), and export that"
        )
    detector.warn_if_untrained()
    writers: dict[str, Callable[[Detector, Path], None]] = {
        ".onnx": partial(onnx.export, layout=layout),
        ".dlpk": dlpk.export,
        ".pt2": pt2.export,
        ".json": stac.export,
    }
    writers[path.suffix.lower()](detector, path)
    return path


def check_output(path: str | Path, layout: str | None = None) -> None:
    """Raise if no detector can be exported to a file of this name.

    Raises:
        OutputError: if no format has the suffix, the folder does not exist, or the path is a folder.
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

"""Detectors for other programs, one file per format; the suffix names it."""

from __future__ import annotations

from pathlib import Path

from geodetect.detector import Detector
from geodetect.errors import OutputError
from geodetect.export import pt2

_FORMATS = {".pt2": pt2.export}

__all__ = ["check_output", "export"]


def export(detector: Detector, path: str | Path) -> Path:
    """The path of a file that holds the detector for use without geodetect.

    Args:
        detector: is not changed.
        path: its suffix names the format; `.pt2` is known.

    Raises:
        OutputError: if there is no such format, the file cannot be written, or it would not give what the
            network gives; no file is left then.
    """
    check_output(path)
    return _FORMATS[Path(path).suffix.lower()](detector, path)


def check_output(path: str | Path) -> None:
    """Nothing, when a detector can be exported to a file of this name.

    Raises:
        OutputError: if the suffix is not one of a format, or there is no folder for the file.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise OutputError(f"a detector is exported as {', '.join(_FORMATS)}; got {path.name!r}, change its suffix")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent} to write {path.name} in; make it first")
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give the name of a file")

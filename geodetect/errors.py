"""Everything that geodetect raises on purpose.

A message says what was expected, what came, and what to do, in one sentence.
"""

from __future__ import annotations

import math
import sys
import unicodedata
import warnings
from numbers import Integral, Real
from typing import Any

from geodetect.addresses import redact


class GeodetectError(Exception):
    """The base of every error that geodetect raises on purpose; its message holds no secrets of URLs."""

    def __init__(self, message: object = "") -> None:
        # Names of files that are not UTF-8 could not be printed: https://docs.python.org/3/library/codecs.html
        super().__init__(redact(str(message)).encode("utf-8", "backslashreplace").decode())


class ArgumentError(GeodetectError, ValueError):
    """A parameter's value is not possible."""


class RasterError(GeodetectError):
    """A raster is missing, unreadable, or not what was asked for."""


class LabelsError(GeodetectError):
    """Labels or detections are missing, unreadable, or of no use here."""


class NotGeoreferenced(GeodetectError):
    """A raster or a vector file does not say where it lies."""


class OutputError(GeodetectError):
    """A file cannot be written where, or as, it was asked for."""


class ModelError(GeodetectError):
    """A file is not a model, or the model does not fit what it is used on."""


class TrainingError(GeodetectError):
    """Training cannot start or cannot go on."""


class ClusterError(GeodetectError):
    """The machines of a cluster cannot be reached, or do not do their work."""


class MissingPackage(GeodetectError, ImportError):
    """An optional package is not installed."""


def missing(package: str, extra: str, purpose: str) -> MissingPackage:
    """The error to raise when an optional package is absent.

    Args:
        package: name to import.
        extra: the extra of geodetect that installs it.
        purpose: what wanted it, as the start of a sentence.
    """
    return MissingPackage(f"{purpose} needs {package}; install it with: pip install 'geodetect[{extra}]'")


def warn(message: str) -> None:
    """Issue a UserWarning, without secrets of URLs, that points to the line outside the package that called it.

    Args:
        message: one sentence that says what to do.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(redact(message), UserWarning, stacklevel=level)


def is_name(value: object) -> bool:
    """Whether a parameter can name a class in every format: a line of text without control characters."""
    if not (isinstance(value, str) and value.strip()):
        return False
    return not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in "\ufffe\uffff" for letter in value
    )


def is_number(value: object) -> bool:
    """Whether a parameter is a finite number that a float can hold; a text that looks like one is none."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        return False


def is_share(value: object) -> bool:
    """Whether a parameter is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1  # type: ignore[operator]


def is_whole(value: object) -> bool:
    """Whether a parameter is a whole number, of Python or numpy; 2.0 is none."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def check_whole(name: str, value: Any, at_least: int = 1, at_most: int | None = None) -> int:
    """Return a parameter that must be a whole number as an int of Python.

    Raises:
        ArgumentError: if it is not one within these bounds.
    """
    if is_whole(value) and at_least <= value and (at_most is None or value <= at_most):
        return int(value)
    bound = "" if at_most is None else f" and at most {at_most:,}"
    raise ArgumentError(f"{name} must be a whole number of at least {at_least}{bound}; got {value!r}")


def check_seed(seed: object) -> None:
    """Refuse what torch and numpy do not both take as a seed.

    Raises:
        ArgumentError: if it is none.
    """
    if check_whole("seed", seed, 0) >= 2**64:
        raise ArgumentError(f"seed must be less than {2**64:,}; got {seed!r}")


def harmless(error: BaseException) -> BaseException | None:
    """An error as the cause of another; None where a traceback would show a secret of a URL with it."""
    link: BaseException | None = error
    while link is not None:
        if redact(str(link)) != str(link):
            return None
        link = link.__cause__ or link.__context__
    return error


def first_line(error: BaseException) -> str:
    """What a library says, or what it says was the cause, in one line without a full stop."""
    if isinstance(error, UnicodeEncodeError):
        return "its name, or a text in it, is no valid Unicode, which GDAL needs"
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")

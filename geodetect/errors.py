"""Exceptions, warnings and checks of arguments.

A message says in one sentence what was expected, what was given, and what to do.
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
    """Base class of all errors of geodetect; secrets in URLs are removed from the message."""

    def __init__(self, message: object = "") -> None:
        # Names of files that are not UTF-8 could not be printed: https://docs.python.org/3/library/codecs.html
        super().__init__(redact(str(message)).encode("utf-8", "backslashreplace").decode())


class ArgumentError(GeodetectError, ValueError):
    """An argument has an invalid value."""


class RasterError(GeodetectError):
    """A raster is missing, unreadable, or does not fit the request."""


class LabelsError(GeodetectError):
    """Labels or detections are missing, unreadable or unusable."""


class NotGeoreferenced(GeodetectError):
    """A raster or a vector file has no georeference."""


class OutputError(GeodetectError):
    """A file cannot be written to the given path or in the given format."""


class ModelError(GeodetectError):
    """A file is not a model, or the model does not fit the data."""


class TrainingError(GeodetectError):
    """Training cannot start or continue."""


class ClusterError(GeodetectError):
    """A cluster cannot be reached, or its workers fail."""


class MissingPackage(GeodetectError, ImportError):
    """An optional package is not installed."""


def missing(package: str, extra: str, purpose: str) -> MissingPackage:
    """Return the error for an optional package that is not installed.

    Args:
        package: name to import.
        extra: the extra of geodetect that installs it.
        purpose: what needs it; the subject of the message.
    """
    return MissingPackage(f"{purpose} needs {package}; install it with: pip install 'geodetect[{extra}]'")


def warn(message: str) -> None:
    """Issue a UserWarning without secrets of URLs, attributed to the caller outside the package.

    Args:
        message: one sentence that says what to do.
    """
    level, frame = 1, sys._getframe()
    passed = (__package__, "functools")  # which calls our cached properties
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in passed:
        level, frame = level + 1, frame.f_back
    warnings.warn(redact(message), UserWarning, stacklevel=level)


def is_name(value: object) -> bool:
    """Return whether a value can name a class in every format: one line of text without control characters."""
    if not (isinstance(value, str) and value.strip()):
        return False
    return not any(
        unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in "\ufffe\uffff" for letter in value
    )


def is_number(value: object) -> bool:
    """Return whether a value is a finite number in the range of float; text is not."""
    try:
        return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        return False


def is_share(value: object) -> bool:
    """Return whether a value is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1  # type: ignore[operator]


def is_whole(value: object) -> bool:
    """Return whether a value is an integer of Python or numpy; 2.0 is not."""
    return not isinstance(value, bool) and isinstance(value, Integral)


def check_whole(name: str, value: Any, at_least: int = 1, at_most: int | None = None) -> int:
    """Return an integer within bounds as a Python int.

    Raises:
        ArgumentError: if the value is not an integer, or out of bounds.
    """
    if is_whole(value) and at_least <= value and (at_most is None or value <= at_most):
        return int(value)
    bound = "" if at_most is None else f" and at most {at_most:,}"
    raise ArgumentError(f"{name} must be a whole number of at least {at_least}{bound}; got {value!r}")


def check_flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises:
        ArgumentError: if the value is anything else, such as "no" or 3, which Python takes for true.
    """
    if isinstance(value, bool):
        return value
    raise ArgumentError(f"{name} must be True or False; got {value!r:.80}")


def check_seed(seed: object) -> None:
    """Raise unless both torch and numpy accept a seed.

    Raises:
        ArgumentError: if it is not an integer from 0 to 2**64 - 1.
    """
    if check_whole("seed", seed, 0) >= 2**64:
        raise ArgumentError(f"seed must be less than {2**64:,}; got {seed!r}")


def harmless(error: BaseException) -> BaseException | None:
    """Return an error for use as a cause; None if its traceback would show a secret of a URL."""
    link: BaseException | None = error
    while link is not None:
        if redact(str(link)) != str(link):
            return None
        link = link.__cause__ or link.__context__
    return error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or of its cause's, without a full stop."""
    if isinstance(error, UnicodeEncodeError):
        return "its name, or a text in it, is no valid Unicode, which GDAL needs"
    text = str(error.__cause__ or error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")

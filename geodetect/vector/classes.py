"""What features are called: their classes as text, and other names for them."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from geodetect.errors import ArgumentError, LabelsError, warn
from geodetect.vector.opening import Features


def class_names(features: Features, label_field: str | None) -> np.ndarray:
    """The class of each feature as text, None where it has none; (N,) objects.

    Of several files each has its own column, or else its own name for a class.

    Raises:
        LabelsError: if there is no such column, or it holds lists and the like.
    """
    if features.files:
        return np.concatenate([class_names(each, label_field) for each in features.files])
    frame = features.frame
    column = label_field or ("label" if "label" in frame.columns else None)
    if column is None:
        values: list[Any] = [features.stem or "object"] * len(frame)
    elif column in list(frame.columns) and column != frame.active_geometry_name:
        values = frame[column].tolist()
    else:
        known = ", ".join(str(name) for name in frame.columns if name != frame.active_geometry_name)
        raise LabelsError(f"{features.name} has no column {column!r} for label_field; it has {known or 'none at all'}")
    if odd := [value for value in values if not pd.api.types.is_scalar(value)]:
        raise LabelsError(f"classes must be texts or numbers; {features.name} has {odd[0]!r} in its column {column!r}")
    names = np.empty(len(values), object)
    names[:] = list(map(as_text, values))
    return names


def renaming(class_mapping: Mapping[Any, str | None] | None) -> dict[str | None, str | None]:
    """New names by values, all as text: a file may hold 1.0 where the user says 1, or "1"; None for what is dropped.

    Raises:
        ArgumentError: if it is no mapping, or a new name is empty.
    """
    if class_mapping is None:
        return {}
    if not isinstance(class_mapping, Mapping):
        raise ArgumentError(f"class_mapping must be a dict {{value: name}}; got {class_mapping!r}")
    for value, name in class_mapping.items():
        if name is not None and as_text(name) is None:
            raise ArgumentError(f"class_mapping must give {value!r} a name, or None to drop it; got {name!r}")
    return {as_text(value): as_text(name) for value, name in class_mapping.items()}


def unmatched(new: Mapping[str | None, str | None], values: Iterable[str | None]) -> str:
    """A note of what a mapping renames and nothing is called; empty where there is nothing such."""
    known = set(values)
    strange = [str(value) for value in new if value not in known]
    return f"nothing is called {', '.join(strange)}, which class_mapping renames" if strange else ""


def warn_of_alike(names: Iterable[str], remedy: str) -> None:
    """Warn of classes that people take for one: they differ in capitals, blanks or Unicode form alone.

    Args:
        names: of all classes.
        remedy: what makes one of them, to go before a mapping of their names.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        plain = unicodedata.normalize("NFKC", name).casefold().strip().replace("_", " ")
        # The hyphen of -1 is a sign; characters of format, such as a zero-width space, show nothing.
        shown = (letter for letter in plain[:1] + plain[1:].replace("-", " ") if unicodedata.category(letter) != "Cf")
        alike[" ".join("".join(shown).split())].append(name)
    for first, *others in (group for group in alike.values() if len(group) > 1):
        told = " and ".join(map(repr, (first, *others)))
        warn(f"{told} count as several classes; if they are one, {remedy}{dict.fromkeys(others, first)}")


def as_text(value: Any) -> str | None:
    """A class value as text: numbers without a trailing .0, blanks as None."""
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    return str(value).strip() or None

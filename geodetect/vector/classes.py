"""What features are called: their classes as text, other names for them, and what looks like a mistake in these."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from geodetect.errors import ArgumentError, LabelsError, warn
from geodetect.facts import listed
from geodetect.vector.opening import Features

_CLASS_COLUMNS = ("label", "class", "classname", "classlabel", "classid", "classvalue", "category")
_SEARCHED_ROWS = 10_000  # rows that are looked at to guess what a column holds
_MANY = 20  # classes; as many may each have a single object in an honest sample
_CLOSE = 0.75  # likeness of two words, as difflib counts it, that one typing error leaves


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
    """A note of the keys of a mapping that match no value; empty where there are none.

    A warning is issued as well if a key looks like a misspelt value, or no key matches. A mapping that serves several
    files may name classes that one of them does not have.
    """
    known = {value for value in values if value is not None}
    strange = [str(value) for value in new if value not in known]
    if not strange:
        return ""
    note = f"nothing is called {listed(strange)}, which class_mapping renames"
    meant = [f"{found} for {value}" for value in strange if (found := _closest(value, known))]
    if meant or len(strange) == len(new):
        remedy = f"use {listed(meant)}" if meant else f"the classes are called {listed(sorted(known))}"
        warn(f"{note}; {remedy}")
    return note


def _closest(value: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; None for numbers, which are close to others without being meant."""
    by_words = {_words(name): name for name in sorted(known)}
    if value.isdigit():
        return None
    return next((by_words[words] for words in get_close_matches(_words(value), by_words, 1, _CLOSE)), None)


def _words(name: str) -> str:
    """A name without what people overlook: capitals, blanks, hyphens, invisible characters, Unicode form."""
    plain = unicodedata.normalize("NFKC", name).casefold().strip().replace("_", " ")
    # The hyphen of -1 is a sign; characters of format, such as a zero-width space, show nothing.
    shown = (letter for letter in plain[:1] + plain[1:].replace("-", " ") if unicodedata.category(letter) != "Cf")
    return " ".join("".join(shown).split())


def warn_of_likenesses(names: Iterable[str], remedy: str = "class_mapping={}") -> None:
    """Warn of classes that people take for one: they differ in capitals, blanks or Unicode form alone.

    Args:
        names: of the classes.
        remedy: what makes one of them, as a format for `{old: new}`.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        alike[_words(name)].append(name)
    for first, *others in (group for group in alike.values() if len(group) > 1):
        same_in_print = len({unicodedata.normalize("NFC", name) for name in (first, *others)}) == 1
        written = ascii if same_in_print else repr
        told = " and ".join(map(written, (first, *others)))
        mapping = written(dict.fromkeys(others, first))
        warn(f"{told} count as several classes; if they are one, give {remedy.format(mapping)}")


def warn_of_identifiers(n_classes: int, n_objects: int, source: str) -> None:
    """Warn where the classes seem to be numbers or names of single objects."""
    if n_classes > _MANY and 2 * n_classes > n_objects:
        warn(
            f"{source} has {n_classes:,} classes for {n_objects:,} objects, as if each had a name of its own; choose "
            "the column of the class with label_field=, or make fewer classes with class_mapping="
        )


def unread_columns(
    features: Features, label_field: str | None, remedy: str = "label_field= takes the class from another"
) -> str:
    """A note of columns that may hold the class where none is read; empty where there are none.

    A warning is issued as well if the name of a column says that it is the class.

    Args:
        features: their columns are looked at.
        label_field: the column that was asked for.
        remedy: what to do with such a column.
    """
    if label_field is not None or "label" in features.frame.columns:
        return ""
    columns = list(dict.fromkeys(name for each in features.files or (features,) for name in _class_like(each)))
    if not columns:
        return ""
    note = f"no column 'label'; {remedy}: {listed(columns)}"
    if any(_words(name).replace(" ", "") in _CLASS_COLUMNS for name in columns):
        warn(f"{features.name} has {note}")
    return note


def _class_like(features: Features) -> list[str]:
    """The columns whose values may be classes: some values, and each of them more than once."""
    sample = features.frame.head(_SEARCHED_ROWS)
    some = sample.drop(columns=features.frame.active_geometry_name).select_dtypes(exclude=["float", "datetime"])
    n_values = {str(name): some[name].map(as_text).nunique() for name in some}
    return [name for name, n in n_values.items() if 1 < n <= len(sample) / 2]


def as_text(value: Any) -> str | None:
    """A class value as text: numbers without a trailing .0, blanks as None."""
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    return str(value).strip() or None

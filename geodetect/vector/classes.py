"""Names of classes: values as text, new names for them, and warnings of likely mistakes."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import pandas as pd

from geodetect.errors import ArgumentError, warn
from geodetect.facts import join_values

if TYPE_CHECKING:
    from geodetect.vector.features import Features

_CLASS_COLUMNS = ("label", "class", "classname", "classlabel", "classid", "classvalue", "category")
_SEARCHED_ROWS = 10_000  # rows that are looked at to guess what a column holds
_MANY = 20  # classes; as many may each have a single object in an honest sample
_CLOSE = 0.75  # similarity of two words, as difflib counts it, that one typing error leaves


def parse_mapping(class_mapping: Mapping[Any, str | None] | None) -> dict[str | None, str | None]:
    """Return new names by values, all as text: a file may hold 1.0 where the user says 1, or "1".

    A value that is dropped has the name None.

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


def note_unmatched(new: Mapping[str | None, str | None], values: Iterable[str | None]) -> str:
    """Return a note of the keys of a mapping that match no value; empty if all do.

    Warn as well if a key looks like a misspelt value, or no key matches. A mapping that serves several files may name
    classes that one of them does not have.
    """
    known = {value for value in values if value is not None}
    strange = [str(value) for value in new if value not in known]
    if not strange:
        return ""
    note = f"no class is called {join_values(strange)}, which class_mapping renames"
    folded = {_fold(name): name for name in sorted(known)}
    # Numbers are close to others without being meant.
    close = {each: get_close_matches(_fold(each), folded, 1, _CLOSE) for each in strange if not each.isdigit()}
    meant = [f"{folded[words[0]]} for {each}" for each, words in close.items() if words]
    if meant or len(strange) == len(new):
        remedy = f"use {join_values(meant)}" if meant else f"the classes are called {join_values(sorted(known))}"
        warn(f"{note}; {remedy}")
    return note


def _fold(name: str) -> str:
    """Return a name without what people overlook: capitals, blanks, hyphens, invisible characters, Unicode form."""
    plain = unicodedata.normalize("NFKC", name).casefold().strip().replace("_", " ")
    # The hyphen of -1 is a sign; format characters, such as a zero-width space, are invisible.
    shown = (letter for letter in plain[:1] + plain[1:].replace("-", " ") if unicodedata.category(letter) != "Cf")
    return " ".join("".join(shown).split())


def warn_of_similar_names(names: Iterable[str], remedy: str = "class_mapping={}") -> None:
    """Warn of classes that differ in capitals, blanks or Unicode form alone.

    Args:
        names: of the classes.
        remedy: what merges them, as a format for `{old: new}`.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names)):
        alike[_fold(name)].append(name)
    for first, *others in (group for group in alike.values() if len(group) > 1):
        same_in_print = len({unicodedata.normalize("NFC", name) for name in (first, *others)}) == 1
        write = ascii if same_in_print else repr
        group_names = " and ".join(map(write, (first, *others)))
        mapping = write(dict.fromkeys(others, first))
        warn(f"{group_names} count as several classes; if they are one, give {remedy.format(mapping)}")


def warn_of_identifiers(n_classes: int, n_objects: int, source: str) -> None:
    """Warn where the classes seem to be numbers or names of single objects."""
    if n_classes > _MANY and 2 * n_classes > n_objects:
        warn(
            f"{source} has {n_classes:,} classes for {n_objects:,} objects, as if each had a name of its own; choose "
            "the column of the class with label_field=, or make fewer classes with class_mapping="
        )


def note_unread_columns(
    features: Features, label_field: str | None, remedy: str = "label_field= takes the class from another"
) -> str:
    """Return a note of columns that may hold the class where none is read; empty if there are none.

    Warn as well if the name of a column says that it is the class.

    Args:
        features: their columns are looked at.
        label_field: the column that was asked for.
        remedy: what to do with such a column.
    """
    if label_field is not None or "label" in features.frame.columns:
        return ""
    columns: dict[str, None] = {}
    for each in features.by_file:
        sample = each.frame.head(_SEARCHED_ROWS).drop(columns=each.frame.active_geometry_name)
        some = sample.select_dtypes(exclude=["float", "datetime"])
        n_values = {str(name): some[name].map(as_text).nunique() for name in some}
        # A class has several features, unlike an identifier.
        columns |= {name: None for name, n in n_values.items() if 1 < n <= len(sample) / 2}
    if not columns:
        return ""
    note = f"no column 'label'; {remedy}: {join_values(columns)}"
    if any(_fold(name).replace(" ", "") in _CLASS_COLUMNS for name in columns):
        warn(f"{features.name} has {note}")
    return note


def as_text(value: Any) -> str | None:
    """Return a class value as text: numbers without a trailing .0, blanks as None."""
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    return str(value).strip() or None

"""Facts as people read them: a value as text, and several as the table that a notebook shows for an object."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_MOST = 12  # names in a line


def text_of(value: Any) -> str:
    """Return a value as text: decimals to three places, a dash for no number, values by name in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text_of(each)}" for name, each in value.items())
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"


def listed(values: Iterable[object]) -> str:
    """Return names or numbers in one line; of many the first few, and how many there are."""
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(texts) if len(texts) <= _MOST else f"{', '.join(texts[:_MOST])}, ... ({len(texts)} in all)"


def html_table(title: str, facts: Mapping[str, object]) -> str:
    """Return a table with a row for each fact that is not None, for `_repr_html_`: all text escaped, no scripts."""
    return _html(title, [(name, text_of(value)) for name, value in facts.items() if value is not None])


def html_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a line of names above its rows, for `_repr_html_`."""
    return _html(title, ([text_of(value) for value in row] for row in rows), columns)


def _html(title: str, rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> str:
    def line(cell: str, texts: Iterable[str]) -> str:
        style = ' style="text-align: left"'  # notebooks set cells to the right
        return f"<tr>{''.join(f'<{cell}{style}>{escape(text)}</{cell}>' for text in texts)}</tr>"

    head = f"<thead>{line('th', columns)}</thead>" if columns else ""
    body = "".join(line("td", row) for row in rows)
    return f"<div><strong>{escape(title)}</strong><table>{head}<tbody>{body}</tbody></table></div>"

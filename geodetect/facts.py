"""Values as text, and tables of them for notebooks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_MOST = 12  # values in a line


def text_of(value: Any) -> str:
    """Return a value as text: floats to three decimals, a dash for NaN, a mapping in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {text_of(each)}" for name, each in value.items())
    if not isinstance(value, float):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"


def join_values(values: Iterable[object]) -> str:
    """Return values in one line: the first twelve, and the count if there are more."""
    texts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
    return ", ".join(texts) if len(texts) <= _MOST else f"{', '.join(texts[:_MOST])}, ... ({len(texts)} in all)"


def html_table(title: str, facts: Mapping[str, object]) -> str:
    """Return a table with a row for each fact that is not None, for `_repr_html_`; text is escaped."""
    return _html(title, [(name, text_of(value)) for name, value in facts.items() if value is not None])


def html_rows(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table with a header of columns, for `_repr_html_`; text is escaped."""
    return _html(title, ([text_of(value) for value in row] for row in rows), columns)


def _html(title: str, rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> str:
    def line(cell: str, texts: Iterable[str]) -> str:
        style = ' style="text-align: left"'  # notebooks align cells right
        return f"<tr>{''.join(f'<{cell}{style}>{escape(text)}</{cell}>' for text in texts)}</tr>"

    head = f"<thead>{line('th', columns)}</thead>" if columns else ""
    body = "".join(line("td", row) for row in rows)
    return f"<div><strong>{escape(title)}</strong><table>{head}<tbody>{body}</tbody></table></div>"

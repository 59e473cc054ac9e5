"""Tables and lists of facts on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geodetect.facts import text_of

if TYPE_CHECKING:
    from pandas import DataFrame
    from rich.table import Table

_WIDE = 200  # columns without a terminal, so that files and pipes get whole lines
_MEGABYTE = 1000  # kB


def show_table(table: DataFrame, title: str) -> None:
    """Print a frame as a table.

    Args:
        table: its index has the names of the rows.
        title: text above the table.
    """
    from rich.table import Table

    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for name in table.columns:
        shown.add_column(str(name), justify="right")
    for name, row in zip(table.index, table.itertuples(index=False), strict=True):
        shown.add_row(str(name), *(text_of(value) for value in row))
    _show(shown)


def show_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values in two columns; None values are skipped."""
    from rich.table import Table

    shown = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        if value is not None:
            shown.add_row(name, text_of(value))
    _show(shown)


def format_size(path: Path) -> str:
    """Return the size of a file in MB, or in kB below 1 MB."""
    kilobytes = path.stat().st_size / 1000
    return f"{kilobytes:.1f} kB" if kilobytes < _MEGABYTE else f"{kilobytes / _MEGABYTE:.1f} MB"


def _show(table: Table) -> None:
    """Print a table in the width of the terminal, or of `_WIDE` without one."""
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False)
    console.print(table)

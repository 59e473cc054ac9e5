"""Progress of a long task, in a terminal, a notebook or a file."""

from __future__ import annotations

import time
from html import escape
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_PAUSE_S = 0.2  # between two updates of a notebook, each of which is a message to the browser


class Bar:
    """Progress bar, a context manager.

    In a terminal it is a line on stderr, so that stdout stays free. In a notebook it is one output of the cell, which
    needs no widgets and is updated in place. In a file or a pipe it is a line on stderr for each percent, such as
    `12% of 400 windows`.

    Args:
        what: name of what is counted, in the plural.
        total: number to count to.
        done: number done before.
        shown: False shows nothing.
    """

    def __init__(self, what: str, total: int, done: int = 0, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        self._in_notebook = shown and console.is_jupyter
        self._in_lines = shown and not console.is_jupyter and not console.is_terminal
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        drawn = shown and not self._in_notebook and not self._in_lines
        self._progress = Progress(*columns, console=console, disable=not drawn)
        self._task = self._progress.add_task(what, total=total, completed=done)
        self._output: Any = None  # what IPython calls a DisplayHandle
        self._updated = 0.0
        self._percent = 0

    def __enter__(self) -> Self:
        self._progress.start()
        if self._in_notebook:
            from IPython.display import display

            self._output = display(self._render(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        self._update()

    def advance(self, n: int = 1, what: str | None = None) -> None:
        """Advance by `n`, and rename the counted things if `what` is given."""
        self._progress.update(self._task, advance=n, description=what)
        if time.monotonic() - self._updated > _PAUSE_S:
            self._update()
        (task,) = self._progress.tasks
        if self._in_lines and int(task.percentage) > self._percent:
            self._percent = int(task.percentage)
            self._progress.console.out(f"{self._percent}% of {task.total} {task.description}", highlight=False)

    def _update(self) -> None:
        """Update the output in a notebook."""
        if self._output is not None:
            self._output.update(self._render(), raw=True)
            self._updated = time.monotonic()

    def _render(self) -> dict[str, str]:
        """Return the bar as text and HTML for a notebook."""
        (task,) = self._progress.tasks
        total = task.total or 0
        text = f"{task.completed:,.0f} of {total:,.0f} {task.description}"
        if task.finished:
            text += f", {_clock(task.elapsed or 0)}"
        elif task.time_remaining:
            text += f", {_clock(task.time_remaining)} left"
        bar = f'<progress value="{task.completed:.0f}" max="{max(total, 1):.0f}" aria-label="Progress"></progress>'
        return {"text/plain": text, "text/html": f"{bar} {escape(text)}"}


def _clock(seconds: float) -> str:
    """Format a time as minutes and seconds, with hours if needed: 0:07, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"

"""How far a run is: windows done, windows skipped, time left."""

from __future__ import annotations

from types import TracebackType

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Tally:
    """Windows passed, and how many of them the model saw, as a bar while it is entered; in a file or a pipe, as lines.

    Args:
        n_windows: how many there are to pass.
        n_done: how many of them an earlier run has passed.
        shown: whether there is a bar, or a line for each further percent (`12% windows 48/400`, which the plugin for
            QGIS reads); on stderr, so that stdout stays the user's.
    """

    def __init__(self, n_windows: int, n_done: int = 0, *, shown: bool = False) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        console = Console(stderr=True, force_jupyter=False)
        self._in_lines = shown and not console.is_terminal and not get_console().is_jupyter
        self._bar = Progress(*columns, console=console, disable=not shown or self._in_lines)
        self._task = self._bar.add_task("windows", total=n_windows, completed=n_done)
        self._n_passed = self._n_run = self._percent = 0

    def __enter__(self) -> Tally:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def add(self, n_passed: int, n_run: int) -> None:
        """Counts windows that are done; those that are not run hold no valid pixel."""
        self._n_passed += n_passed
        self._n_run += n_run
        n_empty = self._n_passed - self._n_run
        told = f"windows ({n_empty / self._n_passed:.0%} without data)" if n_empty else "windows"
        self._bar.update(self._task, advance=n_passed, description=told)
        (task,) = self._bar.tasks
        if self._in_lines and int(task.percentage) > self._percent:
            self._percent = int(task.percentage)
            self._bar.console.out(f"{self._percent}% {told} {task.completed}/{task.total}", highlight=False)

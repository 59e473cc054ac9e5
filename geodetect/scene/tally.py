"""How far a run is: windows done, windows skipped, time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Tally:
    """Windows passed, and how many of them the model saw, as a bar while it is entered.

    Args:
        n_windows: how many there are to pass.
        n_done: how many of them an earlier run has passed.
        shown: whether there is a bar; on stderr, so that stdout stays the user's.
    """

    def __init__(self, n_windows: int, n_done: int = 0, *, shown: bool = False) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, console=Console(stderr=True, force_jupyter=False), disable=not shown)
        self._task = self._bar.add_task("windows", total=n_windows, completed=n_done)
        self._n_passed = self._n_run = 0

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

"""How far a run is: windows done, windows skipped, time left."""

from __future__ import annotations

from geodetect.progress import Bar


class WindowProgress(Bar):
    """Windows passed, and how many of them the model saw, as a bar while it is entered.

    Args:
        n_windows: how many there are to pass.
        n_done: how many of them an earlier run has passed.
        shown: whether there is a bar.
    """

    def __init__(self, n_windows: int, n_done: int = 0, *, shown: bool = False) -> None:
        super().__init__("windows", n_windows, n_done, shown=shown)
        self._n_passed = self._n_run = 0

    def add(self, n_passed: int, n_run: int) -> None:
        """Count windows that are done; those that are not run hold no valid pixel."""
        self._n_passed += n_passed
        self._n_run += n_run
        n_empty = self._n_passed - self._n_run
        self.advance(n_passed, f"windows ({n_empty / self._n_passed:.0%} without data)" if n_empty else "windows")

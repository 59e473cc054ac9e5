"""Progress of a run: windows done, windows without data, time left."""

from __future__ import annotations

from geodetect.progress import Bar


class WindowProgress(Bar):
    """A progress bar of windows, used as a context manager.

    Args:
        n_windows: total number of windows.
        n_done: number of them done by an earlier run.
        shown: whether to show the bar.
    """

    def __init__(self, n_windows: int, n_done: int = 0, *, shown: bool = False) -> None:
        super().__init__("windows", n_windows, n_done, shown=shown)
        self._n_passed = self._n_run = 0

    def add(self, n_passed: int, n_run: int) -> None:
        """Count windows that are done; those that were not run hold no valid pixel."""
        self._n_passed += n_passed
        self._n_run += n_run
        n_empty = self._n_passed - self._n_run
        self.advance(n_passed, f"windows ({n_empty / self._n_passed:.0%} without data)" if n_empty else "windows")

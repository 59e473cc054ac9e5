"""Rasters of which only some stay open: those that were read last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol


class Closes(Protocol):
    """An object that holds files open until it is closed."""

    def close(self) -> None:
        """Close the files."""


class Held:
    """Rasters that stay open between reads, at most `most` of them; the least recently read is closed first.

    A process may have some thousand files open, and each raster caches decoded blocks. Safe in threads.

    Args:
        most: how many stay open, besides those that are being read; 0: none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._n_reading: OrderedDict[Closes, int] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Held, (self.most,)  # nothing is open in another process

    @contextmanager
    def reading(self, raster: Closes) -> Iterator[None]:
        """Keep the raster open for a `with` block, and afterwards until `most` others were read."""
        with self._lock:
            self._n_reading[raster] = self._n_reading.get(raster, 0) + 1
            self._n_reading.move_to_end(raster)
        try:
            yield
        finally:
            with self._lock:
                self._n_reading[raster] -= 1
                idle = [each for each, n_reading in self._n_reading.items() if not n_reading]
                for each in idle[: max(0, len(self._n_reading) - self.most)]:
                    del self._n_reading[each]
                    each.close()

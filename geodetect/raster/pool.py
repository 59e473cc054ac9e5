"""A pool of readers of which only those that were read last stay open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geodetect.raster.reader import Reader


class ReaderPool:
    """Readers of which at most `most` stay open between reads; the least recently used is closed first.

    A process may have some thousand files open, and each reader caches decoded blocks. Safe in threads.

    Args:
        most: number that stay open, besides those being read; may be 0.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = threading.Lock()
        self._n_reading: OrderedDict[Reader, int] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return ReaderPool, (self.most,)  # nothing is open in another process

    @contextmanager
    def keep_open(self, reader: Reader) -> Iterator[None]:
        """Keep the reader open for a `with` block, and afterwards until `most` others were read."""
        with self._lock:
            self._n_reading[reader] = self._n_reading.get(reader, 0) + 1
            self._n_reading.move_to_end(reader)
        try:
            yield
        finally:
            with self._lock:
                self._n_reading[reader] -= 1
                idle = [each for each, n_reading in self._n_reading.items() if not n_reading]
                for each in idle[: max(0, len(self._n_reading) - self.most)]:
                    del self._n_reading[each]
                    each.close()

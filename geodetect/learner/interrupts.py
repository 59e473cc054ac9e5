"""Ctrl-C, deferred during work that must not be left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def defer_interrupts() -> Iterator[None]:
    """Let Ctrl-C, and a SIGTERM that has a handler, take effect only at the end of the block.

    Python delivers signals to the main thread alone; in others, and for signals without a handler, nothing changes.
    """
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: each for number in _SIGNALS if in_main and callable(each := signal.getsignal(number))}
    waiting: list[tuple[int, Any]] = []
    try:
        for number in handlers:
            signal.signal(number, lambda number, frame: waiting.append((number, frame)))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for came, frame in waiting[:1]:
            handlers[signal.Signals(came)](came, frame)

"""Freed memory is kept inside `kept`, and given back at its end."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import numpy as np
import pytest

from geodetect import memory

BLOCK = 40 << 20  # bytes; glibc gives a block of 32 MiB and more back when it is freed
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is not glibc's here")


def resident() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@glibc
def test_a_freed_block_stays() -> None:
    before = resident()
    np.ones(BLOCK, np.uint8)
    assert resident() < before + BLOCK / 2
    with memory.kept():
        np.ones(BLOCK, np.uint8)
        assert resident() > before + BLOCK / 2


@glibc
def test_memory_goes_back_at_the_end() -> None:
    with memory.kept():
        np.ones(4 * BLOCK, np.uint8)
        held = resident()
    assert resident() < held - 3 * BLOCK


def test_nothing_happens_with_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with memory.kept():
        assert np.ones(BLOCK, np.uint8).all()

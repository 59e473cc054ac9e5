"""Freed memory is kept inside `kept`, and given back at its end."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys

import numpy as np
import pytest

from geodetect import memory

# glibc gives a block of 32 MiB and more back when it is freed. In a process of its own, since others leave memory free
# in which the block may find a place.
RESIDENT = """
import resource
from pathlib import Path
import numpy as np
from geodetect import memory

BLOCK = 40 << 20

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / BLOCK

first = resident()
np.ones(BLOCK, np.uint8)
freed = resident()
with memory.reuse_freed():
    np.ones(BLOCK, np.uint8)
    kept = resident()
print(freed - first, kept - first, resident() - first)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="memory is not glibc's here")
def test_a_freed_block_stays_until_the_end() -> None:
    run = subprocess.run([sys.executable, "-c", RESIDENT], capture_output=True, text=True, check=True)
    freed, kept, after = (float(blocks) for blocks in run.stdout.split())
    assert freed < 0.5
    assert kept > 0.5
    assert after < 0.5


def test_nothing_happens_with_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    with memory.reuse_freed():
        assert np.ones(40 << 20, np.uint8).all()


def test_what_exists_is_left_out_of_collections_until_the_outer_block_ends():
    # What is left out may still be freed when nothing refers to it any more, so the count may fall meanwhile.
    assert not gc.get_freeze_count()
    with memory.freeze_collector():
        assert gc.get_freeze_count()
        with memory.freeze_collector():
            pass
        assert gc.get_freeze_count()
    assert not gc.get_freeze_count()

"""The bar: one line in a terminal, one output in a notebook, lines in a pipe, and nothing on stdout."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[1]
COUNT = """
import time
from geodetect.progress import Bar
with Bar("windows", 400, 100, shown={shown}) as bar:
    for k in range(300):
        bar.advance(what="windows (50% without data)" if k > 150 else None)
        time.sleep(0.002)
"""


def executed(*cells: str) -> list[list[Any]]:
    """What each cell of a notebook shows, none of them a warning or an error."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    where = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [cell.outputs for cell in notebook.cells]
    assert [each for cell in outputs for each in cell if each.output_type in ("stream", "error")] == []
    return outputs


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # jupyter_client and zmq have their own
@pytest.mark.slow
def test_a_notebook_keeps_one_output_of_a_bar() -> None:
    stopped = COUNT.format(shown=True).replace("time.sleep(0.002)", "if k == 20: raise KeyboardInterrupt")
    cells = COUNT.format(shown=True), f"try:{stopped.replace(chr(10), chr(10) + ' ')}\nexcept KeyboardInterrupt: pass"
    (whole,), (part,), none = executed(*cells, COUNT.format(shown=False))
    assert whole.data["text/plain"].startswith("400 of 400 windows (50% without data), 0:0")
    assert '<progress value="400" max="400"' in whole.data["text/html"]
    assert part.data["text/plain"].startswith("121 of 400 windows")
    assert set(part.data) == {"text/plain", "text/html"}
    assert none == []


FINDER = """
import geodetect as gd, geopandas as gpd, numpy as np
class Finder:
    classes, bands, chip_size, overlap, pixel_size_m, min_score = ["car"], (1, 2, 3), 64, 16, None, 0.5
    def detect(self, pixels):
        return [gd.Boxes(np.array([[10.0, 10, 30, 30]]), np.array([0]), np.array([0.9])) for _ in pixels]
"""
DETECT = """
found = gd.detect_objects("sample_data/suburb_test.tif", Finder(), batch_size=4)
len(found)
"""
CUT = """
gd.export_training_data("sample_data/suburb_test.tif", found[:1], {out_dir!r}, chip_size=64, negatives=30).name
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
def test_cells_that_detect_and_cut_have_a_bar_and_a_result(tmp_path: Path) -> None:
    _, detecting, cutting = executed(FINDER, DETECT, CUT.format(out_dir=str(tmp_path / "chips")))
    for outputs, counted in ((detecting, "529 of 529 windows"), (cutting, " chips, ")):
        assert [each.output_type for each in outputs] == ["display_data", "execute_result"]
        assert counted in outputs[0].data["text/plain"]


def test_a_terminal_shows_a_line_on_stderr() -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", COUNT.format(shown=True)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    run = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=theirs, check=True)
    os.close(theirs)
    told = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert run.stdout == b""
    assert "windows (50% without data)" in told
    assert "400/400" in told.rpartition("\r")[0]
    assert told.count("\n") == 1  # it is drawn over itself


def test_a_pipe_gets_a_line_for_each_percent() -> None:
    command = [sys.executable, "-c", COUNT.format(shown=True)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == ""
    lines = run.stderr.splitlines()
    assert len(lines) == 76
    assert lines[0] == "25% of 400 windows"  # which were done before
    assert lines[-1] == "100% of 400 windows (50% without data)"


def test_nothing_is_shown_where_that_is_asked_for() -> None:
    command = [sys.executable, "-c", COUNT.format(shown=False)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout + run.stderr == ""

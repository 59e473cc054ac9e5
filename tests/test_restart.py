"""A run that is stopped at any moment, and gone on with, gives what an undisturbed run gives."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from geodetect import detect_objects
from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, OutputError, RasterError
from geodetect.grid import Grid
from tests.fakes import SHAPE, UPRIGHT, UTM, PaintDetector, painted, write_raster

ROOT = Path(__file__).resolve().parents[1]
TALL = (1500, 120)  # 37 rows of 3 windows: 12 strips of 3 rows, and one of a single row, at a batch size of 2


NO_SHRINKING = [phase for phase in Phase if phase is not Phase.shrink]


class PowerCut(Exception):
    """What stops a run at a moment of the test's choice."""


@dataclass(frozen=True)
class Stops(PaintDetector):
    """A detector that counts its windows, and stops the run when it has seen so many; or does other harm meanwhile."""

    left: list = field(default_factory=lambda: [10**9])
    blocks: str = ""  # a folder that appears under this name
    vanishes: str = ""  # a file that is emptied after 40 windows

    def detect(self, pixels):
        if self.blocks:
            Path(self.blocks).mkdir(exist_ok=True)
        if self.vanishes and self.left[0] < 10**9 - 40:
            os.truncate(self.vanishes, 0)
        self.left[0] -= len(pixels)
        if self.left[0] < 0:
            raise PowerCut
        return super().detect(pixels)


@pytest.fixture(scope="module")
def tall(tmp_path_factory):
    """A scene of many strips, with squares across their borders and a road from top to bottom."""
    rng = np.random.default_rng(5)
    cells = rng.permutation([(x, y) for x in range(2, 80, 16) for y in range(0, 1480, 16)])[:150]
    sizes = rng.integers(4, 15, (150, 2))
    xyxy = np.vstack([np.c_[cells, cells + sizes], [[100, 20, 106, 1400]]])
    truth = Boxes(xyxy, rng.integers(0, 2, len(xyxy)))
    folder = tmp_path_factory.mktemp("tall")
    return write_raster(folder / "tall.tif", painted(TALL, truth), Grid(TALL, UPRIGHT, UTM))


def run(raster, output, model=None, **keywords):
    return detect_objects(raster, model or Stops(), output, batch_size=2, progress=False, **keywords)


def content(path):
    """The features of a file as text, in their order."""
    frame = gpd.read_file(path)
    return list(zip(frame["label"], frame["score"], shapely.to_wkt(frame.geometry, rounding_precision=-1), strict=True))


@pytest.fixture(scope="module")
def undisturbed(tall, tmp_path_factory):
    return content(run(tall, tmp_path_factory.mktemp("undisturbed") / "found.gpkg"))


def test_a_file_holds_what_is_returned_without_one_in_the_same_order(tall, undisturbed):
    found = run(tall, None)
    assert [row[:2] for row in undisturbed] == list(zip(found["label"], found["score"], strict=True))
    assert [row[2] for row in undisturbed] == shapely.to_wkt(found.geometry, rounding_precision=-1).tolist()
    assert len(found) == 151


@settings(max_examples=5, deadline=None, phases=NO_SHRINKING)  # writes files, for minutes where it fails
@given(st.lists(st.integers(0, 90), min_size=1, max_size=3), st.randoms())
def test_stopped_at_any_windows_and_gone_on_with_it_gives_the_same(tall, undisturbed, tmp_path_factory, stops, random):
    folder = tmp_path_factory.mktemp("stopped")
    for n_windows in stops:
        (folder / "found.gpkg").unlink(missing_ok=True)  # the stop before may have come too late
        try:
            run(tall, folder / "found.gpkg", Stops(left=[n_windows]), resume=True)
        except PowerCut:
            assert not (folder / "found.gpkg").exists()
        for file in sorted(folder.glob("found.journal/strip-*")):
            if random.random() < 0.2:  # the disk was not as far as it said
                file.write_bytes(file.read_bytes()[: random.randrange(100)])
    assert content(run(tall, folder / "found.gpkg", resume=True)) == undisturbed
    assert [file.name for file in folder.iterdir()] == ["found.gpkg"]


def test_only_what_is_missing_is_run_again(tall, tmp_path):
    stops, goes_on = Stops(left=[50]), Stops()
    with pytest.raises(PowerCut):
        run(tall, tmp_path / "found.gpkg", stops)
    run(tall, tmp_path / "found.gpkg", goes_on, resume=True)
    n_again = 10**9 - goes_on.left[0]
    assert n_again <= 111 - 50 + 2 * 9  # two strips of nine windows may be under way: batches are launched ahead


def test_without_resume_it_starts_anew(tall, tmp_path):
    with pytest.raises(PowerCut):
        run(tall, tmp_path / "found.gpkg", Stops(left=[50]))
    anew = Stops()
    run(tall, tmp_path / "found.gpkg", anew)
    assert 10**9 - anew.left[0] == 111


def test_a_journal_serves_any_format(tall, undisturbed, tmp_path):
    with pytest.raises(PowerCut):
        run(tall, tmp_path / "found.shp", Stops(left=[50]))
    assert content(run(tall, tmp_path / "found.gpkg", resume=True)) == undisturbed


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"nms_iou": 0.4}, "begun with nms_iou 0.5, not 0.4"),
        ({"nodata": 7}, "begun with nodata None, not 7"),
        ({"overlap": 20}, "begun with overlap 24, not 20"),
        ({"min_score": {"red": 0.6}}, "begun with min_score .*0.5.*, not .*0.6"),
        ({"aoi": shapely.box(353_000, 3_056_000, 353_020, 3_057_000)}, "begun with aoi None, not [0-9a-f]{8}"),
    ],
)
def test_other_settings_are_refused(tall, tmp_path, keywords, message):
    with pytest.raises(PowerCut):
        run(tall, tmp_path / "found.gpkg", Stops(left=[50]))
    with pytest.raises(ArgumentError, match=message):
        run(tall, tmp_path / "found.gpkg", resume=True, **keywords)
    run(tall, tmp_path / "found.gpkg", resume=True)


def test_a_raster_that_changed_meanwhile_is_refused(tall, tmp_path):
    copy = tmp_path / "tall.tif"
    copy.write_bytes(tall.read_bytes())
    with pytest.raises(PowerCut):
        run(copy, tmp_path / "found.gpkg", Stops(left=[50]))
    os.utime(copy, (1, 1))
    with pytest.raises(ArgumentError, match="begun with raster_state"):
        run(copy, tmp_path / "found.gpkg", resume=True)


def test_resume_without_an_output_is_refused(tall):
    with pytest.raises(ArgumentError, match="name the output, or leave resume out"):
        run(tall, None, resume=True)


def test_a_raster_that_breaks_off_keeps_what_was_done(tall, undisturbed, tmp_path):
    broken = tmp_path / "tall.tif"
    broken.write_bytes(tall.read_bytes()[:-200_000])
    message = r"cannot be read at pixels .*; [89] of 13 strips are kept in found\.journal: go on with resume=True"
    with pytest.raises(RasterError, match=message):
        run(broken, tmp_path / "found.gpkg")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["found.journal", "tall.tif"]


def test_a_raster_that_vanishes_keeps_what_was_done(tall, tmp_path):
    copy = tmp_path / "tall.tif"
    copy.write_bytes(tall.read_bytes())
    with pytest.raises(RasterError, match=r"go on with resume=True"):
        run(copy, tmp_path / "found.gpkg", Stops(vanishes=str(copy)))
    assert not (tmp_path / "found.gpkg").exists()


def test_an_output_that_cannot_be_written_keeps_what_was_done(tall, undisturbed, tmp_path):
    with pytest.raises(OutputError, match=r"found\.shp is a folder; .*13 of 13 strips are kept"):
        run(tall, tmp_path / "found.shp", Stops(blocks=str(tmp_path / "found.shp")))
    goes_on = Stops(left=[0])
    assert content(run(tall, tmp_path / "found.gpkg", goes_on, resume=True)) == undisturbed


SLOW = """
import sys, time
from dataclasses import dataclass
from tests.fakes import PaintDetector
from geodetect import detect_objects

@dataclass(frozen=True)
class Stops(PaintDetector):
    def detect(self, pixels):
        time.sleep(0.03)
        return super().detect(pixels)

detect_objects(sys.argv[1], Stops(), sys.argv[2], batch_size=2, resume=True, progress=False)
"""


@pytest.mark.slow
def test_killed_at_random_moments_it_gives_the_same(tall, undisturbed, tmp_path):
    rng = np.random.default_rng(0)
    output, n_killed, n_left_over = tmp_path / "found.gpkg", 0, 0
    command = [sys.executable, "-c", SLOW, str(tall), str(output)]
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    whole = time.perf_counter() - start
    assert content(output) == undisturbed
    while n_killed < 10:
        output.unlink(missing_ok=True)
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(rng.uniform(0.3, 1) * whole)
        process.send_signal(signal.SIGKILL)
        n_killed += process.wait() == -signal.SIGKILL
        n_left_over += (tmp_path / "found.journal").exists()
        if rng.random() < 0.4:
            subprocess.run(command, cwd=ROOT, check=True)
            assert content(output) == undisturbed
    subprocess.run(command, cwd=ROOT, check=True)
    assert content(output) == undisturbed
    assert n_left_over > 0
    assert [file.name for file in tmp_path.iterdir()] == ["found.gpkg"]


def test_a_run_of_which_nothing_was_done_leaves_nothing(tmp_path):
    grid = Grid(SHAPE, UPRIGHT, UTM)
    path = write_raster(tmp_path / "small.tif", painted(), grid)
    with pytest.raises(PowerCut):
        run(path, tmp_path / "found.gpkg", Stops(left=[3]))
    assert [file.name for file in tmp_path.iterdir()] == ["small.tif"]


@dataclass(frozen=True)
class Weighs(Stops):
    """A detector that holds a network under a name of its own."""

    net: torch.nn.Module = field(default_factory=lambda: torch.nn.Linear(2, 2).bfloat16())


def test_another_state_of_a_users_network_is_refused(tall, tmp_path):
    first = Weighs(left=[50])
    with pytest.raises(PowerCut):
        run(tall, tmp_path / "found.gpkg", first)
    with pytest.raises(ArgumentError, match="begun with weights"):
        run(tall, tmp_path / "found.gpkg", Weighs(), resume=True)
    run(tall, tmp_path / "found.gpkg", Weighs(net=first.net), resume=True)


def test_a_raster_that_is_replaced_while_it_is_read_is_told_of(tall, tmp_path):
    copy = tmp_path / "tall.tif"
    copy.write_bytes(tall.read_bytes())

    class Replaces(PaintDetector):
        def detect(self, pixels):
            os.utime(copy, (1, 1))
            return super().detect(pixels)

    for output in (None, tmp_path / "found.gpkg"):
        copy.touch()
        with pytest.warns(UserWarning, match=r"tall\.tif was changed while it was read"):
            run(copy, output, Replaces())


@pytest.mark.parametrize("other", ["found.gpkg", "found.geojson"])
def test_of_two_runs_at_once_one_is_refused_and_the_other_undisturbed(tall, undisturbed, tmp_path, other):
    class Meanwhile(PaintDetector):
        """Starts another run of the same name once the first has written something."""

        told = ""

        def detect(self, pixels):
            if (tmp_path / "found.journal" / "settings.json").exists() and not self.told:
                with pytest.raises(OutputError, match="another run is writing found") as refused:
                    run(tall, tmp_path / other, min_score=0.1)
                type(self).told = str(refused.value)
            return super().detect(pixels)

    run(tall, tmp_path / "found.gpkg", Meanwhile())
    assert "choose another place" in Meanwhile.told
    assert content(tmp_path / "found.gpkg") == undisturbed
    assert os.listdir(tmp_path) == ["found.gpkg"]
    run(tall, tmp_path / other)  # and the lock is gone


def test_a_system_that_removes_no_open_file_loses_no_result(tall, undisturbed, tmp_path, monkeypatch):
    def unlink(path, missing_ok=False):  # as Windows does it, while the run holds its lock
        if path.name.endswith(".lock"):
            raise PermissionError(13, "The process cannot access the file because it is being used")
        os.unlink(path)

    monkeypatch.setattr(Path, "unlink", unlink)
    run(tall, tmp_path / "found.gpkg", min_score=0.1)
    assert content(tmp_path / "found.gpkg") == undisturbed
    run(tall, tmp_path / "found.gpkg", min_score=0.1)  # and the next is let in

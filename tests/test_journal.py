"""What a journal keeps it gives back, whole or not at all."""

import errno
import json
import os

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geodetect.boxes import Boxes
from geodetect.errors import ArgumentError, OutputError
from geodetect.scene.edges import Parts
from geodetect.scene.journal import Journal, journal_of, read_settings
from geodetect.scene.scan import Strip
from tests.fakes import full_disk
from tests.strategies import boxes

SETTINGS = {"raster": "town.tif", "overlap": 64, "min_score": {"car": 0.5}}


@st.composite
def strips(draw, number=3):
    """A strip that saw anything from nothing to a few boxes of each kind."""
    parts = draw(boxes(max_size=5))
    cut = draw(st.lists(st.booleans(), min_size=4 * len(parts), max_size=4 * len(parts)))
    cut = np.array(cut, bool).reshape(-1, 4)
    ground = shapely.box(0, 0, draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6)))
    n_run = draw(st.integers(0, 99))
    return Strip(number, draw(boxes(max_size=5)), draw(boxes(max_size=5)), Parts(parts, cut), n_run, ground)


def same(a, b):
    pairs = [(a.settled, b.settled), (a.held, b.held), (a.parts.boxes, b.parts.boxes)]
    equal = [np.array_equal(getattr(x, n), getattr(y, n)) for x, y in pairs for n in ("xyxy", "labels", "scores")]
    equal += [np.array_equal(a.parts.cut, b.parts.cut), a.ground.equals_exact(b.ground, 0)]
    return all(equal) and (a.number, a.n_run) == (b.number, b.n_run)


def strip(number):
    nothing = Boxes.empty(scored=True)
    return Strip(number, Boxes([[0, 0, 1, number + 1]], [0], [0.5]), nothing, Parts.concat([]), number)


@given(st.data())
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])  # each example begins anew
def test_strips_are_given_back_in_order_whoever_asks(tmp_path, data):
    kept = {number: data.draw(strips(number)) for number in data.draw(st.permutations(range(4)))}
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    for each in kept.values():
        journal.add(each)
    for reader in (journal, Journal(journal.folder, SETTINGS, resume=True)):
        assert reader.done == {0, 1, 2, 3}
        assert all(same(got, kept[number]) for number, got in enumerate(reader.strips()))
    journal.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["shorter", "a flipped bit", "gone", "never renamed"])
def test_a_file_that_is_not_whole_counts_as_not_done(tmp_path, harm):
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    for number in range(3):
        journal.add(strip(number))
    (file,) = journal.folder.glob("strip-1-*")
    content = file.read_bytes()
    if harm == "shorter":
        file.write_bytes(content[:-1])
    elif harm == "a flipped bit":
        file.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    elif harm == "gone":
        file.unlink()
    else:
        file.rename(file.with_name(f"{file.name}.part"))
    again = Journal(journal.folder, SETTINGS, resume=True)
    assert again.done == {0, 2}
    again.add(strip(1))
    assert [each.number for each in Journal(journal.folder, SETTINGS, resume=True).strips()] == [0, 1, 2]
    again.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_bit_of_the_settings_makes_no_other_run_of_it(tmp_path):
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    journal.add(strip(0))
    file, whole = journal.folder / "settings.json", read_settings(journal.folder)
    content, refused = file.read_bytes(), 0
    for bit in range(0, 8 * len(content), 3):  # each place of a byte
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        file.write_bytes(changed)
        try:
            assert read_settings(journal.folder) in (whole, {}) or "checksum" not in changed.decode()
        except OutputError:
            refused += 1
    assert refused > 100
    file.write_bytes(content.replace(b"64", b"65"))
    with pytest.raises(OutputError, match=r"settings\.json is damaged; start anew without resume"):
        Journal(journal.folder, SETTINGS, resume=True)
    file.write_bytes(content.replace(b'"checksum"', b'"checksun"'))
    with pytest.raises(ArgumentError, match="begun with"):  # one with a setting more
        Journal(journal.folder, SETTINGS, resume=True)
    file.write_bytes(json.dumps(whole).encode())  # as earlier versions wrote it
    assert Journal(journal.folder, SETTINGS, resume=True).done == {0}


def test_other_settings_are_refused_by_name(tmp_path):
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    journal.add(strip(0))
    message = (
        r"found\.journal was begun with overlap 64, not 32; go on with the settings it was begun with, or start anew"
    )
    with pytest.raises(ArgumentError, match=message):
        Journal(journal.folder, SETTINGS | {"overlap": 32}, resume=True)
    with pytest.raises(ArgumentError, match="aoi None, not 00ff"):
        Journal(journal.folder, SETTINGS | {"aoi": "00ff"}, resume=True)
    assert Journal(journal.folder, SETTINGS, resume=True).done == {0}


def test_without_resume_an_old_journal_is_replaced_by_the_first_strip(tmp_path):
    old = Journal(tmp_path / "found.journal", SETTINGS | {"overlap": 32})
    old.add(strip(0))
    new = Journal(old.folder, SETTINGS)
    assert new.done == set()
    assert Journal(old.folder, SETTINGS | {"overlap": 32}, resume=True).done == {0}
    new.add(strip(1))
    assert Journal(old.folder, SETTINGS, resume=True).done == {1}


def test_nothing_is_written_before_the_first_strip(tmp_path):
    assert Journal(tmp_path / "found.journal", SETTINGS, resume=True).done == set()
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_it_is_discarded_leaves_a_journal(tmp_path):
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    for number in range(2):
        journal.add(strip(number))
    next(journal.folder.glob("strip-0-*")).unlink()
    assert Journal(journal.folder, SETTINGS, resume=True).done == {1}


def test_what_is_no_journal_is_left_alone(tmp_path):
    folder = tmp_path / "found.journal"
    folder.mkdir()
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"is no journal of geodetect; move it, or choose another output"):
        Journal(folder, SETTINGS)
    (tmp_path / "file.journal").write_text("mine too")
    with pytest.raises(OutputError, match="is no journal"):
        Journal(tmp_path / "file.journal", SETTINGS)


@pytest.mark.parametrize("name", [".DS_Store", "._settings.json", "desktop.ini", "Thumbs.db", ".nfs01"])
def test_what_a_system_puts_into_any_folder_is_in_nobodys_way(tmp_path, name):
    Journal(tmp_path / "found.journal", SETTINGS).add(strip(0))
    (tmp_path / "found.journal" / name).touch()
    journal = Journal(tmp_path / "found.journal", SETTINGS, resume=True)
    assert journal.done == {0}
    journal.discard()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_for_what_is_unfinished_is_empty_and_goes(tmp_path):
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    journal.add(strip(0))
    (journal.folder / "unfinished").mkdir()
    (journal.folder / "unfinished" / "run-0").write_text("of a run that was killed")
    with journal.make_workplace() as folder:
        assert list(folder.iterdir()) == []
    assert not folder.exists()


def test_a_strip_that_can_no_longer_be_read_is_one_sentence(tmp_path):
    journal = Journal(tmp_path / "found.journal", SETTINGS)
    journal.add(strip(0))
    next(journal.folder.glob("strip-0-*")).unlink()
    with pytest.raises(OutputError, match=r"strip-0-\w+\.arrow can no longer be read: .* go on with resume=True"):
        list(journal.strips())


def test_it_lies_beside_the_output_under_one_name_for_all_formats(tmp_path):
    assert journal_of(tmp_path / "found.gpkg") == journal_of(tmp_path / "found.shp") == tmp_path / "found.journal"


def test_a_name_that_is_too_long_for_it_is_refused_at_once(tmp_path):
    with pytest.raises(OutputError, match=os.strerror(errno.ENAMETOOLONG)):
        Journal(journal_of(tmp_path / f"{'x' * 250}.shp"), SETTINGS)


def test_one_of_an_older_version_is_refused(tmp_path):
    folder = tmp_path / "found.journal"
    Journal(folder, SETTINGS).add(strip(0))
    (folder / "settings.json").write_text(json.dumps(SETTINGS))
    with pytest.raises(ArgumentError, match="begun with journal None, not 2"):
        Journal(folder, SETTINGS, resume=True)


def test_a_full_disk_is_one_sentence(tmp_path):
    with full_disk(100), pytest.raises(OutputError) as caught:
        Journal(tmp_path / "found.journal", {}).add(strip(0))
    assert str(caught.value) == f"{tmp_path / 'found.journal'} cannot be written: {os.strerror(errno.EFBIG)}"

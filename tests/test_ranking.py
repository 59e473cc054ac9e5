"""A ranking gives back what it was given, best first, wherever it kept it."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geodetect.boxes import Boxes
from geodetect.scene.ranking import Ranking
from tests.strategies import boxes


def rows(found):
    return np.column_stack([found.xyxy, found.labels, found.scores])


@given(st.lists(boxes(max_size=12), max_size=8), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_runs_on_disk_give_what_sorting_everything_gives(tmp_path, portions, run_size, chunk_size):
    on_disk, in_memory = Ranking(tmp_path, run_size=run_size, chunk_size=chunk_size), Ranking()
    for portion in portions:
        on_disk.add(portion)
        in_memory.add(portion)
    everything = Boxes.concat(portions, scored=True)
    expected = rows(everything[everything.rank()])
    for ranking in (on_disk, in_memory):
        assert np.array_equal(rows(Boxes.concat(ranking.ranked(), scored=True)), expected)
        for _ in range(2):  # gone through as often as is asked for
            gone_through = Boxes.concat(ranking, scored=True)
            assert np.array_equal(rows(gone_through[gone_through.rank()]), expected)


def test_what_exceeds_a_run_goes_to_disk(tmp_path):
    ranking = Ranking(tmp_path, run_size=3)
    for x in range(7):
        ranking.add(Boxes([[x, 0, x + 1, 1]], [0], [x / 10]))
    assert len(list(tmp_path.iterdir())) == 2
    assert [box[0] for some in ranking.ranked() for box in some.xyxy] == [6, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("folder", [None, "here"])
def test_nothing_in_gives_nothing_out(folder, tmp_path):
    ranking = Ranking(tmp_path if folder else None)
    ranking.add(Boxes.empty(scored=True))
    assert list(ranking.ranked()) == []

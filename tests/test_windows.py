"""Windows over scattered ground: those that a list of all would leave, without that list."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geodetect.grid import Tiling, Window
from geodetect.scene.plan import Plan, Selection
from geodetect.windows import Windows, plan_tilings
from tests.fakes import outlines

_SIDE = 300


@st.composite
def grounds(draw: st.DrawFn) -> np.ndarray:
    """Polygons in and about a scene of 300 px: upright, turned, touching, nested, larger than the scene."""
    corner, size = st.integers(-40, _SIDE), st.sampled_from([3, 16, 40, 64, 500])
    boxes = draw(st.lists(st.tuples(corner, corner, size, size), min_size=1, max_size=6))
    polygons = outlines([[x, y, x + width, y + height] for x, y, width, height in boxes])
    return np.array([shapely.affinity.rotate(each, draw(st.sampled_from([0, 0, 30]))) for each in polygons], object)


def tilings() -> st.SearchStrategy[Tiling]:
    chip_size = st.integers(8, 90)
    made = st.builds(
        lambda chip, share, height, width, x, y: Tiling((height, width), chip, int(chip * share), x, y),
        chip_size,
        st.sampled_from([0.0, 0.1, 0.5]),
        st.integers(1, _SIDE),
        st.integers(1, _SIDE),
        st.integers(0, 40),
        st.integers(0, 40),
    )
    return made


def shared(windows: list[Window], polygons: np.ndarray) -> np.ndarray:
    """The largest area that each window shares with one of the polygons, -1 where none is near."""
    frames = shapely.box(*np.array([window.xyxy for window in windows]).reshape(-1, 4).T)[:, None]
    areas = shapely.area(shapely.intersection(frames, polygons))
    return np.where(shapely.dwithin(frames, polygons, 1e-9), areas, -1).max(axis=1)


def check_windows(found: list[Window], every: list[Window], areas: np.ndarray) -> None:
    """Those that share ground are there in their order, and no others; a corner that is barely met may be either."""
    barely = {window for window, area in zip(every, areas, strict=True) if 0 <= area <= 1e-3}
    meeting = [window for window, area in zip(every, areas, strict=True) if area > 1e-3]
    assert [window for window in found if window not in barely] == meeting


@given(tilings(), grounds(), grounds())
def test_windows_are_those_of_the_whole_list_that_meet_each_ground(tiling: Tiling, one: np.ndarray, other: np.ndarray):
    every = list(tiling)
    assert list(Windows.of([tiling])) == every
    check_windows(list(Windows.of([tiling], one)), every, shared(every, one))
    both = np.minimum(shared(every, one), shared(every, other))
    check_windows(list(Windows.of([tiling], one, None, other)), every, both)


@given(grounds(), st.integers(8, 90))
def test_each_part_has_windows_of_its_own_and_no_window_reaches_two(footprints: np.ndarray, chip_size: int) -> None:
    parts = plan_tilings((_SIDE, _SIDE), chip_size, chip_size // 4, footprints)
    windows = Windows.of(parts, footprints)
    reach = shapely.box(*np.array([part.ground.xyxy for part in parts]).T)
    distance = shapely.distance(reach[:, None], reach)
    assert (distance[~np.eye(len(parts), dtype=bool)] >= chip_size).all()
    assert len(windows) == len(list(windows)) == len(set(windows))
    of_part = {window: part for part in parts for window in part}
    every = list(windows)
    assert windows.frames(every).grounds.tolist() == [list(of_part[window].ground.xyxy) for window in every]
    seen = np.zeros((_SIDE, _SIDE), bool)
    for x1, y1, x2, y2 in (window.xyxy for window in windows):
        seen[y1:y2, x1:x2] = True
    y, x = np.indices(seen.shape) + 0.5
    assert seen[shapely.contains_xy(shapely.union_all(footprints), x, y)].all()


def test_ground_that_hangs_together_is_tiled_as_a_whole() -> None:
    touching = outlines([[0, 0, 100, 100], [100, 0, 200, 100], [0, 100, 100, 210]])
    assert (
        plan_tilings((210, 200), 64, 16, touching) == plan_tilings((210, 200), 64, 16) == [Tiling((210, 200), 64, 16)]
    )
    # A gap that a window can reach over does not part them; beyond it each begins at its own corner.
    near, far = (outlines([[0, 0, 100, 100], [100 + gap, 7, 200 + gap, 107]]) for gap in (64, 65))
    assert len(plan_tilings((107, 300), 64, 16, near)) == 1
    assert plan_tilings((107, 300), 64, 16, far) == [Tiling((100, 100), 64, 16), Tiling((100, 100), 64, 16, 165, 7)]


def test_rounded_coordinates_do_not_add_windows() -> None:
    footprints = outlines([[1e-7, -1e-7, 256 + 1e-7, 256], [9_999.9999999, 0, 10_256.0000001, 256]])
    assert list(Windows.of(plan_tilings((256, 10_256), 256, 0, footprints), footprints)) == [
        Window(0, 0, 256, 256),
        Window(10_000, 0, 256, 256),
    ]
    assert len(Windows.of([Tiling((256, 10_256), 256)], footprints)) == 3  # 9,984 to 10,240 and the last one


def test_a_country_with_a_few_files_takes_no_more_than_the_files() -> None:
    shape, rng = (1_340_000, 1_100_000), np.random.default_rng(0)
    corners = rng.integers(0, 1_099_000, (10_000, 2))
    footprints = outlines(np.hstack([corners, corners + 256]))
    # From corner to corner, 5 px wide: 1.7 million pixels long, in a box of 29 million windows.
    river = np.array([shapely.LineString([(0, 0), (1_100_000, 1_340_000)]).buffer(2.5)], object)
    tracemalloc.start()
    start = time.process_time()
    scattered = Windows.of(plan_tilings(shape, 256, 0, footprints), footprints)
    along = Windows.of(plan_tilings(shape, 256, 0), river)
    taken, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 9_000 < len(scattered) <= 11_000
    # Each of 5,235 rows and 4,297 columns that it crosses adds a window, where it is nearly at a corner another one.
    assert 9_530 < len(along) < 9_650
    assert taken < 10
    assert peak < 100 << 20


@given(grounds(), st.integers(8, 90), st.integers(1, 3))
def test_strips_are_whole_rows_and_keep_their_promises(footprints: np.ndarray, chip_size: int, batch_size: int) -> None:
    windows = Windows.of(plan_tilings((_SIDE, _SIDE), chip_size, chip_size // 4, footprints), footprints)
    plan = Plan(windows, Selection(np.zeros(1), 0.5), batch_size)
    strips = [plan.of_strip(number) for number in range(plan.n_strips)]
    assert [window for strip in strips for window in strip] == list(windows)
    assert plan.n_windows(range(plan.n_strips)) == len(windows)
    assert all(len(strip) == plan.n_windows([number]) >= 4 * batch_size for number, strip in enumerate(strips[:-1]))
    for number, strip in enumerate(strips):
        above, below = plan.lines(number)
        assert all(window.xyxy[3] <= above for earlier in strips[:number] for window in earlier)
        assert all(window.y >= below for later in strips[number + 1 :] for window in later)
        # No smaller strip would do: without its last row it has too few windows.
        assert sum(window.y < strip[-1].y for window in strip) < 4 * batch_size


def test_a_whole_scene_is_in_the_strips_that_it_always_was_in() -> None:
    tiling = Tiling((1000, 700), 64, 16)
    plan = Plan(Windows.of([tiling]), Selection(np.zeros(1), 0.5), batch_size=8)
    per_strip = 3 * tiling.n_columns  # of 14 windows each: three rows have the 32 that four batches want
    assert [plan.of_strip(number) for number in range(plan.n_strips)] == [
        tiling[start : start + per_strip] for start in range(0, len(tiling), per_strip)
    ]
    assert plan.lines(1) == (2 * 48 + 64, 6 * 48)
    assert plan.lines(0)[0] == -np.inf
    assert plan.lines(plan.n_strips - 1)[1] == np.inf

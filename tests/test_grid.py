"""Laws of grids and tilings, and pixel sizes worked by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from geodetect.errors import ArgumentError, NotGeoreferenced
from geodetect.grid import Grid, Tiling, Window
from tests.fakes import TRANSFORMS
from tests.strategies import grids, tilings, windows

POINTS = st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), max_size=8)


@given(grids(), POINTS)
def test_to_pixel_undoes_to_map(grid: Grid, points: list[tuple[float, float]]) -> None:
    xy = np.array(points, float).reshape(-1, 2)
    assert np.allclose(grid.to_pixel(grid.to_map(xy)), xy, rtol=0, atol=1e-6)


@given(grids())
def test_no_points_stay_no_points(grid: Grid) -> None:
    assert grid.to_map(np.zeros((0, 2))).shape == (0, 2)
    assert grid.to_pixel(np.zeros((0, 2))).shape == (0, 2)


def test_corners_of_a_south_up_grid_lie_where_its_transform_says() -> None:
    # 3 px of 2 m to the east from 100, 2 px of 5 m to the north from 50: y grows downwards in pixels and northwards.
    grid = Grid((2, 3), Affine(2, 0, 100, 0, 5, 50), CRS.from_epsg(32645))
    assert grid.to_map(np.array([[0, 0], [3, 2]])).tolist() == [[100, 50], [106, 60]]
    assert grid.corners.tolist() == [[100, 50], [106, 50], [106, 60], [100, 60]]
    assert grid.bounds == (100, 50, 106, 60)


def test_a_quarter_turn_to_the_left_by_hand() -> None:
    # Pixel x runs north (0, 1), pixel y runs east (1, 0): the pixel (2, 3) lies 3 east and 2 north of the corner.
    grid = Grid((5, 5), Affine(0, 1, 10, 1, 0, 20))
    assert grid.to_map(np.array([[2.0, 3.0]])).tolist() == [[13, 22]]


@given(st.data(), grids())
def test_a_window_keeps_its_place(data: st.DataObject, grid: Grid) -> None:
    window = data.draw(windows(grid.shape))
    inner, place = grid.window(window), np.array([[0.0, 0.0], [window.width, window.height]])
    assert inner.shape == (window.height, window.width)
    assert np.allclose(inner.to_map(place), grid.to_map(place + np.array([window.x, window.y])), rtol=0, atol=1e-6)


def test_without_a_transform_only_the_plane_has_coordinates() -> None:
    grid = Grid((4, 6), name="photo.jpg")
    with pytest.raises(NotGeoreferenced, match=r"photo\.jpg has no georeference"):
        grid.to_map(np.zeros((1, 2)))
    assert grid.window(Window(1, 1, 2, 2)).transform is None
    assert grid.in_plane().to_map(np.array([[2.0, 3.0]])).tolist() == [[2, 3]]
    assert grid.bounds == (0, 0, 6, 4)


def _at(epsg: int, size: float, x: float, y: float) -> Grid:
    """A grid of 100 x 100 pixels whose centre is (x, y)."""
    return Grid((100, 100), Affine(size, 0, x - 50 * size, 0, -size, y + 50 * size), CRS.from_epsg(epsg))


def test_utm_is_taken_at_its_word() -> None:
    assert _at(32645, 0.15, 353_875, 3_057_565).pixel_sides_m == (0.15, 0.15)


def test_feet_are_converted() -> None:
    # EPSG:2263, New York in US survey feet: 1 ft = 1200/3937 m.
    assert _at(2263, 2.0, 990_000, 200_000).pixel_size_m == pytest.approx(2 * 1200 / 3937, rel=1e-9)


def test_degrees_shrink_with_latitude() -> None:
    # On the ellipsoid at 60 N a degree is 55 800 m from west to east and 111 412 m from south to north.
    width, height = _at(4326, 1e-5, 10, 60).pixel_sides_m
    assert width == pytest.approx(0.55800, rel=1e-4)
    assert height == pytest.approx(1.11412, rel=1e-4)


def test_web_mercator_metres_are_half_as_long_at_60_degrees_north() -> None:
    # y = R ln tan(45 + 60/2 degrees); the map is drawn twice as large as the ground there, to 0.3 % on an ellipsoid.
    y = 6_378_137 * math.log(math.tan(math.radians(75)))
    assert _at(3857, 1.0, 0, y).pixel_size_m == pytest.approx(0.5, rel=4e-3)
    assert _at(3857, 1.0, 0, 0).pixel_size_m == pytest.approx(1.0, rel=1e-2)


def test_rotation_does_not_change_the_size_of_pixels() -> None:
    place = Affine.translation(353_000, 3_057_000) @ Affine.rotation(33) @ Affine.scale(0.5, -0.25)
    assert Grid((10, 10), place, CRS.from_epsg(32645)).pixel_sides_m == pytest.approx((0.5, 0.25))


@given(grids(), st.floats(0.3, 3))
def test_resampling_keeps_the_ground_and_gives_the_size_asked_for(grid: Grid, factor: float) -> None:
    size = grid.pixel_size_m * factor
    if min(n * side / size for n, side in zip(grid.shape[::-1], grid.pixel_sides_m, strict=True)) < 1:
        return  # smaller than one such pixel; refused, as below
    new = grid.resample(size)
    assert np.allclose(new.corners, grid.corners, rtol=0, atol=1e-6)
    # Whole pixels cover the scene, so a side is off by up to half a pixel in all of them.
    for n, side in zip(new.shape[::-1], new.pixel_sides_m, strict=True):
        assert side / size == pytest.approx(1, abs=max(0.51 / n, 0.0101))


def test_a_size_within_a_hundredth_is_the_same_size() -> None:
    grid = _at(32645, 0.15, 353_875, 3_057_565)
    assert grid.resample(0.1505) is grid
    assert grid.resample(None) is grid
    assert grid.resample(0.30).shape == (50, 50)


@pytest.mark.parametrize("size", [0, -1, math.inf, math.nan, "0.3", True])
def test_impossible_sizes_are_refused(size: float) -> None:
    with pytest.raises(ArgumentError, match="pixel_size_m must be above 0"):
        _at(32645, 0.15, 0, 0).resample(size)


def test_a_pixel_larger_than_the_scene_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"larger than the whole of the raster; its pixels measure 0\.15 m"):
        _at(32645, 0.15, 353_875, 3_057_565).resample(100)


def test_sizes_in_metres_need_a_crs() -> None:
    with pytest.raises(NotGeoreferenced, match="no coordinate reference system"):
        Grid((10, 10), Affine.scale(1, -1)).resample(2)


@given(tilings())
def test_windows_stay_inside_the_scene_and_cover_it(tiling: Tiling) -> None:
    height, width = tiling.shape
    seen = np.zeros(tiling.shape, bool)
    for x1, y1, x2, y2 in (window.xyxy for window in tiling):
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        seen[y1:y2, x1:x2] = True
    assert seen.all()


@given(tilings())
def test_windows_have_the_chip_size_where_the_scene_allows_it(tiling: Tiling) -> None:
    height, width = (min(tiling.chip_size, length) for length in tiling.shape)
    assert {(window.height, window.width) for window in tiling} == {(height, width)}


@given(st.data(), tilings())
def test_every_box_no_larger_than_the_overlap_lies_whole_in_some_window(data: st.DataObject, tiling: Tiling) -> None:
    height, width = tiling.shape
    w, h = (data.draw(st.floats(0, min(tiling.overlap, length))) for length in (width, height))
    x, y = data.draw(st.floats(0, width - w)), data.draw(st.floats(0, height - h))
    corners = np.array([window.xyxy for window in tiling])
    assert ((corners[:, :2] <= [x, y]) & (corners[:, 2:] >= [x + w, y + h])).all(axis=1).any()


@given(tilings())
def test_windows_are_a_sequence_in_rows(tiling: Tiling) -> None:
    listed = list(tiling)
    assert len(listed) == len(tiling) == tiling.n_rows * tiling.n_columns
    assert listed == sorted(set(listed), key=lambda window: (window.y, window.x))
    assert tiling[-1] == listed[-1]
    assert tiling[1:3] == listed[1:3]


@given(tilings())
def test_neighbours_share_at_least_the_overlap(tiling: Tiling) -> None:
    starts = sorted({window.x for window in tiling})
    assert all(b - a <= tiling.chip_size - tiling.overlap for a, b in pairwise(starts))


def test_an_overlap_without_a_stride_is_refused() -> None:
    with pytest.raises(ArgumentError, match="got overlap=512, chip_size=512"):
        Tiling((1000, 1000), 512, 512)
    with pytest.raises(ArgumentError, match="got chip_size=0, overlap=0"):
        Tiling((1000, 1000), 0)
    for chip_size, overlap in ((128.0, 0), ("128", 0), (128, 1.5), (128, None)):
        with pytest.raises(ArgumentError, match="whole pixels"):
            Tiling((1000, 1000), chip_size, overlap)  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        Tiling((10, 10), 5)[4]


@pytest.mark.parametrize(
    ("name", "north"),
    # Turned by 20 degrees to the left, north lies 20 degrees to the right of up; x is right, y down.
    [
        ("upright", (0, -1)),
        ("rotated", (math.sin(math.radians(20)), -math.cos(math.radians(20)))),
        ("south_up", (0, 1)),
    ],
)
def test_north_is_where_the_map_says(name, north):
    # UTM's own north leans from the true one, here by 0.7 degrees.
    assert Grid((160, 224), TRANSFORMS[name], CRS.from_epsg(32645)).north == pytest.approx(north, abs=0.02)


def test_north_points_to_the_pole_where_the_map_turns_round_it():
    # In the Arctic stereographic projection the meridian 90 E runs along x, from the pole at the origin outwards.
    grid = Grid((100, 100), Affine(10, 0, 2_000_000, 0, -10, 0), CRS.from_epsg(3995))
    assert grid.north == pytest.approx((-1, 0), abs=1e-3)


def test_north_is_up_the_map_where_the_crs_knows_no_poles():
    site = CRS.from_wkt('LOCAL_CS["site",UNIT["metre",1],AXIS["x",EAST],AXIS["y",NORTH]]')
    assert Grid((100, 100), Affine(1, 0, 0, 0, -1, 0), site).north == pytest.approx((0, -1))
    with pytest.raises(NotGeoreferenced):
        Grid((100, 100)).north  # noqa: B018


@pytest.mark.parametrize("name", TRANSFORMS)
def test_longitude_and_latitude_are_those_of_the_map(name):
    # The central meridian of zone 45 is 87 E, at an easting of 500 km; the equator has a northing of 0.
    grid = Grid((100, 100), TRANSFORMS[name], CRS.from_epsg(32645))
    (lonlat,) = grid.to_lonlat(grid.to_pixel(np.array([[500_000, 0]])))
    assert lonlat == pytest.approx((87, 0), abs=1e-9)
    assert grid.to_lonlat(np.zeros((0, 2))).shape == (0, 2)


def test_longitude_and_latitude_are_nan_where_there_is_none():
    # Beside the disc of the earth that an orthographic map shows, and on the Moon.
    disc = Grid((100, 100), Affine(1, 0, 0, 0, -1, 0), CRS.from_proj4("+proj=ortho +lat_0=90"))
    assert np.isnan(disc.to_lonlat(np.array([[1e8, 0]]))).all()
    moon = Grid((100, 100), Affine(1, 0, 0, 0, -1, 0), CRS.from_user_input("IAU_2015:30110"))
    assert np.isnan(moon.to_lonlat(np.array([[5, 5]]))).all()
    with pytest.raises(NotGeoreferenced):
        Grid((100, 100)).to_lonlat(np.zeros((1, 2)))


@given(windows((300, 400)), st.integers(1, 5), st.integers(1, 60))
def test_windows_that_sample_one_lie_in_it_apart_and_cover_it_where_they_can(window: Window, n: int, side: int) -> None:
    counts = np.zeros((300, 400), int)
    sample = window.spread(n, side)
    for each in sample:
        assert max(each.width, each.height) <= side
        counts[each.y : each.y + each.height, each.x : each.x + each.width] += 1
    inside = np.s_[window.y : window.y + window.height, window.x : window.x + window.width]
    assert counts.max() == 1
    assert counts[inside].sum() == counts.sum()
    assert len(sample) <= n * n
    if max(window.width, window.height) <= n * side:
        assert (counts[inside] == 1).all()
    assert (Window(100, 0, 1000, 10).spread(2, 100)) == [Window(300, 0, 100, 10), Window(800, 0, 100, 10)]

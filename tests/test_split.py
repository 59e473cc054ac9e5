"""Who trains and who validates: no ground in both, the share asked for, classes in both parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

import geodetect as gd
from geodetect.chips.chip import ChipPlan
from geodetect.chips.split import find_footprints, split_at_random, split_by_blocks, split_chips
from geodetect.errors import ArgumentError, LabelsError
from geodetect.grid import Grid, Tiling, Window
from tests.fakes import ROTATED, UPRIGHT, UTM, FakeReader, PaintedScene, outlines


def _ones(n_chips: int) -> np.ndarray:
    """A box of one class in every chip."""
    return np.ones((n_chips, 1), int)


def _footprints(tiling: Tiling) -> np.ndarray:
    return np.array([window.xyxy for window in tiling], float)


@given(st.integers(2, 12), st.integers(2, 12), st.sampled_from([0, 0, 16, 40]), st.integers(0, 99))
def test_no_training_chip_shares_ground_with_validation(rows: int, columns: int, overlap: int, seed: int) -> None:
    stride = 64 - overlap
    footprints = _footprints(Tiling((64 + (rows - 1) * stride, 64 + (columns - 1) * stride), 64, overlap))
    try:
        split = split_by_blocks(footprints, _ones(len(footprints)), 0.2, seed)
    except ArgumentError:
        assert overlap or len(footprints) < 2
        return
    train, valid = outlines(footprints[split.train]), outlines(footprints[split.valid])
    assert len(train)
    assert len(valid)
    assert shapely.area(shapely.intersection(train[:, None], valid[None])).max() == 0
    assert not (split.train & split.valid).any()


@given(st.integers(2, 30), st.integers(0, 2**31), st.floats(0.05, 0.6))
def test_chips_anywhere_are_split_without_common_ground(n_chips: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 10 ** rng.uniform(1, 12), (n_chips, 2))  # from a heap to all over the world
    footprints = np.concatenate([corner, corner + rng.uniform(3, 60, (n_chips, 2))], axis=1)
    try:
        split = split_by_blocks(footprints, _ones(n_chips), share, seed % 100)
    except ArgumentError:
        return
    shared = shapely.intersection(outlines(footprints[split.train])[:, None], outlines(footprints[split.valid])[None])
    sides = shapely.bounds(shared)[..., 2:] - shapely.bounds(shared)[..., :2]
    assert np.nan_to_num(sides).min(axis=-1).max() <= 0.5  # px: such touch only, as rounded world files have it
    assert not (split.train & split.valid).any()


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4])
@pytest.mark.parametrize("overlap", [0, 16])
def test_blocks_hold_out_the_share_asked_for_to_within_a_chip_row(share: float, overlap: int) -> None:
    footprints = _footprints(Tiling((640, 640), 64, overlap))
    for seed in range(10):
        split = split_by_blocks(footprints, _ones(len(footprints)), share, seed)
        n_kept = split.train.sum() + split.valid.sum()
        assert abs(split.valid.sum() - share * n_kept) <= 10
        if not overlap:
            assert n_kept == 100


def test_chips_that_overlap_as_arcgis_cuts_them_share_no_pixel() -> None:
    # 448 px at a stride of 128: 71 % of each chip is in its neighbour.
    footprints = _footprints(Tiling((448 + 30 * 128, 448 + 30 * 128), 448, 320))
    split = split_by_blocks(footprints, _ones(len(footprints)), 0.2, seed=0)
    shared = shapely.intersection(outlines(footprints[split.train])[:, None], outlines(footprints[split.valid])[None])
    assert shapely.area(shared).max() == 0
    n_kept = split.train.sum() + split.valid.sum()
    assert abs(split.valid.sum() / n_kept - 0.2) < 0.05
    assert n_kept > 0.5 * len(footprints)


def test_rare_classes_are_in_both_parts() -> None:
    footprints = _footprints(Tiling((1280, 1280), 64))
    counts = np.zeros((400, 3), int)
    counts[:, 0] = 5
    counts[[3, 57, 111, 209, 333, 390], 1] = 1  # here and there
    counts[[20, 21, 40, 41, 300, 301], 2] = 2  # in two places
    for seed in range(5):
        split = split_by_blocks(footprints, counts, 0.2, seed)
        assert (counts[split.train].sum(axis=0) > 0).all()
        assert (counts[split.valid].sum(axis=0) > 0).all()


def test_single_chips_and_pictures_share_classes_out_too() -> None:
    counts = np.zeros((40, 2), int)
    counts[:, 0], counts[:4, 1] = 1, 1
    for seed in range(10):
        split = split_at_random(np.arange(40), counts, 0.25, seed)
        assert 0 < counts[split.valid, 1].sum() < 4
        assert split.valid.sum() == 10


def test_a_random_split_keeps_a_picture_together() -> None:
    groups = np.repeat(np.arange(10), 3)
    split = split_at_random(groups, _ones(30), 0.2, seed=0)
    assert set(groups[split.train]).isdisjoint(groups[split.valid])
    assert split.valid.sum() == 6


def test_a_split_that_cannot_be_made_names_the_other_one() -> None:
    with pytest.raises(ArgumentError, match='split="random"'):
        split_by_blocks(np.array([[0, 0, 64, 64]], float), _ones(1), 0.2, 0)


# plans


def _plans(grids: list[Grid], *, boxes: int = 1) -> list[ChipPlan]:
    """A chip of 32 px in each of these pictures."""
    readers = [FakeReader(np.zeros((1, 32, 32), np.uint8), grid) for grid in grids]
    box = gd.Boxes([[4, 4, 20, 20]] * boxes, [0] * boxes)
    return [ChipPlan(reader, Window(0, 0, 32, 32), box) for reader in readers]


def _row(place: Affine, crs: CRS | None, n: int = 6, stride: int = 32) -> list[Grid]:
    return [Grid((32, 32), place @ Affine.translation(stride * i, 0), crs, f"{i}.tif") for i in range(n)]


@pytest.mark.parametrize("place", [UPRIGHT, ROTATED])
@pytest.mark.parametrize("crs", [UTM, None])
def test_pictures_lie_side_by_side_in_the_first_one_s_pixels(place: Affine, crs: CRS | None) -> None:
    found = find_footprints(_plans(_row(place, crs)))
    assert found is not None
    assert found == pytest.approx(np.array([[32 * i, 0, 32 * i + 32, 32] for i in range(6)]), abs=1e-4)


def test_pictures_in_two_zones_lie_in_one_plane() -> None:
    grids = _row(UPRIGHT, UTM)
    east = CRS.from_epsg(32646)  # the next zone, where the same ground has an easting below 0
    x, y = 353_016.0, 3_056_992.0
    lon_lat = gd.grid.Transformer.from_crs(UTM, east, always_xy=True).transform(x, y)
    moved = Grid((32, 32), Affine(0.5, 0, lon_lat[0], 0, -0.5, lon_lat[1]), east, "east.tif")
    found = find_footprints(_plans([*grids, moved]))
    assert found is not None
    assert found[-1, :2] == pytest.approx([32, 16], abs=3)  # the zones' norths differ by some degrees


@pytest.mark.parametrize("odd", [Grid((32, 32), name="nowhere.png"), Grid((32, 32), UPRIGHT, None, "unknown.tif")])
def test_pictures_that_lie_nowhere_are_split_whole(odd: Grid) -> None:
    plans = _plans([*_row(UPRIGHT, UTM), odd])
    assert find_footprints(plans) is None
    train, valid, left_out, report = split_chips(plans, 0.2, "blocks", 0)
    assert (len(train), len(valid), len(left_out)) == (5, 2, 0)
    assert "split at random" in report
    assert "" == split_chips(plans, 0.2, "random", 0).report == split_chips(plans[:-1], 0.2, "blocks", 0).report


def test_neighbouring_pictures_that_overlap_are_left_out() -> None:
    train, valid, left_out, _ = split_chips(_plans(_row(UPRIGHT, UTM, n=30, stride=16)), 0.2, "blocks", 0)
    x = [sorted(plan.grid.bounds[0] for plan in part) for part in (train, valid)]
    assert all(abs(a - b) >= 16 for a in x[0] for b in x[1])  # m: chips are 16 m wide
    assert left_out


def test_a_part_without_boxes_is_refused_only_when_it_is_the_training_part() -> None:
    with pytest.raises(LabelsError, match="no training chip holds a box"):
        split_chips(_plans(_row(UPRIGHT, UTM), boxes=0), 0.2, "blocks", 0)
    plans = _plans(_row(UPRIGHT, None, n=1)) + _plans([Grid((32, 32))], boxes=0)
    train, valid, *_ = split_chips(plans, 0.2, "blocks", 0)
    assert (len(train[0].boxes), len(valid[0].boxes)) == (1, 0)


def test_every_world_file_is_rounded_a_little(tmp_path: Path) -> None:
    grids = _row(UPRIGHT @ Affine.translation(0.01, 0), UTM)
    near = [Grid((32, 32), grid.transform @ Affine.translation(0.1 * (i % 2), 0), UTM) for i, grid in enumerate(grids)]
    _, _, left_out, _ = split_chips(_plans(near), 0.2, "blocks", 0)
    assert left_out == []


@pytest.mark.parametrize("split", ["blocks", "random"])
def test_a_raster_no_larger_than_a_chip_is_said_to_be(upright: PaintedScene, split: str) -> None:
    with pytest.raises(
        ArgumentError, match=r"upright.tif is no larger than one chip, 224 x 160 px, .* choose a smaller chip_size"
    ):
        gd.prepare_data(upright.path, upright.truth, chip_size=512, split=split)

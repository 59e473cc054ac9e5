"""Reading windows, masks and resampling, and writing chips."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling

from geodetect.errors import ArgumentError, NotGeoreferenced, OutputError, RasterError
from geodetect.grid import Grid, Tiling, Window
from geodetect.raster import MaskedReader, RasterReader, write_chip
from geodetect.raster.resampling import Axis, resample
from tests.fakes import SHAPE, UPRIGHT, UTM, FakeReader, PaintedScene, painted, write_raster
from tests.oracles_raster import resampled_slowly
from tests.strategies import windows

ANY_SCENE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
WHOLE = Window(0, 0, SHAPE[1], SHAPE[0])


def _whole(path: Path, **options: object) -> tuple[np.ndarray, np.ndarray]:
    """All pixels of a small file."""
    with RasterReader(path, **options) as reader:
        height, width = reader.grid.shape
        return reader.read(Window(0, 0, width, height))


def _noise(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(42).integers(1, 250, shape).astype(dtype)


def test_pixels_tell_where_they_lie(scene: PaintedScene) -> None:
    reader = RasterReader(scene.path)
    pixels, valid = reader.read(Window(40, 70, 30, 20))
    assert np.array_equal(pixels, painted()[:, 70:90, 40:70])
    assert valid.all()
    assert (reader.n_bands, reader.bands, reader.dtype) == (3, (1, 2, 3), np.uint16)
    assert reader.grid == Grid(SHAPE, scene.grid.transform, UTM, scene.path.name)


@given(st.data())
@ANY_SCENE
def test_every_window_is_a_part_of_the_whole(upright: PaintedScene, data: st.DataObject) -> None:
    window = data.draw(windows(SHAPE))
    x1, y1, x2, y2 = window.xyxy
    pixels, valid = RasterReader(upright.path).read(window)
    assert np.array_equal(pixels, painted()[:, y1:y2, x1:x2])
    assert valid.shape == pixels.shape[1:]


@pytest.mark.parametrize("bands", [(1, 1, 1), (3, 1), (2,)])
def test_bands_come_in_the_order_asked_for(upright: PaintedScene, bands: tuple[int, ...]) -> None:
    pixels, _ = _whole(upright.path, bands=bands)
    assert np.array_equal(pixels, painted()[np.array(bands) - 1])


@pytest.mark.parametrize("bands", [(0,), (4,), (1, 2, 7), ()])
def test_bands_that_are_not_there_are_refused(upright: PaintedScene, bands: tuple[int, ...]) -> None:
    with pytest.raises(RasterError, match=r"upright\.tif has bands 1 to 3; got bands=\("):
        RasterReader(upright.path, bands=bands)


@pytest.mark.parametrize("bands", [1, "12", [1.5], [None]])
def test_bands_that_are_neither_numbers_nor_names_are_refused(upright: PaintedScene, bands: object) -> None:
    with pytest.raises(ArgumentError, match="bands must be whole numbers, counted from 1"):
        RasterReader(upright.path, bands=bands)  # type: ignore[arg-type]


# Resampling


@pytest.mark.parametrize("ratio", [2, 1.37, 0.6, 7.3])
@given(st.data())
@ANY_SCENE
def test_a_pixel_is_the_same_through_every_window(
    scenes: dict[str, PaintedScene], ratio: float, data: st.DataObject
) -> None:
    reader = RasterReader(scenes["rotated"].path, pixel_size_m=0.5 * ratio)
    height, width = reader.grid.shape
    whole, _ = reader.read(Window(0, 0, width, height))
    window = data.draw(windows(reader.grid.shape))
    x1, y1, x2, y2 = window.xyxy
    assert np.array_equal(reader.read(window)[0], whole[:, y1:y2, x1:x2])


@pytest.mark.parametrize("ratio", [2, 1.37, 0.6])
def test_resampled_pixels_still_tell_where_they_lie(upright: PaintedScene, ratio: float) -> None:
    reader = RasterReader(upright.path, pixel_size_m=0.5 * ratio, bands=(1, 2))
    pixels, _ = reader.read(Window(0, reader.grid.shape[0] - 12, 8, 8))  # a corner without paint
    y, x = np.indices((8, 8)) + 0.5
    middle = reader.grid.to_map(np.column_stack([x.ravel(), y.ravel() + reader.grid.shape[0] - 12]))
    # The value of a pixel is the index of its column, which is its centre less one half.
    expected = upright.grid.to_pixel(middle) - 0.5
    inner = pixels[:, :, 1:].reshape(2, -1).T, expected.reshape(8, 8, 2)[:, 1:].reshape(-1, 2)
    assert np.abs(inner[0] - inner[1]).max() <= 0.5 + 1e-9


@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.tuples(st.integers(1, 14), st.integers(1, 14)),
    st.integers(0, 2**32 - 1),
)
def test_resampling_equals_the_slow_loop(shape: tuple[int, int], target: tuple[int, int], seed: int) -> None:
    random = np.random.default_rng(seed)
    valid = random.random(shape) < 0.7
    pixels = np.where(valid, random.normal(size=(2, *shape)), 0)
    down, across = (Axis.of(n, m, 0, m) for n, m in zip(shape, target, strict=True))
    got, got_valid = resample(pixels, valid, down, across)
    expected, expected_valid = resampled_slowly(pixels, valid, target)
    assert np.array_equal(got_valid, expected_valid)
    assert np.allclose(got, expected)


def test_nothing_resampled_is_nothing() -> None:
    down, across = Axis.of(20, 10, 2, 5), Axis.of(20, 40, 3, 7)
    pixels = np.zeros((2, down.n_read, across.n_read), np.int16)
    got, valid = resample(pixels, np.zeros(pixels.shape[1:], bool), down, across)
    assert (got.shape, got.dtype, valid.shape) == ((2, 5, 7), np.int16, (5, 7))
    assert not got.any()
    assert not valid.any()


def test_a_mean_of_four_by_hand() -> None:
    # (1 + 2 + 5 + 6) / 4 = 3.5, rounded to the even 4; of the right block two are valid: (3 + 8) / 2 = 5.5, to 6.
    pixels = np.array([[[1, 2, 3, 0], [5, 6, 0, 8]]], np.uint8)
    valid = np.array([[True, True, True, False], [True, True, False, True]])
    got, got_valid = resample(pixels, valid, Axis.of(2, 1, 0, 1), Axis.of(4, 2, 0, 2))
    assert got.tolist() == [[[4, 6]]]
    assert got_valid.tolist() == [[True, True]]


def test_a_pixel_with_less_than_half_is_invalid_and_edges_are_not_dark(tmp_path: Path) -> None:
    # Columns 0 to 4 hold nothing. Of the second target column (2 and 3) nothing is valid, of the third (4 and 5)
    # half is, and it is as bright as what is valid there.
    pixels = np.full((1, 8, 8), 200, np.uint8)
    pixels[:, :, :5] = 0
    path = write_raster(tmp_path / "edge.tif", pixels, Grid((8, 8), UPRIGHT, UTM), nodata=0)
    got, valid = _whole(path, pixel_size_m=1.0)
    assert valid[0].tolist() == [False, False, True, True]
    assert got[0, 0].tolist() == [0, 0, 200, 200]


def test_a_read_that_covers_much_is_made_in_parts(tmp_path: Path) -> None:
    pixels = np.tile(np.arange(6000, dtype=np.uint16), (1, 4000, 1))
    path = write_raster(tmp_path / "large.tif", pixels, Grid((4000, 6000), UPRIGHT, UTM), compress="deflate")
    got, valid = _whole(path, pixel_size_m=5.0)
    # Each pixel is the mean of ten columns: 10 i + 4.5, rounded either way.
    assert (np.abs(got[0] - (10 * np.arange(600) + 4.5)) <= 0.5).all()
    assert (got[0] == got[0, :1]).all()
    assert valid.all()


def test_resampling_needs_metres(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "nowhere.tif", _noise((3, 8, 8)), Grid((8, 8), UPRIGHT))
    with pytest.raises(NotGeoreferenced, match=r"nowhere\.tif"):
        RasterReader(path, pixel_size_m=1.0)


# Masks


def test_nodata_in_all_bands_is_invalid_and_in_one_band_is_a_colour(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 7]], [[0, 9, 7]], [[0, 9, 7]]], np.uint8)
    path = write_raster(tmp_path / "black.tif", pixels, nodata=0, tiled=False)
    got, valid = _whole(path)
    assert valid.tolist() == [[False, True, True]]
    assert np.array_equal(got, pixels)


def test_a_nodata_value_that_is_no_colour_counts_in_any_band(tmp_path: Path) -> None:
    pixels = np.array([[[-9999, 5, 7]], [[-9999, -9999, 7]]], np.int16)
    path = write_raster(tmp_path / "odd.tif", pixels, nodata=-9999, tiled=False)
    got, valid = _whole(path)
    assert valid.tolist() == [[False, False, True]]
    assert got.tolist() == [[[0, 0, 7]], [[0, 0, 7]]]


def test_a_double_that_no_float32_holds_is_no_data(tmp_path: Path) -> None:
    lowest = float(np.finfo(np.float64).min)  # which ArcGIS and GDAL take for no data
    path = write_raster(tmp_path / "d.tif", np.array([[[lowest, 0.5, 1e300, -3.4e38]]]), SQUARE, tiled=False)
    with RasterReader(path) as reader:
        assert reader.read(Window(0, 0, 4, 1))[1].tolist() == [[False, True, False, True]]


def test_what_is_no_number_is_invalid_and_zero(tmp_path: Path) -> None:
    pixels = np.array([[[np.nan, 0.5, np.inf, 0.25]]], np.float32)
    path = write_raster(tmp_path / "holes.tif", pixels, tiled=False)
    got, valid = _whole(path)
    assert valid.tolist() == [[False, True, False, True]]
    assert got.tolist() == [[[0, 0.5, 0, 0.25]]]
    assert got.dtype == np.float32


def test_a_mask_inside_the_file_counts(tmp_path: Path) -> None:
    keep = np.zeros((64, 64), bool)
    keep[10:20, 30:] = True
    path = write_chip(tmp_path / "masked.tif", _noise((3, 64, 64)), Grid((64, 64), UPRIGHT, UTM), keep)
    got, valid = _whole(path)
    assert np.array_equal(valid, keep)
    assert (got[:, ~keep] == 0).all()
    assert (got[:, keep] > 0).all()


def _four_bands(path: Path, fourth: np.ndarray, dtype: str = "uint8") -> Path:
    pixels = np.concatenate([_noise((3, *fourth.shape), dtype), fourth[None].astype(dtype)])
    write_raster(path, pixels, photometric="RGB", alpha="YES")
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3] == ColorInterp.alpha
    return path


@pytest.mark.parametrize(
    ("dtype", "full"),
    [
        *(("uint8", 255), ("uint8", 1), ("uint16", 65535), ("uint16", 255), ("uint16", 2047), ("uint16", 4095)),
        *(("uint16", 1), ("int16", 32767), ("int16", 255), ("int32", 255), ("float32", 255), ("float32", 1)),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_alpha_of_nothing_and_one_other_value_is_a_mask(tmp_path: Path, dtype: str, full: int) -> None:
    alpha = np.full((128, 96), full)
    alpha[:, :40] = 0
    reader = RasterReader(_four_bands(tmp_path / "rgba.tif", alpha, dtype))
    pixels, valid = reader.read(Window(0, 0, 96, 128))
    assert reader.bands == (1, 2, 3)
    assert np.array_equal(valid, alpha > 0)
    assert (pixels[:, ~valid] == 0).all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_alpha_of_many_values_is_a_fourth_band(tmp_path: Path) -> None:
    infrared = np.random.default_rng(1).integers(0, 256, (128, 96))
    reader = RasterReader(_four_bands(tmp_path / "rgbn.tif", infrared))
    pixels, valid = reader.read(Window(0, 0, 96, 128))
    assert reader.bands == (1, 2, 3, 4)
    assert np.array_equal(pixels[3], infrared)
    assert valid.all()


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_few_half_transparent_pixels_leave_alpha_a_mask(tmp_path: Path) -> None:
    alpha = np.full((128, 96), 255)
    alpha[:, :40] = 0
    alpha[5, 40:42] = 100, 200  # warping leaves such at edges
    reader = RasterReader(_four_bands(tmp_path / "soft.tif", alpha))
    assert reader.n_bands == 3
    assert reader.read(Window(40, 5, 2, 1))[1].tolist() == [[False, True]]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_infrared_of_a_nearly_empty_scene_is_a_fourth_band(tmp_path: Path) -> None:
    infrared = np.zeros((512, 512), int)
    infrared[:45, :45] = np.random.default_rng(1).integers(1, 256, (45, 45))  # 0.8 % of all pixels
    assert RasterReader(_four_bands(tmp_path / "rgbn.tif", infrared)).bands == (1, 2, 3, 4)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_alpha_that_is_transparent_where_it_is_looked_at_is_a_mask(tmp_path: Path, dtype: str) -> None:
    alpha = np.zeros((640, 640), int)
    alpha[0:3, 0:3] = 255  # places that are looked at begin further in
    reader = RasterReader(_four_bands(tmp_path / "rgba.tif", alpha, dtype))
    assert reader.bands == (1, 2, 3)
    assert np.array_equal(reader.read(Window(0, 0, 640, 640))[1], alpha > 0)


def _disc() -> np.ndarray:
    y, x = np.indices((512, 512))
    return np.hypot(x - 256, y - 256) < 200


def test_alpha_that_lossy_compression_has_blurred_is_a_mask(tmp_path: Path) -> None:
    pixels = np.concatenate([_noise((3, 512, 512)), 255 * _disc()[None].astype(np.uint8)])
    grid = Grid((512, 512), UPRIGHT, UTM)
    path = write_raster(tmp_path / "rgba.tif", pixels, grid, photometric="RGB", alpha="YES", compress="jpeg")
    with rasterio.open(path) as dataset:
        assert len(np.unique(dataset.read(4))) > 2
    reader = RasterReader(path)
    assert reader.bands == (1, 2, 3)
    assert np.mean(reader.read(Window(0, 0, 512, 512))[1] != _disc()) < 0.002


def _with_mask(path: Path, mask: np.ndarray, **profile: object) -> Path:
    """A raster of 512 px with a mask in a file beside it."""
    write_raster(path, _noise((3, 512, 512)), Grid((512, 512), UPRIGHT, UTM))
    beside = path.with_name(f"{path.name}.msk")
    write_raster(beside, mask[None], **profile)
    with rasterio.open(beside, "r+") as dataset:
        dataset.update_tags(INTERNAL_MASK_FLAGS_1="2")
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_mask_that_lossy_compression_has_blurred_keeps_its_place(tmp_path: Path) -> None:
    blurred = _with_mask(tmp_path / "blurred.tif", 255 * _disc().astype(np.uint8), compress="jpeg", jpeg_quality=40)
    assert np.mean(_whole(blurred)[1] != _disc()) < 0.002
    ones = _with_mask(tmp_path / "ones.tif", _disc().astype(np.uint8))  # as GDAL has it, anything but 0 is valid
    assert np.array_equal(_whole(ones)[1], _disc())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("side", [256, 1024])
def test_a_mask_of_another_size_is_refused(tmp_path: Path, side: int) -> None:
    path = _with_mask(tmp_path / "shrunk.tif", np.full((side, side), 255, np.uint8))
    with pytest.raises(RasterError, match=rf"the mask of shrunk\.tif, .*shrunk\.tif\.msk, .* 512 x 512 px; got {side}"):
        RasterReader(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_an_alpha_band_is_looked_at_once(tmp_path: Path) -> None:
    alpha = np.full((640, 640), 255)
    alpha[:, :320] = 0
    path = _four_bands(tmp_path / "rgba.tif", alpha)
    reader = RasterReader(path)
    path.write_bytes(_four_bands(tmp_path / "other.tif", np.arange(640) % 250 + np.ones((640, 1))).read_bytes())
    assert RasterReader(path).bands == (1, 2, 3, 4)
    assert RasterReader(reader.scene).bands == (1, 2, 3) == pickle.loads(pickle.dumps(reader)).bands


# A value for no data that the file does not declare

SQUARE = Grid((2, 2), UPRIGHT, UTM)
LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize(
    ("dtype", "held", "nodata"),
    [
        *(("float32", -9999, -9999), ("float32", LOWEST, -3.4e38), ("float32", LOWEST, -3.4028235e38)),
        *(("float64", -3.4e38, -3.4e38), ("int16", -32768, -32768), ("uint8", 0, 0), ("uint16", 65535, 65535.0)),
    ],
)
def test_a_value_that_is_told_is_no_data(tmp_path: Path, dtype: str, held: float, nodata: float) -> None:
    pixels = np.array([[[held, 5], [7, 8]]], dtype)
    path = write_raster(tmp_path / "told.tif", pixels, SQUARE, tiled=False)
    got, valid = _whole(path, nodata=nodata)
    assert valid.tolist() == [[False, True], [True, True]]
    assert got.tolist() == [[[0, 5], [7, 8]]]
    assert _whole(path)[1].all()
    assert not RasterReader(path, nodata=nodata).all_valid
    assert not pickle.loads(pickle.dumps(RasterReader(path, nodata=nodata))).read(Window(0, 0, 1, 1))[1].any()


def test_what_is_told_counts_beside_what_the_file_declares(tmp_path: Path) -> None:
    pixels = np.array([[[-1, -9999], [7, 8]]], np.float32)
    path = write_raster(tmp_path / "both.tif", pixels, SQUARE, tiled=False, nodata=-1)
    assert _whole(path, nodata=-9999)[1].tolist() == [[False, False], [True, True]]
    assert _whole(path, nodata=-1)[1].tolist() == [[False, True], [True, True]]


def test_a_colour_that_is_told_counts_where_all_bands_hold_it(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 7]], [[0, 9, 7]]], np.uint8)
    path = write_raster(tmp_path / "black.tif", pixels, Grid((1, 3), UPRIGHT, UTM), tiled=False)
    assert _whole(path, nodata=0)[1].tolist() == [[False, True, True]]
    pixels = np.array([[[-9999, 0, 7]], [[5, -9999, 7]]], np.int16)
    path = write_raster(tmp_path / "odd.tif", pixels, Grid((1, 3), UPRIGHT, UTM), tiled=False)
    assert _whole(path, nodata=-9999)[1].tolist() == [[False, False, True]]


def test_a_value_that_pixels_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "bytes.tif", _noise((1, 2, 2)), SQUARE, tiled=False)
    for nodata in (-9999, 256, 0.5, np.nan, np.inf):
        with pytest.raises(
            RasterError, match=r"bytes\.tif can hold, a whole number from 0 to 255 \(uint8\); got nodata"
        ):
            RasterReader(path, nodata=nodata)
    for nodata in ("-9999", True, [1]):
        with pytest.raises(ArgumentError, match="nodata must be a number"):
            RasterReader(path, nodata=nodata)
    real = write_raster(tmp_path / "real.tif", np.array([[[np.nan, np.inf], [1, 2]]], np.float32), SQUARE, tiled=False)
    for nodata in (np.nan, np.inf):  # never valid anyway
        assert _whole(real, nodata=nodata)[1].tolist() == [[False, False], [True, True]]


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_number_of_a_palette_may_stand_for_no_data(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "palette.tif", np.array([[[0, 1, 2]]], np.uint8), tiled=False)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (1, 1, 1, 255), 1: (2, 2, 2, 255), 2: (1, 2, 3, 255)})
    assert _whole(path, nodata=1)[1].tolist() == [[True, False, True]]


# Ground without data


@pytest.mark.parametrize("kind", ["sparse", "stored", "mask", "alpha", "real"])
@pytest.mark.parametrize("pixel_size_m", [None, 1.5])
def test_a_nearly_empty_raster_reads_as_rasterio_reads_it(
    tmp_path: Path, kind: str, pixel_size_m: float | None
) -> None:
    pixels = np.zeros((3, 640, 640), np.float32 if kind == "real" else np.uint8)
    pixels[:, 70:300, 200:330] = _noise((3, 230, 130))
    path, profile = tmp_path / f"{kind}.tif", {"compress": "deflate", "interleave": "band"}
    if kind in ("sparse", "stored", "real"):
        profile |= {"nodata": 0, "sparse_ok": kind != "stored"}
    if kind == "alpha":
        pixels = np.concatenate([pixels, 255 * (pixels[:1] > 0).astype(np.uint8)])
        profile |= {"photometric": "RGB", "alpha": "YES"}
    write_raster(path, pixels, Grid((640, 640), UPRIGHT, UTM), **profile)
    if kind == "mask":
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(pixels[0] > 0)
    if kind == "sparse":
        with rasterio.open(path, "r+", SPARSE_OK=True) as dataset:
            dataset.build_overviews([2], Resampling.nearest)
            assert dataset.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1) is None
    reader = RasterReader(path, pixel_size_m=pixel_size_m)
    height, width = reader.grid.shape
    for window in (Window(0, 0, width, height), Window(width // 4, height // 8, width // 3, height // 4)):
        got, valid = reader.read(window)
        if pixel_size_m is None:
            x1, y1, x2, y2 = window.xyxy
            assert np.array_equal(got, pixels[:3, y1:y2, x1:x2])
            assert np.array_equal(valid, (pixels[:3] > 0).any(axis=0)[y1:y2, x1:x2])
        got += 1  # they are the caller's own
    empty, invalid = reader.read(Window(0, height - 8, 8, 8))
    assert not invalid.any()
    assert not empty.any()
    assert (empty.shape, empty.dtype) == ((3, 8, 8), pixels.dtype)
    assert reader.read(Window(0, 0, width, height))[1].mean() == pytest.approx((pixels[0] > 0).mean(), abs=0.005)


GRID = Grid((64, 64), UPRIGHT, UTM)


def test_what_may_hold_invalid_pixels_is_known_before_any_is_read(tmp_path: Path, upright: PaintedScene) -> None:
    assert RasterReader(upright.path).all_valid
    assert not MaskedReader(RasterReader(upright.path), shapely.box(0, 0, 9, 9)).all_valid
    for name, dtype, keywords in (("whole", "uint8", {}), ("nodata", "uint8", {"nodata": 0}), ("real", "float32", {})):
        path = write_raster(tmp_path / f"{name}.tif", np.ones((1, 64, 64), dtype), GRID, **keywords)
        assert RasterReader(path).all_valid == (name == "whole")
    with rasterio.open(tmp_path / "whole.tif", "r+") as dataset:
        dataset.write_mask(np.ones((64, 64), bool))
    assert not RasterReader(tmp_path / "whole.tif").all_valid


def test_a_crs_may_be_told_to_a_raster_that_names_none(tmp_path: Path, upright: PaintedScene) -> None:
    path = write_raster(tmp_path / "plane.tif", np.ones((1, 64, 64), np.uint8), Grid((64, 64), UPRIGHT))
    reader = RasterReader(path, crs=UTM, pixel_size_m=1.0)
    assert (reader.grid.crs, reader.grid.shape, reader.own_shape) == (UTM, (32, 32), (64, 64))
    assert pickle.loads(pickle.dumps(reader)).grid == reader.grid
    assert RasterReader(upright.path, crs=UTM.from_epsg(4326)).grid.crs == UTM  # its own counts for more


def test_only_pixels_in_the_area_are_seen(upright: PaintedScene) -> None:
    area = shapely.box(10, 20, 30, 40) | shapely.box(50, 20, 60, 30)
    reader = MaskedReader(RasterReader(upright.path), area)
    pixels, valid = reader.read(Window(5, 15, 60, 30))
    inside = np.zeros((30, 60), bool)
    inside[5:25, 5:25] = inside[5:15, 45:55] = True
    assert np.array_equal(valid, inside)
    assert np.array_equal(pixels, painted()[:, 15:45, 5:65] * inside)
    assert (reader.grid.shape, reader.n_bands) == (SHAPE, 3)
    assert not reader.read(Window(100, 100, 8, 8))[1].any()


def test_an_area_does_not_bring_back_what_is_invalid() -> None:
    reader = MaskedReader(FakeReader(painted(), valid=np.zeros(SHAPE, bool)), shapely.box(0, 0, 50, 50))
    assert not reader.read(WHOLE)[1].any()


# Encodings


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "palette.tif", np.array([[[0, 1, 2, 1]]], np.uint8), tiled=False)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (0, 0, 0, 255), 1: (200, 100, 50, 255), 2: (9, 9, 9, 0)})
    pixels, _ = _whole(path)
    assert pixels[:, 0].T[:2].tolist() == [[0, 0, 0], [200, 100, 50]]
    assert _whole(path, bands=(3,))[0].tolist() == [[[0, 50, pixels[2, 0, 2], 50]]]
    with pytest.raises(RasterError, match=r"has bands 1 to 3; got bands=\(4,\)"):
        RasterReader(path, bands=(4,))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_scale_and_offset_are_applied(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "scaled.tif", np.array([[[10, 20]], [[10, 0]]], np.uint16), tiled=False, nodata=0)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = (0.5, 1.0), (-1.0, 0.0)
    pixels, valid = _whole(path)
    # 10 * 0.5 - 1 = 4, 20 * 0.5 - 1 = 9; the second band is as it is.
    assert pixels.tolist() == [[[4, 9]], [[10, 0]]]
    assert pixels.dtype == np.float32
    assert valid.all()


@pytest.mark.parametrize(
    ("scales", "offsets", "band", "first"),
    [
        # 10 and 20 in the first band: 0.5 * 10 + 1, 0.5 * 20 + 1 where both are of use
        ((0.0, 0.5), (0.0, 1.0), "0 and 0 in band 1", [10, 20]),
        ((np.nan, 0.5), (0.0, 1.0), "nan and 0 in band 1", [10, 20]),
        ((np.inf, 0.5), (0.0, 1.0), "inf and 0 in band 1", [10, 20]),
        ((1e300, 0.5), (0.0, 1.0), "band 1", [10, 20]),  # more than a float32 holds
        ((1e-300, 0.5), (0.0, 1.0), "band 1", [10, 20]),
        ((0.5, 0.0), (1.0, np.nan), "0 and nan in band 2", [6, 11]),
        ((0.5, 1.0), (np.nan, 0.0), "0.5 and nan in band 1", [5, 10]),
        ((1.0, 1.0), (-np.inf, 0.0), "1 and -inf in band 1", [10, 20]),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_scales_and_offsets_that_cannot_be_are_left_out(tmp_path, scales, offsets, band, first) -> None:
    path = write_raster(tmp_path / "scaled.tif", np.array([[[10, 20]], [[30, 40]]], np.uint16), tiled=False)
    with rasterio.open(path, "r+") as dataset:
        dataset.scales, dataset.offsets = scales, offsets
    with pytest.warns(UserWarning, match=rf"scaled\.tif .*{band}.* ignored.*gdal_edit") as warned:
        reader = RasterReader(path)
    assert len(warned) == 1
    assert reader.read(Window(0, 0, 2, 1))[0][0].tolist() == [first]
    assert RasterReader(reader.scene).read(Window(0, 0, 2, 1))[0][0].tolist() == [first]  # without a word


def test_bands_of_two_types_are_read_as_the_wider_one(tmp_path: Path) -> None:
    for name, dtype in (("narrow", "uint8"), ("wide", "int16")):
        write_raster(tmp_path / f"{name}.tif", _noise((1, 8, 8), dtype), tiled=False)
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{name}.tif</SourceFilename></SimpleSource></VRTRasterBand>'
        for i, (kind, name) in enumerate([("Byte", "narrow"), ("Int16", "wide")], 1)
    )
    path = tmp_path / "mixed.vrt"
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</VRTDataset>')
    pixels, _ = _whole(path)
    assert pixels.dtype == np.int16
    assert np.array_equal(pixels[0], pixels[1])


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize("kind", ["complex_int16", "complex64"])
def test_complex_values_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "radar.tif"
    rasterio.open(path, "w", driver="GTiff", count=1, height=8, width=8, dtype=kind).close()
    with pytest.raises(RasterError, match=r"radar\.tif holds complex values"):
        RasterReader(path)


# Georeference


def test_no_georeference_is_no_transform_and_no_warning(tmp_path: Path) -> None:
    reader = RasterReader(write_raster(tmp_path / "photo.tif", _noise((3, 8, 8))))
    assert (reader.grid.transform, reader.grid.crs) == (None, None)


def test_a_transform_may_come_without_a_crs(tmp_path: Path) -> None:
    reader = RasterReader(write_raster(tmp_path / "plane.tif", _noise((3, 8, 8)), Grid((8, 8), UPRIGHT)))
    assert (reader.grid.transform, reader.grid.crs) == (UPRIGHT, None)


def test_a_crs_without_a_transform_places_nothing(tmp_path: Path) -> None:
    reader = RasterReader(write_raster(tmp_path / "halfway.tif", _noise((3, 8, 8)), Grid((8, 8), None, UTM)))
    assert (reader.grid.transform, reader.grid.crs) == (None, None)


def _with_points(path: Path, bend: float) -> Path:
    """A file that control points place, the last one off the plane by `bend` map units."""
    corners = [(0, 0), (0, 96), (64, 0), (64, 96)]
    points = [GroundControlPoint(row, column, *(UPRIGHT @ (column, row))) for row, column in corners]
    points[-1].x += bend
    profile = {"driver": "GTiff", "count": 3, "height": 64, "width": 96, "dtype": "uint8"}
    with rasterio.open(path, "w", gcps=points, crs=UTM.to_wkt(), **profile) as target:
        target.write(_noise((3, 64, 96)))
    return path


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_control_points_on_a_plane_are_a_transform(tmp_path: Path) -> None:
    reader = RasterReader(_with_points(tmp_path / "points.tif", bend=0))
    assert reader.grid.transform is not None
    assert reader.grid.transform.almost_equals(UPRIGHT, 1e-6)
    assert reader.grid.crs == UTM
    assert np.array_equal(reader.read(Window(0, 0, 96, 64))[0], _noise((3, 64, 96)))


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_other_control_points_are_warped(tmp_path: Path) -> None:
    reader = RasterReader(_with_points(tmp_path / "bent.tif", bend=6))
    assert reader.grid.crs == UTM
    assert reader.n_bands == 3
    height, width = reader.grid.shape
    _, valid = reader.read(Window(0, 0, width, height))
    assert 0.5 < valid.mean() < 1


# Errors


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RasterError, match=r"There is no file .*gone\.tif"):
        RasterReader(tmp_path / "gone.tif")


def test_what_is_no_raster_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.tif"
    path.write_text("not a raster")
    with pytest.raises(RasterError, match=r"^text\.tif cannot be read as a raster: "):
        RasterReader(path)


@pytest.mark.parametrize("kind", [{}, {"interleave": "band"}, {"compress": "deflate"}])
def test_threads_read_what_is_stored(tmp_path: Path, kind: dict[str, str]) -> None:
    pixels = _noise((3, 700, 900))
    path = write_raster(tmp_path / "scene.tif", pixels, Grid((700, 900), UPRIGHT, UTM), **kind)
    tiling = Tiling((700, 900), 256, 64)
    with RasterReader(path) as reader, ThreadPoolExecutor(4) as pool:
        for window, (seen, valid) in zip(tiling, pool.map(reader.read, tiling), strict=True):
            x1, y1, x2, y2 = window.xyxy
            np.testing.assert_array_equal(seen, pixels[:, y1:y2, x1:x2])
            assert valid.all()


def test_a_file_that_ends_too_early_is_named_with_the_place(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "short.tif", _noise((1, 256, 256)), Grid((256, 256), UPRIGHT, UTM))
    with rasterio.open(path) as dataset:
        start = int(dataset.get_tag_item("BLOCK_OFFSET_3_3", "TIFF", bidx=1))
    path.write_bytes(path.read_bytes()[: start + 9])
    reader = RasterReader(path)
    assert reader.read(Window(0, 0, 256, 192))[1].all()
    with pytest.raises(RasterError, match=r"short\.tif cannot be read at pixels x 192 to 256, y 192 to 256"):
        reader.read(Window(0, 0, 256, 256))


def test_a_broken_block_is_named_with_its_place(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "torn.tif", _noise((1, 256, 256)), Grid((256, 256), UPRIGHT, UTM), compress="deflate"
    )
    with rasterio.open(path) as dataset:
        # Tile column 2, row 1, so pixels x 128 to 192, y 64 to 128.
        start = int(dataset.get_tag_item("BLOCK_OFFSET_2_1", "TIFF", bidx=1))
    raw = bytearray(path.read_bytes())
    raw[start : start + 200] = b"\xff" * 200
    path.write_bytes(raw)
    reader = RasterReader(path)
    assert reader.read(Window(0, 0, 128, 256))[1].all()
    with pytest.raises(RasterError, match=r"torn\.tif cannot be read at pixels x 128 to 192, y 64 to 128"):
        reader.read(Window(0, 0, 256, 256))
    with pytest.raises(RasterError, match="x 150 to 192, y 100 to 128"):
        reader.read(Window(150, 100, 60, 60))


# Handles


def test_threads_read_the_same(upright: PaintedScene) -> None:
    reader, wrong = RasterReader(upright.path), []

    def check(x: int) -> None:
        for y in range(0, 140, 20):
            pixels, _ = reader.read(Window(x, y, 20, 20))
            if not np.array_equal(pixels, painted()[:, y : y + 20, x : x + 20]):
                wrong.append((x, y))

    threads = [threading.Thread(target=check, args=(x,)) for x in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    reader.close()


def test_a_closed_reader_opens_again(upright: PaintedScene) -> None:
    with RasterReader(upright.path) as reader:
        before, _ = reader.read(WHOLE)
    assert np.array_equal(reader.read(WHOLE)[0], before)


def test_a_view_reads_from_the_open_file(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted(), Grid(SHAPE, UPRIGHT, UTM))
    with RasterReader(path) as reader:
        path.rename(tmp_path / "b.tif")  # nothing can open it under its name
        assert np.array_equal(reader.view(bands=(3, 1)).read(WHOLE)[0], painted()[[2, 0]])
        coarse = reader.view(pixel_size_m=1.0)
    assert coarse.bands == reader.bands
    assert coarse.grid.shape == (SHAPE[0] // 2, SHAPE[1] // 2)


def test_a_reader_travels_to_other_processes(upright: PaintedScene) -> None:
    reader = RasterReader(upright.path, bands=(2, 1), pixel_size_m=1.0)
    other = pickle.loads(pickle.dumps(reader))
    assert (other.bands, other.grid) == (reader.bands, reader.grid)
    assert np.array_equal(other.read(Window(3, 4, 20, 30))[0], reader.read(Window(3, 4, 20, 30))[0])


# Chips


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("n_bands", [1, 3, 4, 6])
def test_a_chip_reads_as_it_was_written(tmp_path: Path, scene: PaintedScene, dtype: str, n_bands: int) -> None:
    window = Window(30, 40, 50, 20)
    pixels = _noise((n_bands, 20, 50), dtype)
    path = write_chip(tmp_path / "chip.tif", pixels, scene.grid.window(window))
    reader = RasterReader(path)
    got, valid = reader.read(Window(0, 0, 50, 20))
    assert np.array_equal(got, pixels)
    assert got.dtype == pixels.dtype
    assert valid.all()
    assert reader.grid.transform is not None
    assert reader.grid.transform.almost_equals(scene.grid.window(window).transform, 1e-9)
    assert reader.grid.crs == UTM
    assert [file.name for file in tmp_path.iterdir()] == ["chip.tif"]


def test_a_chip_without_a_place_stays_without(tmp_path: Path) -> None:
    reader = RasterReader(write_chip(tmp_path / "chip.tif", _noise((3, 8, 8)), Grid((8, 8))))
    assert (reader.grid.transform, reader.grid.crs) == (None, None)


def test_a_chip_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"chip\.tif cannot be written"):
        write_chip(tmp_path / "no" / "chip.tif", _noise((3, 8, 8)), Grid((8, 8)))
    (tmp_path / "chip.tif").mkdir()
    with pytest.raises(OutputError, match=r"chip\.tif cannot be written"):
        write_chip(tmp_path / "chip.tif", _noise((3, 8, 8)), Grid((8, 8)))
    assert [file.name for file in tmp_path.iterdir()] == ["chip.tif"]


def test_the_place_of_a_chip_is_the_place_in_the_scene(upright: PaintedScene) -> None:
    assert upright.grid.window(Window(10, 20, 5, 5)).transform == UPRIGHT @ Affine.translation(10, 20)


# Overviews


def _with_overviews(path: Path, value: int, **profile: object) -> Path:
    """A file of 512 px that holds noise, and `value` in its overviews of 2, 4 and 8 pixels."""
    write_raster(path, _noise((1, 512, 512)), Grid((512, 512), UPRIGHT, UTM), **profile)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4, 8], Resampling.nearest)
    for level in range(3):
        with rasterio.open(path, "r+", OVERVIEW_LEVEL=level) as dataset:
            dataset.write(np.full((1, *dataset.shape), value + level, np.uint8))
    return path


@pytest.mark.parametrize(("ratio", "expected"), [(3.9, None), (4, 100), (7.9, 100), (8, 101), (16, 102), (40, 102)])
def test_the_coarsest_overview_that_is_twice_as_fine_is_read(
    tmp_path: Path, ratio: float, expected: int | None
) -> None:
    path = _with_overviews(tmp_path / "deep.tif", 100)
    pixels, _ = _whole(path, pixel_size_m=0.5 * ratio)
    assert len(pixels[0]) == round(512 / ratio)
    assert (pixels == expected).all() if expected else len(np.unique(pixels)) > 3


def test_the_mean_of_an_overview_is_that_of_the_raster(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", _noise((2, 512, 384)), Grid((512, 384), UPRIGHT, UTM))
    without, _ = _whole(path, pixel_size_m=4.0)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], Resampling.average)
    reader = RasterReader(path, pixel_size_m=4.0)
    pixels, _ = reader.read(Window(0, 0, 48, 64))
    assert reader.grid.transform.almost_equals(Affine(4, 0, UPRIGHT.c, 0, -4, UPRIGHT.f), 1e-9)
    # Overviews of 2 and 4 px were rounded once or twice, by half at most each time.
    assert np.abs(pixels.astype(int) - without).max() <= 1
    part = Window(3, 7, 20, 11)
    assert np.array_equal(reader.read(part)[0], pixels[:, 7:18, 3:23])
    other = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(other.read(part)[0], reader.read(part)[0])


def test_a_mask_that_overviews_do_not_have_is_not_lost(tmp_path: Path) -> None:
    path = _with_overviews(tmp_path / "masked.tif", 100)
    keep = np.zeros((512, 512), np.uint8)
    keep[:256] = 255
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(keep)
    assert path.with_suffix(".tif.msk").exists()
    pixels, valid = _whole(path, pixel_size_m=4.0)
    assert valid[:32].all()
    assert not valid[32:].any()
    assert len(np.unique(pixels)) > 3

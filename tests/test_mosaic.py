"""Many files as one scene: cut-up scenes read as they were, and what does not go together is told."""

from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from xml.sax.saxutils import escape

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio.raw
import pytest
import rasterio
import shapely
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import CRS
from rasterio.enums import Resampling

from geodetect import detect_objects, export_training_data, prepare_data
from geodetect.errors import RasterError
from geodetect.grid import Grid, Window
from geodetect.raster import RasterReader, open_scenes, virtual
from tests.fakes import SHAPE, UPRIGHT, UTM, PaintDetector, PaintedScene, painted, write_raster
from tests.strategies import windows

WHOLE = Window(0, 0, SHAPE[1], SHAPE[0])
ANY_SCENE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def _cut(folder: Path, pixels: np.ndarray, grid: Grid, *, side: int = 64, **profile: object) -> list[Path]:
    """The scene in files of `side` pixels."""
    folder.mkdir(exist_ok=True)
    height, width = grid.shape
    places = [(x, y) for y in range(0, height, side) for x in range(0, width, side)]
    files = []
    for x, y in places:
        window = Window(x, y, min(side, width - x), min(side, height - y))
        part = pixels[:, y : y + side, x : x + side]
        files.append(write_raster(folder / f"{y:04d}_{x:04d}.tif", part, grid.window(window), tiled=False, **profile))
    return files


@pytest.fixture(scope="session")
def cut_up(scenes: dict[str, PaintedScene], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The painted scenes as folders of files of 64 px; the squares at 58 to 70 lie across four of them."""
    folder = tmp_path_factory.mktemp("cut_up")
    for name, scene in scenes.items():
        _cut(folder / name, painted(), scene.grid)
    return {name: folder / name for name in scenes}


# One scene


@pytest.mark.parametrize("name", ["upright", "rotated", "south_up"])
def test_a_cut_up_scene_reads_as_the_scene(scenes: dict[str, PaintedScene], cut_up: dict[str, Path], name: str) -> None:
    reader = RasterReader(cut_up[name])
    pixels, valid = reader.read(WHOLE)
    assert np.array_equal(pixels, painted())
    assert valid.all()
    assert reader.grid.shape == SHAPE
    assert reader.grid.transform is not None
    assert reader.grid.transform.almost_equals(scenes[name].grid.transform, 1e-6)
    assert (reader.grid.crs, reader.dtype, reader.n_bands, reader.name) == (UTM, np.uint16, 3, name)


@given(st.data())
@ANY_SCENE
def test_every_window_is_a_part_of_the_whole(cut_up: dict[str, Path], data: st.DataObject) -> None:
    window = data.draw(windows(SHAPE))
    x1, y1, x2, y2 = window.xyxy
    assert np.array_equal(RasterReader(cut_up["upright"]).read(window)[0], painted()[:, y1:y2, x1:x2])


def test_folder_list_and_pattern_are_the_same(cut_up: dict[str, Path]) -> None:
    files = sorted(cut_up["upright"].iterdir())
    ways = [cut_up["upright"], [str(file) for file in files], tuple(files), str(cut_up["upright"] / "*_*.tif")]
    readers = [RasterReader(way) for way in ways]
    assert all(np.array_equal(reader.read(WHOLE)[0], painted()) for reader in readers)
    assert [reader.name for reader in readers] == ["upright", *2 * ["0000_0000.tif and 11 more"], "*_*.tif"]


def test_a_list_of_one_is_that_one(upright: PaintedScene) -> None:
    assert RasterReader([upright.path]).scene.header.location.text == str(upright.path)


def test_resampling_is_that_of_the_scene(upright: PaintedScene, cut_up: dict[str, Path]) -> None:
    one, many = (RasterReader(path, pixel_size_m=0.8) for path in (upright.path, cut_up["upright"]))
    assert one.grid.shape == many.grid.shape
    window = Window(0, 0, *one.grid.shape[::-1])
    assert np.array_equal(one.read(window)[0], many.read(window)[0])


def test_what_no_file_covers_is_invalid(cut_up: dict[str, Path]) -> None:
    files = [file for file in sorted(cut_up["upright"].iterdir()) if file.name != "0064_0128.tif"]
    pixels, valid = RasterReader(files).read(WHOLE)
    hole = np.zeros(SHAPE, bool)
    hole[64:128, 128:192] = True
    assert np.array_equal(valid, ~hole)
    assert np.array_equal(pixels, painted() * ~hole)


def test_the_later_file_lies_on_top(tmp_path: Path) -> None:
    files = [
        write_raster(tmp_path / f"{value}.tif", np.full((1, 64, 64), value, np.uint8), Grid((64, 64), place, UTM))
        for value, place in ((9, UPRIGHT), (5, UPRIGHT @ Affine.translation(32, 0)))
    ]
    both, reverse = (RasterReader(order).read(Window(0, 0, 96, 64))[0][0, 0] for order in (files, files[::-1]))
    assert both.tolist() == [9] * 32 + [5] * 64
    assert reverse.tolist() == [9] * 64 + [5] * 32


# What files say of their pixels


def test_a_value_for_no_data_counts_as_in_one_file(tmp_path: Path) -> None:
    pixels = painted().astype(np.uint8)  # with 0 in one band here and there, which is a colour
    pixels[:, 30:90, 30:90] = 0
    grid = Grid(SHAPE, UPRIGHT, UTM)
    one = RasterReader(write_raster(tmp_path / "one.tif", pixels, grid, nodata=0))
    many = RasterReader(_cut(tmp_path / "many", pixels, grid, nodata=0))
    assert all(np.array_equal(a, b) for a, b in zip(one.read(WHOLE), many.read(WHOLE), strict=True))
    assert not many.read(Window(30, 30, 60, 60))[1].any()


def test_masks_count(tmp_path: Path) -> None:
    files = _cut(tmp_path / "masked", painted(), Grid(SHAPE, UPRIGHT, UTM))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(files[0], "r+") as dataset:
        mask = np.full(dataset.shape, 255, np.uint8)
        mask[:20] = 0
        dataset.write_mask(mask)
    _, valid = RasterReader(files).read(WHOLE)
    assert not valid[:20, :64].any()
    assert valid.sum() == valid.size - 20 * 64


def _four(folder: Path, fourth: np.ndarray, tagged: range) -> list[Path]:
    """Files of four bands, of which some tag the last as alpha."""
    pixels = np.concatenate([painted(), fourth[None].astype(np.uint16)])
    files = _cut(folder, pixels, Grid(SHAPE, UPRIGHT, UTM), photometric="RGB", alpha="NO")
    for i in tagged:
        with rasterio.open(files[i]) as dataset:
            part, grid = dataset.read(), Grid(dataset.shape, dataset.transform, UTM)
        write_raster(files[i], part, grid, tiled=False, photometric="RGB", alpha="YES")
    return files


def test_near_infrared_tagged_as_alpha_in_some_files_is_a_band(tmp_path: Path) -> None:
    infrared = np.random.default_rng(1).integers(0, 3, SHAPE) * 1000
    for name, tagged in (("some", range(3)), ("all", range(12))):
        reader = RasterReader(_four(tmp_path / name, infrared, tagged))
        pixels, valid = reader.read(WHOLE)
        assert reader.bands == (1, 2, 3, 4)
        assert np.array_equal(pixels[3], infrared)
        assert valid.all()


def test_alpha_that_is_a_mask_in_all_files_is_one(tmp_path: Path) -> None:
    alpha = np.full(SHAPE, 65535)
    alpha[:, :40] = 0
    reader = RasterReader(_four(tmp_path / "rgba", alpha, range(12)))
    pixels, valid = reader.read(WHOLE)
    assert reader.bands == (1, 2, 3)
    assert np.array_equal(valid, alpha > 0)
    assert np.array_equal(pixels, painted() * valid)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_each_file_has_a_palette_of_its_own(tmp_path: Path) -> None:
    files = _cut(tmp_path / "palette", np.ones((1, 32, 64), np.uint8), Grid((32, 64), UPRIGHT, UTM), side=32)
    for file, colour in zip(files, [(200, 100, 50, 255), (9, 8, 7, 255)], strict=True):
        with rasterio.open(file, "r+") as dataset:
            dataset.write_colormap(1, {0: (0, 0, 0, 255), 1: colour})
    reader = RasterReader(files)
    pixels, _ = reader.read(Window(0, 0, 64, 32))
    assert reader.bands == (1, 2, 3)
    assert pixels[:, 5, [5, 60]].T.tolist() == [[200, 100, 50], [9, 8, 7]]


def test_scale_and_offset_are_applied(tmp_path: Path) -> None:
    files = _cut(tmp_path / "scaled", np.full((1, 32, 64), 10, np.uint16), Grid((32, 64), UPRIGHT, UTM), side=32)
    for file in files:
        with rasterio.open(file, "r+") as dataset:
            dataset.scales, dataset.offsets = (0.5,), (-1.0,)
    assert RasterReader(files).read(Window(0, 0, 64, 32))[0].tolist() == np.full((1, 32, 64), 4.0).tolist()
    with rasterio.open(files[0], "r+") as dataset:
        dataset.scales = (0.25,)
    with pytest.raises(RasterError, match=r"same scale and offset; 0000_0000\.tif and 0000_0032\.tif differ"):
        RasterReader(files)


def test_a_file_in_another_crs_lies_where_it_should(tmp_path: Path, upright: PaintedScene) -> None:
    with rasterio.open(upright.path) as dataset, rasterio.vrt.WarpedVRT(dataset, crs="EPSG:4326") as warped:
        place, pixels, mask = warped.transform, warped.read(), warped.dataset_mask()
    grid = Grid(pixels.shape[1:], place, UTM.from_epsg(4326))
    pixels[:, mask == 0] = 65535
    other = write_raster(tmp_path / "degrees.tif", pixels, grid, nodata=65535)
    beside = write_raster(
        tmp_path / "beside.tif", painted(), Grid(SHAPE, UPRIGHT @ Affine.translation(SHAPE[1], 0), UTM), nodata=65535
    )
    third = write_raster(
        tmp_path / "third.tif", painted(), Grid(SHAPE, UPRIGHT @ Affine.translation(2 * SHAPE[1], 0), UTM), nodata=65535
    )
    reader = RasterReader([other, beside, third])
    assert reader.grid.crs == UTM
    corner = reader.grid.to_pixel(np.array([upright.grid.bounds[::3]]))[0].round().astype(int)
    got, valid = reader.read(Window(int(corner[0]) + 20, int(corner[1]) + 20, 30, 30))
    assert valid.all()
    # Twice resampled, pixels still say where they are to within one.
    assert np.abs(got[:2, 15:, :15].astype(int) - painted()[:2, 35:50, 20:35]).max() <= 2


# What does not go together


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    grid = Grid((32, 32), UPRIGHT, UTM)

    def file(name: str, n_bands: int = 3, where: Grid = grid, dtype: str = "uint8") -> Path:
        return write_raster(tmp_path / f"{name}.tif", np.ones((n_bands, 32, 32), dtype), where)

    first, rotated = file("first"), UPRIGHT @ Affine.rotation(10)
    for other, message in (
        (file("grey", 1), r"same number of bands; first\.tif has 3, grey\.tif has 1"),
        (file("deep", dtype="uint16"), r"values of one type; first\.tif holds uint8, deep\.tif uint16"),
        (file("photo", where=Grid((32, 32))), r"photo\.tif has no transform of its own, so its place"),
        (file("plane", where=Grid((32, 32), UPRIGHT)), r"plane\.tif has no coordinate reference system, and first"),
        (file("turned", where=Grid((32, 32), rotated, UTM)), r"turned\.tif is rotated or south-up, .* \(gdalwarp\)"),
        (file("radar", dtype="complex64"), r"radar\.tif holds complex values"),
        (tmp_path / "gone.tif", r"There is no file .*gone\.tif"),
    ):
        with pytest.raises(RasterError, match=message):
            RasterReader([first, other])


def test_what_is_no_raster_is_named(tmp_path: Path, cut_up: dict[str, Path]) -> None:
    (tmp_path / "text.tif").write_text("not a raster")
    with pytest.raises(RasterError, match=r"^text\.tif cannot be read as a raster: "):
        RasterReader([*cut_up["upright"].iterdir(), tmp_path / "text.tif"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RasterError, match=r"empty is a folder without GeoTIFFs \(\.tif, \.tiff\); name one raster"):
        RasterReader(tmp_path / "empty")
    for nothing in ([], 7, [7]):
        with pytest.raises(RasterError, match="a raster is expected as a path or URL, or several of them in a list"):
            RasterReader(nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize("harm", ["gone", "torn"])
def test_a_file_that_breaks_later_is_an_error_with_its_place(tmp_path: Path, harm: str) -> None:
    files = _cut(tmp_path / harm, painted(), Grid(SHAPE, UPRIGHT, UTM), compress="deflate")
    reader = RasterReader(tmp_path / harm)
    if harm == "gone":
        files[5].unlink()  # x 64 to 128, y 64 to 128
    else:
        raw = files[5].read_bytes()
        files[5].write_bytes(raw[:200] + b"\xff" * (len(raw) - 400) + raw[-200:])
    assert reader.read(Window(130, 0, 90, 160))[1].all()
    with pytest.raises(RasterError, match=rf"^{harm} cannot be read at pixels x 64 to 128, y 64 to 128"):
        reader.read(Window(64, 64, 64, 64))


# Handles


def test_a_mosaic_travels_to_other_processes(cut_up: dict[str, Path]) -> None:
    reader = RasterReader(cut_up["rotated"], bands=(2, 1), pixel_size_m=1.0)
    other = pickle.loads(pickle.dumps(reader))
    assert (other.bands, other.grid, other.name) == (reader.bands, reader.grid, "rotated")
    assert np.array_equal(other.read(Window(3, 4, 20, 30))[0], reader.read(Window(3, 4, 20, 30))[0])
    window = Window(50, 30, 8, 8)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(reader.read, window).result()[0], reader.read(window)[0])


def test_threads_read_the_same(cut_up: dict[str, Path]) -> None:
    reader, wrong = RasterReader(cut_up["upright"]), []

    def check(x: int) -> None:
        for y in range(0, 140, 20):
            if not np.array_equal(reader.read(Window(x, y, 20, 20))[0], painted()[:, y : y + 20, x : x + 20]):
                wrong.append((x, y))

    threads = [threading.Thread(target=check, args=(x,)) for x in range(0, 200, 25)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_many_files_are_open_a_few_at_a_time(tmp_path: Path) -> None:
    pixels = np.arange(400 * 400, dtype=np.uint16).reshape(1, 400, 400)
    files = _cut(tmp_path / "many", pixels, Grid((400, 400), UPRIGHT, UTM), side=20)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    reader = RasterReader(files)
    assert np.array_equal(reader.read(Window(0, 0, 400, 400))[0], pixels)
    if before:
        assert len(os.listdir("/proc/self/fd")) - before < len(files) / 2


def test_the_index_goes_away_with_the_reader(cut_up: dict[str, Path]) -> None:
    reader = RasterReader(cut_up["upright"])
    location = reader.scene.header.location
    name = location.text.replace("{index}", location._file)  # type: ignore[attr-defined]
    rasterio.open(name).close()
    del location
    del reader
    with pytest.raises(rasterio.errors.RasterioIOError):
        rasterio.open(name)


def test_overviews_that_all_files_have_are_read(tmp_path: Path) -> None:
    files = _cut(tmp_path / "deep", painted(), Grid(SHAPE, UPRIGHT, UTM))
    plain = RasterReader(files, pixel_size_m=4.0).read(Window(0, 0, 28, 20))[0]
    for file in files:
        with rasterio.open(file, "r+") as dataset:
            dataset.build_overviews([2, 4], Resampling.average)
    reader = RasterReader(files, pixel_size_m=4.0)
    assert np.abs(reader.read(Window(0, 0, 28, 20))[0].astype(int) - plain).max() <= 1
    assert reader._shape == (40, 56)


# From end to end


def test_an_object_across_files_is_one_label_and_one_detection(
    scenes: dict[str, PaintedScene], cut_up: dict[str, Path]
) -> None:
    scene, files = scenes["upright"], sorted(cut_up["upright"].iterdir())
    for source in (cut_up["upright"], files):
        data = prepare_data(source, labels=scene.truth, chip_size=64, split="random")
        once = prepare_data(scene.path, labels=scene.truth, chip_size=64, split="random")
        for one, many in zip(once.plans, data.plans, strict=True):
            assert one.window == many.window
            assert np.array_equal(one.boxes.xyxy, many.boxes.xyxy)
        found = detect_objects(source, PaintDetector(), progress=False)
        alone = detect_objects(scene.path, PaintDetector(), progress=False)
        assert len(found) == len(scene.boxes)
        assert_geodataframe_equal(found, alone)


def test_files_apart_are_scenes_of_their_own(tmp_path: Path, cut_up: dict[str, Path], upright: PaintedScene) -> None:
    away = UPRIGHT @ Affine.translation(100_000, 50.5)
    far = write_raster(tmp_path / "far.tif", painted(), Grid(SHAPE, away, UTM))
    zone = write_raster(tmp_path / "zone.tif", painted(), Grid(SHAPE, UPRIGHT, UTM.from_epsg(32644)))
    files = [*cut_up["upright"].iterdir(), far, zone]
    mosaic, *single = open_scenes(files)
    assert [scene.header.location.text for scene in single] == [str(far), str(zone)]
    assert RasterReader(mosaic).grid.shape == SHAPE
    there = shapely.transform(shapely.box(*upright.boxes.xyxy.T), Grid(SHAPE, away, UTM).to_map)
    truth = [upright.truth, gpd.GeoDataFrame({"label": upright.truth["label"]}, geometry=there, crs=UTM)]
    data = prepare_data(files, labels=pd.concat(truth), chip_size=64, split="random", negatives=0)
    boxes = [[p.boxes for p in data.plans if p.reader.grid.transform.almost_equals(t, 1e-6)] for t in (UPRIGHT, away)]
    assert sum(map(len, boxes[0])) == sum(map(len, boxes[1])) > len(upright.boxes)
    assert "18 objects of 2 classes" in data.report


@pytest.mark.filterwarnings("ignore:9 objects .* in no chip. 1 under 2 px")  # on the corner of four windows
def test_chips_of_a_cut_up_scene_are_exported_as_those_of_the_scene(
    tmp_path: Path, cut_up: dict[str, Path], upright: PaintedScene
) -> None:
    folders = [
        export_training_data(source, upright.truth, tmp_path / name, chip_size=64, progress=False)
        for source, name in ((upright.path, "one"), (cut_up["upright"], "many"))
    ]
    one, many = (sorted((folder / "images").iterdir()) for folder in folders)
    assert [path.name for path in one] == [path.name for path in many]
    for a, b in zip(one, many, strict=True):
        with rasterio.open(a) as first, rasterio.open(b) as second:
            assert np.array_equal(first.read(), second.read())
            assert (first.transform, first.crs) == (second.transform, second.crs)


# What is valid in files that say it in several ways


def _side_by_side(folder: Path, *parts: np.ndarray, **profiles: object) -> list[Path]:
    """Files of 64 px in a row; profiles by the number of the file, as `nodata_1=0`."""
    files = []
    for number, pixels in enumerate(parts, 1):
        profile = {name[:-2]: value for name, value in profiles.items() if name.endswith(f"_{number}")}
        window = Window(64 * (number - 1), 0, 64, 64)
        grid = Grid((64, 64 * len(parts)), UPRIGHT, UTM).window(window)
        files.append(write_raster(folder / f"{number}.tif", pixels, grid, **profile))
    return files


def _read(raster: object, **options: object) -> tuple[np.ndarray, np.ndarray]:
    with RasterReader(raster, **options) as reader:
        height, width = reader.grid.shape
        return reader.read(Window(0, 0, width, height))


def _as_each_alone(files: list[Path], **options: object) -> None:
    """The files read as one scene as they read one by one."""
    alone = [_read(file, **options) for file in files]
    pixels, valid = _read(files, **options)
    assert np.array_equal(valid, np.concatenate([each for _, each in alone], axis=1))
    assert np.array_equal(pixels, np.concatenate([each for each, _ in alone], axis=2))


def _part(dtype: str, value: float, *, bands: int = 3) -> np.ndarray:
    """Noise with a value in all bands to the right, and in the last band alone at the top."""
    pixels = np.random.default_rng(7).integers(20, 200, (bands, 64, 64)).astype(dtype)
    pixels[:, :, 50:] = pixels[-1, :10] = value
    return pixels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("others", [None, 7])
def test_files_with_and_without_a_value_for_no_data_keep_their_own(tmp_path, dtype, bands, others) -> None:
    value = 0 if dtype.startswith("u") else -9999
    parts = _part(dtype, value, bands=bands), _part(dtype, 7, bands=bands)
    files = _side_by_side(tmp_path, *parts, nodata_1=value, nodata_2=others)
    _as_each_alone(files)
    assert not _read(files)[1].all()


@pytest.mark.parametrize(
    ("dtype", "nodata", "declared"),
    [("float32", -9999, None), ("float32", -9999, -1), ("int16", -9999, -9999), ("uint8", 0, None), ("uint8", 0, 9)],
)
def test_a_value_that_is_told_counts_in_all_files(tmp_path, dtype, nodata, declared) -> None:
    files = _side_by_side(tmp_path, _part(dtype, nodata), _part(dtype, nodata), nodata_2=declared)
    _as_each_alone(files, nodata=nodata)
    (whole,) = open_scenes(files, nodata=nodata)
    assert np.array_equal(_read(pickle.loads(pickle.dumps(whole)))[1], _read(files, nodata=nodata)[1])


@pytest.mark.parametrize("bands", [1, 3])
def test_a_value_that_is_told_is_not_mixed_into_pixels_beside_it(tmp_path: Path, bands: int) -> None:
    pixels = np.full((bands, 64, 64), 100, np.float32)
    pixels[:, :, 50:] = -9999
    files = _side_by_side(tmp_path, pixels, pixels)
    shifted = write_raster(tmp_path / "3.tif", pixels, Grid((64, 64), UPRIGHT @ Affine.translation(128.4, 0.3), UTM))
    got, valid = _read([*files, shifted], nodata=-9999)
    assert np.unique(got[:, valid]).tolist() == [100]
    assert valid.mean() == pytest.approx(50 / 64, abs=0.02)


@pytest.mark.parametrize(("dtype", "full"), [("uint16", 2047), ("float32", 255), ("float32", 1), ("uint8", 255)])
def test_alpha_of_any_size_is_a_mask_in_all_files(tmp_path: Path, dtype: str, full: int) -> None:
    parts = [_part(dtype, 0), _part(dtype, 0)]
    alpha = [full * (part[:1] > 0) for part in parts]
    alpha[0][0, 30, :2] = full * 0.4, full * 0.6  # less than half is transparent
    if full == 1:
        alpha = [each.astype(dtype) for each in alpha]
    pixels = [np.concatenate([part, each.astype(dtype)]) for part, each in zip(parts, alpha, strict=True)]
    kind = {f"{name}_{i}": value for i in (1, 2) for name, value in (("photometric", "RGB"), ("alpha", "YES"))}
    _as_each_alone(_side_by_side(tmp_path, *pixels, **kind))


def test_transparent_colours_are_invalid_in_all_files(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(0, 4, (1, 64, 64)).astype(np.uint8)
    files = _side_by_side(tmp_path, numbers, numbers, nodata_1=2)
    for file in files:
        with rasterio.open(file, "r+") as dataset:
            dataset.write_colormap(1, {i: (i, 60 * i, 255 - i, 255) for i in range(4)})
    _as_each_alone(files)
    _as_each_alone(files, nodata=3)
    assert np.array_equal(_read(files, nodata=3)[1], np.concatenate([numbers[0] < 2, numbers[0] < 3], axis=1))


def test_one_warning_tells_of_scales_in_all_files_that_cannot_be(tmp_path: Path) -> None:
    files = _side_by_side(tmp_path, *[_part("uint16", 0)] * 3)
    for file in files:
        with rasterio.open(file, "r+") as dataset:
            dataset.scales = (0, 1, 1)
    with pytest.warns(UserWarning, match=r"1\.tif .*0 and 0 in band 1.*2 other files") as warned:
        pixels, _ = _read(files)
    assert len(warned) == 1
    assert pixels.dtype == np.uint16


@pytest.mark.parametrize(
    ("crs", "origin", "size_map", "side", "step"),
    [
        ("EPSG:32645", (200_000, 3_400_000), 0.3, 512, 512),
        ("EPSG:32645", (200_000, 3_400_000), 0.3, 512, 448),  # with a margin of 64 px
        ("EPSG:32645", (500_000.05, 4_000_000.05), 0.1, 384, 384),
        ("EPSG:3857", (20_037_508.1, 9_000_000.3), 0.01, 512, 512),
        ("EPSG:2226", (200_000, 3_400_000), 0.5 * 1200 / 3937, 512, 512),
        ("EPSG:4326", (-179.1, -16.7), 2.5e-6, 512, 512),
        ("EPSG:2056", (2_600_000, 1_200_000), 0.1, 1024, 1024),
    ],
)
def test_files_side_by_side_hold_every_pixel(
    tmp_path: Path, crs: str, origin: tuple[float, float], size_map: float, side: int, step: int
) -> None:
    """No pixel size here is a binary fraction, so that the borders of neighbours differ by rounding."""
    rng = np.random.default_rng(0)
    whole = np.zeros((1, 2 * step + side, 2 * step + side), np.uint8)
    for row, column in np.ndindex(3, 3):
        pixels = rng.integers(1, 255, (1, side, side), dtype=np.uint8)
        place = Affine(size_map, 0, origin[0], 0, -size_map, origin[1]) @ Affine.translation(step * column, step * row)
        profile = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": None}
        write_raster(tmp_path / f"{row}{column}.tif", pixels, Grid((side, side), place, CRS(crs)), **profile)
        whole[:, step * row :, step * column :][:, :side, :side] = pixels
    with RasterReader(tmp_path) as reader:
        assert reader.grid.shape == whole.shape[1:]
        for window in (Window(0, 0, *whole.shape[:0:-1]), Window(side, step, 256, 256), Window(step - 7, 9, 300, 500)):
            pixels, valid = reader.read(window)
            x1, y1, x2, y2 = window.xyxy
            assert valid.all()
            assert (pixels == whole[:, y1:y2, x1:x2]).all()


def test_a_file_that_could_not_be_read_is_never_left_out_afterwards(tmp_path: Path) -> None:
    # GDAL remembers its name, and later reads it as zeros, all of them valid, without an error.
    files = _cut(tmp_path / "cut", painted(), Grid(SHAPE, UPRIGHT, UTM), compress="deflate")
    window, whole = Window(64, 64, 64, 64), RasterReader(tmp_path / "cut").read(Window(64, 64, 64, 64))
    reader, content = RasterReader(tmp_path / "cut"), files[5].read_bytes()
    files[5].unlink()
    for _ in range(3):
        with pytest.raises(RasterError, match=r"^cut cannot be read at pixels x 64 to 128, y 64 to 128"):
            reader.read(window)
    files[5].write_bytes(content)  # the disk is back
    for _ in range(2):
        for got, due in zip(RasterReader(tmp_path / "cut").read(window), whole, strict=True):
            np.testing.assert_array_equal(got, due)


def test_a_virtual_raster_with_such_a_file_is_not_read_again(tmp_path: Path) -> None:
    files = _cut(tmp_path / "cut", painted(), Grid(SHAPE, UPRIGHT, UTM), compress="deflate")
    sources = "".join(
        f'<SimpleSource><SourceFilename relativeToVRT="0">{file}</SourceFilename><SourceBand>1</SourceBand>'
        '<SourceProperties RasterXSize="64" RasterYSize="64" DataType="UInt16" BlockXSize="64" BlockYSize="64"/>'
        '<SrcRect xOff="0" yOff="0" xSize="64" ySize="64"/>'
        f'<DstRect xOff="{64 * i}" yOff="0" xSize="64" ySize="64"/></SimpleSource>'
        for i, file in enumerate(files[:3])
    )
    place = "<SRS>EPSG:32645</SRS><GeoTransform>353000, 0.5, 0, 3057000, 0, -0.5</GeoTransform>"
    band = f'<VRTRasterBand dataType="UInt16" band="1">{sources}</VRTRasterBand>'
    raster = tmp_path / "cut.vrt"
    raster.write_text(f'<VRTDataset rasterXSize="192" rasterYSize="64">{place}{band}</VRTDataset>')
    content, window = files[1].read_bytes(), Window(64, 0, 64, 64)
    reader = RasterReader(raster)
    files[1].unlink()
    with pytest.raises(RasterError, match=r"0000_0064\.tif"):
        reader.read(window)
    files[1].write_bytes(content)
    for again in (lambda: reader.read(window), lambda: RasterReader(raster).read(window)):
        with pytest.raises(RasterError, match=r"could not be read before.* start Python again"):
            again()


@pytest.mark.parametrize(
    ("path", "again"),
    [
        ("/data/a/scene.tif", "/data/a/././scene.tif"),
        ("C:\\a\\.\\scene.tif", "C:\\a\\.\\.\\scene.tif"),
        ("\\\\nas\\share\\scene.tif", "\\\\nas\\share\\.\\.\\scene.tif"),
        ("/vsicurl/http://x.org/a/scene.tif", "/vsicurl/http://x.org/a/scene.tif"),
    ],
)
def test_another_name_of_the_same_file(tmp_path: Path, path: str, again: str) -> None:
    def index(path: str) -> bytes:
        plain = f'<A relativeToVRT="0">{path}</A>'
        text = plain + f'<A relativeToVRT="0">{escape(plain)}</A>'
        return virtual._write(shapely.to_wkb(np.array([shapely.box(0, 0, 1, 1)])), [text], np.arange(1), None)

    def texts(content: bytes) -> list[str]:
        (file := tmp_path / "index.gpkg").write_bytes(content)
        return pyogrio.raw.read(file)[3][0].tolist()

    assert texts(virtual.respell_index(index(path), 2)) == texts(index(again))

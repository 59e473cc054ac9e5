"""Files that lie far apart: what is found, read and drawn is theirs alone, and takes no more than they do."""

from __future__ import annotations

import os
import resource
import threading
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from geopandas.testing import assert_geodataframe_equal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.errors import LabelsError, RasterError
from geodetect.grid import Grid, Window
from geodetect.raster import RasterReader, ReaderPool
from tests.fakes import CLASSES, SHAPE, TRANSFORMS, TRUTH, UPRIGHT, UTM, PaintDetector, painted, write_raster
from tests.strategies import windows

FAR = 1_000_000  # px
ANY_SCENE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)


def _placed(
    folder: Path, places: Sequence[tuple[float, float]], shape: tuple[int, int] = SHAPE, grid: Affine = UPRIGHT
) -> list[Path]:
    """Painted files whose upper left corners lie at these pixels of one grid."""
    folder.mkdir(exist_ok=True)
    return [
        write_raster(folder / f"{i:05d}.tif", painted(shape), Grid(shape, grid @ Affine.translation(*place), UTM))
        for i, place in enumerate(places)
    ]


def _truth(places: Sequence[tuple[int, int]]) -> gpd.GeoDataFrame:
    """The squares of all these files on the map."""
    every = Boxes.concat([TRUTH.shift(x, y) for x, y in places])
    polygons = shapely.transform(shapely.box(*every.xyxy.T), Grid((1, 1), UPRIGHT).to_map)
    return gpd.GeoDataFrame({"label": [CLASSES[label] for label in every.labels]}, geometry=polygons, crs=UTM)


def _sorted(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    bounds = frame.geometry.bounds.round(3)
    return frame.iloc[np.lexsort(bounds.to_numpy().T)].reset_index(drop=True)


@pytest.fixture(scope="session")
def scattered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files, two of them so near each other that a window of 64 px reaches both."""
    places = [(0, 0), (FAR, 37), (FAR + 13, FAR), (271_828, 314_159), (271_828 + SHAPE[1] + 30, 314_159)]
    _placed(folder := tmp_path_factory.mktemp("scattered") / "files", places)
    return folder


def _as_virtual_raster(folder: Path, name: Path, grid: Grid, *, nodata: str = "") -> Path:
    """What gdalbuildvrt writes for the files of a folder on this grid."""
    bands = []
    for band in (1, 2, 3):
        sources = []
        for file in sorted(folder.iterdir()):
            with RasterReader(file) as reader:
                (x, y), (height, width) = grid.to_pixel(reader.grid.corners[:1])[0].round(), reader.grid.shape
            sources.append(
                f'<SimpleSource><SourceFilename relativeToVRT="0">{file}</SourceFilename>'
                f"<SourceBand>{band}</SourceBand>"
                f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
                f'<DstRect xOff="{x:.0f}" yOff="{y:.0f}" xSize="{width}" ySize="{height}"/></SimpleSource>'
            )
        bands.append(f'<VRTRasterBand dataType="UInt16" band="{band}">{nodata}{"".join(sources)}</VRTRasterBand>')
    place = ", ".join(map(repr, grid.transform.to_gdal()))
    name.write_text(
        f'<VRTDataset rasterXSize="{grid.shape[1]}" rasterYSize="{grid.shape[0]}"><SRS>EPSG:32645</SRS>'
        f"<GeoTransform>{place}</GeoTransform>{''.join(bands)}</VRTDataset>"
    )
    return name


# Detection


def test_what_is_found_is_what_is_found_in_the_files_alone(scattered: Path, tmp_path: Path) -> None:
    model = PaintDetector(chip_size=64, overlap=24)
    files = sorted(scattered.iterdir())
    alone = [gd.detect_objects(file, model, progress=False) for file in files]
    together = gd.detect_objects(scattered, model, progress=False)
    assert len(together) == len(files) * len(TRUTH)
    assert_geodataframe_equal(_sorted(together), _sorted(pd.concat(alone)), check_less_precise=True)
    # Two neighbours are one part, with one tiling over both and the gap between them.
    pair = gd.detect_objects(files[3:], model, progress=False)
    expected = sum(frame.attrs["n_windows"] for frame in [*alone[:3], pair])
    assert together.attrs["n_windows"] == together.attrs["n_windows_run"] == expected
    output = gd.detect_objects(scattered, model, tmp_path / "found.gpkg", progress=False)
    assert_geodataframe_equal(_sorted(gpd.read_file(output, layer="found")), _sorted(together), check_less_precise=True)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_grids_may_be_turned(tmp_path: Path, name: str) -> None:
    places = [(0, 0), (70_000, 9), (31, 50_000)]
    files = _placed(tmp_path / name, places, grid=TRANSFORMS[name])
    alone = pd.concat([gd.detect_objects(file, PaintDetector(), progress=False) for file in files])
    together = gd.detect_objects(tmp_path / name, PaintDetector(), progress=False)
    assert together.attrs["n_windows"] == 3 * 20  # of 64 px that share 24, in 224 x 160
    assert_geodataframe_equal(_sorted(together), _sorted(alone), check_less_precise=True)


def test_files_between_the_pixels_of_others_are_whole(tmp_path: Path) -> None:
    files = _placed(tmp_path / "off", [(0, 0), (70_000.5, 9.25), (31.125, 50_000)])
    found = gd.detect_objects(files, PaintDetector(tolerance=20_000), progress=False)
    assert len(found) == 3 * len(TRUTH)
    assert found.attrs["n_windows"] < 3 * 30


@pytest.mark.parametrize("nodata", ["", "<NoDataValue>65535</NoDataValue>"])
def test_a_virtual_raster_of_the_files_is_the_same(scattered: Path, tmp_path: Path, nodata: str) -> None:
    grid = RasterReader(scattered).grid
    virtual = _as_virtual_raster(scattered, tmp_path / "all.vrt", grid, nodata=nodata)
    model = PaintDetector()
    found = [gd.detect_objects(source, model, progress=False) for source in (scattered, virtual)]
    assert found[0].attrs["n_windows"] == found[1].attrs["n_windows"] < 200
    assert_geodataframe_equal(*map(_sorted, found), check_less_precise=True)
    reader = RasterReader(virtual)
    assert not reader.all_valid
    assert not reader.read(Window(5000, 5000, 100, 100))[1].any()


def test_a_virtual_raster_that_is_covered_or_computed_has_no_footprints(tmp_path: Path) -> None:
    _placed(folder := tmp_path / "files", [(0, 0), (SHAPE[1], 0)])
    whole = Grid((SHAPE[0], 2 * SHAPE[1]), UPRIGHT, UTM)
    virtual = _as_virtual_raster(folder, tmp_path / "whole.vrt", whole)
    assert RasterReader(virtual).footprints is None
    derived = 'band="1" subClass="VRTDerivedRasterBand"><PixelFunctionType>sum</PixelFunctionType>'
    wider = virtual.read_text().replace('rasterXSize="448"', 'rasterXSize="500"', 1)
    (tmp_path / "computed.vrt").write_text(wider.replace('band="1">', derived))
    assert RasterReader(tmp_path / "computed.vrt").footprints is None
    (tmp_path / "wider.vrt").write_text(wider)
    bounds = shapely.bounds(RasterReader(tmp_path / "wider.vrt").footprints)
    assert sorted(bounds.tolist()) == [[0, 0, 224, 160], [224, 0, 448, 160]]


def test_an_aoi_of_pieces_far_apart_takes_their_windows_alone(scattered: Path, tmp_path: Path) -> None:
    grid = RasterReader(scattered).grid
    # One square of the first file, one of the third; what lies between belongs to the bounds of the aoi alone.
    x, y = FAR + 13, FAR
    pieces = shapely.MultiPolygon([shapely.box(25, 15, 50, 40), shapely.box(x + 95, y + 35, x + 120, y + 60)])
    found = gd.detect_objects(scattered, PaintDetector(), aoi=shapely.transform(pieces, grid.to_map), progress=False)
    assert sorted(found["label"]) == ["blue", "red"]
    assert found.attrs["n_windows"] <= 8
    virtual = _as_virtual_raster(scattered, tmp_path / "all.vrt", grid)  # and so of one large raster
    once = gd.detect_objects(virtual, PaintDetector(), aoi=shapely.transform(pieces, grid.to_map), progress=False)
    assert_geodataframe_equal(found, once, check_less_precise=True)
    nowhere = shapely.transform(shapely.box(5000, 5000, 5100, 5100), grid.to_map)
    with pytest.raises(LabelsError, match="the aoi meets none of the files of files"):
        gd.detect_objects(scattered, PaintDetector(), aoi=nowhere, progress=False)


@pytest.mark.parametrize("missing", [[], [5], [1, 2, 5, 6, 7]])
def test_files_with_gaps_that_windows_reach_over_are_the_scene_with_holes(tmp_path: Path, missing: list[int]) -> None:
    grid, holes = Grid(SHAPE, UPRIGHT, UTM), painted()
    for number, (y, x) in enumerate((y, x) for y in range(0, SHAPE[0], 64) for x in range(0, SHAPE[1], 64)):
        part = grid.window(Window(x, y, min(64, SHAPE[1] - x), min(64, SHAPE[0] - y)))
        if number in missing:
            holes[:, y : y + 64, x : x + 64] = 65535
        else:
            (tmp_path / "cut").mkdir(exist_ok=True)
            pixels = painted()[:, y : y + 64, x : x + 64]
            write_raster(tmp_path / "cut" / f"{number:02d}.tif", pixels, part, tiled=False)
    whole = write_raster(tmp_path / "whole.tif", holes, grid, nodata=65535)
    for options in ({}, {"chip_size": 40, "overlap": 10}, {"pixel_size_m": 0.8, "chip_size": 32}):
        model = PaintDetector(tolerance=20_000 if "pixel_size_m" in options else 0)
        one, many = (gd.detect_objects(path, model, progress=False, **options) for path in (whole, tmp_path / "cut"))
        assert_geodataframe_equal(one, many)
        assert one.attrs["n_windows_run"] == many.attrs["n_windows_run"]


def test_a_file_that_moved_is_another_scene_to_resume(tmp_path: Path) -> None:
    class Stops(PaintDetector):
        def detect(self, pixels: np.ndarray) -> list[Boxes]:
            if (tmp_path / "found.journal").exists():
                raise LabelsError("stopped")
            return super().detect(pixels)

    places = [(0, 0), (FAR, 37), (FAR, FAR)]
    _placed(tmp_path / "files", places)
    with pytest.raises(LabelsError, match="go on with resume=True"):
        gd.detect_objects(tmp_path / "files", Stops(), tmp_path / "found.gpkg", batch_size=1, progress=False)
    _placed(tmp_path / "files", [(0, 0), (FAR - 5000, 37), (FAR, FAR)])
    with pytest.raises(ValueError, match="raster_parts"):
        gd.detect_objects(tmp_path / "files", PaintDetector(), tmp_path / "found.gpkg", batch_size=1, resume=True)


@pytest.mark.parametrize("virtual", [False, True])
def test_a_file_that_was_exported_anew_is_another_scene_to_resume(tmp_path: Path, virtual: bool) -> None:
    class Stops(PaintDetector):
        def detect(self, pixels: np.ndarray) -> list[Boxes]:
            if (tmp_path / "found.journal").exists():
                raise LabelsError("stopped")
            return super().detect(pixels)

    _placed(raster := tmp_path / "files", [(0, 0), (FAR, 37)])
    if virtual:
        grid = Grid((SHAPE[0] + 37, FAR + SHAPE[1]), UPRIGHT, UTM)
        raster = _as_virtual_raster(raster, tmp_path / "all.vrt", grid)
    with pytest.raises(LabelsError, match="go on with resume=True"):
        gd.detect_objects(raster, Stops(), tmp_path / "found.gpkg", batch_size=1, progress=False)
    os.utime(tmp_path / "files" / "00001.tif", (1, 1))
    with pytest.raises(ValueError, match="begun with raster_state"):
        gd.detect_objects(raster, PaintDetector(), tmp_path / "found.gpkg", batch_size=1, resume=True)


def test_a_virtual_raster_that_lacks_a_file_is_refused(tmp_path: Path) -> None:
    _placed(tmp_path / "files", [(0, 0), (FAR, 37)])
    grid = Grid((SHAPE[0] + 37, FAR + SHAPE[1]), UPRIGHT, UTM)
    raster = _as_virtual_raster(tmp_path / "files", tmp_path / "all.vrt", grid)
    (tmp_path / "files" / "00001.tif").unlink()
    with pytest.raises(RasterError, match=r"all\.vrt .* 00001\.tif is missing"):
        gd.detect_objects(raster, PaintDetector(), progress=False)


def test_hidden_files_of_a_folder_are_none_of_the_scene(tmp_path: Path) -> None:
    (file,) = _placed(tmp_path / "files", [(0, 0)])
    (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7 of macOS")
    assert len(gd.detect_objects(file.parent, PaintDetector(), progress=False)) == len(TRUTH)


# Reading


@given(st.data())
@ANY_SCENE
def test_windows_over_nothing_and_something_read_as_of_one_file(tmp_path: Path, data: st.DataObject) -> None:
    grid, folder = Grid(SHAPE, UPRIGHT, UTM), tmp_path / "some"
    if not folder.exists():
        folder.mkdir()
        holes = np.full_like(painted(), 65535)
        for x, y, width, height in ((0, 0, 50, 40), (120, 30, 61, 33), (150, 63, 20, 50), (223, 159, 1, 1)):
            part = painted()[:, y : y + height, x : x + width]
            holes[:, y : y + height, x : x + width] = part
            write_raster(folder / f"{x}.tif", part, grid.window(Window(x, y, width, height)), tiled=False)
        write_raster(tmp_path / "whole.tif", holes, grid, nodata=65535)
    size = data.draw(st.sampled_from([None, 0.2, 0.5, 0.8, 3.0, 40.0]))
    one, many = (RasterReader(path, pixel_size_m=size) for path in (tmp_path / "whole.tif", folder))
    assert one.grid.shape == many.grid.shape
    window = data.draw(windows(one.grid.shape))
    for a, b in zip(one.read(window), many.read(window), strict=True):
        assert np.array_equal(a, b)


def test_a_whole_scene_is_read_where_its_files_are(scattered: Path, tmp_path: Path) -> None:
    files = _placed(tmp_path / "files", [(0, 0), (90_000, 37), (50_000, 100_000)])
    reader = RasterReader(files, pixel_size_m=0.5 * 90)  # in files of 2.5 x 1.8 such pixels
    start = time.process_time()
    pixels, valid = reader.read(Window(0, 0, *reader.grid.shape[::-1]))
    assert time.process_time() - start < 5  # of 9 billion pixels; GDAL would take minutes to find them empty
    assert 3 <= valid.sum() <= 18
    assert pixels[:, ~valid].max() == 0
    coarse = RasterReader(scattered, pixel_size_m=0.5 * 600)  # no pixel is half covered
    assert not coarse.read(Window(0, 0, *coarse.grid.shape[::-1]))[1].any()


def test_pictures_of_scattered_files(scattered: Path, tmp_path: Path) -> None:
    found = gd.detect_objects(scattered, PaintDetector(), progress=False)
    start = time.process_time()
    assert gd.show(scattered, found).axes
    assert "<html" in gd.view(scattered, found, max_side=300).html
    # Without a CRS pixels have no size to resample by, and every nth is taken.
    files = []
    for i, file in enumerate(sorted(scattered.iterdir())):
        with RasterReader(file) as reader:
            files.append(write_raster(tmp_path / f"{i}.tif", painted(), Grid(SHAPE, reader.grid.transform)))
    assert gd.show(files).axes
    assert time.process_time() - start < 30


# Chips


def test_labels_of_files_far_apart_are_on_their_chips(scattered: Path, tmp_path: Path) -> None:
    places = [(0, 0), (FAR, 37), (FAR + 13, FAR), (271_828, 314_159), (271_828 + SHAPE[1] + 30, 314_159)]
    truth = _truth(places)
    options = {"chip_size": 64, "negatives": 0, "split": "random", "num_workers": 0}
    data = gd.prepare_data(scattered, labels=truth, **options)
    alone = [gd.prepare_data(file, labels=truth, **options) for file in sorted(scattered.iterdir())]
    assert len(data.plans) == sum(len(each.plans) for each in alone)
    assert len(data.describe()) == 3
    # A virtual raster is one scene, whose grid all chips lie on.
    grid = RasterReader(scattered).grid
    virtual = gd.prepare_data(_as_virtual_raster(scattered, tmp_path / "all.vrt", grid), labels=truth, **options)
    assert len(virtual.plans) <= len(data.plans)
    outside = gpd.GeoDataFrame(
        {"label": ["red"]}, geometry=[shapely.box(353_300, 3_056_000, 353_310, 3_056_010)], crs=UTM
    )
    report = gd.prepare_data(tmp_path / "all.vrt", labels=pd.concat([truth, outside]), **options).report
    assert "1 mostly where the raster holds no data" in report
    area = shapely.transform(shapely.box(90, 30, 140, 110), grid.to_map).union(
        shapely.transform(shapely.box(FAR + 13, FAR, FAR + 60, FAR + 60), grid.to_map)
    )
    inside = gd.prepare_data(tmp_path / "all.vrt", labels=truth, aoi=area, **{**options, "negatives": 9})
    assert 2 <= len(inside.plans) <= 12
    assert sum(len(plan.boxes) for plan in inside.plans) >= 4


def test_more_files_apart_than_a_process_may_open(tmp_path: Path) -> None:
    places = [(5_000 * i, 700 * (i % 7)) for i in range(50)]
    _placed(tmp_path / "many", places)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 40
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 25, hard))
    try:
        data = gd.prepare_data(tmp_path / "many", labels=_truth(places), chip_size=64, negatives=0, num_workers=0)
        assert len({id(plan.reader) for plan in data.plans}) == 50
        assert all(chip.pixels.shape == (3, 64, 64) for chip in data.train)
        with pytest.warns(UserWarning, match="50 under 2 px"):  # one square of each lies at a corner of windows
            gd.export_training_data(tmp_path / "many", _truth(places), tmp_path / "chips", chip_size=64, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list((tmp_path / "chips" / "images").glob("*.tif"))) > 50


class _Raster:
    """What is open from its first reading on until it is closed."""

    is_open = False

    def close(self) -> None:
        self.is_open = False


def test_the_rasters_read_last_stay_open() -> None:
    held, rasters = ReaderPool(2), [_Raster() for _ in range(4)]
    for raster in (*rasters[:3], rasters[1], rasters[3]):
        with held.keep_open(raster):
            raster.is_open = True
    assert [raster.is_open for raster in rasters] == [False, True, False, True]


def test_a_raster_that_is_being_read_stays_open() -> None:
    held, rasters, go_on = ReaderPool(1), [_Raster() for _ in range(3)], threading.Event()

    def read() -> None:
        with held.keep_open(rasters[0]):
            rasters[0].is_open = True
            go_on.wait(10)

    thread = threading.Thread(target=read)
    thread.start()
    while not rasters[0].is_open:
        time.sleep(0.001)
    for raster in rasters[1:]:
        with held.keep_open(raster):
            raster.is_open = True
    assert [raster.is_open for raster in rasters] == [True, False, False]
    go_on.set()
    thread.join()
    assert rasters[0].is_open


# What a mosaic cannot hold


@pytest.mark.parametrize(
    ("name", "crs", "corner", "size"),
    [
        ("beyond the CRS of most", 4326, (0.0, 0.00001), 5e-6),
        ("across the edge of the CRS of most", 4326, (-120.0, 0.00001), 5e-6),
        ("northings of another planet", 32646, (350_000.0, 9.9e7), 0.5),
        ("eastings far outside the zone", 32646, (5e7, 3e6), 0.5),
    ],
)
def test_a_file_that_cannot_be_placed_is_named(
    tmp_path: Path, name: str, crs: int, corner: tuple[float, float], size: float
) -> None:
    near = _placed(tmp_path / "near", [(0, 0), (SHAPE[1], 0)])
    place = Affine(size, 0, corner[0], 0, -size, corner[1])
    far = write_raster(tmp_path / "lost.tif", painted(), Grid(SHAPE, place, UTM.from_epsg(crs)))
    with pytest.raises(RasterError, match=r"lost\.tif lies beyond .* of 00000\.tif, or of its own, .* leave it out"):
        RasterReader([*near, far])


@pytest.mark.parametrize("corner", [(179.9995, 27.0), (-93.0, 60.0), (85.5, 27.5)])
def test_a_file_of_another_crs_is_read_wherever_it_lies(tmp_path: Path, corner: tuple[float, float]) -> None:
    near = _placed(tmp_path / "near", [(0, 0), (SHAPE[1], 0)])
    place = Affine(5e-6, 0, corner[0], 0, -5e-6, corner[1])
    red = np.broadcast_to(np.array([[[60_000]], [[1_000]], [[1_000]]], np.uint16), (3, *SHAPE))
    far = write_raster(tmp_path / "far.tif", red, Grid(SHAPE, place, UTM.from_epsg(4326)))
    reader = RasterReader([*near, far])
    x1, y1, x2, y2 = shapely.bounds(reader.footprints[2]).round().astype(int).tolist()
    pixels, valid = reader.read(Window(x1, y1, x2 - x1, y2 - y1))
    assert 0.2 < valid.mean() <= 1  # turned by up to 45 degrees in its bounds
    assert (pixels[:, valid] == np.array([[60_000], [1_000], [1_000]])).all()


def test_more_pixels_than_gdal_knows_name_the_file_far_away(tmp_path: Path) -> None:
    degrees = UTM.from_epsg(4326)
    files = [
        write_raster(tmp_path / f"{x}.tif", painted(), Grid(SHAPE, Affine(1e-8, 0, x, 0, -1e-8, 27), degrees))
        for x in (85, 85.00001, 115)
    ]
    with pytest.raises(RasterError, match=r"spans 3,000,000,224 x 160 px.* 2,147,483,647 .*115\.tif lies farthest"):
        RasterReader(files)


def test_files_that_show_the_same_ground_are_told_of_and_the_later_counts(tmp_path: Path) -> None:
    first, second = _placed(tmp_path / "files", [(0, 0), (0, 0)])
    with pytest.warns(
        UserWarning, match=r"00000\.tif and 00001\.tif show the same ground: .* counts .* here 00001\.tif"
    ):
        RasterReader([first, second])
    _placed(tmp_path / "three", [(0, 0), (10, 0), (20, 0)])
    with pytest.warns(UserWarning, match="as do 2 other pairs"):
        gd.detect_objects(tmp_path / "three", PaintDetector(), progress=False)
    RasterReader(_placed(tmp_path / "margin", [(0, 0), (SHAPE[1] - 40, 0)]))  # neighbours may share a margin


def test_memory_grows_with_the_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    _placed(tmp_path / "many", rng.integers(0, FAR, (60, 2)).tolist(), (64, 64))
    tracemalloc.start()
    gd.detect_objects(tmp_path / "many", PaintDetector(), progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 << 20

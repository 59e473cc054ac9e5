"""Quick checks on real data, when it is present beside the repository."""

from __future__ import annotations

import json
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import shapely
from pyproj import Transformer

import geodetect as gd
from geodetect.chips.cut import MIN_SIDE, Cutting
from geodetect.chips.sources import from_raster
from geodetect.errors import GeodetectError, NotGeoreferenced
from geodetect.grid import Window
from geodetect.normalization import Sample, ValueRange
from geodetect.raster import RasterReader
from geodetect.vector.areas import read_area
from geodetect.vector.labels import Labels
from tests.fakes import labels_on
from tests.real_data import REAL_DATA


def _whole(path: Path, **options: object) -> tuple[np.ndarray, np.ndarray]:
    with RasterReader(path, **options) as reader:
        height, width = reader.grid.shape
        return reader.read(Window(0, 0, width, height))


def test_an_orthophoto_has_a_mask_and_reads_at_another_size(real_data: Path) -> None:
    path = real_data / "scenes/banepa/banepa_utm45n_15cm.tif"
    reader = RasterReader(path, pixel_size_m=0.3)
    assert (reader.grid.shape, reader.n_bands, reader.dtype) == ((1814, 1377), 3, np.uint8)
    fine, fine_valid = _whole(path)
    pixels, valid = _whole(path, pixel_size_m=0.3)
    assert 0.9 < fine_valid.mean() < 1
    assert valid.mean() == pytest.approx(fine_valid.mean(), abs=0.01)
    # Twice the pixel size is the mean of four, away from the mask.
    mean = fine.reshape(3, 1814, 2, 1377, 2).mean(axis=(2, 4))
    whole = fine_valid.reshape(1814, 2, 1377, 2).all(axis=(1, 3))
    assert np.abs(pixels - mean)[:, whole].max() <= 0.5


def test_footprints_in_degrees_land_on_the_orthophoto(real_data: Path) -> None:
    folder = real_data / "scenes/banepa"
    reader = RasterReader(folder / "banepa_utm45n_15cm.tif")
    labels = labels_on(folder / "buildings_4326.geojson", reader.grid)
    assert len(labels.polygons) == 1466
    assert set(labels.names) == {"buildings_4326"}
    x, y = shapely.get_coordinates(shapely.centroid(labels.polygons)).astype(int).T
    _, valid = reader.read(Window(0, 0, *reader.grid.shape[::-1]))
    assert valid[y.clip(0, len(valid) - 1), x.clip(0, valid.shape[1] - 1)].mean() > 0.95


def test_the_same_area_in_two_crs_is_the_same(real_data: Path) -> None:
    folder = real_data / "scenes/uav_field"
    reader = RasterReader(folder / "dummy_fotomap_small.tif")
    areas = [read_area(folder / f"dummy_fotomap_area{crs}.gpkg", reader.grid) for crs in ("", "_3857")]
    assert np.allclose(areas[0].bounds, areas[1].bounds, atol=0.01)


def test_alpha_of_an_orthomosaic_is_a_mask(real_data: Path) -> None:
    reader = RasterReader(real_data / "scenes/uav_field/dummy_fotomap_small.tif")
    assert reader.bands == (1, 2, 3)
    _, valid = reader.read(Window(0, 0, *reader.grid.shape[::-1]))
    assert 0 < valid.mean() <= 1


def test_near_infrared_tagged_as_alpha_is_a_band(real_data: Path) -> None:
    tiles = sorted((real_data / "train/trees_naip_points/images").glob("*.tif"))
    assert tiles
    for tile in tiles:
        with RasterReader(tile) as reader:
            assert reader.bands == (1, 2, 3, 4), tile.name
            assert reader.read(Window(0, 0, 64, 64))[1].all(), tile.name


def _encodings() -> list[str]:
    folder = REAL_DATA / "torture_raster/one_scene_many_encodings"
    return sorted(path.name for path in folder.glob("*.*") if path.suffix in (".tif", ".png"))


UNPLACED = {
    "05_worldfile_no_crs.png": "05_worldfile_no_crs.png has no coordinate reference system, so buildings_4326.geojson",
    "17_no_georeference.tif": "17_no_georeference.tif has no transform, so buildings_4326.geojson",
    "18_transform_but_no_crs.tif": "18_transform_but_no_crs.tif has no coordinate reference system, so buildings_4326",
}


@pytest.mark.parametrize("name", _encodings())
def test_every_encoding_reads(real_data: Path, name: str) -> None:
    reader = RasterReader(real_data / "torture_raster/one_scene_many_encodings" / name)
    pixels, valid = reader.read(Window(0, 0, *reader.grid.shape[::-1]))
    assert pixels.shape == (reader.n_bands, *valid.shape)
    assert 0.3 < valid.mean() <= 1


@pytest.mark.parametrize("name", sorted(set(_encodings()) - set(UNPLACED)))
def test_every_encoding_gives_the_same_boxes(real_data: Path, name: str) -> None:
    folder = real_data / "torture_raster/one_scene_many_encodings"
    labels, side = folder / "buildings_4326.geojson", Cutting(chip_size=1024, min_visible=0)
    (plan,) = from_raster(folder / name, Labels(labels), side).plans
    (base,) = from_raster(folder / "01_base_utm_uint8.tif", Labels(labels), side).plans
    # A building's box is upright in its own grid: on a turned one, or in degrees, it is another rectangle
    # round the same building, so there it is what touches the building on four sides.
    grid, frame = plan.grid, base.grid
    move = Transformer.from_crs(frame.crs, grid.crs, always_xy=True)
    buildings = labels_on(labels, frame).polygons
    placed = shapely.transform(
        buildings, lambda xy: grid.to_pixel(np.column_stack(move.transform(*frame.to_map(xy).T)))
    )
    inside = shapely.intersection(placed, shapely.box(0, 0, grid.shape[1], grid.shape[0]))
    expected = shapely.bounds(inside)
    expected = expected[((expected[:, 2:] - expected[:, :2]) >= MIN_SIDE).all(axis=1)]
    _, valid = _whole(folder / name)  # of a box on a collar at least half has to be seen
    seen = [valid[y1:y2, x1:x2].mean() >= 0.5 for x1, y1, x2, y2 in expected.round().astype(int)]
    expected = expected[seen]
    assert len(plan.boxes) == len(expected)
    off = np.abs(plan.boxes.xyxy[:, None] - expected).max(axis=2)
    assert max(off.min(axis=0).max(), off.min(axis=1).max()) < 0.5


@pytest.mark.parametrize("name", sorted(UNPLACED))
def test_an_encoding_without_a_place_says_so(real_data: Path, name: str) -> None:
    folder = real_data / "torture_raster/one_scene_many_encodings"
    with pytest.raises(NotGeoreferenced, match=UNPLACED[name]):
        from_raster(folder / name, Labels(folder / "buildings_4326.geojson"), Cutting())


def test_trees_of_31_tiles_open_with_one_call(real_data: Path) -> None:
    folder = real_data / "train/trees_naip_points"
    data = gd.prepare_data(folder / "images", folder / "json", point_radius_m=3, negatives=1)
    assert data.classes == ["object"]
    assert data.chip_size == 256
    assert data.bands == (1, 2, 3, 4)
    assert data.describe().loc["all", "objects"] > 1850
    assert data.pixel_size_m == pytest.approx(0.6, abs=0.01)
    assert "1,918 objects" in data.report


@pytest.mark.parametrize("name", ["02_south_up", "04_gcps_only", "10_paletted", "11_band_sequential_tiled"])
def test_encodings_of_the_same_pixels_read_alike(real_data: Path, name: str) -> None:
    folder = real_data / "torture_raster/one_scene_many_encodings"
    base, _ = _whole(folder / "01_base_utm_uint8.tif")
    other, _ = _whole(folder / f"{name}.tif")
    other = other[:, ::-1] if name == "02_south_up" else other
    assert other.shape == base.shape
    # A palette of 256 colours is near the truth only.
    assert np.abs(other.astype(int) - base).mean() <= (8 if name == "10_paletted" else 0)


def test_ships_open_with_one_call(real_data: Path) -> None:
    data = gd.prepare_data(real_data / "train/ships_sentinel2_coco", chip_size=160)
    assert data.classes == ["vessel"]
    assert "1 of 2 images listed in honolulu_coco.json do not exist" in data.report
    assert data.describe().loc["vessel", "median_px"] < 15
    # A ship is brighter than the water round it.
    chips = [chip for chip in [*data.train, *data.valid] if len(chip.boxes)]
    inside = [
        chip.pixels[:, int(y1) : int(y2), int(x1) : int(x2)] for chip in chips for x1, y1, x2, y2 in chip.boxes.xyxy
    ]
    assert np.median([part.mean() for part in inside]) > np.median([np.median(chip.pixels) for chip in chips])
    assert len(data.show_batch(2).axes) == 4


def test_ships_of_sixteen_bits(real_data: Path, tmp_path: Path) -> None:
    for port in ("honolulu", "casablanca"):
        folder = real_data / "train/ships_sentinel2_coco" / port
        content = json.loads((folder / f"{port}_coco.json").read_text())
        content["images"] = content["images"][-1:]  # the true colours, which the GeoTIFF holds
        content["images"][0]["file_name"] = f"{port}_rgb.tiff"
        (tmp_path / port).mkdir()
        (tmp_path / port / f"{port}_rgb.tiff").symlink_to(folder / f"{port}_rgb.tiff")
        (tmp_path / port / "coco.json").write_text(json.dumps(content))
    data = gd.prepare_data(tmp_path, chip_size=160)
    assert data.dtype == "uint16"
    assert data.normalization.mean[0] > 255
    shown = [axes.get_images()[0].get_array() for axes in data.show_batch(2).axes if axes.get_images()]
    assert all(picture.min() >= 0 and picture.max() <= 1 and 0.05 < picture.mean() < 0.6 for picture in shown)


def test_tiles_of_a_town_split_by_ground(real_data: Path) -> None:
    data = gd.prepare_data(real_data / "train/buildings_banepa_tiles")
    assert data.classes == ["building"]  # category 0
    assert (len(data.train), len(data.valid), len(data.left_out)) == (38, 10, 0)
    train, valid = (
        shapely.union_all([shapely.box(*p.grid.bounds) for p in part.plans]) for part in (data.train, data.valid)
    )
    assert shapely.area(shapely.intersection(train, valid)) < 1e-3 * shapely.area(valid)


@pytest.mark.parametrize(
    ("folder", "classes", "n_chips"),
    [
        ("formats/datumaro_assets/kitti_dataset", ["Truck", "Van"], 2),
        ("formats/datumaro_assets/voc_dataset", ["cat", "person"], 3),
        ("formats/datumaro_assets/yolo_dataset", ["label_0", "label_2", "label_4"], 9),
        ("train/trees_deepforest", ["tree"], 8),
    ],
)
def test_folders_of_other_tools_open(real_data: Path, folder: str, classes: list[str], n_chips: int) -> None:
    data = gd.prepare_data(real_data / folder)
    assert data.classes == classes
    assert len(data.plans) + len(data.left_out) == n_chips


def _folders() -> list[str]:
    root = REAL_DATA / "formats/datumaro_assets"
    return sorted(path.relative_to(root).as_posix() for path in [*root.glob("*"), *root.glob("*/*")] if path.is_dir())


@pytest.mark.parametrize("name", _folders())
def test_every_folder_opens_or_says_why_not(real_data: Path, name: str) -> None:
    folder = real_data / "formats/datumaro_assets" / name
    try:
        data = gd.prepare_data(folder)
    except GeodetectError as error:
        assert "Error" not in str(error)  # noqa: PT017 -- either outcome is right
        assert len(str(error)) < 500  # noqa: PT017
        return
    assert len(data.train)
    assert len(data.valid)


def test_voc_of_a_mixed_folder(real_data: Path) -> None:
    data = gd.prepare_data(real_data / "train/trees_deepforest", dataset_type="voc")
    assert data.classes == ["Alive", "Dead", "Tree"]
    assert "label files without their image: 1" in data.report


def _numbers(path: Path) -> ValueRange:
    with RasterReader(path) as reader:
        height, width = reader.grid.shape
        sample = Sample(reader.read(part) for part in Window(0, 0, width, height).spread(4, 64))
    assert sample.describe_fills(path.name) == ""
    numbers = sample.value_range()
    assert numbers is not None
    return numbers


def test_scenes_of_one_kind_are_alike_and_of_another_are_not(real_data: Path) -> None:
    bytes_ = ["scenes/banepa/banepa_utm45n_15cm.tif", "scenes/uav_field/dummy_fotomap_small.tif"]
    bytes_ += [str(path) for path in sorted((real_data / "train").rglob("*.tif"))]
    numbers = [each for path in bytes_ if len((each := _numbers(real_data / path)).quantiles) == 3]
    assert len(numbers) > 10
    ships = [
        _numbers(real_data / f"train/ships_sentinel2_coco/{port}/{port}_rgb.tiff")
        for port in ("honolulu", "casablanca")
    ]
    for kind in (numbers, ships):
        assert not any(one.are_unlike(other) for one, other in permutations(kind, 2))
    assert all(one.are_unlike(other) and other.are_unlike(one) for one, other in product(numbers, ships))

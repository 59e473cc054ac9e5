"""Pictures that a tag says how to show, against Pillow, which turns as viewers do."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from PIL import Image, ImageOps

import geodetect as gd
from geodetect.chips.images import ImageReader
from geodetect.grid import Grid, Window
from geodetect.raster import RasterReader, TurnedReader
from geodetect.raster.orientation import _TURNS, _parse_orientation
from tests.fakes import ROTATED, UTM, FakeReader

SHAPE = (24, 40)
TAG = 274


def picture(path: Path, orientation: int | None, **options: object) -> Path:
    """A picture whose pixels all differ, with this tag; lossless where its format is."""
    y, x = np.indices(SHAPE)
    tags = Image.Exif()
    if orientation is not None:
        tags[TAG] = orientation
    pixels = np.stack([6 * x, 10 * y, np.full(SHAPE, 90)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path, exif=tags, **options)
    return path


def shown(path: Path) -> np.ndarray:
    """What viewers show, (C, H, W)."""
    with Image.open(path) as image:
        return np.moveaxis(np.asarray(ImageOps.exif_transpose(image)), -1, 0)


def whole(reader: ImageReader) -> np.ndarray:
    height, width = reader.grid.shape
    return reader.read(Window(0, 0, width, height))[0]


@pytest.mark.parametrize("orientation", [None, *_TURNS])
@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {"quality": 100, "subsampling": 0}),
        (".png", {}),
        (".webp", {"lossless": True}),
        (".tif", {}),
        (".tif", {"compression": "tiff_lzw", "big_tiff": False}),
    ],
)
def test_pictures_are_read_as_viewers_show_them(
    tmp_path: Path, suffix: str, options: dict[str, object], orientation: int | None
) -> None:
    path = picture(tmp_path / f"a{suffix}", orientation, **options)
    reader = ImageReader(path)
    expected = shown(path)
    assert reader.source_shape == reader.grid.shape == expected.shape[1:]
    assert np.abs(whole(reader).astype(int) - expected).max() <= (3 if suffix == ".jpg" else 0)
    part = reader.read(Window(3, 5, 7, 11))[0]
    assert part.tolist() == whole(reader)[:, 5:16, 3:10].tolist()


@pytest.mark.parametrize("tag", [0, 9, 65535])
def test_a_tag_that_is_none_is_not_heeded(tmp_path: Path, tag: int) -> None:
    for suffix in (".jpg", ".png"):
        assert ImageReader(picture(tmp_path / f"a{suffix}", tag)).source_shape == SHAPE


@pytest.mark.parametrize("n_bytes", [8, 20, 33, 45, 60, 100])
def test_a_file_that_breaks_off_in_its_tags_is_upright(tmp_path: Path, n_bytes: int) -> None:
    for driver, suffix in (("PNG", ".png"), ("WEBP", ".webp"), ("GTiff", ".tif")):
        path = picture(tmp_path / f"a{suffix}", 6)
        path.write_bytes(path.read_bytes()[:n_bytes])
        with path.open("rb") as file:
            assert _parse_orientation(file, driver) in (1, 6)


@pytest.mark.parametrize("orientation", _TURNS)
def test_the_place_on_the_map_turns_with_the_picture(orientation: int) -> None:
    y, x = np.indices(SHAPE)
    stored = FakeReader(np.stack([x, y]), Grid(SHAPE, ROTATED, UTM))
    turned = TurnedReader(stored, orientation)
    height, width = turned.grid.shape
    values, valid = turned.read(Window(0, 0, width, height))
    assert valid.all()
    # The values say which stored pixel is shown where; its centre lies at one place on the map, however it is shown.
    rows, columns = np.indices((height, width))
    now = turned.grid.to_map(np.column_stack([columns.ravel(), rows.ravel()]) + 0.5)
    assert np.allclose(now, stored.grid.to_map(values.reshape(2, -1).T + 0.5), atol=1e-6)


def test_a_picture_with_a_world_file_keeps_its_place(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", 6)
    path.with_suffix(".jgw").write_text("0.5\n0\n0\n-0.5\n1000.25\n2999.75\n")
    reader = ImageReader(path)
    assert reader.grid.shape == SHAPE[::-1]
    # The stored picture's first pixel is shown in the upper right corner, turned by a quarter.
    assert reader.grid.to_map(np.array([[24.0, 0], [24, 40], [0, 0]])).tolist() == [
        [1000, 3000],
        [1020, 3000],
        [1000, 2988],
    ]


def test_scenes_are_read_as_they_are_stored(tmp_path: Path) -> None:
    with RasterReader(picture(tmp_path / "a.png", 6)) as reader:
        assert reader.grid.shape == SHAPE
        assert reader.orientation == 6


class Nothing:
    """A detector that finds nothing."""

    classes, bands, chip_size, overlap, pixel_size_m, min_score = ["car"], (1, 2, 3), 16, 0, None, 0.5

    def detect(self, pixels: np.ndarray) -> list[gd.Boxes]:
        return [gd.Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)) for _ in pixels]


def test_a_scene_that_viewers_turn_says_so(tmp_path: Path) -> None:
    stored, upright = picture(tmp_path / "a.jpg", 6), picture(tmp_path / "b.jpg", 1)
    with pytest.warns(
        UserWarning, match=r"result is in pixels.*as they are stored.*Exif orientation 6.*exif_transpose"
    ):
        gd.detect_objects(stored, Nothing(), progress=False)
    with pytest.warns(UserWarning, match="none either$"):
        gd.detect_objects(upright, Nothing(), progress=False)
    labels = gpd.GeoDataFrame({"label": ["car"] * 4}, geometry=[shapely.box(0, y, 6, y + 6) for y in (1, 9, 17, 25)])
    with pytest.warns(UserWarning, match=r"labels are taken to be in the pixels of c\.jpg.*Exif orientation 6"):
        gd.prepare_data(picture(tmp_path / "c.jpg", 6), labels, chip_size=8)

"""Bands by name, and STAC items as scenes: the band asked for is the band that is read."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geodetect import detect_objects, prepare_data
from geodetect.errors import ArgumentError, RasterError
from geodetect.grid import Grid, Window
from geodetect.raster import RasterReader
from geodetect.raster.stac import list_item_bands
from tests.fakes import SHAPE, UPRIGHT, UTM, PaintDetector, PaintedScene, painted, write_raster
from tests.http_server import served
from tests.strategies import windows

WHOLE = Window(0, 0, SHAPE[1], SHAPE[0])
GRID = Grid(SHAPE, UPRIGHT, UTM)
COLOURS = ("red", "green", "blue")


def _described(path: Path, *names: str) -> Path:
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names
    return path


def _item(folder: Path, assets: dict[str, dict[str, Any]], name: str = "scene.json", **told: Any) -> Path:
    """A STAC item of these assets; `href` and the media type of GeoTIFF are added."""
    every = {
        key: {"href": f"./{key}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"], **asset}
        for key, asset in assets.items()
    }
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "S2A_T45", "assets": every, **told}
    path = folder / name
    path.write_text(json.dumps(item), encoding="utf-8")
    return path


@pytest.fixture
def item(tmp_path: Path) -> Path:
    """An item with a file for each band of the painted scene, one of 4 m beside those of 2 m, and a composite."""
    assets: dict[str, dict[str, Any]] = {}
    for i, colour in enumerate(COLOURS):
        key = f"B0{4 - i}"
        write_raster(tmp_path / f"{key}.tif", painted()[i : i + 1], GRID)
        assets[key] = {"eo:bands": [{"name": key, "common_name": colour}]}
    coarse = Grid((SHAPE[0] // 2, SHAPE[1] // 2), UPRIGHT @ Affine.scale(2), UTM)
    write_raster(tmp_path / "B8A.tif", painted()[:1, ::2, ::2], coarse)
    assets["B8A"] = {"bands": [{"name": "B8A", "eo:common_name": "nir08"}]}
    write_raster(tmp_path / "visual.tif", painted().astype(np.uint8), GRID)
    assets["visual"] = {"eo:bands": [{"name": f"B0{4 - i}", "common_name": c} for i, c in enumerate(COLOURS)]}
    assets["thumbnail"] = {"roles": ["thumbnail"], "href": "https://127.0.0.1/none.tif"}
    assets["metadata"] = {"type": "application/xml", "href": "./metadata.xml", "roles": ["metadata"]}
    return _item(tmp_path, assets)


# Bands of a file by name


def test_bands_by_description_and_by_number_are_the_same(tmp_path: Path) -> None:
    path = _described(write_raster(tmp_path / "a.tif", painted(), GRID), "B04", "B03", "nir")
    by_name, by_number = RasterReader(path, bands=("NIR", "B04", 2)), RasterReader(path, bands=(3, 1, 2))
    assert by_name.bands == (3, 1, 2)
    assert np.array_equal(by_name.read(WHOLE)[0], by_number.read(WHOLE)[0])


def test_bands_go_by_their_colour_too(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted().astype(np.uint8), GRID, photometric="RGB")
    assert RasterReader(path, bands=("blue", "red")).bands == (3, 1)


def test_a_description_counts_before_a_colour(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", painted().astype(np.uint8), GRID, photometric="RGB")
    assert RasterReader(_described(path, "nir", "red", "green"), bands=("red",)).bands == (2,)


def test_a_palette_has_colours_by_name(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8), Grid((8, 8), UPRIGHT, UTM))
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (0, 0, 0, 255), 1: (10, 20, 30, 255)})
    pixels, _ = RasterReader(path, bands=("blue", "red")).read(Window(0, 0, 8, 8))
    assert pixels[:, 0, 0].tolist() == [30, 10]


def test_a_mosaic_knows_the_names_of_its_bands(tmp_path: Path) -> None:
    for x in (0, 112):
        part = GRID.window(Window(x, 0, 112, SHAPE[0]))
        _described(write_raster(tmp_path / f"{x}.tif", painted()[:, :, x : x + 112], part), "B04", "B03", "B02")
    pixels, _ = RasterReader(tmp_path, bands=("B02", "B04")).read(WHOLE)
    assert np.array_equal(pixels, painted()[[2, 0]])


@pytest.mark.parametrize(
    ("names", "bands", "message"),
    [
        (("B04", "B03", ""), ("nir",), "a.tif has no band 'nir'; its bands are 1 B04, 2 B03, 3$"),
        (("a", "a", "b"), ("a",), r"bands \[1, 2\] of a.tif are all called 'a'; name one by its number"),
        (("a", "b", "c"), "abc", r"bands must be whole numbers, .* or names, .*; got bands='abc'"),
        (("a", "b", "c"), (1.5,), "bands must be whole numbers"),
        (("a", "b", "c"), (0, "a"), "a.tif has bands 1 to 3"),
    ],
)
def test_bands_that_are_not_there_are_told(tmp_path: Path, names: tuple[str, ...], bands: Any, message: str) -> None:
    path = _described(write_raster(tmp_path / "a.tif", painted(), GRID), *names)
    with pytest.raises((RasterError, ArgumentError), match=message):
        RasterReader(path, bands=bands)


# Items


def test_bands_of_an_item_are_those_of_its_files(item: Path) -> None:
    for names in (COLOURS, ("B04", "B03", "B02"), ("b04", "GREEN", "B02")):
        reader = RasterReader(item, bands=names)
        assert np.array_equal(reader.read(WHOLE)[0], painted())
        assert (reader.name, reader.bands, reader.n_bands, reader.dtype) == ("S2A_T45", (1, 2, 3), 3, np.uint16)
        assert (reader.grid.shape, reader.grid.crs, reader.grid.transform) == (SHAPE, UTM, UPRIGHT)


def test_a_band_may_come_twice_and_in_any_order(item: Path) -> None:
    pixels, _ = RasterReader(item, bands=("blue", "red", "blue")).read(WHOLE)
    assert np.array_equal(pixels, painted()[[2, 0, 2]])


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_a_coarser_band_reads_the_same_through_any_window(item: Path, data: st.DataObject) -> None:
    window = data.draw(windows(SHAPE))
    x1, y1, x2, y2 = window.xyxy
    reader = RasterReader(item, bands=("red", "nir08"))
    whole, part = reader.read(WHOLE)[0], reader.read(window)[0]
    assert np.array_equal(part, whole[:, y1:y2, x1:x2])
    assert np.array_equal(whole[0], painted()[0])


def test_a_coarser_band_lies_where_it_lies(item: Path) -> None:
    coarse = RasterReader(item, bands=("red", "B8A")).read(WHOLE)[0][1].astype(float)
    # The first band of the painted scene holds x: pixels of twice the size hold every other x, a half to the left.
    inner = coarse[100, 80:95]
    assert np.allclose(np.diff(inner), np.diff(painted()[0, 100, 80:95].astype(float)), atol=1)


def test_an_item_of_one_raster_is_that_raster(tmp_path: Path) -> None:
    write_raster(tmp_path / "image.tif", painted(), GRID)
    item = _item(tmp_path, {"image": {}})
    reader = RasterReader(item, bands=(3, 1))
    assert np.array_equal(reader.read(WHOLE)[0], painted()[[2, 0]])
    assert reader.name == "S2A_T45"


def test_bands_of_one_raster_go_by_the_items_names(tmp_path: Path) -> None:
    write_raster(tmp_path / "image.tif", painted(), GRID)
    item = _item(tmp_path, {"image": {"eo:bands": [{"name": "R"}, {"name": "G"}, {"name": "N", "common_name": "nir"}]}})
    assert np.array_equal(RasterReader(item, bands=("nir", "R")).read(WHOLE)[0], painted()[[2, 0]])


def test_items_beside_each_other_are_one_scene(tmp_path: Path) -> None:
    items = []
    for x in (0, 112):
        folder = tmp_path / str(x)
        folder.mkdir()
        for i, colour in enumerate(COLOURS):
            part = GRID.window(Window(x, 0, 112, SHAPE[0]))
            write_raster(folder / f"{colour}.tif", painted()[i : i + 1, :, x : x + 112], part)
        items.append(_item(folder, {colour: {} for colour in COLOURS}))
    pixels, valid = RasterReader(items, bands=("green", "blue")).read(WHOLE)
    assert np.array_equal(pixels, painted()[[1, 2]])
    assert valid.all()


def test_a_hole_in_one_file_is_one_in_all(tmp_path: Path) -> None:
    pixels, hole = painted()[:1].astype(np.int32), painted()[:1] < 5
    write_raster(tmp_path / "red.tif", pixels, GRID)
    write_raster(tmp_path / "green.tif", np.where(hole, -9999, pixels), GRID, nodata=-9999)
    _, valid = RasterReader(_item(tmp_path, {"red": {}, "green": {}}), bands=("red", "green")).read(WHOLE)
    assert hole.any()
    assert np.array_equal(valid, ~hole[0])


@pytest.mark.parametrize("names", [("red", "green", "blue"), ("blue", "green", "red"), ("green", "blue", "red")])
def test_masks_and_nodata_of_all_files_count(tmp_path: Path, names: tuple[str, ...]) -> None:
    pixels = painted()[:1].astype(np.int32)
    y, x = np.indices(SHAPE)
    for name, mask in (("red", y < 80), ("green", x < 100)):
        path = write_raster(tmp_path / f"{name}.tif", pixels, GRID)
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask)
    write_raster(tmp_path / "blue.tif", np.where((x + y) % 7 == 0, -9999, pixels), GRID, nodata=-9999)
    _, valid = RasterReader(_item(tmp_path, {key: {} for key in COLOURS}), bands=names).read(WHOLE)
    assert np.array_equal(valid, (y < 80) & (x < 100) & ((x + y) % 7 > 0))


def test_an_alpha_band_is_a_mask_and_no_data(tmp_path: Path) -> None:
    y, _ = np.indices(SHAPE)
    alpha = np.where(y < 80, 255, 0).astype(np.uint8)[None]
    rgba = np.concatenate([painted().astype(np.uint8), alpha])
    write_raster(tmp_path / "image.tif", rgba, GRID, photometric="RGB", alpha="YES")
    write_raster(tmp_path / "grey.tif", np.concatenate([rgba[:1], alpha]), GRID, photometric="MINISBLACK", alpha="YES")
    image = _item(tmp_path, {"image": {"eo:bands": [{"name": "R"}, {"name": "G"}, {"name": "B"}]}}, "image.json")
    grey = _item(tmp_path, {"grey": {}, "other": {"href": "./image.tif"}}, "grey.json")
    for item, bands in ((image, ("R", "B")), (image, (1, 3)), (grey, ("grey",))):
        reader = RasterReader(item, bands=bands)
        assert np.array_equal(reader.read(WHOLE)[1], y < 80)
        assert reader.n_bands == len(bands)


def test_ground_that_a_band_does_not_cover_is_not_there(tmp_path: Path) -> None:
    write_raster(tmp_path / "red.tif", painted()[:1], GRID)
    short = Grid((SHAPE[0] // 4 - 1, SHAPE[1] // 4), UPRIGHT @ Affine.scale(4), UTM)
    write_raster(tmp_path / "nir.tif", painted()[:1, : short.shape[0], : short.shape[1]] + 1, short)
    reader = RasterReader(_item(tmp_path, {"red": {}, "nir": {}}), bands=("red", "nir"))
    assert reader.grid.shape == (SHAPE[0] - 4, SHAPE[1])
    pixels, valid = reader.read(Window(0, 0, *reader.grid.shape[::-1]))
    assert valid.all()
    assert (pixels[1] > 0).all()


def test_many_bands_of_many_items(tmp_path: Path) -> None:
    items = []
    for x in (0, 112):
        folder = tmp_path / str(x)
        folder.mkdir()
        part = GRID.window(Window(x, 0, 112, SHAPE[0]))
        for i in range(12):
            write_raster(folder / f"B{i}.tif", painted()[i % 3 : i % 3 + 1, :, x : x + 112] + i, part)
        items.append(_item(folder, {f"B{i}": {} for i in range(12)}))
    pixels, _ = RasterReader(items, bands=[f"B{i}" for i in range(12)]).read(WHOLE)
    assert np.array_equal(pixels[10], painted()[1] + 10)


def test_a_raster_without_told_bands_goes_by_its_own_names(tmp_path: Path) -> None:
    write_raster(tmp_path / "image.tif", painted().astype(np.uint8), GRID, photometric="RGB")
    item = _item(tmp_path, {"image": {}})
    assert RasterReader(item, bands=("blue", "red")).bands == (3, 1)
    write_raster(tmp_path / "image.tif", painted()[:1], GRID)
    assert RasterReader(item, bands=("image",)).n_bands == 1


def test_names_that_files_of_a_scene_understand_otherwise_are_refused(tmp_path: Path) -> None:
    for x, names in ((0, ("red", "nir", "b")), (112, ("nir", "red", "b"))):
        part = GRID.window(Window(x, 0, 112, SHAPE[0]))
        _described(write_raster(tmp_path / f"{x}.tif", painted()[:, :, x : x + 112], part), *names)
    with pytest.raises(RasterError, match=r"band 'red' is number 1 of 0\.tif and number 2 of 112\.tif"):
        RasterReader(tmp_path, bands=("red",))
    assert RasterReader(tmp_path, bands=("b",)).bands == (3,)


def test_a_run_is_not_gone_on_with_with_other_bands(item: Path, tmp_path: Path) -> None:
    told = [RasterReader(item, bands=bands).scene.identity for bands in (COLOURS, ("nir08", "green", "blue"), COLOURS)]
    assert told[0] == told[2] != told[1]
    assert RasterReader(tmp_path / "B04.tif").scene.identity is None


def test_readers_of_items_travel(item: Path) -> None:
    reader = RasterReader(item, bands=COLOURS)
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.read(WHOLE)[0], painted())


def test_an_item_trains_and_is_searched_as_the_raster(item: Path, upright: PaintedScene) -> None:
    data = prepare_data(item, upright.truth, bands=COLOURS, chip_size=64, overlap=0, split="random")
    same = prepare_data(upright.path, upright.truth, chip_size=64, overlap=0, split="random")
    assert len(data.train) == len(same.train)
    assert np.array_equal(data.train[0].pixels, same.train[0].pixels)
    found, expected = (
        detect_objects(raster, PaintDetector(), bands=bands, progress=False)
        for raster, bands in ((item, COLOURS), (upright.path, None))
    )
    assert len(found) == len(expected) > 0
    assert found.geometry.geom_equals_exact(expected.geometry, 1e-6).all()


def test_an_item_of_a_server(item: Path) -> None:
    (item.parent / "items").mkdir()
    (item.parent / "items" / "S2A_T45").write_text(item.read_text(), encoding="utf-8")
    (item.parent / "items" / "scene").write_bytes((item.parent / "B04.tif").read_bytes())
    with served(item.parent) as address:
        assert list_item_bands(address("items/S2A_T45")) == list_item_bands(str(item))
        assert list_item_bands(address("items/scene")) is None
        reader = RasterReader(address("scene.json"), bands=COLOURS)
        assert np.array_equal(reader.read(WHOLE)[0], painted())
        with pytest.raises(RasterError, match=r"none\.json cannot be read: Not Found"):
            RasterReader(address("none.json"), bands=COLOURS)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        (None, r"S2A_T45 is a STAC item of 5 rasters; name the bands to read, .*; it has B04 or red, B03 or green"),
        ((1, 2, 3), "name the bands to read"),
        (("red", "swir"), r"S2A_T45 has no band 'swir'; it has B04 or red, .*, B8A or nir08"),
        (("visual",), r"visual of S2A_T45 has 3 bands; name them \(B04 or red, .*\), or open .*visual.tif itself"),
        (("red", 5.5), "bands must be whole numbers"),
        ("red", "bands must be whole numbers"),
    ],
)
def test_what_an_item_does_not_tell_is_asked_for(item: Path, bands: Any, message: str) -> None:
    with pytest.raises((RasterError, ArgumentError), match=message):
        RasterReader(item, bands=bands)


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/a b.json", "http://[/a.json", "http://127.0.0.1:9/a.json"])
def test_addresses_that_lead_nowhere_are_told(address: str) -> None:
    with pytest.raises(RasterError, match="cannot be read"):
        RasterReader(address, bands=("red",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON, and no STAC item"),
        ("[" * 100_000, "is no JSON, and no STAC item"),
        ("\ufeff" + '{"type": "Catalog", "stac_version": "1.0.0", "id": "s2"}', "s2 is a STAC Catalog and no item"),
        ('{"type": "Collection", "stac_version": "1.0.0", "id": "s2"}', "s2 is a STAC Collection and no item"),
        ('{"type": "Feature", "stac_version": "1.0.0", "id": "a"}', "a is a STAC item without a raster"),
        ('{"type": "Feature", "stac_version": "1.0.0", "id": "a", "assets": {"b": 5}}', "without a raster"),
        ('{"type": "FeatureCollection", "features": []}', "cannot be read as a raster"),
        ("[]", "cannot be read as a raster"),
    ],
)
def test_other_json_is_refused_in_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RasterError, match=message):
        RasterReader(path)


def test_an_item_tells_what_bands_it_has(item: Path, tmp_path: Path) -> None:
    told = ["B04 or red", "B03 or green", "B02 or blue", "B8A or nir08", "B04 or red", "B03 or green", "B02 or blue"]
    assert list_item_bands(str(item)) == ("S2A_T45", told)
    assert list_item_bands(str(tmp_path / "B04.tif")) is None


def test_bands_that_do_not_lie_on_each_other_are_refused(tmp_path: Path) -> None:
    write_raster(tmp_path / "red.tif", painted()[:1], GRID)
    write_raster(tmp_path / "far.tif", painted()[:1], Grid(SHAPE, UPRIGHT @ Affine.translation(50, 0), UTM))
    write_raster(tmp_path / "turned.tif", painted()[:1], Grid(SHAPE, UPRIGHT @ Affine.rotation(20), UTM))
    write_raster(tmp_path / "rgb.tif", painted(), GRID)
    item = _item(tmp_path, {key: {} for key in ("red", "far", "turned", "rgb")})
    for other in ("far", "turned"):
        with pytest.raises(RasterError, match=f"{other}.tif and .* do not cover the same ground|red.tif and {other}"):
            RasterReader(item, bands=("red", other))
    with pytest.raises(RasterError, match=r"rgb.tif has 3 bands, not as S2A_T45 says of its band 'rgb'"):
        RasterReader(item, bands=("red", "rgb"))


def test_two_rasters_of_one_name_are_told(tmp_path: Path) -> None:
    for key in ("a", "b"):
        write_raster(tmp_path / f"{key}.tif", painted()[:1], GRID)
    item = _item(tmp_path, {key: {"eo:bands": [{"name": key, "common_name": "red"}]} for key in ("a", "b")})
    with pytest.raises(RasterError, match="S2A_T45 has a band 'red' in a and b; name one of these instead"):
        RasterReader(item, bands=("red",))

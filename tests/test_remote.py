"""Rasters over a network: read in parts, lost connections told or tried again, addresses as GDAL names them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from geodetect import detect_objects
from geodetect.errors import RasterError
from geodetect.grid import Grid, Window
from geodetect.raster import RasterReader
from geodetect.raster.opening import Location
from tests.fakes import SHAPE, UPRIGHT, UTM, PaintDetector, PaintedScene, painted, write_raster
from tests.http_server import Served, served


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is served."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """A server of the folder; each test uses names of its own, since GDAL remembers what it has seen."""
    with served(folder) as serving:
        yield serving


def test_a_raster_is_read_over_http(server: Served, folder: Path, upright: PaintedScene) -> None:
    (folder / "scene.tif").write_bytes(upright.path.read_bytes())
    reader = RasterReader(server("scene.tif"))
    assert reader.name == "scene.tif"
    assert reader.grid.crs == UTM
    assert np.array_equal(reader.read(Window(0, 0, SHAPE[1], SHAPE[0]))[0], painted())
    found = detect_objects(server("scene.tif"), PaintDetector(), progress=False)
    assert len(found) == len(upright.boxes)


def test_addresses_are_one_scene_too(server: Served, folder: Path) -> None:
    for x in (0, 128):
        window = Window(x, 0, min(128, SHAPE[1] - x), SHAPE[0])
        part = painted()[:, :, x : x + window.width]
        write_raster(folder / f"{x}.tif", part, Grid(SHAPE, UPRIGHT, UTM).window(window))
    reader = RasterReader([server(f"{x}.tif") for x in (0, 128)])
    assert np.array_equal(reader.read(Window(0, 0, SHAPE[1], SHAPE[0]))[0], painted())


def test_no_more_is_fetched_than_is_needed(server: Served, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 2048, 2048)).astype(np.uint8)
    write_raster(folder / "large.tif", pixels, Grid((2048, 2048), UPRIGHT, UTM))
    before = server.n_bytes.value
    RasterReader(server("large.tif")).read(Window(1000, 1000, 64, 64))
    assert 0 < server.n_bytes.value - before < 1_000_000


def test_a_failure_that_passes_is_tried_again(server: Served, folder: Path, upright: PaintedScene) -> None:
    (folder / "again.tif").write_bytes(upright.path.read_bytes())
    server.failures.value = 1
    pixels, _ = RasterReader(server("again.tif")).read(Window(0, 0, SHAPE[1], SHAPE[0]))
    assert np.array_equal(pixels, painted())


def test_what_is_not_there_is_one_sentence(server: Served) -> None:
    with pytest.raises(RasterError, match=r"^gone\.tif cannot be read as a raster: .*404"):
        RasterReader(server("gone.tif"))


def test_a_lost_connection_is_one_sentence(server: Served, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (1, 2048, 2048)).astype(np.uint8)
    write_raster(folder / "far.tif", pixels, Grid((2048, 2048), UPRIGHT, UTM))
    reader = RasterReader(server("far.tif"))
    server.failures.value = -1
    with pytest.raises(RasterError, match=r"^far\.tif cannot be read at pixels x 1000 to "):
        reader.read(Window(1000, 1000, 64, 64))
    server.failures.value = 0


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(RasterError, match=r"^scene\.tif cannot be read as a raster: "):
        RasterReader("http://127.0.0.1:9/scene.tif")


def test_addresses_as_gdal_names_them(tmp_path: Path) -> None:
    (tmp_path / "a.tif").touch()
    assert Location.of("https://a.org/b.tif?c=d").text == "/vsicurl/https://a.org/b.tif?c=d"
    assert Location.of("s3://bucket/b.tif").text == "/vsis3/bucket/b.tif"
    assert Location.of("gs://bucket/b.tif").text == "/vsigs/bucket/b.tif"
    assert Location.of(str(tmp_path / "a.tif")).text == str(tmp_path / "a.tif")
    assert Location.of("GTIFF_DIR:2:a.tif").text == "GTIFF_DIR:2:a.tif"
    remote = {"s3://a/b": True, "/vsicurl/http://a": True, "a.tif": False, "C:/a.tif": False}
    assert {path: Location.of(path).is_remote for path in remote} == remote

"""What people reported of programs like this one, each as a small input with the result that they had a right to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from PIL import Image

import geodetect as gd
from geodetect.boxes import Boxes
from geodetect.chips.data import DetectionData
from geodetect.grid import Grid
from tests.fakes import UPRIGHT, UTM, outlines, write_raster

SIDE = 256
ROOF = (100, 100, 120, 120)
ROOFS = [(x, y, x + 20, y + 20) for y in (10, 100, 200) for x in (10, 100, 200)]


@dataclass(frozen=True)
class OneRoof:
    """Sees the roof at `ROOF`, whatever it is shown."""

    classes: tuple[str, ...] = ("roof",)
    bands: tuple[int, ...] = (1,)
    chip_size: int = SIDE
    overlap: int = 0
    pixel_size_m: float | None = None
    min_score: float = 0.5

    def detect(self, pixels: np.ndarray) -> list[Boxes]:
        return [Boxes(np.array([ROOF], float), np.zeros(1, int), np.ones(1)) for _ in pixels]


def roofs(polygons: object) -> gpd.GeoDataFrame:
    """Polygons in pixels of the scene as labels on the map."""
    on_map = shapely.transform(polygons, Grid((SIDE, SIDE), UPRIGHT, UTM).to_map)
    return gpd.GeoDataFrame({"label": "roof"}, index=range(len(on_map)), geometry=on_map, crs=UTM)


def ground(n_bands: int = 1, dtype: str = "uint8") -> np.ndarray:
    """Grey ground with a dark roof at `ROOF`."""
    pixels = np.full((n_bands, SIDE, SIDE), 100, dtype)
    pixels[:, 100:120, 100:120] = 10
    return pixels


def write(path: Path, pixels: np.ndarray, **profile: object) -> Path:
    return write_raster(path, pixels, Grid((SIDE, SIDE), UPRIGHT, UTM), **profile)


def boxes_of(data: DetectionData) -> list[list[list[float]]]:
    """The boxes of every chip, rounded to a thousandth of a pixel."""
    chips = [*data.train, *data.valid]
    return [chip.boxes.xyxy.round(3).tolist() for chip in chips]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write(tmp_path / "scene.tif", ground())


@pytest.mark.parametrize("nodata", [None, 0])
def test_a_dark_pixel_in_its_middle_costs_no_object(tmp_path: Path, nodata: int | None) -> None:
    """Reports: roofs in shadow vanished from the map after black was declared to be no data."""
    pixels = ground()
    pixels[0, 110, 110] = 0
    found = gd.detect_objects(write(tmp_path / "dark.tif", pixels, nodata=nodata), OneRoof(), progress=False)
    assert found.geometry.bounds.to_numpy().tolist() == roofs(outlines([ROOF])).bounds.to_numpy().tolist()


def test_labels_of_this_year_behind_those_of_another(scene: Path, tmp_path: Path) -> None:
    """Reports: precision fell from 1 to 0.2 with a GeoPackage that held two years, of which the first was read."""
    years = tmp_path / "years.gpkg"
    roofs(outlines(ROOFS[:2])).to_file(years, layer="2019")
    roofs(outlines(ROOFS)).to_file(years, layer="2024")
    with pytest.warns(UserWarning, match="2019.*2024"):
        data = gd.prepare_data(scene, years, chip_size=64, num_workers=0)
    assert "read layer 2019" in data.report
    with pytest.warns(UserWarning, match="2019.*2024"):
        assert gd.compute_accuracy(roofs(outlines(ROOFS)), years).table.loc["all", "tp"] == 2
    table = gd.compute_accuracy(roofs(outlines(ROOFS)), years, layer="2024").table
    assert table.loc["all", ["tp", "fp", "fn"]].tolist() == [9, 0, 0]


def test_photographs_of_a_turned_camera(tmp_path: Path) -> None:
    """Reports: labels drawn in a viewer that turns pictures lay elsewhere on the pixels that training saw."""
    pixels = np.full((120, 200, 3), 20, np.uint8)
    pixels[20:50, 10:40] = 220
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 200 x 120, shown 120 x 200: a stored pixel (x, y) is shown at (120 - y, x)
    for name in "abcdef":
        Image.fromarray(pixels).save(tmp_path / f"{name}.png", exif=exif)
        (tmp_path / f"{name}.txt").write_text("0 0.70833333 0.125 0.25 0.15\n")
    data = gd.prepare_data(tmp_path, num_workers=0, batch_size=1)
    assert boxes_of(data) == [[[70, 10, 100, 40]]] * 6
    for chip in (*data.train, *data.valid):
        inside = np.zeros(chip.pixels.shape[1:], bool)
        inside[10:40, 70:100] = True
        assert ((chip.pixels == 220) == inside).all()


def test_quick_looks_beside_the_pictures(tmp_path: Path) -> None:
    """Reports: recall halved once a preview of each picture lay beside it, since those trained as empty."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    picture = Image.fromarray(np.full((120, 200, 3), 20, np.uint8))
    for name in "abcdef":
        picture.save(tmp_path / "images" / f"{name}.png")
        picture.save(tmp_path / "images" / f"{name}.jpg")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.125 0.3 0.15 0.25\n")
    data = gd.prepare_data(tmp_path, num_workers=0, batch_size=1)
    assert boxes_of(data) == [[[10, 21, 40, 51]]] * 6


def test_a_polygon_with_two_corners_swapped(scene: Path) -> None:
    """Reports: outlines digitised in the wrong order trained as two triangles and were evaluated as one object."""
    a, b, c, d = [(100, 100), (120, 100), (120, 120), (100, 120)]
    bow_tie = roofs([shapely.Polygon([a, b, d, c])])
    data = gd.prepare_data(scene, bow_tie, chip_size=128, num_workers=0, negatives=9)
    assert [chip for chip in boxes_of(data) if chip] == [[list(ROOF)]]
    table = gd.compute_accuracy(gd.detect_objects(scene, OneRoof(), progress=False), bow_tie).table
    assert table.loc["all", ["tp", "fp", "fn"]].tolist() == [1, 0, 0]


def test_a_layer_that_was_pasted_three_times(scene: Path) -> None:
    """Reports: perfect detections reached a recall of a third, and crowded chips taught boxes on boxes."""
    copies = roofs(outlines([ROOF] * 3))
    data = gd.prepare_data(scene, copies, chip_size=128, num_workers=0, negatives=9)
    assert [chip for chip in boxes_of(data) if chip] == [[list(ROOF)]]
    assert "left out 2 duplicates" in data.report
    with pytest.warns(UserWarning, match="2 duplicates"):
        table = gd.compute_accuracy(roofs(outlines([ROOF])), copies).table
    assert table.loc["all", ["recall", "tp", "fn"]].tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    "name", ["[2024] cars.gpkg", "gpkg_cars.gpkg", "maps/cars!.geojson", "maps/!cars.geojson", "maps/a;b.gpkg"]
)
def test_names_that_mean_something_to_shells_and_drivers(
    scene: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reports: hours of work were lost to a bracket in a name, and one map was written over another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps").mkdir()
    (tmp_path / "cars.geojson").write_text("a file of mine")
    assert gd.detect_objects(scene, OneRoof(), output=name, progress=False) == Path(name)
    assert gd.compute_accuracy(name, roofs(outlines([ROOF]))).table.loc["all", "tp"] == 1
    assert (tmp_path / "cars.geojson").read_text() == "a file of mine"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_an_alpha_band_of_bytes_in_any_type(tmp_path: Path, dtype: str) -> None:
    """Reports: orthophotos converted to float were trained on with their mask as a fourth colour."""
    alpha = np.full((1, SIDE, SIDE), 255, dtype)
    alpha[0, :50] = 0
    raster = write(tmp_path / "rgba.tif", np.concatenate([ground(3, dtype), alpha]), photometric="RGB", alpha="YES")
    data = gd.prepare_data(raster, roofs(outlines(ROOFS)), chip_size=64, num_workers=0)
    assert data.bands == (1, 2, 3)
    assert sum(map(len, boxes_of(data))) == 6  # the three at the top lie where there is no data


def test_a_fill_value_that_nobody_declared(tmp_path: Path) -> None:
    """Reports: losses of NaN and grey chips, since -9999 in the margin was averaged with the reflectances."""
    pixels = ground(3, "float32")
    pixels[:, :60] = -9999
    raster = write(tmp_path / "fill.tif", pixels)
    with pytest.warns(UserWarning, match="-9999"):
        data = gd.prepare_data(raster, roofs(outlines(ROOFS)), chip_size=64, num_workers=0)
    known = pixels[0, 60:]  # the training chips are some of it
    np.testing.assert_allclose(data.normalization.mean, known.mean(), atol=2)
    np.testing.assert_allclose(data.normalization.std, known.std(), atol=2)

"""What is said of datum shifts; accuracies are those that PROJ's own database gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from pyproj import CRS, Transformer
from pyproj.transformer import TransformerGroup

from geodetect.accuracy import compute_accuracy
from geodetect.grid import Grid
from geodetect.scene import detect_objects
from geodetect.vector.areas import read_area
from geodetect.vector.datum import warn_of_shift
from geodetect.vector.labels import Labels
from tests.fakes import PaintDetector, labels_on, painted, write_raster

NEVADA, LONDON, WELLINGTON, TOKYO, BERN, BONN, CANBERRA = (
    (-117, 39),
    (-0.1, 51.5),
    (174.8, -41.3),
    (139.7, 35.6),
    (7.4, 46.9),
    (7.1, 50.7),
    (149.1, -35.3),
)


def grids_are_missing() -> bool:
    """Whether PROJ has none of the grids that it does not come with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return not TransformerGroup("EPSG:4267", "EPSG:4269").best_available


pytestmark = pytest.mark.skipif(not grids_are_missing(), reason="PROJ has grids for datum shifts here, or a network")


def told_of(crs: str | int, to: str | int, lonlat: tuple[float, float], limit_m: float) -> list[str]:
    """The warnings for a shift at a place."""
    there = CRS(to)
    place = np.array(Transformer.from_crs(4326, there, always_xy=True).transform(*lonlat))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_shift("roofs.shp", CRS(crs), there, place, limit_m=limit_m, limit="a pixel")
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    ("crs", "to", "place", "accuracy", "better", "what_to_do"),
    [
        (4267, 32611, NEVADA, "7 m", "2.1 m", "pyproj sync --file us_noaa_conus.tif"),  # NAD27
        (26711, 26911, NEVADA, "11 m", "0.15 m", "PROJ_NETWORK=ON"),
        (4272, 2193, WELLINGTON, "4 m", "0.2 m", "pyproj sync --file nz_linz_nzgd2kgrid0005.tif"),  # NZGD49
        (27200, 32760, WELLINGTON, "4 m", "1 m", "PROJ_NETWORK=ON"),
        (27700, 25830, LONDON, "3 m", "0.03 m", "uk_os_OSTN15_NTv2_OSGBtoETRS.tif"),
        (31467, 32632, (9, 50), "3 m", "1 m", "de_adv_BETA2007.tif"),
        (4301, 6677, TOKYO, "10 m", "0.2 m", "put tky2jgd.gsb into"),  # which PROJ's server does not hold
        (4301, 32654, TOKYO, "9 m", None, "bring it into WGS 84 / UTM zone 54N"),  # the best of those that PROJ knows
        (21781, 2056, BERN, "1.6 m", "0.2 m", "ch_swisstopo_CHENyx06a.tif"),  # taken as one datum
        ("+proj=utm +zone=32 +ellps=intl", 32632, BONN, "unknown accuracy", None, "check its CRS"),  # likewise
    ],
)
def test_a_shift_that_is_worse_than_a_pixel_is_told(
    crs: str | int, to: int, place: tuple[float, float], accuracy: str, better: str | None, what_to_do: str
) -> None:
    (told,) = told_of(crs, to, place, 0.5)
    assert told.startswith("roofs.shp: ")
    assert f" {accuracy}, and a pixel is 0.5 m;" in told
    assert better is None or f"a grid that PROJ lacks it is {better}" in told
    assert what_to_do in told


@pytest.mark.parametrize(
    ("crs", "to", "place"),
    [
        (4326, 32611, NEVADA),  # no other datum
        (4326, 3857, NEVADA),
        (4258, 25832, BONN),
        (4258, 32632, BONN),  # ETRS89 and WGS 84, by definition one in 1989
        (4269, 32611, NEVADA),  # NAD83 and WGS 84 likewise in 1984, though PROJ gives 4 m, and 2 m with grids
        (4326, 26911, NEVADA),
        (7844, 28355, CANBERRA),  # a shift of 1.8 m, known to a centimetre
        (31466, 25832, BONN),  # 1 m, which a grid makes 0.9 m
        (28992, 32631, (5, 52)),  # 1 m, which WGS 84 is not better known to
        ("EPSG:7415", 28992, (5, 52)),  # heights apart
        ("+proj=utm +zone=32 +ellps=GRS80", 32632, BONN),  # no datum given, but a modern ellipsoid
        ("+proj=sinu +R=6371007.181", 4326, BONN),  # MODIS' sphere
        ("IAU_2015:49900", "IAU_2015:49910", BONN),  # Mars
        (4326, 'LOCAL_CS["site",UNIT["metre",1]]', BONN),
    ],
)
def test_nothing_is_said_where_no_shift_is_in_doubt(crs: str | int, to: str | int, place: tuple[float, float]) -> None:
    try:
        assert told_of(crs, to, place, 0.1) == []
    except RuntimeError:  # the test itself finds no way from degrees on earth
        warn_of_shift("roofs.shp", CRS(crs), CRS(to), np.zeros(2), limit_m=0.1, limit="a pixel")


def test_nothing_is_said_where_pixels_are_larger() -> None:
    assert told_of(4267, 32611, NEVADA, 7) == []
    assert told_of(4301, 32654, TOKYO, 9) == []


@pytest.fixture
def nevada() -> Grid:
    """200 px of 0.5 m."""
    east, north = Transformer.from_crs(4326, 32611, always_xy=True).transform(*NEVADA)
    return Grid((200, 200), Affine(0.5, 0, east, 0, -0.5, north), CRS.from_epsg(32611), "nevada.tif")


def squares(grid: Grid, crs: int, *, side: float = 20) -> gpd.GeoDataFrame:
    """Squares on a grid, in another CRS."""
    boxes = shapely.box([50, 100], [50, 100], [50 + side, 100 + side], [50 + side, 100 + side])
    return gpd.GeoDataFrame(geometry=shapely.transform(boxes, grid.to_map), crs=grid.crs).to_crs(crs)


def test_labels_truth_and_areas_are_told_of_alike(nevada: Grid) -> None:
    old, found = squares(nevada, 4267), squares(nevada, 32611)
    with pytest.warns(
        UserWarning, match=r"the frame of labels: .* NAD27 to WGS 84 has an accuracy of 7 m, and a pixel"
    ):
        assert len(labels_on(old, nevada).polygons) == 2
    with pytest.warns(UserWarning, match=r"the frame of the aoi: .* NAD27 to WGS 84 has an accuracy of 7 m"):
        read_area(old, nevada)
    with pytest.warns(UserWarning, match=r"the frame of labels: .* of 7 m, and a tenth of a detection's side is 1 m"):
        compute_accuracy(found, old)
    with pytest.warns(UserWarning, match="the frame of the aoi: .* NAD27 to WGS 84"):
        compute_accuracy(found, found, aoi=old)
    large = squares(nevada, 32611, side=400)  # 200 m: 7 m of which do no harm
    compute_accuracy(large, large.to_crs(4267))


def test_results_in_wgs84_are_told_of_too(tmp_path: Path) -> None:
    east, north = Transformer.from_crs(4326, 26711, always_xy=True).transform(*NEVADA)
    old = Grid((64, 64), Affine(0.5, 0, east, 0, -0.5, north), CRS.from_epsg(26711))
    scene = write_raster(tmp_path / "old.tif", painted((64, 64)), old)
    outputs = [tmp_path / f"found{suffix}" for suffix in (".gpkg", ".geojson", ".kml")]
    with pytest.warns(UserWarning, match="NAD27 to WGS 84 has an accuracy of 7 m, and a pixel is 0.5 m") as caught:
        detect_objects(scene, PaintDetector(), outputs, progress=False)
    assert [str(each.message).partition(":")[0] for each in caught] == ["found.geojson", "found.kml"]


def test_it_is_said_once_for_many_rasters(nevada: Grid) -> None:
    beside = Grid(nevada.shape, nevada.transform @ Affine.translation(60, 0), nevada.crs, "beside.tif")
    with pytest.warns(UserWarning, match="NAD27 to WGS 84") as caught:
        Labels(squares(nevada, 4267)).on([nevada, beside])
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_each_of_several_files_is_shifted_from_its_own_datum(nevada: Grid, tmp_path: Path) -> None:
    squares(nevada, 4326).iloc[:1].to_file(tmp_path / "new.gpkg")
    squares(nevada, 4267).iloc[1:].to_file(tmp_path / "old.gpkg")
    with pytest.warns(UserWarning, match=r"new\.gpkg and 1 more: .* NAD27 to WGS 84"):
        labels = labels_on([tmp_path / "new.gpkg", tmp_path / "old.gpkg"], nevada)
    assert np.allclose(shapely.bounds(labels.polygons), [[50, 50, 70, 70], [100, 100, 120, 120]], atol=1e-2)

"""Labels in any CRS, as polygons in scene pixels."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS

from geodetect.errors import ArgumentError, GeodetectError, LabelsError, NotGeoreferenced
from geodetect.grid import Grid
from geodetect.vector.areas import read_area, read_areas
from geodetect.vector.labels import Labels
from geodetect.vector.opening import open_features
from geodetect.vector.writers import write_features
from tests.fakes import SHAPE, UPRIGHT, UTM, PaintedScene, labels_on, outlines
from tests.strategies import grids

GRID = Grid(SHAPE, UPRIGHT, UTM, "scene.tif")
BOXES = [[10, 20, 30, 40], [50, 60, 58, 64]]


def _frame(geometry: object, crs: object = UTM, **columns: object) -> gpd.GeoDataFrame:
    """Geometries in scene pixels, brought to the map."""
    return gpd.GeoDataFrame(columns, geometry=shapely.transform(np.array(geometry), GRID.to_map), crs=crs)


# Place


def test_labels_land_on_the_squares(scene: PaintedScene) -> None:
    labels = labels_on(scene.truth, scene.grid)
    assert np.allclose(shapely.bounds(labels.polygons), scene.boxes.xyxy, atol=1e-6)
    assert labels.names.tolist() == scene.truth["label"].tolist()


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:32644"])
def test_labels_may_be_in_any_crs(scene: PaintedScene, crs: str) -> None:
    labels = labels_on(scene.truth.to_crs(crs), scene.grid)
    assert np.allclose(shapely.bounds(labels.polygons), scene.boxes.xyxy, atol=1e-2)


@pytest.mark.parametrize("suffix", [".geojson", ".gpkg", ".shp", ".fgb", ".parquet"])
def test_labels_may_be_in_any_file(upright: PaintedScene, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"squares{suffix}"
    truth = upright.truth.to_crs(4326) if suffix == ".geojson" else upright.truth
    if suffix == ".parquet":
        truth.to_parquet(path)
    else:
        truth.to_file(path, engine="pyogrio")
    labels = labels_on(path, upright.grid)
    assert len(labels.polygons) == len(upright.boxes)
    assert set(labels.names) == {"red", "blue"}
    assert labels.objects.report == f"9 objects of 2 classes from squares{suffix}"


@given(grids(), st.integers(0, 2**32 - 1))
def test_what_lies_on_the_grid_comes_back_in_its_pixels(grid: Grid, seed: int) -> None:
    height, width = grid.shape
    corner = np.random.default_rng(seed).random((5, 2)) * [width, height]
    boxes = shapely.box(*corner.T, *(corner + 3).T)
    frame = gpd.GeoDataFrame(geometry=shapely.transform(boxes, grid.to_map), crs=grid.crs)
    got = labels_on(frame, grid).polygons
    assert np.allclose(shapely.bounds(got), shapely.bounds(boxes), atol=1e-4)


def test_labels_outside_the_raster_are_left_out_and_counted() -> None:
    labels = labels_on(_frame(outlines([*BOXES, [500, 500, 510, 510]])), GRID)
    assert len(labels.polygons) == 2
    assert labels.objects.report == "2 objects of 1 class from the frame of labels; left out 1 outside the raster"


def test_labels_elsewhere_are_refused_with_both_extents() -> None:
    away = _frame(outlines([[1000, 2000, 1010, 2010]]))
    # x: 353 000 + 0.5 * 1000 = 353 500 to 353 505; y: 3 057 000 - 0.5 * 2010 = 3 055 995 to 3 056 000.
    message = (
        r"does not meet scene\.tif: it spans x 353500\.0 to 353505\.0, y 3055995\.0 to 3056000\.0, "
        r"the raster x 353000\.0 to 353112\.0, y 3056920\.0 to 3057000\.0, in EPSG:32645"
    )
    with pytest.raises(LabelsError, match=message):
        labels_on(away, GRID)
    with pytest.raises(LabelsError, match=message):
        labels_on(away.to_crs(3857), GRID)


def test_labels_without_a_crs_are_refused() -> None:
    with pytest.raises(NotGeoreferenced, match=r"the frame of labels has no coordinate reference system.*scene\.tif"):
        labels_on(_frame(outlines(BOXES), crs=None), GRID)


def test_a_raster_without_a_crs_is_refused_for_labels_with_one() -> None:
    with pytest.raises(NotGeoreferenced, match=r"plane\.tif has no coordinate .* in EPSG:32645 cannot be placed"):
        labels_on(_frame(outlines(BOXES)), Grid(SHAPE, UPRIGHT, None, "plane.tif"))


def test_a_raster_without_a_transform_is_told_that_it_has_none(tmp_path: Path) -> None:
    with pytest.raises(
        NotGeoreferenced, match=r"bare\.tif has no transform, so the frame .* \(gdal_edit\.py .* -a_ullr"
    ):
        labels_on(_frame(outlines(BOXES)), Grid(SHAPE, name="bare.tif"))
    # Small numbers of pixels might be degrees, and GeoJSON says that they are.
    write_features(gpd.GeoDataFrame(geometry=outlines(BOXES)), tmp_path / "pixels.geojson")
    with pytest.raises(NotGeoreferenced, match=r"GeoJSON is in WGS 84 .* \.gpkg, .* frame without CRS"):
        labels_on(tmp_path / "pixels.geojson", Grid(SHAPE, name="bare.tif"))


def test_without_any_crs_both_lie_in_one_plane() -> None:
    plane = Grid(SHAPE, UPRIGHT, None, "plane.tif")
    assert shapely.bounds(labels_on(_frame(outlines(BOXES), crs=None), plane).polygons).tolist() == BOXES
    pixels = gpd.GeoDataFrame(geometry=outlines(BOXES))
    assert shapely.bounds(labels_on(pixels, Grid(SHAPE)).polygons).tolist() == BOXES


def test_pixels_in_a_geojson_are_no_degrees(tmp_path: Path) -> None:
    # GeoJSON cannot say that it has no CRS; coordinates beyond 360 can be no degrees.
    path = tmp_path / "pixels.geojson"
    write_features(gpd.GeoDataFrame(geometry=outlines([*BOXES, [380, 20, 390, 30]])), path)
    assert len(labels_on(path, Grid((200, 400))).polygons) == 3


def test_labels_that_the_raster_crs_cannot_hold_are_counted() -> None:
    degrees = gpd.GeoDataFrame(geometry=shapely.box([85, 85], [27, 1000], [86, 86], [28, 1001]), crs=4326)
    labels = labels_on(degrees, GRID)
    assert labels.objects.report.endswith("left out 1 beyond the raster's CRS")
    with pytest.raises(LabelsError, match="is EPSG:4326 really its own"):
        labels_on(degrees.iloc[1:], GRID)


# Classes


def test_one_class_is_named_after_the_file(tmp_path: Path) -> None:
    _frame(outlines(BOXES)).to_file(tmp_path / "boats.gpkg", engine="pyogrio")
    assert labels_on(tmp_path / "boats.gpkg", GRID).names.tolist() == ["boats", "boats"]
    assert labels_on(_frame(outlines(BOXES)), GRID).names.tolist() == ["object", "object"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([1, 2], ["1", "2"]),
        ([1.0, 2.5], ["1", "2.5"]),
        (["a", " b "], ["a", "b"]),
        ([True, False], ["True", "False"]),
    ],
)
def test_classes_are_text(values: list[object], names: list[str]) -> None:
    frame = _frame(outlines(BOXES), kind=values)
    assert labels_on(frame, GRID, label_field="kind").names.tolist() == names
    assert labels_on(frame.rename(columns={"kind": "label"}), GRID).names.tolist() == names


def test_mapping_renames_drops_and_leaves_the_rest() -> None:
    frame = _frame(outlines([*BOXES, [70, 70, 80, 80], [90, 90, 99, 99]]), label=[1.0, 2.0, 3.0, 4.0])
    labels = labels_on(frame, GRID, class_mapping={1: "car", "2": "boat", 3: None})
    assert labels.names.tolist() == ["car", "boat", "4"]
    assert "left out 1 dropped by class_mapping" in labels.objects.report


def test_features_without_a_class_are_left_out() -> None:
    frame = _frame(outlines([*BOXES, [70, 70, 80, 80]]), label=["a", None, "  "])
    labels = labels_on(frame, GRID)
    assert labels.names.tolist() == ["a"]
    assert labels.objects.report == "1 object of 1 class from the frame of labels; left out 2 without a class"
    with pytest.raises(LabelsError, match="2 without a class, 1 dropped by class_mapping"):
        labels_on(frame, GRID, class_mapping={"a": None})


def test_each_of_several_files_gives_its_own_classes(tmp_path: Path) -> None:
    _frame(outlines(BOXES[:1]), label=["oak"]).to_file(tmp_path / "trees.gpkg", engine="pyogrio")
    _frame(outlines(BOXES[1:]), kind=["van"]).to_file(tmp_path / "cars.gpkg", engine="pyogrio")
    both = [tmp_path / "trees.gpkg", tmp_path / "cars.gpkg"]
    assert labels_on(both, GRID).names.tolist() == ["oak", "cars"]
    assert labels_on(both[::-1], GRID).names.tolist() == ["cars", "oak"]
    with pytest.raises(LabelsError, match=r"trees\.gpkg has no column 'kind' for label_field; it has label"):
        labels_on(both, GRID, label_field="kind")


def test_a_mapping_gives_text_and_says_what_it_does_not_find() -> None:
    frame = _frame(outlines(BOXES), label=["a", "b"])
    labels = labels_on(frame, GRID, class_mapping={"a": 5, "c": "d", 7: None})
    assert labels.names.tolist() == ["5", "b"]
    assert labels.objects.report.endswith("no class is called c, 7, which class_mapping renames")
    for wrong, told in (
        (["a"], r"must be a dict \{value: name\}; got \['a'\]"),
        ({"a": " "}, "give 'a' a name, or None to drop it"),
    ):
        with pytest.raises(ArgumentError, match=told):
            labels_on(frame, GRID, class_mapping=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"pools": "water", "car": "van"}, "no class is called pools, .* use pool for pools"),
        ({"Pool": "water"}, "no class is called Pool, .* use pool for Pool"),
        ({"roof": None}, "no class is called roof, .* the classes are called car, pool"),
    ],
)
def test_a_mapping_that_looks_like_a_mistake_is_a_warning(mapping: dict[str, str | None], told: str) -> None:
    with pytest.warns(UserWarning, match=told) as warnings:
        labels = Labels(_frame(outlines(BOXES), label=["car", "pool"]), class_mapping=mapping).on([GRID])[0]
    assert warnings[0].filename == __file__
    assert "no class is called" in labels.objects.report


def test_classes_that_look_alike_are_a_warning() -> None:
    with pytest.warns(UserWarning, match=r"'Car' and 'car' count as several classes; .* class_mapping={'car': 'Car'}"):
        assert set(labels_on(_frame(outlines(BOXES), label=["car", "Car"]), GRID).names) == {"car", "Car"}


def test_a_column_of_identifiers_is_a_warning() -> None:
    boxes = [[x, y, x + 3, y + 3] for x in range(0, 60, 6) for y in range(0, 42, 6)]
    frame = _frame(outlines(boxes), id=range(len(boxes)), kind=["car", "pool"] * 35)
    with pytest.warns(UserWarning, match="70 classes for 70 objects, .* the column of the class with label_field="):
        labels_on(frame, GRID, label_field="id")
    assert set(labels_on(frame, GRID, label_field="kind").names) == {"car", "pool"}


def test_columns_that_may_hold_the_class_are_told(tmp_path: Path) -> None:
    columns = {"Class": ["car", "pool"] * 2, "kind": list("aabb"), "id": range(4), "area": [1.0, 1.0, 2.0, 2.0]}
    frame = _frame(outlines([*BOXES, [70, 70, 80, 80], [90, 90, 99, 99]]), **columns)
    with pytest.warns(UserWarning, match="labels has no column 'label'; label_field= .* another: Class, kind$"):
        assert set(labels_on(frame, GRID).names) == {"object"}
    frame.drop(columns="Class").to_file(tmp_path / "roofs.gpkg", engine="pyogrio")
    labels = labels_on(tmp_path / "roofs.gpkg", GRID)
    assert set(labels.names) == {"roofs"}
    assert labels.objects.report.endswith("from another: kind")


def test_a_missing_column_is_named_with_those_there_are() -> None:
    for column in ("kind", ["label"]):
        with pytest.raises(LabelsError, match=r"has no column .* for label_field; it has label, height"):
            labels_on(_frame(outlines(BOXES), label=["a", "b"], height=[1, 2]), GRID, label_field=column)  # type: ignore[arg-type]


# Geometry


def test_multiparts_and_collections_are_taken_apart() -> None:
    two, box = shapely.multipolygons(outlines(BOXES)), outlines([[70, 70, 80, 80]])[0]
    nested = shapely.geometrycollections([shapely.geometrycollections([two]), box])
    labels = labels_on(_frame([nested, box], label=["a", "b"]), GRID)
    assert labels.names.tolist() == ["a", "a", "a", "b"]
    assert shapely.bounds(labels.polygons).tolist() == [*BOXES, [70, 70, 80, 80], [70, 70, 80, 80]]


@pytest.mark.parametrize(
    ("ring", "n_parts", "area"),
    [
        ([(10, 10), (30, 30), (30, 10), (10, 30)], 1, 400),  # two corners of a square swapped
        ([(10, 10), (30, 30), (30, 10), (20, 8), (10, 30)], 2, None),  # one corner more: nobody knows which are wrong
        ([(10, 10), (20, 10), (20, 20), (30, 20), (30, 30), (20, 30), (20, 20), (10, 20)], 2, 200),  # touches itself
        ([(10, 10), (30, 10), (30, 30), (10, 30), (10, 10), (20, 10), (20, 5), (20, 10)], 1, 400),  # with a spike
    ],
)
def test_a_ring_that_crosses_itself_is_one_object(
    ring: list[tuple[float, float]], n_parts: int, area: float | None
) -> None:
    labels = labels_on(_frame([shapely.Polygon(ring)]), GRID)
    assert len(labels.polygons) == 1
    assert shapely.is_valid(labels.polygons).all()
    assert shapely.get_num_geometries(labels.polygons).tolist() == [n_parts]
    assert shapely.bounds(labels.polygons)[0, [0, 2, 3]].round(6).tolist() == [10, 30, 30]
    assert area is None or shapely.area(labels.polygons)[0] == pytest.approx(area)
    assert labels.objects.report == "1 object of 1 class from the frame of labels"


def test_every_part_of_a_multipolygon_counts_and_its_broken_ones_once() -> None:
    tie = shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])
    features = [shapely.multipolygons([tie, outlines([[50, 50, 60, 60]])[0]]), outlines([[70, 70, 80, 80]])[0], None]
    labels = labels_on(_frame(features, label=["a", "b", "b"]), GRID)
    assert shapely.bounds(labels.polygons).tolist() == [[10, 10, 30, 30], [50, 50, 60, 60], [70, 70, 80, 80]]
    assert labels.names.tolist() == ["a", "a", "b"]
    assert labels.objects.report == (
        "3 objects of 2 classes from the frame of labels (3 features with 4 parts); left out 1 without geometry"
    )


def test_what_has_no_area_is_left_out_and_counted() -> None:
    flat = shapely.Polygon([(10, 10), (30, 10), (10, 10)])
    line = shapely.LineString([(0, 0), (5, 5)])
    labels = labels_on(_frame([*outlines(BOXES), flat, line, shapely.Polygon(), None]), GRID)
    assert len(labels.polygons) == 2
    assert "left out 2 without geometry, 1 line, 1 without area" in labels.objects.report


with np.errstate(invalid="ignore"):  # shapely's, that there is one
    NOWHERE = {
        name: shapely.from_wkt(wkt)
        for name, wkt in {
            "nan": "POLYGON ((10 10, nan 20, 30 30, 10 10))",  # whose bounds are finite, for GEOS
            "inf": "POLYGON ((10 10, inf 20, 30 30, 10 10))",
            "in a hole": "POLYGON ((10 10, 40 10, 40 40, 10 10), (20 12, nan 14, 30 14, 20 12))",
            "point": "POINT (nan 5)",
            "line": "LINESTRING (0 0, 5 -inf)",
            "no data of shapefiles": "POLYGON ((-1e38 -1e38, 10 -1e38, 10 10, -1e38 -1e38))",
            "overflow": "POLYGON ((0 0, 1e300 1e300, 1e300 0, 0 1e300, 0 0))",
        }.items()
    }


@pytest.mark.parametrize("name", NOWHERE)
@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
def test_what_has_no_finite_coordinates_is_left_out_and_counted(name: str, crs: object) -> None:
    there = _frame(outlines(BOXES)).to_crs(crs)
    with np.errstate(all="ignore"):  # in bounds that geopandas looks at
        frame = gpd.GeoDataFrame(geometry=[*there.geometry, NOWHERE[name]], crs=crs)
    labels = labels_on(frame, GRID)
    assert np.allclose(shapely.bounds(labels.polygons), BOXES, atol=1e-2)
    assert labels.objects.report.endswith("left out 1 without finite coordinates")
    assert not labels.objects.complete
    with pytest.raises(LabelsError, match=r"no label of use \(1 without finite coordinates\)"):
        labels_on(frame.iloc[2:], GRID)


def test_of_a_feature_only_the_parts_without_finite_coordinates_are_left_out() -> None:
    mixed = shapely.geometrycollections([outlines(BOXES)[0], NOWHERE["nan"], shapely.Polygon()])
    labels = labels_on(_frame([mixed, outlines(BOXES)[1]]), GRID)
    assert shapely.bounds(labels.polygons).tolist() == BOXES
    assert labels.objects.report == (
        "2 objects of 1 class from the frame of labels (2 features with 3 parts); left out 1 without finite coordinates"
    )


def test_heights_that_are_no_numbers_do_no_harm() -> None:
    with np.errstate(invalid="ignore"):
        box = shapely.from_wkt("POLYGON Z ((10 20 nan, 30 20 nan, 30 40 nan, 10 40 inf, 10 20 nan))")
    assert labels_on(gpd.GeoDataFrame(geometry=[box]), Grid(SHAPE)).polygons[0].bounds == (10, 20, 30, 40)


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])  # GDAL refuses to write others
def test_files_may_hold_what_has_no_finite_coordinates(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"labels{suffix}"
    frame = gpd.GeoDataFrame(geometry=[*_frame(outlines(BOXES)).geometry, NOWHERE["nan"]], crs=UTM)
    with np.errstate(all="ignore"):
        frame.to_parquet(path) if suffix == ".parquet" else frame.to_file(path, engine="pyogrio")
    labels = labels_on(path, GRID)
    assert sorted(shapely.bounds(labels.polygons).tolist()) == BOXES  # FlatGeobuf has an order of its own
    assert labels.objects.lost == {"without finite coordinates": 1}


# Copies


def test_copies_count_once() -> None:
    box, other = outlines(BOXES)
    turned = shapely.Polygon(list(reversed(box.exterior.coords[1:])))  # begins elsewhere, and runs the other way round
    labels = labels_on(_frame([box, other, box, turned, box]), GRID)
    assert shapely.bounds(labels.polygons).tolist() == BOXES
    assert labels.objects.report == "2 objects of 1 class from the frame of labels; left out 3 duplicates"
    assert not labels.objects.complete
    points = _frame([shapely.Point(20, 20), shapely.Point(20, 20)])
    assert labels_on(points, GRID, point_radius_m=2).objects.report.endswith("left out 1 duplicate")


def test_copies_may_differ_by_rounding_and_no_more() -> None:
    box, fence = outlines([[10, 20, 30, 40], [10, 20, 90, 21]])
    for outline, shift, n in ((box, 0.05, 1), (box, 0.2, 2), (box, 1, 2), (fence, 0.004, 1), (fence, 0.05, 2)):
        for by in ((shift, 0), (0, -shift)):
            moved = shapely.transform(outline, lambda xy, by=by: xy + np.array(by))
            assert len(labels_on(_frame([outline, moved]), GRID).polygons) == n
    # A car of 2 by 4 m, which GeoJSON of 7 decimals places within a centimetre.
    car = _frame(outlines([[10, 20, 14, 28]])).to_crs(4326).geometry
    rounded = shapely.transform(car.to_numpy(), lambda xy: xy.round(7))
    frame = gpd.GeoDataFrame(geometry=[*car, *rounded], crs=4326)
    assert len(labels_on(frame, GRID).polygons) == 1


def test_copies_of_another_class_or_shape_are_kept_and_told() -> None:
    box, half = outlines([[10, 20, 30, 40]])[0], shapely.Polygon([(10, 20), (30, 20), (30, 40)])
    hollow = shapely.Polygon(box.exterior.coords, [[(15, 25), (25, 25), (25, 35)]])
    frame = _frame([box, box, box, half, hollow], label=["roof", "pool", "roof", "roof", "roof"])
    labels = labels_on(frame, GRID)
    assert labels.names.tolist() == ["roof", "pool", "roof", "roof"]
    assert labels.objects.report.endswith(
        "left out 1 duplicate; kept 2 objects that share their outline with one of another class"
    )


def test_copies_are_found_among_many_in_no_time() -> None:
    boxes = outlines(np.tile(np.array([10.0, 20, 30, 40]), (3000, 1)))  # pairs of which would be millions
    assert len(labels_on(_frame(boxes), GRID).polygons) == 1


@given(st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 9)] * 2), min_size=1, max_size=30))
def test_what_is_kept_is_each_once(rows: list[tuple[int, int, int, int]]) -> None:
    boxes = [(x, y, x + width, y + height) for x, y, width, height in rows]
    labels = labels_on(gpd.GeoDataFrame(geometry=outlines(boxes)), Grid((60, 60)))
    assert shapely.bounds(labels.polygons).tolist() == [list(box) for box in dict.fromkeys(boxes)]


def test_heights_are_left_out() -> None:
    labels = labels_on(_frame(shapely.force_3d(outlines(BOXES), 5.0)), GRID)
    assert not shapely.has_z(labels.polygons).any()


def test_lines_alone_are_refused() -> None:
    with pytest.raises(LabelsError, match=r"no label of use \(1 line\); polygons or points are expected"):
        labels_on(_frame([shapely.LineString([(0, 0), (5, 5)])]), GRID)


def test_an_empty_file_is_refused() -> None:
    with pytest.raises(LabelsError, match="holds no label of use"):
        labels_on(_frame(outlines([])), GRID)


def test_points_become_circles_on_the_ground() -> None:
    # Pixels of 0.5 m across and 0.25 m down: a radius of 2 m is 4 px and 8 px.
    grid = Grid((400, 400), Affine(0.5, 0, 353_000, 0, -0.25, 3_057_000), UTM)
    frame = gpd.GeoDataFrame(geometry=[shapely.Point(353_050, 3_056_975)], crs=UTM)
    labels = labels_on(frame, grid, point_radius_m=2)
    assert np.allclose(shapely.bounds(labels.polygons), [[96, 92, 104, 108]])


def test_points_in_degrees_become_circles_on_the_ground() -> None:
    # At 60 N a degree is 55.8 km from west to east and 111.4 km from south to north.
    grid = Grid((100, 100), Affine(1e-5, 0, 10, 0, -1e-5, 60), CRS.from_epsg(4326))
    frame = gpd.GeoDataFrame(geometry=[shapely.Point(10.0005, 59.9995)], crs=4326)
    x1, y1, x2, y2 = shapely.bounds(labels_on(frame, grid, point_radius_m=10).polygons)[0]
    assert x2 - x1 == pytest.approx(20 / 0.558, rel=1e-3)
    assert y2 - y1 == pytest.approx(20 / 1.114, rel=1e-3)


def test_points_far_from_the_centre_are_circles_where_they_lie() -> None:
    # A degree from west to east is 111.3 km times the cosine of the latitude, nearly: 200 km are 3.6 degrees at 60 N.
    grid = Grid((700, 400), Affine(0.1, 0, 0, 0, -0.1, 70), CRS.from_epsg(4326))
    frame = gpd.GeoDataFrame(geometry=[shapely.Point(20, 60), shapely.Point(20, 10)], crs=4326)
    bounds = shapely.bounds(labels_on(frame, grid, point_radius_m=100_000).polygons)
    assert bounds[:, 2] - bounds[:, 0] == pytest.approx([36, 18.2], rel=0.01)


def test_points_need_a_radius() -> None:
    points = _frame([shapely.MultiPoint([(10, 10), (20, 20)])])
    with pytest.raises(LabelsError, match="holds points; give point_radius_m"):
        labels_on(points, GRID)
    assert len(labels_on(points, GRID, point_radius_m=1).polygons) == 2
    for radius in (0, "3", float("nan")):
        with pytest.raises(ArgumentError, match="point_radius_m must be above 0"):
            labels_on(points, GRID, point_radius_m=radius)  # type: ignore[arg-type]


def test_points_and_polygons_keep_their_order() -> None:
    frame = _frame([outlines(BOXES)[0], shapely.Point(80, 80), outlines(BOXES)[1]], label=["a", "b", "c"])
    assert labels_on(frame, GRID, point_radius_m=1).names.tolist() == ["a", "b", "c"]


def test_the_frame_is_not_changed() -> None:
    frame = _frame([shapely.Polygon([(10, 10), (30, 30), (30, 10), (10, 30)])], label=[1.0])
    before = frame.copy()
    labels_on(frame, GRID, class_mapping={1: "x"})
    assert frame.equals(before)


# Files


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LabelsError, match=r"There is no file .*gone\.gpkg"):
        open_features(tmp_path / "gone.gpkg")


def test_what_is_no_vector_file_is_refused(tmp_path: Path) -> None:
    for name in ("text.geojson", "text.shp", "text.parquet", "text.dat"):
        path = tmp_path / name
        path.write_text("nothing of the kind")
        with pytest.raises(LabelsError, match=rf"^{name} cannot be read as a vector file: "):
            open_features(path)
    with pytest.raises(LabelsError, match="got int"):
        open_features(3)  # type: ignore[arg-type]
    with pytest.raises(LabelsError, match="got an empty name"):
        open_features("")


def test_a_table_without_geometry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,height\na,1\n")
    with pytest.raises(LabelsError, match=r"table\.csv has no geometry"):
        open_features(path)


def test_of_many_layers_the_first_with_geometry_is_read_and_told(tmp_path: Path) -> None:
    path = tmp_path / "many.gpkg"
    for layer in ("houses", "boats"):
        _frame(outlines(BOXES), label=[layer] * 2).to_file(path, layer=layer, engine="pyogrio")
    with pytest.warns(UserWarning, match="several layers: houses, boats; houses is read"):
        labels = labels_on(path, GRID)
    assert set(labels.names) == {"houses"}
    assert labels.objects.report.endswith("read layer houses of houses, boats")
    assert set(labels_on(path, GRID, layer="boats").names) == {"boats"}


def test_a_geometry_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "open.geojson"
    whole = _frame(outlines([*BOXES, (1, 1, 9, 9)]), label=["a"] * 3).to_crs(4326)
    content = json.loads(whole.to_json(drop_id=True))
    del content["features"][1]["geometry"]["coordinates"][0][-1]  # the ring is not closed
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match=r"open\.geojson: left out 1 of 3 features .*closed.*: 2; repair"):
        labels = labels_on(path, GRID)
    assert labels.numbers.tolist() == [0, 2]
    assert labels.objects.report == "2 objects of 1 class from open.geojson; left out 1 without geometry"


def test_a_table_in_another_encoding_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes("label,x,y\nchâteau,5,6\n".encode("cp1252"))
    with pytest.raises(LabelsError, match=r"table\.csv is not in UTF-8 .*save"):
        open_features(path)


@pytest.mark.parametrize(
    ("name", "encoding", "has_cpg"),
    [
        ("château", "UTF-8", True),
        ("château", "UTF-8", False),
        ("汽车", "UTF-8", False),
        ("汽车", "GBK", True),
        ("château", "ISO-8859-1", True),
        ("château", "ISO-8859-1", False),
        ("Ã©", "ISO-8859-1", True),  # which only looks as if it were misread
    ],
)
def test_a_shapefile_that_has_lost_its_cpg(tmp_path: Path, name: str, encoding: str, has_cpg: bool) -> None:
    frame = _frame(outlines(BOXES), label=[name, "car"])
    pyogrio.write_dataframe(frame, tmp_path / "a.shp", encoding=encoding)
    if not has_cpg:
        (tmp_path / "a.cpg").unlink()
    assert labels_on(tmp_path / "a.shp", GRID).names.tolist() == [name, "car"]


@pytest.mark.parametrize(("one", "other"), [("roof", "Roof"), ("a b", "a_b"), ("roof", "ro\u200bof"), ("x-1", "x 1")])
def test_classes_that_look_alike_are_told(one: str, other: str) -> None:
    frame = _frame(outlines(BOXES), label=[one, other])
    with pytest.warns(UserWarning, match="count as several classes; if they are one, give class_mapping="):
        assert set(labels_on(frame, GRID).names) == {one, other}
    assert set(labels_on(frame, GRID, class_mapping={one: "x", other: "x"}).names) == {"x"}


@pytest.mark.parametrize(("one", "other"), [(-1, 1), ("1", "01"), ("roof", "roofs")])
def test_classes_that_do_not_are_not(one: object, other: object) -> None:
    assert len(set(labels_on(_frame(outlines(BOXES), label=[one, other]), GRID).names)) == 2


def test_classes_that_are_no_texts() -> None:
    assert set(labels_on(_frame(outlines(BOXES), label=[b"roof", "roof"]), GRID).names) == {"roof"}
    with pytest.raises(LabelsError, match=r"\['a'\].*'label'"):
        labels_on(_frame(outlines(BOXES), label=[["a"], ["b"]]), GRID)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    both = _frame(outlines(BOXES), label=["a", "b"], kind=["c", "d"]).rename(columns={"kind": "label"})
    levels = gpd.GeoDataFrame({("label", "a"): ["x", "y"]}, geometry=outlines(BOXES), crs=UTM)
    (tmp_path / "two.csv").write_text("label,label,x,y\na,b,5,6\n")
    for source, told in (
        (both, "the frame of labels has two columns named 'label'; give every column a name of its own"),
        (levels, "the frame of labels has columns in several levels"),
        (tmp_path / "two.csv", r"two\.csv has two columns named 'label'"),
    ):
        with pytest.raises(LabelsError, match=told):
            labels_on(source, GRID, point_radius_m=1)


@pytest.mark.parametrize(
    ("header", "row"), [("label,geometry", 'car,"POINT (5 6)"'), ("label,x,y", "car,5,6"), ("id,lon,lat", "7,5,6")]
)
def test_csv_holds_wkt_or_coordinates(tmp_path: Path, header: str, row: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(f"{header}\n{row}\n")
    frame = open_features(path).frame
    assert frame.geometry.tolist() == [shapely.Point(5, 6)]
    assert frame.crs is None


def test_several_files_are_read_together(tmp_path: Path) -> None:
    north, south = (_frame(outlines([box]), height=[1]) for box in BOXES)
    north.to_file(tmp_path / "north.gpkg", engine="pyogrio")
    south.to_crs(4326).to_file(tmp_path / "south.geojson", engine="pyogrio")
    (tmp_path / "notes.txt").write_text("none of them")
    files = [tmp_path / "north.gpkg", tmp_path / "south.geojson"]
    for source in (files, [str(file) for file in files], tmp_path, str(tmp_path / "*th.g*")):
        labels = labels_on(source, GRID)
        assert np.allclose(shapely.bounds(labels.polygons), BOXES, atol=1e-2)
        assert labels.names.tolist() == (["north", "south"] if isinstance(source, list) else ["object", "object"])
    assert labels_on(files, GRID).objects.report == "2 objects of 2 classes from north.gpkg and 1 more"
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        _frame(outlines([BOXES[0]]), crs=None).to_file(tmp_path / "nowhere.fgb", engine="pyogrio")
    with pytest.raises(LabelsError, match=r"north\.gpkg and nowhere\.fgb are to be read together, and only one"):
        labels_on(tmp_path, GRID)
    with pytest.raises(LabelsError, match=r"There is no file .*gone\.gpkg"):
        labels_on([*files, tmp_path / "gone.gpkg"], GRID)


def test_labels_on_several_rasters_are_counted_once() -> None:
    far = Grid(SHAPE, UPRIGHT @ Affine.translation(1000, 0), UTM, "far.tif")
    nowhere = Grid(SHAPE, UPRIGHT @ Affine.translation(9000, 0), UTM, "nowhere.tif")
    frame = _frame(outlines([*BOXES, [1010, 20, 1020, 30], [500, 500, 510, 510]]), label=["a", "a", "b", "b"])
    here, there, empty = Labels(frame).on([GRID, far, nowhere])
    assert [each.names.tolist() for each in (here, there, empty)] == [["a", "a"], ["b"], []]
    assert shapely.bounds(there.polygons).round(6).tolist() == [[10, 20, 20, 30]]
    assert here.objects.report == "3 objects of 2 classes from the frame of labels; left out 1 outside the raster"
    assert [each.numbers.tolist() for each in (here, there, empty)] == [[0, 1], [2], []]
    with pytest.raises(LabelsError, match=r"does not meet nowhere\.tif"):
        Labels(frame).on([nowhere])
    near, nowhere = (
        frame.iloc[2:3],
        [Grid(SHAPE, UPRIGHT @ Affine.translation(x, 0), UTM, f"{x}.tif") for x in (0, 3000)],
    )
    with pytest.raises(LabelsError, match=r"does not meet 0\.tif.*; it is the nearest of 2 rasters"):
        Labels(near).on(nowhere)


def test_a_raster_whose_crs_does_not_reach_the_labels_just_holds_none() -> None:
    globe = CRS.from_proj4("+proj=ortho +lat_0=-40 +lon_0=-100")  # the half of the earth that is seen from there
    other = Grid(SHAPE, Affine(0.5, 0, 0, 0, -0.5, 0), globe, "other.tif")
    frame = _frame(outlines(BOXES)).to_crs(4326)
    for rasters in ([GRID, other], [other, GRID]):
        met = Labels(frame).on(rasters)
        assert [len(each.polygons) for each in met] == [2 * (grid is GRID) for grid in rasters]
        assert met[0].objects.report == "2 objects of 1 class from the frame of labels"
    with pytest.raises(LabelsError, match=r"has coordinates in the CRS of other\.tif; is EPSG:4326 really its own"):
        Labels(frame).on([other])


# Areas


def test_an_area_is_one_geometry_in_scene_pixels() -> None:
    two = _frame(outlines([[10, 20, 30, 40], [20, 20, 50, 40]]))
    for aoi in (two, two.to_crs(4326), two.union_all()):
        assert np.allclose(read_area(aoi, GRID).bounds, [10, 20, 50, 40], atol=1e-2)
    assert read_area(shapely.box(1, 2, 3, 4), Grid(SHAPE)).bounds == (1, 2, 3, 4)


def test_an_area_elsewhere_is_refused() -> None:
    with pytest.raises(LabelsError, match=r"the aoi does not meet scene\.tif: it spans x 0\.0 to 1\.0"):
        read_area(shapely.box(0, 0, 1, 1), GRID)


def test_an_area_is_made_of_polygons() -> None:
    with pytest.raises(LabelsError, match="an aoi is made of polygons"):
        read_area(_frame([shapely.LineString([(0, 0), (5, 5)])]), GRID)
    with pytest.raises(LabelsError, match="an aoi is made of polygons"):
        read_area(_frame([shapely.Point(5, 5)]), GRID)


def test_an_area_may_be_geometries_or_corners() -> None:
    (x1, y1), (x2, y2) = GRID.to_map(np.array([[10.0, 40], [50, 20]]))  # lower left, upper right
    box = shapely.box(x1, y1, x2, y2)
    numbers = [(x1, y1, x2, y2), [x1, y1, x2, y2], np.array([x1, y1, x2, y2]), (x1, y2, x2, y1), box.bounds]
    shapes = [box, [box, box.buffer(-1)], gpd.GeoSeries([box], crs=UTM), shapely.GeometryCollection([box])]
    tie = shapely.Polygon([(x1, y1), (x2, y2), (x2, y1), (x1, y2)])
    for aoi in (*numbers, *shapes, tie):
        assert np.allclose(read_area(aoi, GRID).bounds, [10, 20, 50, 40])


@pytest.mark.parametrize(
    ("aoi", "told"),
    [
        ((1, 2, 3), r"\(x1, y1, x2, y2\), two corners; got \(1, 2, 3\), which are not four finite numbers"),
        ((1, 2, float("nan"), 4), r"got \(1, 2, nan, 4\)"),
        ((1, 2, 1, 4), "which has no area"),
        ({"type": "Polygon"}, r"an aoi must be a vector file, .* or \(x1, y1, x2, y2\); got dict"),
        ([], "an aoi must be .* got list"),
        ("gone.gpkg", r"aoi: There is no file gone\.gpkg"),
        ("", "aoi: .* got an empty name"),
        ((0, 0, 1, 1), r"the aoi does not meet scene\.tif: it spans x 0\.0 to 1\.0"),
        (shapely.Polygon(), r"the aoi must hold polygons \(1 without geometry\)"),
        (NOWHERE["nan"], r"the aoi must hold polygons \(1 without finite coordinates\)"),
        (shapely.LineString([(0, 0), (5, 5)]), r"the aoi must hold polygons \(1 line\)"),
        (shapely.Polygon([(0, 0), (5, 5), (0, 0)]), r"the aoi must hold polygons \(1 without area\)"),
        (gpd.GeoSeries([shapely.box(0, 0, 1, 1)]), "the frame of the aoi has no coordinate reference system"),
    ],
)
def test_an_area_that_is_none_is_named(aoi: object, told: str) -> None:
    with pytest.raises(GeodetectError, match=told):
        read_area(aoi, GRID)  # type: ignore[arg-type]


def test_what_of_an_area_is_no_polygon_is_told(tmp_path: Path) -> None:
    parts = [*outlines([[10, 20, 50, 40]]), shapely.LineString([(0, 0), (5, 5)]), shapely.Point(1, 2)]
    with np.errstate(all="ignore"):
        frame = gpd.GeoDataFrame(geometry=[*_frame(parts).geometry, NOWHERE["inf"]], crs=UTM)
        frame.to_parquet(tmp_path / "zone.parquet")
    told = r"the aoi zone\.parquet: left out 1 without finite coordinates, 1 line, 1 point; only polygons"
    with pytest.warns(UserWarning, match=told):
        assert np.allclose(read_area(tmp_path / "zone.parquet", GRID).bounds, [10, 20, 50, 40])


def test_points_that_are_no_degrees_are_elsewhere() -> None:
    grid = Grid((100, 100), Affine(1e-5, 0, 10, 0, -1e-5, 60), CRS.from_epsg(4326), "town.tif")
    metres, inside = shapely.Point(500_000, 4_000_000), shapely.Point(10.0005, 59.9995)
    labels = labels_on(gpd.GeoDataFrame(geometry=[metres, inside, metres], crs=4326), grid, point_radius_m=10)
    x1, _, x2, _ = shapely.bounds(labels.polygons)[0]
    assert x2 - x1 == pytest.approx(20 / 0.558, rel=1e-3)
    with pytest.raises(LabelsError, match=r"does not meet town\.tif: it spans x 499"):
        labels_on(gpd.GeoDataFrame(geometry=[metres], crs=4326), grid, point_radius_m=10)


def test_an_area_is_opened_once_for_many_rasters() -> None:
    far = Grid(SHAPE, UPRIGHT @ Affine.translation(1000, 0), UTM, "far.tif")
    here, there = read_areas(_frame(outlines([[10, 20, 50, 40]])), [GRID, far])
    assert here.bounds == (10, 20, 50, 40)
    assert there.is_empty
    globe = CRS.from_proj4("+proj=ortho +lat_0=-40 +lon_0=-100")  # the half of the earth that is seen from there
    beyond = Grid(SHAPE, Affine(0.5, 0, 0, 0, -0.5, 0), globe, "beyond.tif")
    there, here = read_areas(_frame(outlines([[10, 20, 50, 40]])), [beyond, GRID])
    assert there.is_empty
    assert here.bounds == (10, 20, 50, 40)
    with pytest.raises(LabelsError, match=r"the frame of the aoi does not meet far\.tif"):
        read_areas(_frame(outlines([[10, 20, 50, 40]])), [far, far])

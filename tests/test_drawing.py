from __future__ import annotations

import io

import geopandas as gpd
import numpy as np
import pytest
import shapely
from affine import Affine
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from geodetect import compute_accuracy, show
from geodetect.errors import LabelsError, NotGeoreferenced, RasterError
from geodetect.grid import Grid
from tests.fakes import SHAPE, SQUARES, UTM, painted, write_raster

SOMEWHERE = gpd.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)])
LINE = shapely.LineString([(353_000, 3_057_000), (353_009, 3_057_000)])


def rendered(figure: Figure) -> Figure:
    """The figure, drawn once; warnings on the way are errors."""
    figure.savefig(io.BytesIO())
    return figure


def bounds(figure: Figure) -> np.ndarray:
    """Where outlines lie in pixels of the picture, (N, 4)."""
    drawn = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)][-1]
    return np.array([path.get_extents().get_points().ravel() for path in drawn.get_paths()]).reshape(-1, 4)


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for each in figure.legends for text in each.get_texts()]


def test_outlines_lie_on_what_was_painted_however_the_grid_lies(scene):
    figure = rendered(show(scene.path, scene.truth))
    assert figure.axes[0].images[0].get_array().shape[:2] == SHAPE
    np.testing.assert_allclose(bounds(figure), SQUARES[:, :4], atol=1e-6)
    assert sorted(legend(figure)) == ["blue (5)", "red (4)"]


def test_features_may_be_in_any_crs_and_a_file(upright, tmp_path):
    upright.truth.to_crs(4326).to_file(tmp_path / "truth.geojson")
    np.testing.assert_allclose(bounds(show(upright.path, tmp_path / "truth.geojson")), SQUARES[:, :4], atol=0.01)


def test_only_the_bounds_of_an_aoi_are_shown(upright):
    frame = upright.truth
    aoi = frame.geometry.iloc[2]  # pixels 58 to 70
    figure = rendered(show(upright.path, frame, aoi=aoi))
    assert figure.axes[0].images[0].get_array().shape[:2] == (12, 12)
    np.testing.assert_allclose(bounds(figure), [[0, 0, 12, 12]], atol=1e-6)


def test_a_large_scene_is_read_no_finer_than_a_screen_and_its_small_objects_enlarged(tmp_path):
    grid = Grid((800, 4_000), Affine(0.5, 0, 353_000, 0, -0.5, 3_057_000), UTM)
    path = write_raster(tmp_path / "large.tif", np.full((3, *grid.shape), 90, np.uint8), grid)
    corners = np.array([[3_000, 300], [3_010, 312], [3_030, 320]])
    places = shapely.transform(shapely.box(*corners.T, *(corners + 8).T), grid.to_map)
    figure = rendered(show(path, gpd.GeoDataFrame({"score": [0.5, 0.7, 0.9]}, geometry=places, crs=UTM)))
    whole, part = figure.axes
    assert whole.images[0].get_array().shape[:2] == (320, 1_600)
    np.testing.assert_allclose(bounds(figure), np.c_[corners, corners + 8] * 0.4, atol=1e-6)
    # A cell of 320 px, of which each stands for 2.5 of the file's: those are shown.
    assert part.images[0].get_array().shape[:2] == (800, 800)
    assert {"0.50", "0.70", "0.90"} <= {text.get_text() for text in part.texts}


def test_without_georeference_features_are_in_pixels_and_nothing_tells_the_scale(tmp_path):
    path = write_raster(tmp_path / "plain.tif", painted())
    truth = gpd.GeoDataFrame(geometry=shapely.box(*SQUARES[:, :4].T))
    figure = rendered(show(path, truth))
    np.testing.assert_allclose(bounds(figure), SQUARES[:, :4])
    assert [text.get_text() for text in figure.axes[0].texts] == []
    assert rendered(show(path)).axes[0].images[0].get_array().shape[:2] == SHAPE


def test_a_large_scene_without_georeference_is_thinned_out(tmp_path):
    path = write_raster(tmp_path / "plain.tif", np.full((1, 300, 3_500), 7, np.uint8))
    truth = gpd.GeoDataFrame(geometry=[shapely.box(300, 30, 600, 90)])
    figure = rendered(show(path, truth))
    assert figure.axes[0].images[0].get_array().shape[:2] == (100, 1_167)  # every third
    np.testing.assert_allclose(bounds(figure), [[100, 10, 200, 30]])


def test_the_features_of_an_accuracy_are_drawn_by_outcome(upright):
    truth = upright.truth
    found = truth.iloc[:5].assign(score=0.9)
    stray = gpd.GeoDataFrame(
        {"label": ["red"], "score": [0.8]}, geometry=[truth.geometry.iloc[5].buffer(9).envelope], crs=UTM
    )
    features = compute_accuracy(gpd.pd.concat([found, stray]), truth).features
    assert legend(rendered(show(upright.path, features))) == ["TP, right (5)", "FP, wrong (1)", "FN, missed (4)"]
    assert legend(show(upright.path, features, label_field="label")) == ["blue (5)", "red (5)"]


def test_features_that_score_less_are_left_out_and_those_without_a_score_stay(upright):
    scores = [0.9, 0.2, np.nan, *[0.1] * 6]
    assert legend(show(upright.path, upright.truth.assign(score=scores), min_score=0.5)) == ["blue (1)", "red (1)"]


def test_a_class_has_its_colour_by_its_place_among_all(upright):
    def colour(figure: Figure) -> tuple[float, ...]:
        return figure.legends[0].get_patches()[-1].get_edgecolor()

    reds = upright.truth[upright.truth["label"] == "red"]
    everywhere = colour(show(upright.path, reds, classes=["blue", "red"]))
    assert everywhere == colour(show(upright.path, upright.truth, classes=["blue", "red"]))
    assert everywhere != colour(show(upright.path, reds))


def test_points_are_circles_and_features_without_a_class_are_named_so(upright):
    truth = upright.truth
    points = truth.set_geometry(truth.centroid).assign(label=[None, *["red"] * 8])
    figure = rendered(show(upright.path, points))
    np.testing.assert_allclose(
        (bounds(figure)[:, :2] + bounds(figure)[:, 2:]) / 2, (SQUARES[:, :2] + SQUARES[:, 2:4]) / 2
    )
    assert sorted(legend(figure)) == ["no class (1)", "red (8)"]


def test_pixels_without_data_are_grey(tmp_path, upright):
    pixels = painted()
    pixels[:, :40] = 0
    shown = show(write_raster(tmp_path / "part.tif", pixels, upright.grid, nodata=0)).axes[0].images[0].get_array()
    assert (shown[:40] == np.float32(0.93)).all()
    assert not (shown[41:] == np.float32(0.93)).all(axis=2).any()


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (SOMEWHERE, NotGeoreferenced, "has no coordinate reference system"),
        (SOMEWHERE.set_crs(UTM), LabelsError, "none of the frame of features lies on upright.tif"),
        (gpd.GeoDataFrame(geometry=[LINE], crs=UTM), LabelsError, "polygons nor points"),
        ("gone.gpkg", LabelsError, "There is no file gone.gpkg"),
    ],
)
def test_features_that_cannot_be_drawn_are_refused(upright, features, error, message):
    with pytest.raises(error, match=message):
        show(upright.path, features)


def test_a_raster_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RasterError, match="There is no file"):
        show(tmp_path / "gone.tif")


def test_no_features_at_all_are_none(upright):
    assert legend(rendered(show(upright.path, upright.truth.iloc[:0]))) == []

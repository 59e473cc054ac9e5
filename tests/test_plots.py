from __future__ import annotations

import io
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from geodetect.colours import OUTCOMES, class_colours
from geodetect.plots import (
    Detail,
    Ground,
    Marks,
    draw_chips,
    draw_curve,
    draw_losses,
    draw_rates,
    draw_scene,
    find_fullest_part,
    to_rgb,
)

CLASSES = ["house", "shed"]
PICTURE = np.arange(3 * 8 * 12, dtype=np.uint8).reshape(3, 8, 12)
BOXES = np.array([[1, 1, 4, 5], [6, 2, 9, 7.5]])


def rendered(figure: Figure) -> Figure:
    """The figure, drawn once; warnings on the way are errors."""
    figure.savefig(io.BytesIO())
    return figure


def outlines(ax) -> list[PolyCollection]:
    """What lies over the picture, casing first."""
    return [drawn for drawn in ax.collections if isinstance(drawn, PolyCollection)]


def texts(figure: Figure) -> list[str]:
    """Entries of the legend under the figure."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


@given(st.lists(st.text(max_size=3)))
def test_a_class_has_its_colour_by_its_place(names):
    colours = class_colours(names)
    assert list(colours) == list(dict.fromkeys(names))
    first = list(colours.values())[:7]
    assert len(set(first)) == len(first)
    assert class_colours([*names, "one more"]).items() >= colours.items()


@given(
    st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]).flatmap(
        lambda kind: arrays(kind, st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)))
    )
)
def test_a_picture_has_three_bands_from_0_to_1(pixels):
    picture = to_rgb(pixels)
    assert picture.shape == (*pixels.shape[1:], 3)
    assert picture.dtype == np.float32
    assert ((picture >= 0) & (picture <= 1)).all()


def test_infinite_values_of_a_dark_band_are_white():
    pixels = np.array([[[0, 0.1, 0.2, 0.3, np.inf]]], np.float32)
    assert to_rgb(pixels)[0, -1].tolist() == [1, 1, 1]


def test_bytes_are_shown_as_they_are():
    np.testing.assert_allclose(to_rgb(PICTURE) * 255, np.moveaxis(PICTURE, 0, -1), atol=1e-4)


def test_other_bands_are_stretched_from_their_2nd_to_their_98th_percentile():
    ramp = np.arange(1, 102, dtype=np.uint16).reshape(1, 1, 101) * 40  # percentile k is 40 k + 40
    expected = np.clip((np.arange(101) - 2) / 96, 0, 1)
    np.testing.assert_allclose(to_rgb(ramp)[0], np.repeat(expected[:, None], 3, axis=1), atol=1e-6)


def test_pixels_without_data_have_no_say_in_the_stretch():
    ramp = np.arange(1, 102, dtype=np.uint16).reshape(1, 1, 101) * 40
    with_none = np.concatenate([np.zeros((1, 1, 900), np.uint16), ramp], axis=2)
    np.testing.assert_array_equal(to_rgb(with_none)[:, 900:], to_rgb(ramp))


def test_chips_of_16_bits_share_their_stretch():
    dark, bright = np.full((3, 8, 12), 100, np.uint16), np.full((3, 8, 12), 4_000, np.uint16)
    figure = rendered(draw_chips([dark, bright], [Marks()] * 2, classes=CLASSES))
    shown = [ax.images[0].get_array().max() for ax in figure.axes]
    assert shown == [0, 1]


def test_four_bands_show_the_first_three_and_two_the_first():
    four = np.concatenate([PICTURE, PICTURE[:1] * 0])
    np.testing.assert_array_equal(to_rgb(four), to_rgb(PICTURE))
    np.testing.assert_array_equal(to_rgb(PICTURE[:2]), to_rgb(PICTURE[:1]))


def test_pixels_that_are_no_numbers_are_black():
    pixels = np.ones((1, 2, 2), np.float32)
    pixels[0, 0] = np.nan, 3
    assert (to_rgb(pixels)[0, 0] == 0).all()
    assert (to_rgb(np.full((3, 2, 2), np.nan, np.float32)) == 0).all()


def test_boxes_lie_on_their_pixels_in_the_colours_of_their_classes():
    figure = rendered(draw_chips([PICTURE], [Marks.of_boxes(BOXES, ["shed", "house"])], classes=CLASSES))
    (image,) = figure.axes[0].images
    assert isinstance(image, AxesImage)
    assert list(image.get_extent()) == [0, 12, 8, 0]  # pixel edges, not centres, on whole numbers
    _, lines = outlines(figure.axes[0])
    for path, box in zip(lines.get_paths(), BOXES, strict=True):
        np.testing.assert_array_equal(path.get_extents().get_points().ravel(), box)
    colours = class_colours(CLASSES)
    assert [to_hex(edge).upper() for edge in lines.get_edgecolor()] == [colours["shed"], colours["house"]]
    assert texts(figure) == CLASSES


def test_detections_stand_to_the_right_with_their_scores():
    found = [Marks.of_boxes(BOXES[:1], ["house"], np.array([0.875]))] * 2
    figure = rendered(draw_chips([PICTURE] * 2, [Marks.of_boxes(BOXES, CLASSES)] * 2, classes=CLASSES, found=found))
    assert [ax.get_title() for ax in figure.axes] == ["true boxes", "detections"] * 2
    assert [len(outlines(ax)[1].get_paths()) for ax in figure.axes] == [2, 1, 2, 1]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0.88"]
    assert figure.axes[0].get_position().x0 < figure.axes[1].get_position().x0


def test_too_many_scores_are_left_out():
    many = np.tile(BOXES[:1], (200, 1))
    found = [Marks.of_boxes(many, ["house"] * 200, np.full(200, 0.5))]
    figure = rendered(draw_chips([PICTURE], [Marks.of_boxes(many, ["house"] * 200)], classes=CLASSES, found=found))
    assert not figure.axes[1].texts


@pytest.mark.parametrize("n_chips", [0, 1, 2, 5])
def test_a_grid_holds_any_number_of_chips_without_boxes(n_chips):
    figure = rendered(draw_chips([PICTURE] * n_chips, [Marks()] * n_chips, classes=CLASSES, columns=2))
    assert sum(len(ax.images) for ax in figure.axes) == n_chips
    assert texts(figure) == []


def test_a_notebook_is_given_a_png_and_pyplot_is_left_alone():
    figure = draw_rates([1e-4, 1e-3, 1e-2], [2.0, 1.0, 5.0], 1e-3)
    assert figure._repr_png_().startswith(b"\x89PNG")
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_losses_share_their_batches():
    figure = rendered(draw_losses(np.linspace(2, 1, 40), [1.6, 1.2], [20, 40], ap50=[0.2, 0.4]))
    loss, ap50 = figure.axes
    assert loss.get_xlim() == ap50.get_xlim()
    assert list(ap50.lines[0].get_xdata()) == [20, 40]
    assert len(draw_losses([1.0], [1.0], [1]).axes) == 1


def test_a_wild_first_batch_does_not_flatten_the_losses():
    losses = np.linspace(2, 1, 200)
    losses[0] = 1_000
    assert draw_losses(losses, [1.1], [200]).axes[0].get_ylim()[1] < 5


@pytest.mark.parametrize(
    ("train", "valid", "ends"), [([], [], []), ([np.nan, 1], [np.nan], [2]), ([0.0, 0.0], [0.0], [2])]
)
def test_losses_of_any_kind_are_drawn(train, valid, ends):
    rendered(draw_losses(train, valid, ends))


def test_rates_are_on_a_log_axis_and_divergence_is_cut_off():
    (ax,) = rendered(draw_rates(np.geomspace(1e-6, 1, 50), [*np.linspace(2, 1, 49), 1e9], 1e-3)).axes
    assert ax.get_xscale() == "log"
    assert ax.get_ylim()[1] < 3
    assert ax.get_legend().get_texts()[0].get_text() == "suggested: 1.0e-03"
    rendered(draw_rates([1e-3, 1e-2], [1.0, 1.0]))


@pytest.mark.parametrize("n_rows", [0, 1, 5])
def test_the_curve_is_drawn_with_and_without_a_best_score(n_rows):
    score = np.linspace(0.9, 0.1, n_rows)
    curve = pd.DataFrame({"score": score, "precision": score, "recall": 1 - score, "f1": score})
    left, right = rendered(draw_curve(curve, score[0] if n_rows else np.nan)).axes
    assert len(left.lines) == (2 if n_rows else 1)
    assert len(right.lines) == (4 if n_rows else 3)


def square(x: float, y: float, side: float = 10) -> np.ndarray:
    """Corners of an upright square."""
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])


def houses(*outlines: np.ndarray, scores: np.ndarray | None = None) -> Marks:
    return Marks(outlines, ["house"] * len(outlines), scores, class_colours(CLASSES))


def test_a_scene_is_one_picture_with_counts_a_scale_and_the_north():
    rgb = np.zeros((100, 200, 3), np.uint8)
    ground = Ground(0.5, (0.0, -1.0))
    figure = rendered(draw_scene(rgb, houses(square(5, 5), square(50, 50)), ground=ground))
    (ax,) = figure.axes
    assert texts(figure) == ["house (2)"]
    # 100 m across: the longest round length of at most 25 m is 20 m, 40 px.
    assert [text.get_text() for text in ax.texts] == ["20 m", "", "N"]
    assert np.ptp(ax.lines[0].get_xdata()) == pytest.approx(40)


@pytest.mark.parametrize("north", [(0.0, -1.0), (1.0, 0.0), (-0.6, 0.8)])
def test_the_arrow_points_north(north):
    figure = draw_scene(np.zeros((300, 300, 3)), Marks(), ground=Ground(1.0, north))
    figure.draw_without_rendering()
    (ax,) = figure.axes
    arrow, letter = ax.texts[1:]
    tip = letter.get_window_extent().get_points().mean(axis=0)
    centre = arrow.arrow_patch.get_window_extent().get_points().mean(axis=0)
    towards = (tip - centre) / np.hypot(*(tip - centre))
    np.testing.assert_allclose(towards, [north[0], -north[1]], atol=0.05)  # display y points up
    assert ax.bbox.contains(*tip)


@pytest.mark.parametrize(("pixel_size_m", "text"), [(30.0, "5 km"), (0.01, "2 m"), (0.0005, "0.1 m")])
def test_the_scale_is_round_at_any_size(pixel_size_m, text):
    figure = draw_scene(np.zeros((100, 800, 3)), Marks(), ground=Ground(pixel_size_m, (0.0, -1.0)))
    assert figure.axes[0].texts[0].get_text() == text


def test_the_fullest_part_is_the_cell_with_most_outlines():
    crowd = [square(920 + 20 * k, 310) for k in range(9)]
    # Cells of 300 px: the crowd lies in the fourth column of the second row.
    assert find_fullest_part((1_000, 1_500), [square(0, 0), square(1_400, 900), *crowd], 300) == (900, 300, 1_200, 600)
    assert find_fullest_part((40, 1_000), [], 200) == (0, 0, 40, 40)


def test_a_detail_stands_beside_its_scene_in_its_pixels():
    crowd = [square(920 + 20 * k, 310) for k in range(9)]
    detail = Detail((900, 300, 1_200, 600), np.ones((50, 50, 3)))
    figure = rendered(
        draw_scene(
            np.zeros((1_000, 1_500, 3)),
            houses(square(0, 0), *crowd, scores=np.linspace(0.5, 0.9, 10)),
            detail=detail,
        )
    )
    whole, part = figure.axes
    assert (whole.get_xlim(), whole.get_ylim()) == ((0, 1_500), (1_000, 0))
    assert (part.get_xlim(), part.get_ylim()) == ((900, 1_200), (600, 300))
    assert list(part.images[0].get_extent()) == [900, 1_200, 600, 300]
    assert len(part.texts) == 9
    assert not whole.texts


def test_scores_that_would_lie_on_each_other_give_way_to_the_better_one():
    near = [square(50, 50), square(50.5, 50.5), square(150, 150)]
    figure = rendered(
        draw_scene(
            np.zeros((300, 300, 3)),
            houses(*near, scores=np.array([0.6, 0.9, 0.3])),
        )
    )
    assert sorted(text.get_text() for text in figure.axes[0].texts if text.get_visible()) == ["0.30", "0.90"]


def test_missed_objects_have_broken_outlines_in_picture_and_legend():
    figure = rendered(
        draw_scene(
            np.zeros((99, 99, 3)), Marks([square(9, 9), square(50, 50)], ["TP", "FN"], colours=OUTCOMES, dashed=["FN"])
        )
    )
    *_, lines = outlines(figure.axes[0])
    assert [style[1] is None for style in lines.get_linestyle()] == [True, False]
    assert texts(figure) == ["TP (1)", "FN (1)"]


def test_a_legend_of_very_many_classes_says_how_many_more():
    names = [f"class number {k}" for k in range(60)]
    figure = rendered(
        draw_scene(np.zeros((99, 99, 3)), Marks([square(9, 9)] * 60, names, colours=class_colours(names)))
    )
    assert texts(figure)[-1] == "and 37 more"
    (legend,) = figure.legends
    assert legend.get_window_extent().width <= figure.bbox.width


@pytest.mark.parametrize("shape", [(1_000, 40), (40, 1_000), (1, 1)])
def test_an_empty_scene_of_any_shape_is_drawn(shape):
    figure = rendered(draw_scene(np.zeros((*shape, 3)), Marks(), title="nothing"))
    assert len(figure.axes) == 1
    assert max(figure.get_size_inches()) < 15

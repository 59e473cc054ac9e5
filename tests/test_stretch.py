import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geodetect.errors import ArgumentError
from geodetect.stretch import IMAGENET, Stretch

uint16 = hnp.arrays(np.uint16, st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5)))


def whole(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pixels, np.ones(pixels.shape[1:], bool)


@given(st.lists(uint16, min_size=1, max_size=4))
def test_parts_give_the_moments_of_the_whole(parts):
    values = np.concatenate([part.reshape(2, -1) for part in parts], axis=1).astype(float)
    stretch = Stretch.fit(map(whole, parts))
    np.testing.assert_allclose(stretch.mean, values.mean(axis=1), rtol=1e-9, atol=1e-9)
    varies = values.std(axis=1) > 0
    np.testing.assert_allclose(np.array(stretch.std)[varies], values.std(axis=1)[varies], rtol=1e-6)


@given(uint16)
def test_what_it_was_fitted_to_has_mean_0_and_deviation_1(pixels):
    stretched = Stretch.fit([whole(pixels)]).apply(pixels)
    assert stretched.dtype == np.float32
    np.testing.assert_allclose(stretched.mean(axis=(1, 2)), 0, atol=1e-2)
    constant = pixels.std(axis=(1, 2)) == 0
    np.testing.assert_allclose(stretched.std(axis=(1, 2))[~constant], 1, atol=1e-2)
    assert (stretched[constant] == 0).all()


@given(uint16, st.integers(1, 3))
def test_a_batch_is_stretched_as_its_pictures(pixels, n):
    stretch = Stretch((1000.0, 20.0), (300.0, 7.0))
    batch = stretch.apply(np.stack([pixels] * n))
    assert all((picture == stretch.apply(pixels)).all() for picture in batch)


def test_values_are_never_clipped_nor_wrapped():
    stretch = Stretch((100.0,), (50.0,))
    pixels = np.array([[[0, 100, 65535]]], np.uint16)
    np.testing.assert_allclose(stretch.apply(pixels)[0, 0], [-2, 0, (65535 - 100) / 50])
    assert pixels.tolist() == [[[0, 100, 65535]]]  # and the input is as it was


def test_moments_by_hand():
    # 2, 4, 4, 4, 5, 5, 7, 9: mean 5, deviation 2; the 255 is not valid and the NaN not finite
    pixels = np.array([[[2, 4, 4, 4, 5, 5, 7, 9, 255, np.nan]]])
    valid = np.array([[True] * 8 + [False, True]])
    assert Stretch.fit([(pixels, valid)]) == Stretch((5.0,), (2.0,))


def test_small_numbers_vary_too():
    # reflectances, and a constant one that no power of two divides
    pixels = np.stack([np.full((3, 3), 0.3), np.linspace(0, 1e-4, 9).reshape(3, 3)]).astype(np.float32)
    stretch = Stretch.fit([whole(pixels)])
    assert stretch.std[0] == 1
    assert stretch.std[1] == pytest.approx(pixels[1].std(), rel=1e-5)


def test_a_narrow_range_far_from_zero_keeps_its_digits():
    pixels = 60_000 + np.random.default_rng(0).normal(0, 0.5, (1, 50, 50))
    assert Stretch.fit([whole(pixels)] * 3).std[0] == pytest.approx(pixels.std(), rel=1e-9)


def test_imagenet_is_for_pixels_from_0_to_255():
    white = np.full((3, 1, 1), 255, np.uint8)
    np.testing.assert_allclose(IMAGENET.apply(white).ravel(), [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-5)


def test_no_valid_pixel_is_refused():
    with pytest.raises(ArgumentError, match="there is none"):
        Stretch.fit([(np.ones((1, 2, 2)), np.zeros((2, 2), bool))])
    with pytest.raises(ArgumentError, match="there is none"):
        Stretch.fit([])


@pytest.mark.parametrize(
    ("mean", "std"), [((), ()), ((1.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((np.nan,), (1.0,)), ((1.0,), (np.inf,))]
)
def test_impossible_moments_are_refused(mean, std):
    with pytest.raises(ArgumentError, match="one finite mean and one deviation above 0"):
        Stretch(mean, std)


def test_another_number_of_bands_is_refused():
    with pytest.raises(ArgumentError, match="recorded for 3 bands; got 4"):
        IMAGENET.apply(np.zeros((4, 2, 2)))

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geodetect.errors import ArgumentError
from geodetect.normalization import IMAGENET, Normalization, Sample, ValueRange, is_data
from tests.fakes import standardise

uint16 = hnp.arrays(np.uint16, st.tuples(st.just(2), st.integers(1, 5), st.integers(1, 5)))


def whole(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return pixels, np.ones(pixels.shape[1:], bool)


@given(st.lists(uint16, min_size=1, max_size=4))
def test_parts_give_the_moments_of_the_whole(parts):
    values = np.concatenate([part.reshape(2, -1) for part in parts], axis=1).astype(float)
    normalization = Normalization.fit(map(whole, parts))
    np.testing.assert_allclose(normalization.mean, values.mean(axis=1), rtol=1e-9, atol=1e-9)
    varies = values.std(axis=1) > 0
    np.testing.assert_allclose(np.array(normalization.std)[varies], values.std(axis=1)[varies], rtol=1e-6)


@given(uint16)
def test_what_it_was_fitted_to_has_mean_0_and_deviation_1(pixels):
    stretched = standardise(Normalization.fit([whole(pixels)]), pixels)
    assert stretched.dtype == np.float32
    np.testing.assert_allclose(stretched.mean(axis=(1, 2)), 0, atol=1e-2)
    constant = pixels.std(axis=(1, 2)) == 0
    np.testing.assert_allclose(stretched.std(axis=(1, 2))[~constant], 1, atol=1e-2)
    assert (stretched[constant] == 0).all()


def test_moments_by_hand():
    # 2, 4, 4, 4, 5, 5, 7, 9: mean 5, deviation 2; the 255 is not valid and the NaN not finite
    pixels = np.array([[[2, 4, 4, 4, 5, 5, 7, 9, 255, np.nan]]])
    valid = np.array([[True] * 8 + [False, True]])
    assert Normalization.fit([(pixels, valid)]) == Normalization((5.0,), (2.0,))


def test_small_numbers_vary_too():
    # reflectances, and a constant one that no power of two divides
    pixels = np.stack([np.full((3, 3), 0.3), np.linspace(0, 1e-4, 9).reshape(3, 3)]).astype(np.float32)
    normalization = Normalization.fit([whole(pixels)])
    assert normalization.std[0] == 1
    assert normalization.std[1] == pytest.approx(pixels[1].std(), rel=1e-5)


def test_a_narrow_range_far_from_zero_keeps_its_digits():
    pixels = 60_000 + np.random.default_rng(0).normal(0, 0.5, (1, 50, 50))
    assert Normalization.fit([whole(pixels)] * 3).std[0] == pytest.approx(pixels.std(), rel=1e-9)


def test_imagenet_is_for_pixels_from_0_to_255():
    white = np.full((3, 1, 1), 255, np.uint8)
    np.testing.assert_allclose(
        standardise(IMAGENET, white).ravel(), [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225], rtol=1e-5
    )


def test_no_valid_pixel_is_refused():
    with pytest.raises(ArgumentError, match="there is none"):
        Normalization.fit([(np.ones((1, 2, 2)), np.zeros((2, 2), bool))])
    with pytest.raises(ArgumentError, match="there is none"):
        Normalization.fit([])


@pytest.mark.parametrize(
    ("mean", "std"), [((), ()), ((1.0,), (1.0, 2.0)), ((1.0,), (0.0,)), ((np.nan,), (1.0,)), ((1.0,), (np.inf,))]
)
def test_impossible_moments_are_refused(mean, std):
    with pytest.raises(ArgumentError, match="one finite mean and one deviation above 0"):
        Normalization(mean, std)


# What the numbers are like


def sample(*pixels: np.ndarray) -> Sample:
    return Sample(map(whole, pixels))


def scene(
    dtype: str = "uint8", low: float = 0, high: float = 255, *, typical: float = 0.4, bands: int = 3
) -> np.ndarray:
    """(bands, 60, 60) as scenes are: most values lie at a `typical` share of the range, few at its ends."""
    values = np.random.default_rng(4).beta(4 * typical, 4 * (1 - typical), (bands, 60, 60))
    return (low + (high - low) * values).astype(dtype)


def numbers(*args: object, **keywords: object) -> ValueRange:
    found = sample(scene(*args, **keywords)).value_range()
    assert found is not None
    return found


def test_quantiles_by_hand():
    # 0 to 100 in one band, so that 2, 50 and 98 % are themselves; the second is 10 times that. 255 is not valid.
    pixels = np.stack([np.arange(102), 10 * np.arange(102)])[:, None].astype(np.uint16)
    valid = np.arange(102)[None] < 101
    found = Sample([(pixels, valid)]).value_range()
    assert found == ValueRange("uint16", [(0, 2, 50, 98, 100), (0, 20, 500, 980, 1000)])
    assert str(found) == "uint16 from 0 to 1000"


def test_a_sample_of_nothing_has_no_numbers():
    assert Sample().value_range() is None
    assert Sample([(np.zeros((3, 4, 4)), np.zeros((4, 4), bool))]).value_range() is None
    assert sample(np.full((1, 4, 4), np.nan)).value_range() is None
    assert Sample().describe_fills("it") == ""


UNITS = {
    "bytes": ("uint8", 0, 255),
    "bytes as floats": ("float32", 0, 255),
    "bytes in 16 bits": ("uint16", 0, 255),
    "0 to 1": ("float32", 0, 1),
    "0 to 100": ("float32", 0, 100),
    "11 bits": ("uint16", 0, 2047),
    "12 bits": ("uint16", 0, 4095),
    "reflectance": ("uint16", 0, 10_000),
    "signed reflectance": ("int16", 0, 10_000),
    "16 bits": ("uint16", 0, 65_535),
    "decibel": ("float32", -25, 0),
}
ALIKE = [
    {"bytes", "bytes as floats", "bytes in 16 bits", "0 to 100"},
    {"11 bits", "12 bits"},
    {"12 bits", "reflectance", "signed reflectance"},
]


@pytest.mark.parametrize("trained", UNITS)
@pytest.mark.parametrize("shown", UNITS)
def test_other_units_are_told_from_those_of_training(trained, shown):
    alike = trained == shown or any({trained, shown} <= each for each in ALIKE)
    close = {trained, shown} in ({"11 bits", "reflectance"}, {"11 bits", "signed reflectance"}, {"decibel", "0 to 100"})
    if not close:  # some are within a factor of a few: nobody can tell them from another light
        assert numbers(*UNITS[shown]).are_unlike(numbers(*UNITS[trained])) != alike


@pytest.mark.parametrize("units", [name for name in UNITS if name != "decibel"])
@pytest.mark.parametrize("light", [0.3, 0.5, 2.0])
def test_a_darker_or_brighter_scene_is_not_unlike(units, light):
    dtype, low, high = UNITS[units]
    limit = np.iinfo(dtype).max if dtype[0] in "iu" else np.inf
    normal = scene(dtype, low, high)
    other = np.minimum(normal.astype(float) * light, limit).astype(dtype)
    one, two = sample(normal).value_range(), sample(other).value_range()
    assert not two.are_unlike(one)
    assert not one.are_unlike(two)


def test_bytes_may_be_as_dark_as_they_like():
    assert not numbers("uint8", 0, 12).are_unlike(numbers("uint8", 0, 255))
    assert not numbers("uint8", 240, 255).are_unlike(numbers("uint8", 0, 12))


def test_bands_that_say_nothing_are_left_out():
    def with_constant(pixels: np.ndarray, value: float) -> ValueRange:
        found = sample(np.concatenate([pixels, np.full_like(pixels[:1], value)])).value_range()
        assert found is not None
        return found

    trained = with_constant(scene("uint16", 0, 10_000), 0)
    assert with_constant(scene("float32", 0, 1), 0).are_unlike(trained)
    assert not with_constant(scene("uint16", 0, 9_000), 5).are_unlike(trained)
    # Water: near infrared has nearly nothing, which the other bands do not say.
    assert not with_constant(scene("uint16", 0, 9_000), 20).are_unlike(with_constant(scene("uint16", 0, 10_000), 3_000))
    assert not numbers(bands=3).are_unlike(numbers("float32", 0, 1, bands=4))  # that is for others to say


def test_numbers_survive_json():
    normalization = Normalization((5.0,), (2.0,), numbers("float32", 0, 1, bands=1))
    again = Normalization.from_json(json.loads(json.dumps(normalization.to_json())))
    assert again == normalization
    assert again.value_range == normalization.value_range
    assert Normalization.from_json({"mean": [5.0], "std": [2.0]}).value_range is None  # as files had it


@pytest.mark.parametrize(
    "wrong",
    [
        {"dtype": "uint8", "quantiles": [[1, 2, 3]]},
        {"dtype": "uint8", "quantiles": []},
        {"dtype": "uint8", "quantiles": [[1, 2, 3, 4, float("nan")]]},
        {"dtype": "uint8", "quantiles": "many"},
        {"dtype": "nibble", "quantiles": [[1, 2, 3, 4, 5]]},
        7,
    ],
)
def test_numbers_that_cannot_be_are_refused(wrong):
    with pytest.raises(ArgumentError):
        Normalization((5.0,), (2.0,), wrong)


# Values that stand for no data, though nothing says so


def filled(pixels: np.ndarray, value: float, share: float = 0.1) -> np.ndarray:
    pixels = pixels.copy()
    pixels[:, : round(60 * share)] = value
    return pixels


LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize(
    ("pixels", "fill"),
    [
        (scene("float32", 0, 255), -9999),
        (scene("float32", 0, 255), -32767),
        (scene("float32", 0, 255), LOWEST),
        (scene("float32", 0, 1), -99),
        (scene("float32", 0, 1), 1e20),
        (scene("float32", 0, 1), -10_000),
        (scene("float64", 250, 320), np.finfo(np.float64).max),
        (scene("float32", -25, 0), -9999),  # decibels
        (scene("float32", 0, 3000), -32768),  # heights
        (scene("float32", -10, 4000), -9999),
        (scene("float32", -1, 1), -3000),  # a vegetation index: no other value is so low, and none is usual
        (scene("int16", 0, 10_000), -9999),
        (scene("int16", 0, 10_000), -32768),
        (scene("uint16", 0, 2047), 65_535),
        (scene("float32", 0, 1), -4321),
    ],
)
def test_a_value_far_from_all_others_is_told_and_does_not_count(pixels, fill):
    if fill == -3000:
        pixels = np.abs(pixels)  # only there a value that means nothing elsewhere is no data for certain
    shown = filled(pixels, fill)
    found = sample(shown)
    assert {each.value for each in found.fills()} == {float(shown.dtype.type(fill))}
    assert [each.share for each in found.fills()] == pytest.approx([0.1] * 3)
    told = found.describe_fills("the pixels of town.tif")
    spelt = str(shown.dtype.type(fill)).removesuffix(".0")
    assert f"10% of the pixels of town.tif hold {spelt}" in told
    assert f"nodata={spelt}" in told
    assert shown.dtype.type(float(spelt)) == shown.dtype.type(fill)
    numbers = found.value_range()
    assert numbers is not None
    assert np.array(numbers.quantiles).min() >= pixels.min()
    assert np.array(numbers.quantiles).max() <= pixels.max()
    without = Normalization.fit([whole(shown)], found.fills())
    assert without == Normalization.fit([whole(shown[:, 6:])])


def _saturated(dtype: str, low: float, high: float, at: float) -> np.ndarray:
    """A scene of which a tenth is brighter than a sensor sees."""
    return np.minimum(scene(dtype, low, high, typical=0.7).astype(float), at).astype(dtype)


@pytest.mark.parametrize(
    "pixels",
    [
        scene(),
        filled(scene(low=30), 0),  # black and white margins of bytes
        filled(scene(high=50), 255),
        filled(scene("uint16", 1000, 2000), 0),
        filled(scene("float32", 250, 320), 0),  # nothing is no fill
        filled(scene("int16", 2000, 4000), 0),  # the sea
        filled(scene("float32", 312.5, 900), 312.5),  # a lake
        filled(scene("float32", 5, 400), -0.5),
        filled(scene("float32", -0.3, 0.9), -1),  # water in a vegetation index
        filled(scene("float32", 0, 360), -1),  # flat ground among directions
        _saturated("uint16", 0, 65_535 * 1.4, 65_535),
        _saturated("uint16", 0, 4095 * 1.4, 4095),
        _saturated("int16", 0, 32_767 * 1.4, 32_767),
        filled(scene("uint16", 0, 1000), 60_000),  # something bright
        filled(scene("float32", 0, 255), -9999, 0),
        np.full((3, 60, 60), -9999, "float32"),
        filled(np.full((3, 60, 60), 0, "uint16"), 65_535),  # a mask
        np.random.default_rng(0).choice([1, 2, 5, 99], (1, 60, 60)).astype("int16"),
    ],
)
def test_common_values_are_not_taken_for_no_data(pixels):
    assert sample(pixels).fills() == []
    assert sample(pixels).describe_fills("it") == ""


def test_files_of_two_programs_have_two_fills():
    pixels = filled(scene("float32", 0, 255), -9999)
    pixels[:, -9:] = -32768
    pixels[:, 20, :40] = 1e20
    found = sample(pixels)
    assert {fill.value for fill in found.fills()} == {-9999, -32768, float(np.float32(1e20))}
    assert "15% of them hold -32768 or -9999 or 1e+20, " in found.describe_fills("them")
    assert "give nodata=-32768, and declare -9999 in the raster (gdal_edit.py -a_nodata -9999)" in found.describe_fills(
        ""
    )
    assert Normalization.fit([whole(pixels)], found.fills()).mean[0] == pytest.approx(102, abs=3)


def test_a_fill_of_one_band_is_of_that_band_alone():
    heights, decibels = scene("float32", 0, 300, bands=1), scene("float32", -2000, -1000, bands=1)
    pixels = np.concatenate([filled(heights, -9999), decibels])
    found = sample(pixels)
    assert [(each.band, each.value) for each in found.fills()] == [(0, -9999)]
    assert is_data(pixels, found.fills()).mean() == pytest.approx(0.9)


def test_what_resampling_mixes_with_a_fill_goes_with_it():
    pixels = filled(scene("float32", 0, 255), -9999)
    pixels[:, 6, :12] = -4000  # between the fill and the others, at its edge
    found = sample(pixels)
    assert [each.value for each in found.fills()] == [-9999] * 3
    assert Normalization.fit([whole(pixels)], found.fills()).mean[0] == pytest.approx(pixels[0, 7:].mean(), abs=1)


@given(uint16, st.sampled_from(["float32", "int32", "float64"]))
def test_nothing_is_lost_where_nothing_is_found(pixels, dtype):
    pixels = pixels.astype(dtype)
    if not sample(pixels).fills():
        assert is_data(pixels, sample(pixels).fills()).all()

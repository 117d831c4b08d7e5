"""Normalising, grey, 8 bit and info bars hold their laws."""

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emcfsys_engine.images.normalise import (
    Normaliser,
    carries_colour,
    colour_share,
    find_info_bar,
    read_as,
    to_8_bit,
    to_grey,
)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    gain=st.floats(1e-3, 1e3),
    offset=st.floats(-1e3, 1e3),
)
def test_gain_and_offset_do_not_matter(seed: int, gain: float, offset: float) -> None:
    image = np.random.default_rng(seed).normal(0, 10, (40, 30))
    plain = Normaliser().apply(image)
    changed = Normaliser().apply(image * gain + offset)
    assert plain.shape == (40, 30, 1)
    assert plain.dtype == np.float32
    assert np.allclose(plain, changed, atol=2e-2)
    assert abs(float(plain.mean())) < 1e-3
    assert float(plain.std()) == pytest.approx(1, abs=1e-2)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_no_number_ever_becomes_nan(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, (16, 16)).astype(np.float32)
    image[rng.random((16, 16)) < share] = rng.choice([np.nan, np.inf, -np.inf])
    assert np.isfinite(Normaliser().apply(image)).all()


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_image_becomes_zeros(value: int) -> None:
    image = np.full((20, 20), value, np.uint16)
    assert not Normaliser().apply(image).any()
    assert not to_8_bit(image).any()


def test_borders_and_the_info_bar_do_not_enter_the_statistics() -> None:
    specimen = np.random.default_rng(0).integers(80, 120, (100, 100), dtype=np.uint8)
    framed = np.zeros((150, 140), np.uint8)
    framed[20:120, 30:130] = specimen
    framed[120:] = 255
    plain = Normaliser().statistics(specimen)
    assert Normaliser().statistics(framed, 30) == pytest.approx(plain)


def test_a_large_image_is_sampled_evenly() -> None:
    rows = np.arange(3000, dtype=np.float32)[:, None] % 251
    image = np.ascontiguousarray(np.broadcast_to(rows, (3000, 3000)))
    low, high, mean, deviation = Normaliser().statistics(image)
    assert (low, high) == pytest.approx((1, 249), abs=2)
    assert (mean, deviation) == pytest.approx((125, 72), abs=2)


def test_grey_keeps_equal_channels_and_drops_alpha() -> None:
    grey = np.random.default_rng(0).integers(0, 65535, (5, 6), dtype=np.uint16)
    same = np.stack((grey, grey, grey, np.zeros_like(grey)), axis=2)
    assert np.array_equal(to_grey(same), grey)
    assert to_grey(same).dtype == np.uint16
    assert np.array_equal(to_grey(same[..., 2:]), grey)
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[..., 1] = 100
    assert to_grey(colours) == pytest.approx(58.7)


def test_a_painted_bar_is_found_and_a_dark_specimen_is_not() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(40, 200, (200, 300), dtype=np.uint8)
    assert find_info_bar(image) == 0
    image[170:] = 0
    image[175:190, 20:80] = rng.integers(0, 2, (15, 60), dtype=np.uint8) * 255
    assert find_info_bar(image) == 30
    jpeg = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(image, level=75))
    assert 20 <= find_info_bar(jpeg) <= 30
    faint = np.where(image > 0, image // 16, 0).astype(np.uint16)  # a specimen of 12 grey values
    faint[170:] = np.where(image[170:], 65535, 0)
    assert find_info_bar(faint) == 30
    dark = np.where(rng.random((200, 300)) < 0.02, 200, 0).astype(np.uint8)
    assert find_info_bar(dark) == 0


@pytest.mark.parametrize("dust", [0, 220])
def test_vacuum_below_a_specimen_is_no_painted_bar(dust: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 200, (256, 300), dtype=np.uint8)
    wide = np.arange(300)
    edge = 215 + np.rint(2 * np.sin(wide / 40) + rng.normal(0, 1, 300)).astype(int)
    image[np.arange(256)[:, None] >= edge] = 0
    image[235:245, 100:130] = dust
    assert find_info_bar(image) == 0


@given(
    data=st.data(),
    kind=st.sampled_from([np.uint8, np.uint16]),
    number=st.integers(1, 400),
    seed=st.integers(0, 2**31),
)
def test_counted_values_give_the_statistics_of_sorted_ones(
    data: st.DataObject, kind: type[np.generic], number: int, seed: int
) -> None:
    most = data.draw(st.integers(0, np.iinfo(kind).max))
    values = np.random.default_rng(seed).integers(0, most, number, kind, endpoint=True)
    counted = Normaliser().statistics_of(values)
    as_sorted = Normaliser().statistics_of(values.astype(np.int64))
    np.testing.assert_allclose(counted, as_sorted, rtol=1e-9, atol=1e-9)


SIDE = 96


def _grey(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    smooth = 110 + 70 * np.sin(rows / 9 + seed) * np.cos(columns / 7)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@given(seed=st.integers(0, 1000))
def test_a_grey_image_carries_no_colour_however_it_was_stored(seed: int) -> None:
    grey = _grey(seed)
    same = np.repeat(grey[..., None], 3, axis=2)
    sepia = (same * np.array([1.0, 0.8, 0.6])).astype(np.uint8)
    noise = np.random.default_rng(seed).normal(0, 8, same.shape)
    camera = np.clip(same + noise, 0, 255).astype(np.uint8)
    bar = same.copy()
    bar[-4:, 4:16] = (255, 0, 0)
    for pixels in (grey, same, sepia, camera, bar, np.zeros_like(same)):
        assert not carries_colour(pixels)


@given(seed=st.integers(0, 1000), scale=st.sampled_from([1, 257]))
def test_pixels_of_equal_brightness_in_two_colours_are_found(seed: int, scale: int) -> None:
    two = np.where(_grey(seed)[..., None] > 110, (190, 60, 60), (60, 126, 60))
    pixels = (two * scale).astype(np.uint16 if scale > 1 else np.uint8)
    light = to_grey(pixels)
    assert np.ptp(light) < 0.01 * scale * 255
    assert colour_share(pixels) > 0.1


def test_one_channel_reads_brightness_and_three_read_colours_or_grey_thrice() -> None:
    grey = _grey(0)
    rgba = np.dstack([grey, grey // 2, grey // 3, np.full_like(grey, 9)])
    assert np.array_equal(read_as(rgba, 3), rgba[..., :3])
    assert np.array_equal(read_as(rgba, 1), to_grey(rgba))
    assert np.array_equal(read_as(grey, 3), np.dstack([grey] * 3))
    assert np.array_equal(read_as(np.dstack([grey] * 4), 3), np.dstack([grey] * 3))
    assert read_as(grey, 1) is grey

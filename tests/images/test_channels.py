"""Colour that tells what brightness does not is seen, and kept for who reads it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.images.channels import carries_colour, colour_share, read_as
from emcfsys_engine.images.normalise import to_grey

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

"""Pictures in the terminal's own pixels: the picture itself, and never too many bytes."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emcfsys_tui.pictures.encoders import MOST_BYTES, png_of, sixel_of
from tests.tui.graphics_made import SIXEL, sixel_picture


def _micrograph(width: int, height: int, *, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    return Image.fromarray(noise).convert("RGB")


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    cell=st.integers(4, 23),
    num_colours=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_decoded_sixel_picture_is_the_picture(
    width: int, height: int, cell: int, num_colours: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    palette = np.repeat(chance.integers(0, 256, (num_colours, 1), np.uint8), 3, axis=1)
    pixels = palette[chance.integers(0, num_colours, (height, width))]
    text = sixel_of(Image.fromarray(pixels), cell, most_bytes=10**6).decode()
    assert len(SIXEL.findall(text)) == -(-height // cell)
    far = np.abs(sixel_picture(text).astype(int) - pixels)
    assert far.max() <= 4  # 64 greys are 4 apart at most, and sixel says colours in percent


def test_a_grey_pixel_never_gets_the_colour_of_a_class() -> None:
    pixels = np.asarray(_micrograph(120, 100)).copy()
    pixels[40:60, 50:90] = (90, 160, 120)
    text = sixel_of(Image.fromarray(pixels), 20, most_bytes=10**6).decode()
    found = sixel_picture(text).astype(int)
    is_coloured = found.max(axis=2) - found.min(axis=2) > 20
    assert is_coloured[40:60, 50:90].all() and is_coloured.sum() == 20 * 40


def test_two_plain_colours_survive_sixel_and_kitty_unchanged() -> None:
    pixels = np.zeros((40, 30, 3), np.uint8)
    pixels[:, 10:] = (255, 51, 0)
    picture = Image.fromarray(pixels)
    assert (sixel_picture(sixel_of(picture, 20).decode()) == pixels).all()
    with Image.open(io.BytesIO(base64.standard_b64decode(png_of(picture)))) as shown:
        assert (np.asarray(shown.convert("RGB")) == pixels).all()


def test_what_could_only_be_coarser_than_half_blocks_is_not_sent() -> None:
    assert sixel_of(_micrograph(2400, 1400), 20, most_bytes=20_000) == b""
    assert png_of(_micrograph(2400, 1400), most_bytes=1000) == b""


@pytest.mark.parametrize("size", [(360, 340), (1000, 800)])
def test_a_picture_of_noise_is_never_larger_than_its_limit(size: tuple[int, int]) -> None:
    picture = _micrograph(*size)
    sixel, png = sixel_of(picture, 20), png_of(picture)
    assert 0 < len(sixel) <= MOST_BYTES and 0 < len(png) <= MOST_BYTES
    decoded = sixel_picture(sixel.decode())
    assert decoded.shape[:2] == (size[1], size[0])  # coarser, but as large
    assert abs(decoded.mean() - 127.5) < 8

"""Classes in colour over greys and over colours."""

import numpy as np

from emcfsys_engine.colours import colours_for
from emcfsys_engine.images.overlays import laid_over

_VALUES = (0, 7, 200)
_RNG = np.random.default_rng(0)
_GREY = _RNG.integers(0, 256, (20, 30), np.uint8)
_MASK = _RNG.choice(np.array(_VALUES, np.uint8), (20, 30))
_COLOURS = colours_for(3)


def test_each_pixel_is_mixed_with_its_class_and_the_first_stays_as_it_is() -> None:
    made = laid_over(_GREY, _MASK, _VALUES, _COLOURS, opacity=0.4)
    for (y, x), value in np.ndenumerate(_MASK):
        colour = np.array(_COLOURS[_VALUES.index(value)])
        wanted = _GREY[y, x] * 0.6 + colour * 0.4 if value else np.repeat(_GREY[y, x], 3)
        assert np.abs(made[y, x] - wanted).max() < 1.01


def test_a_grey_picture_in_three_channels_looks_the_same() -> None:
    in_colours = np.repeat(_GREY[..., None], 3, axis=2)
    made = laid_over(in_colours, _MASK, _VALUES, _COLOURS)
    np.testing.assert_array_equal(made, laid_over(_GREY, _MASK, _VALUES, _COLOURS))


def test_on_lines_the_colour_alone_is_seen() -> None:
    lines = _MASK == 7
    made = laid_over(_GREY, _MASK, _VALUES, _COLOURS, opacity=0.2, lines_HW=lines)
    assert (made[lines] == _COLOURS[1]).all()

"""A class has one colour everywhere, and as text it can be read on every theme."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emcfsys_engine.colours import colours_for, contrast, readable
from emcfsys_tui.settings import THEMES, class_colours

_BYTE = st.integers(0, 255)
_RGB = st.tuples(_BYTE, _BYTE, _BYTE)


def test_contrast_of_black_and_white_is_that_of_the_recommendation() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((7, 7, 7), (7, 7, 7)) == 1
    assert contrast((118, 118, 118), (255, 255, 255)) == pytest.approx(4.54, abs=0.01)


@given(colour=_RGB, background=_RGB)
def test_a_readable_colour_has_the_contrast_of_text(
    colour: tuple[int, int, int], background: tuple[int, int, int]
) -> None:
    assert contrast(readable(colour, background), background) >= 4.5


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_the_classes_stand_apart_on_every_theme_and_keep_their_order(theme) -> None:  # noqa: ANN001
    shown = class_colours(theme.name, theme.background, 8)
    assert len(set(shown)) == 8
    assert class_colours(theme.name, theme.background, 3) == shown[:3]


def test_no_two_of_thirty_classes_share_a_colour() -> None:
    assert len(set(colours_for(30))) == 30

"""What is said around a picture."""

import math
import re

from hypothesis import example, given
from hypothesis import strategies as st

from emcfsys_engine.colours import class_letters
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.picture_words import class_legend, scale_words

_UNITS = {"px": 1.0, "nm": 1.0, "µm": 1e3, "mm": 1e6}


@given(
    width=st.integers(8, 300),
    px_in_cell=st.floats(0.05, 200),
    pixel_nm=st.none() | st.floats(0.01, 5000),
)
@example(width=160, px_in_cell=0.5, pixel_nm=math.nextafter(5000, 0))
def test_a_scale_bar_is_as_long_as_it_says(
    width: int, px_in_cell: float, pixel_nm: float | None
) -> None:
    shown = width * px_in_cell
    picture = Picture(
        key="a", width=width, height=2, grey=b"x", pixel_nm=pixel_nm,
        image_px=(round(shown), 9), view_px=(0, 0, shown, 9),
    )  # fmt: skip
    words = scale_words(picture)
    bar = re.search("├.*┤", words)
    label = re.search(r"([\d.e+-]+) (px|nm|µm|mm)", words)
    assert bar is not None and label is not None, words
    length = float(label[1]) * _UNITS[label[2]]
    cells = length / (px_in_cell * (pixel_nm or 1.0))
    assert abs(len(bar[0]) - cells) <= 0.5 or len(bar[0]) == 2
    assert len(bar[0]) <= max(5, width // 4)


def test_a_zoomed_picture_says_how_far() -> None:
    picture = Picture(
        key="a", width=80, height=40, grey=b"x", pixel_nm=12.5,
        image_px=(512, 512), view_px=(0, 0, 256, 128),
    )  # fmt: skip
    assert scale_words(picture).startswith("×2 ├")


def test_a_class_has_a_letter_that_no_other_has() -> None:
    names = ["membrane", "mitochondrion", "m", "µ", *(f"class_{n}" for n in range(20))]
    letters = class_letters(names)
    assert letters[:3] == ("m", "i", "a")
    assert len(set(letters)) == len(names)


def test_a_legend_names_every_class_with_square_and_letter() -> None:
    colours = [(200, 200, 200)] * 3
    text = class_legend(["resin", "membrane", "mitochondrion"], colours, 60, first=1)
    assert text.plain.split() == ["■m", "membrane", "■i", "mitochondrion"]
    narrow = class_legend(["resin", "membrane", "mitochondrion"], colours, 24, first=1)
    assert "■i mitoc" in narrow.plain and "■m" in narrow.plain
    only = class_legend(["a", "b"], colours, 60, only=1)
    assert only.plain.split()[:1] == ["□a"]

"""Pictures in half-blocks: grey in few bytes, classes by hue, outline and letter."""

import colorsys

import numpy as np
import pytest

from emcfsys_engine.colours import colours_for
from emcfsys_tui.pictures.drawing import rim_of
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.picture_view import PictureView
from tests.tui.widgets_made import Stage, text_of


async def test_a_picture_is_grey_half_blocks_in_few_bytes() -> None:
    view = PictureView()
    async with Stage(view).run_test(size=(80, 24)) as pilot:
        width, height = 80, 48
        grey = bytes((x * 3 + y) % 256 for y in range(height) for x in range(width))
        view.picture = Picture(
            key="a", width=width, height=height, grey=grey, image_px=(800, 480),
            view_px=(0, 0, 800, 480),
        )  # fmt: skip
        await pilot.pause()
        rendered = "".join(view.render_line(y).render(pilot.app.console) for y in range(24))
        assert "▀" in rendered
        assert "38;2;" not in rendered  # 256 colours, a third of the bytes


@pytest.mark.parametrize("colour", colours_for(9)[1:])
async def test_a_class_keeps_its_hue_among_256_colours_over_any_grey(
    colour: tuple[int, int, int],
) -> None:
    hue = colorsys.rgb_to_hsv(*colour)[0]
    view = PictureView()
    view.strength = 1  # a fill
    async with Stage(view).run_test(size=(256, 4)) as pilot:
        view.colours = (colour, colour)
        view.picture = Picture(
            key="a", width=256, height=8, grey=bytes(range(256)) * 8, ids=b"\x01" * 2048,
            classes=((0, "resin"), (1, "grain")), image_px=(256, 8), view_px=(0, 0, 256, 8),
        )  # fmt: skip
        await pilot.pause()
        shown = {
            tuple(segment.style.bgcolor.get_truecolor())
            for segment in view.render_line(1)
            if segment.style and segment.style.bgcolor
        }
    coloured = [each for each in shown if max(each) - min(each) >= 40]
    assert len(coloured) >= 2, shown
    for each in coloured:
        apart = abs(colorsys.rgb_to_hsv(*each)[0] - hue)
        assert min(apart, 1 - apart) < 25 / 360, each


def _square(*, size: int = 12) -> Picture:
    """A grey picture with a square of class 1 in its middle."""
    inside = range(3, size - 3)
    ids = np.zeros((size, size), np.uint8)
    ids[3 : size - 3, 3 : size - 3] = 1
    rims = np.where(rim_of(ids), ids, 255).astype(np.uint8)
    assert (rims == 1).sum() == 4 * (len(inside) - 1)
    return Picture(
        key="a", width=size, height=size, grey=bytes([90] * size**2), ids=ids.tobytes(),
        rims=rims.tobytes(), classes=((0, "resin"), (1, "grain")), image_px=(size, size),
        view_px=(0, 0, size, size),
    )  # fmt: skip


def _coloured(view: PictureView, picture: Picture) -> int:
    """Return how many pixels of a picture are not grey."""
    lines = [view._line(picture, line) for line in range(picture.height)]
    return sum(max(rgb) != min(rgb) for line in lines for rgb in line)


async def test_a_class_is_outlined_and_filled_only_by_a_key() -> None:
    view, picture = PictureView(), _square()
    async with Stage(view).run_test(size=(12, 6)):
        view.colours = ((128, 128, 128), (230, 159, 0))
        view.picture = picture
        assert _coloured(view, picture) == 20  # the rim of 6 × 6
        view.strength = 1
        assert _coloured(view, picture) == 36


async def test_letters_tell_the_classes_where_there_are_no_colours() -> None:
    view, picture = PictureView(), _square()
    async with Stage(view).run_test(size=(12, 6)):
        view.colours = ((128, 128, 128), (230, 159, 0))
        view.picture = picture
        assert "g" not in text_of(view)
        view.lettered = 1
        rows = text_of(view).split("\n")
        assert [row.count("g") for row in rows] == [0, 6, 2, 2, 6, 0]
        view.overlay = False
        assert "g" not in text_of(view)

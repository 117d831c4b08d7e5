"""Widgets alone: the virtual list, the chart, the picture."""

import colorsys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from textual._xterm_parser import XTermParser
from textual.app import App, ComposeResult
from textual.widgets import Static

from emcfsys_engine.colours import colours_for
from emcfsys_tui.pictures.decoder import rim_of
from emcfsys_tui.series import Series
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.chart import Chart, Curve
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.log_view import TextInput
from emcfsys_tui.widgets.picture_view import PictureView


class _Stage(App[None]):
    def __init__(self, widget: Static | Rows | Chart | PictureView | TextInput) -> None:
        super().__init__()
        self.widget = widget

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return {"dim": "#888888", "cursor": "#224466"}

    def compose(self) -> ComposeResult:
        yield self.widget


def _text(widget: Rows | Chart | PictureView) -> str:
    return "\n".join(widget.render_line(y).text for y in range(widget.size.height))


@settings(deadline=None)
@given(st.text(max_size=40), st.integers(0, 30), st.sampled_from(["end", "middle", "start"]))
def test_fitted_text_is_exactly_as_wide_as_asked(text: str, width: int, cut: str) -> None:
    clean = "".join(c for c in text if cell_len(c) > 0)
    assert cell_len(fitted(clean, width, cut=cut)) == width


async def test_a_list_of_100_000_rows_draws_only_what_is_seen() -> None:
    rows = Rows([Column(title="name"), Column(title="n", width=8, right=True)])
    app = _Stage(rows)
    async with app.run_test(size=(60, 20)) as pilot:
        rows.rows = [Row(key=str(n), cells=(f"image_{n}", str(n))) for n in range(100_000)]
        rows.focus()
        await pilot.press("end")
        assert rows.current is not None and rows.current.key == "99999"
        await pilot.pause()
        assert "image_99999" in _text(rows)
        began = time.perf_counter()
        _text(rows)
        assert time.perf_counter() - began < 0.05


async def test_the_cursor_stays_on_its_row_when_rows_come_before_it() -> None:
    rows = Rows([Column(title="name")])
    async with _Stage(rows).run_test() as pilot:
        rows.rows = [Row(key="a", cells=("a",)), Row(key="b", cells=("b",))]
        rows.cursor = 1
        await pilot.pause()
        rows.rows = [Row(key="new", cells=("new",)), *rows.rows]
        assert rows.current is not None and rows.current.key == "b"


async def test_escapes_and_markup_in_names_are_shown_harmlessly() -> None:
    rows = Rows([Column(title="name")])
    async with _Stage(rows).run_test():
        rows.rows = [Row(key="x", cells=("\x1b[31m[bold]evil[/]\nname\u202e",))]
        text = _text(rows)
        assert "\x1b" not in text and "\u202e" not in text
        assert "\\x1b[31m[bold]evil[/] name" in text


def _curve(values: list[float], glyph: str = "●") -> Curve:
    series = Series()
    series.extend(range(1, len(values) + 1), values)
    return Curve(name="loss", glyph=glyph, view=series.view(), colour=4)


async def test_a_chart_is_drawn_once_and_its_cursor_over_it() -> None:
    chart = Chart("loss")
    async with _Stage(chart).run_test(size=(60, 16)) as pilot:
        chart.curves = (_curve([1 / n for n in range(1, 200)]),)
        await pilot.pause()
        drawn = chart.num_drawn
        chart.cursor_x = 50.0
        await pilot.pause()
        assert "@50" in chart.render_line(0).text
        assert ".020" in chart.render_line(0).text  # 1/50, exactly
        assert chart.num_drawn == drawn == 1


async def test_a_chart_without_points_says_what_it_waits_for() -> None:
    chart = Chart("loss")
    async with _Stage(chart).run_test(size=(60, 16)):
        assert "Waiting for the first step" in _text(chart)


async def test_every_line_of_a_chart_is_as_wide_as_the_chart() -> None:
    chart = Chart("loss", log_y=True)
    async with _Stage(chart).run_test(size=(41, 13)) as pilot:
        chart.curves = (_curve([0.0, 1e-9, 5.0, 1e6, 2.0]), _curve([3.0], "x"))
        await pilot.pause()
        widths = {chart.render_line(y).cell_length for y in range(chart.size.height)}
        assert widths == {41}
        assert "x" in _text(chart)  # a curve of one point is seen, by its glyph


async def test_a_smoothed_curve_lies_over_a_pale_band_of_what_it_smooths() -> None:
    chart = Chart("loss")
    async with _Stage(chart).run_test(size=(60, 16)) as pilot:
        curve = _curve([float(n % 7) for n in range(1, 400)])
        chart.curves = (replace(curve, colour=(255, 0, 0)),)
        await pilot.pause()

        def inks() -> set[tuple[int, int, int]]:
            styles = [s.style for y in range(1, 14) for s in chart.render_line(y) if s.text.strip()]
            return {tuple(one.color.get_truecolor()) for one in styles if one and one.color}

        assert (255, 0, 0) in inks()
        plain = len(inks())
        chart.smoothing = 2
        await pilot.pause()
        assert (255, 0, 0) in inks() and len(inks()) == plain + 1


async def test_a_legend_is_never_cut_where_there_is_room() -> None:
    chart = Chart("IoU")
    async with _Stage(chart).run_test(size=(70, 16)) as pilot:
        names = ("mean", "membrane", "mitochondrion")
        chart.curves = tuple(replace(_curve([0.1, 0.2]), name=name) for name in names)
        await pilot.pause()
        assert all(f"● {name}" in chart.render_line(0).text for name in names)


async def test_a_picture_is_grey_half_blocks_in_few_bytes() -> None:
    view = PictureView()
    async with _Stage(view).run_test(size=(80, 24)) as pilot:
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
    async with _Stage(view).run_test(size=(256, 4)) as pilot:
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
    async with _Stage(view).run_test(size=(12, 6)):
        view.colours = ((128, 128, 128), (230, 159, 0))
        view.picture = picture
        assert _coloured(view, picture) == 20  # the rim of 6 × 6
        view.strength = 1
        assert _coloured(view, picture) == 36


async def test_letters_tell_the_classes_where_there_are_no_colours() -> None:
    view, picture = PictureView(), _square()
    async with _Stage(view).run_test(size=(12, 6)):
        view.colours = ((128, 128, 128), (230, 159, 0))
        view.picture = picture
        assert "g" not in _text(view)
        view.lettered = 1
        rows = _text(view).split("\n")
        assert [row.count("g") for row in rows] == [0, 6, 2, 2, 6, 0]
        view.overlay = False
        assert "g" not in _text(view)


async def test_what_has_the_keyboard_is_seen_without_colours() -> None:
    rows = Rows([Column(title="name")], empty="nothing")
    async with _Stage(rows).run_test() as pilot:
        rows.focus()
        await pilot.pause()
        assert "▸ nothing" in _text(rows)
        rows.rows = [Row(key="a", cells=("a",))]
        assert "▸ a" in _text(rows)
        rows.blur()
        await pilot.pause()
        assert "▹ a" in _text(rows)


def test_no_file_name_of_this_package_is_a_junk_drawer() -> None:
    root = Path(__file__).resolve().parents[2] / "emcfsys_tui"
    names = {file.stem for file in root.rglob("*.py")}
    assert not names & {"utils", "helpers", "common"}


async def test_characters_typed_right_after_a_backspace_in_one_burst_are_kept() -> None:
    box = TextInput()
    app = _Stage(box)
    async with app.run_test() as pilot:
        box.focus()
        await pilot.pause()
        for event in XTermParser().feed("trains\x7fed\x1b[D\x1b[D-\x1b[Hre\x7f\x7f_"):
            app.post_message(event)  # all at once, as one read of a slow line brings them
        await pilot.pause()
        await pilot.pause()
        assert box.value == "_train-ed"

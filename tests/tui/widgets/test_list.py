"""Long lists draw only what is seen, and keep the cursor on its row."""

import time

from emcfsys_tui.widgets.list import Column, Row, Rows
from tests.tui.widgets_made import Stage, text_of


async def test_a_list_of_100_000_rows_draws_only_what_is_seen() -> None:
    rows = Rows([Column(title="name"), Column(title="n", width=8, right=True)])
    app = Stage(rows)
    async with app.run_test(size=(60, 20)) as pilot:
        rows.rows = [Row(key=str(n), cells=(f"image_{n}", str(n))) for n in range(100_000)]
        rows.focus()
        await pilot.press("end")
        assert rows.current is not None and rows.current.key == "99999"
        await pilot.pause()
        assert "image_99999" in text_of(rows)
        began = time.process_time()
        text_of(rows)
        assert time.process_time() - began < 0.25


async def test_the_cursor_stays_on_its_row_when_rows_come_before_it() -> None:
    rows = Rows([Column(title="name")])
    async with Stage(rows).run_test() as pilot:
        rows.rows = [Row(key="a", cells=("a",)), Row(key="b", cells=("b",))]
        rows.cursor = 1
        await pilot.pause()
        rows.rows = [Row(key="new", cells=("new",)), *rows.rows]
        assert rows.current is not None and rows.current.key == "b"


async def test_escapes_and_markup_in_names_are_shown_harmlessly() -> None:
    rows = Rows([Column(title="name")])
    async with Stage(rows).run_test():
        rows.rows = [Row(key="x", cells=("\x1b[31m[bold]evil[/]\nname\u202e",))]
        text = text_of(rows)
        assert "\x1b" not in text and "\u202e" not in text
        assert "\\x1b[31m[bold]evil[/] name" in text


async def test_what_has_the_keyboard_is_seen_without_colours() -> None:
    rows = Rows([Column(title="name")], empty="nothing")
    async with Stage(rows).run_test() as pilot:
        rows.focus()
        await pilot.pause()
        assert "▸ nothing" in text_of(rows)
        rows.rows = [Row(key="a", cells=("a",))]
        assert "▸ a" in text_of(rows)
        rows.blur()
        await pilot.pause()
        assert "▹ a" in text_of(rows)


async def test_every_line_is_as_wide_as_its_list_where_no_column_grows() -> None:
    rows = Rows([Column(title="name", width=9), Column(title="n", width=8, right=True)])
    async with Stage(rows).run_test(size=(60, 8)):
        rows.rows = [Row(key="a", cells=("a", "1"))]
        lines = [rows.render_line(y) for y in range(rows.size.height)]
    assert {sum(segment.cell_length for segment in line) for line in lines} == {60}

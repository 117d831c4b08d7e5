"""Fewer bytes make the same screen."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from emcfsys_tui.lean_output import ShownCells
from emcfsys_tui.screens.page import KeyLine
from tests.bench.terminal import Terminal, project_environment
from tests.tui.conftest import opened
from tests.tui.test_program import _wait, tmux

__all__ = ["tmux"]  # a fixture
WIDTH, HEIGHT = 24, 6
_COLOURS = ("38;5;240", "48;5;240", "48;5;16", "38;5;214", "31", "97", "44", "101", "38;2;1;2;3")
_STYLES = st.lists(st.sampled_from((*_COLOURS, "1", "4", "7", "39", "49")), max_size=3)
_SIGNS = st.text(st.sampled_from("ab ▀▄█│日本e\u0301─"), min_size=1, max_size=12).filter(
    lambda text: not text.startswith("\u0301")
)


@st.composite
def frames(draw: st.DrawFn) -> str:
    """What Textual writes: at places, styled texts, each with a reset."""
    parts: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        column = draw(st.integers(0, WIDTH - 1))
        parts.append(f"\x1b[{draw(st.integers(1, HEIGHT))};{column + 1}H")
        for text in draw(st.lists(_SIGNS, min_size=1, max_size=3)):
            if column + cell_len(text) <= WIDTH:
                style = ";".join(draw(_STYLES))
                parts.append(f"\x1b[{style}m{text}\x1b[0m" if style else text)
                column += cell_len(text)
    return "".join(parts) + draw(st.sampled_from(("", "\x1b[2;2H")))


Seen = dict[tuple[int, int], tuple[str, ...]]


def seen_after(data: str) -> Seen:
    """Return what an eye sees of each cell: the slow way, one sign after the other."""
    cells: Seen = {}
    row, column, fore, back, rest = 1, 1, "", "", ""
    for found in re.finditer(r"\x1b\[([\d;]*)([HCm])|(.)", data, re.DOTALL):
        words, kind, sign = found.groups()
        if kind == "H":
            row, column = map(int, words.split(";"))
        elif kind == "C":
            column += int(words or 1)
        elif kind == "m":
            fore, back, rest = _styled(words, fore, back, rest)
        elif sign == "\u0301":
            is_wide = cells.get((row, column - 1)) == ("right half",)
            at = (row, column - 1 - is_wide)
            cells[at] = (cells[at][0] + sign, *cells[at][1:])
        else:
            _paint(cells, row, column, sign, (fore, back, rest))
            column += cell_len(sign)
    return cells


def _styled(words: str, fore: str, back: str, rest: str) -> tuple[str, str, str]:
    for one in re.findall(r"[34]8;5;\d+|[34]8;2;\d+;\d+;\d+|\d+", words or "0"):
        number = int(one.split(";")[0])
        if number == 0:
            fore = back = rest = ""
        elif 30 <= number < 40 or 90 <= number < 98:
            fore = "" if number == 39 else one if number < 90 else f"1{one[1:]}b"
            fore = fore[1:] if number < 90 else fore
        elif 40 <= number < 50 or 100 <= number < 108:
            back = "" if number == 49 else one[1:] if number < 100 else f"1{one[2:]}b"
        else:
            rest += f" {one}"
    return fore, back, rest


def _paint(cells: Seen, row: int, column: int, sign: str, style: tuple[str, str, str]) -> None:
    fore, back, rest = style
    for at in (column, column + cell_len(sign)):  # half of a wide sign goes, its other half too
        if cells.get((row, at), ("x",))[0] == "right half":
            cells[row, at - 1] = ("cut",)
            if at > column or cell_len(sign) == 1:
                cells[row, at] = ("cut",)
    upper, lower = {"▀": (fore, back), "▄": (back, fore), "█": (fore, fore), " ": (back, back)}.get(
        sign, ("", "")
    )
    is_block = sign in "▀▄█ " and not rest
    cells[row, column] = (upper, lower) if is_block else (sign, fore, back, rest)
    if cell_len(sign) == 2:
        cells[row, column + 1] = ("right half",)


@given(st.lists(frames(), min_size=1, max_size=5))
def test_the_lean_frames_make_the_same_screen(drawn: list[str]) -> None:
    shown = ShownCells()
    lean = "".join(map(shown.lean, drawn))
    whole, seen = seen_after("".join(drawn)), seen_after(lean)
    assert {at: cell for at, cell in whole.items() if cell != ("cut",)} == {
        at: cell for at, cell in seen.items() if whole.get(at) != ("cut",)
    }


@given(frames())
def test_a_frame_that_is_there_already_costs_nothing_and_one_after_a_resize_all(frame: str) -> None:
    shown = ShownCells()
    first = shown.lean(frame)
    if frame.endswith("\x1b[2;2H"):
        assert shown.lean(frame) == ""
    shown.forget()
    assert shown.lean(frame) == first


def test_what_is_no_frame_goes_out_as_it_is() -> None:
    shown = ShownCells()
    shown.lean("\x1b[1;1Hone")
    for data in ("\x1b[?2026h", "\x07", "\x1b]9;done\x07", "\x1b[1;1H\x1b]8;;http://x\x1b\\a"):
        assert shown.lean(data) == data
    assert "one" in shown.lean("\x1b[1;1Hone")  # a link was drawn: who knows where


def test_a_real_terminal_shows_the_same(world: Path, tmux: Callable[..., str]) -> None:
    drawn = [
        "\x1b[1;1H\x1b[1;31mone 日本 two\x1b[0m\n\x1b[2;1H\x1b[38;5;240;48;5;16m▀▀  ▀\x1b[0m",
        "\x1b[1;6H\x1b[4mx\x1b[0m\x1b[2;2H\x1b[48;5;16m \x1b[0m\x1b[48;5;240m  \x1b[0m",
        "\x1b[1;4H日 e\u0301!\x1b[3;1H\x1b[97;44mlast\x1b[0m\x1b[2;3H\x1b[31;44m▀\x1b[0m",
    ]
    shown = ShownCells()
    screens: list[str] = []
    for number, data in enumerate(("".join(drawn), "".join(map(shown.lean, drawn)))):
        file = world / f"frames{number}"
        file.write_text(data, "utf-8")
        name = f"s{number}"
        tmux("-u", "new-session", "-d", "-x", "40", "-y", "8", "-s", name, f"cat {file}; cat")
        _wait(lambda name=name: "last" in tmux("-u", "capture-pane", "-p", "-t", name))
        screens.append(tmux("-u", "capture-pane", "-p", "-t", name).replace("▄", "▀"))
    assert screens[0].replace("█", " ") == screens[1].replace("█", " ")


def test_a_key_that_shows_another_image_costs_at_most_6_kilobytes_and_rest_nothing(
    demo: Path, world: Path
) -> None:
    command = [sys.executable, "-m", "emcfsys_tui", str(demo)]
    terminal = Terminal(command, environment=project_environment(world), size=(100, 30))
    try:
        terminal.wait_for("membrane.*mitochondrion|■A membrane")
        terminal.read_for(1.0)
        for name in ("cell_0001", "cell_0002"):
            terminal.num_bytes = 0
            terminal.press("\x1b[B")
            terminal.wait_for(f"{name} ─|▀.*▄")
            terminal.read_for(0.7)
            assert 1000 < terminal.num_bytes <= 6000, name
        terminal.num_bytes = 0
        terminal.read_for(0.5)
        assert terminal.num_bytes == 0
        terminal.press("\x0c")  # ctrl+l: somebody else wrote on the terminal
        terminal.read_for(0.7)
        assert terminal.num_bytes > 6000
    finally:
        terminal.close()


async def test_what_went_is_drawn_over_though_the_map_was_read_before_the_layout(
    demo: Path,
) -> None:
    async with opened(demo, "1") as pilot:
        screen = pilot.app.screen
        gone = screen.query_one(KeyLine)
        place, compositor = gone.region, screen._compositor
        assert place
        compositor._dirty_regions.clear()
        compositor._full_map_invalidated = True  # as a repaint in a tab that is not shown does
        gone.display = False
        assert gone not in compositor.full_map
        assert place in compositor._dirty_regions

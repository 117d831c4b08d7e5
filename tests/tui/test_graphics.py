"""Pictures by sixel and kitty: what is written decodes to the picture, in place and in limits."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from textual.pilot import Pilot

from emcfsys_engine.settings import config_file
from emcfsys_tui.app import EmcfApp
from emcfsys_tui.settings import PICTURES, Settings, load_settings
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.picture_view import PictureView
from tests.bench.terminal import Terminal, project_environment
from tests.tui.conftest import opened, until
from tests.tui.graphics_made import SIXEL, sixel_picture
from tests.tui.test_program import _PROGRAM

_PLACED_SIXEL = re.compile(r"\x1b\[(\d+);(\d+)H" + SIXEL.pattern)


_KITTY = re.compile(r"\x1b_G([^;\x1b]*)(?:;([^\x1b]*))?\x1b\\")


def _kitty_commands(text: str) -> list[tuple[dict[str, str], str]]:
    """Decode kitty's commands: keys and payload, chunks put together."""
    found: list[tuple[dict[str, str], str]] = []
    is_open = False
    for keys, payload in _KITTY.findall(text):
        table = dict(pair.split("=") for pair in keys.split(","))
        assert len(payload) <= 4096
        if is_open:
            found[-1] = (found[-1][0], found[-1][1] + payload)
        else:
            found.append((table, payload))
        is_open = table.get("m") == "1"
    assert not is_open
    return found


async def _seen(pilot: Pilot[None], written: list[str]) -> PictureView:
    view = pilot.app.screen.query_one(DataPane).query_one(PictureView)
    await until(
        pilot, lambda: view.picture is not None and view.picture.ids and view.picture.graphic
    )
    await until(pilot, lambda: "\x1bP" in "".join(written) or "\x1b_G" in "".join(written))
    return view


def _listen(pilot: Pilot[None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect what goes to the terminal beside the cells."""
    written: list[str] = []
    monkeypatch.setattr(pilot.app._driver, "write", written.append)
    return written


async def test_a_sixel_picture_lies_exactly_over_its_half_blocks(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(demo, "1", settings=Settings(bell=False, pictures="sixel")) as pilot:
        written = _listen(pilot, monkeypatch)
        await pilot.press("down")
        view = await _seen(pilot, written)
        await until(pilot, lambda: view.picture is not None and view.picture.key.endswith("1.png"))

        def newest() -> tuple[Picture, list[tuple[str, ...]], list[int]]:
            assert view.picture is not None
            height = view.picture.height // 2
            top = view.region.y + (view.size.height - height) // 2 + 1
            placed = _PLACED_SIXEL.findall("".join(written))[-height:]
            return view.picture, placed, list(range(top, top + height))

        await until(pilot, lambda: [int(row) for row, *_ in newest()[1]] == newest()[2])
        shown, placed, _ = newest()
        left = view.region.x + (view.size.width - shown.width) // 2 + 1
        assert {int(column) for _, column, *_ in placed} == {left}
        assert {(int(w), int(h)) for _, _, w, h, _ in placed} == {(shown.width * 10, 20)}
        sharp = sixel_picture(shown.graphic.decode())
        blocks = np.asarray(Image.fromarray(sharp).resize((shown.width, shown.height), 4))
        cells = np.array(
            [view._line(shown, line) for line in range(shown.height)]
        )  # as the half-blocks have it
        assert np.abs(blocks.astype(int) - cells).mean() < 30


def _pointed(written: list[str]) -> str:
    """Return the newest words that the pointer is in."""
    return [word for word in written if "┼" in word][-1]


async def test_a_step_of_the_pointer_costs_lines_and_not_the_picture(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(demo, "1", settings=Settings(bell=False, pictures="sixel")) as pilot:
        written = _listen(pilot, monkeypatch)
        await pilot.press("down")
        view = await _seen(pilot, written)
        view.focus()
        await pilot.press("right")
        await until(pilot, lambda: "┼" in "".join(written))
        costs: list[int] = []
        for key in ("down", "right") * 3:  # the list may be told news meanwhile, and all be drawn
            before = _pointed(written)
            await pilot.press(key)
            await until(pilot, lambda before=before: _pointed(written) != before)
            costs.append(len(SIXEL.findall(_pointed(written))))
        assert min(costs) >= 1
        assert sorted(costs)[1] <= 2, costs
        assert view.picture is not None and view.picture.height // 2 > 6
        assert "value" in str(pilot.app.screen.query_one("#picture-point").render())


async def test_nothing_is_drawn_over_a_toast_and_the_picture_comes_back_after_it(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = EmcfApp(demo, settings=Settings(bell=False, pictures="sixel"))
    async with app.run_test(size=(80, 24), notifications=True) as pilot:
        written = _listen(pilot, monkeypatch)
        await pilot.press("1")
        await until(pilot, lambda: pilot.app.screen.query(DataPane))
        view = await _seen(pilot, written)
        pilot.app.notify("a word\nof many\nlines", timeout=60)
        await until(
            pilot,
            lambda: any(t.region.overlaps(view.region) for t in pilot.app.screen.query("Toast")),
        )
        await pilot.pause()
        written.clear()
        view.refresh()
        for _ in range(3):  # until the application has nothing left to do
            await pilot.pause()
        assert not SIXEL.findall("".join(written))
        pilot.app.clear_notifications()
        await until(pilot, lambda: SIXEL.findall("".join(written)))


async def test_a_kitty_picture_is_placed_whole_and_removed_with_its_tab(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMUX", raising=False)
    async with opened(demo, "1", settings=Settings(bell=False, pictures="kitty")) as pilot:
        written = _listen(pilot, monkeypatch)
        await pilot.press("down")
        view = await _seen(pilot, written)
        await until(pilot, lambda: view.picture is not None and view.picture.key.endswith("1.png"))

        def newest() -> tuple[dict[str, str], str]:
            commands = reversed(_kitty_commands("".join(written)))
            return next((k, p) for k, p in commands if k["a"] == "T")

        await until(
            pilot,
            lambda: view.picture is not None and newest()[1].encode() == view.picture.graphic,
        )
        keys, payload = newest()
        shown = view.picture
        assert shown is not None
        assert (keys["c"], keys["r"]) == (str(shown.width), str(shown.height // 2))
        with Image.open(io.BytesIO(base64.standard_b64decode(payload))) as picture:
            assert picture.size == (shown.width * 10, shown.height * 10)
        written.clear()
        await pilot.press("2")
        gone = {"a": "d", "d": "I", "i": keys["i"]}
        await until(pilot, lambda: (gone, "") in _kitty_commands("".join(written)))
        written.clear()
        await pilot.press("1")
        await until(pilot, lambda: any(k["a"] == "T" for k, _ in _kitty_commands("".join(written))))
        written.clear()
        await pilot.press("question_mark")  # another screen lies over it
        await until(pilot, lambda: (gone, "") in _kitty_commands("".join(written)))


@pytest.mark.long
async def test_a_change_of_the_overlay_reaches_the_sharp_picture(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(demo, "1", settings=Settings(bell=False, pictures="sixel")) as pilot:
        written = _listen(pilot, monkeypatch)
        view = await _seen(pilot, written)
        assert view.picture is not None
        before = sixel_picture(view.picture.graphic.decode()).astype(int)
        await pilot.press("o")
        await until(
            pilot,
            lambda: (
                view.picture
                and view.picture.graphic
                and _colourfulness(sixel_picture(view.picture.graphic.decode())) == 0
            ),
        )
        assert _colourfulness(before) > 40


def _colourfulness(pixels: np.ndarray) -> int:
    return int((pixels.max(axis=2).astype(int) - pixels.min(axis=2)).max())


@pytest.mark.parametrize("word", ["grey", "colour", "sixel", "kitty"])
def test_every_word_for_pictures_loads(word: str) -> None:
    file = config_file().with_name("interface.toml")
    file.parent.mkdir(parents=True)
    file.write_text(f'pictures = "{word}"\n')
    assert load_settings() == Settings(pictures=word)
    file.write_text('pictures = "sixels"\n')
    (fault,) = load_settings().faults
    assert "sixel" in fault and load_settings().pictures == PICTURES[0]


def test_the_real_program_writes_sixels_to_its_terminal(demo: Path, world: Path) -> None:
    environment = project_environment(world)
    place = world / "config" / "emcfsys" / "interface.toml"
    place.parent.mkdir(parents=True)
    place.write_text('pictures = "sixel"\n')
    terminal = Terminal([*_PROGRAM, str(demo)], environment=environment)
    try:
        terminal.wait_for(r"\x1bP0;1;0q[^\x1b]*\x1b\\")
        assert sixel_picture(terminal.text).any()
    finally:
        terminal.close()

"""Pictures by sixel and kitty: what is written decodes to the picture, in place and in limits."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from textual.pilot import Pilot

from emcfsys_engine.settings import config_file
from emcfsys_tui.app import EmcfApp
from emcfsys_tui.pictures.encoders import MOST_BYTES, png_of, sixel_of
from emcfsys_tui.pictures.placement import Graphic, kind_of
from emcfsys_tui.settings import PICTURES, Settings, load_settings
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.picture_view import PictureView
from tests.bench.terminal import Terminal, project_environment
from tests.tui.conftest import opened, until
from tests.tui.test_program import _PROGRAM

_SIXEL = re.compile(r'\x1bP0;1;0q"1;1;(\d+);(\d+)([^\x1b]*)\x1b\\')
_PLACED_SIXEL = re.compile(r"\x1b\[(\d+);(\d+)H" + _SIXEL.pattern)
_KITTY = re.compile(r"\x1b_G([^;\x1b]*)(?:;([^\x1b]*))?\x1b\\")


def _sixel_pixels(width: int, height: int, body: str) -> np.ndarray:
    """Decode one sixel image as DEC's manual tells; what is not drawn stays black.

    Shapes: H×W×3 uint8.
    """
    pixels = np.zeros((height, width, 3), np.uint8)
    palette: dict[int, tuple[int, ...]] = {}
    x = y = 0
    colour: tuple[int, ...] = (0, 0, 0)
    for token in re.finditer(r"#(\d+)(?:;2;(\d+);(\d+);(\d+))?|!(\d+)(.)|([$-])|([?-~])", body):
        number, red, green, blue, repeat, repeated, move, single = token.groups()
        if number is not None:
            if red is not None:
                percents = (int(red), int(green), int(blue))
                palette[int(number)] = tuple(round(part * 255 / 100) for part in percents)
            else:
                colour = palette[int(number)]
        elif move is not None:
            x, y = 0, y + (6 if move == "-" else 0)
        else:
            num, bits = (int(repeat), ord(repeated)) if repeat else (1, ord(single))
            for bit in range(6):
                if (bits - 63) >> bit & 1:
                    assert y + bit < height and x + num <= width, "a pixel outside of the picture"
                    pixels[y + bit, x : x + num] = colour
            x += num
    return pixels


def _sixel_picture(text: str) -> np.ndarray:
    """Decode the sixel images of one picture, which stand below each other."""
    return np.concatenate([_sixel_pixels(int(w), int(h), b) for w, h, b in _SIXEL.findall(text)])


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
    assert len(_SIXEL.findall(text)) == -(-height // cell)
    far = np.abs(_sixel_picture(text).astype(int) - pixels)
    assert far.max() <= 4  # 64 greys are 4 apart at most, and sixel says colours in percent


def test_a_grey_pixel_never_gets_the_colour_of_a_class() -> None:
    pixels = np.asarray(_micrograph(120, 100)).copy()
    pixels[40:60, 50:90] = (90, 160, 120)
    text = sixel_of(Image.fromarray(pixels), 20, most_bytes=10**6).decode()
    found = _sixel_picture(text).astype(int)
    is_coloured = found.max(axis=2) - found.min(axis=2) > 20
    assert is_coloured[40:60, 50:90].all() and is_coloured.sum() == 20 * 40


def test_two_plain_colours_survive_sixel_and_kitty_unchanged() -> None:
    pixels = np.zeros((40, 30, 3), np.uint8)
    pixels[:, 10:] = (255, 51, 0)
    picture = Image.fromarray(pixels)
    assert (_sixel_picture(sixel_of(picture, 20).decode()) == pixels).all()
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
    decoded = _sixel_picture(sixel.decode())
    assert decoded.shape[:2] == (size[1], size[0])  # coarser, but as large
    assert abs(decoded.mean() - 127.5) < 8


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
        sharp = _sixel_picture(shown.graphic.decode())
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
            costs.append(len(_SIXEL.findall(_pointed(written))))
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
        assert not _SIXEL.findall("".join(written))
        pilot.app.clear_notifications()
        await until(pilot, lambda: _SIXEL.findall("".join(written)))


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


async def test_a_change_of_the_overlay_reaches_the_sharp_picture(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(demo, "1", settings=Settings(bell=False, pictures="sixel")) as pilot:
        written = _listen(pilot, monkeypatch)
        view = await _seen(pilot, written)
        assert view.picture is not None
        before = _sixel_picture(view.picture.graphic.decode()).astype(int)
        await pilot.press("o")
        await until(
            pilot,
            lambda: (
                view.picture
                and view.picture.graphic
                and _colourfulness(_sixel_picture(view.picture.graphic.decode())) == 0
            ),
        )
        assert _colourfulness(before) > 40


def _colourfulness(pixels: np.ndarray) -> int:
    return int((pixels.max(axis=2).astype(int) - pixels.min(axis=2)).max())


def test_kittys_protocol_is_not_sent_into_tmux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux-1/default,1,0")
    assert kind_of("kitty") == "" and kind_of("sixel") == "sixel"
    monkeypatch.delenv("TMUX")
    assert kind_of("kitty") == "kitty"


def test_half_blocks_cost_no_graphics() -> None:
    assert kind_of("grey") == kind_of("colour") == ""
    assert Graphic("kitty").remove() == ""


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
        terminal.wait_for(r"\x1bP0;1;0q[^\x1b]*\x1b\\", limit_s=60)
        assert _sixel_picture(terminal.text).any()
    finally:
        terminal.close()

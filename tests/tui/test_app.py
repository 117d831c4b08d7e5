"""The program around the tabs: small terminals, themes, keys of a person's own."""

import gc
import re
import threading
import time
from importlib.resources import files
from pathlib import Path
from typing import cast

import pytest

from emcfsys_tui.app import EmcfApp
from emcfsys_tui.settings import Settings
from tests.tui.conftest import made_run, opened, screen_text, until

TABS = ("Data", "Train", "Runs", "Hot folder", "Jobs", "Models")


async def test_keys_can_be_changed(demo: Path) -> None:
    made_run(demo)
    settings = Settings(bell=False, keys={"tab.models": "ctrl+x"})
    async with opened(demo, "3", settings=settings) as pilot:
        await pilot.press("ctrl+x")
        await until(pilot, lambda: "No model files" in screen_text(pilot))


async def test_what_reads_for_long_keeps_no_other_thread_from_its_work(demo: Path) -> None:
    enough, done = threading.Event(), threading.Event()
    async with opened(demo, "3") as pilot:
        for _ in range(40):  # far more than the tabs of a project
            pilot.app.run_worker(enough.wait, thread=True)
        pilot.app.run_worker(done.set, thread=True)
        try:
            await until(pilot, done.is_set)
        finally:
            enough.set()


async def test_old_objects_are_looked_through_while_nobody_types(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[str] = []
    async with opened(demo, "3") as pilot:
        app = cast("EmcfApp", pilot.app)
        monkeypatch.setattr(gc, "collect", lambda: collected.append("old"))
        for waiting, rest_s, expected in (
            (11, 0.5, []),  # a key came half a second ago
            (10, 60.0, []),  # there is nothing much to find
            (11, 60.0, ["old"]),
            (1001, 0.0, ["old", "old"]),  # somebody types on and on
        ):
            monkeypatch.setattr(gc, "get_count", lambda waiting=waiting: (0, 0, waiting))
            app.typed_at = time.monotonic() - rest_s
            app.collect_at_rest()
            assert collected == expected


async def test_a_small_terminal_says_so(demo: Path) -> None:
    async with opened(demo, "3", size=(50, 12)) as pilot:
        await until(pilot, lambda: "make it 60 × 16" in screen_text(pilot))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "No runs yet" in screen_text(pilot))


@pytest.mark.parametrize(
    "theme",
    [
        "ansi-dark",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("emcfsys-light", "colour-blind-dark", "ansi-light")
        ),
    ],
)
async def test_every_theme_draws_every_tab(demo: Path, theme: str) -> None:
    made_run(demo)
    async with opened(demo, settings=Settings(bell=False, theme=theme)) as pilot:
        for tab in "123456":
            await pilot.press(tab)
            await pilot.pause()
        assert pilot.app.theme == theme


async def test_what_is_done_most_takes_at_most_three_keys_with_that_of_its_tab(demo: Path) -> None:
    made_run(demo)
    page = (files("emcfsys_engine.manual") / "interface.md").read_text("utf-8")
    table = page.partition("## What is done most")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| (`[^|]+) \|$", table, re.MULTILINE)
    assert len(rows) == 10
    async with opened(demo, size=(160, 48)) as pilot:
        for what, tab, keys in rows:
            if tab != "any":
                await pilot.press(str(TABS.index(tab) + 1))
                await pilot.pause()
            first = re.findall("`(.+?)`", keys)[0]
            known = {"Enter": "enter", "Space": "space", "/": "slash"}.get(first, first)
            assert known in pilot.app.screen.active_bindings, what
            assert len(keys.replace("and a letter", "`a`").split()) + (tab != "any") <= 3, what


async def test_the_footer_has_at_most_seven_keys(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, size=(200, 50)) as pilot:
        for tab in "123456":
            await pilot.press(tab)
            await pilot.pause()
            keys = pilot.app.screen.query_one("#keys").keys
            assert 2 < len(keys) <= 7

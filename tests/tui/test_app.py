"""The program around the tabs: small terminals, themes, keys of a person's own."""

from pathlib import Path

import pytest

from emcfsys_tui.settings import Settings
from tests.tui.conftest import made_run, opened, screen_text, until


async def test_keys_can_be_changed(demo: Path) -> None:
    made_run(demo)
    settings = Settings(bell=False, keys={"tab.models": "ctrl+x"})
    async with opened(demo, "3", settings=settings) as pilot:
        await pilot.press("ctrl+x")
        await until(pilot, lambda: "No model files" in screen_text(pilot))


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


async def test_the_footer_has_at_most_seven_keys(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, size=(200, 50)) as pilot:
        for tab in "123456":
            await pilot.press(tab)
            await pilot.pause()
            keys = pilot.app.screen.query_one("#keys").keys
            assert 2 < len(keys) <= 7

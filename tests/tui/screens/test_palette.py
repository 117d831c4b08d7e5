"""The palette under hurried keys."""

from pathlib import Path

import pytest
from textual.command import Hit
from textual.widgets import Input

from emcfsys_tui.app import EmcfApp
from emcfsys_tui.screens.palette import Palette


async def test_a_second_enter_neither_runs_the_command_again_nor_closes_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMCFSYS_HOME", str(tmp_path / "home"))
    app = EmcfApp(None)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        below = app.screen
        runs: list[int] = []
        await pilot.press("colon")
        await pilot.pause()
        palette = app.screen
        assert isinstance(palette, Palette)
        field = palette.query_one(Input)
        palette._list_visible = False
        palette._selected_command = Hit(1.0, "x", lambda: runs.append(1))
        for _ in range(3):  # they wait in the palette's queue while it closes
            palette.post_message(Input.Submitted(field, ""))
        await pilot.pause()
        await pilot.pause()
        assert app.screen is below
        assert app.is_running
        assert runs == [1]

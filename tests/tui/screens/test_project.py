"""Leaving a project with edits asks once; names do no harm."""

import shutil
from pathlib import Path

import pytest
from textual.widgets import Input

from emcfsys_engine.project import load_project
from emcfsys_tui.screens.dialogs import ConfirmScreen
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.tui.conftest import opened, screen_text, until


async def test_a_name_with_escapes_is_shown_harmlessly(demo: Path) -> None:
    evil = "evil\x1b[31m[bold]\nname.png"
    shutil.copy(demo / "images/train/cell_0001.png", demo / "images/train" / evil)
    async with opened(demo, "1", size=(120, 40)) as pilot:
        await until(pilot, lambda: "evil\\x" in screen_text(pilot))
        assert "\x1b" not in screen_text(pilot)


@pytest.mark.parametrize("key", ["ctrl+q", "escape"])
async def test_leaving_with_changes_in_train_asks_once(demo: Path, key: str) -> None:
    async with opened(demo, "2", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(TrainPane)
        await until(pilot, lambda: bool(pane.query("#field-training-minutes Input")))
        await pilot.press("down", "down", "4", "escape")
        await until(pilot, lambda: bool(pane.unsaved))
        await pilot.press(key)
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        assert pane.query_one("#field-training-minutes Input", Input).value == "4"
        await pilot.press("w")
        await until(pilot, lambda: not pane.unsaved)
        assert load_project(demo).training.minutes == 4

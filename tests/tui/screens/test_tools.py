"""The tools: two keys each, their answer read, nothing changed by who only looks."""

from pathlib import Path

import pytest
from textual.widgets import Input

from emcfsys_engine.project import load_project
from emcfsys_tui.engine import tools
from emcfsys_tui.engine.runs import CommandEnd
from emcfsys_tui.screens.dialogs import TextScreen
from emcfsys_tui.screens.tools import ToolScreen, ToolsScreen
from tests.tui.conftest import opened, screen_text, told, until


async def test_two_keys_open_a_tool_and_its_answer_is_read(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def answer(words: list[str], *, is_look: bool = False) -> CommandEnd:
        asked.append(words)
        return CommandEnd(code=1, out="GPU  fail  none\n", words="")

    monkeypatch.setattr(tools, "run_command", answer)
    async with opened(demo, "1", size=(100, 30)) as pilot:
        await pilot.press("T")
        await until(pilot, lambda: isinstance(pilot.app.screen, ToolsScreen))
        assert "predict a folder" in screen_text(pilot) and "doctor" in screen_text(pilot)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextScreen))
        assert "GPU  fail  none" in screen_text(pilot)
        await pilot.press("escape", "T", "b")
        await until(pilot, lambda: isinstance(pilot.app.screen, ToolScreen))
        await pilot.press(*"convnext*")
        await until(pilot, lambda: "models 'convnext*'" in screen_text(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, TextScreen))
    assert asked == [["doctor"], ["models", "convnext*"]]


async def test_who_only_looks_changes_nothing_by_a_tool(demo: Path) -> None:
    before = (demo / "project.toml").read_text()
    async with opened(demo, "1", size=(100, 30), read_only=True) as pilot:
        await pilot.press("T", "c")
        await until(pilot, lambda: "read-only" in told(pilot))
        assert not isinstance(pilot.app.screen, ToolScreen)
    assert (demo / "project.toml").read_text() == before


async def test_a_source_is_added_by_the_form_and_comments_stay(demo: Path) -> None:
    with (demo / "project.toml").open("a") as file:
        file.write("\n# mine\n")
    async with opened(demo, "1", size=(100, 30)) as pilot:
        await pilot.press("T", "s")
        await until(pilot, lambda: isinstance(pilot.app.screen, ToolScreen))
        await until(pilot, lambda: isinstance(pilot.app.focused, Input))
        await pilot.press(*"images/val", "down", *"annotations/val", "enter")
        await until(pilot, lambda: "was added" in told(pilot))
    assert load_project(demo).data[-1].images == "images/val"
    assert "# mine" in (demo / "project.toml").read_text()

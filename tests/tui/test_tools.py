"""What the engine can beside the tabs: two keys away, with a form, and the command that does it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from textual.command import CommandPalette
from textual.widgets import Input

from emcfsys_engine.project import load_project
from emcfsys_tui.engine import tools
from emcfsys_tui.engine.runs import CommandEnd
from emcfsys_tui.engine.tools import TOOLS, Tool, histogram_of
from emcfsys_tui.screens.dialogs import TextScreen
from emcfsys_tui.screens.key_names import faults_of, known_names
from emcfsys_tui.screens.page import help_text
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.screens.tools import ToolScreen, ToolsScreen
from emcfsys_tui.settings import Settings
from tests.tui.conftest import opened, screen_text, told, until


def _tool(key: str) -> Tool:
    return next(tool for tool in TOOLS if tool.key == key)


def _values(tool: Tool, folder: Path, **more: str) -> Mapping[str, str]:
    return {field.key: field.value for field in tool.fields(folder)} | more


def test_every_tool_has_a_key_of_its_own() -> None:
    assert len({tool.key for tool in TOOLS}) == len(TOOLS)


def test_the_switches_of_a_prediction_become_the_engines_own(demo: Path) -> None:
    tool = _tool("p")
    chosen = {"model": "m.safetensors", "images": "scans", "out": "masks", "flips": "yes"}
    more = {"more models": "a, b", "ranking": "yes", "after job": "7"}
    words = tool.words(demo, {**_values(tool, demo), **chosen, **more})
    assert words == [
        *("submit", "predict", "m.safetensors", "scans", "--out", "masks"),
        *("--with", "a", "--with", "b", "--tta", "--rank-uncertain", "--after", "7"),
    ]


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


def test_a_class_is_added_and_renamed_and_its_labels_mean_it_still(demo: Path) -> None:
    tool = _tool("c")
    tool.work(demo, {"class": "", "new name": "vesicle", "value": ""}, [])
    assert load_project(demo).classes["vesicle"] == 3
    tool.work(demo, {"class": "membrane", "new name": "bilayer", "value": ""}, [])
    project = load_project(demo)
    assert list(project.classes) == ["background", "bilayer", "mitochondrion", "vesicle"]
    assert all(source.labels["membrane"] == "bilayer" for source in project.data)


def test_a_measurement_is_seen_as_bars_and_a_file_without_any_as_nothing(tmp_path: Path) -> None:
    file = tmp_path / "objects.csv"
    rows = "".join(f"a,grain,{size}\n" for size in (1, 1, 1, 5, 13))
    file.write_text(f"mask,class,equivalent_diameter_nm\n{rows}")
    lines = histogram_of(file).split("\n")
    assert lines[0] == "─ grain: equivalent diameter of 5 objects" and len(lines) == 13
    assert lines[1].endswith("█" * 40 + " 3") and "nm" in lines[1]
    assert histogram_of(tmp_path / "none.csv") == ""


async def test_help_names_the_id_of_every_key_at_any_width(demo: Path) -> None:
    async with opened(demo, "1", size=(60, 30)) as pilot:
        for width in (60, 160):
            await pilot.resize_terminal(width, 30)
            text = help_text(pilot.app.screen)
            assert "data.next_bare" in text and "app.tools" in text


async def test_the_palette_reaches_every_tab_in_one_line_each(demo: Path) -> None:
    async with opened(demo, "1", size=(120, 40)) as pilot:
        found = list(pilot.app.get_system_commands(pilot.app.screen))
        titles = [one.title for one in found]
        assert len(set(titles)) == len(titles)
        assert not any(one.help for one in found)
        for words in ("Next image without labels", "Jobs: Retry", "Runs: Extend", "Models: Verify"):
            assert any(words.lower() in title.lower() for title in titles) or words[0] == "N", words
        await pilot.press("colon")
        await until(pilot, lambda: isinstance(pilot.app.screen, CommandPalette))
        await pilot.press(*"Models: inspect")
        await until(pilot, lambda: "Models: Inspect" in screen_text(pilot))
        await pilot.press("enter", "enter")
        screen = pilot.app.screen_stack[0]
        assert isinstance(screen, ProjectScreen)
        await until(pilot, lambda: "No model files yet" in screen_text(pilot))


async def test_an_unknown_name_of_a_key_is_said_with_the_nearest(demo: Path) -> None:
    keys = {"runs.marc": "m", "data.next_bare": "b"}
    assert len(faults_of(keys)) == 1
    assert {"train.submit", "list.down", "tools.doctor", "app.help"} <= known_names()
    async with opened(demo, "1", settings=Settings(bell=False, keys=keys)) as pilot:
        await until(pilot, lambda: "runs.marc" in told(pilot) and "'runs.mark'" in told(pilot))

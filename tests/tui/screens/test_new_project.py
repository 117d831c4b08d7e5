"""A new project: what is found is told, merged and mended before anything is written."""

from pathlib import Path

import pytest

from emcfsys_engine.project import load_project
from emcfsys_tui.screens.new_project import NewProjectScreen
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.widgets.log_view import completed
from tests.tools.test_new_project import _drawn
from tests.tui.conftest import opened, screen_text, told, until


@pytest.mark.parametrize("size", [pytest.param((60, 16), marks=pytest.mark.long), (100, 30)])
async def test_nothing_is_written_before_enter_and_one_key_merges(
    world: Path, size: tuple[int, int]
) -> None:
    folder = world / "scans"
    folder.mkdir()
    _drawn(folder, "a", "mitochondrion", "resin")
    _drawn(folder, "b", "mitochondria", "resin")
    (folder / "c.png").write_bytes(b"no picture")
    async with opened(None, size=size) as pilot:
        await pilot.press("n")
        await pilot.press(*"scans", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, NewProjectScreen))
        await until(pilot, lambda: "like mitochondr" in screen_text(pilot))
        assert "c.png" in screen_text(pilot)
        assert not (folder / "project.toml").exists()
        await pilot.press("down", "m")
        await until(pilot, lambda: "with mitochondria" in screen_text(pilot))
        assert not (folder / "project.toml").exists()
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        await until(pilot, lambda: "● a" in screen_text(pilot))
    project = load_project(folder)
    assert dict(project.data[0].labels) == {"mitochondria": "mitochondrion"}


async def test_who_starts_it_on_a_folder_of_images_without_labels_makes_a_project(
    world: Path,
) -> None:
    folder = world / "scans"
    folder.mkdir()
    _drawn(folder, "a", "resin")
    (folder / "a.json").unlink()
    async with opened(folder) as pilot:
        await until(pilot, lambda: isinstance(pilot.app.screen, NewProjectScreen))
        await until(pilot, lambda: "1 image" in screen_text(pilot))
        assert [file.name for file in folder.iterdir()] == ["a.png"]
        await pilot.press("c")
        await until(pilot, lambda: "first the one that nobody draws" in screen_text(pilot).lower())
        await pilot.press("ctrl+u", *"matrix, large", "enter")
        await until(pilot, lambda: "large" in screen_text(pilot) and not told(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: "Making the project" in told(pilot))
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        await until(pilot, lambda: "○ a" in screen_text(pilot))
    assert load_project(folder).classes == {"matrix": 0, "large": 1}


async def test_classes_are_not_asked_for_where_labels_tell_them(world: Path) -> None:
    folder = world / "scans"
    folder.mkdir()
    _drawn(folder, "a", "resin")
    async with opened(folder) as pilot:
        await until(pilot, lambda: "resin" in screen_text(pilot))
        assert "name classes" not in screen_text(pilot)


async def test_a_project_opens_over_whatever_was_opened_while_it_was_made(world: Path) -> None:
    folder = world / "scans"
    folder.mkdir()
    _drawn(folder, "a", "resin")
    async with opened(folder) as pilot:
        await until(pilot, lambda: "resin" in screen_text(pilot))
        await pilot.press("enter", "question_mark")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        await pilot.press("2")
        await until(pilot, lambda: "training.preset" in screen_text(pilot))
        assert len(pilot.app.screen_stack) == 1


@pytest.mark.long
async def test_escape_writes_nothing(world: Path) -> None:
    folder = world / "scans"
    folder.mkdir()
    _drawn(folder, "a", "resin")
    async with opened(None, size=(100, 30)) as pilot:
        await pilot.press("n", *"scans", "enter")
        await until(pilot, lambda: "resin" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(pilot.app.screen, NewProjectScreen))
    assert {file.name for file in folder.iterdir()} == {"a.png", "a.json"}


def test_tab_completes_a_path_as_a_shell_does(tmp_path: Path) -> None:
    for name in ("scans-a", "scans-b", "other", ".hidden"):
        (tmp_path / name).mkdir()
    base = str(tmp_path)
    assert completed(f"{base}/sc") == f"{base}/scans-"
    assert completed(f"{base}/o") == f"{base}/other/"
    assert completed(f"{base}/x") == f"{base}/x"
    assert completed(f"{base}/nothing/x") == f"{base}/nothing/x"
    assert completed(f"{base}/") == f"{base}/"

"""What is done to a run: extended, exported, reported, deleted after a yes."""

from pathlib import Path

import pytest
from textual.widgets import Input

from emcfsys_engine.jobs.queue import Queue
from emcfsys_tui.screens.dialogs import AskScreen, ConfirmScreen, PickScreen
from tests.tui.conftest import made_run, opened, screen_text, told, until
from tests.tui.widgets.runs_made import preview


@pytest.mark.usefixtures("no_daemon")
async def test_a_finished_run_is_extended_as_a_job(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await until(pilot, lambda: "submit extend" in screen_text(pilot))
        box = pilot.app.screen.query_one(Input)
        assert box.value == "4.6 min"  # twice of what it had
        box.value = "200"
        await pilot.press("enter")
        await until(pilot, lambda: "goes on with training.steps=200" in told(pilot))
        await until(pilot, lambda: "queued" in screen_text(pilot))
    project = run.record().project
    assert project is not None and project.training.steps == 200
    with Queue.open() as queue:
        assert [(job.run, job.state) for job in queue.list()] == [(str(run.folder), "queued")]


async def test_a_budget_that_is_none_changes_nothing(demo: Path) -> None:
    run = made_run(demo)
    before = run.record_file.read_bytes()
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e")
        await until(pilot, lambda: isinstance(pilot.app.screen, AskScreen))
        await pilot.press("backspace", "backspace", "backspace", *"soon", "enter")
        await until(pilot, lambda: "is no budget" in told(pilot))
    assert run.record_file.read_bytes() == before


async def test_the_report_is_written_and_its_path_shown(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("R")
        file = run.folder / "report.html"
        await until(pilot, lambda: f"Copied: {file}" in told(pilot))
    assert "run-0001" in file.read_text()


async def test_an_export_asks_for_the_format_and_tells_what_is_missing(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, PickScreen))
        await until(pilot, lambda: "--format" in screen_text(pilot))
        assert "bioimage.io" in screen_text(pilot)
        await pilot.press("down", "enter")
        await until(pilot, lambda: "has no best model yet" in told(pilot))


async def test_read_only_makes_nothing_of_a_run_but_shows_previews(demo: Path) -> None:
    run = made_run(demo)
    preview(run, 20)
    async with opened(demo, "3", size=(100, 40), read_only=True) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e", "E", "R")
        assert not isinstance(pilot.app.screen, AskScreen | PickScreen)
        assert "read-only" in told(pilot)
        await pilot.press("v")
        await until(pilot, lambda: "step 20" in screen_text(pilot))
    assert not (run.folder / "report.html").exists()


async def test_a_run_is_deleted_only_after_a_yes(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("D")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("n")
        assert run.folder.exists()
        await pilot.press("D")
        await until(pilot, lambda: isinstance(pilot.app.screen, ConfirmScreen))
        await pilot.press("y")
        await until(pilot, lambda: not run.folder.exists())
        await until(pilot, lambda: "No runs yet" in screen_text(pilot))

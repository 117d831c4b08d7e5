"""The list of projects says what runs, what ended badly, the best IoU, and what was said last."""

import shutil
from pathlib import Path

import pytest

from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunFailed, RunStarted
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import TrainRequest
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.settings import remembered
from tests.hotfolder.test_status import finished
from tests.tui.conftest import made_run, opened, say, screen_text, until
from tests.tui.screens.message_made import window


@pytest.mark.parametrize("size", [(60, 16), (80, 24), (160, 48)])
async def test_a_project_that_failed_says_why_and_its_message_opens_whole(
    project: Path, size: tuple[int, int]
) -> None:
    loaded = load_project(project)
    finished(loaded, 0.874, classes=loaded.class_names)
    run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
    reason = f"{project}/images/a_b.tif: GPU out of memory. Lower training.batch."
    with Queue.open() as queue:
        job = queue.add(run.folder, project_name="demo", gpus=0)
        transitions.fail(queue.store, queue.get(job), reason)
    say(run, RunStarted(run=run.id, does="train"), RunFailed(reason=reason))
    async with opened(None, size=size) as pilot:
        await until(pilot, lambda: ".874" in screen_text(pilot))
        await until(pilot, lambda: "run-0002 failed" in screen_text(pilot))
        if size[0] > 60:
            assert "failed: GPU out of" in screen_text(pilot)  # what first, the path last
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen))
        assert "GPU out of memory. Lower training.batch." in window(pilot)
        await pilot.press("o")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))


async def test_a_project_that_waits_says_behind_what(project: Path) -> None:
    loaded = load_project(project)
    with Queue.open() as queue:
        for _ in range(2):
            run = new_run(loaded.runs_folder, TrainRequest(), project=loaded)
            queue.add(run.folder, project_name="demo", gpus=0)
    async with opened(None, size=(120, 30)) as pilot:
        await until(pilot, lambda: "○ run-0002 queued behind job 1" in screen_text(pilot))
        assert "newest" not in screen_text(pilot)  # nothing was said: it takes no room


async def test_a_first_start_offers_the_demo_and_a_new_project() -> None:
    async with opened(None) as pilot:
        await until(pilot, lambda: "No projects yet" in screen_text(pilot))
        assert "demo" in screen_text(pilot)


async def test_the_list_shows_projects_and_opens_one(demo: Path) -> None:
    projects = demo.parent / "projects"
    projects.mkdir()
    shutil.move(demo, projects / "demo")
    made_run(projects / "demo")
    async with opened(None, size=(120, 30)) as pilot:
        await until(pilot, lambda: "13" in screen_text(pilot))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: "labelled" in screen_text(pilot))


async def test_the_last_place_is_restored(demo: Path) -> None:
    async with opened(demo, "6") as pilot:
        await pilot.pause()
    assert remembered().place == str(demo)
    async with opened(None) as pilot:
        screen = pilot.app.screen
        assert isinstance(screen, ProjectScreen)
        await until(pilot, lambda: "No model files yet" in screen_text(pilot))

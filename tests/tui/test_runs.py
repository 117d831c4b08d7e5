"""Runs: what is made of a run that is there, and what its validations looked like."""

from pathlib import Path

import pytest
from PIL import Image
from textual.widgets import Input

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import PreviewSaved, RunFinished, RunStarted
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_tui.engine.runs import budget_of
from emcfsys_tui.screens.dialogs import AskScreen, PickScreen
from emcfsys_tui.widgets.picture_pane import PreviewBox, PreviewTitle
from emcfsys_tui.widgets.picture_view import PictureView
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, told, until, validation

_ORANGE, _RED = (230, 159, 0), (220, 50, 47)


def _preview(run: Run, step: int, image: str = "cell_1000") -> None:
    """Write a strip of four panels of 64 px: grey, an orange half, the same again, red."""
    strip = Image.new("RGB", (4 * 64 + 6, 64), (90, 90, 90))
    strip.paste(_ORANGE, (66, 0, 98, 64))
    strip.paste(_ORANGE, (132, 0, 164, 64))
    strip.paste(_RED, (198, 0, 262, 64))
    file = run.previews_folder / f"step-{step:07}-{image}.png"
    file.parent.mkdir(exist_ok=True)
    strip.save(file)
    say(run, PreviewSaved(step=step, image=image, file=str(file.relative_to(run.folder))))


async def test_previews_are_stepped_through_and_the_newest_is_followed(demo: Path) -> None:
    run = made_run(demo, ended=False)
    _preview(run, 20)
    _preview(run, 40)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        box = pilot.app.screen.query_one(PreviewBox)
        view = box.query_one(PictureView)
        await until(pilot, lambda: "step 40 · 2 of 2" in screen_text(pilot))
        await until(pilot, lambda: view.picture is not None and view.picture.grey)
        _preview(run, 60)  # it grows while it is looked at
        await until(pilot, lambda: "step 60 · 3 of 3" in screen_text(pilot))
        await pilot.press("left_square_bracket", "left_square_bracket")
        await until(pilot, lambda: "step 20 · 1 of 3" in screen_text(pilot))
        _preview(run, 80)  # who looks back is left alone
        await until(pilot, lambda: "step 20 · 1 of 4" in screen_text(pilot))
        await pilot.click(PreviewTitle, offset=(70, 0))
        await until(pilot, lambda: "step 40 · 2 of 4" in screen_text(pilot))
        await pilot.press("v")
        assert not box.display


async def test_panels_of_a_preview_are_told_apart(demo: Path) -> None:
    run = made_run(demo)
    _preview(run, 20)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        view = pilot.app.screen.query_one(PreviewBox).query_one(PictureView)
        await until(pilot, lambda: view.picture is not None and view.picture.grey)
        picture = view.picture
        assert picture is not None and picture.channels == 3
        assert len(picture.grey) == picture.width * picture.height * 3
        found = {picture.grey[n : n + 3] for n in range(0, len(picture.grey), 3)}
        assert {bytes(_ORANGE), bytes(_RED)} <= found
        view.focus()
        await pilot.press("left", "right")
        await until(pilot, lambda: "prediction" in screen_text(pilot))


async def test_a_run_without_previews_says_when_there_will_be_some(demo: Path) -> None:
    made_run(demo)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "No previews yet" in screen_text(pilot))


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


def test_budgets_are_steps_or_minutes() -> None:
    assert budget_of("2,000") == "training.steps=2000"
    assert budget_of(" 30 min ") == "training.minutes=30"
    assert budget_of("0.5min") == "training.minutes=0.5"


async def test_the_report_is_written_and_its_path_shown(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", size=(120, 40)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("R")
        file = run.folder / "report.html"
        await until(pilot, lambda: f"Copied: {file}" in told(pilot), limit_s=60)
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
    _preview(run, 20)
    async with opened(demo, "3", size=(100, 40), read_only=True) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("e", "E", "R")
        assert not isinstance(pilot.app.screen, AskScreen | PickScreen)
        assert "read-only" in told(pilot)
        await pilot.press("v")
        await until(pilot, lambda: "step 20" in screen_text(pilot))
    assert not (run.folder / "report.html").exists()


async def test_folds_are_shown_and_drawn_together(demo: Path) -> None:
    project = load_project(demo, ("training.kfold=2",))
    for run in new_trainings(project):
        say(run, RunStarted(run=run.id, does="train", total_steps=40), step(1))
        say(run, validation(20, 0.5 + run.record().fold / 10), RunFinished(reason="steps", step=20))
    made_run(demo)
    async with opened(demo, "3", size=(140, 40)) as pilot:
        await until(pilot, lambda: "fold 2 · unet/" in screen_text(pilot))
        pane = pilot.app.screen.query_one(RunsPane)
        await pilot.press("down", "F")
        await until(pilot, lambda: pane.drawn == ("run-0002", "run-0001"))
        assert "kfold-0001: 2 folds, best 0.650 ± 0.071 of 2" in told(pilot)

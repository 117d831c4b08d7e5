"""Runs: what is made of a run that is there, and what its validations looked like."""

from pathlib import Path

import pytest

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import PhaseBegan, RunFinished, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import new_trainings
from emcfsys_tui.settings import pin_runs, pinned_runs
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, told, until, validation


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


async def test_a_filter_shows_the_runs_for_which_its_words_hold(demo: Path) -> None:
    made_run(demo, sets=("model.backbone=resnet18",))
    made_run(demo)
    made_run(demo, ended=False, sets=("model.backbone=resnet34",))
    async with opened(demo, "3", size=(110, 36)) as pilot:
        pane = pilot.app.screen.query_one(RunsPane)
        rows = pane.query_one("#runs", Rows)

        def shown() -> list[str]:
            return [row.key for row in rows.rows]

        await until(pilot, lambda: len(shown()) == 3)
        await pilot.press("f", *"backbone:resnet* iou>.7", "enter")
        await until(pilot, lambda: shown() == ["run-0003", "run-0001"])
        await pilot.press("f", *" iou>x", "enter")
        await until(pilot, lambda: "iou>.8" in told(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: len(shown()) == 3)


async def test_a_pinned_run_stays_on_top_and_is_drawn_with_every_other(demo: Path) -> None:
    for _ in range(3):
        made_run(demo)
    async with opened(demo, "3", size=(110, 36)) as pilot:
        pane = pilot.app.screen.query_one(RunsPane)
        rows = pane.query_one("#runs", Rows)
        await until(pilot, lambda: len(rows.rows) == 3)
        await pilot.press("down", "down", "P")
        await until(pilot, lambda: rows.rows[0].key == "run-0001")
        assert "◆run-0001" in screen_text(pilot)
        await pilot.press("down")
        await until(pilot, lambda: pane.drawn == ("run-0003", "run-0001"))
        await pilot.press("up", "P")
        await until(pilot, lambda: rows.rows[0].key == "run-0003")


async def test_a_training_that_waits_for_labels_says_in_its_charts_what_it_has(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "is_alive", lambda self: True)
    run = made_run(demo, steps=0, ended=False)
    unknown = '/d/x.json: label "pore" is no class. Add it to [classes]'
    waits = "Waits for labels: 1 image is labelled, one to train on and one to validate on"
    say(run, PhaseBegan(phase="waiting", step=0))
    say(run, *(WarningGiven(message=text) for text in (unknown, waits)))
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "● waiting" in screen_text(pilot))
        await until(pilot, lambda: "Waits for labels: 1 image" in screen_text(pilot))
        assert ' label "pore" is no class' in screen_text(pilot)


async def test_pins_last_beyond_a_session_and_a_damaged_file_of_them_is_told_and_replaced(
    demo: Path, world: Path
) -> None:
    for _ in range(2):
        made_run(demo)
    for other in ("a", "b"):
        pin_runs(world / other, ["run-0009"])
    async with opened(demo, "3", size=(110, 36)) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("down", "P")
        await until(pilot, lambda: "◆run-0001" in screen_text(pilot))
    assert pinned_runs(world / "a") == (frozenset({"run-0009"}), "")
    async with opened(demo, "3", size=(110, 36)) as pilot:
        await until(pilot, lambda: "◆run-0001" in screen_text(pilot))
    (world / "state" / "pins.json").write_bytes(b'{"\xff": [')
    async with opened(demo, "3", size=(110, 36)) as pilot:
        await until(pilot, lambda: "pins.json: is damaged" in told(pilot))
        await until(pilot, lambda: "run-0002" in screen_text(pilot))
        assert "◆" not in screen_text(pilot)
        await pilot.press("P")
        await until(pilot, lambda: "◆run-0002" in screen_text(pilot))
    assert pinned_runs(demo) == (frozenset({"run-0002"}), "")

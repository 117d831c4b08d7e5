"""What a person does in a day, with a Pilot at the keys."""

from pathlib import Path

from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import RunStarted
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import WatchRequest
from emcfsys_tui.screens.dialogs import ConfirmScreen
from tests.tui.conftest import made_run, opened, say, screen_text, until


async def test_read_only_changes_nothing(demo: Path) -> None:
    run = made_run(demo)
    async with opened(demo, "3", read_only=True) as pilot:
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        await pilot.press("D", "x", "s", "r")
        assert "read-only" in screen_text(pilot)
        assert not isinstance(pilot.app.screen, ConfirmScreen)
    assert Run(run.folder).record_file.exists()


async def test_where_nothing_ran_no_chart_waits_for_a_step(demo: Path) -> None:
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "No runs yet" in screen_text(pilot))
        assert "Waiting" not in screen_text(pilot)


async def test_a_watch_says_why_it_has_no_curves(demo: Path) -> None:
    request = WatchRequest(model="best", watch="incoming", output="predictions")
    run = new_run(demo / "runs", request, project=load_project(demo))
    say(run, RunStarted(run=run.id, does="watch"))
    async with opened(demo, "3") as pilot:
        await until(pilot, lambda: "4 shows what came" in screen_text(pilot))

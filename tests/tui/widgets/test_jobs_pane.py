"""A job opens with its moves."""

from pathlib import Path

import pytest

from emcfsys_engine.jobs.queue import Queue
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import opened, screen_text, until
from tests.tui.screens.message_made import failed_run, opens, window


@pytest.mark.usefixtures("no_daemon")
async def test_a_job_opens_with_its_moves_and_leads_to_its_run(demo: Path) -> None:
    run = failed_run(demo)
    with Queue.open() as queue:
        number = queue.add(run.folder, project_name="demo", gpus=0)
        queue.cancel(number)
    async with opened(demo, "5", size=(100, 30)) as pilot:
        await until(pilot, lambda: "cancelled" in screen_text(pilot))
        await opens(pilot, f"job {number} cancelled")
        assert "what became of it" in window(pilot) and "queued" in window(pilot)
        await pilot.press("o")
        await until(pilot, lambda: pilot.app.screen.query_one(RunsPane).is_shown)

"""A job opens with its moves."""

from pathlib import Path

import pytest

from emcfsys_engine.jobs.queue import Queue
from emcfsys_tui.widgets.jobs_pane import JobsPane
from emcfsys_tui.widgets.picture_view import PictureView
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.images.mosaic_made import do, made_mosaic
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
        assert "mask so far" not in screen_text(pilot)
        await opens(pilot, f"job {number} cancelled")
        assert "what became of it" in window(pilot) and "queued" in window(pilot)
        await pilot.press("o")
        await until(pilot, lambda: pilot.app.screen.query_one(RunsPane).is_shown)


@pytest.mark.usefixtures("no_daemon")
async def test_the_mask_of_a_prediction_grows_while_it_is_looked_at(
    demo: Path, tmp_path: Path
) -> None:
    run, mosaic = made_mosaic(tmp_path)
    with Queue.open() as queue:
        queue.add(run.folder, project_name="demo", gpus=0)
    async with opened(demo, "5", size=(120, 40)) as pilot:
        await until(pilot, lambda: "log of job 1, v: mask so far" in screen_text(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "nothing is done yet" in screen_text(pilot))
        do(run, mosaic, mosaic.regions[0])
        view = pilot.app.screen.query_one(JobsPane).query_one(PictureView)
        await until(pilot, lambda: "x.zarr: 1 of 12 regions" in screen_text(pilot))
        await until(pilot, lambda: view.picture is not None and 1 in view.picture.ids)
        assert view.picture is not None
        first = sum(one != 255 for one in view.picture.ids)
        do(run, mosaic, *mosaic.regions[1:])
        await until(pilot, lambda: "x.zarr: 12 of 12 regions" in screen_text(pilot))
        await until(pilot, lambda: view.picture is not None and 255 not in view.picture.ids)
        assert first < len(view.picture.ids) / 4
        assert "■g grain" in screen_text(pilot)
        await pilot.press("v")
        await until(pilot, lambda: "regions" not in screen_text(pilot))

"""Somebody's first hour, reading nothing but the screen: demo, training, hot folder, mask."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual.widgets import Input

from emcfsys_engine.run.folder import Run
from emcfsys_tui.engine.runs import child_environment
from emcfsys_tui.screens.dialogs import PickScreen
from emcfsys_tui.screens.project import ProjectScreen
from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.hotfolder_pane import HotFolderPane
from emcfsys_tui.widgets.picture_view import PictureView
from emcfsys_tui.widgets.train_pane import TrainPane
from tests.tui.conftest import opened, screen_text, told, until
from tests.waiting import PATIENCE_S


@pytest.fixture
def own_daemon(world: Path) -> Iterator[None]:
    """The daemon that a submission starts ends with the test, and its jobs with it."""
    yield
    command = [sys.executable, "-m", "emcfsys_engine", "daemon", "stop", "--jobs"]
    subprocess.run(command, env=child_environment(), timeout=PATIENCE_S, capture_output=True)


@pytest.mark.long
@pytest.mark.usefixtures("own_daemon")
async def test_from_an_empty_folder_to_a_mask_of_a_new_image(world: Path) -> None:
    folder = world / "projects" / "demo"
    async with opened(None, size=(120, 40)) as pilot:
        await until(pilot, lambda: "for the demo" in screen_text(pilot))
        await pilot.press("d")
        await until(pilot, lambda: isinstance(pilot.app.screen, ProjectScreen))
        screen = pilot.app.screen
        await until(pilot, lambda: "cell_0000" in screen_text(pilot))  # the data come first
        await until(pilot, lambda: "Nothing to mend: 2 goes on" in screen_text(pilot))
        view = screen.query_one(DataPane).query_one(PictureView)
        await until(pilot, lambda: view.picture is not None and bool(view.picture.ids))

        await pilot.press("2")
        pane = screen.query_one(TrainPane)
        await until(pilot, lambda: len(pane.query(FormLine)) > 20)
        assert "s starts the training" in screen_text(pilot)
        pane.query_one("#field-training-steps Input", Input).value = "12"
        await until(pilot, lambda: "steps=12" in pane.command)
        await pilot.press("s")
        await until(pilot, lambda: "run-0001" in screen_text(pilot))
        run = Run(folder / "runs" / "run-0001")
        loss = screen.query_one("#loss", Chart)
        await until(pilot, lambda: any(c.view.count for c in loss.curves), limit_s=300)
        await until(pilot, lambda: run.state() == "done", limit_s=300)
        await until(pilot, lambda: "is done" in told(pilot))
        await pilot.press("v")
        await until(pilot, lambda: "step 12" in screen_text(pilot))

        await pilot.press("E")
        await until(pilot, lambda: isinstance(pilot.app.screen, PickScreen))
        await pilot.press("down", "enter")
        await until(pilot, lambda: "Written:" in told(pilot), limit_s=300)

        await pilot.press("4")
        await until(pilot, lambda: "space starts watching incoming/" in screen_text(pilot))
        await pilot.press("space")
        hot = screen.query_one(HotFolderPane)
        await until(pilot, lambda: hot.hot.state in ("watching", "polling"), limit_s=300)
        arriving = folder / "incoming" / ".grid1.png.part"
        shutil.copy(folder / "images" / "val" / "cell_1000.png", arriving)
        arriving.rename(folder / "incoming" / "grid1.png")
        await until(pilot, lambda: "grid1" in screen_text(pilot))
        view = hot.query_one(PictureView)
        await until(pilot, lambda: view.picture is not None and bool(view.picture.ids))
        assert (folder / "predictions" / "grid1.png").is_file()
        assert "rror" not in told(pilot)

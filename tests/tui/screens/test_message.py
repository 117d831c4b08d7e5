"""Every message is read whole in one window, wherever its row stands."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageFailed, RunStarted
from emcfsys_engine.run.folder import new_run
from emcfsys_engine.run.records import WatchRequest
from emcfsys_tui.messages import TextFound
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.view_models import CheckState, FindingRow
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.picture_pane import PictureBox
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, told, until
from tests.tui.screens.message_made import REASON, failed_run, opens, window
from tests.tui.test_program import _PROGRAM, _wait, project_environment, tmux

__all__ = ["tmux"]  # a fixture


SIZES = [(60, 16), (80, 24), (160, 48)]


@pytest.mark.parametrize("size", SIZES)
async def test_a_failed_run_shows_why_where_its_curves_would_be_and_enter_opens_it_whole(
    demo: Path, size: tuple[int, int]
) -> None:
    run = failed_run(demo)
    async with opened(demo, "3", size=size) as pilot:
        await until(pilot, lambda: "value 7 is no class" in screen_text(pilot))
        assert "Waiting for the first step" not in screen_text(pilot)
        await opens(pilot, "value 7 is no class. Add it under [classes], or draw it anew.")
        if size[1] > 16:
            assert r"half a \x1b[31mfile with a very long story that no row" in window(pilot)
            assert r"saw \x1b]0;evil\x07 words" in window(pilot)
            assert "try again" in window(pilot) and "copy" in window(pilot)
        notice = pilot.app.screen
        assert isinstance(notice, MessageScreen) and notice.notice.file == run.log_file
        await pilot.press("escape")
        assert isinstance(pilot.app.screen.query_one(RunsPane), RunsPane)


async def test_a_run_that_failed_late_keeps_its_curves_below_the_reason(demo: Path) -> None:
    failed_run(demo, steps=30)
    async with opened(demo, "3", size=(100, 40)) as pilot:
        await until(pilot, lambda: "value 7 is no class" in screen_text(pilot))
        charts = pilot.app.screen.query_one("RunsPane .charts")
        await until(pilot, lambda: charts.display and charts.size.height > 4)


@pytest.mark.usefixtures("no_daemon")
async def test_a_failed_run_is_tried_again_from_its_message(demo: Path) -> None:
    run = failed_run(demo)
    async with opened(demo, "3", size=(100, 30)) as pilot:
        await until(pilot, lambda: "value 7 is no class" in screen_text(pilot))
        await opens(pilot, "value 7")
        await pilot.press("r")
        await until(pilot, lambda: "queued" in screen_text(pilot))
    with Queue.open() as queue:
        assert [job.run for job in queue.list()] == [str(run.folder)]


async def test_a_fault_of_the_check_opens_whole_and_leads_to_its_image(demo: Path) -> None:
    file = demo / "images/train/cell_0007.png"
    one = FindingRow(level="error", file=str(file), what=REASON, remedy="Copy it again")
    async with opened(demo, "1", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(DataPane)
        await until(pilot, lambda: not pane.check_state.running and pane._is_complete)
        pane.check_state = CheckState(findings=(one,), summary="1 error")
        pane.query_one("#findings", Rows).focus()
        await opens(pilot, "→ Copy it again")
        said = window(pilot).replace(" ", "")  # the path is longer than a line
        assert said.rindex("cell_0007.png") > said.index("→Copyit")
        await pilot.press("v")
        row = pane.query_one("#images", Rows).current
        assert row is not None and row.key == str(file)


async def test_a_failed_image_of_the_hot_folder_opens_whole(demo: Path) -> None:
    request = WatchRequest(model="best", watch="incoming", output="predictions")
    watch = new_run(demo / "runs", request, project=load_project(demo))
    say(watch, RunStarted(run=watch.id, does="watch"), ImageFailed(image="a.tif", reason=REASON))
    async with opened(demo, "4", size=(100, 30)) as pilot:
        await until(pilot, lambda: "a.tif" in screen_text(pilot))
        pilot.app.screen.query_one("#failures", Rows).focus()
        await opens(pilot, "whatever the terminal. Copy it again.")
        assert "The file is gone: copy it again" in window(pilot)
        await pilot.press("escape")
        (demo / "incoming").mkdir()
        shutil.copy(demo / "images" / "val" / "cell_1000.png", demo / "incoming" / "a.tif")
        await opens(pilot, "show the image")
        await pilot.press("v")
        box = pilot.app.screen.query_one("HotFolderPane PictureBox", PictureBox)
        await until(pilot, lambda: box.image_name == "a.tif" and box.picture is not None)


async def test_a_window_that_opens_late_opens_over_the_tab_that_asked_or_not_at_all(
    demo: Path,
) -> None:
    made_run(demo)
    async with opened(demo, "1", size=(100, 30)) as pilot:
        await pilot.press("3")
        pane = pilot.app.screen.query_one(DataPane)
        pane.post_message(TextFound("cell_0001.png", "facts"))
        await until(pilot, lambda: "not opened" in told(pilot))
        await pilot.press("1", "question_mark")
        pane.post_message(TextFound("cell_0001.png", "facts"))
        await until(pilot, lambda: told(pilot).count("not opened") == 2)
        await pilot.press("escape")
        pane.post_message(TextFound("cell_0001.png", "facts"))
        await until(pilot, lambda: "facts" in screen_text(pilot))


def test_e_lends_the_terminal_to_the_persons_editor(
    demo: Path, world: Path, tmux: Callable[..., str]
) -> None:
    run = failed_run(demo)
    editor = world / "editor"
    editor.write_text('#!/bin/sh\necho "EDITING $1"\nread answer\necho "$answer" >> "$1"\n')
    editor.chmod(0o755)
    names = {**project_environment(world), "VISUAL": str(editor), "TERM": "screen-256color"}
    program = " ".join(["env", *(f"{k}={v}" for k, v in names.items()), *_PROGRAM, str(demo)])
    tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "t", f"{program}; echo END $?; cat")

    def seen(word: str) -> bool:
        return word in tmux("capture-pane", "-p", "-t", "t")

    _wait(lambda: seen("value 7 is no class"))
    tmux("send-keys", "-t", "t", "3", "Enter")  # one burst: the tab, then its row
    _wait(lambda: seen("edit the file"))
    tmux("send-keys", "-t", "t", "e")
    _wait(lambda: seen("EDITING"))
    tmux("send-keys", "-t", "t", "written by hand", "Enter")
    _wait(lambda: seen("edit the file"))
    assert run.log_file.read_text().endswith("written by hand\n")
    tmux("send-keys", "-t", "t", "q", "q")
    _wait(lambda: seen("END 0"))

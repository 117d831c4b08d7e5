"""Every message is read whole in one window, wherever its row stands."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from textual.pilot import Pilot

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.project import load_project
from emcfsys_engine.run.events import ImageFailed, RunFailed, RunStarted, WarningGiven
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.outcome import ExitRecord
from emcfsys_engine.run.records import TrainRequest, WatchRequest
from emcfsys_tui.messages import TextFound
from emcfsys_tui.screens.message import MessageScreen
from emcfsys_tui.text import one_line, reason_words, safe_lines
from emcfsys_tui.view_models import CheckState, FindingRow
from emcfsys_tui.widgets.data_pane import DataPane
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.log_view import LogView
from emcfsys_tui.widgets.picture_pane import PictureBox
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, told, until
from tests.tui.test_program import _PROGRAM, _wait, project_environment, tmux

__all__ = ["tmux"]  # a fixture
SIZES = [(60, 16), (80, 24), (160, 48)]
REASON = (
    "images/train/cell_0007.png: value 7 is no class. Add it under [classes], or draw it anew.\n"
    "images/train/cell_0008.png: is half a \x1b[31mfile with a very long story that no row of a"
    " list has the room for, whatever the terminal. Copy it again."
)


def failed_run(folder: Path, *, steps: int = 0) -> Run:
    run = new_run(folder / "runs", TrainRequest(), project=load_project(folder))
    say(run, RunStarted(run=run.id, does="train"), *(step(n + 1) for n in range(steps)))
    say(run, RunFailed(reason=REASON, exit_code=2))
    run.log_file.write_text("reading images\nsaw \x1b]0;evil\x07 words\n")
    run.exit_file.write_bytes(msgspec.json.encode(ExitRecord(exit_code=2)))
    return run


def window(pilot: Pilot[None]) -> str:
    """Return what the window says, its line breaks as spaces."""
    assert isinstance(pilot.app.screen, MessageScreen)
    return " ".join(screen_text(pilot).split())


async def opens(pilot: Pilot[None], words: str) -> None:
    await pilot.press("enter")
    await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen))
    await until(pilot, lambda: words in window(pilot))
    text = screen_text(pilot)
    assert "\x1b" not in text and "\x07" not in text and r"\n" not in text


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
        lines = [line.strip(" │─┌┐└┘") for line in screen_text(pilot).split("\n")]
        where = [n for n, line in enumerate(lines) if line.endswith("cell_0007.png")]
        assert max(where) > next(n for n, line in enumerate(lines) if "→ Copy it" in line)
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


@pytest.mark.parametrize("tab", ["3", "5"])
@pytest.mark.usefixtures("no_daemon")
async def test_a_line_of_a_log_scrolls_sideways_and_opens_whole(demo: Path, tab: str) -> None:
    run = made_run(demo, steps=3, ended=False)
    say(run, WarningGiven(message="a" * 90 + " the end of a long line"))
    with Queue.open() as queue:
        queue.add(run.folder, project_name="demo", gpus=0)
    async with opened(demo, tab, size=(80, 24)) as pilot:
        await until(pilot, lambda: "warning: aaa" in screen_text(pilot))
        rows = pilot.app.screen.query_one(LogView).query_one(Rows)
        if tab == "5":
            rows = pilot.app.screen.query_one("#job-log Rows", Rows)
        rows.focus()
        await pilot.press("end", *["right"] * 12)
        await until(pilot, lambda: "of a long line" in screen_text(pilot))
        await opens(pilot, "the end of a long line")


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


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a\nb", "a b"),
        ("a\tb", "a   b"),
        ("C:\\new", "C:\\new"),
        ("\x1b[2J\n", "\\x1b[2J"),
        ("a\u202eb", "a\\u202eb"),
    ],
)
def test_a_row_shows_breaks_as_spaces_and_escapes_the_rest(text: str, line: str) -> None:
    assert one_line(text) == line
    assert "\x1b" not in safe_lines(text)


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("early_stopping", "early stopping"),
        (
            "/a/my_b.tif: is half a file. Copy it again.",
            "is half a file. Copy it again.  /a/my_b.tif",
        ),
        ("my_b.tif: is half a file.", "my_b.tif: is half a file."),
        ("/a: b\n/c: d", "b  /a\nd  /c"),
        ("/a/b", "/a/b"),
    ],
)
def test_a_reason_is_said_before_the_path_of_its_file(reason: str, words: str) -> None:
    assert reason_words(reason) == words


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

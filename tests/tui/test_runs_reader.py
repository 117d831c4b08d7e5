"""Rows of runs that ended are kept, and are never another row than the files give."""

import os
from pathlib import Path

import pytest

from emcfsys_engine.run.events import RunCancelled, RunFailed, RunFinished, RunStarted
from emcfsys_engine.run.folder import Run
from emcfsys_engine.settings import cache_home
from emcfsys_tui.engine import runs_reader
from emcfsys_tui.engine.run_history import RunHistory
from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.view_models import QueueState, RunRow
from emcfsys_tui.widgets.jobs_pane import JobsPane
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, step, until, validation


def rows_of(folder: Path) -> tuple[RunRow, ...]:
    """Return the rows as an interface that is started now reads them."""
    reader = RunsReader(folder)
    read = reader.read()
    while read is not None and not read.is_complete:
        read = reader.read()
    assert read is not None
    return read.runs


def test_a_run_that_ended_is_read_once(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_run(demo)
    made_run(demo, steps=40)
    before = rows_of(demo)
    assert [row.step for row in before] == [40, 100]
    monkeypatch.setattr(RunHistory, "read_new", lambda self: pytest.fail("its events were read"))
    assert rows_of(demo) == before


def test_whatever_changes_in_a_run_is_seen(demo: Path) -> None:
    run = made_run(demo, steps=20)
    assert rows_of(demo)[0].score is not None
    changes = [
        lambda: say(run, RunStarted(run=run.id, does="train", total_steps=60), step(30)),
        lambda: say(run, validation(40, 0.9), RunFailed(reason="the disk is full")),
        lambda: run.exit_file.write_text('{"exit_code": 0}'),
        lambda: run.best_model.write_bytes(b"a model"),
        lambda: say(run, RunStarted(run=run.id, does="train"), RunCancelled(step=40)),
        lambda: os.truncate(run.events_file, 200),
    ]
    for change in changes:
        change()
        (kept,) = rows_of(demo)
        history = RunHistory(Run(run.folder))
        history.read_new()
        assert kept == history.row()


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 1, "rows": {"run-0001": ["", 3]}}'])
def test_a_damaged_or_forbidden_cache_is_done_without(demo: Path, content: bytes) -> None:
    made_run(demo, steps=20)
    before = rows_of(demo)
    (file,) = cache_home().glob("runs-*.json")
    file.write_bytes(content)
    assert rows_of(demo) == before
    file.unlink()
    cache_home().rename(cache_home().with_name("old"))
    cache_home().write_text("no folder")
    assert rows_of(demo) == before


def test_the_list_stands_before_long_files_are_read(
    demo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_run(demo, steps=20)
    made_run(demo, steps=200)
    monkeypatch.setattr(runs_reader, "_LONG_BYTES", 10_000)
    reader = RunsReader(demo)
    first = reader.read()
    assert first is not None and not first.is_complete
    assert [(row.id, row.state) for row in first.runs] == [
        ("run-0002", "reading"),
        ("run-0001", "done"),
    ]
    then = reader.read()
    assert then is not None and then.is_complete
    assert [row.step for row in then.runs] == [200, 20]
    assert reader.read() is None


async def test_the_first_paint_says_what_is_being_read_and_never_what_is_not_so(
    demo: Path,
) -> None:
    run = made_run(demo, steps=20, ended=False)
    say(run, RunFinished(reason="steps", step=20, score=0.5))
    async with opened(demo, "5", size=(100, 30)) as pilot:
        pane = pilot.app.screen.query_one(JobsPane)
        pane.queue_state = QueueState()
        await pilot.pause()
        assert "Reading the queue" in screen_text(pilot)
        pane.queue_state = QueueState(is_read=True)
        await until(pilot, lambda: "No jobs" in screen_text(pilot))
        await pilot.press("3")
        runs = pilot.app.screen.query_one(RunsPane)
        await until(pilot, lambda: bool(runs.drawn))
        runs._details = {}
        assert runs._chart_hint() == "Reading its events …"

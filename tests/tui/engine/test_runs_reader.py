"""Rows of runs that ended are kept, and are never another row than the files give."""

from pathlib import Path

import pytest

from emcfsys_engine.run.events import RunFinished
from emcfsys_engine.settings import cache_home
from emcfsys_tui.engine import runs_reader
from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.view_models import QueueState
from emcfsys_tui.widgets.jobs_pane import JobsPane
from emcfsys_tui.widgets.runs_pane import RunsPane
from tests.tui.conftest import made_run, opened, say, screen_text, until
from tests.tui.runs_made import rows_of


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

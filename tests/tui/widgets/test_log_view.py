"""Lines of a log, and fields that take every key of a burst."""

from pathlib import Path

import pytest
from textual._xterm_parser import XTermParser

from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.run.events import WarningGiven
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.log_view import LogView, TextInput
from tests.tui.conftest import made_run, opened, say, screen_text, until
from tests.tui.screens.message_made import opens
from tests.tui.widgets_made import Stage


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


async def test_characters_typed_right_after_a_backspace_in_one_burst_are_kept() -> None:
    box = TextInput()
    app = Stage(box)
    async with app.run_test() as pilot:
        box.focus()
        await pilot.pause()
        for event in XTermParser().feed("trains\x7fed\x1b[D\x1b[D-\x1b[Hre\x7f\x7f_"):
            app.post_message(event)  # all at once, as one read of a slow line brings them
        await pilot.pause()
        await pilot.pause()
        assert box.value == "_train-ed"

"""What feeds a pane: read in a thread of its own, again when asked, not while nobody looks."""

import threading
from typing import get_args

from textual.app import App, ComposeResult
from textual.message import Message
from textual.widget import Widget

from emcfsys_engine.jobs.job import Kind
from emcfsys_engine.tools.report.page import DOES
from emcfsys_tui.widgets.pane import ENDS, Feed
from tests.waiting import PATIENCE_S


class Read(Message):
    """Something was read."""


class Counting(Widget):
    """Counts what was posted."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def on_read(self) -> None:
        self.number += 1


class Owner(App[None]):
    def compose(self) -> ComposeResult:
        yield Counting()


async def test_a_feed_reads_again_when_asked_rests_while_paused_and_ends() -> None:
    looked = threading.Semaphore(0)

    def read() -> Message:
        looked.release()
        return Read()

    async with Owner().run_test() as pilot:
        counting = pilot.app.query_one(Counting)
        feed = Feed(counting, read, every_s=1000)
        await pilot.pause()
        assert looked.acquire(timeout=PATIENCE_S)
        feed.look_now()
        assert looked.acquire(timeout=PATIENCE_S)
        feed.pause(True)
        feed.look_now()
        feed.pause(False)
        assert looked.acquire(timeout=PATIENCE_S)
        feed.end()
        await pilot.app.workers.wait_for_complete()
        await pilot.pause()
        assert counting.number >= 2


def test_every_kind_of_job_can_be_ended_and_is_named_on_a_report() -> None:
    kinds = set(get_args(Kind))
    assert set(ENDS) == kinds
    assert set(DOES) == kinds

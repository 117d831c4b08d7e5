"""Runs of a shell's words."""

import time
from collections.abc import Callable

from emcfsys_engine.launch import start
from emcfsys_engine.run.folder import Run
from tests.waiting import PATIENCE_S

SLEEP = ("sh", "-c", "sleep 60")


def holds(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)


def begun(run: Run) -> start.Holder:
    holds(lambda: (held := start.holder(run)) is not None and held.worker > 0)
    held_by = start.holder(run)
    assert held_by is not None
    return held_by

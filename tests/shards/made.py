"""Runs in shards, done in this process, and what they leave in their output folder."""

import os
import re
import signal
from pathlib import Path

import pytest

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.learn import worker
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shards import Shards
from emcfsys_engine.shards import runner
from emcfsys_engine.shards.task import do_shards, list_of, tell_warning
from emcfsys_engine.shards.work import work_of


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in this process, one after the other: it saves the start of torch."""
    monkeypatch.setattr(runner, "started", Here)


class Here:
    """A task that is done when it is started."""

    def __init__(self, run: Run, environment: object) -> None:
        try:
            self.returncode = do_shards(run.folder, None, lambda: None)
        except EmcfError as error:
            self.returncode = error.exit_code

    def poll(self) -> int:
        return self.returncode

    def wait(self, timeout: float = 0.0) -> int:
        return self.returncode

    def kill(self) -> None:
        pass


def listed(run: Run) -> Shards:
    """Write the list of a run, and do nothing else."""
    list_of(work_of(run), tell_warning, lambda: None)
    return Shards(run)


def made_in(out: Path) -> dict[str, bytes]:
    """Return all that a person finds in an output folder.

    A killed task leaves what it was just writing under a hidden name: `runs clean` takes it.
    """
    files = (file for file in out.rglob("*") if file.is_file())
    names = {str(file.relative_to(out)): file for file in files}
    return {
        name: file.read_bytes().replace(os.fsencode(out), b"OUT")
        for name, file in names.items()
        if not name.startswith(".emcfsys") and not re.fullmatch(r"\..+\.\d+\.tmp", Path(name).name)
    }


def run_here(run: Run) -> int:
    """Execute a run's worker in this process."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        return worker.main([str(run.folder)])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

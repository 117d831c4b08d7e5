"""A queue, a real daemon with the stand-in worker, and waiting for a condition with a deadline."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.control import DaemonLock, DaemonStatus, ensure_daemon, stop_daemon
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.machine import Machine
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import holder
from emcfsys_engine.run.folder import Run, new_run
from emcfsys_engine.run.records import TrainRequest
from tests.waiting import PATIENCE_S

Value = TypeVar("Value")
DAEMON = (sys.executable, str(Path(__file__).with_name("standin_daemon.py")))


def wait_for(
    condition: Callable[[], Value], *, seconds: float = PATIENCE_S, what: str = ""
) -> Value:
    """Return the condition's value as soon as it is true; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or condition} did not come true in {seconds:g} s")
        time.sleep(0.01)


class Bench:
    """A state folder with its queue, a daemon on demand, and runs for the stand-in worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "state"
        self.project = folder / "project"
        self.place = folder / "state-machine"
        self.place.mkdir()
        self.configure()
        self._queue: Queue | None = None

    @property
    def queue(self) -> Queue:
        """The queue, opened when it is first used."""
        if self._queue is None:
            self._queue = Queue.open(self.folder, machine=self.machine)
        return self._queue

    @property
    def machine(self) -> Machine:
        """The machine as the test described it."""
        from tests.jobs.standin_daemon import machine_of

        return machine_of(self.folder)

    def configure(self, text: str = "cpu_slots = 8\ngrace_s = 5\nretry_wait_s = 0.05") -> None:
        """Write the [jobs] table of the settings."""
        (self.place / "settings.toml").write_text(f"[jobs]\n{text}\n")

    def run(self, does: str = "work", *, seconds: float = 0.0, **more: Any) -> Run:
        """Make a run whose stand-in worker behaves so."""
        run = new_run(self.project / "runs", TrainRequest())
        behaviour = {"does": does, "seconds": seconds, **more}
        (run.folder / "behaviour.json").write_text(json.dumps(behaviour))
        return run

    def add(self, run: Run, **request: Any) -> int:
        """Submit a run; one slot unless said otherwise."""
        return self.queue.add(run.folder, project_name="test", **{"cpus": 1, **request})

    def start(self) -> DaemonStatus:
        """Start the daemon."""
        return ensure_daemon(self.folder, command=DAEMON)

    def kill_daemon(self) -> None:
        """End the daemon as a crash would."""
        status = DaemonLock(self.folder).status()
        if status.pid is not None:
            os.kill(status.pid, signal.SIGKILL)
            pid = status.pid
            wait_for(lambda: processes.start_ticks(pid) is None, what="the daemon's death")

    def state(self, job_id: int) -> str:
        """Return a job's state."""
        return self.queue.get(job_id).state

    def wait(self, job_id: int, *states: str, seconds: float = PATIENCE_S) -> Job:
        """Wait until a job is in one of these states."""
        try:
            wait_for(lambda: self.state(job_id) in states, seconds=seconds)
        except AssertionError:
            log = self.folder / "daemon.log"
            told = log.read_text() if log.exists() else ""
            raise AssertionError(f"{self.queue.get(job_id)} is not {states}\n{told}") from None
        return self.queue.get(job_id)

    def terminate(self, run: Run) -> None:
        """Send a worker the TERM of a colleague: nobody asked for anything."""
        held_by = holder(run)
        assert held_by is not None
        os.kill(held_by.worker, signal.SIGTERM)

    def starts(self, run: Run) -> int:
        """Count how often the run's worker began."""
        try:
            return (run.folder / "starts").stat().st_size
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """End the daemon and every process of every job."""
        if self.folder.exists():
            stop_daemon(self.folder)
        if self._queue is None:
            return
        with contextlib.suppress(QueueError):  # a test may have damaged or closed it
            for job in self._queue.list():
                for pid in processes.descendants(job.token) if job.token else []:
                    os.kill(pid, signal.SIGKILL)
        self._queue.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A state folder with everything around it."""
    made = Bench(tmp_path)
    yield made
    made.close()

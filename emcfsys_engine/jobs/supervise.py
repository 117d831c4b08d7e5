"""One start of a job while it lives: found again after a crash, asked to end, killed if it must."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Literal

from emcfsys_engine.jobs.job import Ask, Job
from emcfsys_engine.launch import identity
from emcfsys_engine.launch import start as process
from emcfsys_engine.launch.start import Holder
from emcfsys_engine.run.folder import Run

Whereabouts = Literal["alive", "ended", "never began"]
_KEEPER_S = 5.0  # after its worker was killed, a keeper has that long to write exit.json


class Start:
    """The processes of one start, seen from the daemon: keeper, worker and what came of it."""

    def __init__(self, job: Job, child: "subprocess.Popen[bytes] | None" = None) -> None:
        self.job_id = job.id
        self.run = Run(Path(job.run))
        self.token = job.token
        self.child = child
        self.since = time.monotonic()
        self.asked = ""  # what was passed on last
        self.was_killed = False
        self.kill_at: float | None = None
        self._keeper_ended = False
        self.keeper: int | None = None
        self.find_keeper()

    def find_keeper(self) -> None:
        """Look for the keeper, unless it was found or its end was seen."""
        if self.keeper is None and not self._keeper_ended:
            self.keeper = _open_keeper(self, self.child)

    def close(self) -> None:
        """Forget the processes; they live on if they live."""
        if self.keeper is not None:
            os.close(self.keeper)
            self.keeper = None
        if self.child is not None and self.child.poll() is None:
            self.child.returncode = 0  # it lives on without us: nobody waits for it any more

    def keeper_ended(self) -> None:
        """Note that the keeper's end was seen."""
        self._keeper_ended = True
        if self.child is not None:
            self.child.wait()
        self.close()

    def is_alive(self) -> bool:
        """Tell whether keeper or worker live."""
        if self.keeper is not None:
            return True
        return self.run.is_alive() or (not self.run.folder.is_dir() and self._is_in_memory())

    def ask(self, ask: Ask, grace_s: float) -> None:
        """Ask the worker to end, as a person wishes; the kill follows after the grace.

        It is asked again while nobody can be found who would pass it on.
        On a full disk the wish cannot be left in the run's folder: the worker is asked to save and
        leave all the same, and the queue still knows what was meant.
        """
        with contextlib.suppress(OSError):
            if ask in ("cancel", "stop", "pause"):
                self.run.ask(ask)
            else:
                self.run.ask_file.unlink(missing_ok=True)
        if self._send(signal.SIGTERM):
            self.asked = ask
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace_s

    def kill_if_due(self) -> None:
        """Kill what is left when the grace is over: first the worker, then also its keeper."""
        if self.kill_at is None or time.monotonic() < self.kill_at:
            return
        held_by = self.holder()
        if held_by is not None:
            process.kill_run(held_by, with_keeper=self.was_killed)
        else:
            for pid in identity.descendants(self.token):
                process.send(pid, signal.SIGKILL)
        self.was_killed = True
        self.kill_at = time.monotonic() + _KEEPER_S

    def sweep(self) -> None:
        """Kill what a dead keeper could not: descendants that outlived their worker."""
        for pid in identity.descendants(self.token):
            process.send(pid, signal.SIGKILL)

    def holder(self) -> Holder | None:
        """Tell who holds the run, if it is this start."""
        held_by = process.holder(self.run)
        return held_by if held_by is not None and held_by.token == self.token else None

    def _send(self, number: signal.Signals) -> bool:
        """Send a signal to whoever is in charge; False while nobody is."""
        if self.keeper is not None:
            try:
                signal.pidfd_send_signal(self.keeper, number)
            except ProcessLookupError:  # ended just now; its end is told next
                return False
            return True
        held_by = self.holder()
        if held_by is None or not held_by.worker_lives:
            return False
        return process.signal_group(held_by.worker, number)

    def _is_in_memory(self) -> bool:
        return bool(identity.descendants(self.token))


def whereabouts(job: Job) -> Whereabouts:
    """Tell what became of a job's newest start that nobody watched.

    "never began" is final: its keeper, if it is still on its way, is made void first.
    Raises: OSError if the run's folder cannot be written.
    """
    run = Run(Path(job.run))
    found = _whereabouts(run, job)
    if found != "never began":
        return found
    process.void_start(run)
    return _whereabouts(run, job)  # it may have been quicker than the void


def _whereabouts(run: Run, job: Job) -> Whereabouts:
    if run.is_alive():
        return "alive"
    held_by = process.holder(run)
    if held_by is not None and held_by.token == job.token:
        return "ended"
    if not run.folder.is_dir():
        return "alive" if identity.descendants(job.token) else "ended"
    return "never began"


def _open_keeper(start: Start, child: "subprocess.Popen[bytes] | None") -> int | None:
    """Return a handle of the keeper that no reuse of its number can confuse; None if it is gone."""
    pid = child.pid if child is not None else 0
    held_by = None
    if child is None:
        held_by = start.holder()
        if held_by is None or not held_by.keeper_lives:
            return None
        pid = held_by.pid
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    if held_by is not None and not held_by.keeper_lives:  # it ended between the two looks
        os.close(descriptor)
        return None
    return descriptor

"""What runs: every start is watched, asked to end, and its outcome written once."""

import contextlib
import errno
import os
import select
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

from emcfsys_engine import any_names
from emcfsys_engine.files import identity_of
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.control import log
from emcfsys_engine.jobs.job import Ask, Job
from emcfsys_engine.jobs.store import Store
from emcfsys_engine.jobs.transitions import judge, outcome_of
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import Holder, holder, kill_run, send, signal_group, void_start
from emcfsys_engine.run.events import end_of_events
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.records import StartRecord
from emcfsys_engine.settings import JobSettings
from emcfsys_engine.user_commands import Notices

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
        self.wish: Ask = ""  # of a person, and
        self.asked = ""  # what was passed on last
        self.was_killed = False
        self.was_away = False  # its folder was, so its worker may have lost its word
        self._place = identity_of(self.run.folder.parent)
        self.kill_at: float | None = None
        self._grace_s = 0.0
        self._graces = 0
        self._progress: processes.Activity | None = None
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
        if not self.run.folder.is_dir():
            return self._is_in_memory()
        return self.run.is_alive()

    def is_away(self) -> bool:
        """Tell whether the run's disk is away; a job that is cancelled does not wait for it.

        Raises: OSError for a disk that does not answer.
        """
        if self.run.folder.is_dir() or self.wish == "cancel":
            return False
        place = identity_of(self.run.folder.parent)
        is_other = self._place is not None and place != self._place
        self.was_away = is_other or self.run.is_away()
        return self.was_away

    def ask(self, ask: Ask, grace_s: float) -> None:
        """Ask the worker to end, as a person wishes; the kill follows after the grace.

        It is asked again while nobody can be found who would pass it on.
        On a full disk the wish cannot be left in the run's folder: the worker is asked to save and
        leave all the same, and the queue still knows what was meant.
        """
        self.wish = ask
        with contextlib.suppress(OSError):
            if ask in ("cancel", "stop", "pause"):
                self.run.ask(ask)
            else:
                self.run.ask_file.unlink(missing_ok=True)
        if self._send(signal.SIGTERM):
            self.asked = ask
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace_s
            self._grace_s = grace_s
            self._graces = 1
            self._progress = processes.Activity(self.token)

    def kill_if_due(self) -> None:
        """Kill what is left when the grace is over: first the worker, then also its keeper."""
        if self.kill_at is None or time.monotonic() < self.kill_at:
            return
        if not self.was_killed and self._gets_on():
            return
        held_by = self.holder()
        if held_by is not None:
            kill_run(held_by, with_keeper=self.was_killed)
        else:
            for pid in processes.descendants(self.token):
                send(pid, signal.SIGKILL)
        self.was_killed = True
        self.kill_at = time.monotonic() + _KEEPER_S

    def _gets_on(self) -> bool:
        """Tell whether it still saves: the grace counts only while nothing progresses.

        A stop asks for the last steps of a training, which may take long.
        """
        is_over = self._graces >= processes.MOST_GRACES and self.wish != "stop"
        if self._progress is None or is_over:
            return False
        if not self._progress.goes_on():
            return False
        self._graces += 1
        self.kill_at = time.monotonic() + self._grace_s
        return True

    def sweep(self) -> None:
        """Kill what a dead keeper could not: descendants that outlived their worker."""
        for pid in processes.descendants(self.token):
            send(pid, signal.SIGKILL)

    def holder(self) -> Holder | None:
        """Tell who holds the run, if it is this start."""
        held_by = holder(self.run)
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
        if held_by is not None and held_by.worker_lives:
            return signal_group(held_by.worker, number)
        # A lock that cannot be read names nobody: the token in the environment does.
        sent = [signal_group(pid, number) for pid in processes.group_leaders(self.token)]
        return any(sent)

    def _is_in_memory(self) -> bool:
        return bool(processes.descendants(self.token))


def whereabouts(job: Job) -> Whereabouts:
    """Tell what became of a job's newest start that nobody watched.

    "never began" is final: its keeper, if it is still on its way, is made void first.
    Raises: OSError if the run's folder cannot be written.
    """
    run = Run(Path(job.run))
    found = _whereabouts(run, job)
    if found != "never began":
        return found
    void_start(run)
    return _whereabouts(run, job)  # it may have been quicker than the void


def _whereabouts(run: Run, job: Job) -> Whereabouts:
    if run.is_alive():
        return "alive"
    held_by = holder(run)
    if held_by is not None and held_by.token == job.token:
        return "ended"
    if _left_traces(run, job, held_by):
        return "ended"
    if not run.folder.is_dir():
        return "alive" if processes.descendants(job.token) else "ended"
    return "never began"


def _left_traces(run: Run, job: Job, held_by: Holder | None) -> bool:
    """Tell whether a start began, where a damaged run.lock does not: nothing runs twice for it."""
    process = run.exit_record()
    if process is not None and process.start == job.token:
        return True
    if end_of_events(run.events_file) > job.events_offset:
        return True
    with contextlib.suppress(FileNotFoundError):
        return held_by is None and run.lock_file.stat().st_size > 0
    return False


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


_RETRY_START_S = 2.0  # after a GPU was taken in the last moment


class Supervisor:
    """The starts that a daemon watches; all of them can be found again from queue and folders."""

    def __init__(self, store: Store, settings: JobSettings, notices: Notices) -> None:
        self.store = store
        self.settings = settings
        self.notices = notices
        self.starts: dict[int, Start] = {}
        self.trouble: dict[int, str] = {}  # by job: a run folder that cannot be read now

    def watch(self, job: Job, start: Start) -> None:
        """Watch a start that was just made."""
        self.starts[job.id] = start

    def settle_ended(self) -> bool:
        """Write the outcome of every start whose processes are gone; True if there was one."""
        found = False
        trouble: dict[int, str] = {}
        for start in list(self.starts.values()):
            try:
                found = self._look_at(start) or found
            except OSError as error:  # the disk of one run is no trouble for the others
                trouble[start.job_id] = f"{start.run.folder}: {error.strerror}: it is waited for"
                if isinstance(error, FileNotFoundError):
                    ends = f"emcfsys-engine cancel {start.job_id}"
                    trouble[start.job_id] += f". If it was removed, {ends} ends the job"
        self._tell(trouble)
        return found

    def _look_at(self, start: Start) -> bool:
        """Write a start's outcome if its processes are gone; True if so.

        Raises: OSError while its folder's disk does not answer or is away.
        """
        if start.keeper is None:
            start.find_keeper()  # it may have been about to sign the run lock
        elif _has_ended(start.keeper):
            start.keeper_ended()
        if start.is_alive():
            self._follow_other(start)
            return False
        if start.is_away():
            raise FileNotFoundError(errno.ENOENT, "is not there: its disk may be away")
        return self._settle(start)

    def _tell(self, trouble: dict[int, str]) -> None:
        """Say once what is waited for, also to who looks at the job."""
        for job_id in {*trouble, *self.trouble}:
            words = trouble.get(job_id, "")
            if self.trouble.get(job_id, "") == words:
                continue
            if words:
                log(f"job {job_id}: {words}")
            if (start := self.starts.get(job_id)) is not None:
                transitions.explain_start(self.store, job_id, start.token, words)
        self.trouble = trouble

    def follow_running(self, *, ends_jobs: bool) -> bool:
        """Find the starts that nobody watches, and pass on what was asked of the others.

        `ends_jobs`: ask all of them to save and leave.
        Returns False if something could not yet be passed on.
        """
        all_told = True
        for job in self.store.jobs("executor = 'local' AND state IN ('running', 'stopping')"):
            try:
                start = self.starts.get(job.id) or self.adopt(job)
            except OSError as error:  # as soon as its disk answers
                log(f"job {job.id}: {job.run}: {error.strerror}: it is waited for")
                all_told = False
                continue
            ask = job.ask or ("end" if ends_jobs else "")
            if ask and start.asked != ask:
                start.ask(ask, self.settings.grace_s)
                all_told = all_told and start.asked == ask
        return all_told

    def adopt(self, job: Job) -> Start:
        """Watch a start that another daemon began; one that ended meanwhile is settled next."""
        run = Run(Path(job.run))
        held_by = holder(run)
        is_other = held_by is not None and held_by.token not in ("", job.token)
        if held_by is not None and is_other and held_by.token.isascii() and run.is_alive():
            # Another start: the run lock decides. It may have told its last word already.
            began: StartRecord = any_names.read(run.start_file, StartRecord) or StartRecord()
            offset = began.events_bytes if began.token == held_by.token else None
            transitions.follow(self.store, job, held_by.token, offset)
            job = self.store.job(job.id)
        start = self.starts[job.id] = Start(job)
        log(f"job {job.id}: found again")
        return start

    def kill_due(self) -> None:
        """Kill what did not end within its grace."""
        for start in self.starts.values():
            start.kill_if_due()

    def close(self) -> None:
        """Forget all starts; they live on."""
        for start in self.starts.values():
            start.close()

    def _follow_other(self, start: Start) -> None:
        """Our keeper came second: the run is another start's, which becomes the job's own."""
        if start.keeper is not None:
            return
        held_by = holder(start.run)
        if held_by is not None and held_by.token not in ("", start.token) and start.run.is_alive():
            for job in self._jobs_of(start):
                self.adopt(job)

    def _settle(self, start: Start) -> bool:
        """Write how a start ended; False where another one has the run by now: that is followed."""
        start.sweep()
        for job in self._jobs_of(start):
            if (found := whereabouts(job)) == "alive":
                return False
            if found == "ended" or job.ask in ("cancel", "stop", "pause"):
                self._write_end(start, job)
            else:  # a GPU was taken in the last moment, or the keeper was killed at once
                reason = "waits to start"
                transitions.put_back(self.store, job, reason=reason, wait_s=_RETRY_START_S)
                log(f"job {job.id}: its keeper never began; it waits again")
        start.close()
        del self.starts[start.job_id]
        return True

    def _write_end(self, start: Start, job: Job) -> None:
        outcome = outcome_of(start.run, job, was_killed=start.was_killed)
        if start.was_away and outcome.may_retry and not job.ask:
            reason = "its disk went away"
            outcome = replace(outcome, state="interrupted", reason=reason, may_retry=False)
        verdict = judge(job, outcome, self.settings, ran_s=time.monotonic() - start.since)
        transitions.settle(self.store, job, outcome, verdict)
        log(f"job {job.id}: {verdict.state} {verdict.reason}".rstrip())
        if verdict.state not in ("queued", "paused"):
            self.notices.tell(job, verdict.state, verdict.reason)

    def _jobs_of(self, start: Start) -> list[Job]:
        """Return the job whose newest start this is; none if the queue was replaced."""
        return self.store.jobs("id = ? AND token = ?", start.job_id, start.token)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))

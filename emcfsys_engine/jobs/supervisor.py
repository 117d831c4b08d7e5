"""What runs: every start is watched, asked to end, and its outcome written once."""

import select
import time
from pathlib import Path

from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.daemon_log import log
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.outcome import judge, outcome_of
from emcfsys_engine.jobs.store import Store
from emcfsys_engine.jobs.supervise import Start, whereabouts
from emcfsys_engine.launch import start as process
from emcfsys_engine.run.folder import Run
from emcfsys_engine.settings import JobSettings
from emcfsys_engine.user_commands import Notices

_RETRY_START_S = 2.0  # after a GPU was taken in the last moment


class Supervisor:
    """The starts that a daemon watches; all of them can be found again from queue and folders."""

    def __init__(self, store: Store, settings: JobSettings, notices: Notices) -> None:
        self.store = store
        self.settings = settings
        self.notices = notices
        self.starts: dict[int, Start] = {}

    def watch(self, job: Job, start: Start) -> None:
        """Watch a start that was just made."""
        self.starts[job.id] = start

    def settle_ended(self) -> bool:
        """Write the outcome of every start whose processes are gone; True if there was one."""
        found = False
        for start in list(self.starts.values()):
            if start.keeper is None:
                start.find_keeper()  # it may have been about to sign the run lock
            elif _has_ended(start.keeper):
                start.keeper_ended()
            if start.is_alive():
                self._follow_other(start)
            else:
                self._settle(start)
                found = True
        return found

    def follow_running(self, *, ends_jobs: bool) -> bool:
        """Find the starts that nobody watches, and pass on what was asked of the others.

        `ends_jobs`: ask all of them to save and leave.
        Returns False if something could not yet be passed on.
        """
        all_told = True
        for job in self.store.jobs("executor = 'local' AND state IN ('running', 'stopping')"):
            start = self.starts.get(job.id) or self.adopt(job)
            ask = job.ask or ("end" if ends_jobs else "")
            if ask and start.asked != ask:
                start.ask(ask, self.settings.grace_s)
                all_told = all_told and start.asked == ask
        return all_told

    def adopt(self, job: Job) -> Start:
        """Watch a start that another daemon began; one that ended meanwhile is settled next."""
        run = Run(Path(job.run))
        held_by = process.holder(run)
        if run.is_alive() and held_by is not None and held_by.token not in ("", job.token):
            transitions.follow(
                self.store, job, held_by.token
            )  # another start: the run lock decides
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
        held_by = process.holder(start.run)
        if held_by is not None and held_by.token not in ("", start.token) and start.run.is_alive():
            for job in self._jobs_of(start):
                self.adopt(job)

    def _settle(self, start: Start) -> None:
        start.sweep()
        for job in self._jobs_of(start):
            began = whereabouts(job) != "never began"
            if began or job.ask in ("cancel", "stop", "pause"):
                self._write_end(start, job)
            else:  # a GPU was taken in the last moment, or the keeper was killed at once
                reason = "waits to start"
                transitions.put_back(self.store, job, reason=reason, wait_s=_RETRY_START_S)
                log(f"job {job.id}: its keeper never began; it waits again")
        start.close()
        del self.starts[start.job_id]

    def _write_end(self, start: Start, job: Job) -> None:
        outcome = outcome_of(start.run, job, was_killed=start.was_killed)
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

"""What Slurm says of a job becomes our state: waiting, running, asked to end, ended, forgotten."""

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from pathlib import Path

from emcfsys_engine.errors import RunFolderError, SlurmError
from emcfsys_engine.jobs.control import log
from emcfsys_engine.jobs.job import Cluster, Job
from emcfsys_engine.jobs.slurm import client as commands
from emcfsys_engine.jobs.slurm import transitions as moves
from emcfsys_engine.jobs.slurm.client import MAY_COME_BACK, SlurmJob, is_blocked, phase_of, words_of
from emcfsys_engine.jobs.slurm.transitions import has_begun, has_word, slurm_outcome, slurm_verdict
from emcfsys_engine.jobs.store import Store
from emcfsys_engine.launch.keeper import SAVING_FILE
from emcfsys_engine.launch.processes import MOST_GRACES
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import ShardProgress
from emcfsys_engine.settings import Config
from emcfsys_engine.user_commands import Notices

_NO_ACCOUNTS_S = 3600.0  # before accounting that is switched off is asked again
_HASTEN_AGAIN_S = 15.0  # three times the rest that a requeued job is given
_MOST_VAIN = 3  # submissions in a row that Slurm forgot before they began


class Follower:
    """Takes over what Slurm says; remembers only what may be forgotten with the daemon."""

    def __init__(self, store: Store, config: Config, notices: Notices) -> None:
        self.store = store
        self.config = config
        self.notices = notices
        self._asked: dict[str, tuple[str, float]] = {}  # by token: what was passed on, until when
        self._killed: set[str] = set()  # tokens
        self._gone_since: dict[str, float] = {}  # by token: monotonic time
        self._signs: dict[str, tuple[int, ...]] = {}  # by token: sizes of events and log
        self._saving: dict[str, tuple[int, tuple[int, ...]]] = {}  # by token: graces, sizes
        self._hastened: dict[str, float] = {}  # by token: monotonic time
        self._shards: dict[str, ShardProgress] = {}  # by token
        self._no_accounts_until: dict[Cluster, float] = {}

    def leave_requests(self, jobs: Iterable[Job]) -> bool:
        """Leave what was asked in the runs' folders; True if any of it is new: look at Slurm soon.

        A signal comes with the next look: scancel tries for minutes to signal a job that waits.
        """
        found = False
        for job in jobs:
            if job.ask and self._asked.get(job.token, ("", 0.0))[0] != job.ask:
                with contextlib.suppress(OSError):  # a full disk: the queue knows what was meant
                    if job.ask in ("cancel", "stop", "pause"):
                        Run(Path(job.run)).ask(job.ask)
                self._asked[job.token] = (job.ask, float("inf"))
                found = True
        return found

    def take_over(
        self, cluster: Cluster, jobs: Sequence[Job], seen: Mapping[str, SlurmJob]
    ) -> None:
        """Bring the queue up to what one look at Slurm says.

        Raises: SlurmError if Slurm cannot be reached any more.
        """
        missing = [job for job in jobs if job.slurm_name not in seen]
        told = self._from_accounts(cluster, missing) if missing else {}
        for job in jobs:
            one = seen.get(job.slurm_name) or told.get(job.slurm_name)
            current = self._confirmed(job, one)
            try:
                is_over = one is None or phase_of(one) == "ended"
                may_wait = is_over and current.ask != "cancel"
                why = Run(Path(job.run)).why_away() if may_wait else ""
                if why:
                    moves.explain(self.store, current, why)
                elif one is None:
                    self._forgotten(current)
                elif is_over:
                    self._ended(current, one)
                else:
                    self._alive(cluster, current, one, seen.get(job.tasks_name))
            except OSError as error:  # the disk of one run is no trouble for the others
                what = f"{job.run}: {error.strerror}: it is waited for"
                moves.explain(self.store, current, what)

    def _confirmed(self, job: Job, seen: SlurmJob | None) -> Job:
        if seen is None or job.slurm_id == seen.id:
            return job
        moves.confirm(self.store, job, seen.id)
        log(f"job {job.id}: found in Slurm as {seen.id}")
        return self.store.job(job.id)

    def _alive(self, cluster: Cluster, job: Job, seen: SlurmJob, tasks: SlurmJob | None) -> None:
        self._gone_since.pop(job.token, None)
        lives = phase_of(seen) == "lives"
        if job.ask:
            if tasks is not None and phase_of(tasks) != "ended":
                commands.kill_named(cluster, job.tasks_name)  # what they have done is whole
            self._pass_on(cluster, job, seen)
            return
        lost = "" if lives else moves.lost_need(self.store, job)
        if lost or is_blocked(seen):
            commands.kill(cluster, seen.id)
            if moves.drop(self.store, job, "cancelled", lost or words_of(seen)):
                self.notices.tell(job, "cancelled", lost)
            return
        if not lives and seen.reason == "BeginTime" and _was_begun(job):
            self._hasten(cluster, job, seen)
        words, start = words_of(seen), seen.start
        if tasks is not None and not lives:
            lives = phase_of(tasks) == "lives" or job.state == "running"
            words, start = self._words_of_tasks(job, tasks), None
        moves.see(self.store, job, lives=lives, reason=words, start=start)

    def _words_of_tasks(self, job: Job, tasks: SlurmJob) -> str:
        """Return what a person needs to know of the array of a prediction in shards."""
        done = ""
        with contextlib.suppress(RunFolderError, OSError):
            known = self._shards.setdefault(job.token, ShardProgress(Run(Path(job.run))))
            done = known.text()
        if phase_of(tasks) == "waits":
            told = words_of(tasks)
        else:
            what = tasks.reason if phase_of(tasks) == "lives" else "its tasks have ended"
            told = f"Slurm {tasks.id}: {what}"
        return f"{told}, {done}" if done else told

    def _hasten(self, cluster: Cluster, job: Job, seen: SlurmJob) -> None:
        """Let a requeued job start soon; each word puts its start off, so seldom twice.

        A word may be lost: Slurm sets the two minutes anew when the nodes let the job go only after
        it, and refuses it for a moment when it is busy.
        """
        now = time.monotonic()
        if now - self._hastened.get(job.token, -inf) < _HASTEN_AGAIN_S:
            return
        self._hastened[job.token] = now
        try:
            commands.hasten(cluster, seen.id)
        except SlurmError as error:
            log(f"job {job.id}: Slurm does not let it start sooner yet: {error}")

    def _ended(self, job: Job, seen: SlurmJob) -> None:
        """Slurm says that it is over: the run's folder says how, at once or a little late."""
        run = Run(Path(job.run))
        began = has_begun(run, job) or job.started is not None
        if seen.state in MAY_COME_BACK and not job.ask and not self._is_late(job):
            return  # Slurm itself may be about to queue it again: submitting it now made two of it
        if not began and seen.state == "CANCELLED" and not job.ask:
            self._never_began(job, seen)
        elif has_word(run, job) or (not has_begun(run, job) and job.ask) or self._is_late(job):
            self._settle(job, seen)

    def _forgotten(self, job: Job) -> None:
        """Slurm knows nothing of it: that is no end yet, for the run's folder may say more."""
        run = Run(Path(job.run))
        if has_word(run, job):
            self._settle(job, None)
        elif self._gives_signs(run, job):
            reason = "Slurm has forgotten it, but it writes on"
            if has_begun(run, job):
                moves.see(self.store, job, lives=True, reason=reason, start=job.started)
        elif job.ask and not has_begun(run, job):
            self._settle(job, None)
        elif self._is_late(job):
            if has_begun(run, job):
                self._settle(job, None)
            else:
                self._resubmit(job, "Slurm does not know it")

    def _never_began(self, job: Job, seen: SlurmJob) -> None:
        """It was cancelled while it waited: because of what it needs, or by somebody."""
        if lost := moves.lost_need(self.store, job):
            moves.drop(self.store, job, "cancelled", lost)
        elif any(self.store.job(other).state != "done" for other in job.after):
            self._resubmit(job, "waits for the jobs it needs")  # one of them got a new number
        elif moves.drop(self.store, job, "cancelled", "cancelled in Slurm while it waited"):
            self.notices.tell(job, "cancelled", f"Slurm {seen.id} was cancelled")
        self._forget(job)

    def _resubmit(self, job: Job, reason: str) -> None:
        assert job.slurm is not None
        for name in (job.slurm_name, job.tasks_name):  # should it turn up all the same
            commands.kill_named(job.slurm.cluster, name)
        if job.failures >= _MOST_VAIN:
            if moves.drop(self.store, job, "failed", f"{reason}, after {_MOST_VAIN} new tries"):
                self.notices.tell(job, "failed", reason)
        else:
            failures = job.failures + (not job.after)
            wait_s = self.config.jobs.retry_wait_s
            moves.take_back(self.store, job, reason=reason, wait_s=wait_s, failures=failures)
            log(f"job {job.id}: {reason}; submitted again")
        self._forget(job)

    def _settle(self, job: Job, seen: SlurmJob | None) -> None:
        outcome = slurm_outcome(job, seen, was_killed=job.token in self._killed)
        verdict = slurm_verdict(job, outcome, seen, self.config.jobs)
        if verdict.state == "queued" and seen is not None and job.slurm is not None:
            commands.kill_named(job.slurm.cluster, job.slurm_name)  # it must not come back as well
        if moves.settle(self.store, job, outcome, verdict):
            told = seen.state if seen else "unknown"
            log(f"job {job.id}: {verdict.state} {verdict.reason} (Slurm: {told})")
            if verdict.state not in ("queued", "paused"):
                self.notices.tell(job, verdict.state, verdict.reason)
        self._forget(job)

    def _pass_on(self, cluster: Cluster, job: Job, seen: SlurmJob) -> None:
        """Ask a worker to end, by force after the grace; a job that waits has nobody to ask."""
        told, deadline = self._asked.get(job.token, ("", 0.0))
        is_over = bool(told) and time.monotonic() > deadline
        if is_over and phase_of(seen) != "waits" and self._still_saves(job):
            self._asked[job.token] = (told, time.monotonic() + self.config.jobs.grace_s)
        elif phase_of(seen) == "waits" or is_over:
            self._killed.add(job.token)
            commands.kill(cluster, seen.id)
        elif seen.state in ("RUNNING", "SUSPENDED") and deadline == float("inf"):
            commands.kill(cluster, seen.id, number="TERM")
            self._asked[job.token] = (job.ask, time.monotonic() + self.config.jobs.grace_s)
            self._saving[job.token] = (1, _sizes(Run(Path(job.run))))

    def _still_saves(self, job: Job) -> bool:
        """Tell whether a worker still saves: the grace counts only while nothing grows."""
        graces, before = self._saving.get(job.token, (MOST_GRACES, ()))
        now = _sizes(Run(Path(job.run)))
        self._saving[job.token] = (graces + 1, now)
        return (graces < MOST_GRACES or job.ask == "stop") and now != before

    def _is_late(self, job: Job) -> bool:
        """Tell whether files of another node have had their time to appear since it was gone."""
        since = self._gone_since.setdefault(job.token, time.monotonic())
        return time.monotonic() - since >= self.config.slurm.late_s

    def _gives_signs(self, run: Run, job: Job) -> bool:
        """Tell whether its worker lives: the run lock is held, or the run's files have grown.

        Locks do not cross every shared disk; a step may take longer than there is between looks.
        """
        now = _sizes(run)
        before = self._signs.get(job.token)
        self._signs[job.token] = now
        if not run.is_alive() and (before is None or now == before):
            return False
        self._gone_since.pop(job.token, None)
        return True

    def _from_accounts(self, cluster: Cluster, jobs: Sequence[Job]) -> Mapping[str, SlurmJob]:
        ids = [job.slurm_id for job in jobs if job.slurm_id.isdecimal()]
        if not ids or time.monotonic() < self._no_accounts_until.get(cluster, 0.0):
            return {}
        try:
            found = commands.remembered(cluster, ids)
        except SlurmError:  # switched off, as on many clusters: the runs' folders are enough
            self._no_accounts_until[cluster] = time.monotonic() + _NO_ACCOUNTS_S
            return {}
        return {name: one for name, one in found.items() if phase_of(one) == "ended"}

    def _forget(self, job: Job) -> None:
        for known in (self._asked, self._gone_since, self._signs, self._saving, self._hastened):
            known.pop(job.token, None)
        self._shards.pop(job.token, None)
        self._killed.discard(job.token)


def _was_begun(job: Job) -> bool:
    """Tell whether it ever ran, also between two looks: its begin time is Slurm's own then."""
    return job.starts > 0 or has_begun(Run(Path(job.run)), job)


def _sizes(run: Run) -> tuple[int, ...]:
    """Return the sizes of what grows while a run's worker lives."""
    return tuple(map(_size, (run.events_file, run.log_file, run.folder / SAVING_FILE)))


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0

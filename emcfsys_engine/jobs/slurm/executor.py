"""Jobs of Slurm: handed over, asked after with one question for all, ended; in a thread of its own.

Slurm's commands may wait for minutes for a controller that is away: no local job waits with them.
Everything is in the queue and the runs' folders: a daemon that died leaves nothing unknown.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from emcfsys_engine.errors import EmcfError, RunFolderError, SlurmError
from emcfsys_engine.files import is_away, is_full, write_whole
from emcfsys_engine.jobs.control import log
from emcfsys_engine.jobs.job import Cluster, Job
from emcfsys_engine.jobs.slurm import client as commands
from emcfsys_engine.jobs.slurm import transitions as moves
from emcfsys_engine.jobs.slurm.follow import Follower
from emcfsys_engine.jobs.slurm.script import environment_of, options_of, script_of, tasks_of
from emcfsys_engine.jobs.store import Store
from emcfsys_engine.launch.start import announce
from emcfsys_engine.run.events import end_of_events
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shards import FOLDER as SHARDS_FOLDER
from emcfsys_engine.settings import Config
from emcfsys_engine.user_commands import Notices

_IDLE_S = 60.0
_BATCH = 20  # submissions between two looks at what is asked
_RETRY_S = 5.0  # before Slurm is tried again; doubles up to:
_RETRY_LONGEST_S = 120.0


class SlurmExecutor:
    """Looks after the queue's jobs of Slurm until it is told to leave; they live on without it."""

    def __init__(
        self,
        store: Store,
        config: Config,
        notices: Notices,
        *,
        worker: Sequence[str] | None = None,
    ) -> None:
        self.store = store
        self.config = config
        self.worker = worker
        self.follower = Follower(store, config, notices)
        self._news = threading.Event()
        self._leaves = False
        self._look_at = 0.0  # monotonic time of the next question to Slurm
        self._submit_at = 0.0  # monotonic time before which a busy Slurm is left alone
        self._num_refusals = 0
        self._not_before: dict[int, float] = {}  # monotonic time, of jobs that back off
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="slurm", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def wake(self) -> None:
        """Say that the queue changed."""
        self._news.set()

    def leave(self, wait_s: float = 5.0) -> None:
        """End; a command of Slurm that is under way is not waited for: its token tells of it."""
        self._leaves = True
        self._news.set()
        self._thread.join(wait_s)

    def _work(self) -> None:
        while not self._leaves:
            self._news.clear()
            try:
                idle_s = self._round()
                self._trouble = ""
            except (EmcfError, OSError) as error:
                idle_s = _RETRY_S
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    log(f"slurm: {self._trouble}")
            self._news.wait(idle_s)

    def _round(self) -> float:
        """Do all that there is to do now; return for how long there will be nothing."""
        waiting = moves.waiting_jobs(self.store)
        later_s = self._submit(waiting) if waiting else _IDLE_S
        handed = moves.handed_over(self.store)
        if not handed:
            return later_s
        asked = self.follower.leave_requests(handed)
        now = time.monotonic()
        if asked:
            self._look_at = now
        if now >= self._look_at:
            self._look_at = now + self.config.slurm.poll_s
            self._look(moves.handed_over(self.store))
            return 0.0  # what ended may be submitted again
        return max(0.0, min(later_s, self._look_at - time.monotonic()))

    def _look(self, handed: Iterable[Job]) -> None:
        """Ask each cluster once for all jobs, and take its answers over."""
        by_cluster: dict[Cluster, list[Job]] = {}
        for job in handed:
            if job.slurm is not None:
                by_cluster.setdefault(job.slurm.cluster, []).append(job)
        for cluster, jobs in by_cluster.items():
            try:
                seen = commands.list_jobs(cluster)
            except SlurmError as error:
                for job in jobs:
                    number = f" {job.slurm_id}" if job.slurm_id.isdecimal() else ""
                    reason = f"Slurm{number} cannot be asked: {error}"
                    moves.explain(self.store, job, reason)
                self._complain(str(error))
                continue
            self.follower.take_over(cluster, jobs, seen)

    def _submit(self, waiting: Sequence[Job]) -> float:
        """Hand jobs over; return when the next can be tried, in seconds."""
        later_s = _IDLE_S
        num_tried = 0
        for job in waiting:
            wait_s = max(self._submit_at - time.monotonic(), self._backs_off(job))
            if wait_s > 0:
                later_s = min(later_s, wait_s)
                continue
            if num_tried == _BATCH:
                return 0.0
            if self._may_go(job):
                num_tried += 1
                self._hand_over(job)
        return later_s

    def _may_go(self, job: Job) -> bool:
        """Tell whether nothing of ours holds a job back; what does is told."""
        if lost := moves.lost_need(self.store, job):
            moves.drop(self.store, job, "cancelled", lost)
            return False
        if moves.needs_of(self.store, job) is None:
            moves.explain(self.store, job, "waits for the jobs it needs")
            return False
        limit = self.config.groups.get(job.group)
        if limit is not None:
            busy = self.store.jobs(
                "\"group\" = ? AND (state IN ('running', 'stopping')"
                " OR (state = 'queued' AND slurm_id != ''))",
                job.group,
            )
            if len(busy) >= limit:
                moves.explain(self.store, job, f"waits for others of group {job.group}")
                return False
        return True

    def _backs_off(self, job: Job) -> float:
        """Return for how many seconds a job still waits after a start that came to nothing."""
        if not job.wait_s:
            return 0.0
        until = self._not_before.setdefault(job.id, time.monotonic() + job.wait_s)
        left_s = until - time.monotonic()
        if left_s <= 0:
            del self._not_before[job.id]
        return max(0.0, left_s)

    def _hand_over(self, job: Job) -> None:
        """Submit one job: its token is written down first, so that no answer can be lost."""
        run = Run(Path(job.run))
        needs = moves.needs_of(self.store, job)
        if job.slurm is None or needs is None:
            return
        token = secrets.token_hex(8)
        if why := run.why_away():
            moves.explain(self.store, job, why)
            return
        offset = end_of_events(run.events_file)
        if not moves.begin(self.store, job, token=token, events_offset=offset):
            return  # cancelled in this moment
        job = self.store.job(job.id)
        assert job.slurm is not None
        try:
            announce(job.its_run(), token)
            script = script_of(job, job.slurm, worker=self.worker)
            with contextlib.suppress(OSError):  # a copy to read; the queue's own word is submitted
                write_whole(run.folder / "slurm.sh", script.encode())
            environment = environment_of(job, run.record())
            options = options_of(job, job.slurm, needs, self._tasks(job, needs, environment))
            number = commands.submit(job.slurm.cluster, options, script, environment, job.umask)
        except RunFolderError as error:
            cause = error.__context__
            if is_away(error) or (cause is not None and is_full(cause)):
                self._wait_for_disk(job, str(error))
            else:
                self._refuse(job, str(error))
        except SlurmError as error:
            self._not_taken(job, error)
        else:
            self._num_refusals = 0
            moves.confirm(self.store, job, number)
            self._look_at = min(
                self._look_at, time.monotonic() + min(3.0, self.config.slurm.poll_s)
            )
            log(f"job {job.id}: submitted to Slurm as {number}: {run.folder}")

    def _tasks(self, job: Job, needs: Sequence[str], environment: Mapping[str, str]) -> str:
        """Submit the array of a prediction in shards, and return its number; else "".

        Should the job itself not be taken then, they do no harm: who comes next finds them.
        Raises: SlurmError, RunFolderError.
        """
        assert job.slurm is not None
        tasks = tasks_of(job, job.slurm, needs)
        if tasks is None:
            return ""
        options, script = tasks
        try:
            (Path(job.run) / SHARDS_FOLDER).mkdir(exist_ok=True)  # their logs lie there
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise RunFolderError(job.run, what, "Check its disk") from None
        return commands.submit(job.slurm.cluster, options, script, environment, job.umask)

    def _wait_for_disk(self, job: Job, reason: str) -> None:
        failures = job.failures
        moves.take_back(self.store, job, reason=reason, wait_s=_RETRY_S, failures=failures)

    def _not_taken(self, job: Job, error: SlurmError) -> None:
        if not error.may_pass:
            self._refuse(job, str(error))
            return
        # It may have been taken all the same: the next look finds its name, or proves that not.
        wait_s = min(_RETRY_S * 2 ** min(self._num_refusals, 10), _RETRY_LONGEST_S)
        wait_s = min(wait_s, 4 * self.config.slurm.poll_s)
        self._num_refusals += 1
        self._submit_at = time.monotonic() + wait_s
        reason = f"Slurm does not take it yet: {error}"
        if error.unheard:
            moves.take_back(self.store, job, reason=reason, wait_s=0.0, failures=job.failures)
        else:
            moves.explain(self.store, job, reason)
        self._complain(str(error))

    def _refuse(self, job: Job, reason: str) -> None:
        if moves.drop(self.store, job, "failed", reason):
            log(f"job {job.id}: failed {reason}")
            self.follower.notices.tell(job, "failed", reason)

    def _complain(self, trouble: str) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            log(f"slurm: {trouble}")

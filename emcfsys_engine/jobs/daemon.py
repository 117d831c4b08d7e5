"""The daemon's loop: starts what fits, supervises, tells every outcome; its end ends no job.

`python -m emcfsys_engine.jobs.daemon [STATE_FOLDER]`
"""

import contextlib
import os
import secrets
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path

from emcfsys_engine import process
from emcfsys_engine.errors import DaemonError, EmcfError, RunFolderError
from emcfsys_engine.jobs import claims, notify
from emcfsys_engine.jobs.daemon_lock import DaemonLock
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.outcome import events_offset, judge, outcome_of
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.schedule import Free, Placement, place
from emcfsys_engine.jobs.supervise import Start, whereabouts
from emcfsys_engine.leases import slots_for
from emcfsys_engine.run import Run

_LOOK_S = 1.0  # a change of the queue that did not wake us is seen after that
_ORPHAN_S = 0.25  # between looks at a worker whose keeper was killed
_SCARCE_S = 2.0  # between looks at GPUs and memory that others may have freed
_TROUBLE_S = 2.0  # before trying again what a full disk or a lost mount refused
_NUM_EXPLAINED = 10


class Daemon:
    """Everything one daemon knows; all of it can be found again from the queue and the folders."""

    def __init__(self, queue: Queue, *, worker: Sequence[str] | None = None) -> None:
        self.queue = queue
        self.store = queue.store
        self.machine = queue.machine
        self.settings = queue.machine.config.jobs
        self.worker = worker
        self.starts: dict[int, Start] = {}
        self.not_before: dict[int, float] = {}  # monotonic time, of jobs that back off
        self.waits_since: dict[int, float] = {}  # monotonic time, of jobs that wait for GPUs
        self.notices = notify.Notices(queue.machine.config.notify.command)
        self.is_leaving = False
        self.ends_jobs = False
        self._seen: tuple[int, int] | None = None
        self._look_again = 0.0
        self._trouble = ""

    def run(self) -> None:
        """Work until a signal asks to leave: SIGTERM leaves the jobs running, SIGUSR1 ends them."""
        with _wakeups(self) as (pipe, signals):
            while not self._may_leave():
                self._work()
                self._wait(pipe, signals)
        for start in self.starts.values():
            start.close()
        self.notices.close()

    def look_now(self) -> None:
        """Look at the whole queue in the next round."""
        self._seen = None

    def _may_leave(self) -> bool:
        return self.is_leaving and not (self.ends_jobs and self.starts)

    def _work(self) -> None:
        """Do all that there is to do now; trouble is told and tried again, it ends nothing."""
        try:
            self._settle_ended()
            version = self.store.version()
            if version != self._seen or time.monotonic() >= self._look_again:
                self._look_again = float("inf")
                self._seen = version
                self._follow_running()
                if not self.is_leaving:
                    self._start_waiting()
                self._seen = self.store.version()
            self._trouble = ""
        except (EmcfError, OSError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log(self._trouble)
            self._seen = None
            self._again_in(_TROUBLE_S)
        for start in self.starts.values():
            start.kill_if_due()

    def _wait(self, pipe: int, signals: int) -> None:
        poll = select.poll()
        for descriptor in (pipe, signals):
            poll.register(descriptor, select.POLLIN)
        for start in self.starts.values():
            if start.keeper is not None:
                poll.register(start.keeper, select.POLLIN)
        for descriptor, _ in poll.poll(self._idle_s() * 1000):
            if descriptor in (pipe, signals):
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
        self.notices.reap()

    def _idle_s(self) -> float:
        now = time.monotonic()
        times = [now + _LOOK_S, self._look_again]
        times += [start.kill_at for start in self.starts.values() if start.kill_at is not None]
        times += [now + _ORPHAN_S for start in self.starts.values() if start.keeper is None]
        return max(0.0, min(times) - now)

    def _again_in(self, seconds: float) -> None:
        self._look_again = min(self._look_again, time.monotonic() + seconds)

    # What runs

    def _settle_ended(self) -> None:
        for start in list(self.starts.values()):
            if start.keeper is not None and _has_ended(start.keeper):
                start.keeper_ended()
            if not start.is_alive():
                self._settle(start)

    def _settle(self, start: Start) -> None:
        """Write the outcome of a start whose processes are gone."""
        start.sweep()
        jobs = self.store.jobs("id = ? AND token = ?", start.job_id, start.token)
        if jobs and whereabouts(jobs[0]) == "never began":
            self._put_back(jobs[0], start)
        elif jobs:
            job = jobs[0]
            outcome = outcome_of(start.run, job, was_killed=start.was_killed)
            ran_s = time.monotonic() - start.since
            verdict = judge(job, outcome, self.settings, ran_s=ran_s)
            claims.settle(self.store, job, outcome, verdict)
            log(f"job {job.id}: {verdict.state} {verdict.reason}".rstrip())
            if verdict.state != "queued":
                self.notices.tell(job, verdict.state, verdict.reason)
        start.close()
        del self.starts[start.job_id]
        self._seen = None  # what it held is free

    def _put_back(self, job: Job, start: Start) -> None:
        """A keeper ended before it had the run: its GPU was taken by others, or it was killed."""
        if job.ask in ("cancel", "stop", "pause"):
            outcome = outcome_of(start.run, job)
            claims.settle(self.store, job, outcome, judge(job, outcome, self.settings, ran_s=0))
            return
        claims.put_back(self.store, job, reason="waits to start", wait_s=_SCARCE_S)
        log(f"job {job.id}: its keeper never began; it waits again")

    def _follow_running(self) -> None:
        """Find starts that nobody watches, and pass on what was asked of the others."""
        for job in self.store.jobs("state IN ('running', 'stopping')"):
            start = self.starts.get(job.id) or self._adopt(job)
            if self.ends_jobs and not start.asked:
                start.ask("end", self.settings.grace_s)
            elif job.state == "stopping" and start.asked != job.ask:
                start.ask(job.ask, self.settings.grace_s)

    def _adopt(self, job: Job) -> Start:
        """Watch a start that another daemon began; what ended meanwhile is settled next."""
        run = Run(Path(job.run))
        held_by = process.holder(run)
        if run.is_alive() and held_by is not None and held_by.token not in ("", job.token):
            claims.follow(
                self.store, job, held_by.token
            )  # begun by somebody else: the lock decides
            job = self.store.job(job.id)
        start = Start(job)
        self.starts[job.id] = start
        self._again_in(0.0 if not start.is_alive() else _SCARCE_S)
        log(f"job {job.id}: found again")
        return start

    # What waits

    def _start_waiting(self) -> None:
        claims.cancel_orphans(self.store)
        running = self.store.jobs("state IN ('running', 'stopping')")
        groups = self._group_room(running)
        full = [name for name, room in groups.items() if room < 1]
        waiting = claims.waiting(self.store, full_groups=full, backing_off=self._backing_off())
        waiting = [job for job in waiting if not self._backs_off(job)]
        if not waiting:
            return
        num_explained = 0
        for decision in place(
            waiting, self._free(running, waiting, groups), holds_gpus=self._held()
        ):
            if isinstance(decision, Placement):
                self.waits_since.pop(decision.job.id, None)
                self._start(decision)
            elif num_explained < _NUM_EXPLAINED:
                num_explained += 1
                claims.explain(self.store, decision.job, decision.reason)
                if decision.job.gpus:
                    self.waits_since.setdefault(decision.job.id, time.monotonic())
                self._again_in(_SCARCE_S)

    def _start(self, placement: Placement) -> None:
        job, run = placement.job, Run(Path(placement.job.run))
        token = secrets.token_hex(8)
        if not claims.claim(
            self.store,
            job,
            token=token,
            gpu_ids=placement.gpu_ids,
            events_offset=events_offset(run),
        ):
            return  # cancelled in this moment
        job = self.store.job(job.id)
        try:
            child = process.start(
                run,
                environment=self._environment(placement),
                token=token,
                lease=self._lease(placement),
                worker=self.worker,
            )
        except RunFolderError as error:
            self._not_started(job, run, error)
        except OSError as error:  # no process or memory left: for now
            reason = f"could not be started: {error.strerror}"
            claims.put_back(self.store, job, reason=reason, wait_s=_TROUBLE_S)
        else:
            self.starts[job.id] = Start(job, child)
            log(f"job {job.id}: started {run.folder}")

    def _not_started(self, job: Job, run: Run, error: RunFolderError) -> None:
        if run.is_alive():
            self._adopt(job)
            return
        claims.fail(self.store, job, str(error))
        log(f"job {job.id}: failed {error}")
        self.notices.tell(job, "failed", str(error))

    def _environment(self, placement: Placement) -> dict[str, str]:
        if not self.machine.built_in_gpus:
            return {}
        return {"CUDA_VISIBLE_DEVICES": ",".join(placement.gpu_ids)}

    def _lease(self, placement: Placement) -> process.Lease | None:
        if not placement.gpu_ids:
            return None
        slots = slots_for(placement.job.gpus)
        return process.Lease(
            lock_folder=str(self.machine.lock_folder),
            num_slots=dict.fromkeys(placement.gpu_ids, slots),
        )

    def _free(self, running: Sequence[Job], waiting: Sequence[Job], groups: dict[str, int]) -> Free:
        slots = self.machine.num_cpu_slots
        total_gb, available_gb = self.machine.memory_gb()
        promised_gb = sum(job.memory_gb for job in running)  # jobs take their memory late
        our_slots: Counter[str] = Counter()
        for job in running:
            for gpu in job.gpu_ids:
                our_slots[gpu] += slots_for(job.gpus)
        return Free(
            cpu_slots=slots - sum(min(job.cpus, slots) for job in running),
            num_cpu_slots=slots,
            memory_gb=min(available_gb, total_gb - promised_gb),
            gpus=self.machine.gpus() if any(job.gpus for job in waiting) else [],
            our_slots=our_slots,
            groups=groups,
        )

    def _group_room(self, running: Sequence[Job]) -> dict[str, int]:
        used = Counter(job.group for job in running)
        limits = self.machine.config.groups
        return {name: limit - used[name] for name, limit in limits.items()}

    def _backing_off(self) -> list[int]:
        now = time.monotonic()
        self.not_before = {job: at for job, at in self.not_before.items() if at > now}
        for at in self.not_before.values():
            self._again_in(at - now)
        return list(self.not_before)

    def _backs_off(self, job: Job) -> bool:
        """Tell whether a crash was so short ago that the job waits; each wait is counted once.

        It is counted on our own clock: a wall clock that is set back prolongs nothing.
        """
        if not job.wait_s:
            return False
        claims.count_wait(self.store, job)
        self.not_before[job.id] = time.monotonic() + job.wait_s
        self._again_in(job.wait_s)
        return True

    def _held(self) -> frozenset[int]:
        """Return the jobs that have waited for GPUs for so long that no other may overtake them."""
        long_ago = time.monotonic() - self.settings.backfill_s
        return frozenset(job for job, since in self.waits_since.items() if since < long_ago)


def serve(queue: Queue, *, worker: Sequence[str] | None = None, ready: int | None = None) -> None:
    """Be the daemon of a queue until a signal asks to leave.

    `worker`: the command that gets each run's folder, instead of the real worker: for tests.
    `ready`: a descriptor that is written to and closed as soon as the daemon works.
    Raises: DaemonError if another one runs; QueueError if the queue is damaged.
    """
    lock = DaemonLock(queue.folder)
    if not lock.take():
        status = lock.status()
        raise DaemonError(f"a daemon is running already (process {status.pid})")
    try:
        queue.store.check_whole()
        daemon = Daemon(queue, worker=worker)
        lock.sign()
        log(f"daemon {os.getpid()} serves {queue.folder}")
        if ready is not None:
            os.write(ready, b"ready\n")
            os.close(ready)
        daemon.run()
        log("daemon leaves")
    finally:
        lock.release()


def log(line: str) -> None:
    """Write a line to the daemon's log, with the wall clock's time for people."""
    print(time.strftime("%Y-%m-%d %H:%M:%S"), line, flush=True)


@contextlib.contextmanager
def _wakeups(daemon: Daemon) -> Generator[tuple[int, int]]:
    """Listen at the queue's pipe and for signals; both end a wait."""
    wake_file = daemon.store.wake_file
    with contextlib.suppress(FileExistsError):
        os.mkfifo(wake_file, 0o600)
    pipe = os.open(wake_file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def leave(number: int, _: object) -> None:
        daemon.is_leaving = True
        daemon.ends_jobs = daemon.ends_jobs or number == signal.SIGUSR1
        daemon.look_now()

    before = signal.set_wakeup_fd(write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield pipe, read
    finally:
        signal.set_wakeup_fd(before)
        for descriptor in (pipe, read, write):
            os.close(descriptor)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def main(arguments: Sequence[str]) -> int:
    """Serve the queue of a state folder, default the user's own; return the exit code."""
    ready = [int(word[8:]) for word in arguments if word.startswith("--ready=")]
    folders = [Path(word) for word in arguments if not word.startswith("--")]
    try:
        with Queue.open(folders[0] if folders else None) as queue:
            serve(queue, ready=ready[0] if ready else None)
    except EmcfError as error:
        if ready:
            with contextlib.suppress(OSError):
                os.write(ready[0], f"{error}\n".encode())
        log(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

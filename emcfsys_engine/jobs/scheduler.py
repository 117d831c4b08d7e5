"""What waits: jobs that fit are claimed and started, the others are told what they wait for."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import is_away, is_full
from emcfsys_engine.jobs import transitions
from emcfsys_engine.jobs.control import log
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.jobs.machine import Gpu, Machine, choose, who_uses
from emcfsys_engine.jobs.store import Store
from emcfsys_engine.jobs.supervisor import Start, Supervisor
from emcfsys_engine.launch import processes, start
from emcfsys_engine.run.events import end_of_events
from emcfsys_engine.run.folder import Run


@dataclass(frozen=True, kw_only=True)
class Free:
    """What is left to share out."""

    cpu_slots: int
    num_cpu_slots: int  # in all
    memory_gb: float
    gpus: Sequence[Gpu]
    our_slots: Mapping[str, int]  # GPU slots of our running jobs
    groups: Mapping[str, int]  # how many of a group may still start; absent: any number


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A job that starts now, on these GPUs."""

    job: Job
    gpu_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Wait:
    """A job that does not fit now, and why."""

    job: Job
    reason: str


def place(
    waiting: Iterable[Job], free: Free, *, held_for: frozenset[int] = frozenset()
) -> list[Placement | Wait]:
    """Decide for each waiting job, in order, whether it starts now.

    `held_for`: jobs that have waited for so long that no later one may take what they need.
    """
    left = _Left(free)
    decisions: list[Placement | Wait] = []
    for job in waiting:
        found = left.fit(job)
        if isinstance(found, Placement):
            left.take(found)
        elif job.id in held_for:
            left.hold(job)
        decisions.append(found)
    return decisions


class _Left:
    """What is left while one job after the other gets its share."""

    def __init__(self, free: Free) -> None:
        self.free = free
        self.cpu_slots = free.cpu_slots
        self.memory_gb = free.memory_gb
        self.our_slots = dict(free.our_slots)
        self.groups = dict(free.groups)
        self.holds_gpus = False
        self.holds_cpus = False

    def fit(self, job: Job) -> Placement | Wait:
        cpus = min(job.cpus, self.free.num_cpu_slots)
        if self.groups.get(job.group, 1) < 1:
            return Wait(job=job, reason=f"waits for others of group {job.group}")
        if cpus and (cpus > self.cpu_slots or self.holds_cpus):
            return Wait(job=job, reason=f"waits for {cpus} processor slot{'s' * (cpus > 1)}")
        if job.memory_gb > self.memory_gb:
            return Wait(job=job, reason=f"waits for {job.memory_gb:g} GB of memory")
        gpu_ids: tuple[str, ...] | None = ()
        if job.gpus:
            gpu_ids = choose(self.free.gpus, job.gpus, self.our_slots)
        if gpu_ids is None or (job.gpus and self.holds_gpus):
            return Wait(job=job, reason=f"waits for {job.gpus:g} GPU{'s' * (job.gpus > 1)}")
        return Placement(job=job, gpu_ids=gpu_ids)

    def take(self, placement: Placement) -> None:
        job = placement.job
        self.cpu_slots -= min(job.cpus, self.free.num_cpu_slots)
        self.memory_gb -= job.memory_gb
        for gpu in placement.gpu_ids:
            self.our_slots[gpu] = self.our_slots.get(gpu, 0) + processes.slots_for(job.gpus)
        if job.group in self.groups:
            self.groups[job.group] -= 1

    def hold(self, job: Job) -> None:
        self.holds_gpus = self.holds_gpus or job.gpus > 0
        self.holds_cpus = self.holds_cpus or job.gpus == 0


_AWAY_S = 2.0  # between looks at a run whose disk is away
_SCARCE_S = 2.0  # between looks at GPUs and memory that others may have freed
_NUM_EXPLAINED = 10


class Dispatch:
    """Starts waiting jobs in order, as far as the machine allows."""

    def __init__(
        self,
        store: Store,
        machine: Machine,
        supervisor: Supervisor,
        *,
        look_in: Callable[[float], None],
        worker: Sequence[str] | None = None,
    ) -> None:
        self.store = store
        self.machine = machine
        self.supervisor = supervisor
        self.look_in = look_in  # asks for another look after so many seconds
        self.worker = worker
        self._not_before: dict[int, float] = {}  # monotonic time, of jobs that back off
        self._waits_since: dict[int, float] = {}  # monotonic time, of jobs that found no place

    def start_waiting(self) -> None:
        """Start every waiting job that may start and fits."""
        transitions.cancel_orphans(self.store)
        active = self.store.jobs(
            "state IN ('running', 'stopping') OR (state = 'queued' AND slurm_id != '')"
        )
        running = [job for job in active if job.executor == "local"]
        groups = self._group_room(active)
        full = [name for name, room in groups.items() if room < 1]
        found = transitions.waiting(self.store, full_groups=full, backing_off=self._backing_off())
        waiting = [job for job in found if not self._backs_off(job)]
        if not waiting:
            return
        free = self._free(running, waiting, groups)
        decisions = place(waiting, free, held_for=self._held_for())
        placed = [decision for decision in decisions if isinstance(decision, Placement)]
        for placement in placed:
            self._waits_since.pop(placement.job.id, None)
            self._start(placement)
        self._explain([decision for decision in decisions if isinstance(decision, Wait)])
        if placed and len(found) >= transitions.HORIZON:
            self.look_in(0.0)  # there may be more

    def _explain(self, waits: Sequence[Wait]) -> None:
        for wait in waits[:_NUM_EXPLAINED]:
            transitions.explain(self.store, wait.job, self._reason(wait))
            self._waits_since.setdefault(wait.job.id, time.monotonic())
        if any(wait.job.gpus or wait.job.memory_gb for wait in waits):
            self.look_in(_SCARCE_S)

    def _reason(self, wait: Wait) -> str:
        """Return what a job waits for; of GPUs, who holds them."""
        users = ""
        if "GPU" in wait.reason:
            users = who_uses(self.machine.lock_folder, self.machine.gpus())
        return f"{wait.reason}, used: {users}" if users else wait.reason

    def _start(self, placement: Placement) -> None:
        run, token = Run(Path(placement.job.run)), secrets.token_hex(8)
        if why := run.why_away():
            transitions.explain(self.store, placement.job, why)
            self._not_before[placement.job.id] = time.monotonic() + _AWAY_S
            self.look_in(_AWAY_S)
            return
        if not transitions.claim(
            self.store,
            placement.job,
            token=token,
            gpu_ids=placement.gpu_ids,
            events_offset=end_of_events(run.events_file),
        ):
            return  # cancelled in this moment
        job = self.store.job(placement.job.id)
        try:
            child = start.start(
                job.its_run(),
                environment=self._environment(placement),
                token=token,
                lease=self._lease(placement),
                umask=job.umask,
                worker=self.worker,
            )
        except RunFolderError as error:
            self._not_started(job, error)
        except OSError as error:  # no process or memory left: for now
            reason = f"could not be started: {error.strerror}"
            transitions.put_back(self.store, job, reason=reason, wait_s=_SCARCE_S)
        else:
            self.supervisor.watch(job, Start(job, child))
            log(f"job {job.id}: started {run.folder}")

    def _not_started(self, job: Job, error: RunFolderError) -> None:
        with suppress(RunFolderError):
            if job.its_run().is_alive():  # somebody runs it outside the queue: its start then
                self.supervisor.adopt(job)
                return
        cause = error.__context__
        if is_away(error) or (cause is not None and is_full(cause)):
            transitions.put_back(self.store, job, reason=str(error), wait_s=_AWAY_S)
            return
        transitions.fail(self.store, job, str(error))
        log(f"job {job.id}: failed {error}")
        self.supervisor.notices.tell(job, "failed", str(error))

    def _environment(self, placement: Placement) -> dict[str, str]:
        if not self.machine.built_in_gpus:
            return {}
        share = min(1.0, placement.job.gpus)
        return {
            "CUDA_VISIBLE_DEVICES": ",".join(placement.gpu_ids),
            processes.SHARE_VARIABLE: f"{share:g}" if placement.gpu_ids else "1",
        }

    def _lease(self, placement: Placement) -> start.Lease | None:
        if not placement.gpu_ids:
            return None
        return start.Lease(
            lock_folder=str(self.machine.lock_folder),
            num_slots=dict.fromkeys(placement.gpu_ids, processes.slots_for(placement.job.gpus)),
        )

    def _free(self, running: Sequence[Job], waiting: Sequence[Job], groups: dict[str, int]) -> Free:
        slots = self.machine.num_cpu_slots
        total_gb, available_gb = self.machine.memory_gb()
        promised_gb = sum(job.memory_gb for job in running)  # jobs take their memory late
        our_slots: Counter[str] = Counter()
        for job in running:
            for gpu in job.gpu_ids:
                our_slots[gpu] += processes.slots_for(job.gpus)
        return Free(
            cpu_slots=slots - sum(min(job.cpus, slots) for job in running),
            num_cpu_slots=slots,
            memory_gb=min(available_gb, total_gb - promised_gb),
            gpus=self.machine.gpus() if any(job.gpus for job in waiting) else [],
            our_slots=our_slots,
            groups=groups,
        )

    def _group_room(self, active: Sequence[Job]) -> dict[str, int]:
        used = Counter(job.group for job in active)
        limits = self.machine.config.groups
        return {name: limit - used[name] for name, limit in limits.items()}

    def _backing_off(self) -> list[int]:
        now = time.monotonic()
        self._not_before = {job: at for job, at in self._not_before.items() if at > now}
        for at in self._not_before.values():
            self.look_in(at - now)
        return list(self._not_before)

    def _backs_off(self, job: Job) -> bool:
        """Tell whether a crash was so short ago that the job waits; each wait is counted once.

        It is counted on our own clock: a wall clock that is set back prolongs nothing.
        """
        if not job.wait_s:
            return False
        transitions.count_wait(self.store, job)
        self._not_before[job.id] = time.monotonic() + job.wait_s
        self.look_in(job.wait_s)
        return True

    def _held_for(self) -> frozenset[int]:
        """Return the jobs that have found no place for so long that no other may overtake them."""
        long_ago = time.monotonic() - self.machine.config.jobs.backfill_s
        return frozenset(job for job, since in self._waits_since.items() if since < long_ago)

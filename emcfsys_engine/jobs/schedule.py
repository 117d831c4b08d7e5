"""Which waiting jobs start now: first fit in order, but nobody is overtaken for ever."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emcfsys_engine.jobs.gpus import Gpu, choose
from emcfsys_engine.jobs.job import Job
from emcfsys_engine.launch import processes


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

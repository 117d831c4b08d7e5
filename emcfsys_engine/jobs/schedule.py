"""Which waiting jobs start now: first fit in order, but nobody is overtaken for ever."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from emcfsys_engine import leases
from emcfsys_engine.jobs.gpus import Gpu, choose
from emcfsys_engine.jobs.job import Job


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
    waiting: Iterable[Job], free: Free, *, holds_gpus: frozenset[int] = frozenset()
) -> list[Placement | Wait]:
    """Decide for each waiting job, in order, whether it starts now.

    `holds_gpus`: jobs that have waited so long for GPUs that no later one may overtake them.
    """
    decisions: list[Placement | Wait] = []
    cpu_slots, memory_gb = free.cpu_slots, free.memory_gb
    our_slots, groups = dict(free.our_slots), dict(free.groups)
    held_back = False
    for job in waiting:
        cpus = min(job.cpus, free.num_cpu_slots)
        gpu_ids: tuple[str, ...] | None = ()
        if job.gpus:
            gpu_ids = None if held_back else choose(free.gpus, job.gpus, our_slots)
        reason = ""
        if groups.get(job.group, 1) < 1:
            reason = f"waits for others of group {job.group}"
        elif gpu_ids is None:
            reason = f"waits for {job.gpus:g} GPU"
            held_back = held_back or job.id in holds_gpus
        elif cpus > cpu_slots:
            reason = f"waits for {cpus} processor slots"
        elif job.memory_gb > memory_gb:
            reason = f"waits for {job.memory_gb:g} GB of memory"
        if reason or gpu_ids is None:
            decisions.append(Wait(job=job, reason=reason))
            continue
        decisions.append(Placement(job=job, gpu_ids=gpu_ids))
        cpu_slots -= cpus
        memory_gb -= job.memory_gb
        for gpu in gpu_ids:
            our_slots[gpu] = our_slots.get(gpu, 0) + leases.slots_for(job.gpus)
        if job.group in groups:
            groups[job.group] -= 1
    return decisions

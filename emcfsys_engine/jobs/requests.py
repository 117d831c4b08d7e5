"""What a job asks of the machine: defaults filled in, the impossible refused."""

from dataclasses import dataclass

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.job import Kind
from emcfsys_engine.jobs.machine import Machine


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request as it was made; None is for the default."""

    kind: Kind
    gpus: float | None = None
    cpus: int | None = None
    memory_gb: float | None = None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request with every number in it."""

    gpus: float
    cpus: int
    memory_gb: float


def settle_request(machine: Machine, wanted: Wanted) -> Request:
    """Fill in the defaults of a request.

    Without GPUs a training takes all processor slots; a watch, which mostly waits, takes none.
    Raises: QueueError if this machine can never fulfil it.
    """
    gpus = wanted.gpus if wanted.gpus is not None else min(1, len(machine.built_in_gpus))
    _check_gpus(machine, gpus)
    cpus = wanted.cpus
    if cpus is None:
        alone = machine.num_cpu_slots if gpus == 0 else 1
        cpus = 0 if wanted.kind == "watch" else alone
    if not 0 <= cpus <= machine.num_cpu_slots:
        what = f"{cpus} processor slots are asked for, this machine has {machine.num_cpu_slots}"
        raise QueueError("--cpus", what, f"Ask for 0 to {machine.num_cpu_slots}")
    memory_gb = wanted.memory_gb or 0.0
    total_gb = machine.memory_gb()[0]
    if not 0 <= memory_gb <= total_gb:
        what = f"{memory_gb:g} GB are asked for, this machine has {total_gb:.1f}"
        raise QueueError("--memory-gb", what, "Ask for less")
    return Request(gpus=float(gpus), cpus=cpus, memory_gb=memory_gb)


def _check_gpus(machine: Machine, gpus: float) -> None:
    if not (0 <= gpus <= 1 or (1 < gpus < 1e6 and gpus == int(gpus))):
        what = f"{gpus:g} is no number of GPUs"
        raise QueueError("--gpus", what, "Ask for whole ones, or for a fraction of one")
    if gpus == 0:
        return
    built_in = machine.built_in_gpus
    if not built_in:
        remedy = "Ask for --gpus 0, or submit where there are GPUs"
        raise QueueError("--gpus", f"{gpus:g} are asked for, this machine has none", remedy)
    most = len(built_in) if not built_in[0].is_instance else 1
    if gpus > most:
        what = f"{gpus:g} are asked for, this machine has {len(built_in)}"
        if built_in[0].is_instance:
            what += " instances, of which a run can use one"
        raise QueueError("--gpus", what, f"Ask for {most} or fewer")

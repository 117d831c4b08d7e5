"""What this machine has to share out: GPUs, processor slots, memory."""

import contextlib
import os
import pwd
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pynvml as nvml

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.job import Kind
from emcfsys_engine.launch import processes
from emcfsys_engine.settings import Config, load_config

_BUSY_SHARE = 0.2  # more memory in use than this: somebody computes, though unseen from a container


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU, or one instance of a GPU that is divided (MIG), as it is now."""

    uuid: str
    name: str = ""
    index: int = 0  # NVML's; CUDA may count otherwise
    total_gb: float = 0.0
    free_gb: float = 0.0
    process_ids: tuple[int, ...] = ()  # those that compute on it, of any user we can see
    is_instance: bool = False  # a MIG instance: a program can use one of them, not several
    num_taken: int = 0  # of leases.NUM_SLOTS, by anybody's jobs

    @property
    def is_used_by_others(self) -> bool:
        """Tell whether somebody computes on it without a lease."""
        if self.num_taken:
            return False
        return bool(self.process_ids) or self.total_gb - self.free_gb > _BUSY_SHARE * self.total_gb


class GpuSource(Protocol):
    """Where GPUs are looked up: the one seam between us and NVML."""

    def read(self) -> list[Gpu]:
        """Return the GPUs as they are now."""
        ...


class NvmlSource:
    """The NVIDIA driver's own word; a machine without it has no GPU."""

    def __init__(self) -> None:
        self._is_open = False

    def read(self) -> list[Gpu]:
        """Return the GPUs as they are now; none where the driver does not answer."""
        try:
            if not self._is_open:
                nvml.nvmlInit()
                self._is_open = True
            return [gpu for index in range(nvml.nvmlDeviceGetCount()) for gpu in _read_gpu(index)]
        except nvml.NVMLError:  # no driver, or it was replaced under us: try anew next time
            self._close()
            return []

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()


def with_leases(gpus: Sequence[Gpu], lock_folder: Path) -> list[Gpu]:
    """Return the GPUs with the count of slots that anybody holds."""
    return [
        msgspec.structs.replace(gpu, num_taken=processes.num_taken(lock_folder, gpu.uuid))
        for gpu in gpus
    ]


def gpu_inventory(source: GpuSource | None = None, lock_folder: Path | None = None) -> list[Gpu]:
    """Return this machine's GPUs with who uses them; empty where there is none."""
    return with_leases((source or NvmlSource()).read(), lock_folder or processes.lock_folder())


def choose(gpus: Sequence[Gpu], wanted: float, ours: dict[str, int]) -> tuple[str, ...] | None:
    """Return the UUIDs of the GPUs that a request gets now, or None while it must wait.

    A whole GPU is one on which nobody computes; a fraction may share one whose memory allows it,
    and goes where others share already, so that whole ones stay free.
    `ours`: slots of our own running jobs, some of which their keepers are about to lock.
    """
    slots = processes.slots_for(wanted)
    free = {g.uuid: processes.NUM_SLOTS - max(g.num_taken, ours.get(g.uuid, 0)) for g in gpus}
    if wanted >= 1:
        fitting = [g for g in gpus if free[g.uuid] >= slots and not g.is_used_by_others]
        fitting = fitting if wanted == 1 else [g for g in fitting if not g.is_instance]
        fitting.sort(key=lambda gpu: -gpu.free_gb)
        return tuple(g.uuid for g in fitting[: int(wanted)]) if len(fitting) >= wanted else None
    fitting = [g for g in gpus if free[g.uuid] >= slots and g.free_gb >= wanted * g.total_gb]
    fitting.sort(key=lambda gpu: (free[gpu.uuid], -gpu.free_gb))
    return (fitting[0].uuid,) if fitting else None


def _read_gpu(index: int) -> Iterator[Gpu]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(nvml.nvmlDeviceGetName(handle))
    instances = list(_instances(handle))
    for part in instances or [handle]:
        memory = nvml.nvmlDeviceGetMemoryInfo(part)
        yield Gpu(
            uuid=_text(nvml.nvmlDeviceGetUUID(part)),
            name=name,
            index=index,
            total_gb=round(int(memory.total) / 2**30, 3),
            free_gb=round(int(memory.free) / 2**30, 3),
            process_ids=_process_ids(part),
            is_instance=bool(instances),
        )


def _instances(handle: Any) -> Iterator[Any]:
    try:
        is_divided = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
        count = nvml.nvmlDeviceGetMaxMigDeviceCount(handle) if is_divided else 0
    except nvml.NVMLError:  # a GPU that cannot be divided
        return
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):  # places may be empty
            yield nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)


def _process_ids(handle: Any) -> tuple[int, ...]:
    try:
        return tuple(int(p.pid) for p in nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError:  # not told for instances by old drivers: memory in use tells then
        return ()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine under the user's settings; GPUs are looked up behind one seam."""

    settings: Config | None = None  # None: the user's own, read when they are needed
    source: GpuSource = field(default_factory=NvmlSource)

    @cached_property
    def config(self) -> Config:
        """The settings; a faulty file does not keep anybody from listing or cancelling jobs.

        Raises: ProjectError or ProjectFaults if config.toml is faulty.
        """
        return load_config() if self.settings is None else self.settings

    @property
    def lock_folder(self) -> Path:
        """Where the GPUs' slot files are."""
        named = self.config.jobs.lock_folder
        return Path(named) if named else processes.lock_folder()

    @property
    def num_cpu_slots(self) -> int:
        """How many processor slots there are: one a core that we may use, or as the user says."""
        return self.config.jobs.cpu_slots or len(os.sched_getaffinity(0))

    @cached_property
    def built_in_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs as they were at the first look: how many there are, not who uses them."""
        return tuple(self.source.read())

    def gpus(self) -> list[Gpu]:
        """Return the GPUs as they are now, with the leases of all users."""
        return with_leases(self.source.read(), self.lock_folder)

    def memory_gb(self) -> tuple[float, float]:
        """Return total and available memory; a control group's limit counts."""
        info = _meminfo()
        total, available = info.get("MemTotal", 0.0), info.get("MemAvailable", 0.0)
        limit = _group_limit_gb()
        return (min(total, limit), min(available, limit)) if limit else (total, available)


def _meminfo() -> Mapping[str, float]:
    info: dict[str, float] = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        info[name] = int(rest.split()[0]) / 2**20  # kB to GiB
    return info


def _group_limit_gb() -> float:
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        text = Path(f"/sys/fs/cgroup{group}/memory.max").read_text().strip()
    except OSError:
        return 0.0
    return 0.0 if text == "max" else int(text) / 2**30


class LeaseHolder(msgspec.Struct, frozen=True, kw_only=True):
    """A process that holds slots of a GPU; unnamed where the kernel hides it from us."""

    gpu: str  # UUID
    num_slots: int
    pid: int | None = None
    user: str = ""


def lease_holders(lock_folder: Path, gpu: str) -> list[LeaseHolder]:
    """Return who holds slots of a GPU; empty when it is free."""
    owners = _lock_owners()
    slots: dict[int | None, int] = {}
    for number in range(processes.NUM_SLOTS):
        file = processes.slot_file(lock_folder, gpu, number)
        if processes.is_taken(file):
            pid = owners.get(_place(file))
            slots[pid] = slots.get(pid, 0) + 1
    return [
        LeaseHolder(gpu=gpu, num_slots=count, pid=pid, user=_user(pid))
        for pid, count in slots.items()
    ]


def _lock_owners() -> dict[str, int]:
    """Return which process locked which file, by the file's place as /proc/locks writes it."""
    owners: dict[str, int] = {}
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return owners
    for line in lines:
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and int(words[4]) > 0:
            owners[words[5]] = int(words[4])
    return owners


def _place(file: Path) -> str:
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return ""
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def _user(pid: int | None) -> str:
    if pid is None:
        return ""
    try:
        uid = Path(f"/proc/{pid}").stat().st_uid
    except OSError:  # the keeper was killed, its worker holds on
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


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

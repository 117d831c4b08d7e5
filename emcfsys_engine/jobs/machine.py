"""What this machine has to share out: GPUs, processor slots, memory."""

import contextlib
import os
import pwd
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pynvml as nvml

from emcfsys_engine.errors import QueueError
from emcfsys_engine.jobs.job import WITHOUT_GPU, Kind
from emcfsys_engine.launch import processes
from emcfsys_engine.memory_limit import memory_bytes
from emcfsys_engine.settings import Config, load_config

_DRIVER = Path("/proc/driver/nvidia/version")
_NODES = Path("/dev")
_PLANNED_SHARE = 0.85  # of its share of a GPU, what a job plans to use: learn/footprint.py
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

    def fault(self) -> str:
        """Tell why GPUs that are built in cannot be used; nothing: they can, or there are none."""
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

    def fault(self) -> str:
        """Tell why the driver, whose module is loaded, does not answer; nothing: it does."""
        if not _DRIVER.exists() or not any(_NODES.glob("nvidia[0-9]*")):
            return ""  # a container sees the host's module, but no GPU's node
        try:
            if not self._is_open:
                nvml.nvmlInit()
                self._is_open = True
            nvml.nvmlDeviceGetCount()
        except nvml.NVMLError as error:
            self._close()
            return str(error)
        return ""

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
    least = _PLANNED_SHARE * wanted
    fitting = [g for g in gpus if free[g.uuid] >= slots and g.free_gb >= least * g.total_gb]
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
    _seen: list[Gpu] = field(default_factory=list, init=False, repr=False, compare=False)

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

    @property
    def built_in_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs as they were when first seen: how many there are, not who uses them.

        None is no lasting answer: a driver may be loaded after the daemon was started.
        """
        if not self._seen:
            self._seen.extend(self.source.read())
        return tuple(self._seen)

    def gpus(self) -> list[Gpu]:
        """Return the GPUs as they are now, with the leases of all users."""
        return with_leases(self.source.read(), self.lock_folder)

    def memory_gb(self) -> tuple[float, float]:
        """Return total and available memory; a control group's limit counts."""
        total, available = memory_bytes()
        return total / 2**30, available / 2**30


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


def who_uses(lock_folder: Path, gpus: Sequence[Gpu]) -> str:
    """Return who holds or uses which GPU, for people: 'GPU 0 by alice (process 12)'; or nothing."""
    told: list[str] = []
    for gpu in gpus:
        pids = [one.pid for one in lease_holders(lock_folder, gpu.uuid)] or list(gpu.process_ids)
        names = [f"{_user(pid) or 'somebody'} (process {pid or '?'})" for pid in pids]
        if names:
            told.append(f"GPU {gpu.index} by {', '.join(names)}")
        elif gpu.is_used_by_others:
            told.append(f"GPU {gpu.index} by processes that are not shown to us")
    return "; ".join(told)


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


_WATCH_SHARE = 0.25  # of a GPU; it mostly waits, and a training beside it has the rest


@dataclass(frozen=True, kw_only=True)
class WantedCompute:
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


def settle_request(machine: Machine, wanted: WantedCompute) -> Request:
    """Fill in the defaults of a request.

    Without GPUs a training takes all processor slots; a watch, which mostly waits, takes none, and
    a quarter of a GPU, which everything else leaves free where there is only one.
    Raises: QueueError if this machine can never fulfil it.
    """
    gpus = wanted.gpus if wanted.gpus is not None else usual_gpus(machine, wanted.kind)
    if gpus or (wanted.gpus is None and wanted.kind not in WITHOUT_GPU):
        _refuse_lost_gpus(machine)
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


def usual_gpus(machine: Machine, kind: Kind) -> float:
    """Return what a job gets that asks for nothing: on the only GPU room is left for a watch."""
    number = 0 if kind in WITHOUT_GPU else len(machine.built_in_gpus)
    if kind == "watch":
        return _WATCH_SHARE if number else 0
    return 1 - _WATCH_SHARE if number == 1 else min(1, number)


def _refuse_lost_gpus(machine: Machine) -> None:
    """Queue nothing for a GPU that the driver has lost: it would wait for ever, or crawl.

    Raises: QueueError
    """
    if machine.built_in_gpus or not (fault := machine.source.fault()):
        return
    remedy = (
        "Reboot, or end what uses the GPU and reload its module: sudo rmmod nvidia_uvm nvidia_drm"
        " nvidia_modeset nvidia; sudo modprobe nvidia. Or ask for --gpus 0"
    )
    raise QueueError("--gpus", f"the NVIDIA driver does not answer: {fault}", remedy)


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

"""Which GPUs there are, who uses them, and which of them a job may have."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pynvml as nvml

from emcfsys_engine.launch import processes

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

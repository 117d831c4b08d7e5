"""What this machine has to share out: GPUs, processor slots, memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from emcfsys_engine.jobs.gpus import Gpu, GpuSource, NvmlSource, with_leases
from emcfsys_engine.launch import processes
from emcfsys_engine.settings import Config, load_config


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

"""How much memory this process may have: the machine's, bounded by its control groups.

Slurm jobs and containers are limited by groups of version 1 or 2, at any level up to the root.
Standard library only.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MEMORY = Path("/proc/meminfo")


def memory_bytes(
    groups: Path = _GROUPS, own: Path = _OWN, memory: Path = _MEMORY
) -> tuple[int, int]:
    """Return the memory this process may have in all, and how much of it is available now."""
    info = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in memory.read_text().splitlines())
        if name in ("MemTotal", "MemAvailable")
    }
    total = info.get("MemTotal", 0)
    available = info.get("MemAvailable", total)
    for limit, used in _limits(groups, own):
        total = min(total, limit)
        available = min(available, max(0, limit - used))
    return total, available


def _limits(groups: Path, own: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, used) of every group that this process is in, from its own up to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, group = line.split(":", 2)
        if not kinds:
            yield from _upwards(groups, group, "memory.max", "memory.current")
            # Where both versions are mounted, the second one often stands one folder deeper.
            unified = groups / "unified"
            yield from _upwards(unified, group, "memory.max", "memory.current")
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
            yield from _upwards(groups / "memory", group, *names)


def _upwards(root: Path, group: str, limit_name: str, used_name: str) -> Iterator[tuple[int, int]]:
    # In a container the path may be the host's: what of it is not there is passed over.
    parts = [part for part in group.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        folder = root.joinpath(*parts[:depth])
        with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
            limit = int((folder / limit_name).read_text())
            yield limit, _cache_free(folder, int((folder / used_name).read_text()))


def _cache_free(folder: Path, used: int) -> int:
    """Return what is used without the files' cache, which the kernel gives back when asked."""
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name in ("inactive_file", "total_inactive_file"):
                used -= int(value)
    return max(0, used)

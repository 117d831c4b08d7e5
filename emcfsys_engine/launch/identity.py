"""Which process is meant: its id, when it started, in which boot. Standard library only.

Process ids are used again; the start time in clock ticks and the boot tell two owners of one id
apart, and neither follows the wall clock.
"""

import os
from pathlib import Path

COOKIE = "EMCFSYS_START"  # in a worker's environment: finds its descendants, whatever they became


def boot_id() -> str:
    """Return the name of this boot; empty where the kernel gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_ticks(pid: int) -> int | None:
    """Return when a process started, or None if there is none or only its zombie is left.

    Units: clock ticks since boot.
    """
    fields = _fields(pid)
    return int(fields[19]) if fields else None


def is_same(pid: int, ticks: int, boot: str) -> bool:
    """Tell whether the process that had this identity still lives."""
    return boot == boot_id() and start_ticks(pid) == ticks


def descendants(token: str, group: int = 0) -> list[int]:
    """Return the processes of one start of a run: those with its token in their environment.

    It also finds those that left the worker's group or session, and needs no living parent.
    `group`: its members as well, whatever their environment.
    """
    wanted = f"{COOKIE}={token}".encode() if token else b""
    return [
        pid
        for pid in (int(place.name) for place in Path("/proc").glob("[0-9]*"))
        if pid != os.getpid() and _belongs(pid, wanted, group)
    ]


def token_of(pid: int) -> str:
    """Return the token in a process's environment; empty if it has none, or is another user's."""
    mark = f"{COOKIE}=".encode()
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next((word[len(mark) :].decode() for word in words if word.startswith(mark)), "")


def session(leader: int) -> list[int]:
    """Return the living processes of a session, its leader last."""
    members: list[int] = []
    for place in Path("/proc").glob("[0-9]*"):
        fields = _fields(int(place.name))
        if fields and int(fields[3]) == leader:
            members.append(int(place.name))
    return sorted(members, key=leader.__eq__)


def _belongs(pid: int, wanted: bytes, group: int) -> bool:
    fields = _fields(pid)
    if not fields:
        return False
    if group and int(fields[2]) == group:
        return True
    try:
        return bool(wanted) and wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:  # gone, or of another user
        return False


def _fields(pid: int) -> list[str]:
    """Return what /proc tells of a living process, from its state on."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in ("Z", "X") else fields

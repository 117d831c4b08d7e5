"""Who holds a GPU's slots, of whichever user, by the kernel's word: what `doctor` names."""

import os
import pwd
from pathlib import Path

import msgspec

from emcfsys_engine.launch import processes


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

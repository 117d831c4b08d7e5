"""GPU leases: slot files that whoever uses a part of a GPU keeps locked. Standard library only.

A GPU has NUM_SLOTS files in a folder that all users of the machine share. A whole GPU is all of
them, a fraction is some. The lock dies with its processes, so a lease is never left behind.
"""

import fcntl
import math
import os
import re
import stat
import time
from pathlib import Path

from emcfsys_engine.files import boot_id, is_locked

COOKIE = "EMCFSYS_START"  # in a worker's environment: finds its descendants, whatever they became


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


MOST_GRACES = 10  # a worker that computes or writes gets that many before it is killed
_BUSY = 0.1  # of one processor: less is waiting
_WRITTEN_BYTES = 1 << 16


class Activity:
    """Whether a start that was asked to end still gets on: it computes, would, or writes.

    Where others take the processors, one that computes may get less than a tenth of one.
    """

    def __init__(self, token: str, group: int = 0) -> None:
        self.token = token
        self.group = group
        self._seen = self._look()

    def goes_on(self) -> bool:
        """Tell whether it did since this was asked last."""
        (then, cpu_s, written, _), self._seen = self._seen, self._look()
        now, cpu_now_s, written_now, is_ready = self._seen
        is_busy = is_ready or cpu_now_s - cpu_s > _BUSY * (now - then)
        return is_busy or written_now - written > _WRITTEN_BYTES

    def _look(self) -> tuple[float, float, int, bool]:
        ticks, written, is_ready = 0, 0, False
        for pid in descendants(self.token, self.group):
            ticks += sum(int(field) for field in _fields(pid)[11:15])
            written += _written(pid)
            is_ready = is_ready or any(_fields(pid, one)[:1] == ["R"] for one in _threads(pid))
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), written, is_ready


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _written(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def group_leaders(token: str) -> list[int]:
    """Return those of a start's processes that lead a group: its keeper and its worker."""
    return [pid for pid in descendants(token) if (fields := _fields(pid)) and int(fields[2]) == pid]


def token_of(pid: int) -> str:
    """Return the token in a process's environment; empty if it has none, or is another user's."""
    mark = f"{COOKIE}=".encode()
    try:
        words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    return next(
        (word[len(mark) :].decode("utf-8", "replace") for word in words if word.startswith(mark)),
        "",
    )


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


def _fields(pid: int, thread: str = "") -> list[str]:
    """Return what /proc tells of a living process or a thread of it, from its state on."""
    place = Path(f"/proc/{pid}/task/{thread}" if thread else f"/proc/{pid}")
    try:
        fields = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return [] if fields[0] in ("Z", "X") else fields


NUM_SLOTS = 8
# Tells a worker which share of its GPU's memory is its own; absent: all of it.
SHARE_VARIABLE = "EMCFSYS_GPU_SHARE"
_PATIENCE_S = 0.5  # a look at a slot holds it for an instant: that is no owner


def lock_folder() -> Path:
    """Return the sticky, world-writable folder of this machine that the slot files are in."""
    for place in (Path("/run/lock"), Path("/var/lock"), Path("/dev/shm")):
        try:
            mode = place.stat().st_mode
        except OSError:
            continue
        if stat.S_ISDIR(mode) and mode & stat.S_ISVTX and mode & stat.S_IWOTH:
            return place
    return Path("/tmp")


def slots_for(gpus: float) -> int:
    """Return how many slots of each of its GPUs a request takes: all of them from one GPU up."""
    return NUM_SLOTS if gpus >= 1 else math.ceil(gpus * NUM_SLOTS)


def take(folder: Path, gpu: str, num_slots: int) -> list[int] | None:
    """Lock that many slots of a GPU; None when others hold too many. Closing frees them.

    Raises: OSError if the folder cannot be used.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        held: list[int] = []
        for slot in range(NUM_SLOTS):
            descriptor = _lock(slot_file(folder, gpu, slot)) if len(held) < num_slots else None
            if descriptor is not None:
                held.append(descriptor)
        if len(held) == num_slots:
            return held
        for descriptor in held:
            os.close(descriptor)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)


def num_taken(folder: Path, gpu: str) -> int:
    """Count the slots of a GPU that somebody holds, of whichever user."""
    return sum(is_taken(slot_file(folder, gpu, slot)) for slot in range(NUM_SLOTS))


def is_taken(file: Path) -> bool:
    """Tell whether somebody holds a slot; one that may not be opened counts as held."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return is_locked(descriptor)


def slot_file(folder: Path, gpu: str, slot: int) -> Path:
    """Return the file that stands for one slot of a GPU."""
    return folder / f"emcfsys-{re.sub(r'[^A-Za-z0-9-]', '_', gpu)}.{slot}"


def _lock(file: Path) -> int | None:
    descriptor = _open(file)
    if descriptor is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours, named = os.fstat(descriptor), file.stat(follow_symlinks=False)
    except OSError:  # held by somebody, or removed under us
        os.close(descriptor)
        return None
    if not stat.S_ISREG(ours.st_mode) or (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
        os.close(descriptor)
        return None
    return descriptor


def _open(file: Path) -> int | None:
    """Open a slot file, and make it only if there is none.

    In a sticky folder the kernel refuses O_CREAT on a file of another user (protected_regular).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for _ in range(3):
        try:
            return os.open(file, flags)
        except FileNotFoundError:
            pass
        except OSError:  # a link, a folder, or a file that only its owner may open
            return None
        try:
            descriptor = os.open(file, flags | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:  # somebody was faster: open theirs
            continue
        os.fchmod(descriptor, 0o666)  # whatever the umask: other users lock it as well
        return descriptor
    return None

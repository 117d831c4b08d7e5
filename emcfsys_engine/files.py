"""Which file system holds a path, and whether it is a network's: asked of the kernel."""

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from emcfsys_engine.errors import OutputError

LEAST_FREE_BYTES = 32 << 20  # below this nothing new is begun
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DiskFullError(OSError):
    """No space is left where masks, the ledger or events are written."""

    def __init__(self, place: Path | str) -> None:
        super().__init__(
            errno.ENOSPC, "no space left: free some, and the watch goes on", str(place)
        )

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def is_full(error: BaseException) -> bool:
    """Tell whether an error only says that a disk or a quota is full."""
    return isinstance(error, OSError | OutputError) and error.errno in _FULL


def refuse_full(places: Iterable[Path]) -> None:
    """Check that every place has room for some masks more.

    Raises: DiskFullError naming the first that has not; a place that cannot be asked is not full.
    """
    for place in places:
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        # Of a small disk a quarter will do: it may be a quota of its own.
        needed = min(LEAST_FREE_BYTES, found.f_blocks * found.f_frsize // 4)
        if found.f_bavail * found.f_frsize < needed:
            raise DiskFullError(place)


# Other hosts' writes raise no events on these, and locks may not hold.
_WINDOWS_SHARES = ("cifs", "smb3", "smbfs")
_CLUSTER = ("lustre", "gpfs", "beegfs", "ceph", "fuse.glusterfs", "afs")
_NETWORK = frozenset(("nfs", "nfs4", "9p", "fuse.sshfs", *_WINDOWS_SHARES, *_CLUSTER))
_MOUNTS = Path("/proc/self/mountinfo")


def file_system_of(place: Path) -> str:
    """Return the type of the file system that holds a path: ext4, nfs4 …; "unknown" if unclear.

    A path that does not exist yet is judged by its nearest parent that does.
    Source: proc(5), mountinfo: the fifth field is the mount point, the type follows " - ".
    """
    try:
        text = _MOUNTS.read_text()
        path = _nearest_existing(place).resolve()
    except OSError:
        return "unknown"
    best, kind = -1, "unknown"
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(_unescaped(left.split()[4]))
        # Of equal mount points the last one lies on top.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), right.split()[0]
    return kind


def is_network(kind: str) -> bool:
    """Tell whether a file-system type is a network's."""
    return kind in _NETWORK


def _nearest_existing(place: Path) -> Path:
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def _unescaped(field: str) -> str:
    """Mount points write blanks and the like as \\040."""
    return field.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")

"""Which file system holds a path, and whether it is a network's: asked of the kernel."""

from pathlib import Path

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

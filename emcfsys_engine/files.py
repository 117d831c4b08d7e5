"""Files, disks and machines as the kernel knows them: full, remote, restarted."""

import errno
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from emcfsys_engine.errors import OutputError

_LONGEST_NAME = 255  # bytes, of all usual file systems
LEAST_FREE_BYTES = 32 << 20  # below this nothing new is begun
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that its name never stands for half of it: temporary, fsync, replace."""
    temporary = temporary_of(file)
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name itself must survive a power cut
    finally:
        os.close(folder)


def temporary_of(file: Path) -> Path:
    """Return the name a file has while it is written: hidden, of this process, never too long."""
    name = f".{file.name}.{os.getpid()}.tmp"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.blake2b(os.fsencode(file.name), digest_size=16).hexdigest()
        name = f".{digest}.{os.getpid()}.tmp"
    return file.with_name(name)


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


def boot_id() -> str:
    """Return the name of this boot of the machine; empty where the kernel gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# Names a person gives to micrographs: such a file that is none is worth an error, others are not.
_SUFFIXES = (
    ".tif .tiff .btf .png .jpg .jpeg .bmp .mrc .mrcs .map .rec .st .ali .dm3 .dm4 .ser .emi .emd"
    " .h5 .hdf5 .zarr .czi .elid"
)
MICROGRAPH_SUFFIXES = frozenset(_SUFFIXES.split())
PACKED_SUFFIXES = frozenset({".gz", ".bz2"})  # a packed file is a micrograph when its content is

# Other hosts' writes raise no events on these, and locks may not hold.
_NETWORK = re.compile(
    r"(fuse\.)?(nfs\d?|9p|sshfs|cifs|smb\w*|lustre|gpfs|beegfs|ceph|glusterfs|afs|orangefs|"
    r"rclone|s3fs|davfs2?|juicefs|panfs|mfs|moosefs)"
)
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
    return _NETWORK.fullmatch(kind) is not None


def _nearest_existing(place: Path) -> Path:
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def _unescaped(field: str) -> str:
    """Mount points write blanks and the like as \\040."""
    return field.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")


# Thumbnails of servers and notebooks, lost blocks, waste baskets, the halves that macOS adds.
_LEFT_ALONE = frozenset(
    name.lower()
    for name in (
        "__MACOSX", "@eaDir", "#recycle", "lost+found", ".ipynb_checkpoints", "__pycache__",
        "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini", ".DS_Store",
    )
)  # fmt: skip


def is_left_alone(name: str) -> bool:
    """Tell whether a file or folder is a system's or a tool's, by its name, and never data."""
    return name.startswith(".") or name.lower() in _LEFT_ALONE

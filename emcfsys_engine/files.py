"""Files, disks and machines as the kernel knows them: full, remote, restarted."""

import errno
import fcntl
import hashlib
import io
import itertools
import os
import re
import stat
import sys
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, NoReturn

from emcfsys_engine.errors import OutputError

_LONGEST_NAME = 255  # bytes, of all usual file systems
LEAST_FREE_BYTES = 32 << 20  # below this nothing new is begun
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# Of a disk that does not answer now, and may come back.
AWAY = frozenset(
    {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.ENODEV}
)


NO_PLAIN_FILE = "is a pipe, socket or device"
_MOST_BYTES = 64 << 20  # of a file of ours that is read in one piece
_READ_BYTES = 8 << 20
_TRIED = "probe"  # written and removed again, to see whether a place can be written


def open_own(file: Path, flags: int, mode: int = 0o666, *, is_shared: bool = False) -> int:
    """Open a file of ours to write in it: never through a link, never a device or another's file.

    It belongs to us or to the owner of its folder, and has no second name elsewhere.
    `is_shared`: several users write into its folder, and any of them may have made it.
    Raises: OSError; PermissionError, with the reason, for what is no such file.
    """
    wanted = flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(file, wanted & ~os.O_TRUNC, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_ours(file, "is a link or a pipe, and no file of ours") from None
        raise
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise _not_ours(file, "is no plain file")
        if found.st_nlink > 1:
            raise _not_ours(file, "has a second name: writing here would change another file")
        if not is_shared and found.st_uid not in (os.geteuid(), file.parent.stat().st_uid):
            raise _not_ours(file, "belongs to another user")
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
        os.set_blocking(descriptor, True)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_own(file: Path) -> tuple[bytes, os.stat_result]:
    """Return the content of a file of ours and its state, of one and the same open file.

    Raises: OSError, also for a link, a pipe and what is far too large to be ours.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):  # opened as a file, a folder would be named by its number
        os.close(descriptor)
        raise _not_ours(file, "is no plain file")
    with os.fdopen(descriptor, "rb") as stream:
        if found.st_size > _MOST_BYTES:
            raise OSError(errno.EFBIG, "is far too large to be ours", str(file))
        return stream.read(_MOST_BYTES), found


def reading_own(file: Path) -> BinaryIO:
    """Return a file of ours to read on in; a link, a pipe or a folder in its place is no file.

    Raises: FileNotFoundError where there is none; OSError.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.ENOTDIR):
            raise FileNotFoundError(errno.ENOENT, "is no file of ours", str(file)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "is no file of ours", str(file))
    return os.fdopen(descriptor, "rb")


def next_lines(stream: BinaryIO) -> bytes:
    """Return what comes next in a file of ours: many whole lines, or nothing while none is whole.

    A line that is far too long to be ours is given in pieces, without its holes: a crash may leave
    gigabytes of zeros. The stream stands behind what was returned.
    """
    start = stream.tell()
    block = stream.read(_READ_BYTES)
    cut = block.rfind(b"\n") + 1
    if not cut and len(block) == _READ_BYTES:
        block += stream.readline(_MOST_BYTES)
        cut = len(block) if block.endswith(b"\n") or len(block) > _MOST_BYTES else 0
    stream.seek(start + cut)
    if cut > _MOST_BYTES:
        try:
            stream.seek(os.lseek(stream.fileno(), stream.tell(), os.SEEK_DATA))
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole follows
                stream.seek(0, os.SEEK_END)
    return block[:cut]


def reading(file: Path) -> BinaryIO:
    """Return a file that a person named, to read: a pipe, socket or device is never waited for.

    Raises: OSError, whose words say what stands there instead of a file.
    """
    return os.fdopen(_opened_plain(file), "rb")


@contextmanager
def path_in_utf8(file: Path) -> Generator[str]:
    """Yield a file's path for a library that takes UTF-8 only: any other leads there by a number.

    Raises: OSError where such a file cannot be opened.
    """
    try:
        str(file).encode()
    except UnicodeEncodeError:
        with file.open("rb") as opened:
            yield f"/proc/self/fd/{opened.fileno()}"
    else:
        yield str(file)


def plain_bytes(file: Path) -> bytes:
    """Return the content of a file that a person named. Raises: as `reading`."""
    with reading(file) as stream:
        return stream.read()


def first_bytes(file: Path | str, most: int) -> bytes:
    """Return how a file begins that a person named. Raises: as `reading`."""
    descriptor = _opened_plain(file)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def _opened_plain(file: Path | str) -> int:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.EINVAL, NO_PLAIN_FILE, str(file)) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    raise OSError(errno.EINVAL, NO_PLAIN_FILE, str(file))


class NotOursError(PermissionError):
    """What lies in the place of a file of ours is a link, a device, or shared with another name."""


def _not_ours(file: Path, what: str) -> NotOursError:
    # Named here, too: who quotes the reason may be about another file, such as the image's mask.
    return NotOursError(errno.EPERM, f"{file} {what}: move it away", str(file))


def write_whole(
    file: Path,
    content: bytes | Iterable[bytes],
    *,
    mode: int = 0o666,
    look: Callable[[], None] = lambda: None,
) -> None:
    """Write a file so that its name never stands for half of it: temporary, fsync, replace.

    `content`: all of it, or piece by piece.
    `mode`: who may do what with it, less what the umask takes away.
    `look`: called last before the name is given; what it raises leaves the file as it is.
    """
    temporary = temporary_of(file)
    try:
        descriptor = _made(temporary, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.writelines((content,) if isinstance(content, bytes) else content)
            stream.flush()
            os.fsync(stream.fileno())
        look()
        temporary.replace(file)
    except OSError as error:
        raise named_after(error, file) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the new name itself must survive a power cut
    finally:
        os.close(folder)


def sha256_of(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, as 64 hexadecimal digits. Raises: OSError."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def named_after(error: OSError, file: Path) -> OSError:
    """Return an error of the system with the name that a person knows, not that of a moment."""
    if error.errno is None or type(error).__module__ != "builtins":
        return error  # ours name their place already
    return OSError(error.errno, error.strerror, str(file))


def begin_new(temporary: Path) -> BinaryIO:
    """Open a file that is about to be written: a new one, never what a link there leads to.

    Raises: OSError.
    """
    return open(temporary, "w+b", opener=lambda *_: _made(temporary, 0o666))


def _made(temporary: Path, mode: int) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(temporary, flags, mode)
    except FileExistsError:  # of a process of this number that was killed, or a trap
        temporary.unlink()
        return os.open(temporary, flags, mode)


def temporary_of(file: Path) -> Path:
    """Return the name a file has while it is written: hidden, of this process, never too long."""
    number = _number_of(os.getpid())
    name = f".{file.name}.{number}.tmp"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.blake2b(os.fsencode(file.name), digest_size=16).hexdigest()
        name = f".{digest}.{number}.tmp"
    return file.with_name(name)


def free_name(folder: Path, form: str) -> Path:
    """Return the first name in a folder that nothing has; `{}` in it stands for a number from 1."""
    names = (folder / form.replace("{}", str(number)) for number in itertools.count(1))
    return next(one for one in names if not os.path.lexists(one))


def uri_to_read(file: Path) -> str:
    """Return by what SQLite opens a database to look at it.

    Who may not write it leaves no log beside it: that would be theirs, and its owner, who may not
    write that, would be kept out of the database.
    """
    uri = f"{file.absolute().as_uri()}?mode=ro"
    is_open = Path(f"{file}-shm").exists()  # somebody has it open to write, or was killed
    may_write = is_open or os.access(file, os.W_OK, effective_ids=True)
    return uri if may_write else f"{uri}&immutable=1"


@cache
def _number_of(process: int) -> int:
    """Return a number of this process alone: containers that share a disk all have a process 1."""
    return process << 24 | int.from_bytes(os.urandom(3))


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


def is_away(error: BaseException) -> bool:
    """Tell whether an error, or the one that it was raised for, is of a disk that is `AWAY`."""
    errors = (error, error.__context__)
    return any(isinstance(one, OSError) and one.errno in AWAY for one in errors)


class _Log(io.TextIOWrapper):
    """What a process says, for the log: a disk that takes no line ends no work."""

    def write(self, text: str, /) -> int:
        """Say something, if it can be said."""
        with suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what was said; what the disk does not take is tried again with the next line."""
        with suppress(OSError):
            super().flush()


def exit_with(main: Callable[[list[str]], int], arguments: list[str]) -> NoReturn:
    """End this process with a program's code, whatever the disk of its log does meanwhile.

    The interpreter would try once more to write what is unsaid, and end with 120.
    """
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is not None:  # closed
            log = _Log(stream.detach(), "utf-8", "backslashreplace", line_buffering=True)
            setattr(sys, name, log)
    code = 1
    try:
        code = main(arguments)
    except OSError:
        traceback.print_exc()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.buffer.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(code)


def remedy_of(error: OSError, otherwise: str = "Check its folder and its disk") -> str:
    """Return what helps where something could not be written: room only where there is none."""
    if is_full(error):
        return "Free some space"
    if isinstance(error, NotOursError):
        return "Or put a copy of that very file in its place"
    return _REMEDIES.get(error.errno or 0, otherwise)


_REMEDIES = {
    errno.EACCES: "Check the permissions of its folder",
    errno.EPERM: "Check the permissions of its folder",
    errno.EROFS: "It can only be read: name another place",
    errno.ENOTDIR: "A file is in the way: name another place",
    errno.EEXIST: "A file is in the way: name another place",
    errno.ENAMETOOLONG: "Give it a shorter name",
    errno.EFBIG: "Raise the limit on the size of files",
}


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


def try_to_write(folder: Path) -> None:
    """Write a small file and remove it again.

    Raises: OSError where that fails.
    """
    file = folder / f".{_TRIED}.{os.getpid()}"
    try:
        write_whole(file, b"\0" * 4096)
    finally:
        file.unlink(missing_ok=True)


def identity_of(place: Path | str) -> tuple[int, int] | None:
    """Return device and inode of a folder or file; None where there is none."""
    try:
        status = os.stat(place)
    except (OSError, ValueError):  # a name that none can have, out of a damaged file
        return None
    return status.st_dev, status.st_ino


def changed_ns(place: Path) -> int:
    """Return when a file or folder was changed; 0 where there is none."""
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return 0


def is_locked(descriptor: int) -> bool:
    """Tell whether somebody else holds the lock of an open file, and close it.

    Raises: OSError where the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


_MOST_NS = 2**63 - 1


def kept_ns(time_ns: int) -> int:
    """Return a time of a file as our own files can keep it, in 64 bits.

    A clock that is far ahead writes years beyond 2262: those are alike to us.
    """
    return max(-_MOST_NS, min(_MOST_NS, time_ns))


def boot_id() -> str:
    """Return the name of this boot of the machine; empty where the kernel gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


# Other hosts' writes raise no events on these, and locks may not hold.
_NETWORK = re.compile(
    r"(fuse\.)?(nfs\d?|9p|sshfs|cifs|smb\w*|lustre|gpfs|beegfs|ceph|glusterfs|afs|orangefs|"
    r"rclone|s3fs|davfs2?|juicefs|panfs|mfs|moosefs)"
)
_MOUNTS = Path("/proc/self/mountinfo")


def file_system_of(place: Path) -> str:
    """Return the type of the file system that holds a path: ext4, nfs4 …; "unknown" if unclear.

    A path that does not exist yet is judged by its nearest parent that does.
    """
    return _mount_of(place)[1]


def mount_point_of(place: Path) -> str:
    """Return where the file system is mounted that holds a path, or would hold it; "" if unclear.

    A disk that left has another one at its mount point.
    """
    return _mount_of(place)[0]


def _mount_of(place: Path) -> tuple[str, str]:
    """Return mount point and type of the file system that holds a path.

    Source: proc(5), mountinfo: the fifth field is the mount point, the type follows " - ".
    """
    try:
        text = _MOUNTS.read_text()
        path = nearest_existing(place).resolve()
    except OSError:
        return "", "unknown"
    best, found = -1, ("", "unknown")
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        point = Path(_unescaped(left.split()[4]))
        # Of equal mount points the last one lies on top.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), (str(point), right.split()[0])
    return found


def is_network(kind: str) -> bool:
    """Tell whether a file-system type is a network's."""
    return _NETWORK.fullmatch(kind) is not None


def nearest_existing(place: Path) -> Path:
    """Return a place, or the first folder above it that is there."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def _unescaped(field: str) -> str:
    """Mount points write blanks and the like as \\040."""
    return field.encode().decode("unicode_escape").encode("latin-1").decode("utf-8", "replace")

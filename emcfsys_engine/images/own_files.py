"""Files that are ours, told by digest as images are, and given names over nobody else's."""

import ctypes
import errno
import filecmp
import hashlib
import os
import shutil
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from emcfsys_engine.files import identity_of, named_after, reading, temporary_of, write_whole
from emcfsys_engine.images.walk import is_zarr

_BLOCK = 1 << 20
_HERE, _NO_REPLACE = -100, 1  # AT_FDCWD and RENAME_NOREPLACE of renameat2(2)
_END_BYTES = 65_536
# Lengths tell how a digest was made: of size and ends, of all or blocks, of all of a large file.
_OLDER_BYTES, _DIGEST_BYTES, _WHOLE_DIGEST_BYTES = 16, 20, 24
_BLOCK_BYTES, _MOST_BLOCKS = 1 << 16, 512
_SAMPLED_ABOVE = _BLOCK_BYTES * _MOST_BLOCKS  # bytes: 32 MiB


def digest_of_output(place: Path) -> str:
    """Return a digest of a file, or of all files of a folder, and its size; "" for anything else.

    A link is none of ours, wherever it leads, nor is what somebody else put there for their eyes.
    Raises: OSError.
    """
    try:
        if place.is_symlink():
            return ""
        if place.is_dir():
            files = sorted(path for path in place.rglob("*") if path.is_file())
        elif place.is_file():
            files = [place]
        else:
            return ""
        digest, size = hashlib.blake2b(digest_size=16), 0
        for file in files:
            if file is not place:
                digest.update(os.fsencode(file.relative_to(place)) + b"\0")
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    digest.update(block)
                    size += len(block)
    except FileNotFoundError:
        return ""
    except PermissionError as error:
        if os.stat(error.filename).st_uid == os.geteuid():
            raise  # ours: its disk refuses us for a while
        return ""
    return f"{digest.hexdigest()}:{size}"


def digest_of(file: Path, size: int, is_ended: Callable[[], bool] = lambda: False) -> str:
    """Return a digest of a file's size and of all of its bytes.

    Raises: OSError, also for what is no file; InterruptedError once `is_ended`.
    """
    if size <= 2 * _END_BYTES:
        return _older_digest(file, size)
    num_bytes = _DIGEST_BYTES if size <= _SAMPLED_ABOVE else _WHOLE_DIGEST_BYTES
    digest = hashlib.blake2b(str(size).encode(), digest_size=num_bytes)
    with reading(file) as stream:
        while block := stream.read(_BLOCK):
            if is_ended():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR), str(file))
            digest.update(block)
    return digest.hexdigest()


def is_content(known: str, file: Path, digest: str) -> bool:
    """Tell whether a digest that was noted before, maybe by an older version, is that of a file.

    `digest`: what `digest_of` says of it now. Older versions read large files in part.
    Raises: OSError.
    """
    if known == digest or not known:
        return bool(known)
    size = file.stat().st_size
    if len(known) == 2 * _OLDER_BYTES and size > 2 * _END_BYTES:
        return known == _older_digest(file, size)
    sampled = len(known) == 2 * _DIGEST_BYTES and size > _SAMPLED_ABOVE
    return sampled and known == _sampled_digest(file, size)


def _sampled_digest(file: Path, size: int) -> str:
    """Return a digest of blocks that are evenly spread, the first and the last among them."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=_DIGEST_BYTES)
    last = -(-size // _BLOCK_BYTES) - 1
    with reading(file) as stream:
        for number in range(_MOST_BLOCKS):
            stream.seek(number * last // (_MOST_BLOCKS - 1) * _BLOCK_BYTES)
            digest.update(stream.read(_BLOCK_BYTES))
    return digest.hexdigest()


def _older_digest(file: Path, size: int) -> str:
    """Return a digest of size, head and tail."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=_OLDER_BYTES)
    with reading(file) as stream:
        digest.update(stream.read(_END_BYTES))
        if size > _END_BYTES:
            stream.seek(max(_END_BYTES, size - _END_BYTES))
            digest.update(stream.read(_END_BYTES))
    return digest.hexdigest()


def put(temporary: Path, place: Path, *, may_replace: bool) -> None:
    """Give a finished file, or folder, its name.

    Raises: FileExistsError where something is that may not be replaced; OSError.
    """
    if may_replace and not temporary.is_dir():
        temporary.replace(place)
        return
    if temporary.is_dir():
        _put_folder(temporary, place, may_replace=may_replace)
        return
    try:
        os.link(temporary, place, follow_symlinks=False)  # unlike a rename it replaces nothing
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        _rename_to_free(temporary, place)
    else:
        temporary.unlink()


def _rename_to_free(file: Path, place: Path) -> None:
    """Rename a file where none lies: in one step where the file system can, as FAT and SMB do.

    Raises: FileExistsError where one does; OSError.
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    number = errno.ENOSYS
    if rename is not None:
        if rename(_HERE, os.fsencode(file), _HERE, os.fsencode(place), _NO_REPLACE) == 0:
            return
        number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(number, os.strerror(number), str(place))
    if os.path.lexists(place):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
    file.replace(place)


def put_over(temporary: Path, place: Path, is_ours: Callable[[Path], bool]) -> None:
    """Give a finished file, or folder, its name, over one of ours only, whoever saves there now.

    What lies there is taken aside before it is looked at for the last time: somebody who has it
    open to write has cut it short by then, and gets it back; what they save later is not replaced.
    Raises: FileExistsError where something lies that is not ours; OSError.
    """
    aside = temporary.with_suffix(".old")
    if not _is_taken(place, aside, is_ours):
        put(temporary, place, may_replace=False)
        return
    try:
        put(temporary, place, may_replace=False)
    except BaseException:
        _put_back(aside, place)
        raise
    remove(aside)


def remove_ours(place: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Remove a file, or folder, that is ours, whoever saves there now; tell whether it is gone.

    What lies there is taken aside before it is looked at for the last time, as in `put_over`.
    Raises: OSError.
    """
    aside = temporary_of(place).with_suffix(".old")
    is_taken = _is_taken(place, aside, is_ours)
    if is_taken:
        remove(aside)
    return is_taken


def remove(place: Path) -> None:
    """Remove a file that may be there, or a folder with all that it holds, as far as it can be.

    Raises: OSError where a file cannot be removed.
    """
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        place.unlink(missing_ok=True)


def _is_taken(place: Path, aside: Path, is_ours: Callable[[Path], bool]) -> bool:
    """Take what is ours aside; what is not, or not any more, stays or comes back."""
    if not (is_ours(place) and _renamed(place, aside)):
        return False
    is_ours_still = False
    try:
        is_ours_still = is_ours(aside)
    finally:  # also at Ctrl+C: nobody knows then whose it is
        if not is_ours_still:
            _put_back(aside, place)
    return is_ours_still


def _put_back(aside: Path, place: Path) -> None:
    try:
        put(aside, place, may_replace=False)
    except FileExistsError:  # saved anew: that counts
        remove(aside)


def _renamed(file: Path, to: Path) -> bool:
    """Rename a file; False where somebody took it away at that moment."""
    try:
        file.rename(to)
    except FileNotFoundError:
        return False
    return True


def write_new(file: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file whole where there is none; one that came meanwhile is kept.

    Raises: FileExistsError for such a one; OSError.
    """
    temporary = temporary_of(file)
    try:
        write_whole(temporary, content, mode=mode)
        put(temporary, file, may_replace=False)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise named_after(error, file) from None


def _put_folder(temporary: Path, place: Path, *, may_replace: bool) -> None:
    if not os.path.lexists(place):
        temporary.rename(place)
        return
    if not may_replace:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
    old = temporary.with_suffix(".old")
    place.replace(old)
    temporary.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def is_other_file(file: Path, image: Path) -> bool:
    """Tell whether a mask may be there: a file, or a Zarr folder, that is not the image itself.

    The image may be there by a link, or as a copy.
    """
    try:
        ours, its = file.stat(), image.stat()
        if (ours.st_dev, ours.st_ino) == (its.st_dev, its.st_ino):
            return False
        if not stat.S_ISREG(ours.st_mode):
            return is_zarr(file)
        return ours.st_size != its.st_size or not filecmp.cmp(file, image, shallow=False)
    except OSError:
        return file.is_file() or is_zarr(file)


def resolved(path: Path) -> Path:
    """Return a path whose folders are free of links and dots; its own name stays."""
    return path.parent.resolve() / path.name


def lies_in(place: Path, folder: Path) -> bool:
    """Tell whether a path is a folder or lies below it, by whatever links and mounts."""
    wanted = identity_of(folder)
    return wanted is not None and any(
        identity_of(one) == wanted for one in (place, *place.resolve().parents)
    )


# Which content images have: digests of all their bytes, read again only where a file changed.
#
# What the file system says of a file (size, times of change, inode) stands beside its digest:
# while that is the same, the digest holds. A copy of the same content is read once more, and then
# known.

# A change this soon after a look may leave the times as they are: some disks count in 2 seconds.
_COARSEST_NS = 2_000_000_000


class Contents:
    """Digests of images by their files' stamps; several threads may ask."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}  # image -> stamp, digest
        self._lasting: dict[str, tuple[str, str]] = {}  # of those that may be noted
        self._new: dict[str, tuple[str, str]] = {}
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)

    def of(self, image: Path, is_ended: Callable[[], bool] = lambda: False) -> str:
        """Return the digest by which an image is known again; "" for what cannot be read.

        It is "", too, once `is_ended`.
        """
        with self._locks[str(image)]:  # the planes of a stack ask together
            try:
                return self._of(image, is_ended)
            except OSError:
                return ""

    def _of(self, image: Path, is_ended: Callable[[], bool]) -> str:
        stamp, changed_ns = stamp_of_image(image)
        known = self._known.get(str(image))
        if known is not None and known[0] == stamp:
            return known[1]
        digest = _digest_of(image, is_ended)
        if digest and stamp_of_image(image)[0] == stamp:
            self._known[str(image)] = (stamp, digest)
            if time.time_ns() - changed_ns > _COARSEST_NS:
                self._lasting[str(image)] = self._new[str(image)] = (stamp, digest)
        return digest

    def learn(self, line: Mapping[str, Any]) -> None:
        """Take a fact that was noted before. Raises: KeyError."""
        fact = (str(line["stamp"]), str(line["content"]))
        self._known[str(line["seen"])] = self._lasting[str(line["seen"])] = fact

    def take_new(self) -> list[dict[str, str]]:
        """Return what is to be noted, once."""
        new, self._new = self._new, {}
        return _lines(new)

    def lines(self) -> list[dict[str, str]]:
        """Return everything that may be noted."""
        return _lines(self._lasting)


def _lines(facts: Mapping[str, tuple[str, str]]) -> list[dict[str, str]]:
    return [
        {"seen": image, "stamp": stamp, "content": digest}
        for image, (stamp, digest) in facts.items()
    ]


def _digest_of(image: Path, is_ended: Callable[[], bool]) -> str:
    if image.is_dir():
        return digest_of_output(image.resolve()).partition(":")[0] if is_zarr(image) else ""
    return digest_of(image, image.stat().st_size, is_ended)


def stamp_of_image(image: Path) -> tuple[str, int]:
    """Return what changes with a file, or with any file of a folder, and its last change in ns."""
    status = os.stat(image)
    if not image.is_dir():
        return stamp_of_status(status), status.st_ctime_ns
    digest, changed_ns = hashlib.blake2b(digest_size=16), status.st_ctime_ns
    for file in sorted(path for path in image.rglob("*") if path.is_file()):
        status = os.stat(file)
        changed_ns = max(changed_ns, status.st_ctime_ns)
        digest.update(
            os.fsencode(file.relative_to(image)) + f"\0{stamp_of_status(status)}\0".encode()
        )
    return digest.hexdigest(), changed_ns


def stamp_of_status(status: os.stat_result) -> str:
    """Return what changes with a file, from what the file system says of it."""
    return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"

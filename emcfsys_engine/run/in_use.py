"""Files that a process has in use, as others can see: a model, while images are predicted with it.

Whoever uses one holds a shared lock of it, which any number may; it ends with the process.
"""

import fcntl
import os
import weakref
from collections.abc import Iterable
from pathlib import Path


class InUse:
    """Files that are in use for as long as this object lives.

    A disk without locks, or a file that somebody is just removing, is no reason not to use it.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        descriptors = [held for file in files if (held := _held(file)) is not None]
        self.end = weakref.finalize(self, _close, descriptors)


def is_in_use(file: Path) -> bool:
    """Tell whether a process uses a file, this one or another, on this machine or another."""
    for flags in (os.O_RDWR, os.O_RDONLY):  # on NFS only who may write can ask
        try:
            descriptor = os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(descriptor)
        return False
    return False


def _held(file: Path) -> int | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)

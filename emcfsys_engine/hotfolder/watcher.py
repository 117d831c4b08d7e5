"""Who watches into an output folder: one watcher at a time, held by locks that end with it."""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from emcfsys_engine.errors import WatchedError
from emcfsys_engine.files import identity_of, open_own

FOLDER = ".emcfsys"  # of ours, in the output folder


def watcher_of(output: Path) -> str | None:
    """Tell who watches into an output folder now, or None."""
    found = _holder(output)
    return found[0] if found else None


def watching_run(output: Path) -> Path | None:
    """Return the folder of the run that watches into an output folder now, if it is known."""
    found = _holder(output)
    return Path(found[1]) if found and found[1] else None


def _holder(output: Path) -> tuple[str, str] | None:
    for place in (output / FOLDER / "watch.lock", output):
        try:
            descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(descriptor)
        except OSError:
            continue  # no locks on this file system
        finally:
            os.close(descriptor)
    return None


def lock_folder(output: Path, record: Path) -> int:
    """Return a locked descriptor of the output folder itself. Raises: WatchedError."""
    descriptor = os.open(output, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        what = "is watched already: another process holds the folder"
        raise WatchedError(output, what, "Stop that watch, or use another output") from None
    except OSError:
        pass  # some networks do not lock folders: the file's lock has to do
    return descriptor


def close_all(descriptors: Iterable[int]) -> None:
    """Let locks go."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def is_same(descriptor: int, place: Path) -> bool:
    """Tell whether a locked file or folder still is what lies at its place."""
    status = os.fstat(descriptor)
    return (status.st_dev, status.st_ino) == identity_of(place)


def lock_file(file: Path, owner: str) -> int:
    """Return a locked descriptor of a file that says who watches. Raises: WatchedError."""
    descriptor = open_own(file, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        other, run = _owner(descriptor)
        os.close(descriptor)
        what = f"is watched already, by {other}"
        remedy = "Stop that watch, or use another output"
        raise WatchedError(file.parent.parent, what, remedy, run=run) from None
    record = {"owner": owner, "pid": os.getpid(), "host": socket.gethostname()}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(record).encode(), 0)
    return descriptor


def _owner(descriptor: int) -> tuple[str, str]:
    """Return who has a lock, in words, and its run folder; it is empty where that is unknown."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        told = f"{record['owner']} (process {record['pid']} on {record['host']})"
        return told, str(record["owner"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process", ""

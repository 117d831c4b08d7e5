"""The disk that a run's files are on: gone, back again; and its folder, which may be removed.

The run goes on meanwhile: what is to be saved is kept in memory. Under a mount point whose disk
is away nothing is written; a folder that was removed, or has another run in its place, is made
again from what is in memory.
"""

import errno
import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path

from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import (
    boot_id,
    identity_of,
    mount_point_of,
    open_own,
    read_own,
    write_whole,
)
from emcfsys_engine.launch import processes
from emcfsys_engine.run.folder import Run, next_folder

_LOOK_EVERY_S = 2.0


class RunDisk:
    """Where a run's files lie, and whether that is still so."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._place = identity_of(run.folder)
        self._mount = mount_point_of(run.folder)
        self._kept: dict[str, bytes] = {}  # small files that the run cannot be without
        self._stamps: dict[str, tuple[int, int]] = {}
        self._looked_at = 0.0
        self._told = ""
        self._lock: int | None = None  # of a folder that was made again
        self.made_again = 0  # how often
        self._keep()

    def close(self) -> None:
        """Let go of the lock of a folder that was made again."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def is_in_place(self) -> bool:
        """Tell whether the run's folder is the one that it was."""
        return self._place is not None and identity_of(self.run.folder) == self._place

    def refuse(self) -> None:
        """Check that the run's folder is the one that it was.

        Raises: OSError (ESTALE) if it is not.
        """
        if not self.is_in_place:
            what = "the run's folder is gone: is its disk mounted?"
            raise OSError(errno.ESTALE, what, str(self.run.folder))

    def look(self) -> str:
        """Look now and then what became of the folder; return what a person should hear of it.

        One that was removed is made again, where its disk is there.
        """
        if time.monotonic() < self._looked_at + _LOOK_EVERY_S:
            return ""
        self._looked_at = time.monotonic()
        before, self._told = self._told, self._news()
        return "" if self._told == before else self._told

    def _news(self) -> str:
        if not self.is_in_place and self._is_back():
            self._place = identity_of(self.run.folder)
        if self.is_in_place:
            self._keep()
            return ""
        if mount_point_of(self.run.folder) == self._mount:
            return self._made_again()
        return f"{self.run.folder} is gone, its disk with it: what is to be saved waits for it"

    def _keep(self) -> None:
        for file in (self.run.record_file, self.run.start_file, self.run.plan_file):
            try:
                status = file.stat()
                stamp = (status.st_mtime_ns, status.st_size)
                if self._stamps.get(file.name) != stamp:
                    self._kept[file.name] = read_own(file)[0]
                    self._stamps[file.name] = stamp
            except FileNotFoundError:
                if file.name in self._kept:  # the folder was removed, all but what was written then
                    with suppress(OSError):
                        write_whole(file, self._kept[file.name])
            except OSError:
                continue  # the next look says whether its disk is gone

    def _is_back(self) -> bool:
        """Tell whether the same run lies there: a disk that returns may have other numbers."""
        own = [file for file in (self.run.record_file, self.run.start_file) if self._knows(file)]
        try:
            return bool(own) and all(read_own(one)[0] == self._kept[one.name] for one in own)
        except OSError:
            return False

    def _knows(self, file: Path) -> bool:
        return file.name in self._kept

    def _made_again(self) -> str:
        """Make the folder again, beside another run that has its name by now.

        What cannot be made now is made at the next look.
        """
        before = self.run.folder
        try:
            folder = _free_folder(before)
            for name, content in self._kept.items():
                write_whole(folder / name, content)
            log_file, self.run.folder = self.run.log_file, folder
            self.close()
            self._lock = _held(self.run)
            _go_on_in(self.run.log_file, log_file)
        except (OSError, RunFolderError) as error:
            self.run.folder = before
            return f"{before} was removed, and cannot be made again: {error}"
        self._place = identity_of(folder)
        self.made_again += 1
        again = "is made again" if folder == before else f"has another run in it: see {folder}"
        return f"{before} was removed while the run was under way, and {again}"


def _free_folder(before: Path) -> Path:
    before.parent.mkdir(parents=True, exist_ok=True)
    try:
        before.mkdir()
    except FileExistsError:
        if os.listdir(before):
            return next_folder(before.parent)
    return before


def _held(run: Run) -> int:
    """Take the run's lock, as its keeper did; return the open file."""
    descriptor = open_own(run.lock_file, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    keeper, own = os.getppid(), os.getpid()
    record = {
        "pid": keeper,
        "start_ticks": processes.start_ticks(keeper) or 0,
        "boot": boot_id(),
        "token": os.environ.get(processes.COOKIE, ""),
        "worker": own,
        "worker_ticks": processes.start_ticks(own) or 0,
    }
    os.pwrite(descriptor, json.dumps(record).encode().ljust(256) + b"\n", 0)
    return descriptor


def _go_on_in(log_file: Path, before: Path) -> None:
    """Let what is printed go to the log again, where it went to the log that was removed."""
    if str(Path("/proc/self/fd/1").readlink()) != f"{before} (deleted)":
        return
    descriptor = open_own(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)

"""Who is the daemon: the one process that holds a lock in the state folder, and says who it is."""

import fcntl
import os
import time
from pathlib import Path

import msgspec

from emcfsys_engine import __version__
from emcfsys_engine.launch import identity

_PATIENCE_S = 0.5  # a look at the lock holds it for an instant: that is no daemon


class DaemonStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `daemon status` tells.

    Units: `started` is in seconds since 1970.
    """

    running: bool
    pid: int | None = None
    version: str = ""
    started: float | None = None
    folder: str = ""


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    start_ticks: int
    boot: str
    version: str
    started: float

    @property
    def lives(self) -> bool:
        return identity.is_same(self.pid, self.start_ticks, self.boot)


class DaemonLock:
    """The lock of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "daemon.lock"
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Become the daemon; False if another one is."""
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                signature = self._signature()
                if time.monotonic() > deadline or (signature and signature.lives):
                    os.close(descriptor)
                    return False
                time.sleep(0.01)
            else:
                os.ftruncate(descriptor, 0)  # the last one's name
                self._descriptor = descriptor
                return True

    def sign(self) -> None:
        """Say who the daemon is: from now on it works."""
        assert self._descriptor is not None
        signature = _Signature(
            pid=os.getpid(),
            start_ticks=identity.start_ticks(os.getpid()) or 0,
            boot=identity.boot_id(),
            version=__version__,
            started=time.time(),
        )
        os.pwrite(self._descriptor, msgspec.json.encode(signature), 0)

    def release(self) -> None:
        """Stop being the daemon."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    def status(self) -> DaemonStatus:
        """Tell whether a daemon works, and which."""
        signature = self._signature()
        if signature is None or not signature.lives or not self._is_held():
            return DaemonStatus(running=False, folder=str(self.folder))
        return DaemonStatus(
            running=True,
            pid=signature.pid,
            version=signature.version,
            started=signature.started,
            folder=str(self.folder),
        )

    def open_process(self) -> int | None:
        """Return a handle of the daemon's process that no reuse of its number can confuse."""
        signature = self._signature()
        if signature is None or not signature.lives:
            return None
        try:
            descriptor = os.pidfd_open(signature.pid)
        except ProcessLookupError:
            return None
        if not signature.lives:
            os.close(descriptor)
            return None
        return descriptor

    def _is_held(self) -> bool:
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _signature(self) -> _Signature | None:
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=_Signature)
        except (OSError, msgspec.MsgspecError):
            return None

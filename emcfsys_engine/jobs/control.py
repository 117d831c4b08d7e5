"""Start, stop and ask after the daemon, from any process of its user."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from emcfsys_engine import __version__, any_names
from emcfsys_engine.errors import DaemonError, printable
from emcfsys_engine.files import is_locked, open_own
from emcfsys_engine.jobs.state_folder import prepare, state_folder
from emcfsys_engine.launch import processes
from emcfsys_engine.launch.start import SAFE_PATH, path_of_package


def log(line: str) -> None:
    """Write a line to the daemon's standard output, which is its log when it is detached.

    A full disk behind it is no reason to end.
    """
    with contextlib.suppress(OSError):
        print(time.strftime("%Y-%m-%d %H:%M:%S"), printable(line), flush=True)


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
    host: str = ""  # where it runs, if that is not here: one home for several hosts


class _Signature(msgspec.Struct, frozen=True, kw_only=True):
    pid: int
    start_ticks: int
    boot: str
    version: str
    started: float
    host: str = ""  # empty in files of older versions

    @property
    def lives(self) -> bool:
        return processes.is_same(self.pid, self.start_ticks, self.boot)


class DaemonLock:
    """The lock of one state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "daemon.lock"
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Become the daemon; False if another one is."""
        descriptor = open_own(self.file, os.O_RDWR | os.O_CREAT, 0o600)
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
            start_ticks=processes.start_ticks(os.getpid()) or 0,
            boot=processes.boot_id(),
            version=__version__,
            started=time.time(),
            host=socket.gethostname(),
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
            host = self._elsewhere(signature)
            return DaemonStatus(running=False, folder=str(self.folder), host=host)
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

    def _elsewhere(self, signature: _Signature | None) -> str:
        """Return which other host's daemon holds the lock; empty when none does, as far as seen."""
        if signature is None or signature.host in ("", socket.gethostname()):
            return ""
        return signature.host if self._is_held() else ""

    def _is_held(self) -> bool:
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self.file, flags)
        except FileNotFoundError:
            return False
        return is_locked(descriptor)

    def _signature(self) -> _Signature | None:
        try:
            found: _Signature | None = any_names.read(self.file, _Signature)
        except OSError:
            return None
        return found


_START_S = 20.0
_LOG_BYTES = 4 << 20
DAEMON = (sys.executable, "-m", "emcfsys_engine.jobs.daemon")


def daemon_status(folder: Path | None = None) -> DaemonStatus:
    """Tell whether the user's daemon works, and which process it is."""
    return DaemonLock(folder or state_folder()).status()


def ensure_daemon(folder: Path | None = None, *, command: Sequence[str] = DAEMON) -> DaemonStatus:
    """Return the running daemon, started where there is none: detached from us and our terminal.

    `command`: gets the state folder, instead of the real daemon: for tests.
    Raises: DaemonError if it cannot be started, with its own words; QueueError for the folder.
    """
    folder = prepare(folder or state_folder())
    lock = DaemonLock(folder)
    status = lock.status()
    if status.running:
        return status
    if status.host:
        raise DaemonError(
            f"{folder}: the daemon runs on {status.host}. Use it there, or set EMCFSYS_HOME to"
            " another folder for this host."
        )
    word = _spawn(folder, command)
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:  # at once, unless another process started one with us
        status = lock.status()
        if status.running:
            return status
        if word not in ("ready", "") and "running already" not in word:
            break
        time.sleep(0.02)
    raise DaemonError(f"The daemon did not start: {word or 'no answer'}. Read {folder}/daemon.log.")


def stop_daemon(folder: Path | None = None, *, jobs: bool = False, wait_s: float = 90.0) -> bool:
    """End the daemon and wait until it is gone; its jobs go on, unless `jobs` ends them too.

    Jobs that end so save first, and can be resumed. Returns False when none ran.
    Raises: DaemonError if it does not end.
    """
    lock = DaemonLock(folder or state_folder())
    handle = lock.open_process()
    if handle is None or not lock.status().running:
        return False
    try:
        signal.pidfd_send_signal(handle, signal.SIGUSR1 if jobs else signal.SIGTERM)
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        if not poll.poll(wait_s * 1000):
            why = ": its jobs did not end. Without --jobs it leaves them at once" if jobs else ""
            raise DaemonError(
                f"The daemon did not end in {wait_s:g} s{why}. Read {lock.folder}/daemon.log."
            )
    except ProcessLookupError:  # gone in this moment
        pass
    finally:
        os.close(handle)
    return True


def restart_daemon(folder: Path | None = None, *, command: Sequence[str] = DAEMON) -> DaemonStatus:
    """End the daemon and start it anew, with the code as it is now; its jobs go on.

    Raises: DaemonError if one of the two fails.
    """
    stop_daemon(folder)
    return ensure_daemon(folder, command=command)


def _spawn(folder: Path, command: Sequence[str]) -> str:
    """Start a daemon and return its first word: ready, or why not."""
    read, write = os.pipe2(os.O_CLOEXEC)
    log_file = folder / "daemon.log"
    try:
        _keep_short(log_file)
        with log_file.open("ab") as log:
            child = subprocess.Popen(
                [*command, str(folder), f"--ready={write}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
                env=_environment(),
                pass_fds=(write,),
            )
    except OSError as error:
        raise DaemonError(f"The daemon could not be started: {error}.") from None
    finally:
        os.close(write)
    with os.fdopen(read, "rb") as pipe:
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        word = pipe.readline().decode("utf-8", "replace") if poll.poll(_START_S * 1000) else ""
    if child.poll() is None:
        child.returncode = 0  # it lives on without us: nobody waits for it
    return printable(word.strip())


def _environment() -> dict[str, str]:
    """Return our environment, in which the daemon finds the package that we are."""
    environment = {name: value for name, value in os.environ.items() if name != processes.COOKIE}
    return {**environment, **SAFE_PATH, **path_of_package(environment)}


def _keep_short(log_file: Path) -> None:
    try:
        if log_file.stat().st_size > _LOG_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
    except FileNotFoundError:
        pass

"""Start, stop and ask after the daemon, from any process of its user."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from emcfsys_engine.errors import DaemonError, printable
from emcfsys_engine.jobs.daemon_lock import DaemonLock, DaemonStatus
from emcfsys_engine.jobs.folder import prepare, state_folder
from emcfsys_engine.launch import identity

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
            raise DaemonError(
                f"The daemon did not end in {wait_s:g} s. Read {lock.folder}/daemon.log."
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
        word = pipe.readline().decode() if poll.poll(_START_S * 1000) else ""
    if child.poll() is None:
        child.returncode = 0  # it lives on without us: nobody waits for it
    return printable(word.strip())


def _environment() -> dict[str, str]:
    """Return our environment, in which the daemon finds the package that we are."""
    environment = {name: value for name, value in os.environ.items() if name != identity.COOKIE}
    place = Path(__file__).resolve().parents[2]
    if place.name not in ("site-packages", "dist-packages"):  # run from a source folder
        paths = [str(place), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return environment


def _keep_short(log_file: Path) -> None:
    try:
        if log_file.stat().st_size > _LOG_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
    except FileNotFoundError:
        pass

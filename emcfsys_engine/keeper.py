"""Parent of one worker: holds the run lock, waits, writes exit.json. Standard library only.

`python -m emcfsys_engine.keeper RUN_FOLDER [--with-parent] -- COMMAND …`

The lock's open file goes to the worker as well: it is held while either of them lives, so a run
whose keeper was killed is still seen as alive. With --with-parent the keeper's standard input is
a pipe from the command that started it: when that command dies, the worker is asked to end.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

ALREADY_RUNNING = 75  # EX_TEMPFAIL: another keeper holds the run lock
_GRACE_S = 60.0  # between the TERM of a vanished parent and the KILL


def main(arguments: Sequence[str]) -> int:
    """Keep one worker; return its exit code, or 128 + signal."""
    ours, command = _split(arguments)
    folder = Path(ours[0])
    lock = _lock_run(folder)
    if lock is None:
        return ALREADY_RUNNING
    (folder / "exit.json").unlink(missing_ok=True)
    return _Keeper(folder, lock, watches_parent="--with-parent" in ours).keep(command)


class _Keeper:
    def __init__(self, folder: Path, lock: int, *, watches_parent: bool) -> None:
        self.folder = folder
        self.lock = lock
        self.watches_parent = watches_parent
        self.worker: subprocess.Popen[bytes] | None = None
        self.early_signal: int | None = None  # came before there was a worker to pass it to

    def keep(self, command: Sequence[str]) -> int:
        started = time.time()
        kills_before = _oom_kills()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(number, self._pass_on)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            self.worker = self._start(command)
        except OSError as error:
            detail = f"the worker could not be started: {error.strerror}: {error.filename}"
            self._write_exit({"exit_code": 127, "detail": detail}, started)
            return 127
        if self.early_signal is not None:
            self.worker.send_signal(self.early_signal)
        code = self._wait()
        ended: dict[str, object] = {"exit_code": code if code >= 0 else None}
        if code < 0:
            ended["signal"] = signal.Signals(-code).name
            ended["out_of_memory"] = -code == signal.SIGKILL and _oom_kills() > kills_before
        self._write_exit(ended, started)
        return code if code >= 0 else 128 - code

    def _start(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self.lock,),
            )

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if self.worker is None:
            self.early_signal = number
        elif self.worker.poll() is None:
            self.worker.send_signal(number)

    def _wait(self) -> int:
        assert self.worker is not None
        if not self.watches_parent:
            return self.worker.wait()
        ended = os.pidfd_open(self.worker.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(0, select.POLLIN | select.POLLHUP)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            if ended in ready:
                return self.worker.wait()
            if 0 in ready and not os.read(0, 4096):
                poll.unregister(0)
                return self._end_worker()

    def _end_worker(self) -> int:
        assert self.worker is not None
        self.worker.terminate()
        try:
            return self.worker.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            self.worker.kill()
            return self.worker.wait()

    def _write_exit(self, ended: dict[str, object], started: float) -> None:
        record = {"format": 1, **ended, "started": started, "ended": time.time()}
        temporary = self.folder / ".exit.json.tmp"
        try:
            with temporary.open("w") as stream:
                json.dump(record, stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.folder / "exit.json")
        except OSError as error:
            # A full disk or a deleted folder: the events and the free lock still tell the outcome.
            print(f"keeper: exit.json could not be written: {error}", file=sys.stderr)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    mark = list(arguments).index("--")
    return list(arguments[:mark]), list(arguments[mark + 1 :])


def _lock_run(folder: Path) -> int | None:
    descriptor = os.open(folder / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(_identity()).encode(), 0)
    return descriptor


def _identity() -> dict[str, object]:
    """Who holds the lock: pid, its start time in clock ticks since boot, and the boot."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        boot, ticks = "", 0
    return {"pid": os.getpid(), "start_ticks": ticks, "boot": boot}


def _oom_kills() -> int:
    """Count the out-of-memory kills that the kernel reports for our control group."""
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        text = Path(f"/sys/fs/cgroup{group}/memory.events").read_text()
    except OSError:
        return 0
    counts = dict(line.split() for line in text.splitlines())
    return int(counts.get("oom_kill", 0))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

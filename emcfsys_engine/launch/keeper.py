"""Parent of one worker: holds run lock and GPU lease, waits, writes exit.json.

Standard library only, because every start of a worker waits for it.

`python -m emcfsys_engine.launch.keeper RUN_FOLDER [--with-parent] [--start=TOKEN]
[--lock-folder=FOLDER --lease=GPU=SLOTS …] -- COMMAND …`

The lock's open file goes to the worker as well: it is held while either of them lives, so a run
whose keeper was killed is still seen as alive; the GPU's slots likewise. The worker leads a group
of its own, to which the keeper passes signals on, and of which it leaves nothing behind.
With --start the keeper goes on only while start.json still names its token: a keeper that was
overtaken by a newer start never runs. The same token stands in the environment, and so in that of
every descendant. With --with-parent its standard input is a pipe from the command that started it:
when that command dies, the worker is asked to end. With --with-step the same holds for the process
that started it, and --patience=SECONDS waits for the run lock: a job of Slurm that starts anew
elsewhere may find its last worker still saving. Whoever asked that job to end is on another
machine: `saving` in the run's folder tells them that the worker gets on.
"""

import contextlib
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

from emcfsys_engine.files import exit_with, open_own, read_own, write_whole
from emcfsys_engine.launch import processes

ALREADY_RUNNING = 75  # EX_TEMPFAIL: another keeper has the run
NO_LEASE = 76  # somebody else was faster at the GPU; nothing was touched
START_FILE = "start.json"
RANKS_FILE = "ranks.json"
FAULT_FILE = "fault.json"  # which of several processes failed first
SAVING_FILE = "saving"  # on a node of a cluster: grows while a worker that was asked to end saves
RETRY_FILE = "retry.json"  # several processes ask to be started again, with less at a time
_NO_LOCK = 73  # EX_CANTCREAT: the run lock is no file of ours, or its disk is away
_LAUNCHER = "torch.distributed.run"
_GRACE_S = 60.0  # between the TERM of a vanished parent and the KILL
_PATIENCE_S = 0.3  # a look at the run lock holds it for an instant: that is no keeper
_BEAT_S = 1.0  # between two looks at whether it saves: far below the grace of those who wait
_LEFTOVERS_S = 2.0  # helpers of a worker that ended may clean up that long


def main(arguments: Sequence[str]) -> int:
    """Keep one worker; return its exit code, or 128 + signal."""
    ours, command = _split(arguments)
    keeper = _Keeper(Path(ours[0]), ours[1:])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, keeper.pass_on)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if not keeper.lock_run():
            return ALREADY_RUNNING
    except OSError as error:
        _tell(f"keeper: {error.filename}: {error.strerror}")
        return _NO_LOCK
    return keeper.keep(command) if keeper.take_leases() else NO_LEASE


class _Keeper:
    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.folder = folder
        self.watches_parent = "--with-parent" in options
        self.step = os.pidfd_open(os.getppid()) if "--with-step" in options else None
        self.patience_s = float("".join(_values(options, "--patience")) or _PATIENCE_S)
        self.token = "".join(_values(options, "--start"))
        self.lock_folder = Path("".join(_values(options, "--lock-folder")))
        self.leases = [lease.rpartition("=") for lease in _values(options, "--lease")]
        self.held: list[int] = []  # run lock, then GPU slots: the worker holds them as well
        self.worker: subprocess.Popen[bytes] | None = None
        self.retry_word = b""
        self.passed_on = 0  # the last signal that the worker got from us
        self.early_signal: int | None = None  # came before there was a worker to pass it to

    def lock_run(self) -> bool:
        """Take the run lock; False when another keeper has it, or a newer start is under way."""
        descriptor = _lock(self.folder / "run.lock", self.patience_s)
        if descriptor is None:
            return False
        if self.token and _start_token(self.folder) != self.token:
            os.close(descriptor)
            return False
        self.held = [descriptor]
        return True

    def take_leases(self) -> bool:
        """Lock the GPU slots; False when one is gone."""
        for gpu, _, num_slots in self.leases:
            slots = processes.take(self.lock_folder, gpu, int(num_slots))
            if slots is None:
                return False
            self.held += slots
        return True

    def keep(self, command: Sequence[str]) -> int:
        started = time.time()
        kills_before = _oom_kills()
        (self.folder / "exit.json").unlink(missing_ok=True)
        self._write_identity()
        if self.early_signal is not None:
            name, detail = signal.Signals(self.early_signal).name, "ended before its worker began"
            self._write_exit({"exit_code": None, "signal": name, "detail": detail}, started)
            return 128 + self.early_signal
        try:
            code = self._work(command)
            while self._wants_another_start(command):
                code = self._work(command)
        except OSError as error:
            detail = f"the worker could not be started: {error.strerror}: {error.filename}"
            self._write_exit({"exit_code": 127, "detail": detail}, started)
            return 127
        if _LAUNCHER in command:
            code = self._code_of_ranks(code)
        ended: dict[str, object] = {"exit_code": code if code >= 0 else None}
        if code < 0:
            ended["signal"] = _signal_name(-code)
            ended["out_of_memory"] = -code == signal.SIGKILL and _oom_kills() > kills_before
        elif code and _LAUNCHER in command and not (self.folder / RANKS_FILE).exists():
            ended["detail"] = "one of its processes ended without a word: see log.txt"
            ended["out_of_memory"] = _oom_kills() > kills_before
        self._write_exit(ended, started)
        return code if code >= 0 else 128 - code

    def _work(self, command: Sequence[str]) -> int:
        """Start the worker and wait for its end; return how it ended.

        Raises: OSError if it cannot be started.
        """
        for name in (RANKS_FILE, FAULT_FILE, SAVING_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self.retry_word = self._read_retry()
        self.worker = self._start(command)
        if self.early_signal is not None:
            self.pass_on(self.early_signal, None)
        self._write_identity()
        code = self._wait()
        self._end_leftovers()
        return code

    def _wants_another_start(self, command: Sequence[str]) -> bool:
        """Tell whether several processes ended to go on with less memory, and nobody ended them."""
        return _LAUNCHER in command and not self.passed_on and self._read_retry() != self.retry_word

    def _read_retry(self) -> bytes:
        try:
            return read_own(self.folder / RETRY_FILE)[0]
        except OSError:
            return b""

    def _code_of_ranks(self, code: int) -> int:
        """Return how several processes ended: their first one left word, if it could.

        Without a word after a signal, they ended by that signal before they could listen.
        """
        try:
            return int(json.loads(read_own(self.folder / RANKS_FILE)[0])["exit_code"]) % 256
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return -self.passed_on if self.passed_on else code

    def _start(self, command: Sequence[str]) -> "subprocess.Popen[bytes]":
        log_file = self.folder / "log.txt"
        with os.fdopen(open_own(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=self.held,
                process_group=0,
            )

    def pass_on(self, number: int, frame: FrameType | None) -> None:
        """Pass a signal on to the worker's whole group, once."""
        if self.worker is None:
            self.early_signal = number
        elif self.worker.returncode is None:  # not reaped: its group's number is still its own
            self.passed_on = number
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.worker.pid, number)

    def _wait(self) -> int:
        assert self.worker is not None
        if not self.watches_parent and self.step is None:
            return self.worker.wait()
        ended = os.pidfd_open(self.worker.pid)
        watched = 0 if self.step is None else self.step
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(watched, select.POLLIN | select.POLLHUP)
        saving: processes.Activity | None = None
        while True:
            ready = [descriptor for descriptor, _ in poll.poll(_BEAT_S * 1000)]
            if self.passed_on and self.step is not None:
                if saving is None:
                    saving = processes.Activity(self.token, self.worker.pid)
                elif saving.goes_on():
                    self._tell_saving()
            if ended in ready:
                return self.worker.wait()
            if watched in ready and (self.step is not None or not os.read(0, 4096)):
                poll.unregister(watched)
                return self._end_worker()

    def _tell_saving(self) -> None:
        with contextlib.suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(open_own(self.folder / SAVING_FILE, flags), "ab") as file:
                file.write(b".")

    def _end_worker(self) -> int:
        assert self.worker is not None
        self.pass_on(signal.SIGTERM, None)
        progress = processes.Activity(self.token, self.worker.pid)
        for _ in range(processes.MOST_GRACES):
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.worker.wait(_GRACE_S)
            if not progress.goes_on():
                break
        self.worker.kill()
        return self.worker.wait()

    def _end_leftovers(self) -> None:
        """Leave nothing of the worker behind: what outlives it gets a moment, then the KILL.

        A group's number is not given away while a process is left in it.
        """
        patience = time.monotonic() + _LEFTOVERS_S
        while left := self._leftovers():
            if time.monotonic() > patience + _LEFTOVERS_S:  # it waits for a dead disk or driver
                _tell(f"keeper: processes {left} do not end")
                return
            if time.monotonic() > patience:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _leftovers(self) -> list[int]:
        assert self.worker is not None
        return processes.descendants(self.token, self.worker.pid)

    def _write_identity(self) -> None:
        """Say in the lock file who holds it: keeper and worker, each with its start time."""
        worker = self.worker.pid if self.worker else 0
        record = {
            "pid": os.getpid(),
            "start_ticks": processes.start_ticks(os.getpid()) or 0,
            "boot": processes.boot_id(),
            "token": self.token,
            "worker": worker,
            "worker_ticks": (processes.start_ticks(worker) or 0) if worker else 0,
        }
        content = json.dumps(record).encode()
        try:
            os.pwrite(self.held[0], content.ljust(256) + b"\n", 0)
        except OSError as error:  # a full disk: the lock itself still tells that we live
            _tell(f"keeper: run.lock could not be written: {error}")

    def _write_exit(self, ended: dict[str, object], started: float) -> None:
        if self.token and _start_token(self.folder) not in ("", self.token):
            return  # the folder was removed, and is another run's by now
        record = {"format": 1, **ended, "started": started, "ended": time.time()}
        record["start"] = self.token
        try:
            write_whole(self.folder / "exit.json", json.dumps(record).encode())
        except OSError as error:
            # A full disk or a deleted folder: the events and the free lock still tell the outcome.
            _tell(f"keeper: exit.json could not be written: {error}")


def _tell(line: str) -> None:
    """Say something in the log; where that is on a full disk, nothing ends for it."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    mark = list(arguments).index("--")
    return list(arguments[:mark]), list(arguments[mark + 1 :])


def _values(options: Sequence[str], name: str) -> list[str]:
    return [option[len(name) + 1 :] for option in options if option.startswith(f"{name}=")]


def _lock(file: Path, patience_s: float) -> int | None:
    descriptor = open_own(file, os.O_RDWR | os.O_CREAT)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                return None
            time.sleep(0.01)
        else:
            return descriptor


def _start_token(folder: Path) -> str:
    try:
        return str(json.loads(read_own(folder / START_FILE)[0])["token"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal without a name
        return f"SIG{number}"


def _oom_kills() -> int:
    """Count out-of-memory kills, in our control group or, if it has no count, on the machine."""
    try:
        group = Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip()
        text = Path(f"/sys/fs/cgroup{group}/memory.events").read_text()
    except OSError:
        try:
            text = Path("/proc/vmstat").read_text()
        except OSError:
            return 0
    counts = dict(line.split() for line in text.splitlines())
    return int(counts.get("oom_kill", 0))


if __name__ == "__main__":
    exit_with(main, sys.argv[1:])

"""The daemon's loop: starts what fits, supervises, tells every outcome; its end ends no job.

`python -m emcfsys_engine.jobs.daemon [STATE_FOLDER]`
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from emcfsys_engine.errors import DaemonError, EmcfError
from emcfsys_engine.jobs.control import DaemonLock, log
from emcfsys_engine.jobs.queue import Queue
from emcfsys_engine.jobs.scheduler import Dispatch
from emcfsys_engine.jobs.slurm.executor import SlurmExecutor
from emcfsys_engine.jobs.store import Store
from emcfsys_engine.jobs.supervisor import Supervisor
from emcfsys_engine.user_commands import Notices

_LOOK_S = 1.0  # a change of the queue that did not wake us is seen after that
_ORPHAN_S = 0.25  # between looks at a worker whose keeper was killed
_REST = 4.0  # times the length of a look, before the next one
_PATIENCE_S = 2.0  # for another process's hold on the queue: a look comes again, a kill is due
_TROUBLE_S = 2.0  # before trying again what a full disk or a lost mount refused


class Daemon:
    """One round after the other: settle what ended, pass on what was asked, start what fits."""

    def __init__(self, queue: Queue, *, worker: Sequence[str] | None = None) -> None:
        machine = queue.machine
        self.store = queue.store
        self.notices = Notices(machine.config.notify.command)
        self.supervisor = Supervisor(self.store, machine.config.jobs, self.notices)
        self.dispatch = Dispatch(
            self.store, machine, self.supervisor, look_in=self._look_in, worker=worker
        )
        own_store = Store(queue.folder)  # so that each of the two sees what the other writes
        self.slurm = SlurmExecutor(own_store, machine.config, self.notices, worker=worker)
        self.is_leaving = False
        self.ends_jobs = False
        self._seen: tuple[int, int] | None = None  # the queue as of the last look
        self._look_at = 0.0  # monotonic time
        self._rests_until = 0.0  # monotonic time
        self._trouble = ""

    def run(self, begun: Callable[[], None]) -> None:
        """Work until a signal asks to leave: SIGTERM leaves the jobs running, SIGUSR1 ends them.

        `begun` is called when signals are heeded and submissions are heard of.
        """
        with _wakeups(self) as (pipe, signals):
            begun()
            self.slurm.start()
            while not (self.is_leaving and not (self.ends_jobs and self.supervisor.starts)):
                self._work()
                self._wait(pipe, signals)
        self.slurm.leave()
        self.supervisor.close()
        self.notices.close()

    def leave(self, *, ends_jobs: bool) -> None:
        """Ask the loop to end after this round; `ends_jobs`: when all have saved and ended."""
        self.is_leaving = True
        self.ends_jobs = ends_jobs  # the last word counts: a job that never ends holds nobody
        self._seen = None

    def _work(self) -> None:
        """Do all that there is to do now; trouble is told and tried again, it ends nothing."""
        try:
            if self.supervisor.settle_ended():
                self._seen = None  # what they held is free
            if self.supervisor.trouble:
                self._look_in(_TROUBLE_S)
            if self.store.version() != self._seen:
                self._look_in(max(0.0, self._rests_until - time.monotonic()))
            if time.monotonic() >= self._look_at:
                self._look()
            self._trouble = ""
        except (EmcfError, OSError) as error:
            if str(error) != self._trouble:
                self._trouble = str(error)
                log(self._trouble)
            self._look_in(_TROUBLE_S)
        self.supervisor.kill_due()

    def _look(self) -> None:
        """Look at the whole queue, then rest in proportion: many submissions share one look."""
        began = time.monotonic()
        self._look_at = float("inf")
        self._seen = self.store.version()
        self.slurm.wake()
        if not self.supervisor.follow_running(ends_jobs=self.ends_jobs):
            self._look_in(_ORPHAN_S)
        if not self.is_leaving:
            self.dispatch.start_waiting()
        ended = time.monotonic()
        self._rests_until = ended + _REST * (ended - began)

    def _wait(self, pipe: int, signals: int) -> None:
        poll = select.poll()
        for descriptor in (pipe, signals):
            poll.register(descriptor, select.POLLIN)
        for start in self.supervisor.starts.values():
            if start.keeper is not None:
                poll.register(start.keeper, select.POLLIN)
        for descriptor, _ in poll.poll(self._idle_s() * 1000):
            if descriptor in (pipe, signals):
                with contextlib.suppress(BlockingIOError):
                    os.read(descriptor, 4096)
        self.notices.reap()

    def _idle_s(self) -> float:
        if self._trouble or self.supervisor.trouble:
            return _TROUBLE_S  # ended keepers stay ready to be seen: no round after the other
        now = time.monotonic()
        starts = self.supervisor.starts.values()
        times = [now + _LOOK_S, self._look_at]
        times += [start.kill_at for start in starts if start.kill_at is not None]
        times += [now + _ORPHAN_S for start in starts if start.keeper is None]
        return max(0.0, min(times) - now)

    def _look_in(self, seconds: float) -> None:
        self._look_at = min(self._look_at, time.monotonic() + seconds)


def serve(queue: Queue, *, worker: Sequence[str] | None = None, ready: int | None = None) -> None:
    """Be the daemon of a queue until a signal asks to leave.

    `worker`: the command that gets each run's folder, instead of the real worker: for tests.
    `ready`: a descriptor that is written to and closed as soon as the daemon works.
    Raises: DaemonError if another one runs; QueueError if the queue is damaged.
    """
    lock = DaemonLock(queue.folder)
    if not lock.take():
        status = lock.status()
        where = f"on {status.host}" if status.host else f"process {status.pid}"
        raise DaemonError(f"a daemon is running already ({where})")
    try:
        queue.store.check_whole()
        queue.store.set_patience(_PATIENCE_S)
        for number in queue.store.damaged():
            log(f"job {number}: its row in {queue.store.file} cannot be read: it is left alone")
        daemon = Daemon(queue, worker=worker)

        def begun() -> None:
            lock.sign()
            log(f"daemon {os.getpid()} serves {queue.folder}")
            _say(ready, "ready")

        daemon.run(begun)
        log("daemon leaves")
    finally:
        lock.release()


def main(arguments: Sequence[str]) -> int:
    """Serve the queue of a state folder, default the user's own; return the exit code."""
    ready = [int(word[8:]) for word in arguments if word.startswith("--ready=")]
    folders = [Path(word) for word in arguments if not word.startswith("--")]
    try:
        with Queue.open(folders[0] if folders else None) as queue:
            serve(queue, ready=ready[0] if ready else None)
    except EmcfError as error:
        _say(ready[0] if ready else None, str(error))
        log(str(error))
        return error.exit_code
    return 0


def _say(ready: int | None, word: str) -> None:
    """Answer the process that started us, if there is one and it still listens."""
    if ready is not None:
        with contextlib.suppress(BrokenPipeError):
            os.write(ready, f"{word}\n".encode())
        os.close(ready)


@contextlib.contextmanager
def _wakeups(daemon: Daemon) -> Generator[tuple[int, int]]:
    """Listen at the queue's pipe and for signals; both end a wait."""
    wake_file = daemon.store.wake_file
    if not wake_file.is_fifo():
        wake_file.unlink(missing_ok=True)
        os.mkfifo(wake_file, 0o600)
    pipe = os.open(wake_file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(write)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda got, _: daemon.leave(ends_jobs=got == signal.SIGUSR1))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield pipe, read
    finally:
        signal.set_wakeup_fd(before)
        for descriptor in (pipe, read, write):
            os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

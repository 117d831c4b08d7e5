"""One run under way: what its worker may say, and whether it should end."""

import ctypes
import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.files import is_full
from emcfsys_engine.launch.start import Place
from emcfsys_engine.learn.run_disk import RunDisk
from emcfsys_engine.run.events import (
    Event,
    EventWriter,
    RunFailed,
    RunFinished,
    RunRefused,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.groups import begin_extension, undo_extension
from emcfsys_engine.run.records import TrainRequest

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BYTES = 1 << 30
_MOST_KEPT_BYTES = (1 << 31) - 1  # mallopt takes an int
_EVENTS_AT_ONCE = 10_000


def keep_freed_memory() -> None:
    """Let this process keep what it frees; where the C library is not glibc, nothing changes."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _MOST_KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Give what was kept back to the kernel: other programs may need it while this one waits."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


class RunContext:
    """One run under way: what it may say, and whether it should end."""

    def __init__(self, run: Run, events: EventWriter | None, place: Place) -> None:
        self.run = run
        self.place = place
        self.disk = RunDisk(run)
        self.record = run.record()
        self._events = events
        self._unsaid: list[Event] = []
        self._terminated = False
        self._asked = "terminated"
        self._was_done = isinstance(run.ending(), RunFinished | RunRefused)
        self._has_begun = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):  # USR2: Slurm's warning
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def emit(self, event: Event) -> None:
        """Append an event; endings and checkpoints wait until they are on the disk."""
        self._emit_all([event])

    def _emit_all(self, events: Sequence[Event]) -> None:
        if self._events is None:  # another process of the same training tells
            return
        durable = any(type(one).__name__.startswith(("Run", "Validation")) for one in events)
        self._events.write_all(events, durable=durable)

    def emit_when_possible(self, *events: Event) -> None:
        """Say something as soon as the disk of the events takes it: it may be full or gone."""
        self._unsaid += events
        if told := self.disk.look():
            print(told, flush=True)
            self._unsaid.append(WarningGiven(message=told))
        with suppress(OSError):
            self._say_kept()

    def emit_through_outages(self, event: Event) -> None:
        """Say something, or keep it in mind while the disk of the events is away.

        Raises: OSError for a disk that is full.
        """
        self._unsaid.append(event)
        try:
            self._say_kept()
        except OSError as error:
            if is_full(error):
                raise

    def _say_kept(self) -> None:
        self.disk.refuse()
        if self._events is not None:
            self._events.stay_at(self.run.events_file)
        while some := self._unsaid[:_EVENTS_AT_ONCE]:
            self._emit_all(some)
            del self._unsaid[: len(some)]

    def stop_request(self) -> str | None:
        """Tell whether to end, and how: cancel, stop, pause or terminated."""
        if not self._terminated:
            return None
        with suppress(OSError):  # its disk does not answer: what was heard last counts
            self._asked = self.run.asked() or "terminated"
        return self._asked

    def begin(self) -> None:
        """Train by what was asked from here on: what goes wrong now is the run's own end.

        Raises: RunFolderError if an extension cannot be written down as begun.
        """
        self._has_begun = True
        if self.place.rank == 0:
            begin_extension(self.run)

    def failed(self, reason: str, exit_code: int = 1) -> None:
        """Say that the run could not go on; one that was done before, and had not begun, still is.

        An extension that never began is undone.
        """
        is_training = isinstance(self.record.request, TrainRequest)
        if self._has_begun or not is_training or not self._was_done:
            self.emit(RunFailed(reason=reason, exit_code=exit_code))
            return
        if self.place.rank == 0:
            with suppress(EmcfError):  # of the disk: told already
                undo_extension(self.run)
        self.emit(RunRefused(reason=reason, exit_code=exit_code))

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True

"""The worker of a run in shards: it has this machine's tasks do what none has done, and comes last.

What tasks tell is passed on as the run's own events, each item once.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from emcfsys_engine.errors import InputError, RunFailedError
from emcfsys_engine.files import DiskFullError, refuse_full
from emcfsys_engine.run.events import Event, ImageFailed, RegionDone, RunFinished
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.lines import log_tail
from emcfsys_engine.run.outcome import emit_ending
from emcfsys_engine.run.shard_lines import Again, AnyTold, Lines, TaskTold
from emcfsys_engine.run.shards import MOST_TRIES, Header, Shards, locked
from emcfsys_engine.shards.task import list_of
from emcfsys_engine.shards.work import Asked, Ended, Tally, Work, work_of

_TASK = "emcfsys_engine.shards.task"
_MOST_VAIN = MOST_TRIES + 3  # ends in a row of the tasks of a machine without one item more
_LOOK_EVERY_S = 0.2
_GRACE_S = 60.0


class Worker(Protocol):
    """The process that executes the run: what it may say, and whether it should end."""

    @property
    def run(self) -> Run:
        """Its run."""
        ...

    def emit(self, event: Event) -> None:
        """Say something."""
        ...

    def emit_when_possible(self, *events: Event) -> None:
        """Say something as soon as the disk of the events takes it."""
        ...

    def stop_request(self) -> str | None:
        """Tell whether to end, and how."""
        ...


def execute(worker: Worker) -> int:
    """Do what run.json names; return 1 when an item failed.

    Raises: InputError where another run does the same; RunFailedError when tasks end in vain.
    """
    work = work_of(worker.run)
    tally = run_all(worker, work)
    if tally is None:
        why = worker.stop_request() or "cancel"
        return emit_ending(worker.emit, "stopped" if why == "stop" else why)
    ended = RunFinished(reason="done", done=tally.done, failed=tally.failed, called=work.called)
    worker.emit_when_possible(ended)
    return 1 if tally.failed else 0


def run_all(worker: Worker, work: Work) -> Tally | None:
    """Do all shards, and put together what they made; None: somebody asked to end before.

    Raises: InputError where another run does the same; RunFailedError when tasks end in vain.
    """
    emit, asked = worker.emit_when_possible, worker.stop_request
    lock = only_one(Path(work.request.out))
    try:
        header = list_of(work, emit, asked)
        work.refuse_changed(header)
        began, *warnings = work.begun(header)
        worker.emit(began)
        for event in warnings:
            emit(event)
        watched = _Watched(worker, work.shards, header)
        _do_locally(work, watched, asked)
        if asked() is None:
            end = Ended(work.shards, header, watched.told, watched.tell, emit, asked)
            tally = work.put_together(end)
            if asked() is None:
                return tally
    finally:
        os.close(lock)
    return None


def only_one(out: Path) -> int:
    """Lock an output folder against another run in shards.

    Raises: InputError while there is one.
    """
    file = out / ".emcfsys" / "shards.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = locked(file, 0.0)
    if descriptor is None:
        what = "another run in shards writes into it"
        remedy = "Wait for its end, or choose another folder with --out"
        raise InputError(out, what, remedy)
    return descriptor


class _Watched:
    """What tasks told, and which of it was passed on as events of the run: each item once.

    What failed before and is done now, or failed otherwise, is told again.
    """

    def __init__(self, worker: Worker, shards: Shards, header: Header) -> None:
        self._emit = worker.emit_when_possible
        self._shards = shards
        self.told = [TaskTold(shards.lines_file(shard)) for shard in range(len(header.shards))]
        before = worker.run.events()
        if any(isinstance(event, RunFinished) for event in before):
            self._try_failed_again()
        known = [event for event in before if isinstance(event, AnyTold)]
        self._passed_on = {_key(event): _why_failed(event) for event in known}
        self._num_images = header.num_images
        self._num_seen = [0] * len(self.told)

    def _try_failed_again(self) -> None:
        for shard, told in enumerate(self.told):
            if any(isinstance(event, ImageFailed) for event in told.became.values()):
                lines = Lines(self._shards.lines_file(shard))
                lines.write(Again())
                lines.close()
                told.refresh()

    def look(self) -> int:
        """Pass on what is new; return of how many items something is told."""
        for place, told in enumerate(self.told):
            told.refresh()
            if len(told.became) > self._num_seen[place]:
                new = islice(told.became.items(), self._num_seen[place], None)
                # An image of which a region failed is told of once, at the end.
                number = self._num_images
                self.tell(*(one for n, one in new if n < number or isinstance(one, RegionDone)))
            self._num_seen[place] = len(told.became)
        return sum(self._num_seen)

    def tell(self, *events: AnyTold) -> None:
        """Pass on what became of items, or of regions of them, once."""
        new: list[Event] = []
        for event in events:
            key, why = _key(event), _why_failed(event)
            if self._passed_on.get(key) == why:
                continue
            self._passed_on[key] = why
            is_region = isinstance(event, RegionDone)
            new.append(msgspec.structs.replace(event, evidence=[]) if is_region else event)
        if new:
            self._emit(*new)

    @property
    def num_left(self) -> int:
        """How many shards are not finished."""
        return sum(not told.is_finished for told in self.told)


def _key(event: AnyTold) -> str | tuple[str, tuple[int, ...]]:
    return (event.image, tuple(event.region)) if isinstance(event, RegionDone) else event.image


def _why_failed(event: AnyTold) -> str:
    return event.reason if isinstance(event, ImageFailed) else ""


def _do_locally(work: Work, watched: _Watched, asked: Asked) -> None:
    """Have this machine's tasks do every shard that is not finished.

    Raises: RunFailedError when they end again and again, and nothing gets on.
    """
    done, vain = watched.look(), 0
    while watched.num_left and asked() is None:
        number = min(watched.num_left, work.at_once)
        places = work.environments(number)
        tasks = [started(work.run, places[n % len(places)]) for n in range(number)]
        try:
            while any(task.poll() is None for task in tasks) and asked() is None:
                time.sleep(_LOOK_EVERY_S)
                watched.look()
        finally:
            _end(tasks)
        now = watched.look()
        vain = 0 if now > done else vain + 1
        done = now
        # What they say of a list, a model or a disk the next ones would say again.
        is_said = all(task.returncode == InputError.exit_code for task in tasks)
        is_last = vain == _MOST_VAIN or (vain and is_said)
        if is_last and watched.num_left and asked() is None:
            codes = ", ".join(sorted({_how(task.returncode) for task in tasks}))
            why = _why_in_vain(work.run, is_said=is_said)
            raise RunFailedError(
                f"tasks of this run end in vain ({codes}): {why} What is done is kept"
            )


def _why_in_vain(run: Run, *, is_said: bool) -> str:
    """Return the tasks' own last line; a full disk may have taken none."""
    said = log_tail(run, 1) if is_said else ()
    if said:
        return said[0]
    try:
        refuse_full([run.folder])
    except DiskFullError:
        return f"the disk of {run.folder} is full. Free some space, then go on."
    return "see log.txt."


def started(run: Run, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start a task that takes shard after shard."""
    command = [sys.executable, "-m", _TASK, str(run.folder)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**environment})


def _end(tasks: Sequence["subprocess.Popen[bytes]"]) -> None:
    deadline = time.monotonic() + _GRACE_S
    for task in tasks:
        if task.poll() is None:
            task.send_signal(signal.SIGTERM)
    for task in tasks:
        with suppress(subprocess.TimeoutExpired):
            task.wait(max(0.0, deadline - time.monotonic()))
        task.kill()
        task.wait()


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"

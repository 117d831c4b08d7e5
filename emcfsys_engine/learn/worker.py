"""The worker: a process that executes one run. `python -m emcfsys_engine.learn.worker RUN_FOLDER`

Signals are caught before torch is imported: a TERM during start-up is answered, too.
"""

import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import FrameType

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.events import (
    Event,
    EventWriter,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
)
from emcfsys_engine.run import Run, open_run

_JOBS = {"TrainRequest": "train_run", "PredictRequest": "predict_run", "WatchRequest": "watch_run"}


class Ended(Exception):
    """A person or the machine asked the worker to end before it had begun."""


class Worker:
    """One run under way: what it may say, and whether it should end."""

    def __init__(self, run: Run, events: EventWriter) -> None:
        self.run = run
        self.record = run.record()
        self._events = events
        self._terminated = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def say(self, event: Event) -> None:
        """Append an event; endings and checkpoints wait until they are on the disk."""
        kind = type(event).__name__
        self._events.write(event, durable=kind.startswith(("Run", "Validation")))

    def asked(self) -> str | None:
        """Tell whether to end, and how: cancel, stop, pause or terminated."""
        if not self._terminated:
            return None
        return self.run.asked() or "terminated"

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._terminated = True


def main(arguments: Sequence[str]) -> int:
    """Execute one run; return the process's exit code."""
    run = open_run(Path(arguments[0]))
    run.ask_file.unlink(missing_ok=True)  # what was asked of an earlier start is answered
    with EventWriter(run.events_file) as events:
        worker = Worker(run, events)
        job = _JOBS[type(worker.record.request).__name__]
        try:
            execute: Callable[[Worker], int] = import_module(f"emcfsys_engine.learn.{job}").execute
            return execute(worker)
        except EmcfError as error:
            print(error, file=sys.stderr)
            worker.say(RunFailed(reason=str(error), exit_code=error.exit_code))
            return error.exit_code
        except Exception as error:  # told to the person, then to the log with its trace
            traceback.print_exc()
            worker.say(RunFailed(reason=f"{type(error).__name__}: {error}"))
            return 1


def say_ending(
    worker: Worker, reason: str, *, step: int | None = None, score: float | None = None
) -> int:
    """Write the event for a reason to end, and return its exit code."""
    if reason in ("cancel", "cancelled"):
        worker.say(RunCancelled(step=step))
        return 130
    if reason in ("terminated", "paused", "pause"):
        why = "paused" if reason.startswith("pause") else "terminated"
        worker.say(RunInterrupted(step=step, reason=why))
        return 143
    worker.say(RunFinished(reason=reason, step=step, score=score))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""How a run ended: one decision for `runs`, `jobs`, the daemon, reports and the interface."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from emcfsys_engine.run.events import (
    AnyEvent,
    Ending,
    Event,
    ImageDone,
    ImageFailed,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunRefused,
    RunResumed,
    ValidationDone,
)

State = Literal["new", "running", "done", "failed", "cancelled", "interrupted", "lost"]
BAD_INPUT = 2  # the exit code of a fault that another try meets again
WITHOUT_A_WORD = "its worker and keeper ended without a word"
_SAVING_SIGNALS = ("SIGTERM", "SIGUSR2")  # somebody's request to save and end


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """exit.json: how the worker's process ended, written by its keeper."""

    format: int = 1
    exit_code: int | None = None  # None: ended by a signal
    signal: str | None = None  # SIGKILL, SIGSEGV …
    out_of_memory: bool = False
    started: float = 0.0
    ended: float = 0.0
    detail: str = ""
    start: str = ""  # the token of the start that ended; empty in older files


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How the newest start of a run ended."""

    state: State
    reason: str = ""
    may_retry: bool = False  # a crash, not the person's input
    was_restart: bool = False  # the machine went down under it


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What the newest start of a run left behind, once its processes are gone."""

    ending: Ending | None = None  # its worker's last word
    process: ExitRecord | None = None  # its keeper's word
    asked: str = ""  # what a person had asked of it: cancel, stop, pause …
    was_killed: bool = False  # by us, after the grace that a request to end gives
    was_restart: bool = False  # the lock was last held before this machine's last start
    has_begun: bool = True  # a worker or keeper ever came to life


def became_of_images(events: Iterable[AnyEvent]) -> list[ImageDone | ImageFailed]:
    """Return what became of each image at last, in the order in which that was told.

    A run that is started again tells of what failed anew, a watch of images that were rewritten.
    """
    newest: dict[str, ImageDone | ImageFailed] = {}
    for event in events:
        if isinstance(event, ImageDone | ImageFailed):
            newest.pop(event.image, None)
            newest[event.image] = event
    return list(newest.values())


def best_of(events: Iterable[AnyEvent]) -> ValidationDone | None:
    """Return the validation whose model is the best, with its score on what is validated on now.

    Scores of before the validation images or labels changed are not compared with newer ones.
    """
    best: ValidationDone | None = None
    for event in events:
        if isinstance(event, RunResumed):
            if event.best_score is not None and best is not None:
                best = msgspec.structs.replace(best, score=event.best_score)
        elif isinstance(event, ValidationDone) and event.score is not None:
            beaten = None if best is None else best.score
            best = event if event.is_best or beaten is None or event.score > beaten else best
    return best


def how_it_ended(traces: Traces) -> RunOutcome:
    """Tell how a start ended: its worker's word counts most, then the request, then the process."""
    if traces.ending is not None:
        return told_by_worker(traces.ending, traces.asked)
    if traces.was_killed or traces.asked in ("cancel", "pause", "end"):
        return asked_to_end(traces.asked, was_killed=traces.was_killed)
    if traces.process is not None:
        return told_by_process(traces.process)
    if traces.was_restart:
        reason = "the machine was restarted"
        return RunOutcome(state="interrupted", reason=reason, was_restart=True)
    if traces.has_begun:
        return RunOutcome(state="lost", reason=WITHOUT_A_WORD, may_retry=True)
    return RunOutcome(state="new")


def told_by_worker(ending: Ending, asked: str = "") -> RunOutcome:
    """Tell how a start ended in its worker's own words."""
    match ending:
        case RunFinished():
            return RunOutcome(state="done", reason=ending.reason)
        case RunCancelled():
            return RunOutcome(state="cancelled")
        case RunInterrupted():
            if asked == "cancel":  # the request could not be left on a full disk
                return RunOutcome(state="cancelled")
            return RunOutcome(state="interrupted", reason=ending.reason)
        case RunFailed() | RunRefused():
            may_retry = ending.exit_code != BAD_INPUT
            return RunOutcome(state="failed", reason=ending.reason, may_retry=may_retry)


def asked_to_end(asked: str, *, was_killed: bool) -> RunOutcome:
    """Tell how a start ended that was asked to, and left no word."""
    how = "had to be killed" if was_killed else "ended before it could save"
    if asked == "pause":
        reason = f"{how}; goes on from its last checkpoint"
        return RunOutcome(state="interrupted", reason=reason)
    return RunOutcome(state="interrupted" if asked == "end" else "cancelled", reason=how)


def told_by_process(record: ExitRecord) -> RunOutcome:
    """Tell how a start ended from its process alone."""
    if record.signal in _SAVING_SIGNALS:
        return RunOutcome(state="interrupted", reason="terminated before it could save")
    if record.out_of_memory:
        reason = "ended by the kernel: out of memory (SIGKILL)"
    elif record.signal:
        reason = f"ended by {record.signal}"
    elif record.detail:
        reason = record.detail
    else:
        reason = f"ended with exit code {record.exit_code}, and without a word"
    return RunOutcome(state="failed", reason=reason, may_retry=record.exit_code != BAD_INPUT)


def emit_ending(
    emit: Callable[[Event], None],
    reason: str,
    *,
    step: int | None = None,
    score: float | None = None,
    done: int | None = None,
    failed: int | None = None,
) -> int:
    """Write the event for a reason to end, and return its exit code."""
    if reason in ("cancel", "cancelled"):
        emit(RunCancelled(step=step))
        return 130
    if reason in ("terminated", "paused", "pause"):
        why = "paused" if reason.startswith("pause") else "terminated"
        emit(RunInterrupted(step=step, reason=why))
        return 143
    emit(RunFinished(reason=reason, step=step, score=score, done=done, failed=failed))
    return 0

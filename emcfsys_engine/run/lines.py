"""A run's events and log as lines for people, from the start or as they come."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from emcfsys_engine.errors import printable
from emcfsys_engine.files import reading_own
from emcfsys_engine.regions import Region
from emcfsys_engine.run.events import (
    AnyEvent,
    CheckpointSaved,
    EventReader,
    GroupJudged,
    ImageDone,
    ImageFailed,
    ItemDone,
    LabelsJoined,
    PlanMade,
    RegionDone,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunRefused,
    RunResumed,
    RunStarted,
    StepDone,
    TrustLearned,
    ValidationDone,
    WarningGiven,
    WatchState,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.text import clock, few, span

_TAIL_BYTES = 1 << 18
_NUM_EVIDENCE = 12
_EVIDENCE_CHARACTERS = 400


class RunLines:
    """What a run says, line by line; each call returns what is new."""

    def __init__(self, run: Run) -> None:
        self._events = EventReader(run.events_file)
        self._log = LogReader(run.log_file)

    def new_lines(self) -> list[str]:
        """Return the lines since the last call: events with their time, then the log's own."""
        lines: list[str] = []
        for event in self._events.read_new():
            first, *others = line_of(event).split("\n")
            if first:
                lines.append(f"{clock(event.time)} {printable(first)}")
                lines += [f"         {printable(other)}" for other in others]
        return [*lines, *self._log.new_lines()]


class LogReader:
    """Reads what is new in a run's log, whole lines only."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offset = 0

    def new_lines(self) -> list[str]:
        """Return the lines since the last call, safe for a terminal."""
        try:
            with reading_own(self.file) as stream:
                size = stream.seek(0, 2)
                stream.seek(self._offset if self._offset <= size else 0)
                block = stream.read()
        except OSError:
            return []
        whole = block[: block.rfind(b"\n") + 1]
        self._offset = self._offset + len(whole) if self._offset <= size else len(whole)
        # A progress bar overwrites its line: its last state is the line.
        lines = whole.decode("utf-8", "replace").split("\n")[:-1]
        return [printable(line.rstrip("\r").rpartition("\r")[2]) for line in lines]


def log_tail(run: Run, num_lines: int = _NUM_EVIDENCE) -> tuple[str, ...]:
    """Return the last lines of a run's log that say something; none where there is no log."""
    try:
        with reading_own(run.log_file) as stream:
            stream.seek(max(0, stream.seek(0, 2) - _TAIL_BYTES))
            text = stream.read().decode("utf-8", "replace")
    except OSError:
        return ()
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(line[:_EVIDENCE_CHARACTERS] for line in lines[-num_lines:])


def line_of(event: AnyEvent) -> str:
    """Return an event in words; empty for those that say nothing to a person."""
    return next(_words(event), "")


def _words(event: AnyEvent) -> Iterator[str]:
    match event:
        case RunStarted():
            steps = f", {event.total_steps} steps" if event.total_steps else ""
            yield f"{event.does} started on {event.device or 'this machine'}{steps}"
        case RunResumed():
            yield f"resumed at step {event.step}"
        case PlanMade():
            yield event.summary
        case StepDone():
            yield f"step {event.step}  loss {event.loss:.4f}"
        case ValidationDone():
            yield _validation(event)
        case LabelsJoined():
            yield _joined(event)
        case CheckpointSaved(role="best" | "final"):
            yield f"saved {event.file}"
        case WarningGiven():
            yield f"warning: {event.message}"
        case TrustLearned(why_not=""):
            yield f"learned from {event.trials} trials how good its masks are"
        case TrustLearned():
            yield f"cannot tell how good its masks are: {event.why_not}"
        case ImageDone():
            yield f"{event.image} -> {event.mask}{_expected(event)}"
        case RegionDone():
            yield f"region {Region(*event.region)} of {event.of} done: {event.image}"
        case ItemDone():
            yield f"{event.image} done"
        case GroupJudged():
            why = f": {'; '.join(event.reasons)}" if event.reasons else ""
            before = f" (was {event.before.upper()})" if event.before else ""
            yield f"group {event.group} {event.verdict.upper() or 'not judged'}{before}{why}"
        case ImageFailed():
            yield f"{event.image} failed: {event.reason}"
        case WatchState():
            yield f"{event.state} {event.detail}".strip()
        case RunFinished():
            yield _finished(event)
        case RunFailed():
            yield f"failed: {event.reason}"
        case RunRefused():
            yield f"refused to go on: {event.reason}"
        case RunCancelled():
            yield "cancelled; what was reached is saved"
        case RunInterrupted():
            yield f"interrupted ({event.reason}); what was reached is saved: resume goes on"
        case _:
            return


def _expected(event: ImageDone) -> str:
    if event.expected_iou is None:
        return ""
    between = f"{_score(event.expected_low)} to {_score(event.expected_high)}"
    why = f": {event.expected_reason}" if event.expected_reason else ""
    return f"  expected IoU {event.expected_iou:.3f} ({between}){why}"


def _validation(event: ValidationDone) -> str:
    each = "  ".join(f"{name} {_score(value)}" for name, value in event.iou.items())
    each += "".join(f"  PQ {name} {_score(one.pq)}" for name, one in event.objects.items())
    left = "" if event.seconds_left is None else f"  {span(event.seconds_left)} left"
    best = "  best" if event.is_best else ""
    return (
        f"step {event.step}  mean IoU {_score(event.mean_iou)}  {each}  "
        f"loss {event.train_loss:.3f} / {event.val_loss:.3f}{left}{best}"
    )


def _joined(event: LabelsJoined) -> str:
    parts = (
        ("joined to train on", event.train),
        ("joined to validate on", event.val),
        ("changed", event.changed),
        ("gone", event.gone),
    )
    told = "; ".join(f"{word}: {few(names, 4)}" for word, names in parts if names)
    return f"labels {told} ({event.num_train} train, {event.num_val} validate)"


def _finished(event: RunFinished) -> str:
    if event.done is not None:
        failed = f", {event.failed} failed" if event.failed else ""
        return f"{event.done} {event.called} done{failed}"
    score = "" if event.score is None else f", best score {event.score:.3f}"
    return f"finished ({event.reason.replace('_', ' ')}){score}"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def images_per_min(times: Iterable[float], now: float) -> int:
    """Return how many images were done within the last minute; times in seconds since 1970."""
    return sum(now - 60 < time <= now for time in times)

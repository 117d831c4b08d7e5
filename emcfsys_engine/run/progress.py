"""How far a training is, and how long such trainings took: from the ends of runs' events alone.

A file of events may be large: its first line and its last 256 KiB tell all of this.
"""

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import msgspec

from emcfsys_engine import any_names
from emcfsys_engine.errors import RunFolderError
from emcfsys_engine.files import reading_own
from emcfsys_engine.project_tables import SHIPPED_BACKBONE, ModelSettings
from emcfsys_engine.run.events import (
    AnyEvent,
    PhaseBegan,
    PlanMade,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDone,
    ValidationDone,
    reversed_events,
)
from emcfsys_engine.run.folder import Run
from emcfsys_engine.run.shard_lines import ShardProgress
from emcfsys_engine.run.shards import FOLDER
from emcfsys_engine.text import span

_NUM_STEPS = 20  # newest reports of steps that tell the rate
_FIRST_BYTES = 1 << 16


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a training does now."""

    phase: str = ""  # reading | waiting | training | validating | saving; empty: it is no training
    step: int = 0
    total_steps: int | None = None  # None: ended by minutes
    step_s: float | None = None  # of one step
    seconds_left: float | None = None

    @property
    def text(self) -> str:
        """The progress in a few words, like: training 812/3,250, 22 min left, 1.8 step/s."""
        total = f"/{self.total_steps:,}" if self.total_steps else ""
        words = [f"{self.phase} {self.step:,}{total}" if self.step else self.phase]
        if self.seconds_left is not None:
            words.append(f"{span(self.seconds_left)} left")
        words.append(self.rate)
        return ", ".join(word for word in words if word)

    @property
    def rate(self) -> str:
        """How fast it goes: steps a second, or seconds a step where one takes longer."""
        if not self.step_s:
            return ""
        return f"{1 / self.step_s:.1f} step/s" if self.step_s < 1 else f"{self.step_s:.1f} s/step"


def progress_of(run: Run, now: float | None = None) -> Progress:
    """Tell how far a living training is; nothing of it is remembered between two calls."""
    events = _newest(run)[::-1]
    if not any(isinstance(event, RunStarted) for event in events):
        first = first_event(run)
        events = [*([first] if first is not None else []), *events]
    return progress_in(events, time.time() if now is None else now)


def _newest(run: Run) -> list[AnyEvent]:
    """Return the newest events, the newest first; what cannot be read now tells nothing."""
    with suppress(OSError):
        return list(reversed_events(run.events_file))
    return []


def words_of_progress(run: Run) -> str:
    """Return how far a living run is, in a few words; empty where nothing tells.

    Of a run in shards what all its tasks told is counted: of a million items that takes a second.
    """
    return ProgressWords().of(run)


class ProgressWords:
    """The same again and again: what tasks of a run in shards told is counted once."""

    def __init__(self) -> None:
        self._tasks: dict[Path, ShardProgress] = {}

    def of(self, run: Run) -> str:
        """Return how far a living run is, in a few words; empty where nothing tells."""
        with suppress(RunFolderError, OSError):
            if (run.folder / FOLDER).is_dir():
                if run.folder not in self._tasks:
                    self._tasks[run.folder] = ShardProgress(run)
                return self._tasks[run.folder].text()
        return progress_of(run).text


def progress_in(events: Sequence[AnyEvent], now: float) -> Progress:
    """Tell how far a training is by its first event and its newest ones, in their order."""
    starts = [n for n, event in enumerate(events) if isinstance(event, RunStarted)]
    if not starts:
        return Progress()
    started = events[starts[-1]]
    assert isinstance(started, RunStarted)
    if started.does != "train":
        return Progress()
    here = events[starts[-1] + 1 :]
    step = next((number for e in reversed(here) if (number := _step(e)) is not None), 0)
    phase = next((word for e in reversed(here) if (word := _phase(e))), "reading")
    reports = [event for event in here if isinstance(event, StepDone)][-_NUM_STEPS:]
    step_s = median(event.seconds for event in reports) if reports else None
    if started.total_steps is None:
        left = _left_by_the_clock(events, now)
    else:
        steps_left = max(0, started.total_steps - step)
        left = None if step_s is None else steps_left * step_s + _validations(events, steps_left)
    return Progress(
        phase=phase,
        step=step,
        total_steps=started.total_steps,
        step_s=step_s,
        seconds_left=None if left is None else max(0.0, left),
    )


def _step(event: AnyEvent) -> int | None:
    return event.step if isinstance(event, StepDone | ValidationDone | RunResumed) else None


def _phase(event: AnyEvent) -> str:
    if isinstance(event, PhaseBegan):
        return event.phase
    return "training" if isinstance(event, StepDone | ValidationDone) else ""


def _validations(events: Sequence[AnyEvent], steps_left: int) -> float:
    """Return how long the validations to come take: each as long as the newest, as far apart."""
    found: list[tuple[int, float]] = []
    before: AnyEvent | None = None
    for event in events:
        if isinstance(event, ValidationDone):
            begun = before.time if isinstance(before, StepDone | PhaseBegan) else event.time
            found.append((event.step, max(0.0, event.time - begun)))
        if isinstance(event, StepDone | PhaseBegan | ValidationDone):
            before = event
    if not found:
        return 0.0
    apart = found[-1][0] - (found[-2][0] if len(found) > 1 else 0)
    return found[-1][1] * -(-steps_left // max(1, apart))


def _left_by_the_clock(events: Sequence[AnyEvent], now: float) -> float | None:
    """Return what is left of a training's minutes; its clock stands while it is not running."""
    left: float | None = None
    minutes: float | None = None
    since: float | None = None  # when `left` was true; None: the clock stands
    before = 0.0
    for event in events:
        if isinstance(event, RunStarted):
            if left is not None and since is not None:
                left -= before - since
            if left is not None and event.minutes and minutes:
                left += (event.minutes - minutes) * 60  # it was extended
            minutes, since = event.minutes, None
        elif isinstance(event, PlanMade):
            left, since = (60 * minutes if left is None and minutes else left), event.time
        elif isinstance(event, ValidationDone) and event.seconds_left is not None:
            left, since = event.seconds_left, event.time
        before = event.time
    if left is None or since is None:
        return left
    return left - (now - since)


def first_event(run: Run) -> AnyEvent | None:
    """Return the event that a run's file begins with; None without one."""
    try:
        with reading_own(run.events_file) as stream:
            line = stream.readline(_FIRST_BYTES)
        return any_names.decode(line, AnyEvent)
    except (OSError, msgspec.MsgspecError):
        return None


class _PlannedNetwork(msgspec.Struct, frozen=True):
    head: str = ""
    backbone: str = ""


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What a step's length depends on; as plan.json has it."""

    network: _PlannedNetwork = _PlannedNetwork()
    device: str = ""
    precision: str = ""
    patch_px: int = 0
    batch: int = 0
    processes: int = 1


def network_of(run: Run, settings: ModelSettings) -> str:
    """Return head and backbone of a training: where its project names none, as its plan chose."""
    backbone = settings.backbone
    if not backbone:
        with suppress(OSError):
            plan = any_names.read(run.plan_file, Kind)
            backbone = plan.network.backbone if plan is not None else ""
    return f"{settings.head}/{backbone or SHIPPED_BACKBONE}"


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """How long a training will take, as far as finished ones tell."""

    step_s: float  # wall time a step, validations and reading included
    runs: tuple[str, ...]  # that it was taken from, newest first

    def seconds(self, total_steps: int) -> float:
        """Return how long so many steps take."""
        return self.step_s * total_steps


def estimate(kind: Kind, runs: Iterable[Run], *, most: int = 3) -> Estimate | None:
    """Return how long a step takes by the newest finished runs of the same kind; None without."""
    found: list[tuple[str, float]] = []
    for run in runs:
        try:
            same = any_names.read(run.plan_file, Kind) == kind
        except OSError:
            continue
        step_s = _pace(run) if same else None
        if step_s is not None:
            found.append((run.id, step_s))
            if len(found) == most:
                break
    if not found:
        return None
    return Estimate(step_s=median(pace for _, pace in found), runs=tuple(name for name, _ in found))


def _pace(run: Run) -> float | None:
    """Return the wall time of a step of a run that finished in one go."""
    newest = _newest(run)
    ended = next((event for event in newest if isinstance(event, RunFinished)), None)
    started = first_event(run)
    if ended is None or not ended.step or not isinstance(started, RunStarted):
        return None
    if any(isinstance(event, RunResumed) for event in newest):
        return None
    return max(0.0, ended.time - started.time) / ended.step

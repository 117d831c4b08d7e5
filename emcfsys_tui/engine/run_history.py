"""What a run's events amount to: curves, scores, lines; grows with each batch of events."""

import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import msgspec

from emcfsys_engine.files import changed_ns
from emcfsys_engine.project import ModelSettings, Project
from emcfsys_engine.run.events import (
    AnyEvent,
    Ending,
    EventReader,
    ImageDone,
    ImageFailed,
    MachineUsed,
    PreviewSaved,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunInterrupted,
    RunRefused,
    RunResumed,
    RunStarted,
    StepDone,
    ValidationDone,
    WarningGiven,
)
from emcfsys_engine.run.folder import Run, is_run
from emcfsys_engine.run.lines import LogReader, line_of
from emcfsys_engine.run.progress import Progress, network_of, progress_in
from emcfsys_engine.run.records import RunRecord
from emcfsys_engine.text import flattened
from emcfsys_tui.series import Series
from emcfsys_tui.text import path_last
from emcfsys_tui.view_models import ClassScore, LogLine, Preview, RunDetail, RunRow, Tone

_TURNS = Ending | RunStarted | RunResumed  # events that may change how a run ended
_LINES = 1000
_STEP_LINES = 100
_TONES: dict[type[object], Tone] = {
    RunFinished: "good",
    RunFailed: "bad",
    RunRefused: "warn",
    ImageFailed: "bad",
    WarningGiven: "warn",
    RunInterrupted: "warn",
    RunCancelled: "warn",
    StepDone: "dim",
}


class RunHistory:
    """Reads one run's files and remembers what is drawn; used by one thread."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.version = 0
        self._record: RunRecord | None = None
        self._events = EventReader(run.events_file)
        self._log = LogReader(run.log_file)
        self._log_lines: deque[str] = deque(maxlen=_LINES)
        self._state: tuple[str, str] = ("new", "")
        self._ended_as: tuple[tuple[int, int], tuple[str, str]] | None = None
        self._network: tuple[int, str] | None = None  # of a plan of this time
        self._reset()

    def read_new(self) -> bool:
        """Read what is new; tell whether anything changed."""
        events = self._events.read_new()
        for place in range(0, len(events), 20_000):
            self._take(events[place : place + 20_000])
            if place:
                time.sleep(0)  # others want the interpreter too
        lines = self._log.new_lines()
        self._log_lines.extend(line for line in lines if line.strip())
        # Anything else that it says does not change how it ended: thousands a second may come.
        state = self._read_state(any(isinstance(event, _TURNS) for event in events))
        changed = bool(events or lines) or state != self._state or self.version == 0
        self._state = state
        self.version += changed
        return changed

    def row(self) -> RunRow:
        """Return the run as a line of the list."""
        record = self._known_record()
        project = record.project if record else None
        does = self._started.does if self._started else _does(record)
        state, reason = self._state
        now = self._progress() if state == "running" else Progress()
        return RunRow(
            id=self.run.id,
            folder=self.run.folder,
            does=does,
            state=state,
            reason=reason,
            network=self._network_by(project.model) if project and does == "train" else "",
            score=self._bests[-1][1] if self._bests else None,
            best_step=self._best_step,
            step=self._step,
            total_steps=self._started.total_steps if self._started else None,
            phase=now.phase,
            rate=now.rate,
            seconds_left=now.seconds_left,
            created=record.created if record else 0.0,
            has_model=self.run.best_model.exists(),
            group=record.group if record else "",
            fold=record.fold if record else 0,
            is_copy=record is not None and record.id != self.run.id,
            settings=settings_of(project) if project else (),
        )

    def detail(self) -> RunDetail:
        """Return everything that is drawn of the run."""
        newest = self._validation
        scores = newest.iou.items() if newest else ()
        f1 = newest.f1 if newest else {}
        classes = tuple(ClassScore(name=name, iou=iou, f1=f1.get(name)) for name, iou in scores)
        lines = sorted([*self._recent, *self._steps], key=lambda event: event.time)
        return RunDetail(
            id=self.run.id,
            version=self.version,
            curves={name: series.view() for name, series in self._series.items()},
            classes=classes,
            validated_at=newest.step if newest else None,
            best_step=self._best_step,
            lines=tuple(
                LogLine(time=event.time, text=text, tone=_TONES.get(type(event), ""))
                for event in lines
                if (text := _words(event))
            ),
            log=tuple(self._log_lines),
            previews=self._previews_there(),
        )

    def _progress(self) -> Progress:
        """Tell how far the run is, by the events that are remembered anyway."""
        known = sorted([*self._recent, *self._steps], key=lambda event: event.time)
        if self._started is not None and self._started not in self._recent:
            known.insert(0, self._started)
        return progress_in(known, time.time())

    def _network_by(self, settings: ModelSettings) -> str:
        """Return the network; the plan, which may choose it, is read again only once it changed."""
        stamp = changed_ns(self.run.plan_file)
        if self._network is None or self._network[0] != stamp:
            self._network = stamp, network_of(self.run, settings)
        return self._network[1]

    @property
    def _best_step(self) -> int | None:
        return self._bests[-1][0] if self._bests else None

    def _previews_there(self) -> tuple[Preview, ...]:
        """Return the previews whose files were not cleaned away, oldest validation first."""
        try:
            there = set(os.listdir(self.run.previews_folder))
        except OSError:
            return ()
        found = sorted(self._previews.items())
        return tuple(
            Preview(step=step, image=image, file=self.run.previews_folder / name)
            for (step, image), name in found
            if name in there
        )

    def _reset(self) -> None:
        self._series: dict[str, Series] = {}
        self._recent: deque[AnyEvent] = deque(maxlen=_LINES)
        self._previews: dict[tuple[int, str], str] = {}  # step and image to the file's name
        self._steps: deque[StepDone] = deque(maxlen=_STEP_LINES)  # must not push the others out
        self._started: RunStarted | None = None
        self._before: RunStarted | None = None  # the start before the newest
        self._validation: ValidationDone | None = None
        self._bests: list[tuple[int, float]] = []  # step and score of each best so far
        self._step = 0
        self._failed: set[str] = set()  # images that are counted, and may be tried again

    def _take(self, events: Iterable[AnyEvent]) -> None:
        steps: list[float] = []
        losses: list[float] = []
        rates: list[float] = []
        newest_steps = self._steps
        for event in events:
            if type(event) is StepDone:
                newest_steps.append(event)
                steps.append(event.step)
                losses.append(event.loss)
                rates.append(event.learning_rate)
                continue
            self._add_steps(steps, losses, rates)
            steps, losses, rates = [], [], []
            if not isinstance(event, MachineUsed):  # many: they must not push the others out
                self._recent.append(event)
            self._take_rare(event)
        self._add_steps(steps, losses, rates)

    def _add_steps(self, steps: list[float], losses: list[float], rates: list[float]) -> None:
        if steps:
            self._line("train loss").extend(steps, losses)
            self._line("learning rate").extend(steps, rates)
            self._step = int(steps[-1])

    def _take_rare(self, event: AnyEvent) -> None:
        if isinstance(event, RunStarted):
            if self._started is not None and self._started.run != event.run:
                self._reset()
            self._before, self._started = self._started, event
        elif isinstance(event, RunRefused):  # the start that was refused began nothing
            self._started = self._before or self._started
        elif isinstance(event, RunResumed):
            self._series = {name: line.cut_after(event.step) for name, line in self._series.items()}
            self._step = event.step
            self._forget_after(event.step)
            if event.best_score is not None and self._bests:
                self._bests[-1] = (self._bests[-1][0], event.best_score)
            self._previews = {
                at: name for at, name in self._previews.items() if at[0] <= event.step
            }
        elif isinstance(event, ValidationDone):
            self._take_validation(event)
        elif isinstance(event, MachineUsed):
            self._take_usage(event)
        elif isinstance(event, PreviewSaved):
            self._previews[event.step, event.image] = Path(event.file).name
        elif isinstance(event, ImageDone | ImageFailed):
            self._step += event.image not in self._failed
            if isinstance(event, ImageFailed):
                self._failed.add(event.image)
            else:
                self._failed.discard(event.image)

    def _take_validation(self, event: ValidationDone) -> None:
        self._validation = event
        self._step = event.step
        at = (event.step,)
        self._line("val loss").extend(at, (event.val_loss,))
        self._line("images/s").extend(at, (event.images_per_s,))
        if event.mean_iou is not None:
            self._line("mean").extend(at, (event.mean_iou,))
        for name, iou in event.iou.items():
            if iou is not None:
                self._line(f"iou:{name}").extend(at, (iou,))
        for name, objects in event.objects.items():
            if objects.pq is not None:
                self._line(f"pq:{name}").extend(at, (objects.pq,))
        if (score := event.score) is None:  # no other number stands for it, as in `runs`
            return
        if not self._bests or event.is_best or score > self._bests[-1][1]:
            self._bests.append((event.step, score))

    def _take_usage(self, event: MachineUsed) -> None:
        at = (event.step,)
        self._line("processors").extend(at, (event.cpu,))
        self._line("memory").extend(at, (event.memory_gb,))
        if event.gpu is not None:
            self._line("GPU").extend(at, (event.gpu,))
        if event.gpu_memory_gb is not None:
            self._line("GPU memory").extend(at, (event.gpu_memory_gb,))

    def _forget_after(self, step: int) -> None:
        """Drop what a resume from an earlier checkpoint made void."""
        self._bests = [best for best in self._bests if best[0] <= step]
        if self._validation is not None and self._validation.step > step:
            self._validation = None

    def _line(self, name: str) -> Series:
        if name not in self._series:
            self._series[name] = Series()
        return self._series[name]

    def _read_state(self, has_turned: bool) -> tuple[str, str]:
        if self.run.is_alive():
            self._ended_as = None
            return "running", ""
        stamps = changed_ns(self.run.exit_file), changed_ns(self.run.record_file)
        if has_turned or self._ended_as is None or self._ended_as[0] != stamps:
            self._ended_as = stamps, self.run.outcome()
        return self._ended_as[1]

    def _known_record(self) -> RunRecord | None:
        if self._record is None and is_run(self.run.folder):
            self._record = self.run.record_if_open()
        return self._record


def settings_of(project: Project) -> tuple[tuple[str, str], ...]:
    """Return what was asked for, by dotted names."""
    flat = flattened(msgspec.to_builtins(project, enc_hook=str))
    return tuple((key, str(value)) for key, value in flat.items() if value is not None)


def _words(event: AnyEvent) -> str:
    """Return the line of an event; of an image its name: a whole path is mostly folders."""
    if isinstance(event, ImageDone):
        return f"{Path(event.image).name}  {event.seconds:.2f} s"
    if isinstance(event, ImageFailed):
        return f"{Path(event.image).name}  {event.reason}"
    if isinstance(event, WarningGiven):  # what it is first: a path fills the line
        return f"warning: {path_last(event.message)}"
    return line_of(event)


def _does(record: RunRecord | None) -> str:
    return type(record.request).__name__.removesuffix("Request").lower() if record else ""

"""A run as its folder tells it: everything a report needs, read once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emcfsys_engine import any_names
from emcfsys_engine.run.events import AnyEvent, RunStarted, StepDone, ValidationDone
from emcfsys_engine.run.folder import ExitRecord, Run, State
from emcfsys_engine.run.lines import log_tail
from emcfsys_engine.run.outcome import best_of
from emcfsys_engine.run.records import EvaluateRequest, PredictRequest, RunRecord

_LOG_LINES = 40


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run was asked, what it decided, what it said, and how it ended."""

    run: Run
    record: RunRecord
    plan: dict[str, Any]  # as plan.json has it: older and newer plans are told as well
    events: tuple[AnyEvent, ...]
    state: State
    reason: str
    exit: ExitRecord | None
    log_tail: tuple[str, ...]

    @property
    def does(self) -> str:
        """What the run does: train, predict, watch, measure …"""
        return str(self.record.request.__struct_config__.tag)

    @property
    def title(self) -> str:
        """The project's name, else that of the model which predicted."""
        if self.record.project is not None:
            return self.record.project.name
        started = self.started
        if started is not None and started.project:
            return started.project
        request = self.record.request
        has_model = isinstance(request, PredictRequest | EvaluateRequest)
        return Path(request.model).name if has_model else self.run.id

    @property
    def started(self) -> RunStarted | None:
        """The first event, if the worker came so far."""
        return next((event for event in self.events if isinstance(event, RunStarted)), None)

    @property
    def device(self) -> str:
        """What it computed on."""
        return self.started.device if self.started else ""

    @property
    def total_steps(self) -> int | None:
        """How many steps it was to do."""
        starts = [event for event in self.events if isinstance(event, RunStarted)]
        return starts[-1].total_steps if starts else None

    @property
    def validations(self) -> list[ValidationDone]:
        """The validations in their order."""
        return [event for event in self.events if isinstance(event, ValidationDone)]

    @property
    def best(self) -> ValidationDone | None:
        """The validation whose model was kept as best, with its score on what is validated on."""
        return best_of(self.events)

    @property
    def step(self) -> int:
        """The last step known."""
        kinds = (StepDone, ValidationDone)
        return max((event.step for event in self.events if isinstance(event, kinds)), default=0)

    @property
    def began(self) -> float | None:
        """When the first event was written. Units: seconds since 1970."""
        return self.events[0].time if self.events else None

    @property
    def ended(self) -> float | None:
        """When the last event was written. Units: seconds since 1970."""
        return self.events[-1].time if self.events else None

    @property
    def seconds(self) -> float | None:
        """From the first event to the last, pauses included."""
        if self.began is None or self.ended is None:
            return None
        return max(0.0, self.ended - self.began)


def read_summary(run: Run) -> RunSummary:
    """Read a run's folder; a file that is not there yet is no fault.

    Raises: RunFolderError if the folder holds no run.
    """
    record = run.record()
    state = run.state()
    reason = "" if state in ("running", "new") else run.outcome()[1]
    return RunSummary(
        run=run,
        record=record,
        plan=_plan_of(run.plan_file),
        events=tuple(run.events()),
        state=state,
        reason=reason,
        exit=None if state == "running" else run.exit_record(),
        log_tail=log_tail(run, _LOG_LINES),
    )


def _plan_of(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] | None = any_names.read(file, dict[str, Any])
    except OSError:
        found = None
    return found or {}

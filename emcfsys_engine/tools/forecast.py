"""What a training would do before it is started: its plan, its time, what it would refuse."""

from collections.abc import Callable

import msgspec

from emcfsys_engine.dataset.follow import waiting_words
from emcfsys_engine.errors import DataFaults, EmcfError, InputError, printable
from emcfsys_engine.project import Project
from emcfsys_engine.run.folder import list_runs
from emcfsys_engine.run.progress import Estimate, Kind, estimate
from emcfsys_engine.text import how_many, span
from emcfsys_engine.tools.check import CheckReport
from emcfsys_engine.tools.check_data import Finding

# Rows (what, value, why), what a step's length depends on, steps and minutes.
Planned = tuple[list[tuple[str, str, str]], Kind, int | None, float | None]
_UNKNOWN = "not known yet"
_NO_RUN = "no finished run here had this network, device, patch and batch"


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One choice of the plan."""

    name: str
    value: str
    why: str = ""


class TrainingForecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a training begun now would do."""

    rows: tuple[PlanRow, ...] = ()
    errors: tuple[Finding, ...] = ()  # what it would refuse
    num_warnings: int = 0
    seconds: float | None = None  # it would take; None: not known yet

    @property
    def text(self) -> str:
        """The forecast for a terminal."""
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [one.text for one in self.errors]
        for row in self.rows:
            why = f"   ({row.why})" if row.why else ""
            lines.append(f"{row.name:<{width}}  {row.value}{why}")
        if self.errors:
            lines.append(f"{how_many(len(self.errors), 'error')}: the training would end there")
        return "\n".join(printable(line) for line in lines)


def forecast_of(
    project: Project, checked: CheckReport, *, planned: Callable[[Project], Planned]
) -> TrainingForecast:
    """Return what a training would do; of one that would be refused only the errors.

    `planned` makes the plan, with torch.
    """
    errors = list(checked.errors)
    num_warnings = len(checked.findings) - len(errors)
    if errors:
        return TrainingForecast(errors=tuple(errors), num_warnings=num_warnings)
    if checked.waits:
        num = sum(checked.images.values())
        row = PlanRow(name="start", value="waits for labels", why=waiting_words(num))
        return TrainingForecast(rows=(row,), num_warnings=num_warnings)
    try:
        rows, kind, steps, minutes = planned(project)
    except DataFaults as several:
        errors = [Finding.of(one) for one in several.faults]
    except InputError as fault:
        errors = [Finding.of(fault)]
    except (EmcfError, RuntimeError) as error:
        errors = [Finding.error(project.file, str(error).partition("\n")[0])]
    else:
        found = estimate(kind, reversed(list_runs(project.folder)))
        shown = [PlanRow(name=name, value=text, why=reason) for name, text, reason in rows]
        row, seconds = _time(found, steps, minutes)
        shown.insert(2, row)  # after how long it is
        return TrainingForecast(rows=tuple(shown), num_warnings=num_warnings, seconds=seconds)
    return TrainingForecast(errors=tuple(errors), num_warnings=num_warnings)


def _time(
    found: Estimate | None, steps: int | None, minutes: float | None
) -> tuple[PlanRow, float | None]:
    """Return the time in words, with where it is from, and in seconds; of minutes, the steps."""
    if steps is None:
        seconds = 60 * (minutes or 0.0)
        if found is None or not found.step_s:
            return PlanRow(name="steps", value=_UNKNOWN, why=_NO_RUN), seconds
        return _row("steps", f"about {seconds / found.step_s:,.0f}", found), seconds
    if found is None:
        return PlanRow(name="time", value=_UNKNOWN, why=_NO_RUN), None
    seconds = found.seconds(steps)
    return _row("time", f"about {span(seconds)}", found), seconds


def _row(name: str, value: str, found: Estimate) -> PlanRow:
    return PlanRow(name=name, value=value, why=f"by the steps of {', '.join(found.runs)}")

"""Train: project.toml as a form, judged by the engine as it is typed, written or submitted."""

import time
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.message import Message
from textual.reactive import reactive
from textual.timer import Timer
from textual.widgets import Input, Static

from emcfsys_engine.errors import printable
from emcfsys_engine.text import for_shell
from emcfsys_tui.engine import form as engine_link_train
from emcfsys_tui.engine import jobs, notices
from emcfsys_tui.engine.edit_project import digest_of
from emcfsys_tui.engine.form import FIRST, Forecaster, FormVerdict, ProjectForm
from emcfsys_tui.messages import TabWanted
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.text import one_line
from emcfsys_tui.view_models import Deed, FindingRow, Forecast, Notice
from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.pane import Pane

_HINT = (
    "↑↓ choose a line, then type, or ←→ for words; esc leaves it, s starts the training as a job"
)
_FORECAST = (
    Column(title="", width=1),
    Column(title="what", width=10, cut="start"),
    Column(title="value", width=26, wide=34, scrolls=True),
    Column(title="why", scrolls=True),
)
_FORESEE_AFTER_S = 0.6  # of rest: the child loads torch
_FRESH_S = 60.0  # so long a forecast is believed: labels are mended beside
_NAMED_ERRORS = 4
_JUDGE_AFTER_S = 0.15  # of typing: a burst of letters is judged once


class FormRead(Message, bubble=False):
    """project.toml was read."""

    def __init__(self, form: ProjectForm) -> None:
        self.form = form
        super().__init__()


class Judged(Message, bubble=False):
    """The engine looked at the form."""

    def __init__(self, verdict: FormVerdict, changes: dict[str, str]) -> None:
        self.verdict, self.changes = verdict, changes
        super().__init__()


class Foreseen(Message, bubble=False):
    """What a training with the settings of now would do."""

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        super().__init__()


class Refused(Message, bubble=False):
    """The check found errors before the training was queued."""

    def __init__(self, overrides: tuple[str, ...], errors: tuple[FindingRow, ...]) -> None:
        self.overrides, self.errors = overrides, errors
        super().__init__()


class Submitted(Message, bubble=False):
    """A training is in the queue."""

    def __init__(self, job: int, run: str) -> None:
        self.job, self.run = job, run
        super().__init__()


class TrainPane(Pane):
    """What to train and how long; everything has a good default."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    TrainPane #train-facts { height: 1; color: $dim; }
    TrainPane #form { height: auto; max-height: 60%; scrollbar-size-vertical: 1; }
    TrainPane #form:focus { border-left: none; }
    TrainPane #train-faults { height: auto; max-height: 6; color: $error; padding: 0 1; }
    TrainPane #train-command { height: auto; max-height: 4; background: $panel; color: $dim; }
    TrainPane #forecast { height: 1fr; min-height: 3; }
    TrainPane #train-hint { height: auto; color: $dim; padding: 0 1; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("s", "submit", "start", "train.submit", "Put this training into the queue"),
        shown(
            "w", "write", "write project.toml", "train.write", "Keep these settings; comments stay"
        ),
        shown("f", "fold", "all settings", "train.fold", "Show or hide the rarer settings"),
        shown("R", "read", "read again", "train.read", "Drop the changes, read the file again"),
        quiet("ctrl+t", "submit", "Submit", "train.submit_too", "Submit, also from within a field"),
        quiet("ctrl+w", "write", "Write", "train.write_too", "Write, also from within a field"),
        quiet("up", "app.focus_previous", "Previous", "train.up"),
        quiet("down", "app.focus_next", "Next", "train.down"),
        quiet("escape", "leave_field", "Leave the field", "train.leave"),
    ]

    BOXES = (("#form", "#train-hint"), ("#forecast", "#forecast-title"))

    form: reactive[ProjectForm] = reactive(ProjectForm(), repaint=False)
    verdict: reactive[FormVerdict] = reactive(FormVerdict(), repaint=False)
    forecast: reactive[Forecast | None] = reactive(None, repaint=False)  # None: worked out now

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._changes: dict[str, str] = {}
        self._judged: dict[str, str] | None = None  # the changes that the verdict is about
        self._submits_when_judged = False
        self._submitted: dict[str, str] = {}  # changes that a run keeps
        self._unfolded = False
        self._was_told_of_change = False
        self._judge_timer: Timer | None = None
        self._forecast_timer: Timer | None = None
        self._forecaster = Forecaster(folder)
        self._foreseen_at = float("-inf")

    @property
    def command(self) -> str:
        """The command that submits what the form says."""
        return self.verdict.command or f"emcfsys-engine submit train {for_shell(self.folder)}"

    def compose(self) -> ComposeResult:
        """Facts, form, faults and the command."""
        yield Static(id="train-facts", markup=False)
        yield VerticalScroll(id="form", can_focus=True)
        yield Static(_HINT, id="train-hint", markup=False)
        yield Static(id="forecast-title", classes="section", markup=False)
        yield Rows(_FORECAST, id="forecast", titles=False)
        yield Static(id="train-faults", markup=False)
        yield Static(id="train-command", markup=False)

    def on_mount(self) -> None:
        """Read the file."""
        self.action_read()

    def take_focus(self) -> None:
        """The form as a whole: letters are keys until a field is entered."""
        self.query_one("#form").focus()

    def watch_is_shown(self, is_shown: bool) -> None:
        """Look whether the file changed while we were away."""
        if is_shown and self.form.digest:
            self.run_worker(self._look_at_file, thread=True, group="look")
            if time.monotonic() - self._foreseen_at > _FRESH_S:
                self._foresee()

    async def on_form_read(self, event: FormRead) -> None:
        """Lay out the form anew."""
        self.form, self._changes = event.form, {}
        self._was_told_of_change = False
        form = self.query_one("#form", VerticalScroll)
        had_focus = form.has_focus_within or form.has_focus
        await form.remove_children()
        lines = [FormLine(field) for field in event.form.fields]
        await form.mount_all(lines)
        self._fold()
        if had_focus:
            form.focus()
        self.query_one("#train-facts", Static).update(f" {event.form.facts}")
        self._judge()

    def on_form_line_edited(self, event: FormLine.Edited) -> None:
        """Judge what was typed."""
        before = {field.key: field.value for field in self.form.fields}
        if event.value == before.get(event.key):
            self._changes.pop(event.key, None)
        else:
            self._changes[event.key] = event.value
            other = {"training.steps": "training.minutes", "training.minutes": "training.steps"}
            if event.key in other and event.value:
                self._empty_field(other[event.key])
        self._judge()

    def on_judged(self, event: Judged) -> None:
        """Show each fault at its line, and the command."""
        self.verdict, self._judged = event.verdict, event.changes
        by_key = {fault.key: fault.text for fault in event.verdict.faults}
        lines = {line.field.key: line for line in self.query(FormLine)}
        for key, line in lines.items():
            line.fault = by_key.get(key, "")
        words = [f"✗ {fault.key}: {fault.text}" for fault in event.verdict.faults]
        self.query_one("#train-faults", Static).update("\n".join(words))
        num = len(self._changes)
        changed = f"{num} changed · " if num else ""
        self.query_one("#train-command", Static).update(
            f" {changed}$ {printable(event.verdict.command)}"
        )

        if not event.verdict.faults:
            self._foresee()
        if self._submits_when_judged and self._judged == self._settings():
            self._submits_when_judged = False
            self.action_submit()

    def _foresee(self) -> None:
        """Let a child work out what would happen; it is asked when the typing has paused."""
        self.forecast = None
        if self._forecast_timer is not None:
            self._forecast_timer.stop()
        self._forecast_timer = self.set_timer(_FORESEE_AFTER_S, self._ask_forecast)

    def _ask_forecast(self) -> None:
        if self.is_shown and not self.verdict.faults:
            work = partial(self._read_forecast, self.verdict.overrides)
            self.run_worker(work, thread=True, group="forecast")

    def _read_forecast(self, overrides: tuple[str, ...]) -> None:
        forecast = self._forecaster.read(overrides)
        if forecast is not None:
            self.post_message(Foreseen(forecast))

    def on_foreseen(self, event: Foreseen) -> None:
        """Show it, if the form still says the same."""
        if event.forecast.overrides == self.verdict.overrides:
            self._foreseen_at = time.monotonic()
            self.forecast = event.forecast

    def watch_forecast(self, forecast: Forecast | None) -> None:
        """Show what will happen, or why it cannot begin."""
        if not self.is_built:
            return
        rows = self.query_one("#forecast", Rows)
        rows.rows = forecast_rows(forecast) if forecast is not None else ()
        title = f"─ {forecast_title(forecast)} "
        self.query_one("#forecast-title", Static).update(title + "─" * 200)

    @on(Rows.Opened, "#forecast")
    def read_forecast(self, event: Rows.Opened) -> None:
        """Enter opens an error, or a choice with its reason, whole."""
        if self.forecast is None or event.row is None:
            return
        place = int(event.row.key)
        if self.forecast.errors:
            self.attempt(partial(notices.of_finding, self.forecast.errors[place], self.folder, ""))
        else:
            self.attempt(partial(notices.of_choice, self.forecast.rows[place]))

    def act_on(self, notice: Notice, deed: Deed) -> None:
        """Work it out again."""
        if deed == "check":
            self._foresee()

    def on_unmount(self) -> None:
        """Nobody waits for the child any more."""
        self._forecaster.end()

    def on_submitted(self, event: Submitted) -> None:
        """Go and look at the run."""
        self.page_app.tell(
            f"Job {event.job}: {event.run} is in the queue. Quitting does not stop it."
        )
        if self.is_shown and self.screen is self.app.screen:  # else the person went on
            self.post_message(TabWanted("runs", event.run))

    def action_read(self) -> None:
        """Read the file again."""
        self.run_worker(self._read, thread=True, exclusive=True, group="read")

    def action_fold(self) -> None:
        """Show all settings, or the first ones."""
        self._unfolded = not self._unfolded
        self._fold()

    def action_leave_field(self) -> None:
        """From a field to the form, from the form to the list of projects."""
        form = self.query_one("#form", VerticalScroll)
        if form.has_focus:
            self.screen.run_worker(self.screen.run_action("back"))
        else:
            form.focus()

    @property
    def unsaved(self) -> str:
        """Changes that neither project.toml nor a run has."""
        if self._changes in ({}, self._submitted):
            return ""
        return "The changes in Train are not in project.toml: w there writes them."

    def action_write(self) -> None:
        """Write the changes into project.toml."""
        if not self.may_change():
            return
        if not self._changes:
            self.page_app.tell("Nothing was changed")
            return
        self.attempt(self._write)

    def action_submit(self) -> None:
        """Put the training into the queue."""
        if not self.may_change():
            return
        if self._judged != self._settings():  # the last letter was typed just now
            self._submits_when_judged = True
            self._judge_now()
            return
        if self.verdict.faults:
            self.page_app.tell("Mend what is marked with ✗ first", "error")
            return
        dropped = [
            key
            for key, text in self._changes.items()
            if not text.strip() and not self._replaced(key)
        ]
        if dropped:
            self.page_app.tell(
                f"Write project.toml first (w): {', '.join(dropped)} was emptied", "warning"
            )
            return
        overrides, known = self.verdict.overrides, self.forecast
        is_fresh = time.monotonic() - self._foreseen_at < _FRESH_S
        if known is not None and not known.fault and is_fresh and known.overrides == overrides:
            if known.errors:
                self.on_refused(Refused(overrides, known.errors))
            else:
                self.attempt(partial(self._submit, overrides))
        else:
            self.page_app.tell("Checked first: some seconds …")
            self.attempt(partial(self._check_and_submit, overrides))

    def on_refused(self, event: Refused) -> None:
        """Known errors stop the start, unless the person wants it all the same."""
        num = len(event.errors)
        lines = [f"{_counted(num, 'error')} of the check: the training would end with it."]
        lines += [f"✗ {Path(one.file).name}: {one.what}" for one in event.errors[:_NAMED_ERRORS]]
        lines += [f"and {num - _NAMED_ERRORS} more"] if num > _NAMED_ERRORS else []
        work = partial(self.attempt, partial(self._submit, event.overrides))
        self.confirm("\n".join(lines), "start anyway", work)

    def _check_and_submit(self, overrides: tuple[str, ...]) -> Message:
        errors = jobs.refusals_of(self.folder, overrides)
        return Refused(overrides, errors) if errors else self._submit(overrides)

    def _submit(self, overrides: tuple[str, ...]) -> Submitted:
        changes = dict(self._changes)
        submitted = Submitted(*jobs.submit_training(self.folder, overrides, is_checked=True))
        self._submitted = changes
        return submitted

    def _write(self) -> str:
        word = engine_link_train.write_form(self.folder, dict(self._changes), self.form.digest)
        self._read()
        return word

    def _read(self) -> None:
        self.post_message(FormRead(engine_link_train.read_form(self.folder)))

    def _look_at_file(self) -> None:
        if digest_of(self.folder) != self.form.digest:
            self.app.call_from_thread(self._file_changed)

    def _file_changed(self) -> None:
        if not self._changes:
            self.action_read()
        elif not self._was_told_of_change:
            self._was_told_of_change = True
            self.page_app.tell(
                "project.toml changed on the disk: R reads it again and drops your changes",
                "warning",
            )

    def _judge(self) -> None:
        if self._judge_timer is not None:
            self._judge_timer.stop()
        self._judge_timer = self.set_timer(_JUDGE_AFTER_S, self._judge_now)

    def _judge_now(self) -> None:
        work = partial(self._ask_engine, self._settings())
        self.run_worker(work, thread=True, exclusive=True, group="judge")

    def _settings(self) -> dict[str, str]:
        """Return the changes that count."""
        return {key: text for key, text in self._changes.items() if not self._replaced(key)}

    def _ask_engine(self, changes: dict[str, str]) -> None:
        verdict = engine_link_train.judge(self.folder, changes)
        self.post_message(Judged(verdict, changes))

    def _replaced(self, key: str) -> bool:
        """Tell whether a key is empty only because its other half of the budget is given."""
        other = {"training.steps": "training.minutes", "training.minutes": "training.steps"}.get(
            key
        )
        return bool(
            other
            and not self._changes.get(key, "x").strip()
            and self._changes.get(other, "").strip()
        )

    def _empty_field(self, key: str) -> None:
        line = self.query_one("#field-" + key.replace(".", "-"), FormLine)
        box = line.query_one(Input)
        if box.value:
            box.value = ""

    def _fold(self) -> None:
        for line in self.query(FormLine):
            line.display = self._unfolded or line.field.key in FIRST or bool(line.field.value)


def forecast_title(forecast: Forecast | None) -> str:
    """Return what will happen in one line: the errors, or the time."""
    if forecast is None:
        return "working out what will happen …"
    if forecast.fault:
        return f"what will happen could not be worked out: {one_line(forecast.fault)}"
    warnings = f", {_counted(forecast.num_warnings, 'warning')}" if forecast.num_warnings else ""
    if forecast.errors:
        return f"✗ {_counted(len(forecast.errors), 'error')} would end it{warnings}"
    time_row = next((row for row in forecast.rows if row.name in ("time", "steps")), None)
    about = f": {time_row.name} {time_row.value}" if time_row is not None else ""
    return f"what will happen{about}{warnings and warnings + ' in 1 Data'}"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def forecast_rows(forecast: Forecast) -> list[Row]:
    """Return a line a choice of the plan, or a line an error."""
    if forecast.errors:
        return [
            Row(key=str(n), cells=("✗", Path(one.file).name, one.what, one.remedy), tone="bad")
            for n, one in enumerate(forecast.errors)
        ]
    return [
        Row(key=str(n), cells=("", row.name, row.value, row.why))
        for n, row in enumerate(forecast.rows)
    ]

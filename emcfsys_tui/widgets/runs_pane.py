"""Runs: the list, live charts of those that are shown, scores of classes, and the log."""

import contextlib
from functools import partial
from pathlib import Path
from typing import ClassVar

from msgspec.structs import replace
from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from emcfsys_engine.errors import EmcfError, InputError
from emcfsys_engine.run.folder import Run
from emcfsys_engine.text import clock, for_shell
from emcfsys_tui.engine import notices, runs
from emcfsys_tui.engine.data import Decoder
from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.messages import PictureRead, PointRead, RunsRead, TabWanted
from emcfsys_tui.settings import pin_runs, pinned_runs, quiet, shown
from emcfsys_tui.text import safe_lines
from emcfsys_tui.view_models import (
    BADLY_ENDED,
    ENDABLE,
    Deed,
    Notice,
    QueueState,
    RunDetail,
    RunRow,
)
from emcfsys_tui.widgets import run_rows
from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.list import ClassTable, Row, Rows
from emcfsys_tui.widgets.log_view import LogView, TextInput
from emcfsys_tui.widgets.pane import GONE
from emcfsys_tui.widgets.picture_pane import PreviewBox
from emcfsys_tui.widgets.run_charts import HINTS, HINTS_OF_KINDS, RunCharts, waiting_hint
from emcfsys_tui.widgets.run_deeds import RunDeeds

_ALWAYS = (
    "mark_folds",
    "machine",
    "log_axis",
    "smooth",
    "whole_log",
    "enlarge",
    "restore",
)  # no run needed
_CHARTS, _EXTRA = ("#loss", "#iou"), ("#rate", "#speed")
_MOST_SHOWN = 6


class RunsPane(RunDeeds):
    """Every run of the project."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    RunsPane #middle { height: 1fr; }
    RunsPane #preview { display: none; width: 2fr; }
    RunsPane.-previews #preview { display: block; }
    RunsPane.-previews #all-charts { display: none; }
    Screen.-wide RunsPane.-previews #all-charts { display: block; }
    RunsPane #why { display: none; height: auto; max-height: 40%; color: $error; padding: 0 1; }
    RunsPane.-bad #why { display: block; }
    RunsPane.-bad.-bare #why { height: 1fr; max-height: 100%; }
    RunsPane.-bad.-bare #middle { display: none; }
    RunsPane #runs { height: auto; min-height: 3; max-height: 6; }
    Screen.-tall RunsPane #runs { max-height: 12; }
    RunsPane #runs-filter { height: 1; border: none; padding: 0 1; background: $panel; }
    RunsPane #details { height: 6; }
    Screen.-tall RunsPane #details { height: 12; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("space", "mark", "overlay", "runs.mark", "Draw this run together with others"),
        shown("x", "end", "end …", "runs.cancel", "Stop early, pause or cancel it (asks)"),
        shown("r", "ask('resume')", "resume", "runs.resume", "Go on from the checkpoint"),
        shown(
            "v",
            "previews",
            "previews",
            "runs.previews",
            "What the network drew at each validation, beside the truth",
        ),
        shown(
            "f",
            "filter_runs",
            "filter",
            "runs.filter_runs",
            "Show only runs like: iou>.8 backbone:resnet* failed",
        ),
        quiet("P", "pin", "Pin", "runs.pin", "Keep this run on top, and drawn with every other"),
        quiet(
            "M", "machine", "Machine", "runs.machine", "CPU, memory and GPU instead of the curves"
        ),
        quiet("escape", "drop_filter", "Show all runs again", "runs.drop_filter"),
        quiet(
            "F",
            "mark_folds",
            "Overlay the folds",
            "runs.folds",
            "All folds of its cross-validation",
        ),
        shown(
            "left_square_bracket",
            "preview(-1)",
            "before",
            "runs.preview_before",
            "The validation before",
            "[",
        ),
        shown(
            "right_square_bracket",
            "preview(1)",
            "after",
            "runs.preview_after",
            "The validation after",
            "]",
        ),
        quiet("n", "preview_image", "Next preview", "runs.preview_image", "Its next image"),
        shown(
            "slash", "filter", "filter log", "runs.filter", "Show only lines with this text", "/"
        ),
        quiet(
            "p",
            "ask('pause')",
            "Pause",
            "runs.pause",
            "Save, free the GPU, keep the place in the queue",
        ),
        quiet("L", "log_axis", "Log axis", "runs.log_axis", "Logarithmic loss axis on or off"),
        quiet(
            "S", "smooth", "Smooth", "runs.smooth", "Smooth the curves: off, a little, more, much"
        ),
        quiet("m", "model", "Model of this run", "runs.model", "Show its model file in Models"),
        quiet("t", "whole_log", "Whole log", "runs.log", "Events or the worker's own output"),
    ]

    BOXES = (
        ("#runs", "#why", "#runs-filter"),
        ("#loss",),
        ("#iou",),
        ("#preview",),
        ("#classes", "#log"),
        ("#rate",),
        ("#speed",),
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._details: dict[str, RunDetail] = {}
        self._reader = RunsReader(folder)
        self._has_log = False
        self._pinned, self._pins_fault = pinned_runs(folder)
        self._holds: run_rows.Test = run_rows.filter_of("")
        self._wanted = ""  # a run that is to be chosen once it is read
        self._decoder = Decoder(self.post_message)

    @property
    def command(self) -> str:
        """The command that lists the runs, or follows the one that runs."""
        run = self._current()
        if run is not None and run.job is not None and run.state == "running":
            return f"emcfsys-engine logs -f {run.job}"
        return f"emcfsys-engine runs {for_shell(self.folder)}"

    def compose(self) -> ComposeResult:
        """List, charts, details."""
        yield TextInput(
            placeholder="iou>.8 backbone:resnet* failed; esc ends", id="runs-filter", compact=True
        )
        yield Rows(run_rows.RUN_COLUMNS, id="runs", empty="Reading runs …")
        yield Static(id="why", markup=False)
        with Horizontal(id="middle"):
            yield RunCharts(id="all-charts")
            yield PreviewBox(id="preview")
        with Horizontal(id="details"):
            yield ClassTable(id="classes")
            yield LogView(id="log")

    def on_mount(self) -> None:
        """Follow the runs in a thread."""
        self.query_one("#runs-filter").display = False
        self.app.theme_changed_signal.subscribe(self, lambda theme: self._show_details())
        if self._pins_fault:
            self.page_app.tell(self._pins_fault, "warning")
        self.feed_on(self._reader.read, every_s=1.0)

    def on_unmount(self) -> None:
        """Let the decoder end."""
        self._decoder.close()

    def is_open(self, place: int) -> bool:
        """Charts or previews, and neither for a run that never had a step."""
        name = self.BOXES[place][0]
        if name in _EXTRA and not self.screen.has_class("-tall"):
            return False
        if self.has_class("-bare"):
            return name not in (*_CHARTS, *_EXTRA, "#preview")
        if self.has_class("-previews"):
            return name not in (*_CHARTS, *_EXTRA)
        return name != "#preview"

    def watch_queue_state(self, queue: QueueState) -> None:
        """A run that waits says so."""
        self._show_rows()

    def take_focus(self) -> None:
        """The list first."""
        self.query_one("#runs", Rows).focus()

    def go_to_item(self, item: str) -> None:
        """Put the cursor on a run, now or when it was read: it may be seconds old."""
        self._wanted = "" if self.query_one("#runs", Rows).go_to(item) else item

    def on_runs_read(self, event: RunsRead) -> None:
        """Show what was read: one message a batch."""
        if not self.query_one(RunCharts).stands:
            self.call_later(self.on_runs_read, event)
            return
        if not event.is_complete:
            self.look_now()  # the rest
        is_first = not self._runs
        self._runs, self._details = event.runs, event.details
        rows = self.query_one("#runs", Rows)
        nothing = GONE if event.is_gone else run_rows.NO_RUNS
        rows.empty = "No run is like that. esc shows all again." if self._runs else nothing
        if is_first or not self._runs:
            self.refresh_bindings()
        self._show_rows()
        if self._wanted and rows.go_to(self._wanted):
            self._wanted = ""
        if is_first and rows.current is not None:
            self._choose()
        self._show_details()
        self.watch_drawn()

    @on(Rows.Moved, "#runs")
    def follow_cursor(self) -> None:
        """Show the run under the cursor."""
        self._choose()

    @on(Rows.Opened, "#runs")
    def open_run(self) -> None:
        """Enter opens what there is to read of a run that ended badly, else goes to the chart."""
        run = self._current()
        if run is not None and run.state in BADLY_ENDED:
            self.attempt(partial(notices.of_run, run))
        else:
            self.query_one("#loss", Chart).focus()

    def on_log_view_opened(self, event: LogView.Opened) -> None:
        """Enter opens the whole line."""
        run = self._current()
        if run is not None:
            time, text, _ = event.line
            log = Run(run.folder).log_file
            self.attempt(partial(notices.of_line, time, text, run.id, log))

    def act_on(self, notice: Notice, deed: Deed) -> None:
        """Try a run again."""
        run = next((run for run in self._runs if run.id == notice.about), None)
        if deed == "retry" and run is not None and self.may_change():
            self.attempt(partial(runs.ask_run, run.folder, "resume"))

    def action_filter_runs(self) -> None:
        """Ask which runs to show."""
        self.open_filter("#runs-filter")

    @on(Input.Changed, "#runs-filter")
    def filter_runs(self, event: Input.Changed) -> None:
        """Filter as the person types; half a comparison filters nothing yet."""
        with contextlib.suppress(InputError):
            self._holds = run_rows.filter_of(event.value)
            self._show_rows()

    @on(Input.Submitted, "#runs-filter")
    def end_filter(self, event: Input.Submitted) -> None:
        """Keep the filter; say what is wrong with it."""
        try:
            run_rows.filter_of(event.value)
        except InputError as error:
            self.page_app.tell(str(error), "warning")
            return
        self.query_one("#runs-filter").display = bool(event.value.strip())
        self.take_focus()

    def action_drop_filter(self) -> None:
        """Show all runs again."""
        self.close_filter("#runs-filter")

    def action_pin(self) -> None:
        """Keep the run under the cursor on top and drawn, or no longer."""
        run = self._current()
        if run is None:
            return
        pinned = self._pinned.intersection(one.id for one in self._runs) ^ {run.id}
        if run.id in pinned and len(pinned) >= _MOST_SHOWN:
            self.page_app.tell(f"{_MOST_SHOWN - 1} runs at most can be pinned", "warning")
            return
        self._pinned = pinned
        try:
            pin_runs(self.folder, self._pinned)
        except (EmcfError, OSError) as error:
            self.page_app.tell(f"pinned until you leave: {error}", "warning")
        self._show_rows()
        self._choose()

    def action_machine(self) -> None:
        """Show what the machine did instead of what the network learned, or back."""
        self.query_one(RunCharts).switch_machine()

    def action_mark(self) -> None:
        """Draw this run together with the others that are marked."""
        rows = self.query_one("#runs", Rows)
        if rows.current is None:
            return
        marked = rows.marked ^ {rows.current.key}
        if len(marked) > _MOST_SHOWN:
            self.page_app.tell(f"{_MOST_SHOWN} runs at most can be drawn together", "warning")
            return
        rows.marked = marked
        self._choose()

    def action_mark_folds(self) -> None:
        """Draw all folds of this run's cross-validation together, and tell their mean."""
        run = self._current()
        if run is None or not run.group:
            self.page_app.tell("This run is no fold of a cross-validation", "warning")
            return
        folds = run_rows.folds_of(run.group, self._runs)
        self.query_one("#runs", Rows).marked = frozenset(one.id for one in folds[:_MOST_SHOWN])
        self.page_app.tell(run_rows.folds_words(run.group, folds))
        self._choose()

    def action_log_axis(self) -> None:
        """Switch the loss axis."""
        self.query_one(RunCharts).switch_log_axis()

    def action_smooth(self) -> None:
        """Smooth more, then not at all."""
        self.query_one(RunCharts).smooth_more()

    def action_filter(self) -> None:
        """Look for a text in the log."""
        self.query_one(LogView).ask_filter()

    def action_whole_log(self) -> None:
        """Show events, or what the worker printed."""
        self._has_log = not self._has_log
        self._show_details()

    def action_model(self) -> None:
        """Go to this run's model file."""
        run = self._current()
        if run is not None:
            self.post_message(TabWanted("models", run.id))

    def action_ask(self, ask: str) -> None:
        """Ask something of the run under the cursor."""
        run = self._current()
        if run is None or not self.may_change():
            return
        self.attempt(partial(runs.ask_run, run.folder, ask))

    def action_end(self) -> None:
        """Ask whether and how the run under the cursor shall end."""
        run = self._current()
        if run is None or not self.may_change():
            return
        state = self._state_of(run)
        if state not in ENDABLE:
            self.page_app.tell(f"{run.id} is {state}: nothing to end", "warning")
            return
        do = partial(partial, runs.ask_run, run.folder)
        self.ask_how_to_end(run.id, run.does or "train", state, do)

    def on_preview_box_wanted(self, event: PreviewBox.Wanted) -> None:
        """Decode a preview."""
        self._decoder.request(event.request)

    def on_picture_read(self, event: PictureRead) -> None:
        """Hand a decoded preview on."""
        self.query_one(PreviewBox).on_picture_read(event)

    def on_point_read(self, event: PointRead) -> None:
        """Hand on what is under the pointer."""
        self.query_one(PreviewBox).on_point_read(event)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer what can be done: nothing to a run where there is none, steps in previews."""
        if action in ("preview", "preview_image"):
            return self.has_class("-previews")
        if action == "drop_filter":
            return self.is_mounted and bool(self.query_one("#runs-filter").display)
        return bool(self._runs) or action in _ALWAYS

    def action_previews(self) -> None:
        """Show the previews: instead of the charts, or beside them where there is room."""
        self.toggle_class("-previews")
        self.refresh_bindings()
        if self.is_alone:
            self.show_box(3 if self.has_class("-previews") else 0)

    def action_preview(self, by: int) -> None:
        """Go to the validation before or after."""
        self.query_one(PreviewBox).move(by)

    def action_preview_image(self) -> None:
        """Go to another image of the validation."""
        self.query_one(PreviewBox).next_image()

    def _current(self) -> RunRow | None:
        row = self.query_one("#runs", Rows).current
        return next((run for run in self._runs if row is not None and run.id == row.key), None)

    def _choose(self) -> None:
        rows = self.query_one("#runs", Rows)
        here = {rows.current.key} if rows.current is not None else set[str]()
        known = {run.id for run in self._runs}
        wanted = (rows.marked | self._pinned) & known
        shown = tuple(sorted([*sorted(wanted - here)[: _MOST_SHOWN - 1], *here], reverse=True))
        if shown != self.drawn:
            self.drawn = shown
            self._reader.shown = frozenset(shown)
            self.look_now()
            self._show_rows()

    def _show_rows(self) -> None:
        if not self.is_built:
            return
        letters = run_rows.letters_of(self.drawn)
        rows: list[Row] = []
        shown = [run for run in self._runs if self._holds(run) or run.id in self._pinned]
        for run in sorted(shown, key=lambda run: run.id not in self._pinned):
            row = run_rows.run_row(run, self._state_of(run), letters.get(run.id, ""))
            is_pinned = run.id in self._pinned
            rows.append(
                replace(row, cells=(*row.cells[:1], f"◆{run.id}", *row.cells[2:]))
                if is_pinned
                else row
            )
        self.query_one("#runs", Rows).rows = rows

    def _show_details(self) -> None:
        details = [self._details[name] for name in self.drawn if name in self._details]
        self.query_one(RunCharts).show(details, run_rows.letters_of(self.drawn))
        rows = self.query_one("#runs", Rows)
        current = self._details.get(rows.current.key) if rows.current else None
        table = self.query_one(ClassTable)
        table.colours = self.page_app.class_colours(len(current.classes) if current else 0)
        table.detail = current
        self.query_one(PreviewBox).detail = current
        self._show_why(current)
        log = self.query_one(LogView)
        if current is None:
            log.lines = ()
        elif self._has_log:
            log.lines = tuple(("", line, "") for line in current.log)
        else:
            log.lines = tuple((clock(line.time), line.text, line.tone) for line in current.lines)

    def _show_why(self, detail: RunDetail | None) -> None:
        """Say where the curves would be why a run ended badly; over them where it has some."""
        run = self._current()
        is_bad = run is not None and detail is not None and self._state_of(run) in BADLY_ENDED
        self.set_class(is_bad, "-bad")
        self.set_class(is_bad and not (detail and detail.curves), "-bare")
        if is_bad and run is not None and detail is not None:
            self.query_one("#why", Static).update(safe_lines(notices.why_of(run, detail.log)))

    def watch_drawn(self) -> None:
        """Say in empty charts why they are."""
        self.query_one(RunCharts).show_hint(self._chart_hint())

    def _chart_hint(self) -> str:
        """Return why there is no curve."""
        if not self._runs:
            return ""
        drawn = [run for run in self._runs if run.id in self.drawn]
        kinds = {run.does for run in drawn}
        if len(kinds) == 1 and (hint := HINTS_OF_KINDS.get(kinds.pop())):
            return hint
        if not all(name in self._details for name in self.drawn):
            return "Reading its events …"
        for run in drawn:
            if run.phase == "waiting":
                return waiting_hint(self._details[run.id])
        states = {self._state_of(run) for run in drawn}
        return next((HINTS[state] for state in HINTS if state in states), "No step was done")

    def _state_of(self, run: RunRow) -> str:
        """Return a run's state, or that of its open job: it may wait to begin, or to go on."""
        job = next((j for j in self.queue_state.jobs if j.run == run.folder and j.is_open), None)
        return job.state if job is not None and run.state != "running" else run.state

"""Runs: the list, live charts of those that are shown, scores of classes, and the log."""

from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.reactive import reactive
from textual.widgets import Static

from emcfsys_engine.run.folder import Run
from emcfsys_engine.text import clock
from emcfsys_tui.engine import notices, runs
from emcfsys_tui.engine.data import Decoder
from emcfsys_tui.engine.runs_reader import RunsReader
from emcfsys_tui.messages import PictureRead, PointRead, RunsRead, TabWanted, TextFound
from emcfsys_tui.screens.dialogs import AskScreen, PickScreen
from emcfsys_tui.settings import quiet, shown
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
from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.list import ClassTable, Row, Rows
from emcfsys_tui.widgets.log_view import LogView
from emcfsys_tui.widgets.pane import FedPane
from emcfsys_tui.widgets.picture_pane import PreviewBox
from emcfsys_tui.widgets.run_charts import HINTS, RunCharts
from emcfsys_tui.widgets.run_rows import LETTERS, RUN_COLUMNS, folds_words, run_row

_EMPTY = (
    "No runs yet. 2 goes to Train: choose a preset and press s.\n"
    "1 goes to Data: look at the images and their labels first."
)
_ALWAYS = ("mark_folds", "log_axis", "smooth", "whole_log", "enlarge", "restore")  # no run needed
_CHARTS, _EXTRA = ("#loss", "#iou"), ("#rate", "#speed")
_MOST_SHOWN = 6


class RunsPane(FedPane):
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
        quiet(
            "F",
            "mark_folds",
            "Overlay the folds",
            "runs.folds",
            "All folds of its cross-validation",
        ),
        quiet("c", "compare", "Compare", "runs.compare", "Settings in which the shown runs differ"),
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
        quiet(
            "e", "extend", "Extend", "runs.extend", "Train on, with more steps or minutes, as a job"
        ),
        quiet("E", "export", "Export", "runs.export", "Write the best model for other programs"),
        quiet("R", "report", "Report", "runs.report", "Write the run as one HTML page"),
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
        quiet("delete,D", "delete", "Delete", "runs.delete", "Remove the run's folder (asks)"),
    ]

    BOXES = (
        ("#runs", "#why"),
        ("#loss",),
        ("#iou",),
        ("#preview",),
        ("#classes", "#log"),
        ("#rate",),
        ("#speed",),
    )

    drawn: reactive[tuple[str, ...]] = reactive((), repaint=False)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runs: tuple[RunRow, ...] = ()
        self._details: dict[str, RunDetail] = {}
        self._reader = RunsReader(folder)
        self._has_log = False
        self._wanted = ""  # a run that is to be chosen once it is read
        self._decoder = Decoder(self.post_message)

    @property
    def command(self) -> str:
        """The command that lists the runs, or follows the one that runs."""
        run = self._current()
        if run is not None and run.job is not None and run.state == "running":
            return f"emcfsys-engine logs -f {run.job}"
        return f"emcfsys-engine runs {self.folder}"

    def compose(self) -> ComposeResult:
        """List, charts, details."""
        yield Rows(RUN_COLUMNS, id="runs", empty="Reading runs …")
        yield Static(id="why", markup=False)
        with Horizontal(id="middle"):
            yield RunCharts(id="all-charts")
            yield PreviewBox(id="preview")
        with Horizontal(id="details"):
            yield ClassTable(id="classes")
            yield LogView(id="log")

    def on_mount(self) -> None:
        """Follow the runs in a thread."""
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
        if not event.is_complete:
            self.look_now()  # the rest
        is_first = not self._runs
        self._runs, self._details = event.runs, event.details
        rows = self.query_one("#runs", Rows)
        rows.empty = _EMPTY
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
        folds = [one for one in self._runs if run is not None and run.group == one.group]
        if run is None or not run.group:
            self.page_app.tell("This run is no fold of a cross-validation", "warning")
            return
        self.query_one("#runs", Rows).marked = frozenset(one.id for one in folds[:_MOST_SHOWN])
        self.page_app.tell(folds_words(run.group, folds))
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

    def action_extend(self) -> None:
        """Ask for a larger budget, and queue the run with it."""
        run = self._training()
        if run is None or not self.may_change():
            return

        def answered(answer: str | None) -> None:
            if answer:
                self.attempt(partial(runs.extend_run, run.folder, answer))

        question = (
            f"Train {run.id} on from step {run.step:,}.\n"
            "To which step in all, or for how long in all (like 30 min)?"
        )
        command = runs.as_command("submit", "extend", str(run.folder), "--set")
        self.app.push_screen(
            AskScreen(
                question,
                runs.proposed_budget(run),
                command=f"{command} training.steps=…",
            ),
            answered,
        )

    def action_export(self) -> None:
        """Ask for a format, and write the best model in it."""
        run = self._training()
        if run is None or not self.may_change():
            return

        def answered(kind: str | None) -> None:
            if kind:
                self.page_app.tell(f"Exporting {run.id}: its output is compared, some seconds …")
                self.attempt(partial(runs.export_model, run.folder, kind))

        command = runs.as_command(*runs.export_command(run.folder, "FORMAT"))
        question = f"Write the best model of {run.id} as"
        self.app.push_screen(PickScreen(question, runs.EXPORTS, command=command), answered)

    def action_report(self) -> None:
        """Write the run as one page, and copy its path."""
        run = self._current()
        if run is not None and self.may_change():
            self.page_app.tell(
                f"Writing the report … $ {runs.as_command('report', str(run.folder))}"
            )
            self.attempt(partial(self._report, run.folder))

    def action_compare(self) -> None:
        """Show the settings in which the shown runs differ."""
        folders = [run.folder for run in self._runs if run.id in self.drawn]
        if len(folders) < 2:
            self.page_app.tell("Mark two runs or more with space, then compare them", "warning")
            return
        title = "Settings that differ: " + ", ".join(folder.name for folder in folders)
        self.attempt(lambda: TextFound(title, runs.compare_runs(folders)))

    def action_delete(self) -> None:
        """Remove a run's folder, after asking."""
        run = self._current()
        if run is None or not self.may_change():
            return
        question = f"Delete {run.id} with its models, for good?\n{run.folder}"
        work = partial(runs.delete_run, run.folder)
        self.confirm(question, "delete it", lambda: self.attempt(work))

    def _report(self, folder: Path) -> None:
        file = runs.write_report(folder)
        self.app.call_from_thread(self.page_app.copy_with_word, str(file))

    def _training(self) -> RunRow | None:
        """Return the run under the cursor, if it is a training."""
        run = self._current()
        if run is not None and run.does != "train":
            self.page_app.tell(f"{run.id} is no training", "warning")
            return None
        return run

    def _current(self) -> RunRow | None:
        row = self.query_one("#runs", Rows).current
        return next((run for run in self._runs if row is not None and run.id == row.key), None)

    def _choose(self) -> None:
        rows = self.query_one("#runs", Rows)
        here = {rows.current.key} if rows.current is not None else set[str]()
        known = {run.id for run in self._runs}
        shown = tuple(sorted((rows.marked & known) | here, reverse=True))
        if shown != self.drawn:
            self.drawn = shown
            self._reader.shown = frozenset(shown)
            self.look_now()
            self._show_rows()

    def _show_rows(self) -> None:
        if not self.is_built:
            return
        letters = self._letters()
        rows: list[Row] = []
        for run in self._runs:
            rows.append(run_row(run, self._state_of(run), letters.get(run.id, "")))
        self.query_one("#runs", Rows).rows = rows

    def _letters(self) -> dict[str, str]:
        """Return the letter of each run that is drawn, where several are."""
        return dict(zip(self.drawn, LETTERS, strict=False)) if len(self.drawn) > 1 else {}

    def _show_details(self) -> None:
        details = [self._details[name] for name in self.drawn if name in self._details]
        self.query_one(RunCharts).show(details, self._letters())
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
        kinds = {run.does for run in self._runs if run.id in self.drawn}
        if kinds == {"watch"}:
            return "A watch: 4 shows what came"
        if kinds == {"predict"}:
            return "A prediction: its log is below"
        if not all(name in self._details for name in self.drawn):
            return "Reading its events …"
        states = {self._state_of(run) for run in self._runs if run.id in self.drawn}
        return next((HINTS[state] for state in HINTS if state in states), "No step was done")

    def _state_of(self, run: RunRow) -> str:
        """Return a run's state, or that of its open job: it may wait to begin, or to go on."""
        job = next((j for j in self.queue_state.jobs if j.run == run.folder and j.is_open), None)
        return job.state if job is not None and run.state != "running" else run.state

"""Runs: the list, live charts of those that are shown, scores of classes, and the log."""

import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.reactive import reactive

from emcfsys_tui import engine_link
from emcfsys_tui.feed import Feed
from emcfsys_tui.keys import quiet, shown
from emcfsys_tui.messages import RunsRead, TabWanted, TextFound
from emcfsys_tui.values import STATE_LOOKS, QueueState, RunDetail, RunRow
from emcfsys_tui.widgets.chart import Chart, Curve
from emcfsys_tui.widgets.class_table import ClassTable
from emcfsys_tui.widgets.log_view import LogView
from emcfsys_tui.widgets.pane import Pane
from emcfsys_tui.widgets.rows import Column, Row, Rows
from emcfsys_tui.words import clock, span

_COLUMNS = (
    Column(title="", width=1),
    Column(title="run", width=10),
    Column(title="state", width=13),
    Column(title="best", width=6, right=True),
    Column(title="at step", width=8, right=True),
    Column(title="step", width=15, right=True),
    Column(title="left", width=8, right=True),
    Column(title="network", cut="middle", hide_below=70),
    Column(title="why", hide_below=110),
)
_EMPTY = (
    "No runs yet. 2 goes to Train: choose a preset and press s.\n"
    "1 goes to Data: look at the images and their labels first."
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_STAGGER_S = 0.03
_MOST_SHOWN = 6


class RunsPane(Pane):
    """Every run of the project."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    .charts { height: 3fr; }
    .charts.extra { display: none; }
    Screen.-tall .charts.extra { display: block; layout: horizontal; }
    RunsPane #runs { height: 6; }
    Screen.-tall RunsPane #runs { height: 10; }
    RunsPane #details { height: 6; }
    Screen.-tall RunsPane #details { height: 12; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("space", "mark", "overlay", "runs.mark", "Draw this run together with others"),
        shown("s", "ask('stop')", "stop", "runs.stop", "End early: what was reached is the result"),
        shown("r", "ask('resume')", "resume", "runs.resume", "Go on from the checkpoint"),
        shown("c", "compare", "compare", "runs.compare", "Settings in which the shown runs differ"),
        shown(
            "slash", "filter", "filter log", "runs.filter", "Show only lines with this text", "/"
        ),
        quiet(
            "x", "ask('cancel')", "Cancel", "runs.cancel", "End for good; what was reached is saved"
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

    drawn: reactive[tuple[str, ...]] = reactive(())

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._runs: tuple[RunRow, ...] = ()
        self._details: dict[str, RunDetail] = {}
        self._reader = engine_link.RunsReader(folder)
        self._to_draw: deque[tuple[Chart, tuple[Curve, ...]]] = deque()
        self._is_drawing = False
        self._has_log = False

    @property
    def command(self) -> str:
        """The command that lists the runs, or follows the one that runs."""
        run = self._current()
        if run is not None and run.job is not None and run.state == "running":
            return f"emcfsys-engine logs -f {run.job}"
        return f"emcfsys-engine runs {self.folder}"

    def compose(self) -> ComposeResult:
        """List, charts, details."""
        yield Rows(_COLUMNS, id="runs", empty="Reading runs …")
        with Horizontal(classes="charts"):
            yield Chart("loss", id="loss", log_y=True)
            yield Chart("IoU", id="iou")
        with Horizontal(classes="charts extra"):
            yield Chart("learning rate", id="rate", decimals=6)
            yield Chart("images/s", id="speed", decimals=1)
        with Horizontal(id="details"):
            yield ClassTable(id="classes")
            yield LogView(id="log")

    def on_mount(self) -> None:
        """Follow the runs in a thread."""
        self._feed = Feed(self, self._reader.read, every_s=1.0)

    def on_unmount(self) -> None:
        """Let the thread end."""
        self._feed.end()

    def watch_is_shown(self, is_shown: bool) -> None:
        """Read only while somebody looks."""
        if hasattr(self, "_feed"):
            self._feed.pause(not is_shown)

    def watch_queue_state(self, queue: QueueState) -> None:
        """A run that waits says so."""
        self._show_rows()

    def take_focus(self) -> None:
        """The list first."""
        self.query_one("#runs", Rows).focus()

    def look_now(self) -> None:
        """Read at once."""
        self._feed.look_now()

    def go_to_item(self, item: str) -> None:
        """Put the cursor on a run."""
        self.query_one("#runs", Rows).go_to(item)

    def on_runs_read(self, event: RunsRead) -> None:
        """Show what was read: one message a batch."""
        is_first = not self._runs
        self._runs, self._details = event.runs, event.details
        rows = self.query_one("#runs", Rows)
        rows.empty = _EMPTY
        self._show_rows()
        if is_first and rows.current is not None:
            self._choose()
        self._show_details()

    @on(Rows.Moved, "#runs")
    def follow_cursor(self) -> None:
        """Show the run under the cursor."""
        self._choose()

    @on(Rows.Opened, "#runs")
    def open_run(self) -> None:
        """Enter goes to the chart."""
        self.query_one("#loss", Chart).focus()

    @on(Chart.Pointed)
    def point_all(self, event: Chart.Pointed) -> None:
        """One cursor over all charts."""
        for chart in self.query(Chart):
            chart.cursor_x = event.x

    @on(Chart.Zoomed)
    def zoom_all(self, event: Chart.Zoomed) -> None:
        """One window over all charts."""
        for chart in self.query(Chart):
            chart.window = event.window

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

    def action_log_axis(self) -> None:
        """Switch the loss axis."""
        chart = self.query_one("#loss", Chart)
        chart.log_y = not chart.log_y

    def action_smooth(self) -> None:
        """Smooth more, then not at all."""
        for chart in self.query(Chart):
            chart.smoothing = (chart.smoothing + 1) % 4

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
        work = partial(engine_link.ask_run, run.folder, ask)
        if ask == "cancel":
            self.confirm(f"Cancel {run.id} for good?", "cancel it", lambda: self.attempt(work))
        else:
            self.attempt(work)

    def action_compare(self) -> None:
        """Show the settings in which the shown runs differ."""
        folders = [run.folder for run in self._runs if run.id in self.drawn]
        if len(folders) < 2:
            self.page_app.tell("Mark two runs or more with space, then compare them", "warning")
            return
        title = "Settings that differ: " + ", ".join(folder.name for folder in folders)
        self.attempt(lambda: TextFound(title, engine_link.compare_runs(folders)))

    def action_delete(self) -> None:
        """Remove a run's folder, after asking."""
        run = self._current()
        if run is None or not self.may_change():
            return
        question = f"Delete {run.id} with its models, for good?\n{run.folder}"
        work = partial(engine_link.delete_run, run.folder)
        self.confirm(question, "delete it", lambda: self.attempt(work))

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
            self._feed.look_now()
            self._show_rows()

    def _show_rows(self) -> None:
        if not self.is_mounted:
            return
        jobs = {str(job.run): job for job in reversed(self.queue_state.jobs)}
        letters = self._letters()
        rows: list[Row] = []
        for run in self._runs:
            job = jobs.get(str(run.folder))
            state = (
                job.state
                if job is not None and job.is_open and run.state != "running"
                else run.state
            )
            rows.append(_row(run, state, letters.get(run.id, "")))
        self.query_one("#runs", Rows).rows = rows

    def _letters(self) -> dict[str, str]:
        """Return the letter of each run that is drawn, where several are."""
        return dict(zip(self.drawn, _LETTERS, strict=False)) if len(self.drawn) > 1 else {}

    def _show_details(self) -> None:
        details = [self._details[name] for name in self.drawn if name in self._details]
        for chart_id, curves in self._curves(details).items():
            self._to_draw.append((self.query_one(f"#{chart_id}", Chart), curves))
        self._draw_next()
        rows = self.query_one("#runs", Rows)
        current = self._details.get(rows.current.key) if rows.current else None
        self.query_one(ClassTable).detail = current
        log = self.query_one(LogView)
        if current is None:
            log.lines = ()
        elif self._has_log:
            log.lines = tuple(("", line, "") for line in current.log)
        else:
            log.lines = tuple((clock(line.time), line.text, line.tone) for line in current.lines)

    def _draw_next(self, *, again: bool = False) -> None:
        """Hand one chart its curves, the next one a moment later: no tick draws two."""
        if (self._is_drawing and not again) or not self.is_mounted:
            return
        self._is_drawing = bool(self._to_draw)
        if self._to_draw:
            chart, curves = self._to_draw.popleft()
            while any(other is chart for other, _ in self._to_draw):
                chart, curves = self._to_draw.popleft()
            chart.curves = curves
            self.set_timer(_STAGGER_S, partial(self._draw_next, again=True))

    def _curves(self, details: list[RunDetail]) -> dict[str, tuple[Curve, ...]]:
        colours = self.page_app.colours
        if len(details) == 1:
            return _curves_of_one(details[0], colours)
        letters = self._letters()
        wanted = {"loss": "train loss", "iou": "mean", "rate": "learning rate", "speed": "images/s"}
        return {
            chart: tuple(
                Curve(
                    name=detail.id,
                    glyph=letters.get(detail.id, "●"),
                    view=detail.curves[line],
                    colour=colours[place % len(colours)],
                    best_x=detail.best_step if chart == "iou" else None,
                )
                for place, detail in enumerate(details)
                if line in detail.curves
            )
            for chart, line in wanted.items()
        }


def _curves_of_one(detail: RunDetail, colours: tuple[object, ...]) -> dict[str, tuple[Curve, ...]]:
    lines = detail.curves

    def curve(
        line: str, name: str, glyph: str, place: int, best: float | None = None
    ) -> tuple[Curve, ...]:
        if line not in lines:
            return ()
        colour = colours[place % len(colours)]
        return (Curve(name=name, glyph=glyph, view=lines[line], colour=colour, best_x=best),)  # type: ignore[arg-type]

    iou = curve("mean", "mean", "●", 0, detail.best_step)
    taken = {"●"}
    for place, name in enumerate(sorted(line for line in lines if line.startswith("iou:"))):
        short = name.removeprefix("iou:")
        glyph = next((c for c in short.lower() + _LETTERS if c not in taken and c.isalpha()), "·")
        taken.add(glyph)
        iou += curve(name, short, glyph, place + 1)
    return {
        "loss": curve("train loss", "train", "●", 0) + curve("val loss", "val", "○", 1),
        "iou": iou,
        "rate": curve("learning rate", "rate", "●", 0),
        "speed": curve("images/s", "images/s", "●", 2),
    }


def _row(run: RunRow, state: str, letter: str) -> Row:
    glyph, tone = STATE_LOOKS.get(state, ("?", ""))
    total = f"/{run.total_steps:,}" if run.total_steps else ""
    return Row(
        key=run.id,
        cells=(
            letter,
            run.id,
            f"{glyph} {state}",
            "–" if run.score is None else f"{run.score:.3f}",
            "" if run.best_step is None else f"{run.best_step:,}",
            f"{run.step:,}{total}" if run.step else "",
            "" if run.seconds_left is None else span(run.seconds_left),
            run.network or run.does,
            run.reason.replace("_", " ")
            or time.strftime("%d %b %H:%M", time.localtime(run.created)),
        ),
        tone=tone if state not in ("done", "cancelled") else "",
    )

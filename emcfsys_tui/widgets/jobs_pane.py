"""Jobs: the queue over all projects, the GPUs, what a job says, and what a prediction has made."""

from collections import deque
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widgets import Static

from emcfsys_engine.errors import printable
from emcfsys_engine.run.folder import Run
from emcfsys_engine.text import day_clock, span
from emcfsys_tui.engine import jobs as engine_link_jobs
from emcfsys_tui.engine import notices
from emcfsys_tui.engine.data import PictureSpec
from emcfsys_tui.engine.jobs import MaskReader
from emcfsys_tui.messages import LogRead, MaskRead, PictureRead, TabWanted
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.text import reason_words
from emcfsys_tui.view_models import STATE_LOOKS, Deed, GpuRow, JobRow, Notice, QueueState
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.log_view import LogView
from emcfsys_tui.widgets.pane import Feed
from emcfsys_tui.widgets.picture_pane import PictureBox, PicturePane
from emcfsys_tui.widgets.picture_view import PictureView

_COLUMNS = (
    Column(title="job", width=5, right=True),
    Column(title="state", width=13),
    Column(title="project", width=12, cut="middle"),
    Column(title="does", width=7, hide_below=90),
    Column(title="run", width=9),
    Column(title="on", width=12, hide_below=150),
    Column(title="asks", width=8, hide_below=120),
    Column(title="since", width=12, hide_below=120),
    Column(title="took", width=7, right=True, hide_below=70),
    Column(title="now, or why", scrolls=True),
)
_EMPTY = "No jobs. Submit a training in 2 Train, or start the hot folder in 4."
_LINES = 5000


class JobsPane(PicturePane):
    """Every job of this user on this machine."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    JobsPane #jobs { height: auto; min-height: 3; max-height: 50%; }
    JobsPane #gpus { height: auto; max-height: 10; color: $dim; }
    JobsPane LogView { width: 1fr; height: 1fr; }
    JobsPane #told { height: 1fr; }
    JobsPane PictureBox { display: none; height: 1fr; }
    JobsPane.-mask PictureBox { display: block; }
    JobsPane.-mask LogView { width: 4fr; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("x", "end", "end …", "jobs.cancel", "Stop early, pause or cancel it (asks)"),
        shown("p", "ask('pause')", "pause", "jobs.pause", "Out of the way; it keeps its place"),
        shown(
            "r", "ask('resume')", "resume", "jobs.resume", "Let a paused or interrupted job go on"
        ),
        shown("t", "ask('retry')", "retry", "jobs.retry", "Run an ended job again"),
        shown("o", "run", "its run", "jobs.run", "Show the job's run in Runs"),
        quiet(
            "u,left_square_bracket",
            "shift(-1)",
            "Earlier",
            "jobs.earlier",
            "One place up in the queue",
        ),
        quiet(
            "d,right_square_bracket",
            "shift(1)",
            "Later",
            "jobs.later",
            "One place down in the queue",
        ),
        quiet(
            "v", "mask", "Mask so far", "jobs.mask", "What a prediction has done, over its image"
        ),
        quiet("c", "one_class", "Class", "jobs.class", "One class after the other"),
        quiet("b", "opacity", "Outline or fill", "jobs.opacity", "Outlines, or fills"),
        quiet("z", "zoom(0.5)", "Zoom in", "jobs.zoom_in"),
        quiet("Z", "zoom(2.0)", "Zoom out", "jobs.zoom_out"),
        quiet("w", "whole", "Whole image", "jobs.whole"),
        quiet("i", "history", "History", "jobs.history", "Every move of this job; enter, too"),
        quiet("slash", "filter", "Filter the log", "jobs.filter", face="/"),
    ]

    BOXES = (("#jobs", "#gpus"), ("#job-log",), ("#mask",))

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._log: deque[str] = deque(maxlen=_LINES)
        self._log_reader = engine_link_jobs.JobLogReader()
        self._mask_reader = MaskReader()
        self._mask_feed: Feed | None = None
        self._mask: PictureSpec | None = None

    @property
    def command(self) -> str:
        """The command that shows the same."""
        return "emcfsys-engine jobs --watch"

    def compose(self) -> ComposeResult:
        """Queue, GPUs, log."""
        yield Rows(_COLUMNS, id="jobs", empty="Reading the queue …")
        yield Static(id="gpus", markup=False)
        with Horizontal(id="told"):
            yield LogView(id="job-log")
            yield PictureBox(id="mask")

    def on_mount(self) -> None:
        """Follow the log of the job under the cursor."""
        self.feed_on(self._log_reader.read, every_s=0.5)
        self._mask_feed = Feed(self, self._mask_reader.read, every_s=1.0)
        self._mask_feed.pause(not self.is_shown)
        self.query_one(PictureBox).mode = "prediction"
        self._show_queue()

    def on_unmount(self) -> None:
        """Let the other thread end, too."""
        if self._mask_feed is not None:
            self._mask_feed.end()

    def watch_is_shown(self, is_shown: bool) -> None:
        """Look at no mask while nobody does."""
        super().watch_is_shown(is_shown)
        if self._mask_feed is not None:
            self._mask_feed.pause(not is_shown)

    def is_open(self, place: int) -> bool:
        """The mask where it is wanted."""
        return "#mask" not in self.BOXES[place] or self.has_class("-mask")

    def watch_queue_state(self) -> None:
        """Show the queue."""
        self._show_queue()

    def take_focus(self) -> None:
        """The list first."""
        self.query_one("#jobs", Rows).focus()

    def go_to_item(self, item: str) -> None:
        """Put the cursor on a job."""
        self.query_one("#jobs", Rows).go_to(item)

    @on(Rows.Moved, "#jobs")
    def follow_cursor(self) -> None:
        """Show what the job under the cursor says."""
        job = self._current()
        self._log_reader.wanted = (job.id, job.run) if job else None
        self.look_now()
        self._follow_mask()
        if job is None:
            self.query_one(LogView).lines = ()

    def action_mask(self) -> None:
        """Show what the job's prediction has done by now, or no longer."""
        self.toggle_class("-mask")
        if self.is_alone:
            self.show_box(2 if self.has_class("-mask") else 0)
        self._follow_mask()

    def _follow_mask(self) -> None:
        job = self._current() if self.has_class("-mask") else None
        wanted = (job.id, job.run) if job is not None else None
        if wanted != self._mask_reader.wanted:
            self._mask_reader.wanted, self._mask = wanted, None
            self.show_image("")
        if self._mask_feed is not None:
            self._mask_feed.look_now()

    def wanted_picture(self) -> PictureSpec | None:
        """Return what the job under the cursor has made."""
        return self._mask

    def on_mask_read(self, event: MaskRead) -> None:
        """Show more of it; the part that was looked at stays."""
        if self._mask_reader.wanted is None or event.job != self._mask_reader.wanted[0]:
            return
        before, self._mask = self._mask, event.request
        box = self.query_one(PictureBox)
        box.query_one(PictureView).hint = "" if event.request else event.title
        if before is None or event.request is None or before.key != event.request.key:
            self.show_image(event.title)
            return
        box.image_name = event.title
        self.wish_again()

    def on_picture_read(self, event: PictureRead) -> None:
        """Show it; ask again where more was done than could be read at once."""
        super().on_picture_read(event)
        if not event.picture.is_whole and self._mask is not None:
            self.wish_again()

    @on(Rows.Opened, "#jobs")
    def action_history(self) -> None:
        """Enter opens all that is known of the job."""
        job = self._current()
        if job is not None:
            self.attempt(partial(notices.of_job, job.id))

    def on_log_view_opened(self, event: LogView.Opened) -> None:
        """Enter opens the whole line."""
        job = self._current()
        if job is not None:
            time, text, _ = event.line
            log = Run(job.run).log_file
            self.attempt(partial(notices.of_line, time, text, f"job {job.id}", log))

    def act_on(self, notice: Notice, deed: Deed) -> None:
        """Show the run of the job that was read about, or let it go on."""
        job = next((job for job in self.queue_state.jobs if str(job.id) == notice.about), None)
        if job is None:
            return
        if deed == "run":
            self._show_run(job)
        elif deed == "retry" and self.may_change():
            ask = "resume" if job.state in ("paused", "interrupted") else "retry"
            self.attempt(partial(engine_link_jobs.ask_job, job.id, ask))

    def action_run(self) -> None:
        """Show the job's run, where it is one of this project."""
        job = self._current()
        if job is not None:
            self._show_run(job)

    def _show_run(self, job: JobRow) -> None:
        if job.run.parent.parent != self.folder:
            self.page_app.tell(f"It belongs to another project: {job.run}", "warning")
            return
        self.post_message(TabWanted("hotfolder" if job.kind == "watch" else "runs", job.run.name))

    def on_log_read(self, event: LogRead) -> None:
        """Add the new lines."""
        if event.fresh:
            self._log.clear()
        self._log.extend(event.lines)
        view = self.query_one(LogView)
        job = self._current()
        is_prediction = job is not None and job.id == event.job and job.kind == "predict"
        view.heading = f"log of job {event.job}{', v: mask so far' if is_prediction else ''}"
        view.lines = tuple(_log_line(line) for line in self._log)

    def action_ask(self, ask: str) -> None:
        """Do something to the job under the cursor."""
        job = self._current()
        if job is None or not self.may_change():
            return
        self.attempt(partial(engine_link_jobs.ask_job, job.id, ask))

    def action_end(self) -> None:
        """Ask whether and how the job under the cursor shall end."""
        job = self._current()
        if job is None or not self.may_change():
            return
        name = f"job {job.id} ({job.project}, {job.run.name})"
        if not job.is_open:
            self.page_app.tell(f"{name} is {job.state}: nothing to end", "warning")
            return
        do = partial(partial, engine_link_jobs.ask_job, job.id)
        self.ask_how_to_end(name, job.kind, job.state, do)

    def action_shift(self, by: int) -> None:
        """Move a waiting job."""
        job = self._current()
        if job is not None and self.may_change():
            self.attempt(partial(engine_link_jobs.move_job, job.id, by))

    def action_filter(self) -> None:
        """Look for a text in the log."""
        self.query_one(LogView).ask_filter()

    def _current(self) -> JobRow | None:
        row = self.query_one("#jobs", Rows).current
        jobs = self.queue_state.jobs
        return next((job for job in jobs if row is not None and str(job.id) == row.key), None)

    def _show_queue(self) -> None:
        if not self.is_built:
            return
        queue = self.queue_state
        rows = self.query_one("#jobs", Rows)
        rows.empty = queue.fault or (_EMPTY if queue.is_read else "Reading the queue …")
        rows.rows = [_row(job) for job in queue.jobs]
        self.query_one("#gpus", Static).update(_gpu_text(queue) if queue.is_read else "")


def _row(job: JobRow) -> Row:
    glyph, tone = STATE_LOOKS.get(job.state, ("?", ""))
    return Row(
        key=str(job.id),
        cells=(
            str(job.id),
            f"{glyph} {job.state}",
            job.project,
            job.kind,
            job.run.name,
            job.where,
            job.asks,
            day_clock(job.since),
            "" if job.took_s is None else span(job.took_s),
            "  ".join(filter(None, (job.progress, reason_words(job.reason)))),
        ),
        tone=tone if job.state != "done" else "",
    )


def _gpu_text(queue: QueueState) -> str:
    daemon = "no daemon: submitting a job starts it"
    if queue.daemon_pid is not None:
        daemon = f"daemon: process {queue.daemon_pid}"
    gpus = [_gpu_line(gpu) for gpu in queue.gpus] or [
        " no GPU on this machine: jobs use the processor"
    ]
    return "\n".join([f"─ machine ─ {daemon}", *gpus])


def _gpu_line(gpu: GpuRow) -> str:
    share = gpu.used_gb / gpu.total_gb if gpu.total_gb else 0.0
    bar = "█" * round(share * 10) + "░" * (10 - round(share * 10))
    memory = f"{gpu.used_gb:5.1f} / {gpu.total_gb:.0f} GB"
    return f" {gpu.index}  {printable(gpu.name):<24} {bar} {memory}  {printable(gpu.owner)}"


def _log_line(line: str) -> tuple[str, str, str]:
    has_time = len(line) > 9 and line[2:3] == ":" and line[5:6] == ":"
    at, text = (line[:8], line[9:]) if has_time else ("", line)
    tone = "bad" if text.startswith("failed") else "warn" if text.startswith("warning") else ""
    return at, text, tone

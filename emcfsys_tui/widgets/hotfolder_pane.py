"""Hot folder: is it alive, is it keeping up, what came, what failed, and what it looks like."""

import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.reactive import reactive
from textual.widgets import Static

from emcfsys_engine.errors import printable
from emcfsys_engine.hotfolder.judged import Word
from emcfsys_engine.text import clock, for_shell, span
from emcfsys_tui.engine import hotfolder, notices
from emcfsys_tui.engine.data import PictureSpec
from emcfsys_tui.messages import HotRead, TabWanted, TrendRead
from emcfsys_tui.screens.page import sparkline
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.view_models import Deed, HotLine, HotState, HotTrend, JobRow, Notice, QueueState
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.picture_pane import PictureBox, PicturePane
from emcfsys_tui.widgets.picture_view import PictureView
from emcfsys_tui.widgets.trend_view import TrendView

_LOOKS = {
    "watching": "● WATCHING",
    "polling": "● POLLING",
    "offline": "✗ OFFLINE",
    "full": "✗ DISK FULL",
    "waiting": "✗ WAITING",
    "starting": "◐ STARTING",
    "stopped": "○ STOPPED",
}
_VERDICTS = {"pass": "✓ PASS", "review": "◐ REVIEW", "fail": "✗ FAIL"}
_COLUMNS = (
    Column(title="time", width=8),
    Column(title="", width=1),
    Column(title="newest", cut="middle"),
    Column(title="found"),
)
_FAILED = (
    Column(title="failed: why", scrolls=True),
    Column(title="image", width=16, wide=24, cut="middle"),
    Column(title="tries", width=5, right=True),
    Column(title="time", width=8, hide_below=52),
)
_NOT_SET = (
    "No hot folder yet. space asks for it,\nand adds to project.toml:\n\n"
    '[hotfolder]\nwatch = "incoming"\noutput = "predictions"'
)


class HotFolderPane(PicturePane):
    """What the microscope wrote, and what became of it."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    HotFolderPane #hot-state { height: 3; }
    HotFolderPane #hot-left { width: 6fr; }
    HotFolderPane #hot-trend { width: 7fr; display: none; }
    HotFolderPane.-trend #hot-trend { display: block; }
    HotFolderPane.-trend #hot-right { display: none; }
    HotFolderPane #newest { height: 3fr; }
    HotFolderPane #failures { height: auto; min-height: 2; max-height: 40%; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        shown(
            "space",
            "start_stop",
            "start/stop",
            "hot.start",
            "Start the watch as a job, or let it end",
        ),
        quiet("x", "end", "End …", "hot.end", "Stop watching (asks)"),
        shown("t", "retry", "retry failed", "hot.retry", "Look at the failed images again"),
        shown("o", "overlay", "overlay", "hot.overlay", "Mask or bare image"),
        shown("c", "one_class", "class", "hot.class", "One class after the other"),
        shown("f", "follow", "follow newest", "hot.follow", "Show each image as it comes"),
        quiet("z", "zoom(0.5)", "Zoom in", "hot.zoom_in"),
        quiet("Z", "zoom(2.0)", "Zoom out", "hot.zoom_out"),
        quiet(
            "b", "opacity", "Outline or fill", "hot.opacity", "Outlines of the classes, or fills"
        ),
        quiet("w", "whole", "Whole image", "hot.whole"),
        quiet("i", "why", "Why", "hot.why", "All that is said of the image under the cursor"),
        quiet("n", "next_review", "Next to review", "hot.next", "Go on to what did not pass"),
        quiet("a", "word('accepted')", "Accept", "hot.accept", "The mask under the cursor is good"),
        quiet("r", "reject", "Reject …", "hot.reject", "The mask is bad: asks why"),
        quiet(
            "C",
            "word('corrected')",
            "Corrected",
            "hot.corrected",
            "You changed the mask, or its Labelme file",
        ),
        quiet("v", "trend(1)", "Trend", "hot.trend", "Control chart; again: the next number"),
        quiet("s", "trend_group", "Group", "hot.group", "The trend of the next group, or recipe"),
        quiet("V", "trend(0)", "Picture", "hot.picture", "The picture again, not the trend"),
        quiet("j", "job", "Its job", "hot.job", "Show the watch in Jobs"),
    ]

    BOXES = (("#newest",), ("#failures",), ("#hot-right",))

    hot: reactive[HotState] = reactive(HotState(is_read=False), repaint=False)
    follows: reactive[bool] = reactive(True, repaint=False)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._reader = hotfolder.HotFolderReader(folder)
        self._trend = HotTrend(name="")
        self._failed: HotLine | None = None  # that is shown instead of the one under the cursor

    @property
    def command(self) -> str:
        """The command that does the same."""
        if self.hot.state == "stopped":
            recipe = f" --recipe {for_shell(self.hot.recipe_file)}" if self.hot.recipe_file else ""
            return f"emcfsys-engine submit watch {for_shell(self.folder)}{recipe}"
        return f"emcfsys-engine watch {for_shell(self.folder)} --status"

    def compose(self) -> ComposeResult:
        """State, newest, failures, picture."""
        yield Static(id="hot-state", markup=False)
        with Horizontal():
            with Vertical(id="hot-left"):
                yield Rows(_COLUMNS, id="newest", empty="Reading the ledger …")
                yield Rows(_FAILED, id="failures", empty="No image failed.")
            yield PictureBox(id="hot-right")
            yield TrendView(id="hot-trend")

    def on_mount(self) -> None:
        """Follow the watch in a thread."""
        box = self.query_one(PictureBox)
        box.mode = "prediction"
        self.feed_on(self._reader.read, every_s=1.0)
        self._show_state()

    def watch_queue_state(self, queue: QueueState) -> None:
        """The watch may wait in the queue."""
        self._show_state()

    def on_resize(self) -> None:
        """Say as much as there is room for."""
        self._show_state()

    def take_focus(self) -> None:
        """The newest images first."""
        self.query_one("#newest", Rows).focus()

    def on_hot_read(self, event: HotRead) -> None:
        """Show what was read."""
        self.query_one("#newest", Rows).empty = _hint(event.hot)  # also where there is none
        if self.has_class("-trend") and event.hot.done != self.hot.done:
            self._read_trend(self._trend.name, self._trend.part)
        self.hot = event.hot

    def on_trend_read(self, event: TrendRead) -> None:
        """Show a control chart."""
        self._trend = event.trend
        self.query_one(TrendView).trend = event.trend

    def action_trend(self, by: int) -> None:
        """Show the trend of the next number, or the picture again."""
        if not by:
            self.remove_class("-trend")
            return
        names, name = self._trend.names, self._trend.name
        if self.has_class("-trend") and name in names:
            name = names[(names.index(name) + by) % len(names)]
        self.add_class("-trend")
        self._read_trend(name, self._trend.part)

    def action_trend_group(self) -> None:
        """Show the trend of the next group, then of each recipe; after the last, of all images."""
        parts = ("", *self._trend.parts)
        place = parts.index(self._trend.part) if self._trend.part in parts else 0
        self.add_class("-trend")
        self._read_trend(self._trend.name, parts[(place + 1) % len(parts)])

    def _read_trend(self, name: str, part: str) -> None:
        self.attempt(partial(hotfolder.read_trend, self.folder, name, part))

    def watch_hot(self, hot: HotState) -> None:
        """Show counters and lists."""
        if not self.is_built:
            return
        self._show_state()
        newest, failures = self.query_one("#newest", Rows), self.query_one("#failures", Rows)
        newest.empty = _hint(hot)
        newest.rows = [_row(line) for line in hot.newest]
        failures.rows = [
            Row(
                key=line.image,
                cells=(
                    line.text,
                    line.image,
                    f"{line.attempts}{'' if line.is_final else '…'}",
                    clock(line.time),
                ),
                tone="bad" if line.is_final else "warn",
            )
            for line in hot.failures
        ]
        if self.follows and newest.rows and newest.cursor != 0:
            newest.cursor = 0

    @on(Rows.Moved, "#newest")
    def look(self) -> None:
        """Show the image under the cursor."""
        line, self._failed = self._current(), None
        words = (line.verdict.upper(), line.why, line.text) if line else ()
        self.query_one(PictureBox).counts = "  ".join(word for word in words if word)
        self.show_image(line.image if line else "")

    @on(Rows.Opened, "#newest")
    def enter_picture(self) -> None:
        """Enter goes to the picture."""
        self.query_one(PictureView).focus()

    @on(Rows.Opened, "#failures")
    def read_failure(self) -> None:
        """Enter opens why an image failed."""
        place = self.query_one("#failures", Rows).cursor
        if 0 <= place < len(self.hot.failures):
            self.attempt(partial(notices.of_image, self.hot.failures[place]))

    def action_why(self) -> None:
        """Open all that is said of the image under the cursor, its verdict's reasons foremost."""
        line = self._current()
        if self.query_one("#failures", Rows).has_focus:
            self.read_failure()
        elif line is not None:
            self.attempt(partial(notices.of_image, line))

    def act_on(self, notice: Notice, deed: Deed) -> None:
        """Try the failed images again, or show one as far as it can be read."""
        if deed == "retry":
            self.action_retry()
        elif deed == "image":
            self._failed = next((f for f in self.hot.failures if f.image == notice.about), None)
            self.show_image(notice.about)

    def action_start_stop(self) -> None:
        """Start the watch, or let it end."""
        if not self.may_change():
            return
        if not self.hot.configured:
            self._set_up()
        elif self.hot.state == "stopped" and self._job() is None:
            self.page_app.tell("Starting: the model is looked up …")
            self.attempt(partial(hotfolder.start_watch, self.folder, self.hot.recipe_file))
        else:
            self.action_end()

    def _set_up(self) -> None:
        """Ask for the folder that the microscope writes into, and add it to project.toml."""

        def answered(watch: str | None) -> None:
            if watch:
                self.attempt(partial(hotfolder.set_up, self.folder, watch))

        question = "Which folder does the microscope write into? (in the project, or a whole path)"
        ask = import_module("emcfsys_tui.screens.dialogs").AskScreen
        self.app.push_screen(ask(question, "incoming", is_path=True), answered)

    def action_end(self) -> None:
        """Ask whether the watch shall end."""
        if not self.may_change():
            return
        job = self._job()
        if job is None and self.hot.state == "stopped":
            self.page_app.tell("Nothing is watched: nothing to end", "warning")
            return
        state = self.hot.state if job is None else job.state
        self.ask_how_to_end("the watch", "watch", state, lambda ask: self._stop)

    def _stop(self) -> str:
        return hotfolder.stop_watch(self.folder)

    def action_retry(self) -> None:
        """Look at failed images again."""
        if self.may_change():
            self.attempt(partial(hotfolder.retry_failed, self.folder))

    def action_next_review(self) -> None:
        """Go to the next image that did not pass and of which nobody said a word."""
        rows = self.query_one("#newest", Rows)
        waiting = [
            place
            for place, line in enumerate(self.hot.newest)
            if line.verdict in ("review", "fail") and not line.word
        ]
        if not waiting:
            told = "None of the newest images waits for review; emcfsys-engine review lists all"
            self.page_app.tell(told)
            return
        self.follows = False  # it would take the cursor away again
        rows.cursor = next((place for place in waiting if place > rows.cursor), waiting[0])

    def _to_judge(self) -> HotLine | None:
        """Return the image under the cursor, if it stays there: a word must not hit the next."""
        if self.follows and self.hot.state in ("watching", "polling"):
            told = "The newest image would take its place: f keeps still, n goes on to review"
            self.page_app.tell(told, "warning")
            return None
        return self._current() if self.may_change() else None

    def action_word(self, word: Word) -> None:
        """Accept the mask under the cursor, or say that it was corrected."""
        line = self._to_judge()
        if line is not None:
            self.attempt(partial(hotfolder.say_of, self.folder, line.image, word))

    def action_reject(self) -> None:
        """Ask why the mask under the cursor is bad, and reject it."""
        line = self._to_judge()
        if line is None:
            return

        def answered(reason: str | None) -> None:
            if reason:
                self.attempt(partial(hotfolder.say_of, self.folder, image, "rejected", reason))

        image = line.image
        command = f'emcfsys-engine review {self.folder} reject {image} --reason "…"'
        ask = import_module("emcfsys_tui.screens.dialogs").AskScreen
        self.app.push_screen(ask(f"Why is the mask of {image} bad?", command=command), answered)

    def action_overlay(self) -> None:
        """Mask or bare image."""
        box = self.query_one(PictureBox)
        box.mode = "bare" if box.mode == "prediction" else "prediction"

    def action_follow(self) -> None:
        """Show each image as it comes, or keep still."""
        self.follows = not self.follows
        self.page_app.tell(
            "The newest image is shown as it comes" if self.follows else "The picture keeps still"
        )
        if self.follows:
            self.query_one("#newest", Rows).cursor = 0

    def action_job(self) -> None:
        """Go to the watch's job."""
        job = self._job()
        self.post_message(TabWanted("jobs", "" if job is None else str(job.id)))

    def _job(self) -> JobRow | None:
        for job in self.queue_state.jobs:
            if job.kind == "watch" and job.is_open and job.run.parent.parent == self.folder:
                return job
        return None

    def _current(self) -> HotLine | None:
        place = self.query_one("#newest", Rows).cursor
        return self.hot.newest[place] if 0 <= place < len(self.hot.newest) else None

    def wanted_picture(self) -> PictureSpec | None:
        """Return the image under the cursor with its mask, while the file is still there."""
        line = self._failed or self._current()
        if line is None or line.path is None:
            return None
        return PictureSpec(
            key=line.image,
            path=str(line.path),
            project=str(self.folder / "project.toml"),
            mask=str(line.mask or ""),
        )

    def _show_state(self) -> None:
        if self.is_built:
            self.query_one("#hot-state", Static).update(
                state_text(self.hot, self._job(), self.size.width or 80), layout=False
            )


def state_word(hot: HotState, job: JobRow | None) -> str:
    """Return what the watch does, in capitals; before it has its folder its job says that."""
    if hot.state != "stopped" or job is None:
        return _LOOKS.get(hot.state, f"? {hot.state.upper()}")
    if job.state == "queued":
        return f"◐ WAITING as job {job.id}"
    return f"◐ ENDING job {job.id}" if job.reason.endswith("asked") else f"◐ STARTING job {job.id}"


def state_text(hot: HotState, job: JobRow | None, width: int) -> str:
    """Return three lines: what is watched, how many images came, how fast."""
    look = state_word(hot, job)
    since = f"  since {span(max(0.0, time.time() - hot.since))}" if hot.since else ""
    model = Path(hot.model)
    name = f"{model.parent.name} {model.stem}" if model.suffix else hot.model
    detail = f" {hot.detail[hot.detail.rfind('(') :]}" if "(" in hot.detail else ""
    recipe = f"  recipe {hot.recipe[:8]}" if hot.recipe else ""
    first = _fitting(
        width,
        f" {look} {hot.watch}/{detail}  → {hot.output}/  model {name}{recipe}{since}",
        f" {look} {hot.watch}/  → {hot.output}/  model {name}{recipe}",
        f" {look} {hot.watch}/  → {hot.output}/  model {name}{since}",
        f" {look} {hot.watch}/  model {name}{since}",
        f" {look} {hot.watch}/  model {name}",
    )
    counts = f" masked {hot.done:,}  trying {hot.trying:,}  failed {hot.failed:,}"
    counts = _fitting(
        width,
        f"{counts}  skipped {hot.skipped:,}  unlike training data {hot.unlike:,}",
        f"{counts}  skipped {hot.skipped:,}  unlike {hot.unlike:,}",
        f"{counts}  unlike {hot.unlike:,}",
    )
    if hot.verdicts:
        judged = " ".join(f"{_VERDICTS[state]} {hot.verdicts[state]:,}" for state in _VERDICTS)
        groups = " ".join(f"{word} {n}" for word, n in hot.groups.items() if word != "pass")
        groups = f"  groups {groups}" if groups else ""
        counts = _fitting(
            width,
            f"{counts}  {judged}{groups}",
            f" masked {hot.done:,}  {judged}{groups}",
            f" masked {hot.done:,}  {judged}",
        )
    lag = "–" if hot.median_lag_s is None else f"{hot.median_lag_s:.2f} s"
    worst = "–" if hot.worst_lag_s is None else f"{hot.worst_lag_s:.1f} s"
    speed = _fitting(
        width,
        *(
            f" images/min {hot.images_per_min:,} {sparkline(hot.rates[-num:], low=0.0)}"
            f"   lag median {lag} worst {worst} {sparkline(hot.lags[-num:], low=0.0)}"
            for num in (16, 8)
        ),
    )
    if not hot.is_read:
        return " Reading the hot folder …\n\n"
    if not hot.configured:
        return f" {hot.fault}\n\n" if hot.fault else " ○ no hot folder in project.toml\n\n"
    if hot.fault:
        speed = f" ✗ {hot.fault}"
    return "\n".join(printable(line) for line in (first, counts, speed))


def _fitting(width: int, *lines: str) -> str:
    """Return the first line that is not too long, else the last."""
    return next((line for line in lines if len(line) <= width), lines[-1])


def _hint(hot: HotState) -> str:
    if not hot.configured:
        return hot.fault or _NOT_SET
    if hot.state == "stopped":
        return (
            f"Nothing came yet. space starts watching {hot.watch}/ with the {hot.model} model."
            "\nTo try it without a microscope: emcfsys-engine demo"
            f" --microscope {for_shell(hot.watch)}"
        )
    return f"Waiting for images in {hot.watch}/"


def _row(line: HotLine) -> Row:
    text = f"unlike training data: {line.unlike}" if line.unlike else line.text
    mark, tone = ("!", "warn") if line.unlike else (" ", "")
    if line.verdict in _VERDICTS:
        mark, _, word = _VERDICTS[line.verdict].partition(" ")
        text = "  ".join(part for part in (line.why or word, text) if part)  # the mark says it, too
        tone = "bad" if line.verdict == "fail" else "warn" if line.verdict == "review" else tone
    return Row(
        key=f"{line.time}{line.image}", cells=(clock(line.time), mark, line.image, text), tone=tone
    )

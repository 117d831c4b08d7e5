"""One project: six tabs between two lines."""

from collections.abc import Iterable
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import ContentSwitcher

from emcfsys_tui.messages import QueueRead, RunsChanged, TabWanted
from emcfsys_tui.screens.page import Page, Tab, TopLine
from emcfsys_tui.settings import quiet
from emcfsys_tui.view_models import JobRow, QueueState
from emcfsys_tui.widgets.pane import Feed, Pane

TABS = (
    Tab(id="data", key="1", name="Data"),
    Tab(id="train", key="2", name="Train"),
    Tab(id="runs", key="3", name="Runs"),
    Tab(id="hotfolder", key="4", name="Hot folder"),
    Tab(id="jobs", key="5", name="Jobs"),
    Tab(id="models", key="6", name="Models"),
)
_PANES = {
    "data": "DataPane",
    "train": "TrainPane",
    "runs": "RunsPane",
    "hotfolder": "HotFolderPane",
    "jobs": "JobsPane",
    "models": "ModelsPane",
}


class ProjectScreen(Page):
    """Data, training, runs, hot folder, jobs and models of one project."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(
                tab.key,
                f"tab('{tab.id}')",
                tab.name,
                show=False,
                id=f"tab.{tab.id}",
                tooltip=f"Go to {tab.name}",
            )
            for tab in TABS
        ),
        quiet("escape", "back", "All projects", "project.back", "Back to the list of projects"),
        quiet(
            "y",
            "copy_command",
            "Copy the command",
            "project.command",
            "Copy the engine command that does the same",
        ),
    ]

    def __init__(self, folder: Path, *, tab: str = "runs") -> None:
        super().__init__()
        self.folder = folder
        self._tab = tab if tab in _PANES else "runs"
        self._queue: QueueState | None = None
        self._feed: Feed | None = None

    @property
    def place(self) -> Path | None:
        """The project of this screen."""
        return self.folder

    def compose_body(self) -> ComposeResult:
        """Tabs are made when they are first looked at."""
        yield ContentSwitcher(id="panes")

    async def on_mount(self) -> None:
        """Open the last tab and follow the queue."""
        top = self.query_one(TopLine)
        top.place = self.folder.name
        top.tabs = TABS
        top.current = self._tab

    def on_unmount(self) -> None:
        """Let the thread end."""
        if self._feed is not None:
            self._feed.end()

    async def on_top_line_drawn(self) -> None:
        """Fill the screen once its frame stands: the first paint does not wait for imports."""
        if self._feed is None:
            reader = import_module("emcfsys_tui.engine.jobs").QueueReader()
            await self.show_tab(self._tab)
            self._feed = Feed(self, reader.read, every_s=1.0)

    async def show_tab(self, tab: str, item: str = "") -> None:
        """Show a tab; the ones that are hidden read nothing."""
        switcher = self.query_one(ContentSwitcher)
        panes = {pane.id: pane for pane in switcher.query(Pane)}
        if tab not in panes:
            module = import_module(f"emcfsys_tui.widgets.{tab}_pane")
            pane: Pane = getattr(module, _PANES[tab])(self.folder)
            pane.id = tab
            await switcher.mount(pane)
            panes[tab] = pane
            if self._queue is not None:
                pane.queue_state = self._queue
        switcher.current = tab
        for name, pane in panes.items():
            pane.is_shown = name == tab
        self.query_one(TopLine).current = tab
        self._tab = tab
        panes[tab].take_focus()
        if item:
            panes[tab].go_to_item(item)
        self.page_app.keep_place(self.folder, tab)

    async def action_tab(self, tab: str) -> None:
        """Go to a tab."""
        await self.show_tab(tab)

    async def on_top_line_picked(self, event: TopLine.Picked) -> None:
        """Go to the tab that was clicked."""
        await self.show_tab(event.tab)

    async def on_tab_wanted(self, event: TabWanted) -> None:
        """Go where a pane points to."""
        await self.show_tab(event.tab, event.item)

    def on_runs_changed(self, event: RunsChanged) -> None:
        """Look at everything again, now."""
        if self._feed is not None:
            self._feed.look_now()
        for pane in self.query(Pane):
            pane.look_now()

    def on_queue_read(self, event: QueueRead) -> None:
        """Hand the queue to the tabs; ring when a job ended."""
        queue = event.queue
        if self._queue is not None:
            self._tell_ended(self._queue, queue)
        self._queue = queue
        self.query_one(TopLine).status = _status(queue, read_only=self.page_app.read_only)
        for pane in self.query(Pane):
            pane.queue_state = queue

    def action_back(self) -> None:
        """Go back to the list of projects."""
        for pane in self.query(Pane):
            if pane.unsaved:
                pane.confirm(f"Leave? {pane.unsaved}", "leave", self.page_app.open_list)
                return
        self.page_app.open_list()

    def action_copy_command(self) -> None:
        """Copy the engine command that does what this tab shows."""
        pane = self.query_one(f"#{self._tab}", Pane)
        self.page_app.copy_with_word(pane.command)

    def actions_elsewhere(self) -> Iterable[tuple[Tab, Binding]]:
        """Return what can be done on the other tabs, for the palette."""
        for tab in TABS:
            if tab.id == self._tab:
                continue
            kind = getattr(import_module(f"emcfsys_tui.widgets.{tab.id}_pane"), _PANES[tab.id])
            seen: set[str] = set()
            own = [
                one.__dict__.get("BINDINGS", ()) for one in kind.__mro__ if issubclass(one, Pane)
            ]
            for binding in chain.from_iterable(own):
                if binding.description and binding.tooltip and binding.action not in seen:
                    seen.add(binding.action)
                    yield tab, binding

    async def act_in(self, tab: str, action: str) -> None:
        """Go to a tab and do something there, as its key would."""
        await self.show_tab(tab)
        pane = self.query_one(f"#{tab}", Pane)
        await self.app.run_action(action, default_namespace=pane)

    def _tell_ended(self, before: QueueState, now: QueueState) -> None:
        were_open = {job.id for job in before.jobs if job.is_open}
        for job in now.jobs:
            if job.id in were_open and not job.is_open:
                severity = {"done": "information", "cancelled": "warning"}.get(job.state, "error")
                self.page_app.tell(_ending(job), severity, loud=True)


def _ending(job: JobRow) -> str:
    reason = f": {job.reason}" if job.reason else ""
    return f"Job {job.id} ({job.project}, {job.run.name}) is {job.state}{reason}"


def _status(queue: QueueState, *, read_only: bool) -> str:
    running = sum(job.state in ("running", "stopping") for job in queue.jobs)
    waiting = sum(job.state == "queued" for job in queue.jobs)
    parts = ["read-only"] if read_only else []
    if queue.gpus:
        busy = sum(gpu.owner != "free" for gpu in queue.gpus)
        parts.append(f"GPU {busy}/{len(queue.gpus)}")
    parts += [f"●{running} running"] if running else []
    parts += [f"○{waiting} waiting"] if waiting else []
    if waiting and queue.daemon_pid is None:
        parts.append("no daemon")
    return " ".join(parts)

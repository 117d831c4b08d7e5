"""The first screen: every project with its state at a glance."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType

from emcfsys_tui.engine import runs
from emcfsys_tui.messages import ProjectChosen, ProjectsRead, Told
from emcfsys_tui.screens.page import Page, TopLine, sparkline
from emcfsys_tui.settings import remembered, shown
from emcfsys_tui.view_models import ProjectRow
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.pane import Feed

_COLUMNS = (
    Column(title="project", width=20, cut="middle"),
    Column(title="images", width=8, right=True),
    Column(title="labelled", width=8, right=True),
    Column(title="runs", width=5, right=True),
    Column(title="IoU", width=6, right=True),
    Column(title="trend", width=12, hide_below=90),
    Column(title="now", width=16),
    Column(title="folder", cut="start", hide_below=70),
)
_EMPTY = (
    "EMCFsys segments electron micrographs: label some, train, then watch a folder.\n\n"
    "No projects yet in ./projects. Press\n\n"
    "d   for the demo in ./projects/demo: labelled, trains in minutes\n"
    "n   to make a project from a folder of your own images\n"
    "?   for every key\n"
)


class ProjectsScreen(Page):
    """The projects of ./projects and the recent ones."""

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("o,enter", "open", "open", "projects.open", "Open the project"),
        shown(
            "d",
            "demo",
            "make the demo",
            "projects.demo",
            "Make the demo project in ./projects/demo",
        ),
        shown(
            "n", "new", "new from images", "projects.new", "Make a project from a folder of images"
        ),
        shown("q", "app.leave", "quit", "app.quit", "Leave; jobs go on"),
    ]

    def compose_body(self) -> ComposeResult:
        """A list is enough."""
        yield Rows(_COLUMNS, id="projects", empty="Looking for projects …")

    def on_mount(self) -> None:
        """Look for projects once the screen stands."""
        top = self.query_one(TopLine)
        top.place = "EMCFsys"
        top.status = "read-only " if self.page_app.read_only else ""
        rows = self.query_one(Rows)
        rows.focus()
        self._feed = Feed(self, lambda: runs.read_projects(remembered()), every_s=5.0)

    def on_unmount(self) -> None:
        """Let the thread end."""
        self._feed.end()

    def on_projects_read(self, event: ProjectsRead) -> None:
        """Show the projects."""
        rows = self.query_one(Rows)
        rows.empty = _EMPTY
        rows.rows = tuple(_row(project) for project in event.projects)

    @on(Rows.Opened, "#projects")
    def open_row(self, event: Rows.Opened) -> None:
        """Open the project that was clicked or entered."""
        if event.row is not None:
            self.post_message(ProjectChosen(Path(event.row.key)))

    def action_open(self) -> None:
        """Open the project under the cursor."""
        self.query_one(Rows).action_open()

    def action_demo(self) -> None:
        """Make the demo project in ./projects/demo, and open it."""
        self._make(["demo"], Path.cwd() / "projects" / "demo")

    def action_new(self) -> None:
        """Ask for a folder of images, and make a project of it."""

        def made(answer: str | None) -> None:
            if answer:
                self._make(["new"], Path(answer).expanduser().absolute())

        ask_screen = import_module("emcfsys_tui.screens.dialogs").AskScreen
        question = "Make a project from which folder of images?"
        self.app.push_screen(ask_screen(question, str(Path.cwd()) + "/"), made)

    def _make(self, command: list[str], folder: Path) -> None:
        if self.page_app.may_change():
            self.query_one(Rows).empty = "Making the project …"
            self.run_worker(partial(self._make_and_open, command, folder), thread=True)

    def _make_and_open(self, command: list[str], folder: Path) -> None:
        if not (folder / "project.toml").exists():
            done = runs.run_command([*command, str(folder)])
            if done.code != 0:
                self.post_message(Told(done.words, "error"))
                self._feed.look_now()
                return
        self.post_message(ProjectChosen(folder))


def _row(project: ProjectRow) -> Row:
    scores = project.scores
    now = [f"{project.num_active} jobs"] if project.num_active else []
    now += ["● watching"] if project.is_watched else []
    return Row(
        key=str(project.folder),
        cells=(
            project.name,
            f"{project.num_images:,}",
            f"{project.num_labels:,}",
            str(project.num_runs),
            f"{scores[-1]:.3f}" if scores else "–",
            sparkline(scores),
            "✗ project.toml" if project.fault else "  ".join(now),
            project.fault or str(project.folder),
        ),
        tone="bad" if project.fault else ("live" if now else ""),
    )

"""The first screen: every project with its state at a glance."""

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import ClassVar, cast

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.widgets import Static

from emcfsys_engine.errors import EmcfError
from emcfsys_engine.text import day_clock
from emcfsys_tui.messages import ProjectChosen, ProjectsRead, Told
from emcfsys_tui.screens.page import Page, TopLine
from emcfsys_tui.settings import remembered, shown
from emcfsys_tui.view_models import Deed, NewProject, ProjectRow, SaidLine, Tone
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.pane import Feed

_COLUMNS = (
    Column(title="project", width=18, cut="middle"),
    Column(title="images", width=7, right=True, hide_below=70),
    Column(title="labelled", width=8, right=True),
    Column(title="best IoU", width=8, right=True),
    Column(title="now", scrolls=True),
    Column(title="folder", width=30, cut="start", hide_below=140),
)
_SAID = (
    Column(title="time", width=12),
    Column(title="project", width=18, cut="middle"),
    Column(title="newest", scrolls=True),
)
_MAKING = "Making the project …"
_EMPTY = (
    "EMCFsys segments electron micrographs: label some, train, then watch a folder.\n\n"
    "No projects yet in ./projects. Press\n\n"
    "d   for the demo in ./projects/demo: labelled, trains in minutes\n"
    "n   to make a project from a folder of your own images\n"
    "?   for every key\n"
)


class ProjectsScreen(Page):
    """The projects of ./projects and the recent ones."""

    DEFAULT_CSS = """
    ProjectsScreen #projects { height: 1fr; min-height: 4; }
    ProjectsScreen #said { height: auto; max-height: 40%; }
    """

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
        """The projects, and below what was said last."""
        yield Rows(_COLUMNS, id="projects", empty="Looking for projects …")
        yield Static(f"─ newest {'─' * 300}", id="said-title", classes="section", markup=False)
        yield Rows(_SAID, id="said", titles=False)

    _feed: Feed | None = None
    _is_making = False

    def __init__(self, images: Path | None = None) -> None:
        """`images`: a folder of which a project may be made; what is there is shown first."""
        super().__init__()
        self._images = images

    def on_mount(self) -> None:
        """Look for projects once the screen stands."""
        top = self.query_one(TopLine)
        top.place = "EMCFsys"
        top.status = "read-only " if self.page_app.read_only else ""
        self.query_one("#projects", Rows).focus()
        self._show_said(())
        self.call_after_refresh(self._look)

    def _look(self) -> None:
        """Look for projects, after the first paint: what that imports would delay it."""
        self._feed = Feed(self, _read, every_s=5.0)
        if self._images is not None:
            self._look_into(self._images)

    def on_unmount(self) -> None:
        """Let the thread end."""
        if self._feed is not None:
            self._feed.end()

    _said: tuple[SaidLine, ...] = ()

    def on_projects_read(self, event: ProjectsRead) -> None:
        """Show the projects."""
        rows = self.query_one("#projects", Rows)
        rows.empty = _MAKING if self._is_making else _EMPTY
        rows.rows = tuple(_row(project) for project in event.projects)
        self._show_said(event.said)
        read_only = "read-only " if self.page_app.read_only else ""
        self.query_one(TopLine).status = read_only + event.status

    def _show_said(self, said: tuple[SaidLine, ...]) -> None:
        """Show what was said last; without anything said, nothing takes room."""
        self._said = said
        self.query_one("#said-title").display = bool(said)
        rows = self.query_one("#said", Rows)
        rows.display = bool(said)
        rows.rows = tuple(
            Row(key=f"{n}", cells=(day_clock(line.time), line.project, line.text), tone="bad")
            for n, line in enumerate(said)
        )

    @on(Rows.Opened, "#said")
    def read_said(self, event: Rows.Opened) -> None:
        """Enter opens the whole message."""
        if event.row is None:
            return
        line = self._said[int(event.row.key)]

        def answered(deed: Deed | None) -> None:
            if deed == "run":
                self.post_message(ProjectChosen(line.folder))

        message = import_module("emcfsys_tui.screens.message").MessageScreen
        notices = import_module("emcfsys_tui.engine.notices")
        self.app.push_screen(message(notices.of_said(line).notice), answered)

    @on(Rows.Opened, "#projects")
    def open_row(self, event: Rows.Opened) -> None:
        """Open the project that was clicked or entered."""
        if event.row is not None:
            self.post_message(ProjectChosen(Path(event.row.key)))

    def action_open(self) -> None:
        """Open the row under the cursor."""
        focused = self.focused if isinstance(self.focused, Rows) else None
        (focused or self.query_one("#projects", Rows)).action_open()

    def action_demo(self) -> None:
        """Make the demo project in ./projects/demo, and open it."""
        self._make(["demo"], Path.cwd() / "projects" / "demo")

    def action_new(self) -> None:
        """Ask for a folder of images, and make a project of it."""

        def named(answer: str | None) -> None:
            if answer:
                self._look_into(Path(answer).expanduser().absolute())

        ask_screen = import_module("emcfsys_tui.screens.dialogs").AskScreen
        question = "Make a project from which folder of images? (tab completes)"
        self.app.push_screen(ask_screen(question, str(Path.cwd()) + "/", is_path=True), named)

    def _look_into(self, folder: Path) -> None:
        """Show what is there before anything is written."""
        if (folder / "project.toml").exists():
            self.post_message(ProjectChosen(folder))
            return

        def decided(new: NewProject | None) -> None:
            if new is not None:
                self._say_making(new.folder)
                self.run_worker(partial(self._make_new, new), thread=True)

        screen = import_module("emcfsys_tui.screens.new_project").NewProjectScreen
        self.app.push_screen(screen(folder), decided)

    def _make_new(self, new: NewProject) -> None:
        try:
            import_module("emcfsys_tui.engine.projects").make_project(new)
        except EmcfError as error:
            self._say_unmade(str(error))
            return
        if new.is_edited:
            self.app.call_from_thread(self.page_app.edit, new.folder / "project.toml")
        self.post_message(ProjectChosen(new.folder))

    def _make(self, command: list[str], folder: Path) -> None:
        if self._is_making or not self.page_app.may_change():
            return
        self._say_making(folder)
        self.run_worker(partial(self._make_and_open, command, folder), thread=True)

    def _make_and_open(self, command: list[str], folder: Path) -> None:
        if not (folder / "project.toml").exists():
            done = import_module("emcfsys_tui.engine.runs").run_command([*command, str(folder)])
            if done.code != 0:
                self._say_unmade(done.words)
                return
        self.post_message(ProjectChosen(folder))

    def _say_making(self, folder: Path) -> None:
        self._is_making = True
        self.query_one("#projects", Rows).empty = _MAKING
        self.page_app.tell(f"{_MAKING} {folder}")

    def _say_unmade(self, why: str) -> None:
        self._is_making = False
        self.post_message(Told(why, "error"))
        if self._feed is not None:
            self._feed.look_now()


def _read() -> ProjectsRead:
    """Read the projects, in a thread: the first paint does not wait for what it imports."""
    read: ProjectsRead = import_module("emcfsys_tui.engine.projects").read_projects(remembered())
    return read


def _row(project: ProjectRow) -> Row:
    folder = project.folder.name
    return Row(
        key=str(project.folder),
        cells=(
            project.name if project.name == folder else f"{project.name} in {folder}",
            f"{project.num_images:,}",
            f"{project.num_labels:,}",
            "–" if project.score is None else f"{project.score:.3f}",
            f"✗ {project.fault}" if project.fault else project.now,
            str(project.folder),
        ),
        tone="bad" if project.fault else cast("Tone", project.tone),
    )

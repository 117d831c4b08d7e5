"""What every whole screen has: a line above, a line below, and a word when there is no room."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Static

from emcfsys_tui.keys import quiet, shown
from emcfsys_tui.screens.lines import KeyLine, TopLine

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp

LEAST_COLUMNS, LEAST_LINES = 60, 16


class Page(Screen[None]):
    """A screen of the interface."""

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("question_mark,f1", "app.help", "help", "app.help", "What every key does here", "?"),
        shown(
            "colon,ctrl+p",
            "app.command_palette",
            "palette",
            "app.palette",
            "Find any action by name",
            ":",
        ),
        quiet("tab", "app.focus_next", "Next pane", "app.next"),
        quiet("shift+tab", "app.focus_previous", "Previous pane", "app.previous"),
        quiet("q", "app.leave", "Quit", "app.quit", "Leave; jobs go on"),
    ]

    @property
    def page_app(self) -> "EmcfApp":
        """The application, by its own class."""
        return cast("EmcfApp", self.app)

    def compose(self) -> ComposeResult:
        """Lay the three parts out."""
        yield TopLine(id="top")
        yield Static(id="too-small", markup=False)
        with Container(id="body"):
            yield from self.compose_body()
        yield KeyLine(id="keys")

    def compose_body(self) -> ComposeResult:
        """Lay out what is between the lines."""
        yield from ()

    def on_resize(self) -> None:
        """Say plainly when there is no room."""
        size = self.size
        self.query_one("#too-small", Static).update(
            f"This terminal has {size.width} × {size.height} characters.\n"
            f"EMCFsys needs {LEAST_COLUMNS} × {LEAST_LINES}: make the window larger, or its font"
            " smaller.\nJobs go on meanwhile. q quits."
        )

    def _pop_result_callback(self) -> None:
        # The first screen is the app's own: nobody pushed it, nobody waits for its result.
        if self._result_callbacks:
            super()._pop_result_callback()

    async def on_key_line_pressed(self, event: KeyLine.Pressed) -> None:
        """Do what was clicked in the line of keys."""
        self.app.simulate_key(event.action.split(",")[0])

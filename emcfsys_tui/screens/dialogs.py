"""Small questions over the screen: yes or no, one line of text, or a text to read."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from emcfsys_engine.errors import printable
from emcfsys_tui.settings import shown
from emcfsys_tui.text import safe_lines
from emcfsys_tui.view_models import SizeChart, SizeMap
from emcfsys_tui.widgets.list import Column, Row, Rows
from emcfsys_tui.widgets.log_view import PathInput, TextInput
from emcfsys_tui.widgets.size_chart import SizeChartView, SizeMapView

# Of every small window: each of them has it, whichever is opened first.
LOOK = """
ConfirmScreen, AskScreen, PickScreen { align: center middle; background: $background 60%; }
.dialog { width: 66; max-width: 90%; height: auto; padding: 1 2; }
Screen.-low .dialog { padding: 0 1; }
.dialog { background: $panel; border: solid $accent; }
.dialog Input { margin: 1 0; border: none; height: 1; background: $background; padding: 0 1; }
.keys { color: $dim; }
TextScreen, HelpScreen { align: center middle; background: $background 60%; }
.reader { width: 90%; height: 90%; background: $background; border: solid $primary; padding: 0 1; }
.reader-title { color: $primary; text-style: bold; }
.reader .keys { height: 1; }
.reader VerticalScroll { height: 1fr; }
"""


class ConfirmScreen(ModalScreen[bool]):
    """Asks before something is lost for good."""

    SCOPED_CSS = False
    DEFAULT_CSS = LOOK

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("y", "answer(True)", "Yes", "confirm.yes"),
        shown("n,escape,q", "answer(False)", "No", "confirm.no"),
    ]

    def __init__(self, question: str, yes: str) -> None:
        super().__init__()
        self._question, self._yes = question, yes

    def compose(self) -> ComposeResult:
        """One question, two keys."""
        with Container(classes="dialog"):
            yield Static(safe_lines(self._question), markup=False)
            yield Static(f"\ny  {self._yes}      n  keep everything", markup=False, classes="keys")

    def action_answer(self, answer: bool) -> None:
        """Close with the answer."""
        self.dismiss(answer)


class AskScreen(ModalScreen[str | None]):
    """Asks for one line of text."""

    SCOPED_CSS = False
    DEFAULT_CSS = LOOK

    BINDINGS: ClassVar[list[BindingType]] = [shown("escape", "give_up", "Cancel", "ask.cancel")]

    def __init__(
        self, question: str, value: str = "", *, command: str = "", is_path: bool = False
    ) -> None:
        super().__init__()
        self._question, self._value, self._command = question, value, command
        self._kind = PathInput if is_path else TextInput

    def compose(self) -> ComposeResult:
        """A line to fill in."""
        with Container(classes="dialog"):
            yield Static(safe_lines(self._question), markup=False)
            yield self._kind(self._value, select_on_focus=False)
            yield from _command_line(self._command)
            yield Static("enter  go      esc  cancel", markup=False, classes="keys")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the text."""
        self.dismiss(event.value.strip() or None)

    def action_give_up(self) -> None:
        """Close without one."""
        self.dismiss(None)


class PickScreen(ModalScreen[str | None]):
    """Asks for one of a few things."""

    SCOPED_CSS = False
    DEFAULT_CSS = LOOK

    BINDINGS: ClassVar[list[BindingType]] = [shown("escape,q", "give_up", "Cancel", "pick.cancel")]

    def __init__(self, question: str, choices: Mapping[str, str], *, command: str = "") -> None:
        super().__init__()
        self._question, self._choices, self._command = question, choices, command

    def compose(self) -> ComposeResult:
        """A list to choose from."""
        with Container(classes="dialog"):
            yield Static(safe_lines(self._question), markup=False)
            rows = Rows([Column(title="about")], titles=False)
            rows.styles.height = len(self._choices)
            rows.styles.margin = (1, 0)
            rows.rows = [Row(key=key, cells=(about,)) for key, about in self._choices.items()]
            yield rows
            yield from _command_line(self._command)
            yield Static("↑↓  choose      enter  go      esc  cancel", markup=False, classes="keys")

    def on_rows_opened(self, event: Rows.Opened) -> None:
        """Close with what was chosen."""
        self.dismiss(event.row.key if event.row is not None else None)

    def action_give_up(self) -> None:
        """Close without one."""
        self.dismiss(None)


class TextScreen(ModalScreen[None]):
    """A text to read: facts of a file, a comparison, a report."""

    SCOPED_CSS = False
    DEFAULT_CSS = LOOK

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("escape,q,enter", "close", "Close", "text.close"),
        shown("y", "copy", "Copy", "text.copy", "Copy the text (OSC 52)"),
    ]

    def __init__(
        self,
        title: str,
        text: str,
        charts: Sequence[SizeChart] = (),
        maps: Sequence[SizeMap] = (),
    ) -> None:
        super().__init__()
        self._title, self._text, self._charts, self._maps = title, text, charts, maps

    def compose(self) -> ComposeResult:
        """The text, and how to leave it."""
        with Container(classes="reader"):
            yield Static(f"─ {printable(self._title)} ", markup=False, classes="reader-title")
            with VerticalScroll():
                for chart in self._charts:
                    yield SizeChartView(chart)
                for one in self._maps:
                    yield SizeMapView(one)
                yield Static(safe_lines(self._text), markup=False)
            yield Static("esc  close   ↑↓  scroll   y  copy", markup=False, classes="keys")

    def action_close(self) -> None:
        """Go back."""
        self.dismiss(None)

    def action_copy(self) -> None:
        """Copy the text to the terminal's clipboard."""
        self.app.copy_to_clipboard(self._text)
        self.app.notify("Copied (if your terminal allows OSC 52)", markup=False)


def _command_line(command: str) -> ComposeResult:
    """The engine command that does the same."""
    if command:
        yield Static(f"$ {printable(command)}\n", markup=False, classes="keys")

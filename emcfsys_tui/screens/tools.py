"""Tools: everything the engine can beside the tabs, one key each, with a small form."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from emcfsys_engine.errors import printable
from emcfsys_tui.engine.form import FormField
from emcfsys_tui.engine.runs import as_command
from emcfsys_tui.engine.tools import TOOLS, Tool, Values
from emcfsys_tui.screens.dialogs import LOOK
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.widgets.form_line import FormLine
from emcfsys_tui.widgets.list import Column, Row, Rows

_LOOK = (
    LOOK
    + """
ToolsScreen, ToolScreen { align: center middle; background: $background 60%; }
ToolsScreen .dialog, ToolScreen .dialog { width: 94%; max-width: 100; max-height: 96%; }
ToolScreen VerticalScroll { height: auto; max-height: 14; margin: 1 0; }
ToolScreen #tool-command { color: $dim; }
.dialog FormLine Input { width: 1fr; margin: 0; padding: 0; background: $background; }
ToolScreen FormLine .field-remark { width: 2; }
"""
)


class ToolsScreen(ModalScreen[Tool | None]):
    """A list of tools; each has a key of its own."""

    SCOPED_CSS = False
    DEFAULT_CSS = _LOOK
    BINDINGS: ClassVar[list[BindingType]] = [
        shown("escape,q", "give_up", "Cancel", "tools.cancel"),
        *(
            Binding(tool.key, f"pick('{tool.key}')", tool.name, id=f"tools.{tool.name}")
            for tool in TOOLS
        ),
    ]

    def __init__(self, *, has_project: bool) -> None:
        super().__init__()
        self._tools = {tool.key: tool for tool in TOOLS if has_project or not tool.needs_project}

    def compose(self) -> ComposeResult:
        """Key, name, what it is for."""
        with Container(classes="dialog"):
            columns = (
                Column(title="", width=1),
                Column(title="tool", width=24),
                Column(title="what for"),
            )
            rows = Rows(columns, titles=False)
            rows.styles.height = len(self._tools)
            rows.rows = [
                Row(key=tool.key, cells=(tool.key, tool.name, tool.about))
                for tool in self._tools.values()
            ]
            yield rows
            yield Static("\na letter, or enter  go      esc  back", markup=False, classes="keys")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the tools that are here."""
        return action != "pick" or parameters[0] in self._tools

    def on_rows_opened(self, event: Rows.Opened) -> None:
        """Enter takes the tool under the cursor."""
        if event.row is not None:
            self.action_pick(event.row.key)

    def action_pick(self, key: str) -> None:
        """Take a tool."""
        self.dismiss(self._tools[key])

    def action_give_up(self) -> None:
        """Take none."""
        self.dismiss(None)


class ToolScreen(ModalScreen[Values | None]):
    """The switches of one tool, and the command that they make."""

    SCOPED_CSS = False
    DEFAULT_CSS = _LOOK
    BINDINGS: ClassVar[list[BindingType]] = [
        shown("ctrl+t,enter", "start", "Start", "tool.start"),
        shown("escape", "give_up", "Cancel", "tool.cancel"),
        quiet("up", "app.focus_previous", "Previous", "tool.up"),
        quiet("down", "app.focus_next", "Next", "tool.down"),
    ]

    def __init__(self, tool: Tool, folder: Path, fields: Sequence[FormField]) -> None:
        super().__init__()
        self._tool, self._folder, self._fields = tool, folder, fields
        self._values = {field.key: field.value for field in self._fields}

    def compose(self) -> ComposeResult:
        """One line a switch, then the command."""
        with Container(classes="dialog"):
            yield Static(f"{self._tool.name}: {self._tool.about}", markup=False)
            with VerticalScroll(can_focus=False):
                yield from (FormLine(field) for field in self._fields)
            yield Static(id="tool-command", markup=False)
            yield Static(
                "↑↓  line   ←→  word   enter  start   esc  back", markup=False, classes="keys"
            )

    def on_mount(self) -> None:
        """Show what would be done."""
        self._show_command()

    def on_form_line_edited(self, event: FormLine.Edited) -> None:
        """Keep what is typed."""
        self._values[event.key] = event.value
        self._show_command()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter starts it from within a field, too."""
        self.action_start()

    def action_start(self) -> None:
        """Close with what was filled in."""
        self.dismiss(dict(self._values))

    def action_give_up(self) -> None:
        """Close without."""
        self.dismiss(None)

    def _show_command(self) -> None:
        words: Sequence[str] = self._tool.words(self._folder, self._values)
        text = f"$ {printable(as_command(*words))}\n" if words else "project.toml changes\n"
        self.query_one("#tool-command", Static).update(text)

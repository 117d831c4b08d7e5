"""Lines that come: follows the newest, searches, keeps its place while somebody reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Input, Static

from emcfsys_engine.errors import printable
from emcfsys_tui.settings import quiet
from emcfsys_tui.view_models import Tone
from emcfsys_tui.widgets.list import Column, Row, Rows


class TextInput(Input):
    """An Input whose editing keys act at once, in the order in which they were typed.

    Textual's Input inserts a character as soon as the key reaches it, but backspace, the arrows and
    enter are bindings, which run only once the key has bubbled up to the application, message queue
    by message queue. When several keys come in one read, the characters typed after a backspace are
    in before it deletes: it takes the newest of them.
    """

    _EDITS: ClassVar[dict[str, str]] = {
        key: binding.action
        for binding in Input.BINDINGS
        if isinstance(binding, Binding)
        for key in binding.key.split(",")
    }

    async def on_key(self, event: events.Key) -> None:
        """Edit now."""
        action = self._EDITS.get(event.key)
        if action is not None and not event.is_printable:
            event.stop()
            event.prevent_default()
            await self.run_action(action)


class PathInput(TextInput):
    """A path to type, which tab completes as a shell does."""

    async def on_key(self, event: events.Key) -> None:
        """Complete with tab; what is no path yet lets tab go on."""
        if event.key == "tab":
            event.stop()
            event.prevent_default()
            self.value = completed(self.value)
            self.cursor_position = len(self.value)
        else:
            await super().on_key(event)


def completed(path: str) -> str:
    """Return a path with as much of its last part as the names in its folder have in common."""
    shown = Path(path).expanduser() if path.startswith("~") else Path(path)
    start = "" if path.endswith("/") else shown.name
    folder = shown if not start else shown.parent
    try:
        names = sorted(one.name for one in folder.iterdir() if one.name.startswith(start))
    except OSError:
        return path
    names = [name for name in names if start or not name.startswith(".")]
    if not names:
        return path
    first, last = names[0], names[-1]  # of sorted names these two differ first
    num = next(
        (n for n, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1),
        min(len(first), len(last)),
    )
    common = folder / first[:num] if num else folder
    return f"{common}/" if not num or (len(names) == 1 and common.is_dir()) else str(common)


Line = tuple[str, str, str]  # time, text, tone


class LogView(Vertical):
    """Times and texts, under a filter."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    LogView { width: 6fr; height: 1fr; }
    LogView Input { height: 1; border: none; padding: 0 1; background: $panel; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("escape", "drop_filter", "Show all lines again", "log.drop_filter"),
    ]

    class Opened(Message):
        """The person wants to read a line whole."""

        def __init__(self, view: "LogView", line: Line) -> None:
            self.view, self.line = view, line
            super().__init__()

    lines: reactive[tuple[Line, ...]] = reactive((), always_update=True, repaint=False)
    heading: reactive[str] = reactive("log", repaint=False)
    wanted: reactive[str] = reactive("", repaint=False)

    def compose(self) -> ComposeResult:
        """Title, filter, lines."""
        yield Static(classes="section", markup=False)
        yield TextInput(placeholder="only lines with …  esc ends", id="log-filter", compact=True)
        columns = (Column(title="time", width=8), Column(title="what", scrolls=True))
        yield Rows(columns, titles=False, empty="Nothing was said yet.")

    def on_mount(self) -> None:
        """The filter appears when it is asked for."""
        self.query_one(Input).display = False
        self._show_heading()

    def ask_filter(self) -> None:
        """Open the filter."""
        box = self.query_one(Input)
        box.display = True
        box.focus()

    def watch_lines(self) -> None:
        """Show the lines."""
        self._show()

    def watch_wanted(self) -> None:
        """Show only what is looked for."""
        self._show()

    def watch_heading(self) -> None:
        """Show the title."""
        self._show_heading()

    def on_resize(self) -> None:
        """The title is as long as there is room."""
        self._show_heading()

    @on(Input.Changed, "#log-filter")
    def filter_lines(self, event: Input.Changed) -> None:
        """Filter as the person types."""
        self.wanted = event.value
        event.stop()

    @on(Rows.Opened)
    def open_line(self, event: Rows.Opened) -> None:
        """Enter opens the whole line."""
        event.stop()
        if event.row is not None:
            self.post_message(self.Opened(self, self.lines[int(event.row.key)]))

    @on(Input.Submitted, "#log-filter")
    def end_filter(self) -> None:
        """Keep the filter, and read."""
        self.query_one(Rows).focus()
        self._hide_empty()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Let escape go on to the screen while there is no filter to drop."""
        if action == "drop_filter":
            return self.is_mounted and bool(self.query_one(Input).display)
        return True

    def action_drop_filter(self) -> None:
        """Show all lines again."""
        self.query_one(Input).value = ""
        self.query_one(Rows).focus()
        self._hide_empty()

    def _hide_empty(self) -> None:
        box = self.query_one(Input)
        box.display = bool(box.value)

    def _show_heading(self) -> None:
        if self.children:
            text = f"─ {printable(self.heading)} "
            self.query_one(Static).update(text + "─" * max(0, self.size.width - len(text)))

    def _show(self) -> None:
        if not self.children:
            return
        rows = self.query_one(Rows)
        follows = rows.cursor >= len(rows.rows) - 1
        found = _matching(self.lines, self.wanted)
        rows.empty = "No line holds this text." if self.wanted else "Nothing was said yet."
        rows.rows = [
            Row(key=str(place), cells=(at, text), tone=cast("Tone", tone))
            for place, (at, text, tone) in found
        ]
        if follows:
            rows.cursor = len(rows.rows) - 1


def _matching(lines: Sequence[Line], wanted: str) -> list[tuple[int, Line]]:
    low = wanted.lower()
    return [(n, line) for n, line in enumerate(lines) if not low or low in line[1].lower()]

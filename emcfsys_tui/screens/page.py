"""What every whole screen has: a line above, a line below, and a word when there is no room."""

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

import msgspec
from rich.segment import Segment
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from emcfsys_engine.errors import EmcfError, printable
from emcfsys_tui.lean_output import WholeMaps
from emcfsys_tui.messages import TextFound, Told
from emcfsys_tui.screens.dialogs import TextScreen
from emcfsys_tui.settings import LEAST_COLUMNS, LEAST_LINES, quiet, shown
from emcfsys_tui.text import fitted
from emcfsys_tui.widgets.boxes import Boxed

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp
    from emcfsys_tui.engine.form import FormField
    from emcfsys_tui.engine.tools import Tool


_MOST_KEYS = 7


class Tab(msgspec.Struct, frozen=True, kw_only=True):
    """One tab: its key, its name."""

    id: str
    key: str
    name: str


class TopLine(Widget):
    """The project, its tabs, and what runs on this machine."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"top--place", "top--tab", "top--current", "top--state"}

    place: reactive[str] = reactive("")
    tabs: reactive[tuple[Tab, ...]] = reactive(())
    current: reactive[str] = reactive("")
    status: reactive[str] = reactive("")

    class Picked(Message):
        """A tab was clicked."""

        def __init__(self, tab: str) -> None:
            self.tab = tab
            super().__init__()

    class Drawn(Message):
        """The line is drawn for the first time: the frame of the screen stands."""

    _is_drawn = False

    def render_line(self, y: int) -> Strip:
        """Draw the line."""
        if not self._is_drawn:
            self._is_drawn = True
            self.post_message(self.Drawn())
        base = self.rich_style
        width = self.size.width
        segments: list[Segment] = []
        for text, name, _ in self._parts(width):
            style = base + self.get_component_rich_style(f"top--{name}", partial=True)
            segments.append(Segment(text, style))
        return Strip(segments).crop_extend(0, width, base)

    def on_click(self, event: events.Click) -> None:
        """Tell which tab was clicked."""
        x = 0
        for text, _, tab in self._parts(self.size.width):
            if tab and x <= event.x < x + len(text):
                self.post_message(self.Picked(tab))
            x += len(text)

    def _parts(self, width: int) -> list[tuple[str, str, str]]:
        names = [f" {tab.key} {tab.name} " for tab in self.tabs]
        room = width - sum(map(len, names)) - len(self.status) - 2
        if room < 8:  # the others by their keys only
            names = [
                name if tab.id == self.current else f" {tab.key} "
                for tab, name in zip(self.tabs, names, strict=True)
            ]
            room = width - sum(map(len, names)) - len(self.status) - 2
        place = printable(self.place)
        shown = fitted(place, max(4, min(room - 1, len(place))), cut="end")
        parts = [(f" {shown} ", "place", "")]
        for tab, name in zip(self.tabs, names, strict=True):
            parts.append((name, "current" if tab.id == self.current else "tab", tab.id))
        used = sum(len(part[0]) for part in parts)
        gap = max(1, width - used - len(self.status) - 1)
        parts.append((" " * gap + self.status, "state", ""))
        return parts


class KeyLine(Widget):
    """At most seven keys that do something here; a click presses them."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--word"}

    keys: reactive[tuple[tuple[str, str, str], ...]] = reactive(())  # key, word, action

    class Pressed(Message):
        """A key of the line was clicked."""

        def __init__(self, action: str) -> None:
            self.action = action
            super().__init__()

    def on_mount(self) -> None:
        """Follow the screen's bindings."""
        self.screen.bindings_updated_signal.subscribe(self, self._read_keys)
        self._read_keys(self.screen)

    def render_line(self, y: int) -> Strip:
        """Draw the line; what does not fit is left out at the end."""
        base, width = self.rich_style, self.size.width
        key_style = base + self.get_component_rich_style("keys--key", partial=True)
        word_style = base + self.get_component_rich_style("keys--word", partial=True)
        segments: list[Segment] = []
        for key, word, _ in self._fitting(width):
            segments += [Segment(f" {key}", key_style), Segment(f" {word} ", word_style)]
        return Strip(segments).crop_extend(0, width, base)

    def on_click(self, event: events.Click) -> None:
        """Do what was clicked."""
        x = 0
        for key, word, action in self._fitting(self.size.width):
            end = x + len(key) + len(word) + 3
            if x <= event.x < end:
                self.post_message(self.Pressed(action))
            x = end

    def _fitting(self, width: int) -> list[tuple[str, str, str]]:
        kept = list(self.keys)
        while kept and sum(len(key) + len(word) + 3 for key, word, _ in kept) > width:
            kept.pop(-3 if len(kept) > 3 else -1)  # help and palette stand last, and stay
        return kept

    def _read_keys(self, screen: Screen[object]) -> None:
        if not self.is_attached or not screen.is_current:
            return
        found: dict[str, tuple[str, str, str]] = {}
        for active in screen.active_bindings.values():
            binding = active.binding
            if binding.show and active.enabled:
                name = f"{binding.id or binding.action}"
                key = self.app.get_key_display(binding)
                found.setdefault(name, (key, binding.description, binding.key))
        last = [name for name in ("app.help", "app.palette") if name in found]
        order = [name for name in found if name not in last]
        self.keys = tuple(found[name] for name in [*order[: _MOST_KEYS - len(last)], *last])


def sparkline(values: Sequence[float], *, low: float | None = None) -> str:
    """Return the values as bars of eight heights."""
    if not values:
        return ""
    bottom = min(values) if low is None else low
    top = max(values)
    scale = 7 / (top - bottom) if top > bottom else 0
    return "".join("▁▂▃▄▅▆▇█"[max(0, min(7, round((v - bottom) * scale)))] for v in values)


_LOOPS = """The loop: 1 Data → 2 Train → 3 Runs → 4 Hot folder. 5 Jobs and 6 Models watch over it.
Jobs belong to the daemon: quitting, a lost connection or a crash of this screen never stops one.
Every key can be changed: name its id in ~/.config/emcfsys/interface.toml, under [keys].
The manual: ":" and the word manual, or emcfsys-engine manual in a shell."""


class HelpScreen(TextScreen):
    """A page of keys, made from the bindings that work here."""

    def __init__(self, beneath: Screen[object]) -> None:
        super().__init__("Keys", help_text(beneath))


def help_text(screen: Screen[object]) -> str:
    """Return one line a key that works on this screen now, the ones of the footer first."""
    lines: dict[str, tuple[bool, str, str]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or not active.enabled or not binding.id:
            continue
        key = screen.app.get_key_display(binding)
        known = lines.get(binding.id)
        if known is not None:
            key = known[1] if key in known[1].split(" ") else f"{known[1]} {key}"
        lines[binding.id] = (binding.show, key, binding.tooltip or binding.description)
    width = max((len(key) for _, key, _ in lines.values()), default=0)
    about = max((len(text) for _, _, text in lines.values()), default=0)
    has_room = screen.size.width >= width + about + 40
    shown = sorted(lines.items(), key=lambda item: not item[1][0])
    told = [
        f"{key:<{width}}  {text:<{about}}  {name}"
        if has_room
        else f"{key:<{width}}  {text}\n{'':<{width}}  id {name}"
        for name, (_, key, text) in shown
    ]
    return "\n".join([*_LOOPS.split("\n"), "", *told])


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
        quiet(
            "T",
            "tools",
            "Tools",
            "app.tools",
            "Predict a folder, evaluate, measure, classes, clean, backbones, doctor …",
        ),
        quiet("tab", "next_pane(1)", "Next pane", "app.next"),
        quiet("shift+tab", "next_pane(-1)", "Previous pane", "app.previous"),
        quiet("q", "app.leave", "Quit", "app.quit", "Leave; jobs go on"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._compositor = WholeMaps()

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

    @property
    def place(self) -> Path | None:
        """The project of this screen, where it is one's."""
        return None

    def action_tools(self) -> None:
        """Offer what the engine can beside the tabs."""
        tools = import_module("emcfsys_tui.screens.tools").ToolsScreen
        self.app.push_screen(tools(has_project=self.place is not None), self._fill_in)

    def _fill_in(self, tool: "Tool | None") -> None:
        if tool is not None and (not tool.changes or self.page_app.may_change()):
            self.run_worker(partial(self._read_fields, tool), thread=True, group="tool")

    def _read_fields(self, tool: "Tool") -> None:
        fields = tool.fields(self.place or Path.cwd())  # what "best" means may take a while
        self.app.call_from_thread(self._ask_fields, tool, fields)

    def _ask_fields(self, tool: "Tool", fields: "tuple[FormField, ...]") -> None:
        if not fields:
            self._start_tool(tool, {})
            return
        screen = import_module("emcfsys_tui.screens.tools").ToolScreen
        folder = self.place or Path.cwd()
        self.app.push_screen(screen(tool, folder, fields), partial(self._start_tool, tool))

    def _start_tool(self, tool: "Tool", values: Mapping[str, str] | None) -> None:
        if values is not None:
            self.page_app.tell(f"{tool.name} …")
            self.run_worker(partial(self._use_tool, tool, values), thread=True, group="tool")

    def _use_tool(self, tool: "Tool", values: Mapping[str, str]) -> None:
        folder = self.place or Path.cwd()
        try:
            self.post_message(tool.work(folder, values, tool.words(folder, values)))
        except (EmcfError, OSError) as error:
            self.post_message(Told(str(error), "error"))

    def on_text_found(self, event: TextFound) -> None:
        """Show what a tool said, unless the person went on to another screen."""
        if self is self.app.screen:
            self.app.push_screen(TextScreen(event.title, event.text, event.charts, event.maps))
        else:
            self.page_app.tell(f"{event.title}: not opened, you went on meanwhile")

    def on_resize(self) -> None:
        """Say plainly when there is no room."""
        size = self.size
        self.query_one("#too-small", Static).update(
            f"{size.width} × {size.height} is too small: make it {LEAST_COLUMNS} × {LEAST_LINES},"
            " or the font smaller.\nq quits; jobs go on."
        )

    def action_next_pane(self, by: int) -> None:
        """Go to the next pane; where one has all the room, the next one takes it."""
        boxed = next((one for one in self.query(Boxed) if one.display and one.is_on_screen), None)
        if boxed is None or not boxed.go_to_box(by):
            self.app.action_focus_next() if by > 0 else self.app.action_focus_previous()

    def _pop_result_callback(self) -> None:
        # The first screen is the app's own: nobody pushed it, nobody waits for its result.
        if self._result_callbacks:
            super()._pop_result_callback()

    async def on_key_line_pressed(self, event: KeyLine.Pressed) -> None:
        """Do what was clicked in the line of keys."""
        self.app.simulate_key(event.action.split(",")[0])

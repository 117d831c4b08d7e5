"""The line above (where am I, what runs) and the line below (what can I do now)."""

from collections.abc import Sequence
from typing import ClassVar

import msgspec
from rich.segment import Segment
from textual import events
from textual.message import Message
from textual.reactive import reactive
from textual.screen import Screen
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.errors import printable
from emcfsys_tui.text import fitted

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

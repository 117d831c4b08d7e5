"""One of a few words, chosen with the arrow keys or a click."""

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_tui.keys import quiet


class Choice(Widget, can_focus=True):
    """Words side by side; the chosen one stands in brackets."""

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("left,h", "shift(-1)", "Word before", "choice.before"),
        quiet("right,l,space", "shift(1)", "Next word", "choice.next"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice--chosen", "choice--default"}

    value: reactive[str] = reactive("")

    class Changed(Message):
        """Another word is chosen."""

        def __init__(self, value: str) -> None:
            self.value = value
            super().__init__()

    def __init__(self, choices: Sequence[str], value: str, *, default: str = "") -> None:
        super().__init__()
        self.choices = tuple(choices)
        self._default = default
        self.set_reactive(Choice.value, value)

    def action_shift(self, by: int) -> None:
        """Take the word beside."""
        shown = self.value or self._default
        place = self.choices.index(shown) if shown in self.choices else 0
        self._take(self.choices[(place + by) % len(self.choices)])

    def on_click(self, event: events.Click) -> None:
        """Take the word that was clicked."""
        x = 0
        for word in self.choices:
            if x <= event.x < x + len(word) + 2:
                self._take(word)
            x += len(word) + 2

    def render_line(self, y: int) -> Strip:
        """Draw the words."""
        base = self.rich_style
        segments: list[Segment] = []
        for word in self.choices:
            is_chosen = word == (self.value or self._default)
            style = base
            if is_chosen:
                style += self.get_component_rich_style("choice--chosen", partial=True)
            segments.append(Segment(f"[{word}]" if is_chosen else f" {word} ", style))
        return Strip(segments).crop_extend(0, self.size.width, base)

    def _take(self, word: str) -> None:
        if word != self.value:
            self.value = word
            self.post_message(self.Changed(word))

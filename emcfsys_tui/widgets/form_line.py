"""A form, line by line: a key, its value to type or choose, and what is wrong with it."""

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from emcfsys_tui.engine.form import FormField
from emcfsys_tui.settings import quiet
from emcfsys_tui.widgets.log_view import TextInput


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
        x = -self._first_column()
        for word, text in self._texts():
            if x <= event.x < x + len(text):
                self._take(word)
            x += len(text)

    def render_line(self, y: int) -> Strip:
        """Draw the words; where there is no room for all of them, those around the chosen one."""
        base, first = self.rich_style, self._first_column()
        chosen = base + self.get_component_rich_style("choice--chosen", partial=True)
        segments = [
            Segment(text, chosen if word == self._shown else base) for word, text in self._texts()
        ]
        return Strip(segments).crop_extend(first, first + self.size.width, base)

    @property
    def _shown(self) -> str:
        return self.value or self._default

    def _texts(self) -> list[tuple[str, str]]:
        """Return each word, and how it is written: closer together where there is little room."""
        is_narrow = sum(len(word) + 2 for word in self.choices) > self.size.width
        before, behind = ("", " ") if is_narrow else (" ", "")
        return [
            (word, f"[{word}]{behind}" if word == self._shown else f"{before}{word} ")
            for word in self.choices
        ]

    def _first_column(self) -> int:
        """Return how much is out of sight at the left, so that the chosen word is in sight."""
        texts = self._texts()
        place = next((n for n, (word, _) in enumerate(texts) if word == self._shown), 0)
        start, end = (sum(len(text) for _, text in texts[:n]) for n in (place, place + 2))
        return min(start, max(0, end - self.size.width))

    def _take(self, word: str) -> None:
        if word != self.value:
            self.value = word
            self.post_message(self.Changed(word))


PRESETS = {
    "quick": "minutes: is it promising?",
    "standard": "good results",
    "best": "long: the last percent",
}


class FormLine(Horizontal):
    """One key: its name, a value to type or choose, and what is wrong with it."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    FormLine { height: 1; }
    FormLine .field-name { width: 24; padding: 0 1; color: $dim; }
    FormLine:focus-within .field-name { color: $accent; text-style: bold; }
    FormLine Input { width: 30; height: 1; border: none; padding: 0; background: $panel; }
    FormLine Choice { width: auto; min-width: 46; height: 1; }
    Screen.-narrow FormLine Choice { width: 60%; min-width: 36; max-width: 56; }
    FormLine#field-training-preset Choice { min-width: 26; }
    Screen.-narrow FormLine#field-training-preset Choice { width: 26; min-width: 26; }
    FormLine .field-remark { width: 1fr; padding: 0 1; color: $dim; }
    FormLine.-faulty .field-remark { color: $error; }
    Choice > .choice--chosen { text-style: bold; color: $primary; }
    Choice:focus { background: $panel; }
    """

    fault: reactive[str] = reactive("", repaint=False)

    class Edited(Message):
        """The value is another one."""

        def __init__(self, key: str, value: str) -> None:
            self.key, self.value = key, value
            super().__init__()

    def __init__(self, field: FormField) -> None:
        super().__init__(id="field-" + re.sub(r"\W", "-", field.key))
        self.field = field

    def compose(self) -> ComposeResult:
        """Name, value, remark."""
        yield Static(self.field.key, classes="field-name", markup=False)
        if self.field.choices:
            yield Choice(self.field.choices, self.field.value, default=self.field.default)
        else:
            yield TextInput(self.field.value, placeholder=self.field.default, compact=True)
        yield Static(self._remark(), classes="field-remark", markup=False)

    def watch_fault(self, fault: str) -> None:
        """Show the engine's word."""
        if self.is_mounted:
            self.set_class(bool(fault), "-faulty")
            self.query_one(".field-remark", Static).update(self._remark())

    def on_input_changed(self, event: Input.Changed) -> None:
        """Tell of every letter."""
        event.stop()
        self.post_message(self.Edited(self.field.key, event.value))

    def on_choice_changed(self, event: Choice.Changed) -> None:
        """Tell of a choice."""
        event.stop()
        self.query_one(".field-remark", Static).update(self._remark())
        self.post_message(self.Edited(self.field.key, event.value))

    def _remark(self) -> str:
        if self.fault:
            return "✗"
        if self.field.key != "training.preset":
            return ""
        chosen = self.query_one(Choice).value if self.is_mounted else self.field.value
        return PRESETS.get(chosen or self.field.default, "")

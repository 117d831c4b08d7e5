"""The boxes of a tab: one of them can have all the room, and on a small screen it always does."""

from collections.abc import Container, Sequence
from typing import ClassVar

from textual import events
from textual.binding import BindingType
from textual.containers import Vertical
from textual.reactive import reactive
from textual.widget import Widget

from emcfsys_tui.settings import quiet

_LEAST_COLUMNS, _LEAST_LINES = 72, 20  # a smaller screen shows one box at a time
_ASIDE, _LARGE = "-aside", "-large"


class Boxed(Vertical):
    """Has boxes: groups of widgets that belong together, the one that takes the keyboard first."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    .-aside { display: none !important; }
    .-large { height: 1fr !important; max-height: 100% !important; width: 1fr !important; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("plus,equals_sign", "enlarge", "Enlarge", "pane.enlarge", "Give this pane the room"),
        quiet("underscore", "restore", "Restore", "pane.restore", "Show all panes again", "_"),
    ]
    BOXES: ClassVar[tuple[tuple[str, ...], ...]] = ()  # selectors, in their order on the screen

    enlarged: reactive[bool] = reactive(False, repaint=False)

    @property
    def is_alone(self) -> bool:
        """Tell whether only one box is shown."""
        size = self.screen.size
        is_small = size.width < _LEAST_COLUMNS or size.height < _LEAST_LINES
        return bool(self.BOXES) and (self.enlarged or is_small)

    def action_enlarge(self) -> None:
        """Give the box that has the keyboard all the room."""
        self.enlarged = bool(self.BOXES)

    def action_restore(self) -> None:
        """Show all boxes again, as far as there is room."""
        self.enlarged = False

    def watch_enlarged(self) -> None:
        """Lay out anew."""
        self.lay_out()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """The box that has the keyboard is the one that is shown."""
        self.lay_out()

    def on_resize(self) -> None:
        """A smaller screen shows one box, a larger one all."""
        self.lay_out()

    def go_to_box(self, by: int) -> bool:
        """Go to the box before or after this one; False where all are shown."""
        if not self.is_alone:
            return False
        here, num = self._here(), len(self.BOXES)
        for step in range(1, num):
            place = (here + by * step) % num
            if self.show_box(place):
                return True
        return True

    def show_box(self, place: int) -> bool:
        """Give the keyboard to a box; False for one that cannot take it now."""
        target = next((w for w in self._widgets(place) for w in _focusable(w)), None)
        if target is None or not self.is_open(place):
            return False
        self._lay_out(place)
        target.focus()
        return True

    def is_open(self, place: int) -> bool:
        """Tell whether a box has something to show now."""
        return True

    def lay_out(self) -> None:
        """Show one box or all."""
        if self.children:
            self._lay_out(self._here() if self.is_alone else None)

    def _here(self) -> int:
        """Return the box that has the keyboard, else the first."""
        focused = self.screen.focused
        for place in range(len(self.BOXES)):
            for widget in self._widgets(place):
                if focused is not None and widget in focused.ancestors_with_self:
                    return place
        return self._shown if self.is_alone else 0

    _shown = 0  # the box that is shown alone

    def _lay_out(self, place: int | None) -> None:
        for widget in self.query(f".{_ASIDE}"):
            widget.remove_class(_ASIDE)
        for widget in self.query(f".{_LARGE}"):
            widget.remove_class(_LARGE)
        if place is None:
            return
        self._shown = place
        chosen = self._widgets(place)
        kept = {ancestor for widget in chosen for ancestor in widget.ancestors_with_self}
        for other in range(len(self.BOXES)):
            if other != place:
                for widget in self._widgets(other):
                    self._put_aside(widget, kept)
        for widget in chosen:
            if next(iter(_focusable(widget)), None) is not None:
                widget.add_class(_LARGE)
                for ancestor in widget.ancestors:
                    if ancestor is self:
                        break
                    ancestor.add_class(_LARGE)

    def _put_aside(self, widget: Widget, kept: Container[object]) -> None:
        """Hide a widget, and the containers around it that hold nothing of what is shown."""
        while widget is not self and widget not in kept:
            widget.add_class(_ASIDE)
            parent = widget.parent
            if not isinstance(parent, Widget):
                return
            widget = parent

    def _widgets(self, place: int) -> Sequence[Widget]:
        return [widget for name in self.BOXES[place] for widget in self.query(name).results(Widget)]


def _focusable(widget: Widget) -> Sequence[Widget]:
    """Return a widget, or those inside it, that can take the keyboard."""
    found: list[Widget] = []
    for one in (widget, *widget.query("*").results(Widget)):
        inner = one.ancestors_with_self
        hidden = any(w is not widget and not w.display for w in inner[: inner.index(widget)])
        if one.can_focus and not hidden:
            found.append(one)
    return found

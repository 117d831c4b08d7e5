"""One window for every message: what happened, where, what to do, and the file it speaks of."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from emcfsys_tui.screens.dialogs import LOOK
from emcfsys_tui.screens.page import KeyLine
from emcfsys_tui.settings import quiet, shown
from emcfsys_tui.text import one_line, safe_lines
from emcfsys_tui.view_models import Deed, Notice

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp


class MessageScreen(ModalScreen[Deed | None]):
    """The whole text of a row; closes with what the person wants to do about it."""

    SCOPED_CSS = False
    DEFAULT_CSS = (
        LOOK
        + """
    MessageScreen { align: center middle; background: $background 60%; }
    MessageScreen .reader { width: 94%; max-width: 110; height: auto; max-height: 96%; }
    MessageScreen .reader VerticalScroll { height: auto; max-height: 100%; }
    MessageScreen .remedy { color: $accent; }
    MessageScreen .quiet { color: $dim; }
    MessageScreen Static { height: auto; }
    MessageScreen KeyLine { background: $background; }
    """
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        shown("escape,q,enter", "close", "close", "message.close", "Back to the list"),
        shown("e", "edit", "edit the file", "message.edit", "Open the file in $VISUAL or $EDITOR"),
        shown("r", "deed('retry')", "try again", "message.retry", "Try it again"),
        shown("v", "deed('image')", "show the image", "message.image", "Show it in the list"),
        shown("o", "deed('run')", "its run", "message.run", "Show the run"),
        shown("k", "deed('check')", "check again", "message.check", "Run the check again"),
        shown("y", "copy", "copy", "message.copy", "Copy the text (OSC 52)"),
        quiet("j,down", "scroll(1)", "Down", "message.down"),
        quiet("up", "scroll(-1)", "Up", "message.up"),
    ]

    def __init__(self, notice: Notice) -> None:
        super().__init__()
        self.notice = notice

    def compose(self) -> ComposeResult:
        """The text in the order of its use, the path last, and the keys that do something."""
        notice = self.notice
        with Container(classes="reader"):
            yield Static(f"─ {one_line(notice.title)} ", markup=False, classes="reader-title")
            with VerticalScroll():
                yield Static(safe_lines(notice.what), markup=False)
                if notice.where:
                    yield Static(f"in {safe_lines(notice.where)}", markup=False, classes="quiet")
                if notice.remedy:
                    yield Static(f"→ {safe_lines(notice.remedy)}", markup=False, classes="remedy")
                if notice.lines:
                    yield Static(f"\n─ {notice.lines_are}", markup=False, classes="quiet")
                    yield Static(safe_lines("\n".join(notice.lines)), markup=False)
                if notice.file is not None:
                    yield Static(f"\n{one_line(str(notice.file))}", markup=False, classes="quiet")
            yield KeyLine()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only what can be done about this message now."""
        if action == "deed":
            return parameters[0] in self.notice.deeds
        if action == "edit":
            return self.notice.can_edit and not cast("EmcfApp", self.app).read_only
        return True

    def action_close(self) -> None:
        """Go back."""
        self.dismiss(None)

    def action_deed(self, deed: str) -> None:
        """Close, and let the tab do it."""
        self.dismiss(cast("Deed", deed))

    def action_edit(self) -> None:
        """Open the file in the person's own editor; the message is there afterwards."""
        if self.notice.file is not None:
            cast("EmcfApp", self.app).edit(self.notice.file)

    def action_copy(self) -> None:
        """Copy the text to the terminal's clipboard."""
        notice = self.notice
        parts = [notice.what, notice.where, notice.remedy, *notice.lines, str(notice.file or "")]
        self.app.copy_to_clipboard("\n".join(part for part in parts if part))
        self.app.notify("Copied (if your terminal allows OSC 52)", markup=False)

    def action_scroll(self, by: int) -> None:
        """Show the lines below or above."""
        self.query_one(VerticalScroll).scroll_relative(y=by, animate=False)

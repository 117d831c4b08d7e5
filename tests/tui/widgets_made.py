"""A stage for one widget, and the text that it shows."""

from textual.app import App, ComposeResult
from textual.widgets import Static

from emcfsys_tui.widgets.chart import Chart
from emcfsys_tui.widgets.list import Rows
from emcfsys_tui.widgets.log_view import TextInput
from emcfsys_tui.widgets.picture_view import PictureView


class Stage(App[None]):
    def __init__(self, widget: Static | Rows | Chart | PictureView | TextInput) -> None:
        super().__init__()
        self.widget = widget

    def get_theme_variable_defaults(self) -> dict[str, str]:
        return {"dim": "#888888", "cursor": "#224466"}

    def compose(self) -> ComposeResult:
        yield self.widget


def text_of(widget: Rows | Chart | PictureView) -> str:
    return "\n".join(widget.render_line(y).text for y in range(widget.size.height))

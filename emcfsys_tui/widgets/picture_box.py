"""A picture with its name, its classes by colour and glyph, and what is under the pointer."""

from typing import TYPE_CHECKING, cast

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import reactive
from textual.widgets import Static

from emcfsys_engine.errors import printable
from emcfsys_tui import themes
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import Picture
from emcfsys_tui.widgets.picture_view import PictureView

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp


class PictureBox(Vertical):
    """What is known of one image, the image itself foremost."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    PictureBox { width: 5fr; padding-left: 1; }
    PictureView { height: 1fr; }
    #picture-legend, #picture-point { height: 1; }
    #picture-point { color: $dim; }
    PictureView:focus { background: $panel; }
    Screen.-wide PictureBox { width: 8fr; }
    """

    picture: reactive[Picture | None] = reactive(None, repaint=False)
    image_name: reactive[str] = reactive("", repaint=False)
    point: reactive[str] = reactive("", repaint=False)
    counts: reactive[str] = reactive("", repaint=False)
    mode: reactive[str] = reactive("labels", repaint=False)  # labels | prediction | bare

    @property
    def shows_prediction(self) -> bool:
        """Tell whether the prediction is laid over the image."""
        return self.mode == "prediction"

    def compose(self) -> ComposeResult:
        """Title, picture, legend, point."""
        yield Static(classes="section", id="picture-title", markup=False)
        yield PictureView()
        yield Static(id="picture-legend", markup=False)
        yield Static(id="picture-point", markup=False)

    def on_mount(self) -> None:
        """Take colours from the theme."""
        view = self.query_one(PictureView)
        app = cast("EmcfApp", self.app)
        view.colours = themes.class_colours(app.theme, dark=app.current_theme.dark)
        view.show_as(app.settings.pictures)
        self._show_words()

    def next_overlay(self, *, has_prediction: bool) -> None:
        """Labels, prediction where there is one, the bare image."""
        modes = ["labels", "prediction", "bare"] if has_prediction else ["labels", "bare"]
        place = modes.index(self.mode) if self.mode in modes else 0
        self.mode = modes[(place + 1) % len(modes)]

    def next_class(self) -> None:
        """All classes, then one after the other."""
        view = self.query_one(PictureView)
        values: list[int | None] = [None]
        if self.picture is not None:
            values += [value for value, _ in self.picture.classes]
        place = values.index(view.only_class) if view.only_class in values else 0
        view.only_class = values[(place + 1) % len(values)]
        self._show_words()

    def next_opacity(self) -> None:
        """Cover more of the image, then little again."""
        view = self.query_one(PictureView)
        view.strength = (view.strength + 1) % 3

    def watch_picture(self, picture: Picture | None) -> None:
        """Show it."""
        if self.is_mounted:
            self.query_one(PictureView).picture = picture
            self._show_words()

    def watch_mode(self, mode: str) -> None:
        """Lay something over it, or nothing."""
        if self.is_mounted:
            self.query_one(PictureView).overlay = mode != "bare"
            self._show_words()

    def watch_point(self) -> None:
        """Say what is under the pointer."""
        self._show_words()

    def watch_image_name(self) -> None:
        """Say which image it is."""
        self._show_words()

    def watch_counts(self) -> None:
        """Say how many there are."""
        self._show_words()

    def _show_words(self) -> None:
        if not self.is_mounted:
            return
        name, room = printable(self.image_name), max(8, self.size.width - 4)
        if cell_len(name) > room:
            name = fitted(name, room, cut="middle")
        self.query_one("#picture-title", Static).update(f"─ {name} {'─' * 200}", layout=False)
        self.query_one("#picture-legend", Static).update(self._legend(), layout=False)
        point = self.point or self._facts()
        self.query_one("#picture-point", Static).update(f" {point}", layout=False)

    def _facts(self) -> str:
        shown = self.picture
        if shown is None or not shown.grey:
            return self.counts
        words = f"{shown.image_px[0]}×{shown.image_px[1]} px"
        words += f"  {shown.pixel_nm:.4g} nm/px" if shown.pixel_nm else ""
        counts = f"  {self.counts}"
        words += counts if len(words) + len(counts) < self.size.width - 2 else ""
        return printable(shown.info) if shown.info else words

    def _legend(self) -> Text:
        shown = self.picture
        view = self.query_one(PictureView)
        if shown is None or not shown.ids or self.mode == "bare" or not view.colours:
            word = "bare image (o: labels)" if self.mode == "bare" else "no labels"
            return Text(f" {word if shown is not None and shown.grey else ''}", no_wrap=True)
        names = [name for value, name in shown.classes if value or view.only_class is not None]
        is_long = sum(len(name) + 3 for name in names) + len(self.mode) + 2 > self.size.width - 1
        text = Text(" " if is_long else f" {self.mode}: ", no_wrap=True, overflow="ellipsis")
        for place, (value, name) in enumerate(shown.classes):
            if value == 0 and view.only_class is None:
                continue
            is_shown = view.only_class in (None, value)
            red, green, blue = view.colours[place % len(view.colours)]
            text.append("■" if is_shown else "□", Style.parse(f"rgb({red},{green},{blue})"))
            text.append(f" {printable(name)} ")
        return text

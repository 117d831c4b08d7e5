"""What the tabs with a micrograph share: its decoder, and everything one does to the picture."""

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from rich.text import Text
from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive
from textual.theme import Theme
from textual.widgets import Static

from emcfsys_engine.colours import colours_for
from emcfsys_engine.errors import printable
from emcfsys_tui.engine.data import Decoder, PictureSpec
from emcfsys_tui.messages import PictureRead, PointRead
from emcfsys_tui.settings import quiet
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import Picture, Preview, RunDetail
from emcfsys_tui.widgets.pane import FedPane
from emcfsys_tui.widgets.picture_view import NUM_STRENGTHS, PictureView
from emcfsys_tui.widgets.picture_words import class_legend, scale_words

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp


_MOST_CLASSES = 255
_LEAST_WORDS = 12  # of what is said beside an image's size: less says nothing


class PictureBox(Vertical):
    """What is known of one image, the image itself foremost."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    PictureBox { width: 5fr; padding-left: 1; }
    PictureView { height: 1fr; }
    #picture-legend, #picture-point { height: 1; }
    #picture-point { color: $dim; }
    PictureView:focus { background: $panel; }
    PictureBox:focus-within #picture-title { color: $accent; text-style: bold; }
    Screen.-wide PictureBox { width: 8fr; }
    """

    picture: reactive[Picture | None] = reactive(None, repaint=False)
    image_name: reactive[str] = reactive("", repaint=False)
    point: reactive[str] = reactive("", repaint=False)
    counts: reactive[str] = reactive("", repaint=False)
    mode: reactive[str] = reactive("labels", repaint=False)  # labels | prediction | bare
    is_predicted: reactive[bool] = reactive(False, repaint=False)  # without labels: a model's word

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
        view.colours = colours_for(_MOST_CLASSES)
        view.show_as(app.settings.pictures)
        app.theme_changed_signal.subscribe(self, self._follow_theme)
        self._follow_theme(app.current_theme)

    def on_resize(self) -> None:
        """Say as much as there is room for: in a tab that is not shown there was none."""
        self._show_words()

    def _follow_theme(self, theme: Theme) -> None:
        self.query_one(PictureView).lettered = cast("EmcfApp", self.app).letters_every
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
        """Outlines, fills that cover more and more, outlines again."""
        view = self.query_one(PictureView)
        view.strength = (view.strength + 1) % NUM_STRENGTHS

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
        scale = scale_words(self.picture) if self.picture is not None else ""
        name, room = printable(self.image_name), max(8, self.size.width - len(scale) - 6)
        if cell_len(name) > room:
            name = fitted(name, room, cut="middle")
        line = "─" * max(1, room - cell_len(name))
        lead = f"─ {name} " if name else ""
        title = f"{lead}{line} {scale}" if scale else lead + "─" * 200
        self.query_one("#picture-title", Static).update(title, layout=False)
        self.query_one("#picture-legend", Static).update(self._legend(), layout=False)
        point = printable(self.point or self._facts())
        self.query_one("#picture-point", Static).update(f" {point}", layout=False)

    def _facts(self) -> str:
        shown = self.picture
        if shown is None or not shown.grey:
            return printable(self.counts)
        words = f"{shown.image_px[0]}×{shown.image_px[1]} px"
        words += f"  {shown.pixel_nm:.4g} nm/px" if shown.pixel_nm else ""
        room = self.size.width - cell_len(words) - 5
        words += (
            f"  {fitted(printable(self.counts), room)}".rstrip() if room >= _LEAST_WORDS else ""
        )
        return printable(shown.info) if shown.info else words

    def _legend(self) -> Text:
        shown = self.picture
        view = self.query_one(PictureView)
        if shown is None or not shown.ids or self.mode == "bare" or not view.colours:
            word = "bare image (o: labels)" if self.mode == "bare" else "no labels"
            return Text(f" {word if shown is not None and shown.grey else ''}", no_wrap=True)
        values = [value for value, _ in shown.classes]
        is_ground_bare = view.only_class is None and values[:1] == [0]
        return class_legend(
            [name for _, name in shown.classes],
            cast("EmcfApp", self.app).class_colours(len(values)),
            self.size.width - 1,
            lead="prediction:" if self.is_predicted else f"{self.mode}:",
            only=values.index(view.only_class) if view.only_class in values else None,
            first=int(is_ground_bare),
        )


class PicturePane(FedPane):
    """A tab with one PictureBox, which shows what `wanted_picture` says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._decoder = Decoder(self.post_message)

    def wanted_picture(self) -> PictureSpec | None:
        """Return which picture shall be seen, without its size; None while there is none."""
        raise NotImplementedError

    def on_unmount(self) -> None:
        """End the decoder; Textual calls this beside a tab's own `on_unmount`."""
        self._decoder.close()

    def on_picture_read(self, event: PictureRead) -> None:
        """Show the picture, unless the cursor went on meanwhile."""
        wanted_picture = self.wanted_picture()
        if wanted_picture is not None and event.picture.key == wanted_picture.key:
            self.query_one(PictureBox).picture = event.picture

    def on_point_read(self, event: PointRead) -> None:
        """Say what is under the pointer."""
        self.query_one(PictureBox).point = event.text

    @on(PictureView.Wanted)
    def look_at(self, event: PictureView.Wanted) -> None:
        """Show another part."""
        self.wish_picture(event.view)

    @on(PictureView.Pointed)
    def ask_point(self, event: PictureView.Pointed) -> None:
        """Ask what is under the pointer."""
        wanted_picture = self.wanted_picture()
        if wanted_picture is not None:
            self._decoder.request(wanted_picture.at(event.pixel))

    def action_one_class(self) -> None:
        """One class after the other."""
        self.query_one(PictureBox).next_class()

    def action_opacity(self) -> None:
        """Cover more, then little again."""
        self.query_one(PictureBox).next_opacity()

    def action_zoom(self, factor: float) -> None:
        """Zoom in or out."""
        self.query_one(PictureView).zoom(factor)

    def action_whole(self) -> None:
        """Show the whole image."""
        self.wish_picture(None)

    def show_image(self, name: str) -> None:
        """Show another image, whole."""
        box = self.query_one(PictureBox)
        box.image_name = name
        box.point = ""
        self.wish_picture(None)

    def wish_again(self) -> None:
        """Show the same part of what is now asked for."""
        shown = self.query_one(PictureBox).picture
        self.wish_picture(shown.view_px if shown is not None and shown.grey else None)

    def wish_picture(self, view: tuple[float, float, float, float] | None) -> None:
        """Ask for a part of the picture: left, top, width, height in pixels; None: all of it."""
        wanted_picture, seen = self.wanted_picture(), self.query_one(PictureView)
        if wanted_picture is None:
            self.query_one(PictureBox).picture = None
        elif seen.size.width >= 2 and seen.size.height >= 2:
            size = (seen.size.width, seen.size.height * 2)
            is_calm = not seen.true_colour
            self._decoder.request(wanted_picture.sized(size, view, seen.drawing, is_calm=is_calm))


_LEGEND = "image · truth · prediction · errors in red"


class PreviewTitle(Static):
    """Which validation is shown; its left half goes back, its right half forth."""

    class Clicked(Message):
        """The person wants the validation before or after."""

        def __init__(self, by: int) -> None:
            self.by = by
            super().__init__()

    def on_click(self, event: events.Click) -> None:
        """Go back or forth."""
        self.post_message(self.Clicked(-1 if event.x < self.size.width // 2 else 1))


class PreviewBox(Vertical):
    """One validation picture of a run; follows the newest until somebody steps back."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    PreviewBox { width: 1fr; height: 1fr; padding-left: 1; }
    PreviewBox PictureView { height: 1fr; }
    PreviewBox .preview-point, PreviewBox .preview-legend { height: 1; color: $dim; }
    PreviewBox:focus-within PreviewTitle { color: $accent; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("z", "zoom(0.5)", "Zoom in", "preview.zoom_in"),
        quiet("Z", "zoom(2.0)", "Zoom out", "preview.zoom_out"),
    ]

    detail: reactive[RunDetail | None] = reactive(None, repaint=False)
    step: reactive[int | None] = reactive(None, repaint=False)  # None: the newest
    image: reactive[str] = reactive("", repaint=False)
    point: reactive[str] = reactive("", repaint=False)

    class Wanted(Message):
        """A picture is wanted from the decoder."""

        def __init__(self, request: PictureSpec) -> None:
            self.request = request
            super().__init__()

    def compose(self) -> ComposeResult:
        """Title, picture, what is under the pointer."""
        yield PreviewTitle(classes="section", markup=False)
        yield PictureView()
        yield Static(classes="preview-legend", markup=False)
        yield Static(classes="preview-point", markup=False)

    def on_mount(self) -> None:
        """Take the person's way of showing pictures."""
        self.query_one(PictureView).show_as(cast("EmcfApp", self.app).settings.pictures)
        self.app.theme_changed_signal.subscribe(self, lambda theme: self._show_legend())
        self._show()

    def on_resize(self) -> None:
        """The legend is as long as there is room."""
        self._show_legend()

    @property
    def shown(self) -> Preview | None:
        """The preview that is shown."""
        found = [one for one in self._previews() if one.step == self._step_shown()]
        return next((one for one in found if one.image == self.image), found[0] if found else None)

    def move(self, by: int) -> None:
        """Show the validation before or after; the last one follows the newest again."""
        steps = self._steps()
        at = self._step_shown()
        if at is None:
            return
        place = max(0, min(len(steps) - 1, steps.index(at) + by))
        self.step = None if place == len(steps) - 1 else steps[place]

    def next_image(self) -> None:
        """Show another image of the same validation."""
        images = [one.image for one in self._previews() if one.step == self._step_shown()]
        if images:
            place = images.index(self.image) if self.image in images else 0
            self.image = images[(place + 1) % len(images)]

    def action_zoom(self, factor: float) -> None:
        """Zoom in or out."""
        self.query_one(PictureView).zoom(factor)

    def watch_detail(self, before: RunDetail | None, now: RunDetail | None) -> None:
        """Another run begins at its newest validation."""
        if before is not None and now is not None and before.id != now.id:
            self.step = None
        self._show()

    def watch_step(self) -> None:
        """Show it."""
        self._show()

    def watch_image(self) -> None:
        """Show it."""
        self._show()

    def watch_point(self) -> None:
        """Say what is under the pointer."""
        if self.is_mounted:
            self.query_one(".preview-point", Static).update(f" {self.point or _LEGEND}")

    def on_picture_read(self, event: PictureRead) -> None:
        """Show the picture, unless another one is wanted meanwhile."""
        shown = self.shown
        if shown is not None and event.picture.key == str(shown.file):
            self.query_one(PictureView).picture = event.picture

    def on_point_read(self, event: PointRead) -> None:
        """Say what is under the pointer."""
        self.point = event.text

    @on(PictureView.Wanted)
    def look_at(self, event: PictureView.Wanted) -> None:
        """Show another part."""
        event.stop()
        self._wish(event.view)

    @on(PictureView.Pointed)
    def ask_point(self, event: PictureView.Pointed) -> None:
        """Ask what is under the pointer."""
        event.stop()
        self._wish(None, point=event.pixel)

    @on(PreviewTitle.Clicked)
    def follow_click(self, event: PreviewTitle.Clicked) -> None:
        """Step as the person clicked."""
        event.stop()
        self.move(event.by)

    def _previews(self) -> tuple[Preview, ...]:
        return self.detail.previews if self.detail is not None else ()

    def _steps(self) -> list[int]:
        return sorted({one.step for one in self._previews()})

    def _step_shown(self) -> int | None:
        steps = self._steps()
        return self.step if self.step in steps else steps[-1] if steps else None

    def _show(self) -> None:
        if not self.is_mounted:
            return
        view, shown = self.query_one(PictureView), self.shown
        title = self.query_one(PreviewTitle)
        if shown is None:
            title.update("─ previews " + "─" * 200)
            view.picture = None
            view.hint = "No previews yet: each validation draws up to three of its images."
            self.query_one(".preview-point", Static).update("")
            self._show_legend()
            return
        steps = self._steps()
        place = steps.index(shown.step)
        back, forth = ("◂" if place else " "), ("▸" if place < len(steps) - 1 else " ")
        best = " best" if self.detail and self.detail.best_step == shown.step else ""
        words = f"step {shown.step:,}{best} · {place + 1} of {len(steps)}"
        title.update(f"─ {back} {words} {forth} ─ {printable(shown.image)} {'─' * 200}")
        self.point = ""
        self.watch_point()
        self._show_legend()
        zoomed = view.picture
        keeps = zoomed is not None and zoomed.grey and zoomed.view_px[2] < zoomed.image_px[0]
        self._wish(zoomed.view_px if zoomed is not None and keeps else None)

    def _show_legend(self) -> None:
        """Name the classes in their colours, in their order."""
        if not self.is_mounted:
            return
        names = [score.name for score in self.detail.classes] if self.detail and self.shown else []
        colours = cast("EmcfApp", self.app).class_colours(len(names))
        legend = class_legend(names, colours, self.size.width - 1) if names else ""
        self.query_one(".preview-legend", Static).update(legend, layout=False)

    def _wish(
        self,
        view: tuple[float, float, float, float] | None,
        *,
        point: tuple[int, int] | None = None,
    ) -> None:
        shown = self.shown
        room = self.query_one(PictureView).size
        if shown is None or room.width < 2 or room.height < 2:
            return
        request = PictureSpec(
            key=str(shown.file),
            path=str(shown.file),
            view=view,
            width=room.width,
            height=room.height * 2,
            point=point,
            is_strip=True,
            drawing=self.query_one(PictureView).drawing,
        )
        self.post_message(self.Wanted(request))

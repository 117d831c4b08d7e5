"""What the network saw at its validations: image, truth, prediction and error, step by step."""

from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Static

from emcfsys_engine.errors import printable
from emcfsys_tui.engine.data import PictureWish
from emcfsys_tui.keys import quiet
from emcfsys_tui.messages import PictureRead, PointRead
from emcfsys_tui.view_models import Preview, RunDetail
from emcfsys_tui.widgets.picture_view import PictureView

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp

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
    PreviewBox .preview-point { height: 1; color: $dim; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("plus,equals_sign", "zoom(0.5)", "Zoom in", "preview.zoom_in"),
        quiet("minus", "zoom(2.0)", "Zoom out", "preview.zoom_out"),
    ]

    detail: reactive[RunDetail | None] = reactive(None, repaint=False)
    step: reactive[int | None] = reactive(None, repaint=False)  # None: the newest
    image: reactive[str] = reactive("", repaint=False)
    point: reactive[str] = reactive("", repaint=False)

    class Wanted(Message):
        """A picture is wanted from the decoder."""

        def __init__(self, wish: PictureWish) -> None:
            self.wish = wish
            super().__init__()

    def compose(self) -> ComposeResult:
        """Title, picture, what is under the pointer."""
        yield PreviewTitle(classes="section", markup=False)
        yield PictureView()
        yield Static(classes="preview-point", markup=False)

    def on_mount(self) -> None:
        """Take the person's way of showing pictures."""
        self.query_one(PictureView).show_as(cast("EmcfApp", self.app).settings.pictures)
        self._show()

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
            return
        steps = self._steps()
        place = steps.index(shown.step)
        back, forth = ("◂" if place else " "), ("▸" if place < len(steps) - 1 else " ")
        best = " best" if self.detail and self.detail.best_step == shown.step else ""
        words = f"step {shown.step:,}{best} · {place + 1} of {len(steps)}"
        title.update(f"─ {back} {words} {forth} ─ {printable(shown.image)} {'─' * 200}")
        self.point = ""
        self.watch_point()
        zoomed = view.picture
        keeps = zoomed is not None and zoomed.grey and zoomed.view_px[2] < zoomed.image_px[0]
        self._wish(zoomed.view_px if zoomed is not None and keeps else None)

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
        wish = PictureWish(
            key=str(shown.file),
            path=str(shown.file),
            view=view,
            width=room.width,
            height=room.height * 2,
            point=point,
            is_strip=True,
            drawing=self.query_one(PictureView).drawing,
        )
        self.post_message(self.Wanted(wish))

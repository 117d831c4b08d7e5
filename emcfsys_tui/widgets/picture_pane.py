"""What the tabs with a micrograph share: its decoder, and everything one does to the picture."""

from pathlib import Path

from textual import on

from emcfsys_tui.engine.data import Decoder, PictureWish
from emcfsys_tui.messages import PictureRead, PointRead
from emcfsys_tui.widgets.pane import FedPane
from emcfsys_tui.widgets.picture_box import PictureBox
from emcfsys_tui.widgets.picture_view import PictureView


class PicturePane(FedPane):
    """A tab with one PictureBox, which shows what `wished` says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._decoder = Decoder(self.post_message)

    def wished(self) -> PictureWish | None:
        """Return which picture shall be seen, without its size; None while there is none."""
        raise NotImplementedError

    def on_unmount(self) -> None:
        """End the decoder; Textual calls this beside a tab's own `on_unmount`."""
        self._decoder.close()

    def on_picture_read(self, event: PictureRead) -> None:
        """Show the picture, unless the cursor went on meanwhile."""
        wished = self.wished()
        if wished is not None and event.picture.key == wished.key:
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
        wished = self.wished()
        if wished is not None:
            self._decoder.wish(wished.at(event.pixel))

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
        """Show the same part of what is now wished for."""
        shown = self.query_one(PictureBox).picture
        self.wish_picture(shown.view_px if shown is not None and shown.grey else None)

    def wish_picture(self, view: tuple[float, float, float, float] | None) -> None:
        """Ask for a part of the picture: left, top, width, height in pixels; None: all of it."""
        wished, seen = self.wished(), self.query_one(PictureView)
        if wished is None:
            self.query_one(PictureBox).picture = None
        elif seen.size.width >= 2 and seen.size.height >= 2:
            size = (seen.size.width, seen.size.height * 2)
            self._decoder.wish(wished.sized(size, view, seen.drawing))

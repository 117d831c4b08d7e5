"""Keeps pictures in the terminal's own pixels where they belong, whatever is drawn around them."""

from typing import Any

from textual.app import App

from emcfsys_tui.widgets.picture_view import PictureView

_ABOVE = "Toast, Tooltip"  # what Textual lays over a screen without another screen


class PictureLayer:
    """All pictures of the application that are on the terminal."""

    def __init__(self) -> None:
        self._views: set[PictureView] = set()

    def words(self, app: App[Any], update: object) -> str:
        """Return what to write to the terminal after an update of it was drawn."""
        views: set[PictureView] = set()
        words = ""
        for screen in app.screen_stack:
            above = [one.region for one in screen.query(_ABOVE) if one.display]
            for view in screen.query(PictureView):
                views.add(view)
                is_covered = any(region.overlaps(view.region) for region in above)
                words += view.lay(update, is_free=screen.is_active and not is_covered)
        words += "".join(view.take_away() for view in self._views - views)
        self._views = views
        return words

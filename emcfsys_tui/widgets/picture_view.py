"""A micrograph in half-blocks, with the classes laid over it; zoom, pan, a point to ask about."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar

from rich.color import Color, ColorType
from rich.color_triplet import ColorTriplet
from rich.palette import Palette
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import App
from textual.binding import BindingType
from textual.geometry import Region
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.colours import class_letters, contrast
from emcfsys_tui.pictures.placement import Graphic, cell_px, kind_of, written_lines
from emcfsys_tui.settings import quiet
from emcfsys_tui.view_models import Drawing, Picture

_UNLABELLED = 255
_BOLD = Style(bold=True)
_GREYS = 24  # as many as the terminal has
_NEARLY_GREY = 24
_WEAK = 70
_STRENGTHS = (1.0, 0.5, 0.75, 1.0)  # of the colour: outlines first, then fills
NUM_STRENGTHS = len(_STRENGTHS)
Colours = Sequence[tuple[int, int, int]]


class PictureView(Widget, can_focus=True):
    """What the decoder made of an image, as large as there is room."""

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("left,h", "point(-1, 0)", "Point left", "picture.left"),
        quiet("right,l", "point(1, 0)", "Point right", "picture.right"),
        quiet("up,k", "point(0, -1)", "Point up", "picture.up"),
        quiet("down,j", "point(0, 1)", "Point down", "picture.down"),
        quiet("H", "pan(-0.25, 0)", "Pan left", "picture.pan_left"),
        quiet("L", "pan(0.25, 0)", "Pan right", "picture.pan_right"),
        quiet("K", "pan(0, -0.25)", "Pan up", "picture.pan_up"),
        quiet("J", "pan(0, 0.25)", "Pan down", "picture.pan_down"),
    ]

    picture: reactive[Picture | None] = reactive(None)
    overlay: reactive[bool] = reactive(True)
    strength: reactive[int] = reactive(0)  # 0: outlines, which hide no membrane; else fills
    lettered: reactive[int] = reactive(0)  # every so manieth cell of a class shows its letter
    only_class: reactive[int | None] = reactive(None)
    pointer: reactive[tuple[int, int] | None] = reactive(None, repaint=False)  # cell
    colours: reactive[Colours] = reactive(())
    true_colour: reactive[bool] = reactive(False)
    hint: reactive[str] = reactive("")

    class Wanted(Message):
        """Another part of the image, or another size of the picture, is wanted."""

        def __init__(self, view: tuple[float, float, float, float] | None) -> None:
            self.view = view
            super().__init__()

    class Pointed(Message):
        """The pointer is on this pixel of the image."""

        def __init__(self, pixel: tuple[int, int]) -> None:
            self.pixel = pixel
            super().__init__()

    def __init__(self) -> None:
        super().__init__()
        self._graphic: Graphic | None = None
        self._overwritten: set[int] = set()  # lines of the screen, since the graphic was placed
        self._removal = ""  # of the graphic before

    def show_as(self, pictures: str) -> None:
        """Show pictures as the person's settings say: grey, colour, sixel or kitty."""
        self.true_colour = pictures == "colour"
        kind = kind_of(pictures)
        self._graphic = Graphic(kind) if kind else None

    @property
    def drawing(self) -> Drawing | None:
        """How the terminal's own pixels shall be made; None where half-blocks are all there is."""
        if self._graphic is None:
            return None
        return Drawing(
            kind=self._graphic.kind,
            cell_px=cell_px(),
            colours=tuple(self.colours),
            share=_STRENGTHS[self.strength] if self.overlay else 0.0,
            outlines=self.strength == 0,
            only_class=self.only_class,
        )

    def lay(self, update: object, *, is_free: bool) -> str:
        """Return what keeps the graphic over its half-blocks, after the screen was drawn anew.

        `is_free`: nothing lies over this screen, or over this part of it.
        """
        graphic, cells = self._graphic, self._cells_shown()
        if graphic is None:
            return ""
        removal, self._removal = self._removal, ""
        if cells.area:
            self._overwritten |= written_lines(update, cells)
        is_right = self.picture is not None and self.picture.drawing == self.drawing
        if not (is_free and cells.area and graphic.data and is_right):
            is_covered = graphic.kind == "sixel" and cells.area  # what is over it wrote its cells
            return removal if is_covered else removal + graphic.remove()
        written, self._overwritten = self._overwritten, set()
        return removal + graphic.place(cells, written, self.pointer)

    def take_away(self) -> str:
        """Return what removes the graphic of a view that is gone."""
        return self._removal + (self._graphic.remove() if self._graphic is not None else "")

    def watch_picture(self, picture: Picture | None) -> None:
        """Take its graphic, too."""
        if self._graphic is not None:
            self._removal += self._graphic.update(picture.graphic if picture is not None else b"")

    def watch_overlay(self) -> None:
        """Draw it anew."""
        self._ask_graphic()

    def watch_strength(self) -> None:
        """Draw it anew."""
        self._ask_graphic()

    def watch_only_class(self) -> None:
        """Draw it anew."""
        self._ask_graphic()

    def watch_colours(self) -> None:
        """Draw it anew."""
        self._ask_graphic()

    def watch_pointer(self, before: tuple[int, int] | None, now: tuple[int, int] | None) -> None:
        """Draw two cells anew, not the picture."""
        left, top = self._margins()
        cells = [Region(left + at[0], top + at[1], 1, 1) for at in (before, now) if at is not None]
        if cells:
            self.refresh(*cells)

    def on_resize(self) -> None:
        """Ask for a picture of the new size."""
        self.pointer = None
        shown = self.picture
        is_zoomed = shown is not None and self._is_zoomed()
        self.post_message(self.Wanted(shown.view_px if shown and is_zoomed else None))

    def zoom(self, factor: float) -> None:
        """Show a part, around the pointer or the middle."""
        shown = self.picture
        if shown is None or not shown.grey:
            return
        left, top, wide, high = shown.view_px
        x, y = self._pixel() or (left + wide / 2, top + high / 2)
        new_wide, new_high = wide * factor, high * factor
        if new_wide >= shown.image_px[0] and new_high >= shown.image_px[1]:
            self.pointer = None
            self.post_message(self.Wanted(None))
            return
        if new_wide < 6:
            return
        view = (x - new_wide / 2, y - new_high / 2, new_wide, new_high)
        self.pointer = None
        self.post_message(self.Wanted(view))

    def action_pan(self, across: float, down: float) -> None:
        """Show the part beside."""
        shown = self.picture
        if shown is not None and self._is_zoomed():
            left, top, wide, high = shown.view_px
            self.post_message(self.Wanted((left + across * wide, top + down * high, wide, high)))

    def action_point(self, across: int, down: int) -> None:
        """Move the pointer by a cell; at the edge the picture moves on."""
        shown = self.picture
        if shown is None or not shown.grey:
            return
        columns, rows = shown.width, (shown.height + 1) // 2
        x, y = self.pointer or (columns // 2, rows // 2)
        x, y = x + across, y + down
        if not (0 <= x < columns and 0 <= y < rows):
            self.action_pan(across * 0.25, down * 0.25)
        self.pointer = (max(0, min(columns - 1, x)), max(0, min(rows - 1, y)))
        self._tell_pixel()

    def on_click(self, event: events.Click) -> None:
        """Point where the person clicked."""
        shown = self.picture
        left, top = self._margins()
        if shown is None or not shown.grey:
            return
        x, y = event.x - left, event.y - top
        if 0 <= x < shown.width and 0 <= y < (shown.height + 1) // 2:
            self.pointer = (x, y)
            self._tell_pixel()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in."""
        event.stop()
        self.zoom(0.5)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out."""
        event.stop()
        self.zoom(2.0)

    def render_line(self, y: int) -> Strip:
        """Draw one line of cells: two lines of the picture."""
        base, width = self.rich_style, self.size.width
        shown = self.picture
        if shown is None or not shown.grey:
            text = (shown.fault if shown else "") or self.hint
            line = text[y * (width - 2) : (y + 1) * (width - 2)] if width > 2 else ""
            return Strip([Segment(f" {line}", base)]).crop_extend(0, width, base)
        left, top = self._margins()
        row = y - top
        if not 0 <= row < (shown.height + 1) // 2:
            return Strip.blank(width, base)
        cells = self._cells(shown, row)
        segments = [Segment(" " * left, base), *cells]
        return Strip(segments).crop_extend(0, width, base)

    def _cells_shown(self) -> Region:
        """Return where on the screen the picture is; nothing while it is out of sight."""
        shown = self.picture
        if shown is None or not shown.grey or not self.is_attached:
            return Region()
        left, top = self._margins()
        size = (shown.width, (shown.height + 1) // 2)
        region = self.region
        is_whole = size[0] <= region.width and size[1] <= region.height
        return Region(region.x + left, region.y + top, *size) if is_whole else Region()

    def _ask_graphic(self) -> None:
        shown = self.picture
        if self._graphic is not None and shown is not None and shown.grey:
            self.post_message(self.Wanted(shown.view_px if self._is_zoomed() else None))

    def _cells(self, shown: Picture, row: int) -> list[Segment]:
        upper = self._line(shown, row * 2)
        lower = self._line(shown, row * 2 + 1) if row * 2 + 1 < shown.height else upper
        signs = self._letters(shown, row)
        if self.pointer and self.pointer[1] == row:
            signs[self.pointer[0]] = ("┼", 0)
        segments: list[Segment] = []
        run, count = (upper[0], lower[0]), 0
        for x, pair in enumerate(zip(upper, lower, strict=True)):
            sign = signs.get(x)
            if count and (pair != run or sign):
                segments.append(_segment(run, count, self.true_colour))
                count = 0
            if sign:
                text, half = sign
                segments.append(Segment(text, _sign_style(pair[half], self.true_colour)))
                continue
            run, count = pair, count + 1
        if count:
            segments.append(_segment(run, count, self.true_colour))
        return segments

    def _letters(self, shown: Picture, row: int) -> dict[int, tuple[str, int]]:
        """Return the letters of the classes in a line of cells, where colours do not tell them.

        With each stands which half of its cell is of the class: 0 the upper, 1 the lower one.
        """
        if not self.lettered or not self.overlay or not shown.ids:
            return {}
        letters = class_letters([name for _, name in shown.classes])
        of_value = {
            value: letter
            for (value, _), letter in zip(shown.classes, letters, strict=True)
            if self._is_drawn(value)
        }
        start, found = row * 2 * shown.width, dict[int, tuple[str, int]]()
        plane = self._plane(shown)
        for x, below in enumerate(plane[start + shown.width : start + 2 * shown.width]):
            upper, lower = of_value.get(plane[start + x]), of_value.get(below)
            if (x + 2 * row) % self.lettered == 0 and (upper or lower):
                found[x] = (upper, 0) if upper else (lower or "", 1)
        return found

    def _plane(self, shown: Picture) -> bytes:
        """Return the class of each pixel that is coloured; 255 of the others."""
        return shown.ids if self.strength else shown.rims

    def _is_drawn(self, class_id: int) -> bool:
        if class_id == _UNLABELLED:
            return False
        return class_id != 0 if self.only_class is None else class_id == self.only_class

    def _line(self, shown: Picture, line: int) -> list[tuple[int, int, int]]:
        start = line * shown.width
        if shown.channels == 3:
            values = shown.grey[start * 3 : (start + shown.width) * 3]
            return list(map(_calmed, values[::3], values[1::3], values[2::3]))
        greys = shown.grey[start : start + shown.width]
        if not self.overlay or not shown.ids or not self.colours:
            return [_grey(value) for value in greys]
        ids = self._plane(shown)[start : start + shown.width]
        order = {value: place for place, (value, _) in enumerate(shown.classes)}
        share = _STRENGTHS[self.strength]
        colour_of = {
            one: self.colours[order.get(one, one) % len(self.colours)]
            for one in set(ids)
            if self._is_drawn(one)
        }
        return [
            _blend(value, colour_of[class_id], share) if class_id in colour_of else _grey(value)
            for value, class_id in zip(greys, ids, strict=True)
        ]

    def _margins(self) -> tuple[int, int]:
        shown = self.picture
        if shown is None:
            return 0, 0
        return (
            max(0, (self.size.width - shown.width) // 2),
            max(0, (self.size.height - (shown.height + 1) // 2) // 2),
        )

    def _is_zoomed(self) -> bool:
        shown = self.picture
        return shown is not None and (shown.view_px[2:] != tuple(map(float, shown.image_px)))

    def _pixel(self) -> tuple[float, float] | None:
        shown, pointer = self.picture, self.pointer
        if shown is None or pointer is None or not shown.width:
            return None
        left, top, wide, high = shown.view_px
        x = left + (pointer[0] + 0.5) * wide / shown.width
        y = top + (pointer[1] * 2 + 1) * high / max(1, shown.height)
        return x, y

    def _tell_pixel(self) -> None:
        pixel = self._pixel()
        if pixel is not None:
            self.post_message(self.Pointed((int(pixel[0]), int(pixel[1]))))


@lru_cache(256)
def _grey(value: int) -> tuple[int, int, int]:
    step = round(value * (_GREYS - 1) / 255) * 255 // (_GREYS - 1)
    return step, step, step


@lru_cache(4096)
def _calmed(red: int, green: int, blue: int) -> tuple[int, int, int]:
    """Return a colour of few: nearly grey ones become grey, neighbours become equal."""
    if max(red, green, blue) - min(red, green, blue) < _NEARLY_GREY:
        return _grey((red + green + blue) // 3)
    # A weak component is dropped, or a red becomes an orange among 256 colours.
    red, green, blue = (part & 0xF0 if part > _WEAK else 0 for part in (red, green, blue))
    return red, green, blue


@lru_cache(4096)
def _blend(value: int, colour: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    grey = 70 + _grey(value)[0] * 185 // 255  # too dark a colour has no hue in 256
    red, green, blue = (round(grey * (1 - share) + part * share) for part in colour)
    return red, green, blue


@lru_cache(4096)
def _colour(rgb: tuple[int, int, int], true_colour: bool) -> Color:
    """Return a colour of the terminal's 256: a third of the bytes of a true one.

    It keeps its triplet, so that nothing on the way to the terminal makes a true colour of it.
    """
    triplet = ColorTriplet(*rgb)
    if true_colour:
        return Color.from_triplet(triplet)
    number = _nearest(rgb)
    return Color(f"color({number})", ColorType.EIGHT_BIT, number=number, triplet=_PALETTE[number])


def _nearest(rgb: tuple[int, int, int]) -> int:
    red, green, blue = rgb
    if red == green == blue:  # 24 greys between black and white
        return 16 if red < 4 else 231 if red > 246 else 232 + min(23, max(0, round((red - 8) / 10)))
    wanted = _luma_and_chroma(rgb)
    return 16 + min(range(216), key=lambda n: math.dist(_SHADES[n], wanted))


def _luma_and_chroma(rgb: tuple[int, int, int]) -> tuple[float, float, float]:
    """Return how bright a colour is, and its hue, which counts double: orange stays orange.

    Source: ITU-R BT.601, luma and colour differences.
    """
    red, green, blue = rgb
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return luma, 2 * (red - luma), 2 * (blue - luma)


_CUBE = (0, 95, 135, 175, 215, 255)
_SHADES = [_luma_and_chroma((r, g, b)) for r in _CUBE for g in _CUBE for b in _CUBE]
_PALETTE = Palette(
    [(0, 0, 0)] * 16
    + [(r, g, b) for r in _CUBE for g in _CUBE for b in _CUBE]
    + [(8 + 10 * n, 8 + 10 * n, 8 + 10 * n) for n in range(24)]
)


def _segment(
    pair: tuple[tuple[int, int, int], tuple[int, int, int]], count: int, true_colour: bool
) -> Segment:
    upper, lower = _colour(pair[0], true_colour), _colour(pair[1], true_colour)
    if upper == lower:
        return Segment(" " * count, Style.from_color(None, upper))
    return Segment("▀" * count, Style.from_color(upper, lower))


def _sign_style(ground: tuple[int, int, int], true_colour: bool) -> Style:
    """Return black or white on the colour of the picture there, whichever stands apart more."""
    black, white = (0, 0, 0), (255, 255, 255)
    ink = black if contrast(black, ground) > contrast(white, ground) else white
    return Style.from_color(_colour(ink, true_colour), _colour(ground, true_colour)) + _BOLD


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

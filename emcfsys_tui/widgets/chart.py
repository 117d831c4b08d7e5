"""A chart of several curves: log axis, smoothing, zoom, pan, and a cursor with exact values."""

from textwrap import wrap
from typing import ClassVar

import msgspec
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_tui.series import ColumnOfSeries, SeriesView, smoothed
from emcfsys_tui.settings import quiet
from emcfsys_tui.text import fitted, one_line, shortened
from emcfsys_tui.widgets.canvas import Colour, Frame, Stroke, draw_strokes, style_of

_AXIS = 6  # cells for the numbers at the left
_BRIGHT_BLACK = 8


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """One curve: its points, its colour, and the glyph that names it where colour cannot."""

    name: str
    glyph: str
    view: SeriesView
    colour: Colour
    best_x: float | None = None


class Chart(Widget, can_focus=True):
    """Curves over training steps, one named glyph each."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    Chart { width: 1fr; height: 1fr; min-height: 5; }
    Chart > .chart--title { color: $dim; }
    Chart:focus > .chart--title { color: $accent; text-style: bold; }
    Chart > .chart--axis { color: $dim; }
    Chart > .chart--cursor { color: $accent; text-style: bold; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        quiet("left,h", "point(-1)", "Cursor left", "chart.left"),
        quiet("right,l", "point(1)", "Cursor right", "chart.right"),
        quiet("z", "zoom(0.5)", "Zoom in", "chart.zoom_in"),
        quiet("Z", "zoom(2.0)", "Zoom out", "chart.zoom_out"),
        quiet("less_than_sign,comma", "pan(-0.25)", "Pan left", "chart.pan_left"),
        quiet("greater_than_sign,full_stop", "pan(0.25)", "Pan right", "chart.pan_right"),
        quiet("0", "whole", "Whole run", "chart.whole"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"chart--title", "chart--axis", "chart--cursor"}

    curves: reactive[tuple[Curve, ...]] = reactive((), always_update=True)
    log_y: reactive[bool] = reactive(False)
    smoothing: reactive[int] = reactive(0)
    window: reactive[tuple[float, float] | None] = reactive(None)
    cursor_x: reactive[float | None] = reactive(None)
    hint: reactive[str] = reactive("Waiting for the first step")  # while there is no curve

    class Pointed(Message):
        """The cursor went to another x, or away."""

        def __init__(self, x: float | None) -> None:
            self.x = x
            super().__init__()

    class Zoomed(Message):
        """Another part of the x axis is wanted; None is all of it."""

        def __init__(self, window: tuple[float, float] | None) -> None:
            self.window = window
            super().__init__()

    def __init__(
        self, title: str, *, id: str | None = None, log_y: bool = False, decimals: int = 3
    ) -> None:
        super().__init__(id=id)
        self.chart_title = title
        self._decimals = decimals
        self.set_reactive(Chart.log_y, log_y)
        self._frame: Frame | None = None
        self._lines: list[list[Segment]] = []
        self._marks: dict[tuple[int, int], tuple[str, Colour]] = {}
        self._drawn_for: object = None
        self.num_drawn = 0  # how often the canvas was built: the cursor must not cost one

    def action_point(self, by: int) -> None:
        """Move the cursor by columns; it appears at the newest step."""
        frame = self._frame
        if frame is None:
            return
        if self.cursor_x is None:
            column = frame.width - 1
        else:
            column = max(0, min(frame.width - 1, frame.column(self.cursor_x) + by))
        self.post_message(self.Pointed(frame.x_at(column)))

    def action_zoom(self, factor: float) -> None:
        """Show a part half or twice as wide, around the cursor."""
        whole, frame = self._whole(), self._frame
        if whole is None or frame is None:
            return
        left, right = self.window or whole
        width = (right - left) * factor
        if width >= whole[1] - whole[0]:
            self.post_message(self.Zoomed(None))
            return
        middle = self.cursor_x if self.cursor_x is not None else right
        left = max(whole[0], min(middle - width / 2, whole[1] - width))
        self.post_message(self.Zoomed((left, left + max(width, 2.0))))

    def action_pan(self, share: float) -> None:
        """Show the part beside, a quarter further."""
        whole = self._whole()
        if whole is None or self.window is None:
            return
        left, right = self.window
        width = right - left
        left = max(whole[0], min(left + share * width, whole[1] - width))
        self.post_message(self.Zoomed((left, left + width)))

    def action_whole(self) -> None:
        """Show the whole run again, without a cursor."""
        self.post_message(self.Zoomed(None))
        self.post_message(self.Pointed(None))

    def on_click(self, event: events.Click) -> None:
        """Put the cursor where the person clicked."""
        if self._frame is not None and event.x >= _AXIS:
            self.post_message(self.Pointed(self._frame.x_at(event.x - _AXIS)))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in."""
        event.stop()
        self.action_zoom(0.5)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out."""
        event.stop()
        self.action_zoom(2.0)

    def render_line(self, y: int) -> Strip:
        """Draw one line: title, canvas, or the numbers of the x axis."""
        self._draw_if_needed()
        width, base = self.size.width, self.rich_style
        if y == 0:
            return self._title_line(width)
        frame = self._frame
        axis = base + self.get_component_rich_style("chart--axis", partial=True)
        if frame is None:
            lines = [
                part for line in self.hint.split("\n") for part in wrap(line, max(1, width - 2))
            ]
            text = f" {lines[y - 1]}" if y <= len(lines) else ""
            return Strip([Segment(text, axis)]).crop_extend(0, width, base)
        if y - 1 < frame.height:
            label = self._y_label(frame, y - 1)
            segments = [Segment(label, axis), *self._canvas_line(frame, y - 1, base)]
            return Strip(segments).crop_extend(0, width, base)
        return Strip([Segment(self._x_labels(frame), axis)]).crop_extend(0, width, base)

    def _whole(self) -> tuple[float, float] | None:
        spans = [span for curve in self.curves if (span := curve.view.span)]
        if not spans:
            return None
        left, right = min(s[0] for s in spans), max(s[1] for s in spans)
        return (left, right) if right > left else (left - 0.5, right + 0.5)

    def _draw_if_needed(self) -> None:
        key = (
            self.size,
            self.window,
            self.log_y,
            self.smoothing,
            tuple((c.name, id(c.view.series), c.view.count, c.colour) for c in self.curves),
        )
        if key == self._drawn_for:
            return
        self._drawn_for = key
        self._frame = None
        whole = self._whole()
        width, height = self.size.width - _AXIS, self.size.height - 2
        if whole is None or width < 8 or height < 2:
            return
        left, right = self.window or whole
        raw = [c.view.columns(left, right, width * 2) for c in self.curves]
        columns = [smoothed(part, self.smoothing) for part in raw]
        limits = _limits(raw, left, right, self.log_y)
        if limits is None:
            return
        self._frame = frame = Frame(
            left=left, right=right, low=limits[0], high=limits[1],
            width=width, height=height, is_log=self.log_y,
        )  # fmt: skip
        strokes = [
            _stroke(part, curve.colour, frame)
            for part, curve in zip(columns, self.curves, strict=True)
        ]
        if self.smoothing:  # behind them, pale, from the least to the greatest of each column
            paper = self.background_colors[1].rgb
            strokes += [
                _stroke(part, _pale(curve.colour, paper), frame)
                for part, curve in zip(raw, self.curves, strict=True)
            ]
        # One point is its glyph; a dot beside it would be a second one.
        lines = [stroke for stroke in reversed(strokes) if len(stroke.xs) > 1]
        self._lines = draw_strokes(frame, lines)
        self._marks = self._glyphs(frame, columns)
        self.num_drawn += 1

    def _glyphs(
        self, frame: Frame, columns: list[list[ColumnOfSeries]]
    ) -> dict[tuple[int, int], tuple[str, Colour]]:
        """Place each curve's glyph at its points where they are few, else at its end."""
        marks: dict[tuple[int, int], tuple[str, Colour]] = {}
        pairs = list(zip(self.curves, columns, strict=True))
        for curve, part in reversed(pairs):  # the first curve lies on top
            inside = [c for c in part if frame.left <= c.x <= frame.right]
            shown = inside if len(inside) <= frame.width // 4 else inside[-1:]
            for column in shown:
                place = (frame.column(column.x), frame.row(column.mean))
                marks[place] = (curve.glyph, curve.colour)
        for curve, _ in pairs:
            best = curve.view.nearest(curve.best_x) if curve.best_x is not None else None
            if best is not None and frame.left <= best[0] <= frame.right:
                marks[frame.column(best[0]), max(0, min(frame.height - 1, frame.row(best[1])))] = (
                    "★",
                    curve.colour,
                )
        return marks

    def _canvas_line(self, frame: Frame, row: int, base: Style) -> list[Segment]:
        cursor = None if self.cursor_x is None else frame.column(self.cursor_x)
        over = {x: mark for (x, y), mark in self._marks.items() if y == row}
        line = self._lines[row]
        if not over and (cursor is None or not 0 <= cursor < frame.width):
            return [Segment(s.text, base + s.style if s.style else base) for s in line]
        cells = [(char, s.style) for s in line for char in s.text]
        for x, (glyph, colour) in over.items():
            if 0 <= x < len(cells):
                cells[x] = (glyph, style_of(colour))
        if cursor is not None and 0 <= cursor < len(cells):
            style = self.get_component_rich_style("chart--cursor", partial=True)
            char = cells[cursor][0]
            cells[cursor] = (char if char != " " else "│", style)
        return _joined(cells, base)

    def _title_line(self, width: int) -> Strip:
        base = self.rich_style
        style = base + self.get_component_rich_style("chart--title", partial=True)
        options = " log" if self.log_y else ""
        options += f" smooth {self.smoothing}" if self.smoothing else ""
        options += " zoomed" if self.window else ""
        point = "" if self.cursor_x is None else f" @{self.cursor_x:,.0f}"
        segments = [Segment(f"─ {self.chart_title}{options}{point} ", style)]
        values = [self._value(curve) for curve in self.curves]
        taken = sum(len(segment.text) for segment in segments) + sum(len(v) + 3 for v in values) + 1
        whole = sum(len(curve.name) + 1 for curve in self.curves)  # and a space more between them
        gap = " " if whole <= width - taken else ""
        names = shortened([one_line(curve.name) for curve in self.curves], width - taken)
        for curve, name, value in zip(self.curves, names, values, strict=True):
            segments.append(Segment(f" {curve.glyph} ", base + style_of(curve.colour)))
            segments.append(Segment(f"{name}{value}{gap}", base))
        segments.append(Segment("" if gap else " ", style))
        used = sum(len(segment.text) for segment in segments)
        segments.append(Segment("─" * max(0, width - used), style))
        return Strip(segments).crop_extend(0, width, base)

    def _value(self, curve: Curve) -> str:
        if self.cursor_x is None:
            return ""
        point = curve.view.nearest(self.cursor_x)
        return "" if point is None else f" {_number(point[1], self._decimals)}"

    def _y_label(self, frame: Frame, row: int) -> str:
        shown = {0, frame.height - 1}
        if frame.height >= 7:
            shown.add((frame.height - 1) // 2)
        if row not in shown:
            return f"{'':>{_AXIS - 1}}│"
        return f"{_number(frame.y_at(row), 2, _AXIS - 1):>{_AXIS - 1}}┤"

    def _x_labels(self, frame: Frame) -> str:
        left, right = _steps(frame.left), _steps(frame.right)
        middle = _steps((frame.left + frame.right) / 2)
        room = frame.width - len(left) - len(right)
        text = (
            fitted(middle, room, right=False)
            if room < len(middle) + 4
            else middle.center(max(0, room))
        )
        return f"{' ' * _AXIS}{left}{text}{right}"


def _pale(colour: Colour, paper: tuple[int, int, int]) -> Colour:
    """Return a colour nearer to what is behind it; of sixteen colours there is none."""
    if isinstance(colour, int):
        return _BRIGHT_BLACK
    red, green, blue = (
        (2 * part + 3 * behind) // 5 for part, behind in zip(colour, paper, strict=True)
    )
    return red, green, blue


def _stroke(columns: list[ColumnOfSeries], colour: Colour, frame: Frame) -> Stroke:
    xs: list[float] = []
    ys: list[float] = []
    for column in columns:
        x = max(frame.left, min(frame.right, column.x))
        xs.append(x)
        ys.append(column.low)
        if column.high != column.low:
            xs.append(x)
            ys.append(column.high)
    return Stroke(xs=xs, ys=ys, colour=colour)


def _limits(
    columns: list[list[ColumnOfSeries]], left: float, right: float, is_log: bool
) -> tuple[float, float] | None:
    inside = [c for part in columns for c in part if left <= c.x <= right]
    lows = [c.low for c in inside if not is_log or c.low > 0]
    highs = [c.high for c in inside if not is_log or c.high > 0]
    if not lows or not highs:
        return None
    low, high = min(lows), max(highs)
    if low == high:
        return (low / 2, high * 2) if is_log else (low - 0.5, high + 0.5)
    if is_log:
        return low, high
    margin = (high - low) * 0.04
    return low - margin if low - margin >= 0 or low < 0 else 0.0, high + margin


def _joined(cells: list[tuple[str, Style | None]], base: Style) -> list[Segment]:
    found: list[Segment] = []
    run, style = "", None
    for char, own in cells:
        if own == style:
            run += char
            continue
        if run:
            found.append(Segment(run, base + style if style else base))
        run, style = char, own
    found.append(Segment(run, base + style if style else base))
    return found


def _number(value: float, decimals: int, width: int = 9) -> str:
    """Return a number in few characters: .874, 12.3, 3.1e-4."""
    if value == 0:
        return "0"
    size = abs(value)
    if size < 10**-decimals:
        return f"{value:.1e}".replace("e-0", "e-")
    if size >= 10_000:
        return f"{value:.3g}".replace("e+0", "e")[:width]
    if size >= 100:
        return f"{value:.0f}"
    text = f"{value:.{decimals}f}"
    return text.removeprefix("0") if size < 1 and value > 0 else text


def _steps(value: float) -> str:
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:,.0f}"

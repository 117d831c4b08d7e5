"""The control chart of one number of the hot folder's images over time."""

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, ClassVar, cast

from rich.segment import Segment
from textual.geometry import Size
from textual.reactive import reactive
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.errors import printable
from emcfsys_engine.text import day_clock, told_apart
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import HotTrend
from emcfsys_tui.widgets.canvas import Colour, Frame, Stroke, draw_strokes, style_of

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp

_AXIS = 8  # cells for the numbers at the left
_LEAST_WIDTH, _LEAST_HEIGHT = 20, 4
_MOST_TOLD = 6  # shifts below the chart, the newest


class TrendView(Widget):
    """Values, their weighted mean, limits, and what changed when; lines by plotext."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    TrendView { height: 1fr; }
    TrendView > .trend--dim { color: $dim; }
    TrendView > .trend--bad { color: $error; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"trend--dim", "trend--bad"}

    trend: reactive[HotTrend | None] = reactive(None)

    _drawn_for: object = None
    _lines: tuple[Strip, ...] = ()

    def render_line(self, y: int) -> Strip:
        """Draw one line; the chart is built anew only for other data, size or colours."""
        colours = cast("EmcfApp", self.app).colours
        key = (self.size, colours, self.trend)
        if key != self._drawn_for:
            self._drawn_for, self._lines = key, tuple(self._drawn(colours))
        if y < len(self._lines):
            return self._lines[y].crop_extend(0, self.size.width, self.rich_style)
        return Strip.blank(self.size.width, self.rich_style)

    def _drawn(self, colours: tuple[Colour, ...]) -> list[Strip]:
        dim = self.rich_style + self.get_component_rich_style("trend--dim", partial=True)
        bad = self.rich_style + self.get_component_rich_style("trend--bad", partial=True)
        one = self.trend
        if one is None:
            return [Strip([Segment(" Reading the numbers …", dim)])]
        where = f" of {one.part}" if one.part else ""
        title = Strip([Segment(printable(f"─ {one.name or 'trends'}{where}  {one.note}"), dim)])
        told = [Strip([Segment(line, bad)]) for line in told_lines(one.told, self.size)]
        width, height = self.size.width - _AXIS - 1, self.size.height - 4 - len(told)
        if len(one.values) < 2 or width < _LEAST_WIDTH or height < _LEAST_HEIGHT:
            return [title, *told]
        axis, labels = frame_of(one, width, height).labels(_AXIS)
        width -= axis - _AXIS
        frame = frame_of(one, width, height)
        lines = [title]
        for row, drawn in enumerate(draw_strokes(frame, _strokes(one, frame, colours))):
            label = f"{labels[row]} ┤" if row in labels else "│"
            cells = [Segment(s.text, self.rich_style + (s.style or dim)) for s in drawn]
            lines.append(Strip([Segment(f"{label:>{axis}}", dim), *cells]))
        left, right = day_clock(frame.left), day_clock(frame.right)
        room = " " * max(1, width - len(left) - len(right))
        lines.append(Strip([Segment(f"{'':>{axis}}{left}{room}{right}", dim)]))
        low, centre, high = told_apart([line[-1][1] for line in one.levels], 4)
        newest = "newest " if len({y for _, y in one.levels[1]}) > 1 else ""
        words = f"{newest}centre {centre}, limits {low} to {high}"
        names = [
            Segment(" " * axis, dim),
            Segment("── each image  ", self.rich_style + style_of(colours[0])),
            Segment("── EWMA", self.rich_style + style_of(colours[1 % len(colours)])),
        ]  # fmt: skip
        limits = Strip([Segment(" " * axis + fitted(words, width), dim)])
        return [*lines, Strip(names), limits, *told]


def told_lines(told: Sequence[str], size: Size) -> list[str]:
    """Return the newest changes, whole and in no more than half of the lines: the chart has them.

    The newest is told in any case.
    """
    lines: list[str] = []
    for words in reversed(told[-_MOST_TOLD:]):
        made = wrap(
            printable(f"! {words}"),
            max(_LEAST_WIDTH, size.width),
            initial_indent=" ",
            subsequent_indent="   ",
        )
        if lines and len(lines) + len(made) > size.height // 2:
            break
        lines = [*made, *lines]
    return lines


def frame_of(one: HotTrend, width: int, height: int) -> Frame:
    """Return what the chart shows: all values, and the limits where they are not far away."""
    low, high = min(one.values), max(one.values)
    if high - low < 1e-9 * max(abs(low), abs(high)):
        low = high  # what differs by rounding alone is one value
    span = high - low or abs(high) or 1.0
    limits = [y for line in one.levels for _, y in line]
    low, high = (
        min(low, max(min(limits, default=low), low - span)),
        max(high, min(max(limits, default=high), high + span)),
    )
    left, right = one.times[0], one.times[-1]
    if not right > left:
        right = left + 1
    room = (high - low or span) * 0.05
    return Frame(
        left=left, right=right, low=low - room, high=high + room, width=width, height=height
    )


def _strokes(one: HotTrend, frame: Frame, colours: tuple[Colour, ...]) -> list[Stroke]:
    levels = [
        Stroke(xs=[x for x, _ in line], ys=[y for _, y in line], colour=8)
        for line in one.levels
        if any(frame.low <= y <= frame.high for _, y in line)
    ]
    levels += [Stroke(xs=(x, x), ys=(frame.low, frame.high), colour=8) for x in one.changes]
    xs, ys = _thinned(one.times, one.values, 2 * frame.width)
    smooth_xs, smooth_ys = _thinned(one.times, one.ewma, 2 * frame.width)
    return [
        *levels,
        Stroke(xs=xs, ys=ys, colour=colours[0]),
        Stroke(xs=smooth_xs, ys=smooth_ys, colour=colours[1 % len(colours)]),
    ]


def _thinned(
    xs: tuple[float, ...], ys: tuple[float, ...], most: int
) -> tuple[list[float], list[float]]:
    """Return the lowest and the highest of each stretch: more cannot be told apart."""
    stretch = max(1, -(-len(xs) // most))
    found: list[tuple[float, float]] = []
    for first in range(0, len(xs), stretch):
        part = list(zip(xs[first : first + stretch], ys[first : first + stretch], strict=True))
        found += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return [x for x, _ in found], [y for _, y in found]

"""What a measurement shows: distributions of sizes, and maps of grains coloured by size."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, cast

from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip
from textual.widget import Widget

from emcfsys_engine.errors import printable
from emcfsys_tui.text import fitted
from emcfsys_tui.view_models import SizeChart, SizeCurve, SizeMap
from emcfsys_tui.widgets.canvas import Colour, Frame, Stroke, draw_strokes, style_of

if TYPE_CHECKING:
    from emcfsys_tui.app import EmcfApp

_AXIS = 7  # cells for the numbers at the left
_HALF = 50.0  # %: half of all objects, of their area, of their volume is smaller
_LEAST_WIDTH = 20


class _DrawnOnce(Widget):
    """Lines that are drawn anew only for another size or other colours."""

    _drawn_for: object = None
    _lines: Sequence[Strip] = ()

    def render_line(self, y: int) -> Strip:
        """Draw one line."""
        colours = cast("EmcfApp", self.app).colours
        if self._drawn_for != (self.size, colours):
            self._drawn_for, self._lines = (self.size, colours), self.drawn(colours)
        if y < len(self._lines):
            return self._lines[y].crop_extend(0, self.size.width, self.rich_style)
        return Strip.blank(self.size.width, self.rich_style)

    def drawn(self, colours: tuple[Colour, ...]) -> list[Strip]:
        """Return the lines at this size."""
        raise NotImplementedError


class SizeChartView(_DrawnOnce):
    """One chart; the letter of each curve lies on it, where colours do not tell them apart."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    SizeChartView { height: 15; margin-bottom: 1; }
    Screen.-low SizeChartView { height: 11; }
    SizeChartView > .size-chart--dim { color: $dim; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"size-chart--dim"}

    def __init__(self, chart: SizeChart) -> None:
        super().__init__()
        self._chart = chart

    def drawn(self, colours: tuple[Colour, ...]) -> list[Strip]:
        """Return title, canvas, axis, names of the curves."""
        base = self.rich_style
        dim = base + self.get_component_rich_style("size-chart--dim", partial=True)
        chart, width = self._chart, self.size.width - _AXIS - 1
        title = Strip([Segment(printable(f"─ {chart.title}  {chart.note}"), dim)])
        points = [point for curve in chart.curves for point in curve.points]
        if not points or width < _LEAST_WIDTH:
            return [title]
        axis, labels = _frame_of(points, chart, width, self.size.height - 4).labels(_AXIS)
        width -= axis - _AXIS
        frame = _frame_of(points, chart, width, self.size.height - 4)
        curves = list(zip(chart.curves, colours, strict=False))
        strokes = [_stroke(curve, colour) for curve, colour in reversed(curves)]
        lines = [title]
        marks = {_mark_of(curve, chart, frame): (curve, colour) for curve, colour in curves}
        for row, drawn in enumerate(draw_strokes(frame, strokes)):
            label = f"{labels[row]} ┤" if row in labels else "│"
            own = {at[0]: mark for at, mark in marks.items() if at[1] == row}
            cells = [Segment(f"{label:>{axis}}", dim), *_with_letters(drawn, own)]
            lines.append(
                Strip([Segment(s.text, base + s.style if s.style else base) for s in cells])
            )
        lines.append(Strip([Segment(" " * axis + _x_labels(frame, chart.x_words), dim)]))
        lead = "half is below " if chart.is_cumulative else ""
        words = [_words(curve, chart) for curve, _ in curves]
        if len(lead) + sum(len(one) + 4 for one in words) > width + axis:
            words = [word.removeprefix("by ") for word in words]
        names = [Segment(f" {lead}".rjust(axis), base)]
        for (curve, colour), word in zip(curves, words, strict=True):
            names.append(Segment(_letter(curve), base + style_of(colour)))
            names.append(Segment(f" {printable(word)}  ", base))
        return [*lines, Strip(names)]


def _frame_of(
    points: list[tuple[float, float]], chart: SizeChart, width: int, height: int
) -> Frame:
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    if right <= left:  # all of one size
        left, right = left * 0.5, right * 1.5 or 1.0
    high = 100.0 if chart.is_cumulative else max(y for _, y in points) or 1.0
    return Frame(left=left, right=right, low=0.0, high=high, width=width, height=max(3, height))


def _stroke(curve: SizeCurve, colour: Colour) -> Stroke:
    return Stroke(xs=[x for x, _ in curve.points], ys=[y for _, y in curve.points], colour=colour)


class SizeMapView(_DrawnOnce):
    """Grains coloured by their size, a pixel a half-block."""

    SCOPED_CSS = False
    DEFAULT_CSS = """
    SizeMapView { height: 22; margin-bottom: 1; }
    Screen.-low SizeMapView { height: 12; }
    SizeMapView > .size-map--dim { color: $dim; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {"size-map--dim"}

    def __init__(self, shown: SizeMap) -> None:
        super().__init__()
        self._shown = shown

    def drawn(self, colours: tuple[Colour, ...]) -> list[Strip]:
        """Return title, what the colours mean, the map."""
        dim = self.rich_style + self.get_component_rich_style("size-map--dim", partial=True)
        one = self._shown
        title = f"─ {one.title}: grains by size"
        head = [Strip([Segment(printable(words), dim)]) for words in (title, one.words)]
        height, width = one.size_HW
        share = min(1.0, self.size.width / width, 2 * (self.size.height - len(head)) / height)
        rows, columns = (max(1, int(share * side)) for side in one.size_HW)
        lines = list(head)
        for upper in range(0, rows - rows % 2, 2):
            cells: list[Segment] = []
            for column in range(columns):
                above, below = (
                    self._colour(int(row / share), int(column / share))
                    for row in (upper, upper + 1)
                )
                cells.append(Segment("▀", Style(color=above, bgcolor=below)))
            lines.append(Strip(cells).simplify())
        return lines

    def _colour(self, row: int, column: int) -> Color:
        place = 3 * (row * self._shown.size_HW[1] + column)
        return Color.from_rgb(*self._shown.colours[place : place + 3])


def half_size(curve: SizeCurve) -> float:
    """Return the size below which half of a cumulative distribution lies, between its points."""
    for (low, before), (high, after) in pairwise(curve.points):
        if after >= _HALF:
            share = (_HALF - before) / (after - before) if after > before else 1.0
            return low + share * (high - low)
    return curve.points[-1][0]


def _words(curve: SizeCurve, chart: SizeChart) -> str:
    if not chart.is_cumulative or not curve.points:
        return curve.name
    return f"{curve.name} {half_size(curve):.4g}"


def _mark_of(curve: SizeCurve, chart: SizeChart, frame: Frame) -> tuple[int, int]:
    """Return the cell of a curve's letter: at half of all, or on its peak."""
    if not curve.points:
        return -1, -1
    if chart.is_cumulative:
        return frame.column(half_size(curve)), frame.row(_HALF)
    peak = max(y for _, y in curve.points)
    xs = [x for x, y in curve.points if y == peak]
    return frame.column(sum(xs) / len(xs)), frame.row(peak)


def _with_letters(
    line: list[Segment], letters: dict[int, tuple[SizeCurve, Colour]]
) -> list[Segment]:
    cells = [Segment(sign, segment.style) for segment in line for sign in segment.text]
    for column, (curve, colour) in letters.items():
        if 0 <= column < len(cells):
            cells[column] = Segment(_letter(curve), style_of(colour))
    return cells


def _letter(curve: SizeCurve) -> str:
    return curve.name.rpartition(" ")[2][:1] or "·"


def _x_labels(frame: Frame, words: str) -> str:
    left, right = f"{frame.left:.4g}", f"{frame.right:.4g}"
    return left + fitted(words.center(frame.width), frame.width)[len(left) : -len(right)] + right

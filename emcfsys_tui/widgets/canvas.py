"""Curves drawn in braille on a private plotext figure: exactly as many cells as asked for."""

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import msgspec
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from emcfsys_engine.text import told_apart

Colour = int | tuple[int, int, int]


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What a canvas shows: its limits, its size in cells, and whether y is logarithmic."""

    left: float
    right: float
    low: float
    high: float
    width: int
    height: int
    is_log: bool = False

    def column(self, x: float) -> int:
        """Return the cell column of an x."""
        span = self.right - self.left or 1.0
        return round((x - self.left) / span * (self.width - 1))

    def row(self, y: float) -> int:
        """Return the cell row of a y, 0 at the top."""
        span = self.lifted(self.high) - self.lifted(self.low) or 1.0
        share = (self.lifted(y) - self.lifted(self.low)) / span
        return round((1 - share) * (self.height - 1))

    def x_at(self, column: int) -> float:
        """Return the x of a cell column."""
        return self.left + (self.right - self.left) * column / max(1, self.width - 1)

    def labels(self, axis: int) -> tuple[int, dict[int, str]]:
        """Return how many cells the numbers at the left take, `axis` at least, and them by row."""
        rows = [*dict.fromkeys((0, self.height // 2, self.height - 1))]
        told = told_apart([self.y_at(row) for row in rows], 3)
        return max(axis, *(len(words) + 2 for words in told)), dict(zip(rows, told, strict=True))

    def y_at(self, row: int) -> float:
        """Return the y of a cell row."""
        share = 1 - row / max(1, self.height - 1)
        low, high = self.lifted(self.low), self.lifted(self.high)
        value = low + (high - low) * share
        return 10**value if self.is_log else value

    def lifted(self, y: float) -> float:
        """Return y as it is drawn."""
        return math.log10(max(y, 1e-12)) if self.is_log else y


class Stroke(msgspec.Struct, frozen=True, kw_only=True):
    """One curve as points to be joined."""

    xs: Sequence[float]
    ys: Sequence[float]
    colour: Colour


def draw_strokes(frame: Frame, strokes: Sequence[Stroke]) -> list[list[Segment]]:
    """Return the lines of a canvas as segments, each as wide as the frame."""
    figure: Any = _figure_class()()
    figure._limit_size(False, False)
    figure.theme("clear")
    figure.frame(False)
    figure.xaxes(False, False)
    figure.yaxes(False, False)
    figure.xfrequency(0)
    figure.yfrequency(0)
    figure.plot_size(frame.width, frame.height)
    low, high = frame.lifted(frame.low), frame.lifted(frame.high)
    figure.xlim(frame.left, frame.right)
    figure.ylim(low, high)
    for stroke in strokes:
        ys = [min(high, max(low, frame.lifted(y))) for y in stroke.ys]
        figure.plot(list(stroke.xs), ys, marker="braille", color=stroke.colour)
    if not strokes:
        return [[Segment(" " * frame.width)] for _ in range(frame.height)]
    lines = figure.build().split("\n")[: frame.height]
    return [_segments(line, frame.width) for line in lines]


def _segments(line: str, width: int) -> list[Segment]:
    text = Text.from_ansi(line)
    text.truncate(width, pad=True)
    plain = text.plain
    found: list[Segment] = []
    place = 0
    for span in sorted(text.spans):
        if span.start > place:
            found.append(Segment(plain[place : span.start]))
        style = span.style if isinstance(span.style, Style) else None
        if span.end > max(place, span.start):
            found.append(Segment(plain[max(place, span.start) : span.end], style))
        place = max(place, span.end)
    if place < len(plain):
        found.append(Segment(plain[place:]))
    return found


@cache
def _figure_class() -> Any:
    # Module-level plotext is one figure for the whole process; its class is one for each chart.
    return import_module("plotext._figure")._figure_class


def style_of(colour: Colour) -> Style:
    if isinstance(colour, int):
        return Style.parse(f"color({colour})")
    return Style.parse("rgb({},{},{})".format(*colour))

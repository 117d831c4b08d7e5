"""Curves as SVG text: drawn here, coloured by the page's style sheet, readable on paper."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from emcfsys_engine.tools.measure.histogram import nice_ticks
from emcfsys_engine.tools.report.report_html import escaped

Point = tuple[float, float]
_WIDTH, _HEIGHT = 620, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 12, 42
_MOST_POINTS = 600  # more cannot be told apart at this width
NUM_COLOURS = 7  # of the style sheet; from the eighth line on they repeat, dashed


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; a point whose value is unknown interrupts nothing, it is left out."""

    name: str
    points: tuple[Point, ...]
    colour: int = 0
    manner: Literal["line", "faint", "strong"] = "line"


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Several curves over the same steps. best is the step that was kept as best."""

    title: str
    curves: tuple[Curve, ...]
    best: float | None = None
    limits: tuple[float, float] = (-math.inf, math.inf)  # that the axis never goes beyond
    x_words: str = "step"
    note: str = field(default="")


def figure_of(chart: Chart) -> str:
    """Return a figure with the chart and its legend; nothing where no curve has a point."""
    curves = [curve for curve in chart.curves if curve.points]
    if not curves:
        return ""
    axes = _Axes.around(curves, chart.limits)
    parts = [axes.grid(chart.x_words)]
    if chart.best is not None and axes.x_low <= chart.best <= axes.x_high:
        parts.append(axes.best_line(chart.best))
    parts += [axes.curve(curve) for curve in curves]
    if chart.best is not None:
        parts += [axes.best_dot(curve, chart.best) for curve in curves]
    legend = "".join(_legend(curve) for curve in curves)
    note = f'<span class="note">{escaped(chart.note)}</span>' if chart.note else ""
    return (
        f"<figure><figcaption>{escaped(chart.title)}{note}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escaped(chart.title)}">'
        f'{"".join(parts)}</svg><div class="legend">{legend}</div></figure>'
    )


def thinned(points: Sequence[Point], most: int = _MOST_POINTS) -> list[Point]:
    """Return at most so many points; of each stretch the lowest and the highest stay."""
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(len(points) / (most // 2))
    kept: list[Point] = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """From steps and values to places in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, curves: Sequence[Curve], limits: tuple[float, float]) -> "_Axes":
        """Return axes that hold all curves with a little room."""
        xs = [x for curve in curves for x, _ in curve.points]
        ys = [y for curve in curves for _, y in curve.points]
        low, high = min(ys), max(ys)
        room = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        x_low, x_high = min(xs), max(xs)
        if x_low == x_high:
            x_low, x_high = x_low - 1, x_high + 1
        return cls(
            x_low=x_low,
            x_high=x_high,
            y_low=max(low - room, min(limits[0], low)),
            y_high=min(high + room, max(limits[1], high)),
        )

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

    def grid(self, x_words: str) -> str:
        parts: list[str] = []
        floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
        for value in nice_ticks(self.y_low, self.y_high, 5):
            y = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
            words = f"{value:.4g}"
            parts.append(f'<text x="{_LEFT - 7}" y="{y + 4}" text-anchor="end">{words}</text>')
        for value in nice_ticks(self.x_low, self.x_high, 7):
            x = self.x(value)
            parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{floor}" y2="{floor + 4}"/>')
            words = f"{value:,.10g}"
            parts.append(f'<text x="{x}" y="{floor + 17}" text-anchor="middle">{words}</text>')
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>')
        middle = (_LEFT + right) / 2
        parts.append(
            f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escaped(x_words)}</text>'
        )
        return "".join(parts)

    def best_line(self, step: float) -> str:
        x = self.x(step)
        on_right = x < _WIDTH * 0.85
        place = f'x="{x + 5}"' if on_right else f'x="{x - 5}" text-anchor="end"'
        return (
            f'<line class="best" x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>'
            f'<text class="best" {place} y="{_TOP + 9}">best</text>'
        )

    def best_dot(self, curve: Curve, step: float) -> str:
        if curve.manner == "faint":
            return ""
        colour = curve.colour % NUM_COLOURS
        return "".join(
            f'<circle class="c{colour}" cx="{self.x(x)}" cy="{self.y(y)}" r="4">'
            f"<title>{escaped(curve.name)}: {y:.4g} at step {x:,.10g}</title></circle>"
            for x, y in curve.points
            if x == step
        )

    def curve(self, curve: Curve) -> str:
        points = thinned(curve.points)
        if len(points) == 1:
            ((x, y),) = points
            place = f'cx="{self.x(x)}" cy="{self.y(y)}"'
            return f'<circle class="c{curve.colour % NUM_COLOURS}" {place} r="3"/>'
        places = " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)
        return f'<polyline class="{_classes(curve)}" points="{places}"/>'


def _classes(curve: Curve) -> str:
    dashed = " dashed" if curve.colour >= NUM_COLOURS else ""
    return f"c{curve.colour % NUM_COLOURS} {curve.manner}{dashed}"


def _legend(curve: Curve) -> str:
    line = f'<svg viewBox="0 0 24 10"><polyline class="{_classes(curve)}" points="1,5 23,5"/></svg>'
    last = f"{curve.points[-1][1]:.4g}"
    return f"<span>{line}{escaped(curve.name)} <b>{last}</b></span>"
